"""One process's dealings with the ledger over one chunk: its lease, and commits that wait for a ledger that is away.

Invariant: a commit that waits is made once the ledger is back, or is handed back to the caller. The lease's age is
counted from the moment at which a commit began.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Event

from email_platform.domain.manifest import Manifest
from email_platform.errors import ChunkBusyError, PartUnavailableError, SendingInterruptedError
from email_platform.sending.ledger import AnswerCounts, CallIntent, CallLedger, CallOutcome, CallRecord, Lease
from email_platform.sending.policy import DeliveryPolicy
from email_platform.sending.runtime import Runtime


@dataclass(frozen=True, slots=True)
class ChunkWork:
    """Which chunk, and in whose name.

    Attributes:
        holder: names this process in the chunk's lease.
    """

    manifest: Manifest
    chunk_index: int
    holder: str


@dataclass(frozen=True, slots=True)
class Committed:
    """A commit that held.

    Attributes:
        standing: the intents that stand, by call index.
        seconds: how long it took.
    """

    standing: frozenset[int]
    seconds: float


class LedgerSession:
    """The ledger, for the holder of one chunk's lease."""

    def __init__(self, ledger: CallLedger, policy: DeliveryPolicy, runtime: Runtime, stop: Event) -> None:
        self._ledger = ledger
        self._policy = policy
        self._runtime = runtime
        self._stop = stop
        self._last_commit_seconds = 0.0

    async def take_lease(self, work: ChunkWork) -> Lease:
        """Wait for the chunk's lease.

        Raises:
            ChunkBusyError: another process keeps renewing it.
            SendingInterruptedError: asked to end meanwhile.
        """
        runtime = self._runtime
        campaign_id, chunk_index, holder = work.manifest.campaign_id, work.chunk_index, work.holder
        deadline_seconds = runtime.monotonic() + self._policy.lease_wait_seconds
        while True:
            before_seconds = runtime.monotonic()
            lease: Lease | None = await runtime.blocking(self._ledger.take_lease, campaign_id, chunk_index, holder)
            if lease is not None:
                self._last_commit_seconds = before_seconds
                return lease
            if self._stop.is_set():
                raise SendingInterruptedError("asked to end while waiting for the chunk's lease")
            if runtime.monotonic() >= deadline_seconds:
                raise ChunkBusyError(
                    f"chunk {chunk_index} of campaign {campaign_id} is being sent by another process, which has "
                    f"renewed its lease for {self._policy.lease_wait_seconds:.0f} seconds"
                )
            await runtime.sleep(min(1.0, self._policy.lease_seconds / 4))

    @property
    def renew_at_seconds(self) -> float:
        """When the lease wants renewing (monotonic)."""
        return self._last_commit_seconds + self._policy.lease_seconds / 3

    async def calls(self, lease: Lease) -> Sequence[CallRecord]:
        """Every recorded call of the chunk."""
        records: Sequence[CallRecord] = await self._runtime.blocking(
            self._ledger.calls, lease.campaign_id, lease.chunk_index
        )
        return records

    async def answers(self, lease: Lease) -> AnswerCounts:
        """The campaign's answers up to this chunk since it was last queued."""
        counts: AnswerCounts = await self._runtime.blocking(
            self._ledger.answers_since_queued, lease.campaign_id, lease.chunk_index
        )
        return counts

    async def commit(self, lease: Lease, outcomes: Sequence[CallOutcome], intents: Sequence[CallIntent]) -> Committed:
        """Commit one turn, waiting for a ledger that is away.

        No call starts meanwhile, and the answers that came in are kept: a restart of PostgreSQL costs time,
        not knowledge.

        Raises:
            LeaseLostError, CampaignStoppedError: the outcomes are recorded, the intents are not.
            PartUnavailableError: the ledger did not come back in time.
        """
        runtime = self._runtime
        give_up_seconds = runtime.monotonic() + self._policy.ledger_wait_seconds
        for number in itertools.count(1):
            before_seconds = runtime.monotonic()
            try:
                standing: frozenset[int] = await runtime.blocking(self._ledger.turn, lease, outcomes, intents)
            except PartUnavailableError:
                if runtime.monotonic() >= give_up_seconds:
                    raise
                await runtime.sleep(self._policy.retry.delay_seconds(number, runtime.random))
            else:
                self._last_commit_seconds = before_seconds
                return Committed(standing, runtime.monotonic() - before_seconds)
        raise AssertionError("unreachable: the loop returns or raises")

    async def finish_chunk(self, lease: Lease) -> bool:
        """Mark the chunk finished; False where calls are planned again."""
        finished: bool = await self._runtime.blocking(self._ledger.finish_chunk, lease)
        return finished

    async def release(self, lease: Lease) -> None:
        """Let the lease go."""
        await self._runtime.blocking(self._ledger.release_lease, lease)
