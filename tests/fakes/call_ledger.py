"""The call ledger in memory, for unit tests: the same rules as in PostgreSQL, with an injected clock.

Invariant: one lock makes every method one transaction; the contract tests run on this and on PostgreSQL.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from threading import Lock

from email_platform.domain.ports import Clock
from email_platform.errors import CampaignStoppedError, LeaseLostError
from email_platform.sending.ledger import (
    CallIntent,
    CallOutcome,
    CallRecord,
    CampaignTotals,
    Lease,
    Proof,
    UnknownDecision,
)

_OPEN_STATES = ("planned", "intent", "unknown")


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
    """

    def __init__(
        self, clock: Clock, lease_seconds: float, campaign_status: Callable[[int], str | None] = lambda _: "sending"
    ) -> None:
        self._clock = clock
        self._lease = timedelta(seconds=lease_seconds)
        self._campaign_status = campaign_status
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
                if not (chunk.finished and outcome.state == "planned"):
                    self._record(chunk, lease, outcome)
            if chunk.epoch != lease.epoch:
                raise LeaseLostError(f"epoch {lease.epoch} is past")
            status = self._campaign_status(lease.campaign_id)
            if status != "sending":
                raise CampaignStoppedError(lease.campaign_id, status or "deleted")
            chunk.expires_at = self._clock() + self._lease
            return frozenset(intent.call_index for intent in intents if self._intend(chunk, lease, intent))

    def _record(self, chunk: _Chunk, lease: Lease, outcome: CallOutcome) -> None:
        record = chunk.calls.get(outcome.call_index)
        if record is None or record.state not in _OPEN_STATES:
            return
        if outcome.state != "accepted" and record.lease_epoch > lease.epoch:
            return
        self.row_writes += 1
        chunk.calls[outcome.call_index] = replace(
            record,
            state=outcome.state,
            receipt=outcome.receipt or record.receipt,
            receipt_at=self._clock() if outcome.receipt else record.receipt_at,
            error=outcome.error,
        )

    def _intend(self, chunk: _Chunk, lease: Lease, intent: CallIntent) -> bool:
        known = chunk.calls.get(intent.call_index)
        if known is not None and known.state not in _OPEN_STATES:
            return False
        self.row_writes += 1
        chunk.calls[intent.call_index] = CallRecord(
            call_index=intent.call_index,
            call_id=intent.call_id,
            state=intent.state,
            first_position=intent.first_position,
            recipient_count=intent.recipient_count,
            body_sha256=intent.body_sha256,
            lease_epoch=lease.epoch,
            attempts=known.attempts + 1 if known else 1,
            intent_at=known.intent_at if known and known.state != "planned" else self._clock(),
            receipt_at=self._clock() if intent.refusal else known.receipt_at if known else None,
            receipt=intent.refusal or (known.receipt if known else None),
            error=None,
            offsets=intent.offsets,
            follows=intent.follows,
            after_unknown=intent.after_unknown or (known is not None and known.after_unknown),
        )
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
                chunk.calls[record.call_index] = self._decided(record, decision)
                chunk.finished = chunk.finished and decision == "abandon"
            decided += 1
        return decided

    @staticmethod
    def _decided(record: CallRecord, decision: UnknownDecision) -> CallRecord:
        if decision == "abandon":
            return replace(record, state="abandoned")
        if record.receipt is None:
            return replace(record, state="planned", after_unknown=True)
        receipt = record.receipt.resending_unknown("an operator decided: resend")
        return replace(record, state="accepted", after_unknown=True, receipt=receipt)

    def prove(self, campaign_id: int, proofs: Iterable[Proof]) -> int:
        """See the Protocol."""
        changed = 0
        unknown = {(index, record.call_index): record for index, record in self.unknown_calls(campaign_id)}
        for proof in proofs:
            record = unknown.get((proof.chunk_index, proof.call_index))
            if record is None or (record.attempts, record.receipt) != (proof.attempts, proof.before):
                continue
            with self._lock:
                self._chunks[campaign_id, proof.chunk_index].calls[proof.call_index] = replace(
                    record,
                    state="accepted" if proof.is_complete else "unknown",
                    receipt=proof.receipt,
                    receipt_at=self._clock(),
                )
            changed += 1
        return changed

    def _is_at_work(self, chunk: _Chunk) -> bool:
        return chunk.holder is not None and chunk.expires_at is not None and chunk.expires_at > self._clock()

    def totals(self, campaign_id: int) -> CampaignTotals:
        """See the Protocol."""
        with self._lock:
            chunks = [chunk for (campaign, _), chunk in self._chunks.items() if campaign == campaign_id]
            records = [(chunk, record) for chunk in chunks for record in chunk.calls.values()]
        by_state: Counter[str] = Counter()
        recipients: Counter[str] = Counter()
        for chunk, record in records:
            by_state[record.state] += 1
            put_off = {True: "planned", False: "planned"}  # by whether they are in doubt
            if chunk.finished:
                put_off = {True: "unknown", False: "rejected"}
            if record.follows is not None:
                recipients[put_off[record.follows == "in_doubt"]] -= record.recipient_count
            if record.receipt is None:
                recipients[record.state] += record.recipient_count
                continue
            for result in record.receipt.results:
                recipients[
                    {"deferred": put_off[record.after_unknown], "unknown": record.state}.get(
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
