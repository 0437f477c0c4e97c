"""The receiver proves first, keeps second and acknowledges last; everything it refuses, it refuses with a reason."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from standardwebhooks import Webhook

from email_platform.content.unsubscribe import UnsubscribeSigner
from email_platform.domain.ports import ObjectInfo
from email_platform.errors import PartUnavailableError
from email_platform.events.accounts import WebhookAccounts
from email_platform.events.mailed import Mailed
from email_platform.events.received import ReceivedBody, from_parquet
from email_platform.events.suppression import SuppressionRequest
from email_platform.receiver.app import MAXIMUM_COUNTS, EventReceiver, RequestLimits, create_app
from email_platform.receiver.inbox_writer import EventInbox, InboxLimits
from email_platform.receiver.unsubscribe_page import UnsubscribePage

NOW = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)
SECRET = "whsec_" + base64.b64encode(b"a-secret-of-the-test-32-bytes-xx").decode()
SIGNER = UnsubscribeSigner(SecretStr("a secret of the test page"), "http://127.0.0.1:18080")
BODY = json.dumps({"events": [{"recipient": "ann@example.com"}]}).encode()


class Bucket:
    """Takes objects, or fails, or waits until it is let go."""

    bucket = "memory"

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.failure: Exception | None = None
        self.open = threading.Event()
        self.open.set()

    def put(self, key: str, body: bytes) -> ObjectInfo:
        assert self.open.wait(20)
        if self.failure is not None:
            raise self.failure
        assert key not in self.objects
        self.objects[key] = body
        return ObjectInfo(key, len(body), "")

    def bodies(self) -> list[ReceivedBody]:
        return [body for key in self.objects for body in from_parquet(self.objects[key])]


@dataclass
class Suppressions:
    requests: list[SuppressionRequest] = field(default_factory=list)
    is_down: bool = False
    present: dict[int, str] = field(default_factory=lambda: {4: "ann@example.com"})

    def present_addresses(self, lead_ids: Any) -> dict[int, str]:
        if self.is_down:
            raise PartUnavailableError("PostgreSQL did not answer")
        return {lead_id: self.present[lead_id] for lead_id in lead_ids if lead_id in self.present}

    def add(self, requests: Any) -> int:
        if self.is_down:
            raise PartUnavailableError("PostgreSQL did not answer")
        self.requests += requests
        return 1

    def all(self) -> Any:
        raise NotImplementedError


@dataclass
class ManifestsInMemory:
    """What was mailed, by campaign and lead."""

    mailed: dict[tuple[int, int], str] = field(default_factory=lambda: {(7, 4): "ann@example.com"})
    is_down: bool = False

    def of_lead(self, campaign_id: int, lead_id: int) -> list[Mailed]:
        if self.is_down:
            raise PartUnavailableError("S3 did not answer")
        address = self.mailed.get((campaign_id, lead_id))
        return [Mailed(lead_id, address)] if address else []

    def of_messages(self, campaign_id: int, named: Any) -> Any:
        raise NotImplementedError


@dataclass
class Bench:
    bucket: Bucket
    suppressions: Suppressions
    manifests: ManifestsInMemory
    inbox: EventInbox
    receiver: EventReceiver
    client: httpx.AsyncClient

    async def post(
        self, body: bytes = BODY, path: str = "/events/simulator/default", headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        return await self.client.post(path, content=body, headers={**signed(body), **(headers or {})})


def signed(body: bytes, identifier: str = "msg_1") -> dict[str, str]:
    now = datetime.now(UTC)
    return {
        "webhook-id": identifier,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(SECRET).sign(identifier, now, body.decode("latin-1")),
    }


async def no_fetch(address: str) -> bytes:
    raise AssertionError("nothing may be fetched")


def run(
    scenario: Callable[[Bench], Awaitable[None]],
    inbox_limits: InboxLimits | None = None,
    request_limits: RequestLimits | None = None,
    variables: dict[str, str] | None = None,
) -> Bench:
    async def main() -> Bench:
        bucket, suppressions, manifests = Bucket(), Suppressions(), ManifestsInMemory()
        inbox = EventInbox(bucket, lambda: NOW, inbox_limits or InboxLimits(batch_milliseconds=1))  # type: ignore[arg-type]
        accounts = WebhookAccounts(
            {"EMAIL_PLATFORM_SIMULATOR_WEBHOOK_SECRET": SECRET, **(variables or {})}, no_fetch, lambda: NOW
        )
        receiver = EventReceiver(accounts, inbox, lambda: NOW, request_limits or RequestLimits())
        page = UnsubscribePage(SIGNER.verify, suppressions, manifests, inbox, lambda: NOW)  # type: ignore[arg-type]
        app = create_app(receiver, page, inbox)
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://receiver") as client:
            bench = Bench(bucket, suppressions, manifests, inbox, receiver, client)
            try:
                await scenario(bench)
            finally:
                bucket.open.set()
                await inbox.aclose()
        return bench

    return asyncio.run(main())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


def test_a_proved_body_is_kept_byte_for_byte_and_then_acknowledged() -> None:
    async def scenario(bench: Bench) -> None:
        answer = await bench.post()
        assert (answer.status_code, answer.json()) == (200, {"status": "kept"})
        assert bench.bucket.bodies() == [ReceivedBody("simulator", "default", NOW, "msg_1", BODY)]

    run(scenario)


def test_no_acknowledgement_comes_before_the_bucket_has_confirmed() -> None:
    async def scenario(bench: Bench) -> None:
        bench.bucket.open.clear()
        posting = asyncio.create_task(bench.post())
        await until(lambda: bench.inbox.held_bytes > 0)
        await asyncio.sleep(0.02)
        assert not posting.done()
        bench.bucket.open.set()
        assert (await posting).status_code == 200

    run(scenario)


@pytest.mark.parametrize("failure", [PartUnavailableError("S3 does not answer"), RuntimeError("anything")])
def test_what_the_bucket_did_not_take_is_answered_with_503_and_taken_later(failure: Exception) -> None:
    async def scenario(bench: Bench) -> None:
        bench.bucket.failure = failure
        answer = await bench.post()
        assert answer.status_code == 503
        assert answer.headers["retry-after"]
        bench.bucket.failure = None
        assert (await bench.post()).status_code == 200
        assert len(bench.bucket.bodies()) == 1
        assert bench.inbox.held_bytes == 0

    run(scenario)


def test_a_bucket_that_hangs_is_answered_with_503_and_memory_stays_bounded() -> None:
    async def scenario(bench: Bench) -> None:
        bench.bucket.open.clear()
        answers = await asyncio.gather(*(bench.post() for _ in range(20)))
        assert {answer.status_code for answer in answers} == {503}
        assert bench.inbox.held_bytes <= 10 * len(BODY)
        assert {answer.json()["reason"] for answer in answers} == {
            "the inbox is full: the bucket is slower than the events",
            "the bucket did not confirm in time",
        }

    limits = InboxLimits(batch_milliseconds=1, store_within_seconds=0.05, backlog_bytes=10 * len(BODY), uploads=1)
    run(scenario, limits)


def test_many_bodies_share_few_objects() -> None:
    async def scenario(bench: Bench) -> None:
        answers = await asyncio.gather(*(bench.post() for _ in range(200)))
        assert {answer.status_code for answer in answers} == {200}
        assert len(bench.bucket.bodies()) == 200
        assert len(bench.bucket.objects) <= 20

    run(scenario, InboxLimits(batch_milliseconds=100))


def test_a_batch_of_full_size_is_stored_without_waiting() -> None:
    async def scenario(bench: Bench) -> None:
        async with asyncio.timeout(20):
            await asyncio.gather(*(bench.post() for _ in range(10)))
        assert len(bench.bucket.objects) == 5

    run(scenario, InboxLimits(batch_milliseconds=3_600_000, batch_bytes=2 * len(BODY), store_within_seconds=20))


@pytest.mark.parametrize(
    ("change", "status_code", "reason"),
    [
        ({"path": "/events/simulator/other"}, 401, "no such account may send events here"),
        ({"path": "/events/unknown/default"}, 401, "no such account may send events here"),
        (
            {"headers": {"webhook-signature": "v1,AAAA"}},
            401,
            "the signature does not match, or its time is out of the window",
        ),
        ({"headers": {"webhook-id": ""}}, 401, "header webhook-id is missing"),
        ({"headers": {"content-encoding": "gzip"}}, 415, "compressed bodies are not taken"),
        ({"headers": {"content-length": "99999999"}}, 413, "a body may have 1000 bytes"),
        ({"body": b"x" * 1001}, 413, "a body may have 1000 bytes"),
    ],
)
def test_what_is_not_proved_or_too_large_is_refused_with_a_reason(
    change: dict[str, Any], status_code: int, reason: str
) -> None:
    async def scenario(bench: Bench) -> None:
        answer = await bench.post(**change)
        assert (answer.status_code, answer.json()["reason"]) == (status_code, reason)
        assert bench.bucket.objects == {}

    run(scenario, request_limits=RequestLimits(body_bytes=1000))


async def blocks(sizes: list[int], pause: asyncio.Event | None = None) -> AsyncIterator[bytes]:
    for size in sizes:
        yield b"x" * size
    if pause is not None:
        await pause.wait()


def test_a_body_without_a_length_is_refused_at_the_limit() -> None:
    async def scenario(bench: Bench) -> None:
        answer = await bench.client.post(
            "/events/simulator/default", content=blocks([600, 600, 600]), headers=signed(b"")
        )
        assert answer.status_code == 413

    run(scenario, request_limits=RequestLimits(body_bytes=1000))


def test_a_body_that_never_ends_is_given_up() -> None:
    async def scenario(bench: Bench) -> None:
        answer = await bench.client.post(
            "/events/simulator/default", content=blocks([10], asyncio.Event()), headers=signed(b"")
        )
        assert answer.status_code == 408

    run(scenario, request_limits=RequestLimits(read_within_seconds=0.05))


def test_an_unknown_account_is_refused_before_its_body_is_read() -> None:
    async def scenario(bench: Bench) -> None:
        async with asyncio.timeout(20):
            answer = await bench.client.post("/events/ses/default", content=blocks([10], asyncio.Event()))
        assert answer.status_code == 401

    run(scenario)


def test_too_many_bodies_at_once_are_refused_for_now() -> None:
    async def scenario(bench: Bench) -> None:
        answer = await bench.post()
        assert (answer.status_code, answer.json()["reason"]) == (503, "too many bodies are being read")

    run(scenario, request_limits=RequestLimits(reading_bytes=10))


def test_a_body_that_must_hold_the_proof_and_cannot_be_read_is_a_bad_request() -> None:
    async def scenario(bench: Bench) -> None:
        answer = await bench.post(b"no json", "/events/mailgun/default")
        assert answer.status_code == 400
        assert answer.json()["reason"].startswith("the body is not JSON (at character")

    run(scenario, variables={"EMAIL_PLATFORM_MAILGUN_WEBHOOK_SIGNING_KEY": "key"})


def test_a_wrong_setting_makes_the_provider_try_again() -> None:
    async def scenario(bench: Bench) -> None:
        answer = await bench.post(path="/events/sendgrid/default")
        assert answer.status_code == 503
        assert "secret-value" not in answer.text

    run(scenario, variables={"EMAIL_PLATFORM_SENDGRID_WEBHOOK_PUBLIC_KEY": "secret-value"})


def test_nothing_of_a_body_a_path_or_a_secret_is_logged_or_shown(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(bench: Bench) -> None:
        bench.bucket.failure = PartUnavailableError("S3 does not answer")
        await bench.post()
        await bench.post(headers={"webhook-signature": "v1,c2VjcmV0"})
        await bench.post(path="/events/secret-path/x")
        await bench.post(b'{"secret', "/events/mailgun/default")
        shown = caplog.text + (await bench.client.get("/health")).text
        for text in ("ann@", "secret", "c2VjcmV0"):
            assert text not in shown.replace("secret_", "")
        assert "S3 does not answer" in shown

    with caplog.at_level(logging.DEBUG, "email_platform"):
        run(scenario, variables={"EMAIL_PLATFORM_MAILGUN_WEBHOOK_SIGNING_KEY": "key"})


def mailgun_body(token: str, recipient: str) -> bytes:
    timestamp = str(int(NOW.timestamp()))
    signature = hmac.new(b"key", f"{timestamp}{token}".encode(), "sha256").hexdigest()
    proof = {"timestamp": timestamp, "token": token, "signature": signature}
    return json.dumps({"signature": proof, "event-data": {"event": "complained", "recipient": recipient}}).encode()


def test_of_bodies_that_come_at_once_under_one_mailgun_token_one_is_taken() -> None:
    async def scenario(bench: Bench) -> None:
        bodies = [mailgun_body("t" * 50, f"forged{number}@example.com") for number in range(6)]
        answers = await asyncio.gather(*(bench.post(body, "/events/mailgun/default") for body in bodies))
        assert sorted(answer.status_code for answer in answers) == [200, 401, 401, 401, 401, 401]
        assert len(bench.bucket.bodies()) == 1

    run(
        scenario,
        InboxLimits(batch_milliseconds=50),
        variables={"EMAIL_PLATFORM_MAILGUN_WEBHOOK_SIGNING_KEY": "key"},
    )


def test_a_mailgun_body_that_could_not_be_stored_is_taken_when_it_comes_again() -> None:
    async def scenario(bench: Bench) -> None:
        body = mailgun_body("t" * 50, "ann@example.com")
        bench.bucket.failure = PartUnavailableError("S3 does not answer")
        assert (await bench.post(body, "/events/mailgun/default")).status_code == 503
        bench.bucket.failure = None
        assert (await bench.post(body, "/events/mailgun/default")).status_code == 200

    run(scenario, variables={"EMAIL_PLATFORM_MAILGUN_WEBHOOK_SIGNING_KEY": "key"})


def test_a_fault_of_a_verifier_is_a_counted_500_without_any_of_the_body(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(bench: Bench) -> None:
        async def fails(headers: object, body: bytes) -> None:
            raise RuntimeError(body)

        verifier = bench.receiver._accounts.find("simulator", "default")
        monkeypatch.setattr(verifier, "verify", fails)
        answer = await bench.post()
        assert (answer.status_code, answer.json()) == (500, {"reason": "the proof could not be checked"})
        assert bench.receiver.counts == {"500 simulator/default: the proof could not be checked": 1}
        assert bench.bucket.objects == {}

    run(scenario)


def test_refusals_are_counted_by_their_reason_however_many_objects_and_positions_they_name() -> None:
    async def scenario(bench: Bench) -> None:
        for number in range(30):
            bench.bucket.failure = PartUnavailableError(f"S3 answered 500 for the object events/inbox/{number}.parquet")
            await bench.post()
            await bench.post(b"{" * number + b"no json", "/events/mailgun/default")
        counts = (await bench.client.get("/health")).json()["counts"]
        assert counts == {
            "503 simulator/default: the bucket did not take the events": 30,
            "400 mailgun/default: the body is not JSON (at character #)": 30,
        }

    run(scenario, variables={"EMAIL_PLATFORM_MAILGUN_WEBHOOK_SIGNING_KEY": "key"})


def test_the_table_of_counts_is_bounded() -> None:
    async def scenario(bench: Bench) -> None:
        for number in range(1000):
            bench.receiver._answer(401, f"simulator/{'x' * number}", "why")
        assert len(bench.receiver.counts) <= MAXIMUM_COUNTS + 1
        assert bench.receiver.counts.total() == 1000

    run(scenario)


# --- the unsubscribe page -----------------------------------------------------------------------------------------

TOKEN = SIGNER.token(7, 4, 2)
LINK = "/unsubscribe/" + TOKEN


def test_a_get_of_the_page_shows_a_button_and_changes_nothing() -> None:
    async def scenario(bench: Bench) -> None:
        answer = await bench.client.get(LINK)
        assert answer.status_code == 200
        assert '<form method="post">' in answer.text
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert bench.suppressions.requests == []
        assert bench.bucket.objects == {}

    run(scenario)


def test_a_one_click_post_is_durable_in_both_places_before_its_answer() -> None:
    async def scenario(bench: Bench) -> None:
        answer = await bench.client.post(LINK, data={"List-Unsubscribe": "One-Click"})
        assert answer.status_code == 200
        [request] = bench.suppressions.requests
        assert (request.lead_id, request.sender_id, request.campaign_id, request.everywhere) == (4, 2, 7, False)
        [kept] = bench.bucket.bodies()
        assert kept.provider == "platform"

    run(scenario)


@pytest.mark.parametrize(("postgres_down", "bucket_down", "status_code"), [(1, 0, 200), (0, 1, 200), (1, 1, 503)])
def test_an_unsubscription_needs_one_durable_place(postgres_down: int, bucket_down: int, status_code: int) -> None:
    async def scenario(bench: Bench) -> None:
        bench.suppressions.is_down = bool(postgres_down)
        bench.bucket.failure = PartUnavailableError("S3 does not answer") if bucket_down else None
        assert (await bench.client.post(LINK)).status_code == status_code

    run(scenario)


def test_the_address_that_was_mailed_is_suppressed_and_todays_as_well() -> None:
    async def scenario(bench: Bench) -> None:
        bench.suppressions.present[4] = "ann.new@example.com"
        bench.manifests.mailed[7, 4] = "Ann@example.com"
        assert (await bench.client.post(LINK)).status_code == 200
        assert [one.address for one in bench.suppressions.requests] == ["ann@example.com", "ann.new@example.com"]
        [kept] = bench.bucket.bodies()
        assert json.loads(kept.body)["addresses"] == ["ann@example.com", "ann.new@example.com"]

    run(scenario)


@pytest.mark.parametrize("lead", [{}, {5: "somebody.else@example.com"}])
def test_a_lead_that_is_gone_emptied_or_replaced_is_unsubscribed_by_what_was_mailed(lead: dict[int, str]) -> None:
    async def scenario(bench: Bench) -> None:
        bench.suppressions.present = lead
        assert (await bench.client.post(LINK)).status_code == 200
        assert [one.address for one in bench.suppressions.requests] == ["ann@example.com"]

    run(scenario)


def test_the_page_says_unsubscribed_only_when_it_is_so() -> None:
    async def scenario(bench: Bench) -> None:
        bench.suppressions.present = {}
        bench.manifests.mailed = {}
        answer = await bench.client.post(LINK)
        assert answer.status_code == 503
        assert "do not find the address" in answer.text
        assert "You are not unsubscribed yet" in answer.text
        [kept] = bench.bucket.bodies()
        assert json.loads(kept.body)["addresses"] == [], "an operator gets to see it"

    run(scenario)


def test_while_nobody_can_look_up_what_was_mailed_todays_address_is_not_enough() -> None:
    async def scenario(bench: Bench) -> None:
        bench.manifests.is_down = True
        answer = await bench.client.post(LINK)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "60")
        assert [one.address for one in bench.suppressions.requests] == ["ann@example.com"], "what is known is done"
        bench.manifests.is_down = False
        assert (await bench.client.post(LINK)).status_code == 200

    run(scenario)


@pytest.mark.parametrize("token", ["x", "A" * 60, ("B" if TOKEN[0] == "A" else "A") + TOKEN[1:]])
def test_a_changed_link_does_nothing(token: str) -> None:
    async def scenario(bench: Bench) -> None:
        assert (await bench.client.get("/unsubscribe/" + token)).status_code == 404
        assert (await bench.client.post("/unsubscribe/" + token)).status_code == 404
        assert bench.suppressions.requests == []

    run(scenario)
