"""For a campaign that the old system sent: whom would this platform have mailed, and where it differs, why?

Invariant: nothing is written or sent, and every address of both sides is in exactly one group.

Both sides are compared by address, in the form in which the platform compares addresses everywhere, since the old
system's lead ids need not be ours. The old side is what was imported of the old table, so MySQL and PostgreSQL read
alike; ours is the audience as it would be frozen now. The longer ago the campaign was sent, the more leads have changed
since: compare soon after it was sent.

| group | why |
| --- | --- |
| ``both`` | mailed by the old system, eligible here |
| ``old_only`` | a reason to exclude; ``condition``: a lead has it, and fails it; ``no_lead``: none has; ``erased`` |
| ``ours_only`` | ``no_row``: the old system has no row; otherwise its row's status, such as ``queued`` or ``failed`` |
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import pyarrow as pa

from email_platform.audience.conditions import Condition
from email_platform.audience.source import AudienceSource
from email_platform.domain.addresses import normalised_address
from email_platform.domain.erasure import is_pseudonym
from email_platform.errors import CommandRefusedError

Group = Literal["both", "old_only", "ours_only"]
GROUPS: tuple[Group, ...] = ("both", "old_only", "ours_only")
MAILED = ("bounced", "sent")
"""The old system's statuses of an email that went out."""
_BATCH_ROWS = 20_000


class OldRecipients(Protocol):
    """What was imported of the old table."""

    def recipients(self, campaign_id: int) -> Iterable[tuple[str, str]]:
        """Address and status of every old row of a campaign."""
        ...


class LeadAddresses(Protocol):
    """The leads as they are now."""

    def having(self, addresses: Collection[str]) -> Collection[str]:
        """Those of these addresses (as `normalised_address` gives them) that some lead has."""
        ...


@dataclass(frozen=True, slots=True)
class Compared:
    """One address.

    Attributes:
        lead_id: ours; None where no lead of the audience has it.
        old_status: None where the old system has no row.
    """

    address: str
    group: Group
    why: str
    lead_id: int | None
    old_status: str | None


@dataclass(frozen=True, slots=True)
class ShadowReport:
    """The comparison of one campaign.

    Attributes:
        old_rows: of the old table; an address may have several.
        counts: addresses by group and reason.
        rows: every address, those that differ first.
    """

    campaign_id: int
    old_rows: int
    counts: Mapping[tuple[Group, str], int]
    rows: tuple[Compared, ...]

    def of(self, group: Group) -> int:
        """How many addresses are in a group."""
        return sum(count for (each, _), count in self.counts.items() if each == group)


def compare_with_old(
    old: OldRecipients,
    leads: LeadAddresses,
    audience: AudienceSource,
    campaign_id: int,
    condition: Condition,
    sender_id: int,
    pseudonym: Callable[[str], str],
) -> ShadowReport:
    """Resolve the audience as a campaign with this condition and sender would, and compare; memory grows by an address.

    Args:
        old: whom the old system mailed.
        leads: which addresses are leads now.
        audience: resolves the condition.
        campaign_id: of the old system.
        condition: of our campaign.
        sender_id: of our sender.
        pseudonym: what the audience names somebody by who was erased, in place of the address.

    Raises:
        CommandRefusedError: nothing of the campaign was imported.
        PartUnavailableError: a part is away.
    """
    old_rows, statuses = _old_side(old.recipients(campaign_id))
    if not old_rows:
        raise CommandRefusedError(
            f"no old row of campaign {campaign_id} was imported: import its month first (legacy_import_job)"
        )
    ours: dict[str, tuple[int, str | None]] = {}
    with audience.stream(condition, sender_id, _BATCH_ROWS) as batches:
        for lead_id, email, reason in _candidates(batches):
            address = normalised_address(email)
            # Of several leads with one address the eligible one counts.
            if address not in ours or reason is None:
                ours[address] = (lead_id, reason)
    mailed = {address for address, status in statuses.items() if status in MAILED}
    eligible = {address for address, (_, reason) in ours.items() if reason is None}
    known = leads.having(mailed - ours.keys())
    rows = [
        *(
            _old_only(address, statuses[address], ours.get(address) or ours.get(pseudonym(address)), known)
            for address in sorted(mailed - eligible)
        ),
        *(
            Compared(address, "ours_only", statuses.get(address, "no_row"), ours[address][0], statuses.get(address))
            for address in sorted(eligible - mailed)
        ),
        *(
            Compared(address, "both", "both", ours[address][0], statuses[address])
            for address in sorted(eligible & mailed)
        ),
    ]
    return ShadowReport(campaign_id, old_rows, Counter((row.group, row.why) for row in rows), tuple(rows))


def _old_side(recipients: Iterable[tuple[str, str]]) -> tuple[int, dict[str, str]]:
    """How many rows, and the status of each address: of several rows one that went out counts."""
    statuses: dict[str, str] = {}
    rows = 0
    for email, status in recipients:
        rows += 1
        address = normalised_address(email)
        if address not in statuses or statuses[address] not in MAILED:
            statuses[address] = status
    return rows, statuses


def _candidates(batches: Iterator[pa.RecordBatch]) -> Iterator[tuple[int, str, str | None]]:
    for batch in batches:
        columns = [batch.column(name).to_pylist() for name in ("lead_id", "email", "reason")]
        for lead_id, email, reason in zip(*columns, strict=True):
            yield lead_id, email or "", reason


def _old_only(address: str, status: str, ours: tuple[int, str | None] | None, known: Collection[str]) -> Compared:
    if ours is not None:
        return Compared(address, "old_only", ours[1] or "", ours[0], status)
    if is_pseudonym(address):
        return Compared(address, "old_only", "erased", None, status)
    return Compared(address, "old_only", "condition" if address in known else "no_lead", None, status)
