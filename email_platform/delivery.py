"""Sends the calls of one chunk so that a death at any point neither repeats nor loses a message.

Invariant: between a call's durable intent and its durable receipt at most `connections` calls are open, and
only those can ever become unknown. Each turn of the loop is one ledger commit: the receipts that came in,
then the intents of the calls about to start. No intent, no call. Whoever was suppressed before a call's first
intent is in no request of it; the intent says so, and every repeat has the same bytes.

    plan from the ledger ─▶ waiting ─▶ reserved (rate) ─▶ intent ─commit─▶ in flight ─▶ outcome ─commit─▶ end
                              ▲                                                           │
                              └────────── backoff: certainly not accepted, or same key ◀──┘
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from hashlib import sha256
from random import Random
from threading import Event
from typing import Any, Literal

from email_platform.errors import (
    AccountRefusedError,
    CallNotAcceptedError,
    CallOutcomeUnknownError,
    CallRejectedError,
    CallThrottledError,
    CampaignStoppedError,
    ChunkBusyError,
    LeaseLostError,
    PartUnavailableError,
    ProviderDownError,
    SendingInterruptedError,
)
from email_platform.identity import call_id
from email_platform.ledger import (
    FINAL_STATES,
    CallIntent,
    CallLedger,
    CallOutcome,
    CallReceipt,
    CallRecord,
    Lease,
    LeftOut,
)
from email_platform.manifest import Manifest
from email_platform.ports import BulkCall, Clock, EmailProvider, EncodedCall
from email_platform.rate_limit import RateLimiter, Unlimited
from email_platform.retry import RetryPolicy

BuildCall = Callable[[int, int, LeftOut], BulkCall]
"""Renders the call that starts at an offset within the chunk and spans so many recipients, without those left out."""

LeftOutOf = Callable[[Sequence[tuple[int, int]]], Sequence[LeftOut]]
"""Whom to leave out of calls, each given as (offset within the chunk, recipients), as of now."""


def nobody_left_out(spans: Sequence[tuple[int, int]]) -> Sequence[LeftOut]:
    """For chunks whose recipients nobody suppresses."""
    return [{}] * len(spans)


@dataclass(frozen=True, slots=True)
class DeliveryPolicy:
    """How hard one process drives one chunk.

    Attributes:
        connections: calls in flight at once = the most calls a crash can leave unknown.
        lease_seconds: a holder that shows no sign for so long may be taken over.
        lease_wait_seconds: how long to wait for another holder before giving up.
        ledger_wait_seconds: how long to keep answers in memory for a ledger that is away.
        idempotency_margin: share of the provider's key lifetime after which a key is no longer trusted.
    """

    connections: int = 16
    lease_seconds: float = 20.0
    lease_wait_seconds: float = 60.0
    ledger_wait_seconds: float = 120.0
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    idempotency_margin: float = 0.9


@dataclass(frozen=True, slots=True)
class ChunkProgress:
    """Recipients of the chunk by outcome so far; ``sent_*`` were called by this process, now."""

    recipients: int
    accepted: int = 0
    rejected: int = 0
    unknown: int = 0
    abandoned: int = 0
    sent_calls: int = 0
    sent_recipients: int = 0
    skipped_calls: int = 0
    retried_calls: int = 0


def progress_of(records: Sequence[CallRecord], recipients: int) -> ChunkProgress:
    """What the ledger says of a chunk in which nothing was sent now."""
    progress = ChunkProgress(recipients, skipped_calls=len(records))
    for record in records:
        progress = _counted(progress, record)
    return progress


def _counted(progress: ChunkProgress, record: CallRecord) -> ChunkProgress:
    if record.receipt is not None:
        accepted = sum(result.status == "accepted" for result in record.receipt.results)
        return replace(
            progress,
            accepted=progress.accepted + accepted,
            rejected=progress.rejected + record.recipient_count - accepted,
        )
    if record.state in ("unknown", "abandoned"):
        unanswered = record.asked_count
        return replace(
            progress,
            rejected=progress.rejected + len(record.left_out),
            unknown=progress.unknown + (unanswered if record.state == "unknown" else 0),
            abandoned=progress.abandoned + (unanswered if record.state == "abandoned" else 0),
        )
    return progress


@dataclass(order=True, slots=True)
class _Attempt:
    """A call to be made at ``start_at_seconds`` (monotonic); the heap's order is time, then call index."""

    start_at_seconds: float
    call_index: int
    number: int = field(compare=False)


@dataclass(frozen=True, slots=True)
class _Finished:
    """An attempt's outcome and when to try again: after so many seconds, or never (None)."""

    attempt: _Attempt
    outcome: CallOutcome
    retry_after_seconds: float | None = None
    retry: bool = False


@dataclass(frozen=True, slots=True)
class _Request:
    """A call about to be made, and who is not in it."""

    call: EncodedCall
    left_out: LeftOut


class ChunkDelivery:
    """One process's work on one chunk; use `run` once."""

    def __init__(
        self,
        manifest: Manifest,
        chunk_index: int,
        *,
        holder: str,
        ledger: CallLedger,
        provider: EmailProvider,
        build_call: BuildCall,
        left_out_of: LeftOutOf = nobody_left_out,
        clock: Clock,
        policy: DeliveryPolicy,
        limiter: RateLimiter | None = None,
        stop: Event | None = None,
        on_progress: Callable[[ChunkProgress], None] = lambda _: None,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        random: Random | None = None,
        blocking: Callable[..., Awaitable[Any]] = asyncio.to_thread,
    ) -> None:
        self._manifest = manifest
        self._chunk_index = chunk_index
        self._holder = holder
        self._ledger = ledger
        self._provider = provider
        self._build_call = build_call
        self._left_out_of = left_out_of
        self._clock = clock
        self._policy = policy
        self._limiter = limiter or Unlimited()
        self._stop = stop or Event()
        self._on_progress = on_progress
        self._monotonic = monotonic
        self._sleep = sleep
        self._blocking = blocking
        self._random = random or Random()  # noqa: S311 (jitter, not a secret)

        self._recipients = manifest.chunk_size_rows(chunk_index)
        self._records: dict[int, CallRecord] = {}
        self._waiting: list[_Attempt] = []
        self._reserved: list[_Attempt] = []
        self._in_flight: set[asyncio.Task[_Finished]] = set()
        self._outcomes: list[CallOutcome] = []
        self._once_unknown: set[int] = set()  # a later refusal of such a call does not prove that nobody got it
        self._halt: Exception | None = None
        self._last_turn_seconds = 0.0
        self.progress = ChunkProgress(self._recipients)

    async def run(self) -> ChunkProgress:
        """Send whatever of the chunk the ledger does not show as done, and say what became of everybody.

        Returns with every call at an end: accepted, rejected, abandoned, or unknown and held by policy.

        Raises:
            ChunkBusyError: another live process is sending this chunk.
            LeaseLostError, CampaignStoppedError, SendingInterruptedError: stopped between calls; what was in
                flight has been recorded.
            AccountRefusedError, ProviderDownError: likewise, and the campaign should be paused.
        """
        lease = await self._take_lease()
        try:
            self._plan(await self._blocking(self._ledger.calls, lease.campaign_id, lease.chunk_index))
            try:
                await self._pump(lease)
            except BaseException:
                await self._record_calls_in_flight(lease)
                raise
            await self._blocking(self._ledger.finish_chunk, lease)
        except BaseException:
            await self._blocking(self._ledger.release_lease, lease)
            raise
        return self.progress

    # --- planning -----------------------------------------------------------------------------------------

    async def _take_lease(self) -> Lease:
        deadline_seconds = self._monotonic() + self._policy.lease_wait_seconds
        while True:
            before_seconds = self._monotonic()
            lease: Lease | None = await self._blocking(
                self._ledger.take_lease, self._manifest.campaign_id, self._chunk_index, self._holder
            )
            if lease is not None:
                self._last_turn_seconds = before_seconds
                return lease
            if self._stop.is_set():
                raise SendingInterruptedError("asked to end while waiting for the chunk's lease")
            if self._monotonic() >= deadline_seconds:
                raise ChunkBusyError(
                    f"chunk {self._chunk_index} of campaign {self._manifest.campaign_id} is being sent by another "
                    f"process, which has renewed its lease for {self._policy.lease_wait_seconds:.0f} seconds"
                )
            await self._sleep(min(1.0, self._policy.lease_seconds / 4))

    def _plan(self, records: Sequence[CallRecord]) -> None:
        self._records = {record.call_index: record for record in records}
        for call_index in range(self._call_count):
            record = self._records.get(call_index)
            if record is None or record.state == "planned":
                self._enqueue(call_index, number=1)
            elif record.state in FINAL_STATES:
                self._count(record)
                self.progress = replace(self.progress, skipped_calls=self.progress.skipped_calls + 1)
            elif self._may_try_again(record):
                self._once_unknown.add(call_index)
                self._enqueue(call_index, number=1)
            else:
                self._hold(record)

    def _may_try_again(self, record: CallRecord) -> bool:
        """Whether a call of unknown outcome may be made again without risking what the policy forbids."""
        if record.asked_count == 0:
            return True  # there is nobody to call
        limits = self._provider.limits
        if limits.honours_idempotency_keys:
            age_seconds = (self._clock() - record.intent_at).total_seconds()
            if age_seconds < limits.idempotency_seconds * self._policy.idempotency_margin:
                return True
        return self._manifest.on_unknown == "resend"

    def _hold(self, record: CallRecord) -> None:
        self._count(replace(record, state="unknown"))
        self.progress = replace(self.progress, skipped_calls=self.progress.skipped_calls + 1)
        if record.state == "intent":
            self._outcomes.append(
                CallOutcome(record.call_index, "unknown", error="no answer was recorded: the process died")
            )

    @property
    def _call_count(self) -> int:
        return -(-self._recipients // self._manifest.call_rows)

    def _call_size(self, call_index: int) -> int:
        return min(self._manifest.call_rows, self._recipients - call_index * self._manifest.call_rows)

    def _enqueue(self, call_index: int, number: int, delay_seconds: float = 0.0) -> None:
        heapq.heappush(self._waiting, _Attempt(self._monotonic() + delay_seconds, call_index, number))

    # --- the loop -----------------------------------------------------------------------------------------

    async def _pump(self, lease: Lease) -> None:
        while self._waiting or self._reserved or self._in_flight or self._outcomes:
            if self._stop.is_set():
                raise SendingInterruptedError("asked to end; calls in flight were recorded first")
            if self._halt is not None:
                raise self._halt
            await self._reserve()
            starting, requests = await self._starting()
            if starting or self._outcomes or self._turn_is_due():
                await self._turn(lease, starting, requests)
            self._on_progress(self.progress)
            await self._wait_for_news()

    async def _reserve(self) -> None:
        """Move what is due from waiting to reserved, never holding more than `connections` calls."""
        slots = self._policy.connections - len(self._in_flight) - len(self._reserved)
        now_seconds = self._monotonic()
        due: list[_Attempt] = []
        while len(due) < slots and self._waiting and self._waiting[0].start_at_seconds <= now_seconds:
            due.append(heapq.heappop(self._waiting))
        if not due:
            return
        sizes = [self._call_size(attempt.call_index) for attempt in due]
        waits: Sequence[float] = (
            self._limiter.reserve(sizes)
            if isinstance(self._limiter, Unlimited)
            else await self._blocking(self._limiter.reserve, sizes)
        )
        now_seconds = self._monotonic()
        for attempt, wait_seconds in zip(due, waits, strict=True):
            heapq.heappush(self._reserved, _Attempt(now_seconds + wait_seconds, attempt.call_index, attempt.number))

    async def _starting(self) -> tuple[list[_Attempt], dict[int, _Request]]:
        """The reserved calls whose time has come, rendered and encoded without whoever is suppressed by now."""
        due: list[_Attempt] = []
        now_seconds = self._monotonic()
        while self._reserved and self._reserved[0].start_at_seconds <= now_seconds:
            due.append(heapq.heappop(self._reserved))
        starting: list[_Attempt] = []
        requests: dict[int, _Request] = {}
        left_out_of_call = await self._leave_out([attempt.call_index for attempt in due])
        for attempt in due:
            call_index = attempt.call_index
            left_out = left_out_of_call[call_index]
            call = self._encode(call_index, left_out)
            record = self._records.get(call_index)
            if self._bytes_changed(record, call):
                assert record is not None
                self._count(replace(record, state="unknown"))
                self._outcomes.append(
                    CallOutcome(
                        call_index,
                        "unknown",
                        error="held: the request's bytes differ from the first attempt's, so its key proves nothing",
                    )
                )
                continue
            requests[call_index] = _Request(call, left_out)
            starting.append(attempt)
        return starting, requests

    async def _leave_out(self, call_indexes: Sequence[int]) -> dict[int, LeftOut]:
        """Whom to leave out of each call: those of its first attempt that may have been accepted, else asked now.

        One question for all calls of a turn: measured 0.9 ms for one call of 50, 4 ms for 16.
        """
        repeated = {
            index: record.left_out
            for index in call_indexes
            if (record := self._records.get(index)) is not None and record.state in ("intent", "unknown")
        }
        fresh = [index for index in call_indexes if index not in repeated]
        if not fresh:
            return repeated
        spans = [(index * self._manifest.call_rows, self._call_size(index)) for index in fresh]
        answers, _ = await self._patiently(self._left_out_of, spans)
        return repeated | dict(zip(fresh, answers, strict=True))

    def _encode(self, call_index: int, left_out: LeftOut) -> EncodedCall:
        size = self._call_size(call_index)
        if len(left_out) == size:  # nobody is left to call: an intent and a receipt, but no request
            return EncodedCall(call_id(self._manifest.campaign_id, self._chunk_index, call_index), b"", 0)
        return self._provider.encode(self._build_call(call_index * self._manifest.call_rows, size, left_out))

    def _bytes_changed(self, record: CallRecord | None, call: EncodedCall) -> bool:
        return (
            record is not None
            and record.state in ("intent", "unknown")
            and self._manifest.on_unknown == "hold"
            and record.body_sha256 != sha256(call.body).digest()
        )

    def _turn_is_due(self) -> bool:
        return self._monotonic() - self._last_turn_seconds > self._policy.lease_seconds / 3

    async def _turn(self, lease: Lease, starting: list[_Attempt], requests: dict[int, _Request]) -> None:
        """One commit: outcomes in, intents out; then the calls start."""
        intents = [self._intent(attempt.call_index, requests[attempt.call_index]) for attempt in starting]
        outcomes, self._outcomes = self._outcomes, []
        try:
            before_seconds = await self._commit(lease, outcomes, intents)
        except Exception:
            self._outcomes = outcomes + self._outcomes  # recording an outcome twice changes nothing
            raise
        self._last_turn_seconds = before_seconds
        now_seconds = self._monotonic()
        if intents and now_seconds - before_seconds > self._policy.lease_seconds:
            # The commit took longer than the lease: somebody may own the chunk by now. These were not called.
            self._outcomes = [CallOutcome(intent.call_index, "planned") for intent in intents]
            raise LeaseLostError(f"the ledger took {now_seconds - before_seconds:.1f} seconds for one commit")
        for attempt, intent in zip(starting, intents, strict=True):
            self._remember(lease, intent)
            task = asyncio.create_task(self._call(attempt, requests[attempt.call_index].call))
            self._in_flight.add(task)
        self.progress = replace(
            self.progress,
            sent_calls=self.progress.sent_calls + sum(one.call.recipient_count > 0 for one in requests.values()),
            sent_recipients=self.progress.sent_recipients + sum(one.call.recipient_count for one in requests.values()),
            retried_calls=self.progress.retried_calls + sum(attempt.number > 1 for attempt in starting),
        )

    async def _commit(self, lease: Lease, outcomes: Sequence[CallOutcome], intents: Sequence[CallIntent]) -> float:
        """Commit one turn, waiting for a ledger that is away; returns when the commit that held began.

        No call starts meanwhile, and the answers that came in are kept: a restart of PostgreSQL costs time,
        not knowledge.
        """
        _, before_seconds = await self._patiently(self._ledger.turn, lease, outcomes, intents)
        return before_seconds

    async def _patiently(self, ask: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
        """Ask PostgreSQL, again while it is away; returns its answer and when the asking that held began."""
        give_up_seconds = self._monotonic() + self._policy.ledger_wait_seconds
        for number in itertools.count(1):
            before_seconds = self._monotonic()
            try:
                return await self._blocking(ask, *arguments), before_seconds
            except PartUnavailableError:
                if self._monotonic() >= give_up_seconds:
                    raise
                await self._sleep(self._policy.retry.delay_seconds(number, self._random))
        raise AssertionError("unreachable: the loop returns or raises")

    def _intent(self, call_index: int, request: _Request) -> CallIntent:
        return CallIntent(
            call_index=call_index,
            call_id=call_id(self._manifest.campaign_id, self._chunk_index, call_index),
            first_position=self._chunk_index * self._manifest.chunk_rows + call_index * self._manifest.call_rows,
            recipient_count=self._call_size(call_index),
            body_sha256=sha256(request.call.body).digest(),
            left_out=request.left_out,
        )

    def _remember(self, lease: Lease, intent: CallIntent) -> None:
        """Keep what the ledger now holds: the first intent's time decides how long its key is trusted."""
        known = self._records.get(intent.call_index)
        keeps_time = known is not None and known.state in ("intent", "unknown")
        self._records[intent.call_index] = CallRecord(
            call_index=intent.call_index,
            call_id=intent.call_id,
            state="intent",
            first_position=intent.first_position,
            recipient_count=intent.recipient_count,
            body_sha256=intent.body_sha256,
            lease_epoch=lease.epoch,
            attempts=known.attempts + 1 if known else 1,
            intent_at=known.intent_at if known and keeps_time else self._clock(),
            receipt_at=None,
            receipt=None,
            error=None,
            left_out=intent.left_out,
        )

    async def _wait_for_news(self) -> None:
        """Sleep until a call ends, a call is due, or the lease wants renewing."""
        now_seconds = self._monotonic()
        wake_seconds = self._last_turn_seconds + self._policy.lease_seconds / 3
        if self._reserved:
            wake_seconds = min(wake_seconds, self._reserved[0].start_at_seconds)
        slots = self._policy.connections - len(self._in_flight) - len(self._reserved)
        if self._waiting and slots > 0:
            wake_seconds = min(wake_seconds, self._waiting[0].start_at_seconds)
        timeout_seconds = max(0.0, wake_seconds - now_seconds)
        if self._in_flight:
            done, _ = await asyncio.wait(
                self._in_flight, timeout=min(timeout_seconds, 0.5), return_when=asyncio.FIRST_COMPLETED
            )
            self._collect(done)
        elif not self._outcomes and (self._waiting or self._reserved):
            await self._sleep(min(timeout_seconds, 0.5))  # 0.5: a request to stop is seen within half a second

    def _collect(self, done: set[asyncio.Task[_Finished]]) -> None:
        for task in done:
            self._in_flight.discard(task)
            finished = task.result()
            outcome = finished.outcome
            self._outcomes.append(outcome)
            record = replace(self._records[outcome.call_index], state=outcome.state, receipt=outcome.receipt)
            self._records[outcome.call_index] = record
            if finished.retry and self._halt is None:
                self._enqueue(outcome.call_index, finished.attempt.number + 1, finished.retry_after_seconds or 0.0)
            elif outcome.state != "planned":
                self._count(record)

    def _count(self, record: CallRecord) -> None:
        self.progress = _counted(self.progress, record)

    # --- one call -----------------------------------------------------------------------------------------

    async def _call(self, attempt: _Attempt, call: EncodedCall) -> _Finished:
        """Make one call and classify its end; never raises, so that no outcome can be lost."""
        index = attempt.call_index
        left_out = self._records[index].left_out
        if call.recipient_count == 0:
            return _Finished(attempt, CallOutcome(index, "rejected", CallReceipt(()).with_left_out(left_out)))
        try:
            results = await self._provider.send(call)
        except CallThrottledError as error:
            await self._blocking(self._limiter.throttled, error.retry_after_seconds)
            return self._not_accepted(attempt, error, error.retry_after_seconds)
        except CallNotAcceptedError as error:
            return self._not_accepted(attempt, error, None)
        except CallRejectedError as error:
            if index in self._once_unknown and not self._provider.limits.honours_idempotency_keys:
                # An earlier attempt may have been accepted: this refusal says nothing about that one.
                return _Finished(attempt, CallOutcome(index, "unknown", error=f"a later attempt was refused: {error}"))
            refusal = CallReceipt.all_rejected(call.recipient_count, error.code, str(error))
            return _Finished(attempt, CallOutcome(index, "rejected", refusal.with_left_out(left_out), str(error)))
        except AccountRefusedError as error:
            self._halt = self._halt or error
            return _Finished(attempt, self._unsent(index, error))
        except CallOutcomeUnknownError as error:
            return self._unknown(attempt, error)
        except Exception as error:  # an adapter's bug: nobody knows what the provider did
            self._halt = self._halt or error
            return _Finished(attempt, CallOutcome(index, "unknown", error=f"{type(error).__name__} in the adapter"))
        if len(results) != call.recipient_count:
            return self._unknown(
                attempt,
                CallOutcomeUnknownError(f"{len(results)} results came for {call.recipient_count} recipients"),
            )
        receipt = CallReceipt(results).with_left_out(left_out)
        any_accepted = any(result.status == "accepted" for result in results)
        return _Finished(attempt, CallOutcome(index, "accepted" if any_accepted else "rejected", receipt))

    def _not_accepted(self, attempt: _Attempt, error: Exception, retry_after_seconds: float | None) -> _Finished:
        return self._again(attempt, self._unsent(attempt.call_index, error), error, retry_after_seconds)

    def _unsent(self, call_index: int, error: Exception) -> CallOutcome:
        """This attempt was certainly not accepted; an earlier one may have been, unseen."""
        state: Literal["planned", "unknown"] = "unknown" if call_index in self._once_unknown else "planned"
        return CallOutcome(call_index, state, error=str(error))

    def _unknown(self, attempt: _Attempt, error: Exception) -> _Finished:
        self._once_unknown.add(attempt.call_index)
        outcome = CallOutcome(attempt.call_index, "unknown", error=str(error))
        if not self._may_try_again(self._records[attempt.call_index]):
            return _Finished(attempt, outcome)
        return self._again(attempt, outcome, error, None)

    def _again(
        self, attempt: _Attempt, outcome: CallOutcome, error: Exception, retry_after_seconds: float | None
    ) -> _Finished:
        if attempt.number >= self._policy.retry.attempts:
            self._halt = self._halt or ProviderDownError(
                f"a call failed {attempt.number} times in a row; the last time: {error}"
            )
            return _Finished(attempt, outcome)
        delay_seconds = self._policy.retry.delay_seconds(attempt.number, self._random, retry_after_seconds)
        return _Finished(attempt, outcome, delay_seconds, retry=True)

    async def _record_calls_in_flight(self, lease: Lease) -> None:
        """See the open calls to their end and record them; a call in flight is never cancelled."""
        if self._in_flight:
            done, _ = await asyncio.wait(self._in_flight)
            self._collect(done)
        if self._outcomes:
            outcomes, self._outcomes = self._outcomes, []
            with suppress(LeaseLostError, CampaignStoppedError):  # outcomes are recorded all the same
                await self._commit(lease, outcomes, [])
