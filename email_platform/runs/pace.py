"""How fast a campaign goes and when it will be sent, for looks that are far apart.

Invariant: the figures are of the whole campaign, from its ledger, also where several processes send its chunks.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from email_platform.sending.ledger import CampaignTotals


@dataclass(frozen=True, slots=True)
class Pace:
    """A campaign at a moment.

    Attributes:
        eligible: recipients of its frozen audience.
        done: recipients who came to an end, known or not.
        recipients_per_second: since the look before.
        ends_at: when the last recipient is reached at that rate; None where nobody was reached since the look before.
    """

    eligible: int
    done: int
    recipients_per_second: float
    ends_at: datetime | None

    def __str__(self) -> str:
        share = self.done / self.eligible if self.eligible else 1.0
        end = "nobody since the last look" if self.ends_at is None else f"done about {self.ends_at:%H:%M} UTC"
        return (
            f"{self.done:,} of {self.eligible:,} recipients ({share:.0%}), {self.recipients_per_second:,.0f} a second, "
            f"{end}"
        )


class PaceMeter:
    """Compares each look at a campaign's ledger with the one before."""

    def __init__(self, eligible: int, totals: CampaignTotals, now: datetime) -> None:
        """The first look, with which the next one is compared."""
        self._eligible = eligible
        self._before = (now, totals.ended)

    def look(self, totals: CampaignTotals, now: datetime) -> Pace:
        """The pace since the look before; a clock that was set back counts as no time."""
        before_at, before = self._before
        self._before = (now, totals.ended)
        seconds = (now - before_at).total_seconds()
        rate = max(0, totals.ended - before) / seconds if seconds > 0 else 0.0
        left = self._eligible - totals.ended
        ends_at = now + timedelta(seconds=left / rate) if rate else None
        return Pace(self._eligible, totals.ended, rate, ends_at)
