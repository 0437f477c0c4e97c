"""The receiver as a real process: what it acknowledged is there, whatever is killed; what is forged is not."""

from __future__ import annotations

import base64
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sqlalchemy import Engine, delete, insert, select, text
from standardwebhooks import Webhook

from email_platform.adapters.object_store import S3ObjectStore
from email_platform.adapters.postgres.erased import erasure_key
from email_platform.adapters.postgres.events import PostgresEventIntake, PostgresSuppressions
from email_platform.adapters.postgres.manifests import PostgresManifestStore
from email_platform.adapters.postgres.tables import app_user, campaign, lead, sender, staged_object, suppression
from email_platform.content.unsubscribe import UnsubscribeSigner
from email_platform.domain.campaigns import CampaignContent, Sender
from email_platform.domain.identity import message_id
from email_platform.domain.manifest import ELIGIBLE_SCHEMA, Manifest
from email_platform.domain.storage_layout import EVENT_INBOX_PREFIX, eligible_key, manifest_prefix
from email_platform.events.inbox import StagingReport, SuppressionPolicy, replay_quarantine, stage_inbox
from email_platform.events.mailed import ManifestAddresses
from email_platform.events.received import ReceivedBody, from_parquet
from email_platform.events.suppression import SuppressionRequest
from email_platform.events.suppression_csv import export_csv, parse_csv
from email_platform.local.stack.part import free_port
from email_platform.settings import Settings, variable_of
from tests.integration.http_clients import ClientsByThread

pytestmark = [pytest.mark.integration, pytest.mark.slow]

SECRET = "whsec_" + base64.b64encode(b"integration-secret-of-32-bytes!!").decode()
PATIENCE_SECONDS = 60.0
_numbers = count(1)


def utc_now() -> datetime:
    return datetime.now(UTC)


def eventually(condition: Callable[[], Any]) -> Any:
    """Return the condition's first true value; fail after a generous time."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.01)
    return value


@pytest.fixture
def suppressions(settings: Settings, oltp_engine: Engine) -> PostgresSuppressions:
    return PostgresSuppressions(oltp_engine, erasure_key(settings))


def answers(address: str) -> bool:
    try:
        return httpx.get(address, timeout=5, trust_env=False).status_code < 500
    except httpx.HTTPError:
        return False


@dataclass
class Process:
    """A child that can be ended in any way and started again on the same port."""

    command: list[str]
    environment: dict[str, str]
    address: str
    output: Path
    child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.output.open("ab") as output:
            self.child = subprocess.Popen(self.command, env=self.environment, stdout=output, stderr=subprocess.STDOUT)

        def ready() -> bool:
            assert self.child is not None
            assert self.child.poll() is None, self.output.read_text()
            return answers(self.address)

        eventually(ready)

    def end(self, number: int = signal.SIGKILL) -> int:
        assert self.child is not None
        self.child.send_signal(number)
        return self.child.wait(PATIENCE_SECONDS)

    def close(self) -> None:
        if self.child is not None and self.child.poll() is None:
            self.end()


@dataclass
class Bench:
    """An S3 server of its own (it is killed here), receivers over it, and the shared PostgreSQL."""

    settings: Settings
    folder: Path
    s3: Process
    store: S3ObjectStore
    intake: PostgresEventIntake
    processes: list[Process] = field(default_factory=list)

    def receiver(self, *options: str) -> Process:
        port = free_port()
        process = Process(
            [sys.executable, "-m", "email_platform.receiver", "--port", str(port), "--exit-with-parent", *options],
            {
                **os.environ,
                **self.settings.variables(),
                "EMAIL_PLATFORM_SIMULATOR_WEBHOOK_SECRET": SECRET,
                "EMAIL_PLATFORM_MAILGUN_WEBHOOK_SIGNING_KEY": "mailgun-key",
            },
            f"http://127.0.0.1:{port}/health",
            self.folder / f"receiver-{port}.log",
        )
        self.processes.append(process)
        process.start()
        return process

    def inbox(self) -> list[ReceivedBody]:
        return [body for info in self.store.list(EVENT_INBOX_PREFIX) for body in from_parquet(self.store.get(info.key))]

    def stage(self) -> StagingReport:
        return stage_inbox(self.store, self.intake, utc_now)

    def staged_events(self) -> list[dict[str, Any]]:
        """Every staged event's row, duplicates included."""
        return [
            row
            for info in self.store.list("events/normalised/")
            for row in pq.read_table(BytesIO(self.store.get(info.key))).to_pylist()
        ]


@pytest.fixture
def bench(settings: Settings, oltp_engine: Engine, tmp_path: Path) -> Iterator[Bench]:
    port = free_port()
    own = settings.model_copy(
        update={
            "s3_endpoint_url": f"http://127.0.0.1:{port}",
            "s3_bucket": "event-tests",
            "s3_access_key_id": "TESTKEY",
            "s3_secret_access_key": type(settings.unsubscribe_secret)("test-secret"),
        }
    )
    s3 = Process(
        [
            *(sys.executable, "-m", "email_platform.local.s3.server"),
            *("--data-folder", str(tmp_path / "s3"), "--host", "127.0.0.1", "--port", str(port)),
        ],
        {
            **os.environ,
            variable_of("s3_access_key_id"): "TESTKEY",
            variable_of("s3_secret_access_key"): "test-secret",
        },
        f"http://127.0.0.1:{port}/",
        tmp_path / "s3.log",
    )
    with ExitStack() as closing:
        closing.callback(s3.close)
        s3.start()
        store = S3ObjectStore.from_settings(own)
        closing.callback(store.client.close)
        store.create_bucket()
        bench = Bench(own, tmp_path, s3, store, PostgresEventIntake(oltp_engine, erasure_key(own)))
        closing.callback(lambda: [process.close() for process in bench.processes])
        yield bench


def event(identifier: str, kind: str = "delivered", **fields: Any) -> dict[str, Any]:
    return {
        "event_id": identifier,
        "type": kind,
        "subtype": None,
        "recipient": f"{identifier}@example.com",
        "occurred_at": utc_now().isoformat(),
        **fields,
    }


def encoded(*events: dict[str, Any]) -> bytes:
    return json.dumps({"events": events}).encode()


def signed(body: bytes, secret: str = SECRET) -> dict[str, str]:
    now = utc_now()
    identifier = f"msg_{next(_numbers)}"
    return {
        "webhook-id": identifier,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(secret).sign(identifier, now, body.decode()),
    }


class Provider:
    """Posts as a provider does: again and again until it is thanked."""

    def __init__(self, *receivers: Process) -> None:
        self._urls = [one.address.replace("/health", "/events/simulator/default") for one in receivers]
        self._clients = ClientsByThread(timeout=PATIENCE_SECONDS, trust_env=False)

    def __enter__(self) -> Provider:
        return self

    def __exit__(self, *_: object) -> None:
        self._clients.close()

    @property
    def client(self) -> httpx.Client:
        return self._clients.mine

    def post(self, body: bytes, secret: str = SECRET) -> int | None:
        """The status code, or None where no answer came."""
        try:
            url = random.choice(self._urls)
            return self.client.post(url, content=body, headers=signed(body, secret)).status_code
        except httpx.HTTPError:
            return None

    def post_until_answered(self, body: bytes, secret: str = SECRET) -> list[int | None]:
        """The codes of all tries: no answer and 503 ("not known to be durable") are followed by another."""
        codes: list[int | None] = []

        def answered() -> bool:
            codes.append(self.post(body, secret))
            return codes[-1] not in (None, 503)

        eventually(answered)
        return codes


def test_kill_9_right_after_an_acknowledgement_loses_nothing(bench: Bench) -> None:
    receiver = bench.receiver()
    acknowledged: set[bytes] = set()
    with Provider(receiver) as provider, ThreadPoolExecutor(8) as pool:
        for round_number in range(3):
            enough = threading.Event()
            target = len(acknowledged) + 100

            def offer(
                number: int,
                first: int = round_number * 10_000,
                limit: int = target,
                enough: threading.Event = enough,
            ) -> None:
                body = encoded(event(f"kill-{first + number}"))
                if provider.post(body) == 200:
                    acknowledged.add(body)
                    if len(acknowledged) >= limit:
                        enough.set()

            offers = [pool.submit(offer, number) for number in range(400)]
            assert enough.wait(PATIENCE_SECONDS)
            receiver.end(signal.SIGKILL)
            for one in offers:
                one.result()
            receiver.start()
    stored = {body.body for body in bench.inbox()}
    assert len(acknowledged) >= 300
    assert acknowledged <= stored


def test_while_s3_is_down_nothing_is_acknowledged_and_all_is_stored_afterwards(bench: Bench) -> None:
    receiver = bench.receiver("--store-within-seconds", "2")
    bodies = [encoded(event(f"down-{number}")) for number in range(20)]
    with Provider(receiver) as provider, ThreadPoolExecutor(8) as pool:
        assert provider.post_until_answered(bodies[0])[-1] == 200
        bench.s3.end(signal.SIGKILL)
        assert set(pool.map(provider.post, bodies[1:5])) == {503}
        bench.s3.start()
        assert {codes[-1] for codes in pool.map(provider.post_until_answered, bodies)} == {200}
    assert {body.body for body in bench.inbox()} == set(bodies)
    bench.stage()
    assert {row["event_id"] for row in bench.staged_events()} == {f"down-{number}" for number in range(20)}


def test_duplicates_and_any_order_come_to_each_event_once(bench: Bench) -> None:
    receiver = bench.receiver("--batch-milliseconds", "1")
    bodies = [encoded(*(event(f"dup-{number}-{part}") for part in range(3))) for number in range(10)]
    offered = bodies * 3
    random.Random(7).shuffle(offered)
    with Provider(receiver) as provider:
        for body in offered[:15]:
            assert provider.post(body) == 200
        bench.stage()
        for body in offered[15:]:
            assert provider.post(body) == 200
    report = bench.stage()
    assert report.problems == 0
    identities = {(row["provider"], row["event_id"]) for row in bench.staged_events()}
    assert len(identities) == 30


def test_forged_truncated_and_oversized_bodies_leave_no_trace(bench: Bench) -> None:
    receiver = bench.receiver("--maximum-body-bytes", "10000")
    body = encoded(event("forged-1"))
    with Provider(receiver) as provider:
        assert provider.post(body, "whsec_" + base64.b64encode(b"another secret").decode()) == 401
        assert provider.post(encoded(*(event(f"large-{number}") for number in range(200)))) == 413
        url = receiver.address.replace("/health", "/events/simulator/default")
        headers = signed(body)
        assert provider.client.post(url, content=body[:-1], headers=headers).status_code == 401
        assert provider.client.post(url, content=body, headers=headers).status_code == 200
        port = int(receiver.address.split(":")[2].split("/")[0])
        lines = [f"{name}: {value}" for name, value in signed(body).items()]
        head = "\r\n".join(["POST /events/simulator/default HTTP/1.1", "host: x", *lines])
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(f"{head}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body[:-10])

        def reported() -> bool:
            counts = provider.client.get(receiver.address).json()["counts"]
            return any("the connection ended before the body" in reason for reason in counts)

        eventually(reported)
    assert [kept.body for kept in bench.inbox()] == [body]


def test_slow_clients_are_given_up_and_hold_nobody_up(bench: Bench) -> None:
    receiver = bench.receiver("--read-within-seconds", "1")
    port = int(receiver.address.split(":")[2].split("/")[0])
    with ExitStack() as closing, Provider(receiver) as provider:
        slow = []
        for _ in range(50):
            connection = closing.enter_context(socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS))
            connection.sendall(b"POST /events/simulator/default HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
            slow.append(connection)
        assert provider.post(encoded(event("quick-1"))) == 200
        for connection in slow:
            assert b" 408 " in connection.recv(1000).split(b"\r\n")[0]
    assert len(bench.inbox()) == 1


def test_a_flood_over_two_receivers_is_acknowledged_and_stored_to_the_last_event(
    bench: Bench, record_property: Callable[[str, object], None]
) -> None:
    receivers = [bench.receiver(), bench.receiver()]
    bodies_offered, events_each, forged_offered = 1500, 10, 75
    chance = random.Random(3)
    offers = [(encoded(*(event(f"flood-{n}-{part}") for part in range(events_each))), SECRET) for n in range(1500)]
    wrong = "whsec_" + base64.b64encode(b"a forger's own secret").decode()
    offers += [(encoded(event(f"forged-{n}", "complained")), wrong) for n in range(forged_offered)]
    chance.shuffle(offers)
    began_seconds = time.monotonic()
    staged = StagingReport()
    with Provider(*receivers) as provider, ThreadPoolExecutor(16) as pool:
        results = pool.map(lambda offer: provider.post_until_answered(*offer), offers)
        staging = [bench.stage()]  # loading goes on meanwhile
        codes = list(results)
        seconds = time.monotonic() - began_seconds
    staging.append(bench.stage())
    staged = StagingReport(
        objects=sum(one.objects for one in staging),
        bodies=sum(one.bodies for one in staging),
        events=sum(one.events for one in staging),
    )
    rows = bench.staged_events()
    assert Counter(tries[-1] for tries in codes) == {200: bodies_offered, 401: forged_offered}
    # On a slow machine there may be a 503; what is offered again may be there twice then.
    again = sum(len(tries) - 1 for tries in codes)
    assert bodies_offered <= staged.bodies <= bodies_offered + again
    assert staged.events == len(rows) == staged.bodies * events_each
    assert len({row["event_id"] for row in rows}) == bodies_offered * events_each
    assert not [row for row in rows if row["event_id"].startswith("forged")]
    assert bench.inbox() == []
    record_property("flood", f"{bodies_offered / seconds:.0f} bodies/s, {staged.objects} inbox objects")
    print(f"{bodies_offered} bodies, {len(rows)} events in {seconds:.2f} s, {staged.objects} inbox objects")  # noqa: T201


def test_a_body_that_cannot_be_read_is_acknowledged_quarantined_and_replayed(bench: Bench, oltp_engine: Engine) -> None:
    receiver = bench.receiver()
    with Provider(receiver) as provider:
        assert provider.post(b"proved, but no JSON") == 200
    assert bench.stage().problems == 1
    quarantined = [one for one in bench.intake.quarantined() if bench.store.info(one.key)]
    assert [one.rows for one in quarantined] == [1]
    with oltp_engine.connect() as connection:
        reason = connection.execute(
            select(staged_object.c.quarantined_reason).where(staged_object.c.key == quarantined[0].key)
        ).scalar_one()
    assert reason == "simulator/default: the body is not JSON (at character 0)"
    assert replay_quarantine(bench.store, bench.intake, utc_now) == 1
    assert [body.body for body in bench.inbox()] == [b"proved, but no JSON"]
    assert bench.stage().problems == 1


def test_a_receiver_that_is_asked_to_end_answers_first_and_ends_with_0(bench: Bench) -> None:
    receiver = bench.receiver("--batch-milliseconds", "500")
    with Provider(receiver) as provider, ThreadPoolExecutor(1) as pool:
        posting = pool.submit(provider.post, encoded(event("last-1")))
        eventually(lambda: provider.client.get(receiver.address).json()["held_bytes"] > 0 or posting.done())
        assert receiver.end(signal.SIGTERM) == 0
        assert posting.result() == 200
    assert len(bench.inbox()) == 1


# --- suppression --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class People:
    """A sender with one campaign and two leads."""

    sender_id: int
    campaign_id: int
    lead_ids: tuple[int, int]
    addresses: tuple[str, str]


@pytest.fixture
def people(oltp_engine: Engine) -> People:
    number = next(_numbers)
    stamp = f"{number}-{os.getpid()}-{time.monotonic_ns()}"
    addresses = (f"ann-{stamp}@example.com", f"bob-{stamp}@example.com")
    with oltp_engine.begin() as connection:

        def add(table: Any, **values: Any) -> int:
            return int(connection.execute(insert(table).values(**values).returning(table.c.id)).scalar_one())

        owner_id = add(app_user, email=f"owner-{stamp}@example.com", name="Owner")
        sender_id = add(sender, owner_id=owner_id, from_address="news@example.com", from_name="News")
        campaign_id = add(
            campaign,
            owner_id=owner_id,
            sender_id=sender_id,
            name="c",
            subject_template="s",
            html_template="h",
            condition={},
        )
        lead_ids = tuple(add(lead, email=f" {address.upper()} ") for address in addresses)
    return People(sender_id, campaign_id, (lead_ids[0], lead_ids[1]), addresses)


def suppressed(engine: Engine, address: str) -> set[tuple[int | None, str, str]]:
    with engine.connect() as connection:
        rows = connection.execute(
            select(suppression.c.sender_id, suppression.c.reason, suppression.c.source).where(
                suppression.c.address == address
            )
        )
        return {(row.sender_id, row.reason, row.source) for row in rows}


def test_events_suppress_their_recipients_with_the_right_scope_and_only_once(
    bench: Bench, people: People, oltp_engine: Engine
) -> None:
    ann, bob = people.addresses
    receiver = bench.receiver()
    stamp = f"{people.campaign_id}"
    body = encoded(
        event(f"b-{stamp}", "bounced", subtype="hard", recipient=ann.upper()),
        event(f"s-{stamp}", "bounced", subtype="soft", recipient=bob),
        event(f"u-{stamp}", "unsubscribed", recipient=bob, campaign=str(people.campaign_id)),
    )
    with Provider(receiver) as provider:
        assert provider.post(body) == 200
        assert bench.stage().suppressions == 2
        assert provider.post(body) == 200
        assert bench.stage().suppressions == 0
    assert suppressed(oltp_engine, ann) == {(None, "hard_bounce", "simulator/default")}
    assert suppressed(oltp_engine, bob) == {(people.sender_id, "unsubscribe", "simulator/default")}


def test_one_click_suppresses_the_lead_for_its_sender_before_the_answer(
    bench: Bench, people: People, oltp_engine: Engine
) -> None:
    receiver = bench.receiver()
    signer = UnsubscribeSigner.from_settings(bench.settings)
    token = signer.token(people.campaign_id, people.lead_ids[0], people.sender_id)
    address = receiver.address.replace("/health", f"/unsubscribe/{token}")
    with httpx.Client(trust_env=False, timeout=PATIENCE_SECONDS) as client:
        assert "Unsubscribe" in client.get(address).text
        assert suppressed(oltp_engine, people.addresses[0]) == set()
        assert client.post(address, data={"List-Unsubscribe": "One-Click"}).status_code == 200
    assert suppressed(oltp_engine, people.addresses[0]) == {(people.sender_id, "unsubscribe", "one_click")}
    assert bench.stage().suppressions == 0
    [row] = [row for row in bench.staged_events() if row["campaign_id"] == people.campaign_id]
    assert (row["provider"], row["type"]) == ("platform", "unsubscribed")
    log = receiver.output.read_text()
    assert token not in log
    assert people.addresses[0] not in log


def test_an_unsubscription_of_a_deleted_campaign_or_sender_counts_everywhere(
    people: People, oltp_engine: Engine, suppressions: PostgresSuppressions
) -> None:
    with oltp_engine.begin() as connection:
        connection.execute(delete(campaign).where(campaign.c.id == people.campaign_id))
    wanted = SuppressionRequest(
        people.addresses[0], "unsubscribe", "ses/default", everywhere=False, campaign_id=people.campaign_id
    )
    assert suppressions.add([wanted, wanted]) == 1
    assert suppressions.add([wanted]) == 0
    assert suppressed(oltp_engine, people.addresses[0]) == {(None, "unsubscribe", "ses/default")}


def freeze(bench: Bench, people: People, engine: Engine, addresses: tuple[str, str]) -> None:
    """The campaign's manifest: both leads, at the addresses that they had when it was frozen."""
    manifest_id = uuid4()
    prefix = manifest_prefix(people.campaign_id, manifest_id)
    empty = [None, None]
    columns = {"position": [0, 1], "lead_id": list(people.lead_ids), "email": list(addresses), "attributes": ["{}"] * 2}
    table = pa.table(
        [pa.array(columns.get(one.name, empty), one.type) for one in ELIGIBLE_SCHEMA], schema=ELIGIBLE_SCHEMA
    )
    with bench.store.writer(eligible_key(prefix)) as file:
        pq.write_table(table, file, row_group_size=1)
    with engine.begin() as connection:
        sender_row = connection.execute(select(sender).where(sender.c.id == people.sender_id)).one()
    PostgresManifestStore(engine).freeze(
        Manifest(
            campaign_id=people.campaign_id,
            manifest_id=manifest_id,
            prefix=prefix,
            eligible_rows=2,
            excluded_by_reason={},
            chunk_rows=1,
            call_rows=1,
            sender=Sender(
                people.sender_id, sender_row.owner_id, "news@example.com", "News", None, "simulator", "default"
            ),
            content=CampaignContent("s", "h", ""),
            on_unknown="hold",
            frozen_at=utc_now(),
        )
    )


WHAT_BECOMES_OF_THE_LEAD = {
    "deleted": "delete from lead where id = :lead_id",
    "emptied": "update lead set email = null where id = :lead_id",
    "changed": "update lead set email = 'new.' || btrim(lower(email)) where id = :lead_id",
    "imported again under another id": (
        "with gone as (delete from lead where id = :lead_id returning email) "
        "insert into lead (email) select email from gone"
    ),
}


@pytest.mark.parametrize("fate", WHAT_BECOMES_OF_THE_LEAD)
def test_one_click_suppresses_the_address_that_was_mailed_whatever_became_of_the_lead(
    bench: Bench, people: People, oltp_engine: Engine, fate: str, suppressions: PostgresSuppressions
) -> None:
    ann, _ = people.addresses
    freeze(bench, people, oltp_engine, people.addresses)
    with oltp_engine.begin() as connection:
        connection.execute(text(WHAT_BECOMES_OF_THE_LEAD[fate]), {"lead_id": people.lead_ids[0]})
    receiver = bench.receiver()
    signer = UnsubscribeSigner.from_settings(bench.settings)
    token = signer.token(people.campaign_id, people.lead_ids[0], people.sender_id)
    with httpx.Client(trust_env=False, timeout=PATIENCE_SECONDS) as client:
        answer = client.post(receiver.address.replace("/health", f"/unsubscribe/{token}"))
    assert (answer.status_code, "You are unsubscribed" in answer.text) == (200, True)
    expected = {(people.sender_id, "unsubscribe", "one_click")}
    assert suppressed(oltp_engine, ann) == expected
    assert suppressed(oltp_engine, f"new.{ann}") == (expected if fate == "changed" else set())
    # Whoever has the address now: another lead, in another spelling.
    found = suppressions.suppressed(people.sender_id, [10**12], [f" {ann.upper()}"])
    assert found == {10**12: "unsubscribe"}


def test_a_token_of_a_lead_that_never_existed_is_no_success(bench: Bench, people: People, oltp_engine: Engine) -> None:
    freeze(bench, people, oltp_engine, people.addresses)
    receiver = bench.receiver()
    token = UnsubscribeSigner.from_settings(bench.settings).token(people.campaign_id, 10**15, people.sender_id)
    with httpx.Client(trust_env=False, timeout=PATIENCE_SECONDS) as client:
        answer = client.post(receiver.address.replace("/health", f"/unsubscribe/{token}"))
    assert answer.status_code == 503
    assert "You are unsubscribed" not in answer.text
    policy = SuppressionPolicy(ManifestAddresses(bench.store, PostgresManifestStore(oltp_engine).find))
    assert stage_inbox(bench.store, bench.intake, utc_now, policy=policy).problems == 1, "kept apart for an operator"


def test_events_are_judged_by_whom_we_mailed_and_reach_todays_address(
    bench: Bench, people: People, oltp_engine: Engine, suppressions: PostgresSuppressions
) -> None:
    ann, bob = people.addresses
    freeze(bench, people, oltp_engine, people.addresses)
    with oltp_engine.begin() as connection:
        connection.execute(
            text("update lead set email = 'new.' || btrim(lower(email)) where id = any(:ids)"),
            {"ids": list(people.lead_ids)},
        )
    ours = [str(message_id(people.campaign_id, lead_id)) for lead_id in people.lead_ids]
    stamp, here = f"w-{people.campaign_id}", str(people.campaign_id)
    stranger = f"stranger-{stamp}@other.example"
    body = encoded(
        event(f"{stamp}-1", "bounced", subtype="hard", recipient=stranger, campaign=here, message_id=ours[0]),
        event(f"{stamp}-2", "unsubscribed", recipient=stranger, campaign=here, message_id=ours[1]),
    )
    receiver = bench.receiver()
    with Provider(receiver) as provider:
        assert provider.post(body) == 200
    policy = SuppressionPolicy(
        ManifestAddresses(bench.store, PostgresManifestStore(oltp_engine).find),
        suppressions.present_addresses,
    )
    assert stage_inbox(bench.store, bench.intake, utc_now, policy=policy).suppressions == 3
    assert suppressed(oltp_engine, stranger) == set()
    assert suppressed(oltp_engine, ann) == {(None, "hard_bounce", "simulator/default")}
    assert suppressed(oltp_engine, f"new.{ann}") == set(), "another address is not dead"
    for address in (bob, f"new.{bob}"):
        assert suppressed(oltp_engine, address) == {(people.sender_id, "unsubscribe", "simulator/default")}


def test_a_complaint_that_is_taken_back_lifts_its_suppression_and_no_newer_or_other_one(
    people: People, oltp_engine: Engine, suppressions: PostgresSuppressions
) -> None:
    ann, bob = people.addresses
    at = utc_now()

    def request(address: str, minutes: int, **more: Any) -> SuppressionRequest:
        return SuppressionRequest(
            address,
            "complaint",
            "ses/default",
            everywhere=False,
            campaign_id=people.campaign_id,
            created_at=at + timedelta(minutes=minutes),
            **more,
        )

    assert suppressions.add([request(ann, 5, lifts=True), request(ann, 0)]) == 1, "in one batch, in any order"
    assert suppressed(oltp_engine, ann) == set()
    assert suppressions.add([request(ann, 10)]) == 1
    assert suppressions.add([request(ann, 5, lifts=True)]) == 0
    assert suppressed(oltp_engine, ann) == {(people.sender_id, "complaint", "ses/default")}, "a newer complaint stands"
    suppressions.add(
        [SuppressionRequest(bob, "unsubscribe", "one_click", everywhere=False, sender_id=people.sender_id)]
    )
    suppressions.add([request(bob, 60, lifts=True)])
    assert suppressed(oltp_engine, bob) == {(people.sender_id, "unsubscribe", "one_click")}


def test_who_opted_out_under_one_lead_is_left_out_of_a_call_under_every_lead(
    people: People, oltp_engine: Engine, suppressions: PostgresSuppressions
) -> None:
    ann, bob = people.addresses
    with oltp_engine.begin() as connection:
        connection.execute(text("update lead set unsubscribed_at = now() where id = :id"), {"id": people.lead_ids[0]})
    found = suppressions.suppressed(people.sender_id, [10**12, people.lead_ids[1]], [f"\u00a0{ann.title()}\t", bob])
    assert found == {10**12: "unsubscribe"}
    look_up = "select 1 from lead where unsubscribed_at is not null and email_address_key(email) = any(:addresses)"
    with oltp_engine.begin() as connection:
        connection.execute(text("set local enable_seqscan = off"))
        plan = connection.execute(text(f"explain {look_up}"), {"addresses": [ann]}).scalars().all()
    assert any("ix_lead_unsubscribed_address" in line for line in plan), "one look-up an address in an index"


def test_half_heads_of_one_peer_keep_nobody_else_from_the_receiver(bench: Bench) -> None:
    receiver = bench.receiver("--head-within-seconds", "1.5", "--connections-per-peer", "100")
    port = int(receiver.address.rsplit(":", 1)[1].split("/")[0])
    with ExitStack() as closing, Provider(receiver) as provider:
        for _ in range(1100):
            half = closing.enter_context(socket.socket())
            half.settimeout(PATIENCE_SECONDS)
            half.bind(("127.0.0.2", 0))
            half.connect(("127.0.0.1", port))
            with suppress(OSError):  # it is closed at once, beyond the bound
                half.sendall(b"POST /events/simulator/default HTTP/1.1\r\nhost: x\r\nx-a: ")
        assert provider.post(encoded(event("half-1"))) == 200

        def connections() -> dict[str, int]:
            return dict(httpx.get(receiver.address, trust_env=False, timeout=PATIENCE_SECONDS).json()["connections"])

        assert eventually(lambda: connections()["slow heads"] >= 100)
        assert connections()["refused"] >= 900
        assert provider.post(encoded(event("half-2"))) == 200
        # A head that grows for ever, of another peer, is refused as well.
        address = ("127.0.0.1", port)
        with socket.create_connection(address, PATIENCE_SECONDS, ("127.0.0.3", 0)) as endless, suppress(OSError):
            endless.sendall(b"GET / HTTP/1.1\r\n")
            for _ in range(100):
                endless.sendall(b"x-a: " + b"a" * 4096 + b"\r\n")
        assert eventually(lambda: connections()["large heads"] == 1)


def test_suppressions_are_exported_and_imported_as_csv(
    people: People, oltp_engine: Engine, suppressions: PostgresSuppressions
) -> None:
    ann, bob = people.addresses
    content = f"address,sender_id,reason\n{ann.upper()},,\n{bob},{people.sender_id},complaint\n"
    parsed = parse_csv(content.encode().splitlines(keepends=True), suppressions.sender_ids())
    requests = [one for one in parsed if isinstance(one, SuppressionRequest)]
    assert suppressions.add(requests) == 2
    exported = [line for line in export_csv(suppressions.all()) if line.startswith(people.addresses)]
    assert [line.split(",")[:4] for line in exported] == [
        [ann, "", "manual", "import"],
        [bob, str(people.sender_id), "complaint", "import"],
    ]


# --- end to end with the provider simulator -----------------------------------------------------------------------


def test_the_simulators_disorderly_webhooks_end_as_each_event_once_while_the_receiver_is_killed(bench: Bench) -> None:
    receiver = bench.receiver()
    port = free_port()
    url = receiver.address.replace("/health", "/events/simulator/default")
    simulator = Process(
        [
            *(sys.executable, "-m", "email_platform.local.provider_simulator", "--exit-with-parent"),
            *("--data-folder", str(bench.folder / "provider"), "--port", str(port), "--webhook-url", url),
            *("--webhook-batch-size", "7", "--webhook-duplicate-probability", "0.5", "--webhook-retry-base-seconds"),
            *("0.02", "--webhook-retry-limit-seconds", "0.2", "--webhook-reorder-probability", "0.5"),
            *("--webhook-reorder-hold-seconds", "0.2", "--bounce-rate", "0", "--soft-bounce-rate", "0"),
            *("--complaint-rate", "0", "--open-rate", "0", "--click-rate", "0", "--unsubscribe-rate", "0"),
        ],
        {
            **os.environ,
            "EMAIL_PLATFORM_PROVIDER_API_KEY": "key",
            "EMAIL_PLATFORM_PROVIDER_WEBHOOK_SECRET": SECRET,
        },
        f"http://127.0.0.1:{port}/health",
        bench.folder / "simulator.log",
    )
    bench.processes.append(simulator)
    simulator.start()
    labels = ["success", "bounce", "softbounce", "complaint", "click", "unsubscribe"]
    messages = [str(uuid4()) for _ in range(300)]
    with httpx.Client(
        base_url=f"http://127.0.0.1:{port}", headers={"authorization": "Bearer key"}, trust_env=False, timeout=60
    ) as client:
        for first in range(0, 300, 50):
            recipients = [
                {
                    "to": f"lead{number}+{labels[number % 6]}@example.com",
                    "message_id": messages[number],
                    "subject": "Hi",
                    "text": "Hello",
                }
                for number in range(first, first + 50)
            ]
            call = {"from": "ann@example.com", "tags": {"campaign_id": "7"}, "recipients": recipients}
            assert client.post("/v1/bulk", json=call).status_code == 200
        receiver.end(signal.SIGKILL)
        receiver.start()

        def delivered() -> bool:
            webhooks = client.get("/admin/statistics").json()["webhooks"]
            return webhooks["waiting_posts"] == webhooks["unexpanded_recipients"] == 0

        eventually(delivered)
    bench.stage()
    once = {row["event_key"]: row for row in bench.staged_events()}
    best: dict[str, tuple[int, str, str]] = {}
    for row in once.values():
        rank = (row["status_rank"], row["type"], row["subtype"])
        best[row["message_id"]] = max(best.get(row["message_id"], rank), rank)
    wanted = [
        ("delivered", ""),
        ("bounced", "hard"),
        ("bounced", "soft"),
        ("complained", "abuse"),
        ("clicked", ""),
        ("unsubscribed", ""),
    ]
    assert {message: rank[1:] for message, rank in best.items()} == {
        message: wanted[number % 6] for number, message in enumerate(messages)
    }
    assert {row["campaign_id"] for row in once.values()} == {7}
