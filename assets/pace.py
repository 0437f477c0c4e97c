"""How a campaign goes while it is sent, as observations of `campaign_deliveries`: few, and beside the work.

Invariant: looking never holds up a call. A thread of its own looks, since the loop that sends must not wait for a
database; where a look fails, there is one observation less.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import dagster as dg

from email_platform.domain.campaigns import Campaign
from email_platform.runs.pace import Pace, PaceMeter
from email_platform.runs.parts import Parts, find_manifest
from email_platform.sending.progress import ChunkProgress

BEGIN_SECONDS = 5.0
FIRST_SECONDS = 10.0
PAUSE_SECONDS = 60.0
"""Between two observations of a step: each is one row of Dagster's event log, as about 20 others of a chunk are."""


class _Looks(threading.Thread):
    """Observes the campaign until it is asked to end."""

    def __init__(self, context: dg.OpExecutionContext, opened: Parts, campaign_id: int, key: dg.AssetKey) -> None:
        super().__init__(name="pace", daemon=True)
        self._context, self._opened, self._campaign_id, self._key = context, opened, campaign_id, key
        self.has_ended = threading.Event()
        self.progress: ChunkProgress | None = None

    def run(self) -> None:
        """Look at growing distances; short steps end before the first."""
        if self.has_ended.wait(BEGIN_SECONDS):
            return
        with suppress(Exception):  # what is away fails the step itself, with its words
            manifest = find_manifest(self._opened, self._campaign_id)
            campaign = self._opened.campaigns.get(self._campaign_id)
            totals = self._opened.ledger.totals(self._campaign_id)
            meter = PaceMeter(manifest.eligible_rows, totals, self._opened.clock())
            pause_seconds = FIRST_SECONDS
            while not self.has_ended.wait(pause_seconds):
                pause_seconds = PAUSE_SECONDS
                with suppress(Exception):
                    pace = meter.look(self._opened.ledger.totals(self._campaign_id), self._opened.clock())
                    self._context.log_event(self._observation(campaign, pace))

    def _observation(self, campaign: Campaign, pace: Pace) -> dg.AssetObservation:
        metadata: dict[str, dg.MetadataValue | int | float | str] = {
            "campaign": campaign.name,
            "recipients done": pace.done,
            "recipients": pace.eligible,
            "recipients per second": round(pace.recipients_per_second, 1),
        }
        if pace.ends_at is not None:
            metadata["done about"] = dg.MetadataValue.timestamp(pace.ends_at)
        if self.progress is not None:
            metadata |= {f"this chunk: {name}": count for name, count in progress_metadata(self.progress).items()}
        return dg.AssetObservation(
            self._key, description=str(pace), partition=self._context.partition_key, metadata=metadata
        )


@contextmanager
def observed_pace(
    context: dg.OpExecutionContext, opened: Parts, campaign_id: int, key: dg.AssetKey
) -> Iterator[Callable[[ChunkProgress], None]]:
    """Observe rate and expected end of the campaign while the body sends; gives where to hand the chunk's progress."""
    looks = _Looks(context, opened, campaign_id, key)
    looks.start()

    def observe(progress: ChunkProgress) -> None:
        looks.progress = progress

    try:
        yield observe
    finally:
        looks.has_ended.set()
        looks.join()


def progress_metadata(progress: ChunkProgress) -> dict[str, int]:
    """A chunk's counts under the names that the UI shows."""
    return {
        "recipients": progress.recipients,
        "accepted": progress.accepted,
        "rejected": progress.rejected,
        "unknown": progress.unknown,
        "abandoned": progress.abandoned,
        "calls made now": progress.sent_calls,
        "calls found done": progress.skipped_calls,
        "calls retried": progress.retried_calls,
        "recipients deferred": progress.deferred_recipients,
    }
