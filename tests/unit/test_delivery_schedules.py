"""Thousands of schedules of deaths, faults, take-overs and pauses in memory, with one invariant at the end.

A process may die before or after any operation on the ledger or the provider; it may be stopped like by
SIGSTOP, be taken over, and go on; the provider may throttle, fail before or after accepting, and swallow its
answer; recipients are suppressed meanwhile. After recovery by ordinary means: accepted by the provider =
accepted in the ledger, nobody twice, and nobody whose suppression came before their call's intent.
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

from email_platform.adapters.in_memory_ledger import InMemoryCallLedger
from email_platform.campaigns import CampaignContent, OnUnknown, Sender
from email_platform.delivery import ChunkDelivery, DeliveryPolicy
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
from email_platform.identity import call_id, message_id
from email_platform.ledger import LeftOut
from email_platform.manifest import ELIGIBLE_SCHEMA, Manifest
from email_platform.ports import BulkCall, EncodedCall, ProviderLimits, Recipient, RecipientResult
from email_platform.retry import RetryPolicy
from email_platform.staging import delivery_table

CAMPAIGN = 7
ELIGIBLE, CHUNK_ROWS, CALL_ROWS, CONNECTIONS = 23, 12, 3, 3
LEASE_SECONDS = 20.0

Fault = Literal["none", "throttled", "not_accepted", "rejected", "refused", "lost_before", "lost_after", "short"]
FAULTS: list[Fault] = ["none", "refused", "throttled", "not_accepted", "rejected", "lost_before", "lost_after"]
BAD_ADDRESSES = {4, 5, 13}  # refused whenever they are tried


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
    accepted: Counter[int] = field(default_factory=Counter)
    answers: dict[UUID, tuple[bytes, tuple[RecipientResult, ...]]] = field(default_factory=dict)

    def take(self, call: EncodedCall) -> tuple[RecipientResult, ...]:
        if self.honours_keys and call.call_id in self.answers:
            body, answer = self.answers[call.call_id]
            assert body == call.body, "a key was used again with other bytes"
            return answer
        leads = orjson.loads(call.body)
        for lead in leads:
            if lead not in BAD_ADDRESSES:
                self.accepted[lead] += 1
        answer = tuple(
            RecipientResult("rejected", "", "Bad", "bad address")
            if lead in BAD_ADDRESSES
            else RecipientResult("accepted", f"p-{lead}")
            for lead in leads
        )
        self.answers[call.call_id] = (call.body, answer)
        return answer


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
        if self.operations == self.stop_at:
            self.stopped.set()
            await self.resume.wait()
        result = function(*arguments)
        self.step()
        return result


class FaultyProvider:
    name = "fake"

    def __init__(self, log: ProviderLog, process: Process, faults: list[Fault]) -> None:
        self._log, self._process, self._faults = log, process, faults

    @property
    def limits(self) -> ProviderLimits:
        return ProviderLimits(CALL_ROWS, self._log.honours_keys, 86_400 if self._log.honours_keys else 0)

    def encode(self, call: BulkCall) -> EncodedCall:
        return EncodedCall(call.call_id, orjson.dumps([one.lead_id for one in call.recipients]), len(call.recipients))

    async def send(self, call: EncodedCall) -> tuple[RecipientResult, ...]:
        self._process.step()
        fault = self._faults.pop(0) if self._faults else "none"
        await asyncio.sleep(0)
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
        answer = self._log.take(call)
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

    def __init__(self, honours_keys: bool, on_unknown: OnUnknown) -> None:
        self.time = Time()
        self.status = "sending"
        self.manifest = manifest_of(on_unknown)
        self.ledger = InMemoryCallLedger(self.time.clock, LEASE_SECONDS, lambda _: self.status)
        self.ledger.add_chunks(CAMPAIGN, self.manifest.chunk_count)
        self.log = ProviderLog(honours_keys)
        self.suppressed: set[int] = set()
        self.never_to_be_mailed: set[int] = set()
        self.holders = 0
        self.attempts_without_answer = 0

    def suppress(self, lead: int) -> None:
        """From now on; whose call has an intent already may get its repeat, which must have the same bytes."""
        chunk_index, position = divmod(lead, CHUNK_ROWS)
        records = {record.call_index: record for record in self.ledger.calls(CAMPAIGN, chunk_index)}
        record = records.get(position // CALL_ROWS)
        self.suppressed.add(lead)
        if record is None or record.state == "planned":
            self.never_to_be_mailed.add(lead)

    def delivery(self, chunk_index: int, process: Process, faults: list[Fault]) -> ChunkDelivery:
        self.holders += 1
        self.attempts_without_answer += sum(fault in ("lost_before", "lost_after", "short") for fault in faults)
        first = chunk_index * CHUNK_ROWS

        def left_out_of(spans: Sequence[tuple[int, int]]) -> Sequence[LeftOut]:
            return [
                {place: "complaint" for place in range(count) if first + offset + place in self.suppressed}
                for offset, count in spans
            ]

        def build_call(offset: int, count: int, left_out: LeftOut) -> BulkCall:
            leads = [first + offset + place for place in range(count) if place not in left_out]
            recipients = tuple(
                Recipient(lead, message_id(CAMPAIGN, lead), f"{lead}@example.com", "s", "h", "t", {}) for lead in leads
            )
            return BulkCall(
                call_id(CAMPAIGN, chunk_index, offset // CALL_ROWS), CAMPAIGN, "f@e.com", "F", None, recipients, {}
            )

        return ChunkDelivery(
            self.manifest,
            chunk_index,
            holder=f"process-{self.holders}",
            ledger=self.ledger,
            provider=FaultyProvider(self.log, process, faults),
            build_call=build_call,
            left_out_of=left_out_of,
            clock=self.time.clock,
            policy=DeliveryPolicy(
                connections=CONNECTIONS,
                lease_seconds=LEASE_SECONDS,
                lease_wait_seconds=LEASE_SECONDS * 3,
                retry=RetryPolicy(attempts=4, base_seconds=0.1, ceiling_seconds=1.0),
            ),
            monotonic=self.time.monotonic,
            sleep=self.time.sleep,
            random=Random(1),
            blocking=process.blocking,
        )

    async def run(self, chunk_index: int, process: Process, faults: list[Fault]) -> str:
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
        self.refused_later: set[int] = set()
        for chunk_index in range(self.manifest.chunk_count):
            for record in self.ledger.calls(CAMPAIGN, chunk_index):
                for offset in range(record.recipient_count):
                    lead = record.first_position + offset
                    assert lead not in told
                    if record.error and "a later attempt was refused" in record.error:
                        self.refused_later.add(lead)
                    unanswered = "rejected" if offset in record.left_out else record.state
                    told[lead] = record.receipt.results[offset].status if record.receipt else unanswered
        assert set(told) == set(range(ELIGIBLE))
        accepted_in_ledger = {lead for lead, status in told.items() if status == "accepted"}
        unknown = {lead for lead, status in told.items() if status == "unknown"}
        assert not self.never_to_be_mailed & set(self.log.accepted), "somebody was mailed after their suppression"
        assert all(told[lead] == "rejected" for lead in self.never_to_be_mailed)
        assert told_counts(told) == (totals.accepted, totals.rejected, totals.unknown, totals.abandoned)
        if self.log.honours_keys or self.manifest.on_unknown == "hold":
            assert max(self.log.accepted.values(), default=0) <= 1, "somebody was mailed twice"
        assert accepted_in_ledger <= set(self.log.accepted), "the ledger claims what the provider never accepted"
        assert set(self.log.accepted) - accepted_in_ledger <= unknown, "an acceptance is missing from the ledger"
        if self.log.honours_keys:
            assert not unknown
        elif self.manifest.on_unknown == "resend":
            assert unknown <= self.refused_later
        self.check_staged(told)

    def check_staged(self, told: dict[int, str]) -> None:
        staged: dict[int, str] = {}
        for chunk_index in range(self.manifest.chunk_count):
            rows = self.manifest.chunk_size_rows(chunk_index)
            first = chunk_index * CHUNK_ROWS
            recipients = pa.Table.from_pylist(
                [
                    {
                        "position": first + n,
                        "lead_id": first + n,
                        "email": f"{first + n}@example.com",
                        "attributes": "{}",
                    }
                    for n in range(rows)
                ],
                schema=ELIGIBLE_SCHEMA,
            )
            records = self.ledger.calls(CAMPAIGN, chunk_index)
            table = delivery_table(self.manifest, chunk_index, recipients, records)
            staged |= dict(zip(table["lead_id"].to_pylist(), table["status"].to_pylist(), strict=True))
        assert staged == told


def told_counts(told: dict[int, str]) -> tuple[int, ...]:
    counts = Counter(told.values())
    return tuple(counts[status] for status in ("accepted", "rejected", "unknown", "abandoned"))


class DeliverySchedules(RuleBasedStateMachine):
    world: World

    @initialize(honours_keys=st.booleans(), on_unknown=st.sampled_from(["hold", "resend"]))
    def begin(self, honours_keys: bool, on_unknown: OnUnknown) -> None:
        self.world = World(honours_keys, on_unknown)

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
            orphan.resume.set()
            await task
            stopped.cancel()

        asyncio.run(both())

    @rule(seconds=st.sampled_from([1, 21, 3_600]))
    def time_passes(self, seconds: int) -> None:
        self.world.time.now += timedelta(seconds=seconds)

    @rule(lead=st.integers(0, ELIGIBLE - 1), following=st.sampled_from([0, 1, 2, 11]))
    def recipients_are_suppressed(self, lead: int, following: int) -> None:
        for one in range(lead, min(lead + following + 1, ELIGIBLE)):
            self.world.suppress(one)

    @precondition(lambda self: self.world.status == "sending")
    @rule()
    def an_operator_pauses(self) -> None:
        self.world.status = "paused"

    @precondition(lambda self: self.world.status == "paused")
    @rule()
    def an_operator_resumes(self) -> None:
        self.world.status = "sending"

    @invariant()
    def nobody_is_mailed_twice(self) -> None:
        world = getattr(self, "world", None)
        if world and (world.log.honours_keys or world.manifest.on_unknown == "hold"):
            assert max(world.log.accepted.values(), default=0) <= 1

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


@pytest.mark.parametrize("honours_keys", [True, False])
@pytest.mark.parametrize("die_at", range(1, 70))
def test_a_death_at_any_operation_loses_nobody_and_repeats_nobody(honours_keys: bool, die_at: int) -> None:
    world = World(honours_keys, "hold")
    asyncio.run(world.run(0, Process(die_at=die_at), []))
    world.time.now += timedelta(seconds=LEASE_SECONDS + 1)
    world.recover()
    world.check()
    assert world.ledger.totals(CAMPAIGN).unknown <= CONNECTIONS * CALL_ROWS


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

    def shaky_turn(*arguments: Any) -> None:
        if next(failures):
            raise PartUnavailableError("restarting")
        real_turn(*arguments)

    world.ledger.turn = shaky_turn  # type: ignore[method-assign]
    assert asyncio.run(world.run(0, process, [])) == "finished"
    totals = world.ledger.totals(CAMPAIGN)
    assert (totals.accepted, totals.rejected, totals.unknown) == (CHUNK_ROWS - 2, 2, 0)
