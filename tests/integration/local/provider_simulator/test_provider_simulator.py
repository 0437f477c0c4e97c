"""The simulator as a real process: what it answers, what it logs, and what survives a kill."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from email_platform.local.provider_simulator import AcceptedLog
from email_platform.local.stack.part import free_port
from tests.integration.http_clients import ClientsByThread

pytestmark = [pytest.mark.integration, pytest.mark.slow]

_API_KEY = "integration-key"
_SECRET = "whsec_" + base64.b64encode(b"integration-secret-of-32-bytes!!").decode()
_PATIENCE_SECONDS = 20.0
_QUIET_RATES = [
    option
    for name in ("bounce", "soft-bounce", "complaint", "open", "click", "unsubscribe")
    for option in (f"--{name}-rate", "0")
]


def _eventually(condition: Callable[[], Any]) -> Any:
    """Return the condition's first true value; fail after a generous time."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        if value := condition():
            return value
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.02)


class _Process:
    """One simulator process over a data folder, restartable on the same folder and port."""

    def __init__(self, data_folder: Path, *options: str) -> None:
        self.data_folder = data_folder
        self.port = free_port()
        self._options = options
        self._clients = ClientsByThread(
            base_url=f"http://127.0.0.1:{self.port}",
            headers={"authorization": f"Bearer {_API_KEY}"},
            timeout=_PATIENCE_SECONDS,
            trust_env=False,
        )
        self.output = ""
        self.process = self._start()

    @property
    def client(self) -> httpx.Client:
        return self._clients.mine

    @property
    def log(self) -> AcceptedLog:
        return AcceptedLog(self.data_folder)

    def _start(self) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "email_platform.local.provider_simulator"),
                *("--data-folder", str(self.data_folder), "--port", str(self.port)),
                *("--exit-with-parent", "--webhook-retry-base-seconds", "0.02"),
                *_QUIET_RATES,
                *self._options,
            ],
            env={
                **os.environ,
                "EMAIL_PLATFORM_PROVIDER_API_KEY": _API_KEY,
                "EMAIL_PLATFORM_PROVIDER_WEBHOOK_SECRET": _SECRET,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

        def healthy() -> bool:
            assert process.poll() is None, process.communicate()[0]
            try:
                return self.client.get("/health").status_code == 200
            except httpx.HTTPError:
                return False

        _eventually(healthy)
        return process

    def end(self, number: int) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(number)
        output, _ = self.process.communicate(timeout=_PATIENCE_SECONDS)
        self.output += output
        return self.process.returncode

    def restart(self) -> None:
        self.process = self._start()

    def kill_and_restart(self) -> None:
        self.end(signal.SIGKILL)
        self.restart()

    def close(self) -> None:
        if self.process.poll() is None:
            self.end(signal.SIGKILL)
        self.process.communicate()
        self._clients.close()

    def send(self, body: dict[str, Any], key: str | None = None, **options: Any) -> httpx.Response:
        headers = {} if key is None else {"idempotency-key": key}
        return self.client.post("/v1/bulk", json=body, headers=headers, **options)

    def steer(self, **faults: Any) -> None:
        self.client.put("/admin/faults", json=faults).raise_for_status()

    def statistics(self) -> dict[str, Any]:
        return self.client.get("/admin/statistics").raise_for_status().json()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., _Process]]:
    """Start simulators on the test's own data folder; they end with the test."""
    started: list[_Process] = []

    def start_one(*options: str) -> _Process:
        started.append(_Process(tmp_path / "provider", *options))
        return started[-1]

    yield start_one
    for process in started:
        process.close()


@pytest.fixture
def simulator(start: Callable[..., _Process]) -> _Process:
    return start()


def _call(campaign: str = "c1", *message_ids: str, **fields: Any) -> dict[str, Any]:
    return {
        "from": "Ann <ann@example.com>",
        "tags": {"campaign_id": campaign, "call_id": f"call-{campaign}"},
        "recipients": [
            {
                "to": f"{message_id}@example.com",
                "message_id": message_id,
                "subject": "Hi",
                "text": "Hello",
                "headers": {"List-Unsubscribe": "<https://example.com/u>"},
            }
            for message_id in message_ids or ("m1",)
        ],
        **fields,
    }


def test_an_answered_acceptance_survives_a_kill(simulator: _Process) -> None:
    answer = simulator.send(_call("c1", "m1", "m2"), key="k1")
    simulator.end(signal.SIGKILL)
    results = answer.json()["results"]
    assert [result["status"] for result in results] == ["accepted", "accepted"]
    rows = list(simulator.log.rows("c1"))
    assert [row.provider_message_id for row in rows] == [result["provider_message_id"] for result in results]
    assert [(row.message_id, row.recipient, row.idempotency_key, row.call_id) for row in rows] == [
        ("m1", "m1@example.com", "k1", "call-c1"),
        ("m2", "m2@example.com", "k1", "call-c1"),
    ]
    assert all(row.accepted_at.tzinfo is not None for row in rows)


def test_killed_under_load_it_has_logged_every_call_it_answered(simulator: _Process) -> None:
    answered: list[str] = []

    def keep_sending(worker: int) -> None:
        for ordinal in range(100_000):
            message_id = f"m-{worker}-{ordinal}"
            try:
                if simulator.send(_call("load", message_id)).status_code != 200:
                    return
            except httpx.HTTPError:
                return
            answered.append(message_id)

    with ThreadPoolExecutor(4) as pool:
        workers = [pool.submit(keep_sending, worker) for worker in range(4)]
        _eventually(lambda: len(answered) >= 40)
        simulator.process.kill()
        for worker in workers:
            worker.result()
    assert set(answered) <= simulator.log.message_ids("load")


@pytest.mark.parametrize(
    ("fault", "observed"),
    [
        ("outage", 503),
        ("refuse_account", 403),
        ("throttle", 429),
        ("error_5xx_before", 500),
        ("reset_before", httpx.ReadError),
    ],
)
def test_a_fault_before_the_acceptance_leaves_nothing_in_the_log(
    simulator: _Process, fault: str, observed: int | type[Exception]
) -> None:
    simulator.steer(script=[fault])
    if isinstance(observed, int):
        assert simulator.send(_call(), key="k").status_code == observed
    else:
        with pytest.raises(observed):
            simulator.send(_call(), key="k")
    assert simulator.log.summary("c1").accepted_rows == 0
    assert simulator.statistics()["faults"][fault] == 1
    assert simulator.send(_call(), key="k").status_code == 200
    assert simulator.log.summary("c1").accepted_rows == 1


@pytest.mark.parametrize(
    ("fault", "observed"),
    [
        ("slow", 200),
        ("error_5xx_after", 500),
        ("reset_after", httpx.ReadError),
        ("slow_response", 200),
        ("drop_response", httpx.ReadTimeout),
    ],
)
def test_a_fault_after_the_acceptance_spoils_the_answer_but_not_the_log(
    simulator: _Process, fault: str, observed: int | type[Exception]
) -> None:
    simulator.steer(script=[fault], slow_seconds=0.05, slow_response_seconds=0.05)
    if isinstance(observed, int):
        assert simulator.send(_call(), key="k").status_code == observed
    else:
        with pytest.raises(observed):
            simulator.send(_call(), key="k", timeout=httpx.Timeout(_PATIENCE_SECONDS, read=0.5))
    assert simulator.log.summary("c1").accepted_rows == 1
    assert simulator.statistics()["faults"][fault] == 1
    replay = simulator.send(_call(), key="k")
    assert (replay.status_code, replay.headers["idempotent-replayed"]) == (200, "true")
    assert simulator.log.duplicates() == {}


def test_a_dropped_response_ends_in_a_reset_at_its_limit(simulator: _Process) -> None:
    simulator.steer(script=["drop_response"], drop_response_limit_seconds=0.1)
    with pytest.raises(httpx.ReadError):
        simulator.send(_call())
    assert simulator.log.summary("c1").accepted_rows == 1


def test_a_slow_call_is_accepted_although_its_client_hung_up(simulator: _Process) -> None:
    simulator.steer(script=["slow"], slow_seconds=0.6)
    with pytest.raises(httpx.ReadTimeout):
        simulator.send(_call(), timeout=httpx.Timeout(_PATIENCE_SECONDS, read=0.1))
    _eventually(lambda: simulator.log.summary("c1").accepted_rows == 1)


def test_probabilities_and_switches_are_steered_at_run_time(simulator: _Process) -> None:
    simulator.steer(probabilities={"throttle": 1.0})
    assert {simulator.send(_call()).status_code for _ in range(3)} == {429}
    simulator.steer(outage=True)
    assert simulator.send(_call()).status_code == 503
    assert simulator.client.get("/health").status_code == 200
    simulator.client.delete("/admin/faults").raise_for_status()
    assert simulator.send(_call()).status_code == 200
    assert simulator.client.get("/admin/faults").json()["probabilities"] == {}
    refused = simulator.client.put("/admin/faults", json={"probabilities": {"explode": 1}})
    assert refused.status_code == 400
    assert "explode" in refused.json()["error"]["message"]


def test_the_same_seed_meets_the_same_calls_after_a_restart(start: Callable[..., _Process]) -> None:
    simulator = start("--seed", "11", "--fault", "throttle=0.3", "--fault", "error_5xx_before=0.3")
    first = [simulator.send(_call()).status_code for _ in range(30)]
    simulator.kill_and_restart()
    assert [simulator.send(_call()).status_code for _ in range(30)] == first
    assert set(first) == {200, 429, 500}


def test_without_a_key_the_same_call_is_accepted_again_and_the_log_says_so(simulator: _Process) -> None:
    for _ in range(2):
        simulator.send(_call("c1", "m1")).raise_for_status()
    assert simulator.log.duplicates("c1") == {"m1": 2}
    duplicates = simulator.client.get("/admin/accepted/duplicates").json()
    assert duplicates == {"duplicates": [{"message_id": "m1", "times": 2}]}


def test_a_key_replays_its_answer_and_refuses_another_payload_also_after_a_kill(simulator: _Process) -> None:
    first = simulator.send(_call("c1", "m1"), key="k")
    for _ in range(2):
        again = simulator.send(_call("c1", "m1"), key="k")
        assert (again.status_code, again.content) == (200, first.content)
        other = simulator.send(_call("c1", "m2"), key="k")
        assert (other.status_code, other.json()["error"]["code"]) == (409, "idempotency_key_reused")
        simulator.kill_and_restart()
    assert simulator.log.summary("c1").accepted_rows == 1


def test_a_key_in_flight_is_refused_with_its_own_code(simulator: _Process) -> None:
    simulator.steer(script=["slow"], slow_seconds=1.0)
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(simulator.send, _call(), "k")
        _eventually(lambda: simulator.statistics()["faults"]["slow"] == 1)
        second = simulator.send(_call(), key="k")
        assert (second.status_code, second.json()["error"]["code"]) == (409, "idempotency_in_flight")
        assert slow.result().status_code == 200
    assert simulator.send(_call(), key="k").content == slow.result().content
    assert simulator.log.summary("c1").accepted_rows == 1


def test_a_key_expires_after_its_lifetime(start: Callable[..., _Process]) -> None:
    simulator = start("--idempotency-lifetime-seconds", "0.001")
    simulator.send(_call(), key="k").raise_for_status()
    assert _eventually(lambda: "idempotent-replayed" not in simulator.send(_call(), key="k").headers)
    assert simulator.log.summary("c1").accepted_rows >= 2


def test_with_idempotency_off_a_key_protects_from_nothing(start: Callable[..., _Process]) -> None:
    simulator = start("--idempotency", "off")
    for _ in range(2):
        simulator.send(_call("c1", "m1"), key="k").raise_for_status()
    assert simulator.log.duplicates() == {"m1": 2}
    assert {row.idempotency_key for row in simulator.log.rows()} == {"k"}


def test_calls_beyond_the_rate_are_refused_with_retry_after(start: Callable[..., _Process]) -> None:
    simulator = start("--recipients-per-second", "0.01", "--burst-seconds", "200")
    simulator.send(_call("c1", "m1", "m2")).raise_for_status()
    excess = simulator.send(_call("c1", "m3"))
    error = excess.json()["error"]
    assert (excess.status_code, error["code"]) == (429, "Throttled")
    assert int(excess.headers["retry-after"]) >= error["retry_after_seconds"] > 0
    assert simulator.log.summary("c1").accepted_rows == 2
    limits = {"recipients_per_second": None, "calls_per_second": None}
    simulator.client.put("/admin/rate_limit", json=limits).raise_for_status()
    simulator.send(_call("c1", "m3")).raise_for_status()


@pytest.mark.parametrize("authorization", ["", "Bearer wrong", f"Basic {_API_KEY}", _API_KEY])
def test_a_forged_key_is_refused_everywhere(simulator: _Process, authorization: str) -> None:
    headers = {"authorization": authorization}
    assert simulator.client.post("/v1/bulk", json=_call(), headers=headers).status_code == 401
    assert simulator.client.get("/admin/statistics", headers=headers).status_code == 401
    assert simulator.client.put("/admin/faults", json={}, headers=headers).status_code == 401
    assert simulator.log.summary().accepted_rows == 0


def test_limits_and_wrong_fields_refuse_the_whole_call(start: Callable[..., _Process]) -> None:
    simulator = start("--maximum-body-bytes", "20000", "--blocked-domain", "blocked.example")
    too_many = simulator.send(_call("c1", *(f"m{number}" for number in range(51))))
    assert (too_many.status_code, too_many.json()["error"]["code"]) == (400, "TooManyRecipients")
    wrong = simulator.send(_call(recipients=[{"to": "a@example.com", "message_id": "m1", "html": "x"}]))
    assert (wrong.status_code, wrong.json()["error"]["path"]) == (400, "recipients[0].subject")
    assert simulator.send(_call(), key="k" * 257).json()["error"]["code"] == "InvalidIdempotencyKey"
    assert simulator.send(_call(subject="x" * 30_000)).status_code == 413
    assert simulator.send(_call(subject="x" * 900_000)).status_code == 413
    assert simulator.client.get("/v1/bulk").status_code == 405
    assert simulator.log.summary().accepted_rows == 0
    assert simulator.log.rejected_rows() == 0


def test_one_bad_recipient_does_not_stop_the_others(start: Callable[..., _Process]) -> None:
    simulator = start("--blocked-domain", "blocked.example")
    call = _call("c1", "m1", "m2", "m3")
    call["recipients"][0]["to"] = "nowhere"
    call["recipients"][1]["to"] = "x@blocked.example"
    results = simulator.send(call).json()["results"]
    assert [result.get("code") for result in results] == ["InvalidAddress", "BlockedDomain", None]
    summary = simulator.client.get("/admin/accepted/summary", params={"campaign": "c1"}).json()
    assert summary == {
        "campaign": "c1",
        "accepted_rows": 1,
        "distinct_message_ids": 1,
        "distinct_addresses": 1,
        "calls": 1,
        "rejected_rows": 2,
    }


def test_the_accepted_log_is_paged_in_order(simulator: _Process) -> None:
    simulator.send(_call("c1", "m1", "m2", "m3")).raise_for_status()
    simulator.send(_call("c2", "n1")).raise_for_status()
    first = simulator.client.get("/admin/accepted", params={"campaign": "c1", "limit": 2}).json()
    rest = simulator.client.get(
        "/admin/accepted", params={"campaign": "c1", "limit": 2, "after": first["next_after"]}
    ).json()
    assert [row["message_id"] for page in (first, rest) for row in page["rows"]] == ["m1", "m2", "m3"]
    assert rest["next_after"] is None
    assert simulator.client.get("/admin/accepted", params={"limit": "x"}).status_code == 400
    assert simulator.log.counts_by_campaign() == {"c1": 3, "c2": 1}
    messages = simulator.client.get("/admin/recent_messages").json()["messages"]
    assert [message["text"] for message in messages] == ["Hello"] * 4


class _Receiver:
    """A webhook receiver that keeps what it got and answers by its list (200 when that is empty)."""

    def __init__(self) -> None:
        self.posts: list[tuple[dict[str, str], bytes, int]] = []
        self.answers: list[int] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                status = receiver.answers.pop(0) if receiver.answers else 200
                headers = {name.lower(): value for name, value in self.headers.items()}
                receiver.posts.append((headers, body, status))
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/events"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def events(self) -> list[dict[str, Any]]:
        """Return the events of posts that were taken."""
        return [event for _, body, status in self.posts if status == 200 for event in json.loads(body)["events"]]


@pytest.fixture
def receiver() -> Iterator[_Receiver]:
    running = _Receiver()
    yield running
    running.close()


def _is_signed(headers: dict[str, str], body: bytes) -> bool:
    key = base64.b64decode(_SECRET.removeprefix("whsec_"))
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    digest = hmac.new(key, signed, hashlib.sha256).digest()
    return headers["webhook-signature"] == "v1," + base64.b64encode(digest).decode()


def test_events_are_delivered_signed_and_mean_what_the_addresses_say(
    start: Callable[..., _Process], receiver: _Receiver
) -> None:
    simulator = start("--webhook-url", receiver.url)
    call = _call("c1", "m1", "m2", "m3", "m4")
    names = ("success", "bounce+x", "complaint", "suppressionlist")
    for recipient, name in zip(call["recipients"], names, strict=True):
        recipient["to"] = f"{name}@simulator.amazonses.com"
    results = simulator.send(call).json()["results"]
    _eventually(lambda: len(receiver.events()) >= 5)
    assert all(_is_signed(headers, body) for headers, body, _ in receiver.posts)
    happened = {(event["message_id"], event["type"], event["subtype"], event["detail"]) for event in receiver.events()}
    assert happened == {
        ("m1", "delivered", None, None),
        ("m2", "bounced", "hard", "General"),
        ("m3", "delivered", None, None),
        ("m3", "complained", "abuse", None),
        ("m4", "bounced", "hard", "Suppressed"),
    }
    assert {event["provider_message_id"] for event in receiver.events()} == {
        result["provider_message_id"] for result in results
    }
    assert simulator.log.events_by_type("c1") == {"delivered": 2, "bounced": 2, "complained": 1}


def test_a_refused_post_is_repeated_with_the_same_id_and_bytes(
    start: Callable[..., _Process], receiver: _Receiver
) -> None:
    simulator = start("--webhook-url", receiver.url)
    receiver.answers.extend([500, 503])
    simulator.send(_call("c1", "m1", "m2")).raise_for_status()
    _eventually(receiver.events)
    _eventually(lambda: simulator.statistics()["webhooks"]["waiting_posts"] == 0)
    assert [status for _, _, status in receiver.posts] == [500, 503, 200]
    assert len({(headers["webhook-id"], body) for headers, body, _ in receiver.posts}) == 1
    assert all(_is_signed(headers, body) for headers, body, _ in receiver.posts)


def test_events_wait_for_a_receiver_and_survive_a_kill(simulator: _Process, receiver: _Receiver) -> None:
    simulator.send(_call("c1", "m1", "m2")).raise_for_status()
    receiver.answers.extend([500] * 3)
    webhooks = {"url": receiver.url, "batch_size": 1, "retry_base_seconds": 3600}
    simulator.client.put("/admin/webhooks", json=webhooks).raise_for_status()
    _eventually(lambda: len(receiver.posts) >= 2)
    simulator.end(signal.SIGKILL)
    simulator.restart()
    receiver.answers.clear()
    simulator.client.put("/admin/webhooks", json={"url": receiver.url}).raise_for_status()
    _eventually(lambda: {event["message_id"] for event in receiver.events()} == {"m1", "m2"})
    # Undelivered posts kept their ids and bytes over the kill.
    assert len({headers["webhook-id"] for headers, _, _ in receiver.posts}) == 2
    assert len({body for _, body, _ in receiver.posts}) == 2


def test_duplicates_and_disorder_come_on_request(start: Callable[..., _Process], receiver: _Receiver) -> None:
    simulator = start(
        *("--webhook-url", receiver.url, "--webhook-batch-size", "2", "--open-rate", "1", "--seed", "4"),
        *("--webhook-duplicate-probability", "1", "--webhook-reorder-probability", "1"),
        *("--webhook-reorder-hold-seconds", "0.2"),
    )
    simulator.send(_call("c1", *(f"m{number}" for number in range(20)))).raise_for_status()
    _eventually(lambda: len({event["event_id"] for event in receiver.events()}) == 40)
    _eventually(lambda: len(receiver.events()) == 80)
    ids = [headers["webhook-id"] for headers, _, _ in receiver.posts]
    assert {ids.count(name) for name in ids} == {2}
    occurred = [event["occurred_at"] for event in receiver.events()]
    assert occurred != sorted(occurred)


def test_sigterm_ends_it_cleanly_even_with_a_call_waiting(simulator: _Process) -> None:
    simulator.steer(script=["drop_response"])
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(simulator.send, _call())
        _eventually(lambda: simulator.log.summary("c1").accepted_rows == 1)
        assert simulator.end(signal.SIGTERM) == 0
        assert isinstance(waiting.exception(), httpx.HTTPError)
    assert "Traceback" not in simulator.output
    assert _API_KEY not in simulator.output
    assert _SECRET not in simulator.output


def test_a_second_process_on_the_same_folder_or_a_public_host_is_refused(simulator: _Process) -> None:
    environment = {
        **os.environ,
        "EMAIL_PLATFORM_PROVIDER_API_KEY": _API_KEY,
        "EMAIL_PLATFORM_PROVIDER_WEBHOOK_SECRET": _SECRET,
    }
    base = [sys.executable, "-m", "email_platform.local.provider_simulator", "--port", "0", "--data-folder"]
    for options, problem in (
        ([str(simulator.data_folder)], "another simulator"),
        ([str(simulator.data_folder), "--host", "0.0.0.0"], "loopback"),
    ):
        refused = subprocess.run(
            [*base, *options], env=environment, capture_output=True, text=True, timeout=_PATIENCE_SECONDS
        )
        assert refused.returncode == 2
        assert problem in refused.stderr


def test_it_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    port = free_port()
    starter = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import subprocess, sys; subprocess.Popen(sys.argv[1:]); sys.stdin.read()",
            *(sys.executable, "-m", "email_platform.local.provider_simulator"),
            *("--data-folder", str(tmp_path / "provider"), "--port", str(port), "--exit-with-parent"),
        ],
        env={
            **os.environ,
            "EMAIL_PLATFORM_PROVIDER_API_KEY": _API_KEY,
            "EMAIL_PLATFORM_PROVIDER_WEBHOOK_SECRET": _SECRET,
        },
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def listening() -> bool:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            return False
        return True

    try:
        _eventually(listening)
    finally:
        starter.kill()
        starter.communicate()
    _eventually(lambda: not listening())
