"""Sends the calls of one chunk so that a death at any point neither repeats nor loses a message.

Invariant: between a call's durable intent and its durable receipt at most `connections` calls are open, and
only those can ever become unknown. Each turn of the loop is one ledger commit: the receipts that came in,
then the intents of the calls about to start. No intent, no call.

    plan from the ledger ─▶ waiting ─▶ reserved (rate) ─▶ intent ─commit─▶ in flight ─▶ outcome ─commit─▶ end
                              ▲                                                           │
                              ├────────── backoff: certainly not accepted, or same key ◀──┤
                              ├────────── split: refused as a whole, in new calls ◀───────┤
                              └── follow-up: recipients that the answer deferred, in a new call ◀┘

`chunk_plan` knows what is to be done, `call_outcome` what an attempt's end means, `call_queue` when a call starts,
`call_writing` what it contains, `breaker` whose fault refusals are. Here is the order of asking them.

A call in flight runs in a task of its own, which nothing here cancels; whatever ends the loop waits for it.

Length: one class (its docstring says why), and the picture above.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from threading import Event

from email_platform.domain.ports import EncodedCall, RecipientResult
from email_platform.errors import (
    CallRejectedError,
    CallThrottledError,
    CampaignStoppedError,
    LeaseLostError,
    ProviderDownError,
    SendingInterruptedError,
)
from email_platform.sending.breaker import DeferralBreaker, RefusalWatch, RejectionBreaker
from email_platform.sending.call_outcome import Verdict, judge_answer, judge_failure, never_made, refused_for_good
from email_platform.sending.call_queue import Attempt, CallQueue
from email_platform.sending.call_writing import CallSize, CallWriter, Mailing, WrittenCalls
from email_platform.sending.chunk_plan import ChunkPlan
from email_platform.sending.ledger import CallIntent, CallLedger, CallOutcome, CallRecord, Lease
from email_platform.sending.ledger_session import ChunkWork, LedgerSession
from email_platform.sending.planned_call import Rewrite
from email_platform.sending.policy import DeliveryPolicy, RepeatRule
from email_platform.sending.progress import ChunkProgress
from email_platform.sending.rate_limit import RateLimiter, Unlimited
from email_platform.sending.receipt import CallReceipt
from email_platform.sending.recipients import deferred_for_themselves
from email_platform.sending.runtime import Runtime

LONGEST_SLEEP_SECONDS = 0.5  # a request to stop is seen within this time

Ended = tuple[RecipientResult, ...] | Exception
"""What a call ended with."""


@dataclass(frozen=True, slots=True)
class _Open:
    """A call in flight, and the moment of the refusal watch at which it began."""

    attempt: Attempt
    began: int


class ChunkDelivery:
    """One process's work on one chunk; use `run` once.

    Args:
        stop: asks to end between two calls.
        on_progress: called at every turn of the loop.

    Length: the loop and what it does at each end of a call share one state; the decisions are made elsewhere.
    """

    def __init__(
        self,
        work: ChunkWork,
        ledger: CallLedger,
        mailing: Mailing,
        policy: DeliveryPolicy,
        *,
        limiter: RateLimiter | None = None,
        stop: Event | None = None,
        on_progress: Callable[[ChunkProgress], None] = lambda _: None,
        runtime: Runtime | None = None,
    ) -> None:
        manifest = work.manifest
        self._work, self._provider = work, mailing.provider
        call_rows = mailing.provider.limits.recipients_per_call
        self._policy = policy
        self._limiter = limiter or Unlimited()
        self._stop = stop or Event()
        self._on_progress = on_progress
        self._runtime = runtime or Runtime()
        self._session = LedgerSession(ledger, policy, self._runtime, self._stop)
        self._rule = RepeatRule(mailing.provider.limits, policy.idempotency_margin, manifest.on_unknown)
        self._plan = ChunkPlan(
            manifest, work.chunk_index, call_rows=call_rows, deferral_attempts=policy.deferral.attempts
        )
        self._size = CallSize(call_rows)
        self._queue = CallQueue(self._limiter, self._runtime)
        self._writer = CallWriter(self._plan, mailing, self._size, manifest.on_unknown, self._runtime)
        self._deferrals = DeferralBreaker(policy.retry.attempts, call_rows)
        self._rejections = RejectionBreaker(policy.rejections)
        self._refusals = RefusalWatch()
        self._refused_alone: dict[int, CallRejectedError] = {}  # calls that wait for what becomes of others
        self._last_chances: set[int] = set()  # of them, those tried again when nobody else was left
        self._in_flight: dict[asyncio.Task[Ended], _Open] = {}
        self._outcomes: list[CallOutcome] = []
        self._records: list[CallIntent] = []  # of recipients who change calls, for the next commit
        self._halt: Exception | None = None

    @property
    def progress(self) -> ChunkProgress:
        """Recipients by outcome so far."""
        return self._plan.progress

    async def run(self) -> ChunkProgress:
        """Send whatever of the chunk the ledger does not show as done, and say what became of everybody.

        Returns with every call at an end: accepted, rejected, abandoned, or unknown and held by policy.

        Raises:
            ChunkBusyError: another live process is sending this chunk.
            LeaseLostError, CampaignStoppedError, SendingInterruptedError: stopped between calls; what was in
                flight has been recorded.
            AccountRefusedError, ProviderDownError, TooManyRejectedError: likewise, and the campaign should be paused.
            InvalidTemplateError: likewise, and nobody can be sent this content.
        """
        lease = await self._session.take_lease(self._work)
        try:
            self._rejections.begin(await self._session.answers(lease))
            finished = False
            while not finished:  # a second time where a fenced process reported late that it had never made a call
                self._begin(await self._session.calls(lease))
                try:
                    await self._pump(lease)
                except BaseException:
                    await self._record_calls_in_flight(lease)
                    raise
                finished = await self._session.finish_chunk(lease)
        except BaseException:
            await self._session.release(lease)
            raise
        return self.progress

    def _begin(self, records: Sequence[CallRecord]) -> None:
        start = self._plan.begin(records, may_repeat=self._may_repeat, key_is_honoured=self._key_is_honoured)
        self._outcomes += start.outcomes
        for call_index in start.to_make:
            self._queue.add(call_index)

    def _may_repeat(self, record: CallRecord) -> bool:
        return self._rule.allows(record, self._runtime.clock())

    def _key_is_honoured(self, record: CallRecord) -> bool:
        return self._rule.key_is_honoured(record, self._runtime.clock())

    # --- the loop -----------------------------------------------------------------------------------------

    async def _pump(self, lease: Lease) -> None:
        while not self._is_idle or self._plan.has_waiting or self._refused_alone:
            if self._stop.is_set():
                raise SendingInterruptedError("asked to end; calls in flight were recorded first")
            self._judge_refusals()
            if self._halt is not None:
                raise self._halt
            self._plan_further_calls()
            self._cut_to_size()
            self._try_single_recipients()
            await self._queue.reserve(self._slots(), self._rows, self._gate)
            written = await self._writer.write(self._queue.due())
            for outcome in written.outcomes:
                self._plan.ended(outcome, goes_on=False)
            self._outcomes += written.outcomes
            for call_index in written.planned:
                self._queue.add(call_index)
            if written or self._outcomes or self._records or self._turn_is_due():
                await self._turn(lease, written)
            self._on_progress(self.progress)
            await self._wait_for_news()

    @property
    def _is_idle(self) -> bool:
        return not (self._queue or self._in_flight or self._outcomes or self._records)

    def _slots(self) -> int:
        return self._policy.connections - len(self._in_flight) - self._queue.reserved

    def _plan_further_calls(self) -> None:
        for call_index, often in self._plan.further_calls(self._size.rows, is_rest=self._is_idle):
            pause_seconds = self._policy.deferral.delay_seconds(often, self._runtime.random) if often else 0.0
            self._queue.add(call_index, 1, pause_seconds)

    def _rows(self, call_index: int) -> int:
        """How many recipients the call has; a call that the ledger does not know is cut to size first."""
        offsets = self._plan.call(call_index).offsets
        if len(offsets) > self._size.rows and self._plan.is_free(call_index):
            self._plan.recut(call_index, frozenset(offsets[: self._size.rows]), {})
        return len(self._plan.call(call_index).offsets)

    def _cut_to_size(self) -> None:
        """Cut calls that are to be made and that the provider is known to find too large."""
        most = self._size.most
        for index in self._queue.waiting() if most < self._provider.limits.recipients_per_call else ():
            offsets = self._plan.call(index).offsets
            if len(offsets) > most and self._plan.may_change(index) and not self._plan.is_free(index):
                self._queue.take(index)
                self._rewrite(self._plan.split(index, self._size.groups(offsets), "split: too large"))

    def _turn_is_due(self) -> bool:
        return self._runtime.monotonic() > self._session.renew_at_seconds

    async def _turn(self, lease: Lease, written: WrittenCalls) -> None:
        """One commit: outcomes in, intents out; then the calls start."""
        records = self._take_records([*written.records, *written.intents])
        outcomes, self._outcomes = self._outcomes, []
        try:
            commit = asyncio.ensure_future(self._session.commit(lease, outcomes, list(records.values())))
            await asyncio.sleep(0)  # it is on its way
            self._writer.prepare(self._queue.next(self._policy.connections))
            committed = await commit
        except Exception:
            self._outcomes = outcomes + self._outcomes  # recording an outcome twice changes nothing
            raise
        if written.intents and committed.seconds > self._policy.lease_seconds:
            # Somebody may own the chunk by now. These were not called, this time.
            reason = f"the ledger took {committed.seconds:.1f} seconds for one commit"
            self._outcomes += [never_made(self._plan.history(one.call_index), reason) for one in written.intents]
            raise LeaseLostError(reason)
        if fallen := records.keys() - committed.standing:  # they came to an end while we were about to make them
            self._plan.adopt(await self._session.calls(lease), fallen)
        for record in records.values():
            if record.call_index in committed.standing:
                self._plan.intended(record, lease.epoch, self._runtime.clock())
        starting = [attempt for attempt in written.starting if attempt.call_index in committed.standing]
        for attempt in starting:
            task = asyncio.create_task(self._call(written.encoded[attempt.call_index]))
            self._in_flight[task] = _Open(attempt, self._refusals.begins())
        self._plan.note_sent(
            [attempt.call_index for attempt in starting], sum(attempt.number > 1 for attempt in starting)
        )

    def _take_records(self, more: Sequence[CallIntent]) -> dict[int, CallIntent]:
        """One record a call, by its index: the latest, as that of a call to be made after one that only planned it."""
        records = {record.call_index: record for record in (*self._records, *more)}
        self._records = []
        return records

    async def _wait_for_news(self) -> None:
        """Sleep until a call ends, a call is due, or the lease wants renewing."""
        wake_seconds = self._session.renew_at_seconds
        next_seconds = self._queue.next_seconds(self._slots(), self._gate)
        if next_seconds is not None:
            wake_seconds = min(wake_seconds, next_seconds)
        timeout_seconds = min(max(0.0, wake_seconds - self._runtime.monotonic()), LONGEST_SLEEP_SECONDS)
        if self._in_flight:
            done, _ = await asyncio.wait(self._in_flight, timeout=timeout_seconds, return_when=asyncio.FIRST_COMPLETED)
            self._collect(done)
        elif not self._outcomes and not self._records and self._queue:
            await self._runtime.sleep(timeout_seconds)

    # --- one call -----------------------------------------------------------------------------------------

    async def _call(self, call: EncodedCall) -> Ended:
        """Make one call; an error is returned and not raised, so that no outcome can be lost."""
        try:
            results = await self._provider.send(call)
        except Exception as error:
            if isinstance(error, CallThrottledError):
                await self._runtime.blocking(self._limiter.throttled, error.retry_after_seconds)
            return error
        if any(result.throttled for result in results):
            await self._runtime.blocking(self._limiter.throttled, None)
        return results

    def _collect(self, done: set[asyncio.Task[Ended]]) -> None:
        # Acceptances first: their proof is known by the time the refusals that came with them are looked at.
        for task in sorted(done, key=lambda one: isinstance(one.result(), Exception)):
            open_call = self._in_flight.pop(task)
            attempt = open_call.attempt
            verdict = self._judge(attempt, task.result())
            self._outcomes.append(verdict.outcome)
            self._halt = self._halt or verdict.halt
            goes_on = verdict.then == "again" and self._halt is None
            if goes_on:
                pause_seconds = self._policy.retry.delay_seconds(
                    attempt.number, self._runtime.random, verdict.pause_seconds
                )
                self._queue.add(attempt.call_index, attempt.number + 1, pause_seconds)
            receipt = self._plan.ended(verdict.outcome, goes_on=goes_on)
            if receipt is not None:
                self._note_answer(open_call, receipt)
            if isinstance(verdict.error, CallRejectedError):
                self._follow_refusal(attempt.call_index, verdict, verdict.error)

    def _judge(self, attempt: Attempt, ended: Ended) -> Verdict:
        index = attempt.call_index
        record = self._plan.record(index)
        assert record is not None, "a call in flight has an intent"
        if isinstance(ended, CallRejectedError):
            self._refusals.refused(self._plan.call(index).offsets, ended)
        history = replace(
            self._plan.history(index),
            may_repeat=lambda: self._may_repeat(record),
            is_proved_by_others=lambda: self._is_proved(index),
        )
        verdict = judge_failure(history, ended) if isinstance(ended, Exception) else judge_answer(history, ended)
        if verdict.outcome.state == "unknown" and verdict.outcome.receipt is None:
            self._plan.note_unknown(index, key_is_honoured=self._key_is_honoured(record))
        if verdict.then == "again" and attempt.number >= self._policy.retry.attempts:
            down = ProviderDownError(f"a call failed {attempt.number} times in a row; the last time: {verdict.error}")
            return replace(verdict, then="end", halt=down)
        return verdict

    def _note_answer(self, open_call: _Open, receipt: CallReceipt) -> None:
        """Look at an answer for signs that the provider takes nobody, or refuses too many."""
        offsets = self._plan.call(open_call.attempt.call_index).offsets
        if receipt.count("accepted"):
            self._refusals.accepted(open_call.began, deferred_for_themselves(offsets, receipt))
        down = self._deferrals.note(offsets, receipt, anybody_ended=self.progress.ended > 0)
        self._halt = self._halt or down or self._rejections.note(receipt)

    # --- refusals of whole calls ----------------------------------------------------------------------------

    def _follow_refusal(self, call_index: int, verdict: Verdict, error: CallRejectedError) -> None:
        """Have the recipients of a refused call sent to in other calls, or wait."""
        offsets = self._plan.call(call_index).offsets
        if verdict.then == "wait":
            self._refused_alone[call_index] = error
        if verdict.then != "split":
            return
        if error.blame == "size":
            self._size.too_large(len(offsets))
            self._rewrite(self._plan.split(call_index, self._size.groups(offsets), f"split: {error}"))
            return
        if error.culprits:
            named = RecipientResult("rejected", "", error.code, str(error))
            results = {offset: named for nth, offset in enumerate(offsets) if nth in error.culprits}
            self._rewrite(self._plan.book(call_index, results, str(error)))
            self._halt = self._halt or self._rejections.note(CallReceipt(tuple(results.values())))
            return
        half = len(offsets) // 2
        self._rewrite(self._plan.split(call_index, [offsets[:half], offsets[half:]], f"split: {error}"))

    def _rewrite(self, rewrite: Rewrite) -> None:
        self._records += rewrite.records
        for call_index in rewrite.planned:
            self._queue.add(call_index)

    def _is_proved(self, call_index: int) -> bool:
        (offset,) = self._plan.call(call_index).offsets
        return self._refusals.is_proved(offset, is_last=call_index in self._last_chances)

    def _judge_refusals(self) -> None:
        """Go on with recipients who were refused alone, once others have shown whose fault it is, or nobody is left."""
        is_last = self._is_idle and not self._plan.has_waiting
        for call_index, error in list(self._refused_alone.items()):
            if error.blame == "recipient" and (is_last or self._is_proved(call_index)):
                outcome = refused_for_good(self._plan.history(call_index), error)
                self._outcomes.append(outcome)
                receipt = self._plan.ended(outcome, goes_on=False)
                self._halt = self._halt or (self._rejections.note(receipt) if receipt is not None else None)
            elif is_last or self._is_proved(call_index):
                if is_last:
                    self._last_chances.add(call_index)
                self._queue.add(call_index, 1, self._policy.retry.delay_seconds(1, self._runtime.random))
            else:
                continue
            del self._refused_alone[call_index]
        is_unlisted = any(error.blame == "unlisted" for error in self._refused_alone.values())
        if self._queue or self._plan.has_waiting or is_unlisted:  # somebody is left who would be refused as well
            self._halt = self._halt or self._refusals.verdict

    @property
    def _gate(self) -> Callable[[int], bool] | None:
        """Which calls may start: single recipients alone, while nobody knows whether the sender is refused."""
        if not self._refusals.is_in_doubt:
            return None
        return lambda index: len(self._plan.call(index).offsets) == 1 or not self._plan.may_change(index)

    def _try_single_recipients(self) -> None:
        """While it is in doubt whether the sender is refused, see to it that a few single recipients are tried."""
        gate = self._gate
        if gate is None:
            return
        waiting = self._queue.waiting()
        singles = sum(gate(index) for index in waiting) + self._queue.reserved + len(self._in_flight)
        groups = [index for index in waiting if not gate(index)]
        for index in sorted(groups, key=lambda one: (not self._plan.is_free(one), -len(self._plan.call(one).offsets))):
            if singles >= self._refusals.singles_wanted:
                return
            offsets = self._plan.call(index).offsets
            if self._plan.is_free(index):
                self._plan.recut(index, frozenset(offsets[:1]), {})
            else:
                self._queue.take(index)
                self._rewrite(self._plan.split(index, [offsets[:1], offsets[1:]], "split: one recipient goes first"))
            singles += 1

    async def _record_calls_in_flight(self, lease: Lease) -> None:
        """See the open calls to their end and record them; a call in flight is never cancelled."""
        if self._in_flight:
            done, _ = await asyncio.wait(self._in_flight)
            self._collect(done)
        if self._outcomes or self._records:
            outcomes, self._outcomes = self._outcomes, []
            with suppress(LeaseLostError, CampaignStoppedError):  # outcomes are recorded all the same
                await self._session.commit(lease, outcomes, list(self._take_records([]).values()))
