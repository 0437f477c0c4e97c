"""The inbox is emptied only when everything that follows from it is durable, whatever dies in between."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from io import BytesIO
from typing import Any

import pyarrow.parquet as pq
import pytest

from email_platform.domain.identity import message_id
from email_platform.domain.ports import ObjectInfo, StagedObject
from email_platform.domain.storage_layout import EVENT_INBOX_PREFIX, event_inbox_key
from email_platform.errors import PartUnavailableError
from email_platform.events import EVENT_SCHEMA, Event, ReceivedBody, normalise_body
from email_platform.events.formats.platform import unsubscribed_body
from email_platform.events.inbox import (
    Quarantined,
    SuppressionPolicy,
    inbox_is_waiting,
    replay_archive,
    replay_quarantine,
    stage_inbox,
)
from email_platform.events.mailed import Mailed
from email_platform.events.received import from_parquet, to_parquet
from email_platform.events.suppression import (
    SuppressionRequest,
    suppressions_from,
)
from tests.fakes.stores import InMemoryObjectStore

NOW = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)


def clock() -> datetime:
    return NOW


class DiedError(Exception):
    """The process dies here."""


class Bucket(InMemoryObjectStore):
    """Objects in memory; dies before the n-th change where that is set."""

    def __init__(self, objects: dict[str, bytes] | None = None, changes_until_death: int | None = None) -> None:
        super().__init__("memory")
        self._objects.update(objects or {})
        self.changes_until_death = changes_until_death

    @property
    def objects(self) -> dict[str, bytes]:
        return self._objects

    def _change(self) -> None:
        if self.changes_until_death is not None:
            if self.changes_until_death == 0:
                raise DiedError
            self.changes_until_death -= 1

    def put(self, key: str, body: bytes) -> ObjectInfo:
        self._change()
        return super().put(key, body)

    def delete(self, key: str) -> None:
        self._change()
        super().delete(key)

    def inbox(self) -> list[str]:
        return [key for key in self.objects if key.startswith(EVENT_INBOX_PREFIX)]


@dataclass
class Intake:
    """The register and the suppressions in memory."""

    staged: dict[str, StagedObject] = field(default_factory=dict)
    set_aside: dict[str, Quarantined] = field(default_factory=dict)
    replayed: set[str] = field(default_factory=set)
    requests: dict[SuppressionRequest, None] = field(default_factory=dict)
    is_down: bool = False

    def admit(
        self, staged: StagedObject | None, quarantined: Sequence[Quarantined], requests: Sequence[SuppressionRequest]
    ) -> int:
        if self.is_down:
            raise PartUnavailableError("PostgreSQL did not answer")
        if staged:
            self.staged[staged.key] = staged
        self.set_aside |= {one.staged.key: one for one in quarantined}
        before = len(self.requests)
        self.requests |= dict.fromkeys(requests)
        return len(self.requests) - before

    def quarantined(self) -> Sequence[StagedObject]:
        return [one.staged for key, one in self.set_aside.items() if key not in self.replayed]

    def mark_replayed(self, staged: StagedObject) -> None:
        self.replayed.add(staged.key)


def event(number: int, kind: str = "delivered", subtype: str | None = None) -> dict[str, Any]:
    return {
        "event_id": f"evt_{number}_{kind}",
        "type": kind,
        "subtype": subtype,
        "recipient": f"Lead{number}@Example.com",
        "occurred_at": "2026-06-01T11:00:00+00:00",
        "campaign": "7",
    }


def body(*events: dict[str, Any]) -> ReceivedBody:
    return ReceivedBody("simulator", "default", NOW, "msg_1", json.dumps({"events": events}).encode())


def fill(bucket: Bucket, *objects: Sequence[ReceivedBody]) -> None:
    for number, bodies in enumerate(objects):
        bucket.objects[event_inbox_key(NOW.date(), f"receiver{number}", number)] = to_parquet(bodies)


def staged_rows(bucket: Bucket, intake: Intake) -> list[dict[str, Any]]:
    tables = [pq.read_table(BytesIO(bucket.objects[key])) for key in sorted(intake.staged)]
    assert all(table.schema == EVENT_SCHEMA for table in tables)
    return [row for table in tables for row in table.to_pylist()]


def test_the_inbox_becomes_one_object_of_events_and_one_of_raw_bodies() -> None:
    bucket, intake = Bucket(), Intake()
    bodies = [body(event(1), event(2, "bounced", "hard")), body(event(3))]
    fill(bucket, bodies[:1], bodies[1:])
    assert inbox_is_waiting(bucket)
    report = stage_inbox(bucket, intake, clock)
    assert (report.batches, report.objects, report.bodies, report.events, report.problems) == (1, 2, 2, 3, 0)
    assert not inbox_is_waiting(bucket)
    assert [row["event_id"] for row in staged_rows(bucket, intake)] == [
        "evt_1_delivered",
        "evt_2_bounced",
        "evt_3_delivered",
    ]
    [raw] = [key for key in bucket.objects if key.startswith("events/raw/2026-06-01/")]
    assert from_parquet(bucket.objects[raw]) == bodies
    assert [request.address for request in intake.requests] == ["lead2@example.com"]


@pytest.mark.parametrize("changes", range(8))
def test_a_death_at_any_point_loses_nothing_and_repeating_it_changes_nothing(changes: int) -> None:
    bucket, intake = Bucket(), Intake()
    fill(bucket, [body(event(1))], [body(event(2, "complained")), replace(body(), body=b"no json")])
    bucket.changes_until_death = changes
    with suppress(DiedError):
        stage_inbox(bucket, intake, clock)
    bucket.changes_until_death = None
    stage_inbox(bucket, intake, clock)
    assert bucket.inbox() == []
    rows = staged_rows(bucket, intake)
    assert {row["event_id"] for row in rows} == {"evt_1_delivered", "evt_2_complained"}
    assert len(intake.requests) == 1
    assert intake.quarantined()


def test_nothing_leaves_the_inbox_while_the_register_is_down() -> None:
    bucket, intake = Bucket(), Intake(is_down=True)
    fill(bucket, [body(event(1))])
    with pytest.raises(PartUnavailableError):
        stage_inbox(bucket, intake, clock)
    assert len(bucket.inbox()) == 1
    intake.is_down = False
    assert stage_inbox(bucket, intake, clock).events == 1


def test_a_full_inbox_is_staged_in_bounded_batches() -> None:
    bucket, intake = Bucket(), Intake()
    fill(bucket, *[[body(event(number))] for number in range(10)])
    assert stage_inbox(bucket, intake, clock, batch_objects=4).batches == 3
    assert len(staged_rows(bucket, intake)) == 10
    fill(bucket, *[[body(event(number))] for number in range(3)])
    assert stage_inbox(bucket, intake, clock, batch_bytes=1).batches == 3


def test_an_object_that_another_process_has_taken_meanwhile_is_skipped() -> None:
    class Racing(Bucket):
        def list(self, prefix: str) -> Iterator[ObjectInfo]:
            yield from super().list(prefix)
            yield ObjectInfo(event_inbox_key(NOW.date(), "gone", 1), 10, "")

    bucket, intake = Racing(), Intake()
    fill(bucket, [body(event(1))])
    assert stage_inbox(bucket, intake, clock).events == 1


def test_a_corrupt_inbox_object_is_set_aside_and_blocks_nothing() -> None:
    bucket, intake = Bucket(), Intake()
    fill(bucket, [body(event(1))])
    bucket.objects[event_inbox_key(NOW.date(), "torn", 1)] = b"PAR1 torn"
    report = stage_inbox(bucket, intake, clock)
    assert (report.events, report.problems) == (1, 1)
    [quarantined] = intake.set_aside.values()
    assert bucket.objects[quarantined.staged.key] == b"PAR1 torn"
    assert "corrupt" in quarantined.reason


def test_an_inbox_object_with_a_text_that_is_no_utf_8_is_set_aside_and_blocks_nothing() -> None:
    bucket, intake = Bucket(), Intake()
    fill(bucket, [body(event(1))])
    whole = to_parquet([replace(body(event(2)), account="damaged")])
    bucket.objects[event_inbox_key(NOW.date(), "torn", 1)] = whole.replace(b"damaged", b"\xe4amaged")
    report = stage_inbox(bucket, intake, clock)
    assert (report.events, report.problems) == (1, 1)


def test_a_quarantined_body_is_replayed_after_the_fix_and_only_once(monkeypatch: pytest.MonkeyPatch) -> None:
    bucket, intake = Bucket(), Intake()
    fill(bucket, [body(event(1), {"type": "delivered"})])
    report = stage_inbox(bucket, intake, clock)
    assert (report.events, report.problems) == (1, 1)
    [quarantined] = intake.set_aside.values()
    assert quarantined.reason == "simulator/default: event 1: event_id must be a text"

    def mended(received: ReceivedBody) -> Any:
        return normalise_body(replace(received, body=body(event(1), event(2)).body))

    monkeypatch.setattr("email_platform.events.inbox.normalise_body", mended)
    assert replay_quarantine(bucket, intake, clock) == 1
    assert replay_quarantine(bucket, intake, clock) == 0
    assert stage_inbox(bucket, intake, clock).events == 2
    identities = {row["event_id"] for row in staged_rows(bucket, intake)}
    assert identities == {"evt_1_delivered", "evt_2_delivered"}


def test_the_archive_of_some_days_can_be_read_again() -> None:
    bucket, intake = Bucket(), Intake()
    fill(bucket, [body(event(1))], [replace(body(event(2)), received_at=NOW - timedelta(days=1))])
    stage_inbox(bucket, intake, clock, batch_objects=1)
    assert replay_archive(bucket, clock, date(2026, 6, 1), date(2026, 6, 2)) == 1
    assert stage_inbox(bucket, intake, clock).events == 1
    assert replay_archive(bucket, clock, date(2026, 6, 1), date(2026, 6, 2)) == 1, "the archive did not grow"
    assert sorted(row["event_id"] for row in staged_rows(bucket, intake)) == [
        "evt_1_delivered",
        "evt_1_delivered",
        "evt_2_delivered",
    ]


# --- suppression --------------------------------------------------------------------------------------------------


def events_of(*items: dict[str, Any]) -> tuple[Event, ...]:
    return normalise_body(body(*items)).events


def test_hard_bounces_complaints_and_unsubscriptions_suppress_and_nothing_else_does() -> None:
    requests = suppressions_from(
        events_of(
            event(1, "bounced", "hard"),
            event(2, "bounced", "soft"),
            event(3, "complained", "abuse"),
            event(4, "unsubscribed"),
            event(5, "delivered"),
            event(1, "bounced", "hard"),
        )
    )
    assert [(one.address, one.reason, one.everywhere, one.campaign_id) for one in requests] == [
        ("lead1@example.com", "hard_bounce", True, 0),
        ("lead3@example.com", "complaint", False, 7),
        ("lead4@example.com", "unsubscribe", False, 7),
    ]
    assert {one.source for one in requests} == {"simulator/default"}
    [everywhere] = suppressions_from(events_of(event(3, "complained", "abuse")), complaint_scope="everyone")
    assert (everywhere.everywhere, everywhere.campaign_id) == (True, 0)


def test_the_page_suppresses_a_lead_for_the_sender_of_its_token() -> None:
    received = ReceivedBody("platform", "default", NOW, "", unsubscribed_body(7, 4, 2, NOW))
    assert suppressions_from(normalise_body(received).events) == [
        SuppressionRequest("", "unsubscribe", "one_click", everywhere=False, lead_id=4, sender_id=2, campaign_id=7)
    ]


@dataclass
class Manifests:
    """What was mailed: lead 4 of campaign 7 at ann@example.com."""

    is_down: bool = False

    def of_lead(self, campaign_id: int, lead_id: int) -> Sequence[Mailed]:
        return [Mailed(4, "ann@example.com")] if (campaign_id, lead_id) == (7, 4) else []

    def of_messages(self, campaign_id: int, named: Mapping[str, str]) -> Mapping[str, Mailed]:
        if self.is_down:
            raise PartUnavailableError("S3 does not answer")
        ours = str(message_id(7, 4))
        return {ours: Mailed(4, "Ann@example.com")} if campaign_id == 7 and ours in named else {}


def asking(kind: str, recipient: str, subtype: str | None = None, lead_id: int = 4) -> dict[str, Any]:
    return {**event(1, kind, subtype), "recipient": recipient, "message_id": str(message_id(7, lead_id))}


def test_whom_we_mailed_counts_and_not_whom_the_event_names() -> None:
    bucket, intake = Bucket(), Intake()
    fill(
        bucket,
        [
            body(asking("bounced", "forwarded@other.example", "hard")),
            body(asking("unsubscribed", "forwarded@other.example")),
            body(asking("complained", "Bob@example.com", lead_id=5)),
        ],
    )
    stage_inbox(bucket, intake, clock, policy=SuppressionPolicy(Manifests()))
    assert [(one.reason, one.address, one.lead_id) for one in intake.requests] == [
        ("hard_bounce", "ann@example.com", 0),
        ("unsubscribe", "ann@example.com", 4),
        ("complaint", "bob@example.com", 0),
    ], "of a message that no manifest has, the event's word is all there is"


def test_while_nobody_knows_whom_we_mailed_the_events_wait_in_the_inbox() -> None:
    bucket, intake = Bucket(), Intake()
    fill(bucket, [body(asking("bounced", "forwarded@other.example", "hard"))])
    with pytest.raises(PartUnavailableError):
        stage_inbox(bucket, intake, clock, policy=SuppressionPolicy(Manifests(is_down=True)))
    assert len(bucket.inbox()) == 1
    assert intake.requests == {}
    stage_inbox(bucket, intake, clock, policy=SuppressionPolicy(Manifests()))
    assert [one.address for one in intake.requests] == ["ann@example.com"]


def page_body(lead_id: int, addresses: Sequence[str] = ()) -> ReceivedBody:
    return ReceivedBody("platform", "default", NOW, "", unsubscribed_body(7, lead_id, 2, NOW, addresses))


def test_an_unsubscription_whose_address_the_page_did_not_know_is_looked_up() -> None:
    bucket, intake = Bucket(), Intake()
    fill(bucket, [page_body(4), page_body(5, ["bob@example.com", "bob.new@example.com"]), page_body(6)])
    policy = SuppressionPolicy(Manifests(), lambda lead_ids: {6: "cem@example.com"} if 6 in lead_ids else {})
    report = stage_inbox(bucket, intake, clock, policy=policy)
    assert report.problems == 0
    assert [(one.address, one.lead_id) for one in intake.requests] == [
        ("ann@example.com", 4),
        ("bob@example.com", 5),
        ("bob.new@example.com", 5),
        ("", 6),
    ], "of the last the lead's address of today is suppressed"


def test_who_asks_to_suppress_somebody_whom_nobody_can_name_is_kept_apart_and_read_again() -> None:
    bucket, intake = Bucket(), Intake()
    fill(bucket, [page_body(99), body(event(1)), body({**asking("unsubscribed", "x", lead_id=98), "recipient": " "})])
    report = stage_inbox(bucket, intake, clock, policy=SuppressionPolicy(Manifests()))
    assert report.events_by_type == {"unsubscribed": 2, "delivered": 1}, "they are read"
    assert report.problems == 2
    [reason] = [one.reason for one in intake.set_aside.values()]
    assert "kept apart as unattributable" in reason
    assert replay_quarantine(bucket, intake, clock) == 2
    policy = SuppressionPolicy(Manifests(), lambda _: {99: "dee@example.com"})
    assert stage_inbox(bucket, intake, clock, policy=policy).problems == 1


def test_the_end_of_a_subscription_is_a_notice() -> None:
    bucket, intake = Bucket(), Intake()
    document = {"Type": "UnsubscribeConfirmation", "MessageId": "m1", "TopicArn": "t", "Timestamp": NOW.isoformat()}
    fill(bucket, [ReceivedBody("ses", "acme", NOW, "m1", json.dumps(document).encode())])
    [notice] = stage_inbox(bucket, intake, clock).notices
    assert notice.startswith("ses/acme: SNS has ended the subscription")


def test_one_corrupt_object_of_the_archive_stops_no_replay_and_is_set_aside() -> None:
    bucket, intake = Bucket(), Intake()
    fill(bucket, [body(event(1))], [body(event(2))], [body(event(3))])
    stage_inbox(bucket, intake, clock, batch_objects=1)
    archived = sorted(key for key in bucket.objects if key.startswith("events/raw/"))
    bucket.objects[archived[1]] = b"no Parquet"
    assert replay_archive(bucket, clock, date(2026, 6, 1), date(2026, 6, 1), intake) == 2
    [aside] = intake.set_aside.values()
    assert aside.reason == "the archived object is corrupt: not a Parquet file of ours"
    assert bucket.objects[aside.staged.key] == b"no Parquet"
    assert replay_quarantine(bucket, intake, clock) == 0, "it stays, and stops nothing there either"
    assert stage_inbox(bucket, intake, clock).events == 2
