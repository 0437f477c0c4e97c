"""What one delivery does, case by case: deaths, deferrals, suppressions, proofs and refusals."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from email_platform.domain.identity import call_id
from email_platform.errors import PartUnavailableError
from email_platform.sending.ledger import UnknownDecision
from tests.unit.sending.delivery_world import (
    CALL_ROWS,
    CAMPAIGN,
    CHUNK_ROWS,
    CONNECTIONS,
    ELIGIBLE,
    LEASE_SECONDS,
    TRIES,
    Process,
    World,
)


def test_calls_that_an_orphan_never_made_are_made_though_its_successor_finished_the_chunk() -> None:
    # `make chaos SEED=185`: stopped between the commit of its intents and the calls; the successor held them.
    world = World(False, "hold")
    orphan = Process(stop_at=10)  # after the first turn's commit

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

    world.ledger.turn = shaky_turn  # type: ignore[method-assign, assignment]
    assert asyncio.run(world.run(0, process, [])) == "finished"
    totals = world.ledger.totals(CAMPAIGN)
    assert (totals.accepted, totals.rejected, totals.unknown) == (CHUNK_ROWS - 2, 2, 0)


def test_recipients_who_are_deferred_one_by_one_go_out_in_full_follow_up_calls() -> None:
    world = World(False, "hold")
    # Calls of 3: {0,1,2} {3,4,5} {6,7,8} {9,10,11}; the odd ones of the first three are deferred: 1, 3, 5, 7.
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


def test_a_recipient_who_is_deferred_at_every_try_is_refused_in_the_end_with_the_provider_s_code() -> None:
    world = World(True, "hold", stubborn=True)
    progress = asyncio.run(world.delivery(0, Process(), []).run())
    assert (progress.accepted, progress.rejected) == (CHUNK_ROWS - 3, 3)
    assert sum(7 in record.offsets_in_chunk(0) for record in world.ledger.calls(CAMPAIGN, 0)) == TRIES
    totals = world.ledger.totals(CAMPAIGN)
    assert (totals.accepted, totals.rejected, totals.planned) == (CHUNK_ROWS - 3, 3, 0)
    (row,) = [row for row in world.staged_rows(0) if row["lead_id"] == 7]
    assert (row["status"], row["error_code"]) == ("rejected", "deferred:TRANSIENT_FAILURE")


def test_recipients_deferred_before_a_death_are_taken_on_by_the_successor() -> None:
    world = World(False, "hold")
    process = Process()

    async def die_when_answers_are_recorded() -> str:
        turn = world.ledger.turn

        def dying_turn(lease: Any, outcomes: Any, intents: Any) -> frozenset[int]:
            process.dead = any(outcome.receipt for outcome in outcomes)
            return turn(lease, outcomes, intents)

        world.ledger.turn = dying_turn  # type: ignore[method-assign]
        result = await world.run(0, process, ["deferred"] * 3)
        world.ledger.turn = turn  # type: ignore[method-assign]
        return result

    assert asyncio.run(die_when_answers_are_recorded()) == "died"
    totals = world.ledger.totals(CAMPAIGN)
    assert totals.planned > 0
    assert world.staged_rows(0, finished=False), "what is known is staged, and the deferred ones have no row yet"
    world.time.now += timedelta(seconds=LEASE_SECONDS + 1)
    world.recover()
    world.check()


def test_a_provider_that_puts_everybody_off_stops_the_chunk_and_leaves_them_to_be_tried_again() -> None:
    world = World(True, "hold")
    world.log.defers_always = frozenset(range(ELIGIBLE))
    assert asyncio.run(world.run(0, Process(), [])) == "ProviderDownError"
    totals = world.ledger.totals(CAMPAIGN)
    assert totals.accepted == totals.rejected == totals.unknown == 0
    world.log.defers_always = frozenset()
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


@pytest.mark.parametrize("slow_before", [True, False])
def test_a_commit_that_outlasts_the_lease_does_not_free_a_call_whose_earlier_attempt_may_have_been_accepted(
    slow_before: bool,
) -> None:
    world = World(True, "hold")
    # The first answer is lost; the commit of its second intent, turn 4 or so, outlasts the lease.
    asyncio.run(world.run(0, Process(die_at=15), ["lost_after", "lost_after", "lost_after"]))
    world.time.now += timedelta(seconds=LEASE_SECONDS + 1)
    slow = Process(slow_commits=frozenset({1}), slow_before=slow_before)
    assert asyncio.run(world.run(0, slow, [])) == "LeaseLostError"
    unknown = [record for record in world.ledger.calls(CAMPAIGN, 0) if record.state in ("intent", "unknown")]
    assert unknown, "none of them is planned: they may have been accepted"
    world.suppress(1)
    world.recover()
    world.check()


@pytest.mark.parametrize("decision", ["abandon", "resend"])
@pytest.mark.parametrize("die_at", range(1, 30))
def test_a_decision_that_dies_between_two_transactions_is_finished_by_the_same_command(
    decision: UnknownDecision, die_at: int
) -> None:
    world = World(False, "hold")
    asyncio.run(world.run(0, Process(), ["lost_after"]))
    world.recover()
    assert world.status == "sent"
    world.decide(decision, None, Process(die_at=die_at))
    world.decide(decision, None)
    assert world.status == ("queued" if decision == "resend" else "sent")
    world.recover()
    world.check()
    assert world.ledger.totals(CAMPAIGN).unknown == 0


@pytest.mark.parametrize("die_at", range(1, 40))
def test_a_pass_over_the_events_that_dies_between_two_transactions_is_made_good_by_the_next(die_at: int) -> None:
    world = World(False, "hold")
    asyncio.run(world.run(0, Process(), ["lost_after"]))
    world.recover()
    world.prove({0, 1, 2}, True, Process(die_at=die_at))
    world.prove({0, 1, 2}, True)
    world.check()
    assert world.ledger.totals(CAMPAIGN).unknown == 0


def test_repeating_a_resend_queues_a_campaign_that_an_earlier_version_left_sent_with_planned_calls() -> None:
    world = World(False, "hold")
    asyncio.run(world.run(0, Process(), ["lost_after"]))
    world.recover()
    world.decide("resend", None)
    world.status = "sent"  # the second of the two transactions that there were
    world.decide("resend", None)
    assert world.status == "queued"
    world.recover()
    world.check()
