"""Thousands of schedules of deaths, faults, take-overs and pauses in memory, with one invariant at the end.

A process may die before or after any operation on the ledger or the provider; it may be stopped like by
SIGSTOP, be taken over, and go on; the provider may throttle, fail before or after accepting, and swallow its
answer, or put recipients off one by one; events may prove an unknown call, a recipient may be suppressed.
After recovery by ordinary means: accepted by the provider = accepted in the ledger, nobody twice.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, Literal
from uuid import UUID

import orjson
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from email_platform.domain.campaigns import CampaignContent, OnUnknown, Sender
from email_platform.domain.identity import call_id, message_id
from email_platform.domain.manifest import ELIGIBLE_SCHEMA, Manifest
from email_platform.domain.message import Skeleton
from email_platform.domain.ports import BulkCall, EncodedCall, ProviderLimits, Recipient, RecipientResult
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
)
from email_platform.sending.chunk_delivery import ChunkDelivery, DeliveryPolicy
from email_platform.sending.evidence import proof_from
from email_platform.sending.ledger import UnknownDecision
from email_platform.sending.retry import RetryPolicy
from email_platform.staging.delivery_objects import delivery_table
from tests.fakes.call_ledger import InMemoryCallLedger

CAMPAIGN = 7
SKELETON = Skeleton(("s",), ("h",), ("t",), {}, 0)
ELIGIBLE, CHUNK_ROWS, CALL_ROWS, CONNECTIONS = 23, 12, 3, 3
LEASE_SECONDS = 20.0

Fault = Literal[
    *("none", "throttled", "not_accepted", "rejected", "refused", "deferred", "lost_before", "lost_after", "short")
]
FAULTS: list[Fault] = [
    *("none", "refused", "throttled", "not_accepted", "rejected", "deferred", "lost_before", "lost_after")
]
BAD_ADDRESSES = {4, 5, 13}  # refused whenever they are tried
STUBBORN = {7, 16}  # put off whenever they are tried, in worlds with stubborn recipients
TRIES = 3


class ProcessDiedError(BaseException):
    """The simulated kill -9: nothing of this process runs any more."""


@dataclass
class Time:
    now: datetime = datetime(2026, 1, 1, tzinfo=UTC)

    def clock(self) -> datetime:
        return self.now

    def monotonic(self) -> float:
        return self.now.timestamp()

    async def sleep(self, seconds: float) -> None:
        self.now += timedelta(seconds=max(seconds, 0.001))
        await asyncio.sleep(0)


@dataclass
class ProviderLog:
    """The provider's own truth: every acceptance by lead, and the answers it remembers by key."""

    honours_keys: bool
    put_off_always: frozenset[int] = frozenset()
    accepted: Counter[int] = field(default_factory=Counter)
    answers: dict[UUID, tuple[bytes, tuple[RecipientResult, ...]]] = field(default_factory=dict)

    def take(self, call: EncodedCall, put_off: Callable[[int], bool]) -> tuple[RecipientResult, ...]:
        if self.honours_keys and call.call_id in self.answers:
            body, answer = self.answers[call.call_id]
            assert body == call.body, "a key was used again with other bytes"
            return answer
        answer = tuple(self._result(lead, put_off(lead)) for lead in orjson.loads(call.body))
        self.answers[call.call_id] = (call.body, answer)
        return answer

    def _result(self, lead: int, put_off: bool) -> RecipientResult:
        if put_off or lead in self.put_off_always:
            return RecipientResult("deferred", "", "TRANSIENT_FAILURE", "not now", throttled=put_off)
        if lead in BAD_ADDRESSES:
            return RecipientResult("rejected", "", "Bad", "bad address")
        self.accepted[lead] += 1
        return RecipientResult("accepted", f"p-{lead}")


@dataclass
class Process:
    """Counts this process's operations and kills or stops it at one of them."""

    die_at: int | None = None
    stop_at: int | None = None
    resume: asyncio.Event = field(default_factory=asyncio.Event)
    stopped: asyncio.Event = field(default_factory=asyncio.Event)
    operations: int = 0
    dead: bool = False

    def step(self) -> None:
        if self.dead:
            raise ProcessDiedError
        self.operations += 1
        if self.operations == self.die_at:
            self.dead = True
            raise ProcessDiedError

    async def blocking(self, function: Callable[..., Any], *arguments: Any) -> Any:
        self.step()
        await self.be_stopped()
        result = function(*arguments)
        self.step()
        await self.be_stopped()
        return result

    async def be_stopped(self) -> None:
        if self.operations == self.stop_at:
            self.stopped.set()
            await self.resume.wait()


class FaultyProvider:
    name = "fake"

    def __init__(self, log: ProviderLog, process: Process, faults: list[Fault], lost: set[int]) -> None:
        self._log, self._process, self._faults, self._lost = log, process, faults, lost

    @property
    def limits(self) -> ProviderLimits:
        return ProviderLimits(CALL_ROWS, self._log.honours_keys, 86_400 if self._log.honours_keys else 0)

    def encode(self, call: BulkCall) -> EncodedCall:
        return EncodedCall(call.call_id, orjson.dumps([one.lead_id for one in call.recipients]), len(call.recipients))

    async def send(self, call: EncodedCall) -> tuple[RecipientResult, ...]:
        self._process.step()
        fault = self._faults.pop(0) if self._faults else "none"
        await asyncio.sleep(0)
        if fault in ("lost_before", "lost_after", "short"):
            self._lost |= set(orjson.loads(call.body))
        match fault:
            case "throttled":
                raise CallThrottledError("slow down", 1.5)
            case "not_accepted":
                raise CallNotAcceptedError("503")
            case "rejected":
                if not (self._log.honours_keys and call.call_id in self._log.answers):
                    raise CallRejectedError("bad request", "400")
            case "refused":
                raise AccountRefusedError("suspended")
            case "lost_before":
                raise CallOutcomeUnknownError("reset")
        answer = self._log.take(call, lambda lead: fault == "deferred" and lead % 2 == 1)
        self._process.step()
        await asyncio.sleep(0)
        if fault == "lost_after":
            raise CallOutcomeUnknownError("read timeout")
        if fault == "short":
            return answer[:-1]
        return answer

    async def aclose(self) -> None:
        return None


def manifest_of(on_unknown: OnUnknown) -> Manifest:
    return Manifest(
        campaign_id=CAMPAIGN,
        manifest_id=UUID(int=1),
        prefix="manifests/campaign=7/1",
        eligible_rows=ELIGIBLE,
        excluded_by_reason={},
        chunk_rows=CHUNK_ROWS,
        call_rows=CALL_ROWS,
        sender=Sender(1, 1, "from@example.com", "From", None, "fake", "default"),
        content=CampaignContent("s", "h", "t"),
        on_unknown=on_unknown,
        frozen_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


class World:
    """One campaign, its ledger, the provider's log, and processes that come and go."""

    def __init__(self, honours_keys: bool, on_unknown: OnUnknown, stubborn: bool = False) -> None:
        self.time = Time()
        self.status = "sending"
        self.manifest = manifest_of(on_unknown)
        self.ledger = InMemoryCallLedger(self.time.clock, LEASE_SECONDS, lambda _: self.status)
        self.ledger.add_chunks(CAMPAIGN, self.manifest.chunk_count)
        self.log = ProviderLog(honours_keys, frozenset(STUBBORN if stubborn else ()))
        self.suppressed: set[int] = set()
        self.never_to_be_mailed: set[int] = set()
        self.once_unknown: set[int] = set()  # recipients of calls that had an attempt without an answer
        self.decided: set[int] = set()  # by an operator: resent, or abandoned
        self.holders = 0

    def suppress(self, lead: int) -> None:
        """From now on; whose call has an intent already may get its repeat, which must have the same bytes."""
        self.suppressed.add(lead)
        chunk_index, offset = divmod(lead, CHUNK_ROWS)
        records = [
            record
            for record in self.ledger.calls(CAMPAIGN, chunk_index)
            if offset in record.offsets_in_chunk(chunk_index * CHUNK_ROWS)
        ]
        if not records or (records[-1].state == "planned" and not records[-1].after_unknown):
            self.never_to_be_mailed.add(lead)

    def delivery(self, chunk_index: int, process: Process, faults: list[Fault]) -> ChunkDelivery:
        self.holders += 1
        first = chunk_index * CHUNK_ROWS

        def build_call(call_index: int, offsets: Sequence[int]) -> BulkCall:
            recipients = tuple(
                Recipient(lead, message_id(CAMPAIGN, lead), f"{lead}@example.com", ())
                for lead in (first + offset for offset in offsets)
            )
            return BulkCall(
                call_id(CAMPAIGN, chunk_index, call_index), CAMPAIGN, "f@e.com", "F", None, SKELETON, recipients, {}
            )

        return ChunkDelivery(
            self.manifest,
            chunk_index,
            holder=f"process-{self.holders}",
            ledger=self.ledger,
            provider=FaultyProvider(self.log, process, faults, self.once_unknown),
            build_call=build_call,
            clock=self.time.clock,
            policy=DeliveryPolicy(
                connections=CONNECTIONS,
                lease_seconds=LEASE_SECONDS,
                lease_wait_seconds=LEASE_SECONDS * 3,
                retry=RetryPolicy(attempts=4, base_seconds=0.1, ceiling_seconds=1.0),
                deferral=RetryPolicy(attempts=TRIES, base_seconds=0.1, ceiling_seconds=1.0),
            ),
            screen=lambda offsets: {o: "complaint" for o in offsets if first + o in self.suppressed},
            monotonic=self.time.monotonic,
            sleep=self.time.sleep,
            random=Random(1),
            blocking=process.blocking,
        )

    async def run(self, chunk_index: int, process: Process, faults: list[Fault]) -> str:
        self.note_unknown()
        delivery = self.delivery(chunk_index, process, faults)
        try:
            await delivery.run()
        except ProcessDiedError:
            return "died"
        except (CampaignStoppedError, LeaseLostError, ChunkBusyError, ProviderDownError, AccountRefusedError) as error:
            return type(error).__name__
        finally:
            await asyncio.gather(*delivery._in_flight, return_exceptions=True)
        return "finished"

    def note_unknown(self) -> set[int]:
        """Remember whose calls have no answer now: a process died at them, or is stopped."""
        found = {
            chunk_index * CHUNK_ROWS + offset
            for chunk_index in range(self.manifest.chunk_count)
            for record in self.ledger.calls(CAMPAIGN, chunk_index)
            if record.state in ("intent", "unknown")
            for offset in record.offsets_in_chunk(chunk_index * CHUNK_ROWS)
        }
        self.once_unknown |= found
        return found

    def decide(self, decision: UnknownDecision, chunk_index: int | None) -> None:
        self.decided |= self.note_unknown()
        self.ledger.decide_unknown(CAMPAIGN, decision, chunk_index)

    def may_be_mailed_twice(self, lead: int) -> bool:
        """Only after an unknown outcome, by the policy resend without keys or by an operator's decision."""
        if lead not in self.once_unknown:
            return False
        return lead in self.decided or (self.manifest.on_unknown == "resend" and not self.log.honours_keys)

    def check_nobody_is_mailed_twice(self) -> None:
        twice = [lead for lead, times in self.log.accepted.items() if times > 1 and not self.may_be_mailed_twice(lead)]
        assert not twice, f"mailed twice: {twice}"

    def prove(self, leads: set[int], whole_calls: bool) -> None:
        """Events about messages that the provider accepted come in."""
        evidence = {message_id(CAMPAIGN, lead): f"e-{lead}" for lead in leads & set(self.log.accepted)}
        proofs = []
        for chunk_index, record in self.ledger.unknown_calls(CAMPAIGN):
            first = chunk_index * CHUNK_ROWS
            messages = [message_id(CAMPAIGN, first + offset) for offset in record.offsets_in_chunk(first)]
            proof = proof_from(chunk_index, record, messages, evidence, whole_calls=whole_calls)
            if proof is not None:
                proofs.append(proof)
        assert self.ledger.prove(CAMPAIGN, proofs) == len(proofs)
        assert self.ledger.prove(CAMPAIGN, proofs) == 0, "a proof counts once"

    def recover(self) -> None:
        """What the reaper does: run every chunk again until it is finished, with a provider in health."""
        self.status = "sending"
        for chunk_index in range(self.manifest.chunk_count):
            assert asyncio.run(self.run(chunk_index, Process(), [])) == "finished"

    def check(self) -> None:
        totals = self.ledger.totals(CAMPAIGN)
        assert totals.accepted + totals.rejected + totals.unknown + totals.abandoned == ELIGIBLE
        assert totals.planned == totals.in_call == 0
        assert totals.chunks_finished == self.manifest.chunk_count
        told: dict[int, str] = {}
        tries: Counter[int] = Counter()
        given_up: dict[int, str] = {}
        for chunk_index in range(self.manifest.chunk_count):
            first = chunk_index * CHUNK_ROWS
            for record in self.ledger.calls(CAMPAIGN, chunk_index):
                for nth, offset in enumerate(record.offsets_in_chunk(first)):
                    lead = first + offset
                    assert told.get(lead, "deferred") == "deferred", "sent again after an answer"
                    status = record.receipt.results[nth].status if record.receipt else record.state
                    tries[lead] += status == "deferred"
                    told[lead] = record.state if status == "unknown" else status
                    given_up[lead] = "unknown" if record.after_unknown else "rejected"
        assert set(told) == set(range(ELIGIBLE))
        assert max(tries.values(), default=0) <= TRIES + 1  # an operator's decision to resend counts as one
        told = {lead: given_up[lead] if status == "deferred" else status for lead, status in told.items()}
        accepted_in_ledger = {lead for lead, status in told.items() if status == "accepted"}
        unknown = {lead for lead, status in told.items() if status == "unknown"}
        abandoned = {lead for lead, status in told.items() if status == "abandoned"}
        self.check_nobody_is_mailed_twice()
        assert not self.never_to_be_mailed & set(self.log.accepted), "somebody was mailed after their suppression"
        assert all(told[lead] == "rejected" for lead in self.never_to_be_mailed)
        assert accepted_in_ledger <= set(self.log.accepted), "the ledger claims what the provider never accepted"
        assert set(self.log.accepted) - accepted_in_ledger <= unknown | abandoned, "an acceptance is missing"
        assert unknown <= self.once_unknown
        assert abandoned <= self.decided
        assert Counter(told.values()) == +Counter(
            accepted=totals.accepted, rejected=totals.rejected, unknown=totals.unknown, abandoned=totals.abandoned
        )
        if self.log.honours_keys:
            assert unknown <= self.decided
        self.check_staged(told)

    def check_staged(self, told: dict[int, str]) -> None:
        rows = [row for chunk_index in range(self.manifest.chunk_count) for row in self.staged_rows(chunk_index)]
        assert [row["lead_id"] for row in rows] == list(range(ELIGIBLE))
        assert {row["lead_id"]: row["status"] for row in rows} == told

    def staged_rows(self, chunk_index: int, *, finished: bool = True) -> list[dict[str, Any]]:
        first = chunk_index * CHUNK_ROWS
        recipients = pa.Table.from_pylist(
            [
                {"position": lead, "lead_id": lead, "email": f"{lead}@example.com", "attributes": "{}"}
                for lead in range(first, first + self.manifest.chunk_size_rows(chunk_index))
            ],
            schema=ELIGIBLE_SCHEMA,
        )
        records = self.ledger.calls(CAMPAIGN, chunk_index)
        return delivery_table(self.manifest, chunk_index, recipients, records, finished=finished).to_pylist()


class DeliverySchedules(RuleBasedStateMachine):
    world: World

    @initialize(honours_keys=st.booleans(), on_unknown=st.sampled_from(["hold", "resend"]), stubborn=st.booleans())
    def begin(self, honours_keys: bool, on_unknown: OnUnknown, stubborn: bool) -> None:
        self.world = World(honours_keys, on_unknown, stubborn)

    @rule(
        chunk_index=st.integers(0, 1),
        die_at=st.none() | st.integers(1, 60),
        faults=st.lists(st.sampled_from(FAULTS), max_size=12),
    )
    def a_process_works_on_a_chunk(self, chunk_index: int, die_at: int | None, faults: list[Fault]) -> None:
        asyncio.run(self.world.run(chunk_index, Process(die_at=die_at), faults))

    @rule(
        chunk_index=st.integers(0, 1),
        stop_at=st.integers(1, 40),
        faults=st.lists(st.sampled_from(FAULTS), max_size=6),
        successor_dies_at=st.none() | st.integers(1, 40),
    )
    def a_stopped_process_is_taken_over_and_goes_on(
        self, chunk_index: int, stop_at: int, faults: list[Fault], successor_dies_at: int | None
    ) -> None:
        async def both() -> None:
            orphan = Process(stop_at=stop_at)
            task = asyncio.create_task(self.world.run(chunk_index, orphan, faults))
            stopped = asyncio.create_task(orphan.stopped.wait())
            await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
            self.world.time.now += timedelta(seconds=LEASE_SECONDS + 1)
            await self.world.run(chunk_index, Process(die_at=successor_dies_at), [])
            self.world.note_unknown()
            orphan.resume.set()
            await task
            stopped.cancel()

        asyncio.run(both())

    @rule(seconds=st.sampled_from([1, 21, 3_600]))
    def time_passes(self, seconds: int) -> None:
        self.world.time.now += timedelta(seconds=seconds)

    @precondition(lambda self: self.world.status == "sending")
    @rule()
    def an_operator_pauses(self) -> None:
        self.world.status = "paused"

    @precondition(lambda self: self.world.status == "paused")
    @rule()
    def an_operator_resumes(self) -> None:
        self.world.status = "sending"

    @rule(leads=st.sets(st.integers(0, ELIGIBLE - 1), min_size=1))
    def events_come_in(self, leads: set[int]) -> None:
        self.world.prove(leads, whole_calls=False)

    @rule(lead=st.integers(0, ELIGIBLE - 1), following=st.sampled_from([0, 1, 2, 11]))
    def recipients_are_suppressed(self, lead: int, following: int) -> None:
        for one in range(lead, min(lead + following + 1, ELIGIBLE)):
            self.world.suppress(one)

    @rule(decision=st.sampled_from(["abandon", "resend"]), chunk_index=st.none() | st.integers(0, 1))
    def an_operator_decides(self, decision: UnknownDecision, chunk_index: int | None) -> None:
        self.world.decide(decision, chunk_index)

    @invariant()
    def nobody_is_mailed_twice(self) -> None:
        world = getattr(self, "world", None)
        if world:
            world.note_unknown()
            world.check_nobody_is_mailed_twice()

    def teardown(self) -> None:
        world = getattr(self, "world", None)
        if world is None:
            return
        world.time.now += timedelta(seconds=LEASE_SECONDS + 1)
        world.recover()
        world.check()


TestDeliverySchedules = DeliverySchedules.TestCase
TestDeliverySchedules.settings = settings(
    max_examples=1000, stateful_step_count=8, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


def test_calls_that_an_orphan_never_made_are_made_though_its_successor_finished_the_chunk() -> None:
    # `make chaos SEED=185`: stopped between the commit of its intents and the calls; the successor held them.
    world = World(False, "hold")
    orphan = Process(stop_at=8)  # after the first turn's commit

    async def both() -> None:
        task = asyncio.create_task(world.run(0, orphan, []))
        await orphan.stopped.wait()
        world.time.now += timedelta(seconds=LEASE_SECONDS + 1)
        assert await world.run(0, Process(), []) == "finished"
        assert world.ledger.totals(CAMPAIGN).unknown == CONNECTIONS * CALL_ROWS
        orphan.resume.set()
        assert await task == "LeaseLostError"

    asyncio.run(both())
    totals = world.ledger.totals(CAMPAIGN)
    assert (totals.unknown, totals.planned, totals.chunks_finished) == (0, CONNECTIONS * CALL_ROWS, 0)
    world.recover()
    world.check()
    assert world.ledger.totals(CAMPAIGN).unknown == 0


@pytest.mark.parametrize("honours_keys", [True, False])
@pytest.mark.parametrize("die_at", range(1, 70))
def test_a_death_at_any_operation_loses_nobody_and_repeats_nobody(honours_keys: bool, die_at: int) -> None:
    world = World(honours_keys, "hold")
    asyncio.run(world.run(0, Process(die_at=die_at), []))
    world.time.now += timedelta(seconds=LEASE_SECONDS + 1)
    world.recover()
    world.check()
    assert world.ledger.totals(CAMPAIGN).unknown <= CONNECTIONS * CALL_ROWS


def test_a_finished_chunk_sends_nothing_when_run_again() -> None:
    world = World(True, "hold")
    world.recover()
    before = world.log.accepted.copy()
    progress = asyncio.run(world.delivery(0, Process(), []).run())
    assert progress.sent_calls == 0
    assert progress.accepted + progress.rejected == CHUNK_ROWS
    assert world.log.accepted == before


def test_ledger_writes_are_at_most_two_per_call() -> None:
    world = World(True, "hold")
    world.recover()
    calls = sum(len(world.ledger.calls(CAMPAIGN, chunk)) for chunk in range(world.manifest.chunk_count))
    assert world.ledger.row_writes == 2 * calls


def test_a_living_holder_is_not_taken_over() -> None:
    world = World(True, "hold")
    world.ledger.take_lease(CAMPAIGN, 0, "somebody else")

    async def keep_alive_while_waiting() -> str:
        task = asyncio.create_task(world.run(0, Process(), []))
        while not task.done():
            lease = world.ledger.take_lease(CAMPAIGN, 0, "somebody else")
            assert lease is not None
            await asyncio.sleep(0)
        return task.result()

    assert asyncio.run(keep_alive_while_waiting()) == "ChunkBusyError"
    assert not world.log.accepted


def test_an_account_that_is_refused_stops_the_chunk_and_leaves_nothing_unknown() -> None:
    world = World(False, "hold")
    assert asyncio.run(world.run(0, Process(), ["none", "refused"])) == "AccountRefusedError"
    totals = world.ledger.totals(CAMPAIGN)
    assert totals.unknown == totals.in_call == 0
    assert totals.planned == CALL_ROWS
    world.recover()
    world.check()


def test_a_provider_that_takes_nothing_ends_in_provider_down_after_bounded_attempts() -> None:
    world = World(True, "hold")
    assert asyncio.run(world.run(0, Process(), ["not_accepted"] * 100)) == "ProviderDownError"
    assert max(record.attempts for record in world.ledger.calls(CAMPAIGN, 0)) <= 4
    assert not world.log.accepted


def test_an_answer_with_too_few_results_is_unknown_and_held() -> None:
    world = World(False, "hold")
    asyncio.run(world.run(0, Process(), ["short"]))
    world.recover()
    world.check()
    assert world.ledger.totals(CAMPAIGN).unknown == CALL_ROWS


def test_a_ledger_that_is_away_for_a_while_costs_no_knowledge() -> None:
    world = World(False, "hold")
    process = Process()
    real_turn = world.ledger.turn
    failures = iter([False, True, True, False, True] + [False] * 100)

    def shaky_turn(*arguments: Any) -> frozenset[int]:
        if next(failures):
            raise PartUnavailableError("restarting")
        return real_turn(*arguments)

    world.ledger.turn = shaky_turn  # type: ignore[method-assign]
    assert asyncio.run(world.run(0, process, [])) == "finished"
    totals = world.ledger.totals(CAMPAIGN)
    assert (totals.accepted, totals.rejected, totals.unknown) == (CHUNK_ROWS - 2, 2, 0)


def test_recipients_who_are_put_off_one_by_one_go_out_in_full_follow_up_calls() -> None:
    world = World(False, "hold")
    # Calls of 3: {0,1,2} {3,4,5} {6,7,8} {9,10,11}; the odd ones of the first three are put off: 1, 3, 5, 7.
    progress = asyncio.run(world.delivery(0, Process(), ["deferred"] * 3).run())
    assert (progress.accepted, progress.rejected, progress.unknown) == (CHUNK_ROWS - 2, 2, 0)
    assert progress.deferred_recipients == 4
    follow_ups = [record for record in world.ledger.calls(CAMPAIGN, 0) if record.follows]
    assert [record.recipient_count for record in follow_ups] == [3, 1]
    assert sorted(offset for record in follow_ups for offset in record.offsets_in_chunk(0)) == [1, 3, 5, 7]
    assert [record.call_index for record in follow_ups] == [4, 5]
    assert [record.call_id for record in follow_ups] == [call_id(CAMPAIGN, 0, 4), call_id(CAMPAIGN, 0, 5)]
    assert world.ledger.row_writes == 2 * 6, "two rows a call, whatever its recipients"
    world.recover()
    world.check()


def test_a_recipient_who_is_put_off_at_every_try_is_refused_in_the_end_with_the_provider_s_code() -> None:
    world = World(True, "hold", stubborn=True)
    progress = asyncio.run(world.delivery(0, Process(), []).run())
    assert (progress.accepted, progress.rejected) == (CHUNK_ROWS - 3, 3)
    assert sum(7 in record.offsets_in_chunk(0) for record in world.ledger.calls(CAMPAIGN, 0)) == TRIES
    totals = world.ledger.totals(CAMPAIGN)
    assert (totals.accepted, totals.rejected, totals.planned) == (CHUNK_ROWS - 3, 3, 0)
    (row,) = [row for row in world.staged_rows(0) if row["lead_id"] == 7]
    assert (row["status"], row["error_code"]) == ("rejected", "deferred:TRANSIENT_FAILURE")


def test_recipients_put_off_before_a_death_are_taken_on_by_the_successor() -> None:
    world = World(False, "hold")
    process = Process()

    async def die_when_answers_are_recorded() -> str:
        turn = world.ledger.turn

        def dying_turn(lease: Any, outcomes: Any, intents: Any) -> frozenset[int]:
            process.dead = any(outcome.receipt for outcome in outcomes)
            return turn(lease, outcomes, intents)

        world.ledger.turn = dying_turn  # type: ignore[method-assign]
        told = await world.run(0, process, ["deferred"] * 3)
        world.ledger.turn = turn  # type: ignore[method-assign]
        return told

    assert asyncio.run(die_when_answers_are_recorded()) == "died"
    totals = world.ledger.totals(CAMPAIGN)
    assert totals.planned > 0
    assert world.staged_rows(0, finished=False), "what is known is staged, and the deferred ones have no row yet"
    world.time.now += timedelta(seconds=LEASE_SECONDS + 1)
    world.recover()
    world.check()


def test_a_provider_that_puts_everybody_off_stops_the_chunk_and_leaves_them_to_be_tried_again() -> None:
    world = World(True, "hold")
    world.log.put_off_always = frozenset(range(ELIGIBLE))
    assert asyncio.run(world.run(0, Process(), [])) == "ProviderDownError"
    totals = world.ledger.totals(CAMPAIGN)
    assert totals.accepted == totals.rejected == totals.unknown == 0
    world.log.put_off_always = frozenset()
    world.recover()
    world.check()


def test_whoever_was_suppressed_since_the_freeze_is_left_out_and_stands_as_refused() -> None:
    world = World(True, "hold")
    for lead in (0, 1, 2, 7):  # a whole call, and one of another
        world.suppress(lead)
    progress = asyncio.run(world.delivery(0, Process(), []).run())
    assert (progress.accepted, progress.rejected) == (CHUNK_ROWS - 6, 6)
    assert not world.suppressed & set(world.log.accepted)
    codes = {row["lead_id"]: row["error_code"] for row in world.staged_rows(0)}
    assert {codes[lead] for lead in world.suppressed} == {"suppressed"}
    assert world.ledger.row_writes == 2 * 3 + 2, "one row for the refused of a call"
    world.recover()
    world.check()


def test_a_call_tried_in_vain_goes_out_under_another_key_when_a_recipient_was_suppressed_meanwhile() -> None:
    world = World(True, "hold")
    assert asyncio.run(world.run(0, Process(), ["refused"])) == "AccountRefusedError"
    world.suppress(1)
    world.recover()
    world.check()
    (tried,) = [record for record in world.ledger.calls(CAMPAIGN, 0) if record.call_index == 0]
    assert (tried.state, tried.offsets) == ("rejected", (1,))
    assert call_id(CAMPAIGN, 0, 0) not in world.log.answers


@pytest.mark.parametrize("honours_keys", [True, False])
@pytest.mark.parametrize("die_at", range(1, 70, 3))
def test_recipients_suppressed_between_a_death_and_the_recovery_are_left_out_unless_their_call_was_intended(
    honours_keys: bool, die_at: int
) -> None:
    world = World(honours_keys, "hold")
    world.suppress(0)
    asyncio.run(world.run(0, Process(die_at=die_at), ["lost_after"]))
    for lead in (1, *range(CALL_ROWS, 2 * CALL_ROWS), ELIGIBLE - 1):  # the whole second call among them
        world.suppress(lead)
    world.time.now += timedelta(seconds=LEASE_SECONDS + 1)
    world.recover()
    world.check()
    assert {0, ELIGIBLE - 1} <= world.never_to_be_mailed


def test_a_call_of_suppressed_recipients_alone_is_receipted_and_never_made() -> None:
    world = World(False, "hold")
    for lead in range(CHUNK_ROWS):
        world.suppress(lead)
    progress = asyncio.run(world.delivery(0, Process(), []).run())
    assert (progress.rejected, progress.sent_recipients) == (CHUNK_ROWS, 0)
    assert not world.log.answers
    [record] = [one for one in world.ledger.calls(CAMPAIGN, 0) if one.call_index == 0]
    assert record.receipt is not None
    assert {(one.error_code, one.status) for one in record.receipt.results} == {("suppressed", "rejected")}


def test_a_repeat_of_an_unknown_call_has_the_same_bytes_though_a_recipient_was_suppressed_meanwhile() -> None:
    world = World(True, "hold")
    world.suppress(1)
    process = Process()
    asyncio.run(world.run(0, process, ["lost_after", "lost_after", "lost_after", "lost_after", "lost_after"]))
    world.suppress(2)
    world.recover()  # the provider's log asserts that a key comes with the same bytes
    world.check()
    assert world.log.accepted[2] == 1
    assert 1 not in world.log.accepted


@pytest.mark.parametrize(("whole_calls", "unknown"), [(True, 0), (False, 2)])
def test_one_proved_recipient_proves_the_call_only_where_the_provider_accepts_whole_calls(
    whole_calls: bool, unknown: int
) -> None:
    world = World(False, "hold")
    asyncio.run(world.run(0, Process(), ["none", "none", "lost_after"]))
    world.prove({6}, whole_calls=whole_calls)
    totals = world.ledger.totals(CAMPAIGN)
    assert totals.unknown == unknown
    assert totals.accepted == CHUNK_ROWS - 2 - unknown
    world.recover()
    world.check()


def test_of_a_partly_proved_call_only_the_others_are_sent_again_by_a_decision() -> None:
    world = World(False, "hold")
    asyncio.run(world.run(0, Process(), ["none", "none", "lost_after"]))
    world.prove({6}, whole_calls=False)
    world.decide("resend", None)
    world.recover()
    world.check()
    assert world.log.accepted[6] == 1
    assert world.log.accepted[7] == world.log.accepted[8] == 2, "an operator accepted that they may get two"
    assert world.ledger.totals(CAMPAIGN).unknown == 0


def test_a_refusal_after_an_unknown_attempt_does_not_pass_for_the_whole_truth() -> None:
    world = World(False, "resend")
    assert asyncio.run(world.run(0, Process(), ["lost_after", "none", "none", "none", "rejected"])) == "finished"
    assert world.ledger.totals(CAMPAIGN).unknown == CALL_ROWS, "the first attempt was accepted, unseen"
    world.recover()
    world.check()
