"""The call ledger in memory, for unit tests: the same rules as in PostgreSQL, with an injected clock.

Invariant: one lock makes every method one transaction; the contract tests run on this and on PostgreSQL.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from threading import Lock

from email_platform.domain.ports import Clock
from email_platform.errors import CampaignStoppedError, LeaseLostError
from email_platform.sending.call_outcome import after_decision, after_intent, after_outcome, after_proof
from email_platform.sending.ledger import (
    OWN_REFUSALS,
    WATCHED_CHUNKS,
    AnswerCounts,
    CallIntent,
    CallOutcome,
    CallRecord,
    CampaignTotals,
    Lease,
    Proof,
    UnknownDecision,
)
from email_platform.sending.second_chance import put_back


@dataclass(slots=True)
class _Chunk:
    epoch: int = 0
    holder: str | None = None
    expires_at: datetime | None = None
    finished: bool = False
    calls: dict[int, CallRecord] = field(default_factory=dict)


class InMemoryCallLedger:
    """`email_platform.sending.ledger.CallLedger` over dictionaries.

    Args:
        clock: the ledger's own time, as PostgreSQL's clock is for the real one.
        lease_seconds: how long a lease lives without a turn.
        campaign_status: reads a campaign's status; None where its row is gone.
        queue_again: queues a campaign that is sent, and does nothing to any other.
        queued_at: when a campaign was last queued; None where it never was.
    """

    def __init__(
        self,
        clock: Clock,
        lease_seconds: float,
        campaign_status: Callable[[int], str | None] = lambda _: "sending",
        queue_again: Callable[[int], None] = lambda _: None,
        queued_at: Callable[[int], datetime | None] = lambda _: None,
    ) -> None:
        self._clock = clock
        self._lease = timedelta(seconds=lease_seconds)
        self._campaign_status = campaign_status
        self._queue_again = queue_again
        self._queued_at = queued_at
        self._chunks: dict[tuple[int, int], _Chunk] = {}
        self._lock = Lock()
        self.row_writes = 0

    def add_chunks(self, campaign_id: int, chunk_count: int) -> None:
        """What freezing a manifest does to the ledger."""
        for chunk_index in range(chunk_count):
            self._chunks.setdefault((campaign_id, chunk_index), _Chunk())

    def take_lease(self, campaign_id: int, chunk_index: int, holder: str) -> Lease | None:
        """See the Protocol."""
        with self._lock:
            chunk = self._chunks[campaign_id, chunk_index]
            now = self._clock()
            held = chunk.holder is not None and chunk.holder != holder
            if held and chunk.expires_at is not None and chunk.expires_at >= now:
                return None
            chunk.epoch += 1
            chunk.holder = holder
            chunk.expires_at = now + self._lease
            return Lease(campaign_id, chunk_index, chunk.epoch, holder)

    def calls(self, campaign_id: int, chunk_index: int) -> Sequence[CallRecord]:
        """See the Protocol."""
        with self._lock:
            calls = self._chunks[campaign_id, chunk_index].calls
            return [calls[call_index] for call_index in sorted(calls)]

    def turn(self, lease: Lease, outcomes: Sequence[CallOutcome], intents: Sequence[CallIntent]) -> frozenset[int]:
        """See the Protocol."""
        with self._lock:
            chunk = self._chunks[lease.campaign_id, lease.chunk_index]
            if any(one.leaves_work for one in outcomes) and chunk.finished:
                chunk.finished = self._campaign_status(lease.campaign_id) != "sending"
            for outcome in outcomes:
                known = chunk.calls.get(outcome.call_index)
                self._keep(
                    chunk,
                    after_outcome(known, outcome, lease.epoch, chunk_is_over=chunk.finished, now=self._clock()),
                )
            if chunk.epoch != lease.epoch:
                raise LeaseLostError(f"epoch {lease.epoch} is past")
            status = self._campaign_status(lease.campaign_id)
            if status != "sending":
                raise CampaignStoppedError(lease.campaign_id, status or "deleted")
            chunk.expires_at = self._clock() + self._lease
            return frozenset(
                intent.call_index
                for intent in intents
                if self._keep(
                    chunk, after_intent(chunk.calls.get(intent.call_index), intent, lease.epoch, self._clock())
                )
            )

    def _keep(self, chunk: _Chunk, record: CallRecord | None) -> bool:
        if record is None:
            return False
        self.row_writes += 1
        chunk.calls[record.call_index] = record
        return True

    def finish_chunk(self, lease: Lease) -> bool:
        """See the Protocol."""
        with self._lock:
            chunk = self._chunks[lease.campaign_id, lease.chunk_index]
            if chunk.epoch != lease.epoch:
                raise LeaseLostError(f"epoch {lease.epoch} is past")
            if any(record.state == "planned" for record in chunk.calls.values()):
                return False
            chunk.finished, chunk.holder = True, None
            return True

    def release_lease(self, lease: Lease) -> None:
        """See the Protocol."""
        with self._lock:
            chunk = self._chunks[lease.campaign_id, lease.chunk_index]
            if chunk.epoch == lease.epoch:
                chunk.holder = None

    def chunk_is_finished(self, campaign_id: int, chunk_index: int) -> bool:
        """See the Protocol."""
        with self._lock:
            return self._chunks[campaign_id, chunk_index].finished

    def unknown_calls(self, campaign_id: int) -> Sequence[tuple[int, CallRecord]]:
        """See the Protocol."""
        with self._lock:
            return [
                (chunk_index, chunk.calls[call_index])
                for (campaign, chunk_index), chunk in sorted(self._chunks.items(), key=lambda item: item[0])
                if campaign == campaign_id and not self._is_at_work(chunk)
                for call_index in sorted(chunk.calls)
                if chunk.calls[call_index].state in ("intent", "unknown")
            ]

    def campaigns_with_unknown(self) -> Sequence[int]:
        """See the Protocol."""
        with self._lock:
            campaigns = sorted({campaign for campaign, _ in self._chunks})
        return [campaign for campaign in campaigns if self.unknown_calls(campaign)]

    def decide_unknown(self, campaign_id: int, decision: UnknownDecision, chunk_index: int | None = None) -> int:
        """See the Protocol."""
        decided = 0
        for index, record in self.unknown_calls(campaign_id):
            if chunk_index is not None and index != chunk_index:
                continue
            with self._lock:
                chunk = self._chunks[campaign_id, index]
                chunk.calls[record.call_index] = after_decision(record, decision)
                chunk.finished = chunk.finished and decision == "abandon"
            decided += 1
        if decision == "resend" and any(not chunk.finished for chunk in self._of_campaign(campaign_id)):
            self._queue_again(campaign_id)
        return decided

    def abandoned_chunks(self, campaign_id: int) -> Sequence[int]:
        """See the Protocol."""
        with self._lock:
            return sorted(
                index
                for (campaign, index), chunk in self._chunks.items()
                if campaign == campaign_id and any(record.state == "abandoned" for record in chunk.calls.values())
            )

    def put_back_rejected(self, campaign_id: int, chunk_rows: int, code: str | None = None) -> int:
        """See the Protocol."""
        recipients = 0
        with self._lock:
            for (campaign, index), chunk in self._chunks.items():
                if campaign != campaign_id or self._is_at_work(chunk):
                    continue
                records = [chunk.calls[call_index] for call_index in sorted(chunk.calls)]
                found = put_back(records, index * chunk_rows, code, finished=chunk.finished)
                chunk.calls |= {record.call_index: record for record in found.records}
                chunk.finished = chunk.finished and not found.recipients
                recipients += found.recipients
        if any(not chunk.finished for chunk in self._of_campaign(campaign_id)):
            self._queue_again(campaign_id)
        return recipients

    def prove(self, campaign_id: int, proofs: Iterable[Proof]) -> int:
        """See the Protocol."""
        changed = 0
        unknown = {(index, record.call_index): record for index, record in self.unknown_calls(campaign_id)}
        for proof in proofs:
            record = unknown.get((proof.chunk_index, proof.call_index))
            proved = None if record is None else after_proof(record, proof, self._clock())
            if proved is None:
                continue
            with self._lock:
                self._chunks[campaign_id, proof.chunk_index].calls[proof.call_index] = proved
            changed += 1
        return changed

    def _of_campaign(self, campaign_id: int) -> list[_Chunk]:
        return [chunk for (campaign, _), chunk in self._chunks.items() if campaign == campaign_id]

    def _is_at_work(self, chunk: _Chunk) -> bool:
        return chunk.holder is not None and chunk.expires_at is not None and chunk.expires_at > self._clock()

    def answers_since_queued(self, campaign_id: int, chunk_index: int) -> AnswerCounts:
        """See the Protocol."""
        since = self._queued_at(campaign_id)
        with self._lock:
            results = [
                result
                for (campaign, index), chunk in self._chunks.items()
                if campaign == campaign_id and chunk_index - WATCHED_CHUNKS <= index <= chunk_index
                for record in chunk.calls.values()
                if record.receipt is not None and record.receipt_at is not None
                if since is None or record.receipt_at > since
                for result in record.receipt.results
                if result.status in ("accepted", "rejected")
            ]
        refused = [one for one in results if one.status == "rejected" and one.error_code not in OWN_REFUSALS]
        return AnswerCounts(len(results), len(refused))

    def totals(self, campaign_id: int) -> CampaignTotals:
        """See the Protocol."""
        with self._lock:
            chunks = self._of_campaign(campaign_id)
            records = [(chunk, record) for chunk in chunks for record in chunk.calls.values()]
        by_state: Counter[str] = Counter()
        recipients: Counter[str] = Counter()
        for chunk, record in records:
            by_state[record.state] += 1
            left_over = {True: "planned", False: "planned"}  # by whether they are in doubt
            if chunk.finished:
                left_over = {True: "unknown", False: "rejected"}
            if record.follows is not None:
                recipients[left_over[record.follows == "in_doubt"]] -= record.recipient_count
            if record.receipt is None:
                recipients[record.state] += record.recipient_count
                continue
            for result in record.receipt.results:
                recipients[
                    {"deferred": left_over[record.after_unknown], "unknown": record.state}.get(
                        result.status, result.status
                    )
                ] += 1
        return CampaignTotals(
            accepted=recipients["accepted"],
            rejected=recipients["rejected"],
            unknown=recipients["unknown"],
            abandoned=recipients["abandoned"],
            planned=recipients["planned"],
            in_call=recipients["intent"],
            calls_by_state=dict(by_state),
            chunks=len(chunks),
            chunks_finished=sum(chunk.finished for chunk in chunks),
        )
