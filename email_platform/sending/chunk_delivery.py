"""Sends the calls of one chunk so that a death at any point neither repeats nor loses a message.

Invariant: between a call's durable intent and its durable receipt at most `connections` calls are open, and
only those can ever become unknown. Each turn of the loop is one ledger commit: the receipts that came in,
then the intents of the calls about to start. No intent, no call.

    plan from the ledger ─▶ waiting ─▶ reserved (rate) ─▶ intent ─commit─▶ in flight ─▶ outcome ─commit─▶ end
                              ▲                                                           │
                              ├────────── backoff: certainly not accepted, or same key ◀──┤
                              └── follow-up: recipients that the answer put off, in a new call ◀┘

Suppressions that came after the audience was frozen are looked up once per batch of calls about to start; who
must not be mailed any more is left out and stands as refused in the ledger. A call that may have been accepted
is repeated with the same bytes or not at all, so it is not looked up again.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from hashlib import sha256
from random import Random
from threading import Event
from typing import Any, Literal

from email_platform.domain.identity import call_id
from email_platform.domain.manifest import Manifest
from email_platform.domain.ports import BulkCall, Clock, EmailProvider, EncodedCall, RecipientResult
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
from email_platform.sending.ledger import (
    FINAL_STATES,
    CallIntent,
    CallLedger,
    CallOutcome,
    CallReceipt,
    CallRecord,
    CallState,
    Follows,
    Lease,
    deferrals,
    deferred_recipients,
    in_doubt,
    left_out_result,
)
from email_platform.sending.rate_limit import RateLimiter, Reservation, Unlimited
from email_platform.sending.retry import RetryPolicy

BuildCall = Callable[[int, Sequence[int]], BulkCall]
"""Renders the call with this index over the recipients at these offsets within the chunk."""

Screen = Callable[[Sequence[int]], Mapping[int, str]]
"""Says which of the recipients at these offsets must not be mailed any more, and why."""


@dataclass(frozen=True, slots=True)
class DeliveryPolicy:
    """How hard one process drives one chunk.

    Attributes:
        connections: calls in flight at once = the most calls a crash can leave unknown.
        lease_seconds: a holder that shows no sign for so long may be taken over.
        lease_wait_seconds: how long to wait for another holder before giving up.
        ledger_wait_seconds: how long to keep answers in memory for a ledger that is away.
        idempotency_margin: share of the provider's key lifetime after which a key is no longer trusted.
        deferral: how often a recipient is tried whom the provider puts off again and again, and the pauses between.
            After the last try the recipient counts as refused, with the provider's code.
    """

    connections: int = 16
    lease_seconds: float = 20.0
    lease_wait_seconds: float = 60.0
    ledger_wait_seconds: float = 120.0
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    idempotency_margin: float = 0.9
    deferral: RetryPolicy = field(default_factory=lambda: RetryPolicy(base_seconds=1.0, ceiling_seconds=60.0))


@dataclass(frozen=True, slots=True)
class ChunkProgress:
    """Recipients of the chunk by outcome so far; ``sent_*`` were called by this process, now.

    Attributes:
        deferred_recipients: how often a recipient was put off by this process's calls.
    """

    recipients: int
    accepted: int = 0
    rejected: int = 0
    unknown: int = 0
    abandoned: int = 0
    sent_calls: int = 0
    sent_recipients: int = 0
    skipped_calls: int = 0
    retried_calls: int = 0
    deferred_recipients: int = 0


def progress_of(manifest: Manifest, chunk_index: int, records: Sequence[CallRecord]) -> ChunkProgress:
    """What the ledger says of a finished chunk, in which nothing was sent now."""
    progress = ChunkProgress(manifest.chunk_size_rows(chunk_index), skipped_calls=len(records))
    for record in records:
        progress = _counted(progress, record.state, record.recipient_count, record.receipt)
    first_position = chunk_index * manifest.chunk_rows
    given_up = set(deferred_recipients(records, first_position))
    doubtful = given_up & {
        offset for record in records if record.after_unknown for offset in record.offsets_in_chunk(first_position)
    }
    return replace(
        progress,
        rejected=progress.rejected + len(given_up - doubtful),
        unknown=progress.unknown + len(doubtful),
    )


def _counted(
    progress: ChunkProgress, state: CallState, recipient_count: int, receipt: CallReceipt | None
) -> ChunkProgress:
    """The progress with one call more; whom it defers counts when a follow-up call ends, or the tries do."""
    untold = recipient_count
    if receipt is not None:
        untold = receipt.count("unknown")
        progress = replace(
            progress,
            accepted=progress.accepted + receipt.count("accepted"),
            rejected=progress.rejected + receipt.count("rejected"),
        )
    if state == "unknown":
        return replace(progress, unknown=progress.unknown + untold)
    if state == "abandoned":
        return replace(progress, abandoned=progress.abandoned + untold)
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
        clock: Clock,
        policy: DeliveryPolicy,
        limiter: RateLimiter | None = None,
        screen: Screen | None = None,
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
        self._clock = clock
        self._policy = policy
        self._limiter = limiter or Unlimited()
        self._screen = screen
        self._stop = stop or Event()
        self._on_progress = on_progress
        self._monotonic = monotonic
        self._sleep = sleep
        self._blocking = blocking
        self._random = random or Random()  # noqa: S311 (jitter, not a secret)

        self._recipients = manifest.chunk_size_rows(chunk_index)
        self._records: dict[int, CallRecord] = {}
        self._chosen: dict[int, tuple[int, ...]] = {}  # recipients of calls that are not the slice of their index
        self._follows: dict[int, Follows] = {}
        self._next_index = self._slices  # of a call that is no slice
        self._deferrals: Counter[int] = Counter()  # how often each recipient was put off, by offset
        self._deferred: dict[Follows, list[int]] = {"deferred": [], "in_doubt": []}  # offsets; follow-ups to be made
        self._waiting: list[_Attempt] = []
        self._reserved: list[_Attempt] = []
        self._in_flight: set[asyncio.Task[_Finished]] = set()
        self._outcomes: list[CallOutcome] = []
        self._once_unknown: set[int] = set()  # a later refusal of such a call does not prove that nobody got it
        self._after_unknown: set[int] = set()  # the same, and no key makes the next answer the truth
        self._barren_calls = 0  # answered in a row with nobody accepted and everybody put off,
        self._barren: set[int] = set()  # over these recipients
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
            finished = False
            while not finished:  # a second time where a fenced process said late that it had never made a call
                self._plan(await self._blocking(self._ledger.calls, lease.campaign_id, lease.chunk_index))
                try:
                    await self._pump(lease)
                except BaseException:
                    await self._record_calls_in_flight(lease)
                    raise
                finished = await self._blocking(self._ledger.finish_chunk, lease)
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
        self.progress = replace(self.progress, accepted=0, rejected=0, unknown=0, abandoned=0, skipped_calls=0)
        self._records = {record.call_index: record for record in records}
        self._chosen = {record.call_index: record.offsets for record in records if record.offsets is not None}
        self._follows = {record.call_index: record.follows for record in records if record.follows is not None}
        self._after_unknown = {record.call_index for record in records if record.after_unknown}
        self._next_index = max([self._slices, *(index + 1 for index in self._records)])
        self._deferrals = deferrals(records, self._first_position)
        for call_index in sorted({*range(self._slices), *self._records}):
            record = self._records.get(call_index)
            if record is None or record.state == "planned":
                self._enqueue(call_index, number=1)
            elif record.state in FINAL_STATES:
                self._skip(record, record.state, record.receipt)
            elif self._may_try_again(record):
                self._note_unknown(record)
                self._enqueue(call_index, number=1)
            else:
                self._hold(record)
        for offset in deferred_recipients(records, self._first_position):
            self._put_off(offset)

    def _skip(self, record: CallRecord, state: CallState, receipt: CallReceipt | None) -> None:
        self._count(state, record.recipient_count, receipt)
        self.progress = replace(self.progress, skipped_calls=self.progress.skipped_calls + 1)

    def _may_try_again(self, record: CallRecord) -> bool:
        """Whether a call of unknown outcome may be made again without risking what the policy forbids."""
        if self._key_is_honoured(record):
            return True
        # Of a call of which some recipients are proved, an operator may have the others sent again, nobody else.
        return self._manifest.on_unknown == "resend" and record.receipt is None

    def _key_is_honoured(self, record: CallRecord) -> bool:
        """Whether the same key and bytes cannot be accepted a second time."""
        limits = self._provider.limits
        age_seconds = (self._clock() - record.intent_at).total_seconds()
        trusted_seconds = limits.idempotency_seconds * self._policy.idempotency_margin
        return limits.honours_idempotency_keys and age_seconds < trusted_seconds

    def _note_unknown(self, record: CallRecord) -> None:
        """Remember that an attempt of this call may have been accepted."""
        self._once_unknown.add(record.call_index)
        if not self._key_is_honoured(record):
            self._after_unknown.add(record.call_index)

    def _resend_unproved(self, record: CallRecord, proved: CallReceipt) -> None:
        """End a call of which events have proved some recipients; the others go into a follow-up call."""
        receipt = proved.resending_unknown("no answer came: sent again by the campaign's policy")
        self._records[record.call_index] = replace(record, state="accepted", receipt=receipt)
        self._outcomes.append(CallOutcome(record.call_index, "accepted", receipt))
        self._skip(record, "accepted", receipt)

    def _put_off(self, offset: int) -> None:
        """Have a follow-up call take the recipient on, or give up: it counts as refused from the chunk's end on."""
        follows: Follows = "in_doubt" if offset in self._in_doubt() else "deferred"
        if self._deferrals[offset] < self._policy.deferral.attempts:
            self._deferred[follows].append(offset)
        elif follows == "in_doubt":
            self.progress = replace(self.progress, unknown=self.progress.unknown + 1)
        else:
            self.progress = replace(self.progress, rejected=self.progress.rejected + 1)

    def _in_doubt(self) -> set[int]:
        """Recipients, by offset, of whom an attempt that may have been accepted is not known to have been refused."""
        return {offset for call_index in self._after_unknown for offset in self._offsets(call_index)}

    def _hold(self, record: CallRecord) -> None:
        self._skip(record, "unknown", record.receipt)
        if record.state == "intent":
            self._outcomes.append(
                CallOutcome(record.call_index, "unknown", error="no answer was recorded: the process died")
            )

    @property
    def _slices(self) -> int:
        return -(-self._recipients // self._manifest.call_rows)

    @property
    def _first_position(self) -> int:
        return self._chunk_index * self._manifest.chunk_rows

    def _offsets(self, call_index: int) -> Sequence[int]:
        """The call's recipients, by offset within the chunk."""
        if call_index in self._chosen:
            return self._chosen[call_index]
        first = call_index * self._manifest.call_rows
        return range(first, min(first + self._manifest.call_rows, self._recipients))

    def _enqueue(self, call_index: int, number: int, delay_seconds: float = 0.0) -> None:
        heapq.heappush(self._waiting, _Attempt(self._monotonic() + delay_seconds, call_index, number))

    # --- the loop -----------------------------------------------------------------------------------------

    async def _pump(self, lease: Lease) -> None:
        while self._waiting or self._reserved or self._in_flight or self._outcomes or any(self._deferred.values()):
            if self._stop.is_set():
                raise SendingInterruptedError("asked to end; calls in flight were recorded first")
            if self._halt is not None:
                raise self._halt
            self._follow_up()
            await self._reserve()
            starting, encoded, refused = await self._starting()
            if starting or refused or self._outcomes or self._turn_is_due():
                await self._turn(lease, starting, encoded, refused)
            self._on_progress(self.progress)
            await self._wait_for_news()

    def _follow_up(self) -> None:
        """Make calls of the recipients put off so far: full ones at once, the rest when nothing else is left to do."""
        is_rest = not (self._waiting or self._reserved or self._in_flight or self._outcomes)
        rows = self._manifest.call_rows
        for follows, deferred in self._deferred.items():
            while deferred and (is_rest or len(deferred) >= rows):
                chosen = tuple(sorted(deferred[:rows]))
                del deferred[:rows]
                often = max(self._deferrals[offset] for offset in chosen)
                call_index = self._next_index
                self._choose(call_index, chosen, follows, after_unknown=follows == "in_doubt")
                self._enqueue(call_index, 1, self._policy.deferral.delay_seconds(often, self._random))

    def _choose(
        self, call_index: int, offsets: tuple[int, ...], follows: Follows | None, *, after_unknown: bool
    ) -> None:
        """Give the call these recipients instead of its slice."""
        self._chosen[call_index] = offsets
        self._next_index = max(self._next_index, call_index + 1)
        if follows is not None:
            self._follows[call_index] = follows
        if after_unknown:
            self._after_unknown.add(call_index)

    async def _reserve(self) -> None:
        """Move what is due from waiting to reserved, never holding more than `connections` calls."""
        slots = self._policy.connections - len(self._in_flight) - len(self._reserved)
        now_seconds = self._monotonic()
        due: list[_Attempt] = []
        while len(due) < slots and self._waiting and self._waiting[0].start_at_seconds <= now_seconds:
            due.append(heapq.heappop(self._waiting))
        if not due:
            return
        sizes = [len(self._offsets(attempt.call_index)) for attempt in due]
        reservation: Reservation = (
            self._limiter.reserve(sizes)
            if isinstance(self._limiter, Unlimited)
            else await self._blocking(self._limiter.reserve, sizes)
        )
        now_seconds = self._monotonic()
        booked = len(reservation.waits)
        for attempt, wait_seconds in zip(due[:booked], reservation.waits, strict=True):
            heapq.heappush(self._reserved, _Attempt(now_seconds + wait_seconds, attempt.call_index, attempt.number))
        for attempt in due[booked:]:
            self._enqueue(attempt.call_index, attempt.number, max(reservation.ask_again_seconds, 0.01))

    async def _starting(self) -> tuple[list[_Attempt], dict[int, EncodedCall], list[CallIntent]]:
        """The reserved calls whose time has come, rendered and encoded, and the refusals of suppressed recipients."""
        due: list[_Attempt] = []
        now_seconds = self._monotonic()
        while self._reserved and self._reserved[0].start_at_seconds <= now_seconds:
            due.append(heapq.heappop(self._reserved))
        due, refused = await self._leave_out_suppressed(due)
        starting: list[_Attempt] = []
        encoded: dict[int, EncodedCall] = {}
        for attempt in due:
            call_index = attempt.call_index
            call = self._provider.encode(self._build_call(call_index, self._offsets(call_index)))
            record = self._records.get(call_index)
            if self._bytes_changed(record, call):
                assert record is not None
                self._count("unknown", record.recipient_count, record.receipt)
                self._outcomes.append(
                    CallOutcome(
                        call_index,
                        "unknown",
                        error="held: the request's bytes differ from the first attempt's, so its key proves nothing",
                    )
                )
                continue
            encoded[call_index] = call
            starting.append(attempt)
        return starting, encoded, refused

    async def _leave_out_suppressed(self, due: Sequence[_Attempt]) -> tuple[list[_Attempt], list[CallIntent]]:
        """Take out of these calls whom they must not go to any more; returns what is left, and refusals to record.

        A call that was tried before, certainly in vain, may be remembered by its key: the rest of it goes out as
        another call, and its own record keeps those who are left out.
        """
        fresh = {attempt.call_index for attempt in due if self._may_change(attempt.call_index)}
        offsets = [offset for call_index in sorted(fresh) for offset in self._offsets(call_index)]
        if self._screen is None or not offsets:
            return list(due), []
        reasons = await self._blocking(self._screen, offsets)
        kept: list[_Attempt] = []
        refused: list[CallIntent] = []
        for attempt in due:
            call_index = attempt.call_index
            unwanted = tuple(offset for offset in self._offsets(call_index) if offset in reasons)
            if call_index not in fresh or not unwanted:
                kept.append(attempt)
                continue
            rest = tuple(offset for offset in self._offsets(call_index) if offset not in reasons)
            follows, after_unknown = self._follows.get(call_index), call_index in self._after_unknown
            was_tried = call_index in self._records or not rest
            refusing, sending = (call_index, self._next_index) if was_tried else (self._next_index, call_index)
            self._choose(refusing, unwanted, follows, after_unknown=after_unknown)
            if rest:
                self._choose(sending, rest, follows, after_unknown=after_unknown)
                kept.append(_Attempt(attempt.start_at_seconds, sending, attempt.number))
            refused.append(self._refusal(refusing, [reasons[offset] for offset in unwanted]))
        return kept, refused

    def _may_change(self, call_index: int) -> bool:
        """Whether the call was never made, or certainly not accepted."""
        record = self._records.get(call_index)
        return record is None or record.state == "planned"

    def _refusal(self, call_index: int, reasons: Sequence[str]) -> CallIntent:
        results = tuple(left_out_result(reason) for reason in reasons)
        receipt = in_doubt(results) if call_index in self._after_unknown else CallReceipt(results)
        return replace(self._intent(call_index, sha256(b"").digest()), refusal=receipt)

    def _bytes_changed(self, record: CallRecord | None, call: EncodedCall) -> bool:
        return (
            record is not None
            and record.state in ("intent", "unknown")
            and self._manifest.on_unknown == "hold"
            and record.body_sha256 != sha256(call.body).digest()
        )

    def _turn_is_due(self) -> bool:
        return self._monotonic() - self._last_turn_seconds > self._policy.lease_seconds / 3

    async def _turn(
        self,
        lease: Lease,
        starting: list[_Attempt],
        encoded: dict[int, EncodedCall],
        refused: Sequence[CallIntent],
    ) -> None:
        """One commit: outcomes in, intents out; then the calls start."""
        intents = [
            self._intent(attempt.call_index, sha256(encoded[attempt.call_index].body).digest()) for attempt in starting
        ]
        outcomes, self._outcomes = self._outcomes, []
        try:
            before_seconds, standing = await self._commit(lease, outcomes, [*intents, *refused])
        except Exception:
            self._outcomes = outcomes + self._outcomes  # recording an outcome twice changes nothing
            raise
        self._last_turn_seconds = before_seconds
        now_seconds = self._monotonic()
        if intents and now_seconds - before_seconds > self._policy.lease_seconds:
            # The commit took longer than the lease: somebody may own the chunk by now. These were not called.
            self._outcomes = [CallOutcome(intent.call_index, "planned") for intent in intents]
            raise LeaseLostError(f"the ledger took {now_seconds - before_seconds:.1f} seconds for one commit")
        if len(standing) < len(intents) + len(refused):
            await self._adopt(lease, {intent.call_index for intent in (*intents, *refused)} - standing)
            starting = [attempt for attempt in starting if attempt.call_index in standing]
            intents = [intent for intent in intents if intent.call_index in standing]
            refused = [intent for intent in refused if intent.call_index in standing]
        for refusal in refused:
            self._remember(lease, refusal)
            self._count(refusal.state, refusal.recipient_count, refusal.refusal)
        for attempt, intent in zip(starting, intents, strict=True):
            self._remember(lease, intent)
            task = asyncio.create_task(self._call(attempt, encoded[attempt.call_index]))
            self._in_flight.add(task)
        self.progress = replace(
            self.progress,
            sent_calls=self.progress.sent_calls + len(starting),
            sent_recipients=self.progress.sent_recipients + sum(one.recipient_count for one in intents),
            retried_calls=self.progress.retried_calls + sum(attempt.number > 1 for attempt in starting),
        )

    async def _adopt(self, lease: Lease, call_indexes: set[int]) -> None:
        """Take over from the ledger what became of calls that came to an end while we were about to make them."""
        records: Sequence[CallRecord] = await self._blocking(self._ledger.calls, lease.campaign_id, lease.chunk_index)
        for record in records:
            if record.call_index in call_indexes:
                self._records[record.call_index] = record
                if record.offsets is not None:
                    self._chosen[record.call_index] = record.offsets
                self._skip(record, record.state, record.receipt)
                if record.receipt is not None:
                    self._collect_deferred(record.call_index, record.receipt)

    async def _commit(
        self, lease: Lease, outcomes: Sequence[CallOutcome], intents: Sequence[CallIntent]
    ) -> tuple[float, frozenset[int]]:
        """Commit one turn, waiting for a ledger that is away; returns when the commit that held began, and its result.

        No call starts meanwhile, and the answers that came in are kept: a restart of PostgreSQL costs time,
        not knowledge.
        """
        give_up_seconds = self._monotonic() + self._policy.ledger_wait_seconds
        for number in itertools.count(1):
            before_seconds = self._monotonic()
            try:
                standing: frozenset[int] = await self._blocking(self._ledger.turn, lease, outcomes, intents)
            except PartUnavailableError:
                if self._monotonic() >= give_up_seconds:
                    raise
                await self._sleep(self._policy.retry.delay_seconds(number, self._random))
            else:
                return before_seconds, standing
        raise AssertionError("unreachable: the loop returns or raises")

    def _intent(self, call_index: int, body_sha256: bytes) -> CallIntent:
        offsets = self._offsets(call_index)
        return CallIntent(
            call_index=call_index,
            call_id=call_id(self._manifest.campaign_id, self._chunk_index, call_index),
            first_position=self._first_position + offsets[0],
            recipient_count=len(offsets),
            body_sha256=body_sha256,
            offsets=self._chosen.get(call_index),
            follows=self._follows.get(call_index),
            after_unknown=call_index in self._after_unknown,
        )

    def _remember(self, lease: Lease, intent: CallIntent) -> None:
        """Keep what the ledger now holds: the first intent's time decides how long its key is trusted."""
        known = self._records.get(intent.call_index)
        keeps_time = known is not None and known.state in ("intent", "unknown")
        self._records[intent.call_index] = CallRecord(
            call_index=intent.call_index,
            call_id=intent.call_id,
            state=intent.state,
            first_position=intent.first_position,
            recipient_count=intent.recipient_count,
            body_sha256=intent.body_sha256,
            lease_epoch=lease.epoch,
            attempts=known.attempts + 1 if known else 1,
            intent_at=known.intent_at if known and keeps_time else self._clock(),
            receipt_at=None,
            receipt=intent.refusal or (known.receipt if known else None),
            error=None,
            offsets=intent.offsets,
            follows=intent.follows,
            after_unknown=intent.after_unknown,
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
            record = self._records[outcome.call_index]
            self._records[outcome.call_index] = replace(
                record, state=outcome.state, receipt=outcome.receipt or record.receipt
            )
            if finished.retry and self._halt is None:
                self._enqueue(outcome.call_index, finished.attempt.number + 1, finished.retry_after_seconds or 0.0)
            elif outcome.state != "planned":
                self._count(outcome.state, record.recipient_count, outcome.receipt or record.receipt)
            if outcome.receipt is not None:
                self._collect_deferred(outcome.call_index, outcome.receipt)

    def _collect_deferred(self, call_index: int, receipt: CallReceipt) -> None:
        """Note whom the answer puts off, and stop where nothing but putting off comes back."""
        for offset, result in zip(self._offsets(call_index), receipt.results, strict=True):
            if result.status == "deferred":
                self._deferrals[offset] += 1
                self._put_off(offset)
        put_off = self.progress.deferred_recipients + receipt.count("deferred")
        self.progress = replace(self.progress, deferred_recipients=put_off)
        if receipt.count("deferred") < len(receipt.results):
            self._barren_calls, self._barren = 0, set()
            return
        self._barren_calls += 1
        self._barren |= set(self._offsets(call_index))
        # A few whom the provider never takes are given up one by one; the breaker is for a provider that takes nobody.
        ended = self.progress.accepted + self.progress.rejected + self.progress.unknown + self.progress.abandoned
        takes_nobody = len(self._barren) > self._manifest.call_rows or ended == 0
        if self._barren_calls >= self._policy.retry.attempts and takes_nobody:
            last = receipt.results[-1]
            self._halt = self._halt or ProviderDownError(
                f"the provider put off every recipient of {self._barren_calls} calls in a row; "
                f"the last time: {last.error_code}: {last.error_message}"
            )

    def _count(self, state: CallState, recipient_count: int, receipt: CallReceipt | None) -> None:
        self.progress = _counted(self.progress, state, recipient_count, receipt)

    # --- one call -----------------------------------------------------------------------------------------

    async def _call(self, attempt: _Attempt, call: EncodedCall) -> _Finished:
        """Make one call and classify its end; never raises, so that no outcome can be lost."""
        index = attempt.call_index
        try:
            results = await self._provider.send(call)
        except CallThrottledError as error:
            await self._blocking(self._limiter.throttled, error.retry_after_seconds)
            return self._not_accepted(attempt, error, error.retry_after_seconds)
        except CallNotAcceptedError as error:
            return self._not_accepted(attempt, error, None)
        except CallRejectedError as error:
            if self._earlier_attempt_counts(index):
                # An earlier attempt may have been accepted: this refusal says nothing about that one.
                return _Finished(attempt, CallOutcome(index, "unknown", error=f"a later attempt was refused: {error}"))
            receipt = CallReceipt.all_rejected(call.recipient_count, error.code, str(error))
            return _Finished(attempt, CallOutcome(index, "rejected", receipt, str(error)))
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
        if any(result.throttled for result in results):
            await self._blocking(self._limiter.throttled, None)
        return self._answered(attempt, results)

    def _answered(self, attempt: _Attempt, results: tuple[RecipientResult, ...]) -> _Finished:
        index = attempt.call_index
        receipt = in_doubt(results) if index in self._after_unknown else CallReceipt(results)
        if receipt.count("unknown"):
            said = "a later attempt was refused for some of its recipients"
            return _Finished(attempt, CallOutcome(index, "unknown", receipt, said))
        return _Finished(attempt, CallOutcome(index, "accepted" if receipt.count("accepted") else "rejected", receipt))

    def _earlier_attempt_counts(self, call_index: int) -> bool:
        """Whether an earlier attempt may have been accepted although the provider refuses this one as a whole."""
        is_proved = self._records[call_index].receipt is not None
        return call_index in self._after_unknown or (is_proved and call_index in self._once_unknown)

    def _not_accepted(self, attempt: _Attempt, error: Exception, retry_after_seconds: float | None) -> _Finished:
        return self._again(attempt, self._unsent(attempt.call_index, error), error, retry_after_seconds)

    def _unsent(self, call_index: int, error: Exception) -> CallOutcome:
        """This attempt was certainly not accepted; an earlier one may have been, unseen."""
        state: Literal["planned", "unknown"] = "unknown" if call_index in self._once_unknown else "planned"
        return CallOutcome(call_index, state, error=str(error))

    def _unknown(self, attempt: _Attempt, error: Exception) -> _Finished:
        self._note_unknown(self._records[attempt.call_index])
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
