"""Which calls a chunk still needs, and with which recipients; follows from the ledger alone.

Invariant: each recipient of the chunk is in exactly one call that counts: the one with the highest index of those
that have it. No I/O and no clock: the same records and the same events give the same plan, in whichever process.

A recipient in no record of the ledger is *fresh*. Fresh recipients are cut into calls in order, each with the next
free index; those whom a call turns out to have no room for are gathered into further calls. A call that was never
made, or certainly not accepted, may lose recipients; one that may have been accepted is repeated as it is or not at
all.

A call with a record gives its recipients up only in one commit with the records that take them over (`Rewrite`), so
a death finds them in the one or in the others. An index under which a call was tried is never used for other
recipients: a provider may remember its key.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from hashlib import sha256
from uuid import UUID

from email_platform.domain.identity import call_id
from email_platform.domain.manifest import Manifest
from email_platform.domain.ports import RecipientResult
from email_platform.sending.call_outcome import CallHistory, after_intent, no_answer, refused_by_us
from email_platform.sending.ledger import FINAL_STATES, CallIntent, CallOutcome, CallRecord, Follows
from email_platform.sending.planned_call import PlannedCall, PlanStart, Rewrite
from email_platform.sending.progress import ChunkProgress
from email_platform.sending.receipt import CallReceipt
from email_platform.sending.recipients import deferrals, deferred_recipients

NO_BODY = sha256(b"").digest()  # of a call that is not made


class ChunkPlan:
    """The calls of one chunk, as the ledger has them and as they are about to be made.

    Args:
        call_rows: the most recipients of a call, by the provider's limits as they are now.
        deferral_attempts: how often a recipient is tried whom the provider defers.

    Length: one state, and its invariant holds over all of its methods together: nobody is in two calls that count.
    """

    def __init__(self, manifest: Manifest, chunk_index: int, *, call_rows: int, deferral_attempts: int) -> None:
        self._campaign_id = manifest.campaign_id
        self._chunk_index = chunk_index
        self._first_position = chunk_index * manifest.chunk_rows
        self._recipients = manifest.chunk_size_rows(chunk_index)
        self._call_rows = call_rows
        self._deferral_attempts = deferral_attempts
        self._records: dict[int, CallRecord] = {}
        self._calls: dict[int, PlannedCall] = {}
        self._next_index = 0
        self._to_be_recorded: set[int] = set()  # planned calls whose records are on their way to the ledger
        self._once_unknown: set[int] = set()  # a later refusal of such a call does not prove that nobody got it
        self._in_doubt: set[int] = set()  # offsets; may have been accepted, and a refusal does not disprove it
        self._deferrals: Counter[int] = Counter()  # how often each recipient was deferred, by offset
        # Offsets that wait for a call: deferred ones, and fresh ones for whom a call had no room.
        self._waiting: dict[Follows | None, list[int]] = {"deferred": [], "in_doubt": [], None: []}
        self.progress = ChunkProgress(self._recipients)

    # --- from the ledger ------------------------------------------------------------------------------------

    def begin(
        self,
        records: Sequence[CallRecord],
        *,
        may_repeat: Callable[[CallRecord], bool],
        key_is_honoured: Callable[[CallRecord], bool],
    ) -> PlanStart:
        """Plan from what the ledger holds; forgets what was planned before.

        Args:
            records: every call of the chunk, by call index.
            may_repeat: whether a call of unknown outcome may be made again.
            key_is_honoured: whether its key still makes a second acceptance impossible.
        """
        self.progress = self.progress.forgetting_outcomes()
        self._records = {record.call_index: record for record in records}
        self._calls = {record.call_index: self._call_of(record) for record in records}
        self._once_unknown = set()
        self._to_be_recorded = set()
        self._in_doubt = {one for call in self._calls.values() if call.after_unknown for one in call.offsets}
        self._deferrals = deferrals(records, self._first_position)
        self._waiting = {"deferred": [], "in_doubt": [], None: []}
        self._next_index = max((index + 1 for index in self._records), default=0)
        to_make: list[int] = []
        outcomes: list[CallOutcome] = []
        for record in records:
            if record.state in FINAL_STATES:
                self.progress = self.progress.skipping(record, record.state)
            elif record.state == "planned":
                to_make.append(record.call_index)
            elif may_repeat(record):
                self.note_unknown(record.call_index, key_is_honoured=key_is_honoured(record))
                to_make.append(record.call_index)
            else:
                self.progress = self.progress.skipping(record, "unknown")
                if record.state == "intent":
                    outcomes.append(no_answer(record.call_index, "no answer was recorded: the process died"))
        to_make += self._plan_fresh()
        for offset in deferred_recipients(records, self._first_position):
            self._defer(offset)
        return PlanStart(tuple(to_make), tuple(outcomes))

    def adopt(self, records: Iterable[CallRecord], call_indexes: Collection[int]) -> None:
        """Take over what became of these calls, which came to an end while we were about to make them."""
        for record in records:
            if record.call_index in call_indexes:
                self._records[record.call_index] = record
                self._calls[record.call_index] = self._call_of(record)
                self.progress = self.progress.skipping(record, record.state)
                if record.receipt is not None:
                    self._note_deferred(record.call_index, record.receipt)

    def _call_of(self, record: CallRecord) -> PlannedCall:
        offsets = record.offsets_in_chunk(self._first_position)
        return PlannedCall(record.call_index, offsets, record.follows, record.after_unknown)

    def _plan_fresh(self) -> list[int]:
        """Cut the recipients of whom the ledger knows nothing into calls, in order."""
        known = {offset for call in self._calls.values() for offset in call.offsets}
        fresh = [offset for offset in range(self._recipients) if offset not in known]
        cuts = (fresh[first : first + self._call_rows] for first in range(0, len(fresh), self._call_rows))
        return [
            self._plan(range(cut[0], cut[-1] + 1) if cut[-1] - cut[0] == len(cut) - 1 else tuple(cut)) for cut in cuts
        ]

    def _plan(self, offsets: Sequence[int], follows: Follows | None = None, *, after_unknown: bool = False) -> int:
        """Plan a call with the next free index; returns the index."""
        index = self._next_index
        self._next_index += 1
        self._calls[index] = PlannedCall(index, offsets, follows, after_unknown)
        if after_unknown:
            self._in_doubt.update(offsets)
        return index

    # --- one call -------------------------------------------------------------------------------------------

    def call(self, call_index: int) -> PlannedCall:
        """The call with this index."""
        return self._calls[call_index]

    def record(self, call_index: int) -> CallRecord | None:
        """The call's record, as far as this process knows the ledger; None where no attempt was intended."""
        return self._records.get(call_index)

    def is_free(self, call_index: int) -> bool:
        """Whether the ledger knows nothing of the call, so that its recipients can go elsewhere unrecorded."""
        return call_index not in self._records and call_index not in self._to_be_recorded

    def may_change(self, call_index: int) -> bool:
        """Whether the call was never made, or certainly not accepted: its recipients are free."""
        record = self._records.get(call_index)
        return record is None or record.state == "planned"

    def history(self, call_index: int) -> CallHistory:
        """What is known of the call's earlier attempts."""
        return CallHistory(
            call_index,
            len(self._calls[call_index].offsets),
            once_unknown=call_index in self._once_unknown,
            after_unknown=self._calls[call_index].after_unknown,
        )

    def call_id(self, call_index: int) -> UUID:
        """The call's id, which is its key at the provider."""
        return call_id(self._campaign_id, self._chunk_index, call_index)

    def intent(self, call_index: int, body_sha256: bytes) -> CallIntent:
        """What the ledger must hold before the call is made."""
        call = self._calls[call_index]
        return CallIntent(
            call_index=call_index,
            call_id=self.call_id(call_index),
            first_position=self._first_position + call.offsets[0],
            recipient_count=len(call.offsets),
            body_sha256=body_sha256,
            offsets=None if isinstance(call.offsets, range) else tuple(call.offsets),
            follows=call.follows,
            after_unknown=call.after_unknown,
        )

    # --- a call's recipients change -------------------------------------------------------------------------

    def recut(self, call_index: int, keep: Collection[int], left_out: Mapping[int, RecipientResult]) -> Rewrite:
        """Have a call go out for these of its recipients only.

        Args:
            call_index: a call that may change.
            keep: offsets of those who are sent to now. Of a call that is not free, its intent for them, or the record
                of the call that takes its place, must be in the same commit as the rewrite.
            left_out: what became of those to whom nothing is sent, by offset. Everybody else is sent to later.
        """
        call = self._calls[call_index]
        kept = tuple(offset for offset in call.offsets if offset in keep)
        out = tuple(offset for offset in call.offsets if offset in left_out)
        if len(kept) == len(call.offsets):
            return Rewrite((), call_index)
        later = tuple(offset for offset in call.offsets if offset not in keep and offset not in left_out)
        record = self._records.get(call_index)
        was_tried = record is not None and record.attempts > 0
        is_free = self.is_free(call_index)
        records: list[CallIntent] = []
        sending = None
        if kept:
            sending = self._plan_like(call, kept) if was_tried else call_index
        if out:
            refusing = call_index if sending != call_index else self._plan_like(call, out)
            self._calls[refusing] = replace(self._calls[refusing], offsets=out)
            records.append(refused_by_us(self.intent(refusing, NO_BODY), [left_out[one] for one in out]))
        elif sending != call_index and not is_free:
            records.append(self._empty(call_index, "its recipients are in other calls"))
        if sending == call_index:
            self._calls[call_index] = replace(call, offsets=kept)
        planned: tuple[int, ...] = ()
        if later and is_free:
            self._waiting[call.follows].extend(later)
        elif later:
            planned = (self._plan_like(call, later),)
            records.append(self._planned_record(planned[0]))
        return Rewrite(tuple(records), sending, planned)

    def split(self, call_index: int, groups: Sequence[Sequence[int]], reason: str) -> Rewrite:
        """Give each group of a call's recipients, who are all of them together, a call of its own.

        Args:
            call_index: a call that was certainly not accepted.
            groups: of offsets.
            reason: why, for the operator.
        """
        call = self._calls[call_index]
        planned = tuple(self._plan_like(call, tuple(group)) for group in groups)
        records = [self._empty(call_index, reason)]
        records += [self._planned_record(index) for index in planned]
        return Rewrite(tuple(records), None, planned)

    def book(self, call_index: int, results: Mapping[int, RecipientResult], reason: str) -> Rewrite:
        """Record what is known of some recipients of a refused call, and plan a call of the others."""
        rest = tuple(offset for offset in self._calls[call_index].offsets if offset not in results)
        rewrite = self.recut(call_index, rest, results)
        if rewrite.sending is None:
            return rewrite
        planned = self._planned_record(rewrite.sending)
        named = tuple(replace(record, error=reason) for record in rewrite.records)
        return Rewrite((*named, planned), None, (rewrite.sending, *rewrite.planned))

    def _plan_like(self, call: PlannedCall, offsets: tuple[int, ...]) -> int:
        return self._plan(offsets, call.follows, after_unknown=call.after_unknown)

    def _planned_record(self, call_index: int) -> CallIntent:
        """The record that keeps a call's recipients until it is made."""
        self._to_be_recorded.add(call_index)
        return replace(self.intent(call_index, NO_BODY), is_planned=True)

    def _empty(self, call_index: int, reason: str) -> CallIntent:
        """The end of a call whose recipients are in other calls."""
        emptied = replace(
            self.intent(call_index, NO_BODY),
            recipient_count=0,
            offsets=(),
            after_unknown=False,
            refusal=CallReceipt(()),
            error=reason,
        )
        self._calls[call_index] = replace(self._calls[call_index], offsets=())
        return emptied

    # --- what happens to it ---------------------------------------------------------------------------------

    def note_unknown(self, call_index: int, *, key_is_honoured: bool) -> None:
        """Remember that an attempt of this call may have been accepted."""
        self._once_unknown.add(call_index)
        if not key_is_honoured:
            call = self._calls[call_index] = replace(self._calls[call_index], after_unknown=True)
            self._in_doubt.update(call.offsets)

    def intended(self, intent: CallIntent, lease_epoch: int, now: datetime) -> None:
        """Keep what the ledger now holds of the call."""
        record = after_intent(self._records.get(intent.call_index), intent, lease_epoch, now)
        if record is None:
            return
        self._records[intent.call_index] = record
        if intent.refusal is not None:
            self.progress = self.progress.counting(record.state, record.recipient_count, record.receipt)

    def note_sent(self, call_indexes: Collection[int], retried: int) -> None:
        """Count calls that start now; so many of them were made before in this step."""
        self.progress = replace(
            self.progress,
            sent_calls=self.progress.sent_calls + len(call_indexes),
            sent_recipients=self.progress.sent_recipients + sum(len(self._calls[one].offsets) for one in call_indexes),
            retried_calls=self.progress.retried_calls + retried,
        )

    def ended(self, outcome: CallOutcome, *, goes_on: bool) -> CallReceipt | None:
        """Keep what became of an attempt; returns the answer, if one came.

        Args:
            outcome: of the attempt.
            goes_on: the call will be made again in this step, so it is not counted yet.
        """
        record = self._records[outcome.call_index]
        receipt = outcome.receipt or record.receipt
        self._records[outcome.call_index] = replace(record, state=outcome.state, receipt=receipt)
        if not goes_on and outcome.state != "planned":
            self.progress = self.progress.counting(outcome.state, record.recipient_count, receipt)
        if outcome.receipt is not None:
            self._note_deferred(outcome.call_index, outcome.receipt)
        return outcome.receipt

    def _note_deferred(self, call_index: int, receipt: CallReceipt) -> None:
        offsets = self._calls[call_index].offsets
        for place, result in receipt.others.items():
            if result.status == "deferred":
                self._deferrals[offsets[place]] += not result.account_refused
                self._defer(offsets[place])
        deferred = self.progress.deferred_recipients + receipt.count("deferred")
        self.progress = replace(self.progress, deferred_recipients=deferred)

    def _defer(self, offset: int) -> None:
        """Have a follow-up call take the recipient on, or give up: it counts as refused from the chunk's end on."""
        is_in_doubt = offset in self._in_doubt
        if self._deferrals[offset] < self._deferral_attempts:
            self._waiting["in_doubt" if is_in_doubt else "deferred"].append(offset)
        elif is_in_doubt:
            self.progress = replace(self.progress, unknown=self.progress.unknown + 1)
        else:
            self.progress = replace(self.progress, rejected=self.progress.rejected + 1)

    # --- recipients without a call --------------------------------------------------------------------------

    @property
    def has_waiting(self) -> bool:
        """Whether recipients wait for a call of their own."""
        return any(self._waiting.values())

    def further_calls(self, size: int, *, is_rest: bool) -> list[tuple[int, int]]:
        """Plan calls of the recipients who wait for one: full ones at once, the rest when nothing else is to be done.

        Args:
            size: recipients of a full call.
            is_rest: nothing else is left to do.

        Returns:
            Each new call's index, and how often the most deferred of its recipients was deferred.
        """
        planned: list[tuple[int, int]] = []
        for follows, waiting in self._waiting.items():
            while waiting and (is_rest or len(waiting) >= size):
                chosen = tuple(sorted(waiting[:size]))
                del waiting[:size]
                index = self._plan(chosen, follows, after_unknown=follows == "in_doubt")
                planned.append((index, max(self._deferrals[offset] for offset in chosen)))
        return planned
