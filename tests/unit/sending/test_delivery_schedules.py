"""Thousands of schedules of deaths, faults, take-overs and pauses in memory, with one invariant at the end.

A process may die before or after any operation on the ledger or the provider; it may be stopped like by
SIGSTOP, be taken over, and go on; a commit may take longer than the lease; an operator's command may die between
two transactions; the provider may throttle, fail before or after accepting, and swallow its answer, or put
recipients off one by one; events may prove an unknown call, a recipient may be suppressed.
After recovery by ordinary means: accepted by the provider = accepted in the ledger, nobody twice.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Literal

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from email_platform.domain.campaigns import OnUnknown
from email_platform.sending.ledger import UnknownDecision
from tests.unit.sending.delivery_world import (
    CALL_ROWS,
    ELIGIBLE,
    FAULTS,
    LEASE_SECONDS,
    Fault,
    Process,
    Trouble,
    World,
)

pytestmark = pytest.mark.slow


class DeliverySchedules(RuleBasedStateMachine):
    world: World

    @initialize(
        honours_keys=st.booleans(),
        on_unknown=st.sampled_from(["hold", "resend"]),
        stubborn=st.booleans(),
        without_message=st.sets(st.integers(0, ELIGIBLE - 1), max_size=3),
        before=st.sampled_from(["nothing", "a run with faults", "a run with faults, sent to its end"]),
        faults=st.lists(st.sampled_from(FAULTS), min_size=1, max_size=6),
    )
    def begin(
        self,
        honours_keys: bool,
        on_unknown: OnUnknown,
        stubborn: bool,
        without_message: set[int],
        before: str,
        faults: list[Fault],
    ) -> None:
        self.world = World(honours_keys, on_unknown, stubborn)
        self.world.unrenderable = {lead for lead in without_message if lead % 2}
        self.world.misfits = without_message - self.world.unrenderable
        if before != "nothing":
            asyncio.run(self.world.run(0, Process(), faults))
        if before == "a run with faults, sent to its end":
            self.world.recover()

    @rule(
        chunk_index=st.integers(0, 1),
        die_at=st.none() | st.integers(1, 60),
        slow_commits=st.frozensets(st.integers(1, 8), max_size=2),
        slow_before=st.booleans(),
        faults=st.lists(st.sampled_from(FAULTS), max_size=12),
    )
    def a_process_works_on_a_chunk(
        self,
        chunk_index: int,
        die_at: int | None,
        slow_commits: frozenset[int],
        slow_before: bool,
        faults: list[Fault],
    ) -> None:
        asyncio.run(self.world.run(chunk_index, Process(die_at, None, slow_commits, slow_before), faults))

    @rule(
        chunk_index=st.integers(0, 1),
        stop_at=st.integers(1, 40),
        slow_commits=st.frozensets(st.integers(1, 8), max_size=1),
        faults=st.lists(st.sampled_from(FAULTS), max_size=6),
        successor_dies_at=st.none() | st.integers(1, 40),
    )
    def a_stopped_process_is_taken_over_and_goes_on(
        self,
        chunk_index: int,
        stop_at: int,
        slow_commits: frozenset[int],
        faults: list[Fault],
        successor_dies_at: int | None,
    ) -> None:
        async def both() -> None:
            orphan = Process(stop_at=stop_at, slow_commits=slow_commits)
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

    @rule(rows=st.integers(1, CALL_ROWS + 2))
    def the_provider_s_limit_changes(self, rows: int) -> None:
        self.world.call_rows = rows

    @rule(rows=st.integers(1, CALL_ROWS))
    def the_provider_finds_calls_too_large(self, rows: int) -> None:
        self.world.largest_call = rows

    @rule(trouble=st.sampled_from(["calls", "entries", None]))
    def the_sender_is_refused_or_mended(self, trouble: Trouble | None) -> None:
        self.world.trouble = trouble

    @rule(lead=st.integers(0, ELIGIBLE - 1), blame=st.sampled_from(["recipient", "unlisted"]))
    def a_recipient_makes_whole_calls_fail(self, lead: int, blame: Literal["recipient", "unlisted"]) -> None:
        if lead not in self.world.log.accepted:
            self.world.poison.add(lead)
            self.world.poison_blame = blame

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

    @rule(dies_judging_at=st.none() | st.integers(1, 12))
    def a_run_sends_everything_and_judges(self, dies_judging_at: int | None) -> None:
        self.world.time.now += timedelta(seconds=LEASE_SECONDS + 1)
        self.world.recover(Process(die_at=dies_judging_at))

    @rule(leads=st.sets(st.integers(0, ELIGIBLE - 1), min_size=1), die_at=st.none() | st.integers(1, 40))
    def events_come_in(self, leads: set[int], die_at: int | None) -> None:
        if die_at is not None:
            self.world.prove(leads, False, Process(die_at=die_at))
        self.world.prove(leads, False)

    @rule(lead=st.integers(0, ELIGIBLE - 1), following=st.sampled_from([0, 1, 2, 11]))
    def recipients_are_suppressed(self, lead: int, following: int) -> None:
        for one in range(lead, min(lead + following + 1, ELIGIBLE)):
            self.world.suppress(one)

    @rule(
        decision=st.sampled_from(["abandon", "resend"]),
        chunk_index=st.none() | st.integers(0, 1),
        die_at=st.none() | st.integers(1, 40),
    )
    def an_operator_decides(self, decision: UnknownDecision, chunk_index: int | None, die_at: int | None) -> None:
        if die_at is not None:
            self.world.decide(decision, chunk_index, Process(die_at=die_at))
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
    max_examples=500, stateful_step_count=8, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
