"""Whose fault a refusal is: split until the culprit stands alone, booked on nobody where it would take everybody."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from datetime import timedelta
from math import log2
from typing import Literal

import pytest

from email_platform.runs.retry import retry_rejected
from tests.unit.sending.delivery_world import (
    BAD_ADDRESSES,
    CAMPAIGN,
    CHUNK_ROWS,
    ELIGIBLE,
    LEASE_SECONDS,
    STUBBORN,
    Fault,
    Process,
    ProcessDiedError,
    Trouble,
    World,
)

Blame = Literal["recipient", "unlisted"]


def statuses(world: World) -> Counter[str]:
    totals = world.ledger.totals(CAMPAIGN)
    return Counter(accepted=totals.accepted, rejected=totals.rejected, unknown=totals.unknown)


@pytest.mark.parametrize("blame", ["recipient", "unlisted"])
@pytest.mark.parametrize("bad", [7, 499, 500, 999])
def test_one_bad_address_among_a_thousand_costs_about_two_calls_a_halving(blame: Blame, bad: int) -> None:
    world = World(False, "hold", eligible=1000, chunk_rows=1000, call_rows=1000)
    world.poison, world.poison_blame = {bad}, blame
    world.recover()
    assert world.status == "sent"
    assert world.log.accepted.keys() == set(range(1000)) - BAD_ADDRESSES - {bad}
    assert statuses(world) == Counter(accepted=1000 - len(BAD_ADDRESSES) - 1, rejected=len(BAD_ADDRESSES) + 1)
    assert len(world.calls_made) - 1 <= 2 * log2(1000) + 4
    world.check()


@pytest.mark.parametrize("blame", ["recipient", "unlisted"])
def test_many_bad_addresses_are_found_and_stop_nothing(blame: Blame) -> None:
    world = World(False, "hold", eligible=400, chunk_rows=400, call_rows=100)
    world.poison, world.poison_blame = set(range(6, 400, 9)), blame
    world.recover()
    assert world.status == "sent"
    assert world.log.accepted.keys() == set(range(400)) - BAD_ADDRESSES - world.poison
    world.check()


@pytest.mark.parametrize("honours_keys", [True, False])
@pytest.mark.parametrize("die_at", range(1, 90, 2))
def test_a_death_in_the_middle_of_a_split_loses_nobody_and_repeats_nobody(honours_keys: bool, die_at: int) -> None:
    world = World(honours_keys, "hold", eligible=40, chunk_rows=20, call_rows=20)
    world.poison = {7, 11}
    asyncio.run(world.run(0, Process(die_at=die_at), []))
    world.time.now += timedelta(seconds=LEASE_SECONDS + 1)
    world.recover()
    world.check()
    assert max(world.log.accepted.values()) == 1


def test_a_split_is_remembered_by_the_ledger_and_not_begun_again_after_a_death() -> None:
    world = World(True, "hold", eligible=64, chunk_rows=64, call_rows=64)
    world.poison = {33}
    process = Process()
    turn = world.ledger.turn

    def dying_turn(lease, outcomes, intents):  # type: ignore[no-untyped-def]
        process.dead = len(world.calls_made) >= 5
        return turn(lease, outcomes, intents)

    world.ledger.turn = dying_turn  # type: ignore[method-assign]
    assert asyncio.run(world.run(0, process, [])) == "died"
    world.ledger.turn = turn  # type: ignore[method-assign]
    before = len(world.calls_made)
    world.time.now += timedelta(seconds=LEASE_SECONDS + 1)
    world.recover()
    assert max(len(call) for call in world.calls_made[before:]) < 32
    assert max(world.log.accepted.values()) == 1


@pytest.mark.parametrize("trouble", ["calls", "entries"])
@pytest.mark.parametrize("calls_before", [0, 3])
def test_a_refused_sender_stops_the_campaign_after_a_handful_of_calls_and_uses_nobody_up(
    trouble: Trouble, calls_before: int
) -> None:
    world = World(False, "hold", eligible=600, chunk_rows=300, call_rows=30)
    send = world.log.take

    def take_and_break(*arguments):  # type: ignore[no-untyped-def]
        answer = send(*arguments)
        world.trouble = trouble if len(world.calls_made) >= calls_before else None
        return answer

    world.log.take = take_and_break  # type: ignore[method-assign]
    world.trouble = None if calls_before else trouble
    assert asyncio.run(world.run(0, Process(), [])) == "AccountRefusedError"
    world.log.take = send  # type: ignore[method-assign]
    assert len(world.calls_made) - calls_before <= 12
    rejected = world.ledger.totals(CAMPAIGN).rejected
    assert rejected == len(BAD_ADDRESSES & set().union(*world.calls_made[:calls_before]))
    assert world.ledger.totals(CAMPAIGN).unknown == 0
    world.recover()
    assert world.log.accepted == Counter(set(range(600)) - BAD_ADDRESSES), "each exactly once"
    world.check()


def test_a_sender_refused_for_good_stops_each_run_in_the_same_way_and_never_uses_anybody_up() -> None:
    world = World(True, "hold", eligible=100, chunk_rows=100, call_rows=10)
    for _ in range(4):
        world.trouble = "calls"
        assert asyncio.run(world.run(0, Process(), [])) == "AccountRefusedError"
    assert statuses(world) == Counter(accepted=0, rejected=0, unknown=0)
    world.recover()
    world.check()
    assert sum(world.log.accepted.values()) == 100 - len(BAD_ADDRESSES)


def test_a_few_recipients_who_are_all_refused_by_name_end_as_refused() -> None:
    world = World(False, "hold", eligible=3, chunk_rows=3, call_rows=3)
    world.poison = {0, 1, 2}
    world.recover()
    assert statuses(world) == Counter(accepted=0, rejected=3, unknown=0)
    world.check()


def test_a_single_recipient_refused_for_an_unlisted_reason_is_not_booked_and_the_campaign_stops() -> None:
    world = World(False, "hold", eligible=1, chunk_rows=1, call_rows=1)
    world.poison, world.poison_blame = {0}, "unlisted"
    assert asyncio.run(world.run(0, Process(), [])) == "OneRecipientRefusedError"
    assert world.ledger.totals(CAMPAIGN).planned == 1
    world.poison = set()
    world.recover()
    world.check()
    assert world.log.accepted == Counter([0])


@pytest.mark.parametrize("honours_keys", [True, False])
@pytest.mark.parametrize("fault", ["rejected", "bad_recipient", "too_large"])
def test_a_call_that_may_have_been_accepted_is_never_split(honours_keys: bool, fault: Fault) -> None:
    world = World(honours_keys, "resend")
    faults: list[Fault] = ["lost_after", "none", "none", "none", fault]
    assert asyncio.run(world.run(0, Process(), faults)) == "finished"
    assert world.ledger.totals(CAMPAIGN).unknown == 3
    world.check_nobody_is_mailed_twice()
    assert world.log.accepted.keys() == {0, 1, 2, *range(3, 12)} - BAD_ADDRESSES
    assert max(world.log.accepted.values()) == 1
    world.recover()
    world.check()


@pytest.mark.parametrize("largest", [1, 2, 7, 33])
def test_a_provider_that_finds_calls_too_large_gets_smaller_ones_and_everybody_is_mailed(largest: int) -> None:
    world = World(False, "hold", eligible=300, chunk_rows=300, call_rows=100)
    world.largest_call = largest
    world.recover()
    world.check()
    assert world.log.accepted == Counter(set(range(300)) - BAD_ADDRESSES)
    refused = [call for call in world.calls_made if len(call) > largest]
    assert len(refused) <= 3 * 7, "not every call is tried at every size again"


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_a_limit_that_was_lowered_makes_smaller_calls_in_as_few_calls_as_it_allows(rows: int) -> None:
    world = World(True, "hold", eligible=60, chunk_rows=60, call_rows=10)
    assert asyncio.run(world.run(0, Process(), ["none", "refused", "refused", "refused"])) == "AccountRefusedError"
    before = len(world.calls_made)
    world.call_rows = rows
    world.recover()
    world.check()
    accepted_before = 10 - len(BAD_ADDRESSES & set(range(10)))
    assert accepted_before > 0
    sizes = [len(call) for call in world.calls_made[before:]]
    assert max(sizes) <= rows
    assert len(sizes) <= -(-50 // rows) + 1


def test_a_limit_that_was_raised_makes_larger_calls() -> None:
    world = World(True, "hold", eligible=60, chunk_rows=60, call_rows=3)
    world.call_rows = 30
    world.recover()
    world.check()
    assert [len(call) for call in world.calls_made] == [30, 30]


def test_one_recipient_without_a_message_ends_with_the_reason_and_everybody_else_is_mailed() -> None:
    world = World(False, "hold")
    world.unrenderable, world.misfits = {1, 14}, {2, 20}
    world.recover()
    world.check()
    rows = {row["lead_id"]: row for index in range(2) for row in world.staged_rows(index)}
    assert {lead: rows[lead]["error_code"] for lead in (1, 2, 14, 20)} == dict.fromkeys((1, 2, 14, 20), "content_error")
    assert rows[1]["error_message"] == "it cannot be"
    assert rows[2]["error_message"] == "a value is too large"
    assert world.log.accepted.keys() == set(range(ELIGIBLE)) - BAD_ADDRESSES - {1, 2, 14, 20}
    calls = [record for record in world.ledger.calls(CAMPAIGN, 0) if record.recipient_count]
    assert len(calls) <= CHUNK_ROWS // 3 + 3, "the others still fill their calls"


def test_recipients_refused_for_what_was_mended_since_are_sent_to_again_and_nobody_else_is() -> None:
    world = World(False, "hold", eligible=60, chunk_rows=30, call_rows=10)
    world.poison = {7, 41}
    world.unrenderable = {8}
    world.suppress(9)
    world.recover()
    assert world.status == "sent"
    before = world.log.accepted.copy()
    world.poison = set()
    put_back = retry_rejected(world.parts(Process()), CAMPAIGN, "400")
    assert (put_back.recipients, put_back.campaign.status) == (2, "queued")
    assert retry_rejected(world.parts(Process()), CAMPAIGN, "400").recipients == 0
    world.recover()
    world.check()
    assert world.log.accepted - before == Counter({7: 1, 41: 1})
    assert retry_rejected(world.parts(Process()), CAMPAIGN).recipients == len(BAD_ADDRESSES) + 1, (
        "not who is suppressed"
    )
    world.recover()
    world.check()
    assert 9 not in world.log.accepted


@pytest.mark.parametrize("die_at", range(1, 12))
def test_a_retry_that_dies_anywhere_is_finished_by_the_same_command(die_at: int) -> None:
    world = World(False, "hold", eligible=60, chunk_rows=30, call_rows=10)
    world.poison = {7, 41}
    world.recover()
    world.poison = set()
    with suppress(ProcessDiedError):
        retry_rejected(world.parts(Process(die_at=die_at)), CAMPAIGN, "400")
    retry_rejected(world.parts(Process()), CAMPAIGN, "400")
    assert world.status == "queued"
    world.recover()
    world.check()
    assert world.log.accepted[7] == world.log.accepted[41] == 1


def test_recipients_whose_tries_ran_out_have_them_all_again() -> None:
    world = World(False, "hold", stubborn=True)
    world.recover()
    assert 7 not in world.log.accepted
    world.log.defers_always = frozenset()
    assert retry_rejected(world.parts(Process()), CAMPAIGN, "deferred:TRANSIENT_FAILURE").recipients == len(STUBBORN)
    world.recover()
    assert world.log.accepted[7] == 1
    assert world.ledger.totals(CAMPAIGN).rejected == len(BAD_ADDRESSES)


def test_recipients_of_a_call_whose_outcome_was_once_unknown_never_come_back() -> None:
    world = World(False, "hold", eligible=3, chunk_rows=3, call_rows=3)
    asyncio.run(world.run(0, Process(), ["lost_after"]))
    world.decide("resend", None)
    world.poison = {0, 1, 2}
    world.status = "sending"
    world.recover()
    assert statuses(world)["accepted"] == 0
    assert retry_rejected(world.parts(Process()), CAMPAIGN).recipients == 0


def test_a_share_of_refused_recipients_above_the_limit_stops_the_campaign_with_the_provider_s_words() -> None:
    world = World(False, "hold", eligible=600, chunk_rows=600, call_rows=20)
    world.bad_addresses = set(range(0, 600, 3))
    assert asyncio.run(world.run(0, Process(), [])) == "TooManyRejectedError"
    totals = world.ledger.totals(CAMPAIGN)
    assert 200 <= totals.accepted + totals.rejected <= 300
    world.bad_addresses = BAD_ADDRESSES
    world.recover()
    assert world.status == "sent", "who resumes it has seen what was refused before"
    assert max(world.log.accepted.values()) == 1


def test_the_share_is_that_of_the_campaign_also_where_each_chunk_alone_is_too_small_to_tell() -> None:
    world = World(False, "hold", eligible=600, chunk_rows=50, call_rows=20)
    world.bad_addresses = set(range(0, 600, 3))
    ends = []
    for chunk_index in range(world.manifest.chunk_count):
        ends.append(asyncio.run(world.run(chunk_index, Process(), [])))
        if ends[-1] != "finished":
            break
    assert ends[-1] == "TooManyRejectedError"
    assert len(ends) in (4, 5), "as soon as 200 recipients have an answer"
    world.bad_addresses = set()
    world.recover()
    assert world.status == "sent", "who queues it again has seen what was refused before"
    assert max(world.log.accepted.values()) == 1


@pytest.mark.parametrize("blame", ["recipient", "unlisted"])
def test_recipients_who_are_refused_one_by_one_after_whole_calls_were_count_as_well(
    blame: Literal["recipient", "unlisted"],
) -> None:
    world = World(False, "hold", eligible=400, chunk_rows=400, call_rows=5)
    world.bad_addresses = set()
    world.poison, world.poison_blame = set(range(0, 400, 3)), blame
    assert asyncio.run(world.run(0, Process(), [])) in {"TooManyRejectedError", "AccountRefusedError"}
    assert world.ledger.totals(CAMPAIGN).rejected < len(world.poison)


def test_a_campaign_that_reaches_nobody_says_so() -> None:
    world = World(False, "hold", eligible=3, chunk_rows=3, call_rows=3)
    world.bad_addresses = {0, 1, 2}
    world.recover()
    assert world.status == "sent"
    assert world.campaigns.get(CAMPAIGN).status_reason == "nobody was reached: 3 of 3 recipients were refused"
