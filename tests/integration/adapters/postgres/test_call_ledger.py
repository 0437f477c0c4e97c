"""The call ledger's contract, on PostgreSQL and on its in-memory twin alike."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import count
from random import Random
from typing import Any, Literal

import pytest
from sqlalchemy import Engine, delete, func, insert, select, text, update

from email_platform.adapters.postgres.campaigns import change_status
from email_platform.adapters.postgres.engine import create_oltp_engine
from email_platform.adapters.postgres.ledger import PostgresCallLedger
from email_platform.adapters.postgres.tables import app_user, campaign, chunk, send_call, sender
from email_platform.adapters.postgres.transactions import oltp_transaction
from email_platform.domain.campaigns import CampaignStatus
from email_platform.domain.identity import call_id
from email_platform.domain.ports import RecipientResult
from email_platform.errors import CampaignStoppedError, LeaseLostError, PartUnavailableError
from email_platform.sending.ledger import (
    SUPPRESSED_CODE,
    WATCHED_CHUNKS,
    AnswerCounts,
    CallIntent,
    CallLedger,
    CallOutcome,
    Lease,
    Proof,
    UnknownDecision,
)
from email_platform.sending.receipt import CallReceipt
from email_platform.sending.recipients import deferrals, deferred_recipients
from email_platform.settings import Settings
from tests.fakes.call_ledger import InMemoryCallLedger

pytestmark = pytest.mark.integration

LEASE_SECONDS = 30.0


@dataclass
class Bench:
    """A ledger with one campaign of three chunks, and the levers a test needs."""

    ledger: CallLedger
    campaign_id: int
    engine: Engine | None
    memory: dict[str, Any]

    def set_status(self, status: str | None) -> None:
        if self.engine is None:
            self.memory["status"] = status
            return
        with self.engine.begin() as connection:
            if status is None:
                connection.execute(delete(campaign).where(campaign.c.id == self.campaign_id))
            else:
                connection.execute(update(campaign).where(campaign.c.id == self.campaign_id).values(status=status))

    def status(self) -> str | None:
        if self.engine is None:
            return self.memory["status"]
        with self.engine.begin() as connection:
            return connection.execute(select(campaign.c.status).where(campaign.c.id == self.campaign_id)).scalar_one()

    def let_leases_expire(self) -> None:
        if self.engine is None:
            self.memory["now"] += timedelta(seconds=LEASE_SECONDS + 1)
            return
        with self.engine.begin() as connection:
            connection.execute(
                update(chunk)
                .where(chunk.c.campaign_id == self.campaign_id)
                .values(lease_expires_at=datetime(2000, 1, 1, tzinfo=UTC))
            )

    def lease(self, chunk_index: int = 0, holder: str = "a") -> Lease:
        lease = self.ledger.take_lease(self.campaign_id, chunk_index, holder)
        assert lease is not None
        return lease


@pytest.fixture(params=["memory", "postgres"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    if request.param == "memory":
        memory: dict[str, Any] = {"status": "sending", "now": datetime(2026, 1, 1, tzinfo=UTC)}

        def queue_again(_: int) -> None:
            memory["status"] = "queued" if memory["status"] == "sent" else memory["status"]

        ledger = InMemoryCallLedger(
            lambda: memory["now"],
            LEASE_SECONDS,
            lambda _: memory["status"],
            queue_again,
            lambda _: memory.get("queued_at"),
        )
        ledger.add_chunks(1, 3)
        yield Bench(ledger, 1, None, memory)
        return
    engine: Engine = request.getfixturevalue("oltp_engine")
    campaign_id = make_campaign(engine, "sending")
    with engine.begin() as connection:
        connection.execute(insert(chunk), [{"campaign_id": campaign_id, "chunk_index": index} for index in range(3)])
    yield Bench(PostgresCallLedger(engine, LEASE_SECONDS), campaign_id, engine, {})


_numbers = count()


def make_campaign(engine: Engine, status: str) -> int:
    with engine.begin() as connection:
        owner = connection.execute(
            insert(app_user)
            .values(email=f"owner-{next(_numbers)}@{id(engine)}.test", name="Owner")
            .returning(app_user.c.id)
        ).scalar_one()
        sender_id = connection.execute(
            insert(sender).values(owner_id=owner, from_address="a@example.com", from_name="A").returning(sender.c.id)
        ).scalar_one()
        return connection.execute(
            insert(campaign)
            .values(
                owner_id=owner,
                sender_id=sender_id,
                name="Test",
                subject_template="s",
                html_template="h",
                condition={"all": []},
                status=status,
            )
            .returning(campaign.c.id)
        ).scalar_one()


def intent(bench: Bench, call_index: int, body: bytes = b"x" * 32) -> CallIntent:
    return CallIntent(call_index, call_id(bench.campaign_id, 0, call_index), call_index * 2, 2, body)


def receipt(*statuses: Literal["accepted", "rejected", "deferred", "unknown"]) -> CallReceipt:
    return CallReceipt(
        tuple(
            RecipientResult("accepted", f"id-{number}")
            if status == "accepted"
            else RecipientResult(status, "", "Code", "a message")
            for number, status in enumerate(statuses)
        )
    )


def test_a_receipt_survives_the_round_trip(bench: Bench) -> None:
    lease = bench.lease()
    bench.ledger.turn(lease, [], [intent(bench, 0)])
    answer = receipt("accepted", "rejected")
    bench.ledger.turn(lease, [CallOutcome(0, "accepted", answer)], [])
    (record,) = bench.ledger.calls(bench.campaign_id, 0)
    assert (record.state, record.receipt, record.attempts) == ("accepted", answer, 1)
    assert record.receipt_at is not None
    totals = bench.ledger.totals(bench.campaign_id)
    assert (totals.accepted, totals.rejected, totals.attempted) == (1, 1, 2)


def test_a_living_lease_is_not_given_to_another_holder(bench: Bench) -> None:
    bench.lease(holder="a")
    assert bench.ledger.take_lease(bench.campaign_id, 0, "b") is None


def test_an_expired_lease_goes_to_the_next_holder_and_fences_the_first(bench: Bench) -> None:
    first = bench.lease(holder="a")
    bench.ledger.turn(first, [], [intent(bench, 0)])
    bench.let_leases_expire()
    second = bench.lease(holder="b")
    assert second.epoch == first.epoch + 1
    with pytest.raises(LeaseLostError):
        bench.ledger.turn(first, [], [intent(bench, 1)])
    assert [record.call_index for record in bench.ledger.calls(bench.campaign_id, 0)] == [0]


def test_a_fenced_process_still_delivers_its_receipt(bench: Bench) -> None:
    first = bench.lease(holder="a")
    bench.ledger.turn(first, [], [intent(bench, 0)])
    bench.let_leases_expire()
    bench.lease(holder="b")
    with pytest.raises(LeaseLostError):
        bench.ledger.turn(first, [CallOutcome(0, "accepted", receipt("accepted", "accepted"))], [])
    (record,) = bench.ledger.calls(bench.campaign_id, 0)
    assert record.state == "accepted"


def test_a_fenced_process_cannot_take_back_what_its_successor_tries(bench: Bench) -> None:
    first = bench.lease(holder="a")
    bench.ledger.turn(first, [], [intent(bench, 0)])
    bench.let_leases_expire()
    second = bench.lease(holder="b")
    bench.ledger.turn(second, [], [intent(bench, 0)])
    with pytest.raises(LeaseLostError):
        bench.ledger.turn(first, [CallOutcome(0, "planned", error="503")], [])
    (record,) = bench.ledger.calls(bench.campaign_id, 0)
    assert (record.state, record.attempts) == ("intent", 2)


def test_a_final_state_is_never_overwritten(bench: Bench) -> None:
    lease = bench.lease()
    bench.ledger.turn(lease, [], [intent(bench, 0)])
    answer = receipt("accepted", "accepted")
    bench.ledger.turn(lease, [CallOutcome(0, "accepted", answer)], [])
    standing = bench.ledger.turn(lease, [CallOutcome(0, "unknown", error="late")], [intent(bench, 0), intent(bench, 1)])
    assert standing == {1}, "its call must not be made"
    (record, _) = bench.ledger.calls(bench.campaign_id, 0)
    assert (record.state, record.receipt, record.attempts) == ("accepted", answer, 1)


def test_the_first_intent_that_may_have_been_accepted_keeps_its_time(bench: Bench) -> None:
    lease = bench.lease()
    bench.ledger.turn(lease, [], [intent(bench, 0)])
    (first,) = bench.ledger.calls(bench.campaign_id, 0)
    bench.ledger.turn(lease, [CallOutcome(0, "unknown", error="timeout")], [])
    bench.ledger.turn(lease, [], [intent(bench, 0)])
    (again,) = bench.ledger.calls(bench.campaign_id, 0)
    assert again.intent_at == first.intent_at
    assert (again.state, again.attempts) == ("intent", 2)


@pytest.mark.parametrize("status", ["paused", "cancelled", "failed", "sent", None])
def test_no_intent_is_written_for_a_campaign_that_is_not_sending(bench: Bench, status: str | None) -> None:
    lease = bench.lease()
    bench.ledger.turn(lease, [], [intent(bench, 0)])
    bench.set_status(status)
    with pytest.raises(CampaignStoppedError, match=status or "deleted"):
        bench.ledger.turn(lease, [CallOutcome(0, "accepted", receipt("accepted", "accepted"))], [intent(bench, 1)])
    (record,) = bench.ledger.calls(bench.campaign_id, 0)
    assert record.state == "accepted"


def test_a_finished_chunk_is_known_and_its_lease_is_free(bench: Bench) -> None:
    lease = bench.lease(holder="a")
    bench.ledger.finish_chunk(lease)
    assert bench.ledger.chunk_is_finished(bench.campaign_id, 0)
    assert not bench.ledger.chunk_is_finished(bench.campaign_id, 1)
    assert bench.lease(holder="b").epoch == lease.epoch + 1
    with pytest.raises(LeaseLostError):
        bench.ledger.finish_chunk(lease)
    totals = bench.ledger.totals(bench.campaign_id)
    assert (totals.chunks, totals.chunks_finished) == (3, 1)


@pytest.mark.parametrize(("status", "reopened"), [("sending", True), ("sent", False)])
def test_a_call_that_a_fenced_process_never_made_reopens_a_chunk_of_a_campaign_that_goes_on(
    bench: Bench, status: str, reopened: bool
) -> None:
    first = bench.lease(holder="a")
    bench.ledger.turn(first, [], [intent(bench, 0)])
    bench.let_leases_expire()
    second = bench.lease(holder="b")
    bench.ledger.turn(second, [CallOutcome(0, "unknown", error="held")], [])
    assert bench.ledger.finish_chunk(second)
    bench.set_status(status)
    with pytest.raises(LeaseLostError):
        bench.ledger.turn(first, [CallOutcome(0, "planned", error="never made")], [])
    (record,) = bench.ledger.calls(bench.campaign_id, 0)
    assert record.state == ("planned" if reopened else "unknown")
    assert bench.ledger.chunk_is_finished(bench.campaign_id, 0) is not reopened


def test_a_chunk_with_a_call_to_be_made_does_not_finish(bench: Bench) -> None:
    lease = bench.lease()
    bench.ledger.turn(lease, [], [intent(bench, 0)])
    bench.ledger.turn(lease, [CallOutcome(0, "planned", error="503")], [])
    assert not bench.ledger.finish_chunk(lease)
    assert not bench.ledger.chunk_is_finished(bench.campaign_id, 0)


def test_totals_count_every_recipient_once_by_state(bench: Bench) -> None:
    lease = bench.lease()
    bench.ledger.turn(lease, [], [intent(bench, index) for index in range(5)])
    bench.ledger.turn(
        lease,
        [
            CallOutcome(0, "accepted", receipt("accepted", "rejected")),
            CallOutcome(1, "rejected", CallReceipt.all_rejected(2, "400", "bad request")),
            CallOutcome(2, "unknown", error="timeout"),
            CallOutcome(3, "planned", error="503"),
        ],
        [],
    )
    totals = bench.ledger.totals(bench.campaign_id)
    assert (totals.accepted, totals.rejected, totals.unknown, totals.planned, totals.in_call) == (1, 3, 2, 2, 2)
    assert totals.calls_by_state == {"accepted": 1, "rejected": 1, "unknown": 1, "planned": 1, "intent": 1}


def test_an_operator_abandons_what_nobody_knows(bench: Bench) -> None:
    lease = bench.lease()
    bench.ledger.turn(lease, [], [intent(bench, index) for index in range(3)])
    bench.ledger.turn(
        lease,
        [CallOutcome(0, "accepted", receipt("accepted", "accepted")), CallOutcome(1, "unknown", error="timeout")],
        [],
    )
    assert bench.ledger.unknown_calls(bench.campaign_id) == [], "a process is at work on the chunk"
    assert bench.ledger.decide_unknown(bench.campaign_id, "abandon") == 0
    bench.let_leases_expire()
    assert [record.call_index for _, record in bench.ledger.unknown_calls(bench.campaign_id)] == [1, 2]
    assert bench.ledger.decide_unknown(bench.campaign_id, "abandon", chunk_index=1) == 0
    assert bench.ledger.decide_unknown(bench.campaign_id, "abandon") == 2
    totals = bench.ledger.totals(bench.campaign_id)
    assert (totals.accepted, totals.abandoned, totals.unknown, totals.in_call) == (2, 4, 0, 0)


def test_an_operator_has_unknown_calls_sent_again(bench: Bench) -> None:
    lease = bench.lease()
    bench.ledger.turn(lease, [], [intent(bench, 0)])
    bench.ledger.turn(lease, [CallOutcome(0, "unknown", error="timeout")], [])
    bench.ledger.finish_chunk(lease)
    assert bench.ledger.decide_unknown(bench.campaign_id, "resend") == 1
    assert not bench.ledger.chunk_is_finished(bench.campaign_id, 0)
    (record,) = bench.ledger.calls(bench.campaign_id, 0)
    assert record.state == "planned"


def test_a_follow_up_call_takes_deferred_recipients_on_and_each_is_counted_once(bench: Bench) -> None:
    lease = bench.lease()
    bench.ledger.turn(lease, [], [intent(bench, 0), intent(bench, 1)])
    answer = receipt("accepted", "deferred")
    bench.ledger.turn(lease, [CallOutcome(0, "accepted", answer), CallOutcome(1, "accepted", answer)], [])
    totals = bench.ledger.totals(bench.campaign_id)
    assert (totals.accepted, totals.planned, totals.rejected) == (2, 2, 0)

    follow_up = replace(intent(bench, 2), offsets=(1, 3), first_position=1, follows="deferred")
    bench.ledger.turn(lease, [], [follow_up])
    (_, _, record) = bench.ledger.calls(bench.campaign_id, 0)
    assert (record.offsets, record.follows, list(record.offsets_in_chunk(0))) == ((1, 3), "deferred", [1, 3])
    totals = bench.ledger.totals(bench.campaign_id)
    assert (totals.accepted, totals.planned, totals.in_call) == (2, 0, 2)

    bench.ledger.turn(lease, [CallOutcome(2, "accepted", answer)], [])
    totals = bench.ledger.totals(bench.campaign_id)
    assert (totals.accepted, totals.planned, totals.rejected) == (3, 1, 0), "a chunk that goes on tries again"
    bench.ledger.finish_chunk(lease)
    totals = bench.ledger.totals(bench.campaign_id)
    assert (totals.accepted, totals.planned, totals.rejected) == (3, 0, 1), "a finished one does not"


@pytest.mark.parametrize(("after_unknown", "counted"), [(False, "rejected"), (True, "unknown")])
def test_a_refusal_of_our_own_is_an_end_unless_an_earlier_attempt_is_in_doubt(
    bench: Bench, after_unknown: bool, counted: str
) -> None:
    lease = bench.lease()
    status: Literal["unknown", "rejected"] = "unknown" if after_unknown else "rejected"
    refused = replace(intent(bench, 0), refusal=receipt(status, status), after_unknown=after_unknown)
    bench.ledger.turn(lease, [], [refused])
    (record,) = bench.ledger.calls(bench.campaign_id, 0)
    assert (record.state, record.receipt, record.after_unknown) == (counted, refused.refusal, after_unknown)
    totals = bench.ledger.totals(bench.campaign_id)
    assert getattr(totals, counted) == 2
    assert totals.accepted + totals.rejected + totals.unknown == 2


def test_answers_are_counted_over_the_last_chunks_from_the_last_queueing_on(bench: Bench) -> None:
    own = RecipientResult("rejected", "", SUPPRESSED_CODE, "s")
    for chunk_index, results in enumerate(
        (
            (RecipientResult("accepted", "a"), RecipientResult("rejected", "", "550", "no such user"), own),
            (RecipientResult("accepted", "b"), RecipientResult("deferred", "", "429", "later")),
        )
    ):
        lease = bench.lease(chunk_index)
        bench.ledger.turn(lease, [], [replace(intent(bench, 0), recipient_count=len(results))])
        bench.ledger.turn(lease, [CallOutcome(0, "accepted", CallReceipt(results))], [])
    assert bench.ledger.answers_since_queued(bench.campaign_id, 2) == AnswerCounts(ended=4, refused=1)
    assert bench.ledger.answers_since_queued(bench.campaign_id + 1_000_000, 2) == AnswerCounts()
    assert bench.ledger.answers_since_queued(bench.campaign_id, 0) == AnswerCounts(ended=3, refused=1)
    assert bench.ledger.answers_since_queued(bench.campaign_id, 1 + WATCHED_CHUNKS) == AnswerCounts(ended=1)
    assert bench.ledger.answers_since_queued(bench.campaign_id, 2 + WATCHED_CHUNKS) == AnswerCounts()
    if bench.engine is None:
        bench.memory["queued_at"] = bench.memory["now"] + timedelta(seconds=1)
    else:
        with bench.engine.begin() as connection:
            change = update(campaign).where(campaign.c.id == bench.campaign_id)
            connection.execute(change.values(queued_at=func.clock_timestamp()))
    assert bench.ledger.answers_since_queued(bench.campaign_id, 2) == AnswerCounts()


def proof_of(bench: Bench, answer: CallReceipt, before: CallReceipt | None = None) -> Proof:
    ((chunk_index, record),) = bench.ledger.unknown_calls(bench.campaign_id)
    return Proof(chunk_index, record.call_index, record.attempts, before, answer)


def test_events_prove_a_call_without_an_answer_part_by_part(bench: Bench) -> None:
    lease = bench.lease()
    bench.ledger.turn(lease, [], [intent(bench, 0)])
    bench.ledger.turn(lease, [CallOutcome(0, "unknown", error="timeout")], [])
    bench.ledger.finish_chunk(lease)
    assert bench.campaign_id in bench.ledger.campaigns_with_unknown()
    part, whole = receipt("accepted", "unknown"), receipt("accepted", "accepted")
    first = proof_of(bench, part)
    assert bench.ledger.prove(bench.campaign_id, [first]) == 1
    assert bench.ledger.prove(bench.campaign_id, [first]) == 0, "drawn from what is no longer so"
    totals = bench.ledger.totals(bench.campaign_id)
    assert (totals.accepted, totals.unknown, totals.calls_by_state) == (1, 1, {"unknown": 1})
    assert bench.ledger.prove(bench.campaign_id, [proof_of(bench, whole, before=part)]) == 1
    totals = bench.ledger.totals(bench.campaign_id)
    assert (totals.accepted, totals.unknown, totals.calls_by_state) == (2, 0, {"accepted": 1})
    assert bench.campaign_id not in bench.ledger.campaigns_with_unknown()


def test_a_proof_is_void_while_a_process_is_at_the_call_and_after_another_attempt(bench: Bench) -> None:
    lease = bench.lease()
    bench.ledger.turn(lease, [], [intent(bench, 0)])
    bench.let_leases_expire()
    proof = proof_of(bench, receipt("accepted", "accepted"))
    second = bench.lease(holder="b")
    assert bench.ledger.prove(bench.campaign_id, [proof]) == 0
    bench.ledger.turn(second, [], [intent(bench, 0)])
    bench.let_leases_expire()
    assert bench.ledger.prove(bench.campaign_id, [proof]) == 0


def test_what_events_proved_survives_another_attempt_without_an_answer(bench: Bench) -> None:
    lease = bench.lease()
    part = receipt("accepted", "unknown")
    bench.ledger.turn(lease, [], [intent(bench, 0)])
    bench.let_leases_expire()
    assert bench.ledger.prove(bench.campaign_id, [proof_of(bench, part)]) == 1
    second = bench.lease(holder="b")
    bench.ledger.turn(second, [], [intent(bench, 0)])
    bench.ledger.turn(second, [CallOutcome(0, "unknown", error="timeout")], [])
    (record,) = bench.ledger.calls(bench.campaign_id, 0)
    assert (record.state, record.receipt, record.attempts) == ("unknown", part, 2)


@pytest.mark.parametrize("decision", ["abandon", "resend"])
def test_a_decision_about_a_partly_proved_call_leaves_the_proved_recipients_alone(
    bench: Bench, decision: UnknownDecision
) -> None:
    lease = bench.lease()
    bench.ledger.turn(lease, [], [intent(bench, 0)])
    bench.let_leases_expire()
    assert bench.ledger.prove(bench.campaign_id, [proof_of(bench, receipt("accepted", "unknown"))]) == 1
    assert bench.ledger.decide_unknown(bench.campaign_id, decision) == 1
    totals = bench.ledger.totals(bench.campaign_id)
    assert (totals.accepted, totals.unknown) == (1, 0)
    assert (totals.abandoned, totals.planned) == ((1, 0) if decision == "abandon" else (0, 1))


def test_of_many_claimants_exactly_one_takes_the_lease(oltp_engine: Engine) -> None:
    campaign_id = make_campaign(oltp_engine, "sending")
    with oltp_engine.begin() as connection:
        connection.execute(insert(chunk).values(campaign_id=campaign_id, chunk_index=0))
    ledger = PostgresCallLedger(oltp_engine, LEASE_SECONDS)
    leases: list[Lease | None] = []
    start = threading.Barrier(8)

    def claim(number: int) -> None:
        start.wait()
        leases.append(ledger.take_lease(campaign_id, 0, f"holder-{number}"))

    threads = [threading.Thread(target=claim, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([lease for lease in leases if lease]) == 1


def test_a_process_that_is_stopped_inside_a_transaction_does_not_stop_its_successor(
    settings: Settings, oltp_engine: Engine
) -> None:
    # `make chaos SEED=3`: the orphan was stopped while its turn held the lock on the chunk's row.
    campaign_id = make_campaign(oltp_engine, "sending")
    with oltp_engine.begin() as connection:
        connection.execute(insert(chunk).values(campaign_id=campaign_id, chunk_index=0))
    url = settings.postgres_url.get_secret_value()
    orphans = create_oltp_engine(url, idle_in_transaction_seconds=0.5)
    successor = PostgresCallLedger(oltp_engine, LEASE_SECONDS)
    lease: list[Lease | None] = []
    taking = threading.Thread(target=lambda: lease.append(successor.take_lease(campaign_id, 0, "successor")))

    def be_stopped_in_a_turn() -> None:
        with oltp_transaction(orphans) as connection:
            connection.execute(select(chunk).where(chunk.c.campaign_id == campaign_id).with_for_update())
            taking.start()
            taking.join(timeout=10)
            assert not taking.is_alive(), "the successor waits for a row that a stopped process has locked"
            connection.execute(text("select 1"))  # the orphan goes on

    with pytest.raises(PartUnavailableError):
        be_stopped_in_a_turn()
    assert lease[0] is not None
    orphans.dispose()


def test_an_orphan_s_call_waits_for_the_campaign_s_change_to_sent_and_then_reopens_nothing(oltp_engine: Engine) -> None:
    campaign_id = make_campaign(oltp_engine, "sending")
    with oltp_engine.begin() as connection:
        connection.execute(insert(chunk).values(campaign_id=campaign_id, chunk_index=0))
    ledger = PostgresCallLedger(oltp_engine, lease_seconds=0.01)
    orphan = ledger.take_lease(campaign_id, 0, "orphan")
    assert orphan is not None
    ledger.turn(orphan, [], [CallIntent(0, call_id(campaign_id, 0, 0), 0, 2, b"x" * 32)])
    time.sleep(0.1)
    successor = ledger.take_lease(campaign_id, 0, "successor")
    assert successor is not None
    ledger.turn(successor, [CallOutcome(0, "unknown", error="held")], [])
    assert ledger.finish_chunk(successor)

    def speak() -> None:
        with pytest.raises(LeaseLostError):
            ledger.turn(orphan, [CallOutcome(0, "planned", error="never made")], [])

    speaking = threading.Thread(target=speak)
    with oltp_engine.begin() as connection:
        change_status(connection, campaign_id, CampaignStatus.SENT, None)
        speaking.start()
        speaking.join(timeout=1)
        assert speaking.is_alive(), "the orphan reads the status while it changes"
    speaking.join()
    assert ledger.chunk_is_finished(campaign_id, 0)
    assert [record.state for record in ledger.calls(campaign_id, 0)] == ["unknown"]


def test_the_ledger_writes_two_rows_per_call_and_renews_its_lease_rarely(oltp_engine: Engine) -> None:
    campaign_id = make_campaign(oltp_engine, "sending")
    with oltp_engine.begin() as connection:
        connection.execute(insert(chunk).values(campaign_id=campaign_id, chunk_index=0))
    ledger = PostgresCallLedger(oltp_engine, LEASE_SECONDS)
    lease = ledger.take_lease(campaign_id, 0, "a")
    assert lease is not None
    calls, waiting = 100, []
    for index in range(calls):
        one = CallIntent(index, call_id(campaign_id, 0, index), index * 50, 50, b"x" * 32)
        ledger.turn(lease, waiting, [one])
        waiting = [CallOutcome(index, "accepted", CallReceipt((RecipientResult("accepted", "id"),) * 50))]
    ledger.turn(lease, waiting, [])
    with oltp_engine.connect() as connection:
        versions = connection.execute(
            text("select xmin::text::bigint as born, lease_epoch from chunk where campaign_id = :id"),
            {"id": campaign_id},
        ).one()
        first_call = connection.execute(
            select(text("xmin::text::bigint"))
            .select_from(send_call)
            .where(send_call.c.campaign_id == campaign_id, send_call.c.call_index == 0)
        ).scalar_one()
    assert versions.born < first_call, "the chunk's row was rewritten while the lease was fresh"
    assert ledger.totals(campaign_id).accepted == calls * 50


def test_a_call_gives_its_recipients_to_others_in_one_commit_and_each_is_counted_once(bench: Bench) -> None:
    lease = bench.lease()
    bench.ledger.turn(lease, [], [intent(bench, 0)])
    emptied = replace(
        intent(bench, 0), recipient_count=0, offsets=(), refusal=CallReceipt(()), error="split: bad request"
    )
    halves = [
        replace(
            intent(bench, index), recipient_count=1, first_position=index - 1, offsets=(index - 1,), is_planned=True
        )
        for index in (1, 2)
    ]
    standing = bench.ledger.turn(lease, [CallOutcome(0, "planned", error="bad request")], [emptied, *halves])
    assert standing == {0, 1, 2}
    records = bench.ledger.calls(bench.campaign_id, 0)
    assert [(one.state, one.offsets, one.attempts) for one in records] == [
        ("rejected", (), 2),
        ("planned", (0,), 0),
        ("planned", (1,), 0),
    ]
    assert records[0].error == "split: bad request"
    totals = bench.ledger.totals(bench.campaign_id)
    assert (totals.planned, totals.rejected, totals.unknown, totals.attempted) == (2, 0, 0, 0)
    assert not bench.ledger.finish_chunk(lease)
    bench.ledger.turn(lease, [], [replace(halves[0], is_planned=False)])
    assert bench.ledger.calls(bench.campaign_id, 0)[1].attempts == 1


def test_a_recipient_deferred_for_the_sender_s_sake_is_not_counted_as_tried(bench: Bench) -> None:
    lease = bench.lease()
    bench.ledger.turn(lease, [], [intent(bench, 0)])
    answer = CallReceipt(
        (
            RecipientResult("deferred", "", "SenderPaused", "paused", account_refused=True),
            RecipientResult("deferred", "", "Later", "not now"),
        )
    )
    bench.ledger.turn(lease, [CallOutcome(0, "rejected", answer)], [])
    records = bench.ledger.calls(bench.campaign_id, 0)
    assert deferrals(records, 0) == {1: 1}
    assert deferred_recipients(records, 0) == [0, 1]


@pytest.mark.parametrize("code", [None, "Code"])
def test_recipients_whose_refusal_is_certain_are_put_back_once_and_the_sent_campaign_is_queued(
    bench: Bench, code: str | None
) -> None:
    lease = bench.lease()
    bench.ledger.turn(lease, [], [intent(bench, 0), intent(bench, 1)])
    suppressed = CallReceipt((RecipientResult("rejected", "", SUPPRESSED_CODE, "s"), RecipientResult("unknown")))
    outcomes = [
        CallOutcome(0, "accepted", receipt("accepted", "rejected")),
        CallOutcome(1, "unknown", suppressed),
    ]
    bench.ledger.turn(lease, outcomes, [])
    assert bench.ledger.put_back_rejected(bench.campaign_id, 100) == 0, "a process is at work on the chunk"
    for index in range(3):
        bench.ledger.finish_chunk(bench.lease(index) if index else lease)
    bench.set_status("sent")
    assert bench.ledger.put_back_rejected(bench.campaign_id, 100, "Other") == 0
    assert bench.ledger.put_back_rejected(bench.campaign_id, 100, code) == 1
    assert bench.ledger.put_back_rejected(bench.campaign_id, 100, code) == 0
    assert bench.status() == "queued"
    assert not bench.ledger.chunk_is_finished(bench.campaign_id, 0)
    totals = bench.ledger.totals(bench.campaign_id)
    assert (totals.accepted, totals.rejected, totals.planned, totals.unknown) == (1, 1, 1, 1)
    assert deferrals(bench.ledger.calls(bench.campaign_id, 0), 0) == {}


def test_a_decision_to_resend_queues_a_sent_campaign_in_the_same_transaction(bench: Bench) -> None:
    for index in range(3):
        lease = bench.lease(index)
        if index == 0:
            bench.ledger.turn(lease, [], [intent(bench, 0)])
            bench.ledger.turn(lease, [CallOutcome(0, "unknown", error="timeout")], [])
        bench.ledger.finish_chunk(lease)
    bench.set_status("sent")
    assert bench.ledger.decide_unknown(bench.campaign_id, "resend") == 1
    assert bench.status() == "queued"
    bench.set_status("sending")
    bench.set_status("sent")  # as an earlier version left it, which did this in two transactions
    assert bench.ledger.decide_unknown(bench.campaign_id, "resend") == 0
    assert bench.status() == "queued"


def test_chunks_with_abandoned_calls_are_known(bench: Bench) -> None:
    lease = bench.lease(1)
    bench.ledger.turn(lease, [], [intent(bench, 0)])
    bench.let_leases_expire()
    assert bench.ledger.abandoned_chunks(bench.campaign_id) == []
    bench.ledger.decide_unknown(bench.campaign_id, "abandon")
    assert bench.ledger.abandoned_chunks(bench.campaign_id) == [1]


@pytest.mark.parametrize("seed", range(12))
def test_random_turns_leave_the_same_records_in_postgresql_and_in_memory(oltp_engine: Engine, seed: int) -> None:
    """The rules of `call_outcome.after_*`, which PostgreSQL's statements in bulk repeat."""
    random = Random(seed)
    campaign_id = make_campaign(oltp_engine, "sending")
    with oltp_engine.begin() as connection:
        connection.execute(insert(chunk).values(campaign_id=campaign_id, chunk_index=0))
    memory = InMemoryCallLedger(lambda: datetime.now(UTC), 1e6)
    memory.add_chunks(campaign_id, 1)
    ledgers: list[CallLedger] = [PostgresCallLedger(oltp_engine, 1e6), memory]
    leases = [[ledger.take_lease(campaign_id, 0, "a")] for ledger in ledgers]
    for _ in range(60):
        if random.random() < 0.1:
            for ledger, taken in zip(ledgers, leases, strict=True):
                taken.append(ledger.take_lease(campaign_id, 0, "a"))
        holder = random.randrange(len(leases[0]))
        outcomes = [_random_outcome(random, index) for index in random.sample(range(6), random.randrange(4))]
        intents = [_random_intent(random, campaign_id, index) for index in random.sample(range(6), random.randrange(4))]
        ends: list[Any] = []
        for ledger, taken in zip(ledgers, leases, strict=True):
            lease = taken[holder]
            assert lease is not None
            try:
                ends.append(ledger.turn(lease, outcomes, intents))
            except LeaseLostError:
                ends.append("lost")
        assert ends[0] == ends[1]
        found = [
            [replace(one, intent_at=NEVER, receipt_at=one.receipt_at and NEVER) for one in ledger.calls(campaign_id, 0)]
            for ledger in ledgers
        ]
        assert found[0] == found[1]
        assert ledgers[0].totals(campaign_id) == ledgers[1].totals(campaign_id)


NEVER = datetime(2000, 1, 1, tzinfo=UTC)


def _random_outcome(random: Random, index: int) -> CallOutcome:
    state: Literal["planned", "accepted", "rejected", "unknown"] = random.choice(
        ["planned", "accepted", "rejected", "unknown"]
    )
    answer = {
        "planned": None,
        "accepted": receipt("accepted", random.choice(["accepted", "rejected", "deferred"])),
        "rejected": receipt("rejected", random.choice(["rejected", "deferred"])),
        "unknown": random.choice([None, receipt("accepted", "unknown")]),
    }[state]
    return CallOutcome(index, state, answer, random.choice([None, "an error"]))


def _random_intent(random: Random, campaign_id: int, index: int) -> CallIntent:
    one = CallIntent(index, call_id(campaign_id, 0, index), index * 2, 2, random.randbytes(32))
    kind = random.choice(["plain", "plain", "chosen", "in doubt", "planned", "left out", "emptied"])
    if kind == "chosen":
        return replace(one, offsets=(index * 2 + 1, index * 2), follows="deferred")
    if kind == "in doubt":
        return replace(one, after_unknown=True)
    if kind == "planned":
        return replace(one, is_planned=True, error="waits")
    if kind == "left out":
        return replace(one, refusal=receipt("rejected", "rejected"))
    if kind == "emptied":
        return replace(one, recipient_count=0, offsets=(), refusal=CallReceipt(()), error="split")
    return one
