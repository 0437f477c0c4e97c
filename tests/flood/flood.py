"""A bounded flood of webhooks against receivers that run as parts, while faults happen and loading goes on.

The invariant: offered = acknowledged = stored, each event once; whatever was forged, cut short or never finished
left no trace. Everything is on the loopback interface, bounded in events and in time.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Literal

import aiohttp
import psutil
from sqlalchemy import func, select
from standardwebhooks import Webhook

from email_platform.adapters.assembly import open_events, open_oltp, open_parts, open_warehouse
from email_platform.adapters.postgres.tables import suppression
from email_platform.domain.identity import message_id
from email_platform.errors import EmailPlatformError
from email_platform.events.inbox import inbox_is_waiting
from email_platform.local.stack.stack import Stack, clean_environment, started_stack
from email_platform.local.stack.written_state import statuses
from email_platform.runs.events import take_in_events
from email_platform.settings import Settings, variable_of

RECEIVERS = 2
LARGEST_BODY_BYTES = 2 << 20
PATIENCE_SECONDS = 120.0
PATH = "/events/simulator/default"
CAMPAIGNS = range(9_000_001, 9_000_006)
KINDS = ("delivered", "delivered", "delivered", "opened", "clicked", "bounced", "complained")

Trouble = Literal["forged", "altered", "unknown account", "too large", "broken off", "too slow"]
REFUSED_WITH: dict[Trouble, int | None] = {
    "forged": 401,
    "altered": 401,
    "unknown account": 401,
    "too large": 413,
    "broken off": None,
    "too slow": 408,
}


@dataclass(frozen=True, slots=True)
class FloodPlan:
    """How much, for how long at most, and from which seed.

    Attributes:
        events: valid ones, each offered until it is acknowledged.
        duplicate_share: bodies that are sent once more after their acknowledgement.
        clients: bodies on their way at the same time.
        trouble_share: requests that must leave no trace, beside the valid ones.
    """

    events: int = 200_000
    events_per_body: int = 20
    seconds: float = 240.0
    seed: int = 1
    clients: int = 24
    duplicate_share: float = 0.1
    trouble_share: float = 0.1


@dataclass
class Flood:
    """What was offered and how it was answered; filled by one event loop."""

    offered: int = 0
    acknowledged: int = 0
    duplicates: int = 0
    retries: Counter[str] = field(default_factory=Counter)
    trouble: Counter[Trouble] = field(default_factory=Counter)
    answered: Counter[tuple[Trouble, int | None]] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
    seconds: float = 0.0
    faults: list[str] = field(default_factory=list)
    passes: int = 0
    failed_passes: int = 0
    reports: int = 0
    lost_addresses: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Line:
    """Two counts that must be equal."""

    name: str
    left: tuple[str, int]
    right: tuple[str, int]

    @property
    def holds(self) -> bool:
        return self.left[1] == self.right[1]


class Generator:
    """Offers bodies as a provider does: again and again until a 2xx, each under its own id."""

    def __init__(self, settings: Settings, plan: FloodPlan) -> None:
        assert settings.provider_webhook_secret is not None
        self._url = f"{settings.receiver_url}{PATH}"
        self._port = settings.receiver_port
        secret = settings.provider_webhook_secret.get_secret_value()
        self._right = Webhook(b64(secret))
        self._wrong = Webhook(b64("not " + secret))
        self._plan = plan
        self._random = Random(plan.seed)
        self._next = 0
        self.flood = Flood()

    def _body(self, marker: str = "flood") -> bytes:
        """Events of messages in any order, as several of a message may come in one body or in many."""
        events = []
        for _ in range(self._plan.events_per_body):
            number = self._next
            self._next += 1
            kind = KINDS[number % len(KINDS)]
            campaign_id = CAMPAIGNS[number % len(CAMPAIGNS)]
            recipient = f"{marker}-{number}@example.com"
            if marker == "flood" and kind in ("bounced", "complained"):
                self.flood.lost_addresses.add(recipient)
            events.append(
                {
                    "event_id": f"{marker}-{number}",
                    "type": kind,
                    "subtype": "hard" if kind == "bounced" else None,
                    "provider_message_id": f"p-{number}",
                    "message_id": str(message_id(campaign_id, number // 3)),
                    "campaign": str(campaign_id),
                    "recipient": recipient,
                    "occurred_at": datetime.now(UTC).isoformat(),
                }
            )
        self._random.shuffle(events)
        return json.dumps({"events": events}).encode()

    def _headers(self, signer: Webhook, body: bytes) -> dict[str, str]:
        now = datetime.now(UTC)
        identifier = f"msg_{self._random.getrandbits(96):x}"
        return {
            "webhook-id": identifier,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": signer.sign(identifier, now, body.decode()),
            "content-type": "application/json",
        }

    async def run(self) -> None:
        """Offer everything; returns when the last body is acknowledged, or the time is over."""
        began = time.monotonic()
        give_up_at = began + self._plan.seconds
        connector = aiohttp.TCPConnector(limit=self._plan.clients * 2)
        timeout = aiohttp.ClientTimeout(total=30)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, trust_env=False) as session:
            slow = [asyncio.create_task(self._trouble(session, "too slow")) for _ in range(8)]
            await asyncio.gather(*(self._client(session, give_up_at) for _ in range(self._plan.clients)))
            self.flood.seconds = time.monotonic() - began
            await asyncio.gather(*slow)

    async def _client(self, session: aiohttp.ClientSession, give_up_at: float) -> None:
        sent: list[bytes] = []
        while self.flood.offered < self._plan.events and time.monotonic() < give_up_at:
            body = self._body()
            self.flood.offered += self._plan.events_per_body
            await self._until_acknowledged(session, body)
            self.flood.acknowledged += self._plan.events_per_body
            sent.append(body)
            if self._random.random() < self._plan.duplicate_share:
                again = self._random.choice(sent)  # also one of long ago
                await self._until_acknowledged(session, again)
                self.flood.duplicates += 1
            if self._random.random() < self._plan.trouble_share:
                await self._trouble(session, self._random.choice([one for one in REFUSED_WITH if one != "too slow"]))
            del sent[:-50]

    async def _until_acknowledged(self, session: aiohttp.ClientSession, body: bytes) -> None:
        pause_seconds = 0.05
        while True:
            began = time.monotonic()
            status = await self._post(session, self._url, body, self._headers(self._right, body))
            if status == 200:
                self.flood.latencies.append(time.monotonic() - began)
                return
            if status is not None and status < 500:
                raise AssertionError(f"a valid body was answered with {status}")
            self.flood.retries["no answer" if status is None else str(status)] += 1
            await asyncio.sleep(pause_seconds * (0.5 + self._random.random()))
            pause_seconds = min(pause_seconds * 2, 1.0)

    async def _post(self, session: aiohttp.ClientSession, url: str, body: bytes, headers: dict[str, str]) -> int | None:
        try:
            async with session.post(url, data=BytesIO(body), headers=headers) as answer:
                await answer.read()
                return answer.status
        except (aiohttp.ClientError, TimeoutError, ConnectionError):
            return None

    async def _trouble(self, session: aiohttp.ClientSession, kind: Trouble) -> None:
        """One request that must leave no trace; sent again only where the receiver was away."""
        body = self._body("trouble")
        self.flood.trouble[kind] += 1
        if kind in ("broken off", "too slow"):
            self.flood.answered[kind, await self._unfinished(kind, body)] += 1
            return
        url, headers = self._url, self._headers(self._right, body)
        if kind == "forged":
            headers = self._headers(self._wrong, body)
        elif kind == "altered":
            place = self._random.randrange(len(body))
            body = body[:place] + bytes([body[place] ^ 1]) + body[place + 1 :]
        elif kind == "unknown account":
            url = url.replace("default", "nobody")
        elif kind == "too large":
            body = b" " * (LARGEST_BODY_BYTES + 1)
        for _ in range(200):
            status = await self._post(session, url, body, headers)
            if status is not None and status < 500:
                break
            await asyncio.sleep(0.1)
        self.flood.answered[kind, status] += 1

    async def _unfinished(self, kind: Trouble, body: bytes) -> int | None:
        """A true signature over a body of which only a part comes: the connection ends, or nothing comes any more."""
        headers = "".join(f"{name}: {value}\r\n" for name, value in self._headers(self._right, body).items())
        head = f"POST {PATH} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {len(body)}\r\n{headers}\r\n"
        for _ in range(200):
            try:
                async with _connection(self._port) as (reader, writer):
                    writer.write(head.encode() + body[: len(body) // 2])
                    await writer.drain()
                    if kind == "broken off":
                        return None
                    if answer := await asyncio.wait_for(reader.readline(), 60):
                        return int(answer.split()[1])
            except OSError:
                pass
            await asyncio.sleep(0.1)  # the receiver was away, or was killed
        return None


@asynccontextmanager
async def _connection(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


def b64(secret: str) -> str:
    """The secret in the form that the standard's own library takes; the receiver takes any text."""
    return "whsec_" + base64.b64encode(secret.encode()).decode()


def run_flood(folder: Path, plan: FloodPlan, *, faults: bool = True, report: Callable[[str], None]) -> list[Line]:
    """Flood a stack of its own; returns the counts that must be equal."""
    with _stack(folder) as stack:
        settings = stack.settings
        generator = Generator(settings, plan)
        ended = threading.Event()
        loading = threading.Thread(target=_keep_loading, args=(settings, generator.flood, ended), name="loading")
        making_faults = threading.Thread(target=_make_faults, args=(settings, generator.flood, ended), name="faults")
        loading.start()
        if faults:
            making_faults.start()
        try:
            asyncio.run(generator.run())
        finally:
            ended.set()
            loading.join()
            if faults:
                making_faults.join()
        _drain(settings, generator.flood)
        lines = _lines(settings, generator.flood)
        for line in _figures(plan, generator.flood):
            report(line)
    return lines


@contextmanager
def _stack(folder: Path) -> Iterator[Stack]:
    environ = {**clean_environment(), variable_of("receiver_processes"): str(RECEIVERS)}
    parts = ("postgres", "s3", "clickhouse", "receiver")
    with started_stack(folder / "state", environ=environ, parts=parts, ports="free") as stack:
        watching = threading.Thread(target=stack.supervisor.watch, name="part-watch", daemon=True)
        watching.start()
        try:
            yield stack
        finally:
            stack.supervisor.request_stop()
            watching.join()


def _keep_loading(settings: Settings, flood: Flood, ended: threading.Event) -> None:
    """Stage, load, guard and read a report, over and over, as the sensor's runs do; faults end a pass, not this."""
    while not ended.is_set():
        try:
            _pass(settings)
            flood.passes += 1
            with open_warehouse(settings) as warehouse:
                warehouse.client.query(_REPORT)
            flood.reports += 1
        except (EmailPlatformError, OSError):
            flood.failed_passes += 1
        ended.wait(1.0)


_REPORT = """
    select campaign_id, status_rank, count() from
    (
        select campaign_id, message_id, max(status_rank) as status_rank from event group by campaign_id, message_id
    )
    group by campaign_id, status_rank order by campaign_id, status_rank
"""


def _pass(settings: Settings) -> None:
    with open_events(settings) as events, open_parts(settings, {}) as parts, open_warehouse(settings) as warehouse:
        take_in_events(events, parts, warehouse)


def _make_faults(settings: Settings, flood: Flood, ended: threading.Event) -> None:
    """S3 hangs, S3 dies, PostgreSQL dies, a receiver dies; in turns, each brought back by the supervisor."""

    def process(name: str) -> psutil.Process | None:
        found = {each.name: each.process_id for each in statuses(settings.state_folder)}
        return psutil.Process(found[name]) if found.get(name) else None

    turns = (
        ("S3 hangs for 4 s", "s3", 4.0),
        ("a receiver is killed", "receiver-2", 0.0),
        ("PostgreSQL is killed", "postgres", 0.0),
        ("S3 is killed", "s3", 0.0),
    )
    number = 0
    while not ended.wait(2.5):
        what, name, hang_seconds = turns[number % len(turns)]
        number += 1
        try:
            victim = process(name)
            if victim is None:
                continue
            if hang_seconds:
                victim.suspend()
                ended.wait(hang_seconds)
                victim.resume()
            else:
                os.kill(victim.pid, signal.SIGKILL)
        except (psutil.NoSuchProcess, ProcessLookupError):
            continue
        flood.faults.append(what)


def _drain(settings: Settings, flood: Flood) -> None:
    """Take in what is left, once every part is back."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            _pass(settings)
            with open_events(settings) as events:
                if not inbox_is_waiting(events.store):
                    return
        except (EmailPlatformError, OSError):
            flood.failed_passes += 1
        if time.monotonic() > deadline:
            raise AssertionError("the inbox was not emptied in time")
        time.sleep(0.5)


def _lines(settings: Settings, flood: Flood) -> list[Line]:
    with open_warehouse(settings) as warehouse:
        stored, strays = warehouse.client.query(
            "select uniqExactIf(event_key, event_id like 'flood-%'), countIf(event_id not like 'flood-%') from event"
        ).result_rows[0]
    with open_oltp(settings) as engine, engine.connect() as connection:
        suppressed = connection.execute(select(func.count()).select_from(suppression)).scalar_one()
    refusals = [
        Line(
            f"{kind}: refused",
            ("offered", flood.trouble[kind]),
            (f"answered {wanted}" if wanted else "never finished", flood.answered[kind, wanted]),
        )
        for kind, wanted in REFUSED_WITH.items()
    ]
    return [
        Line("events acknowledged", ("offered", flood.offered), ("2xx", flood.acknowledged)),
        Line("events stored, each once", ("2xx", flood.acknowledged), ("warehouse", int(stored))),
        *refusals,
        Line("traces of what was refused", ("allowed", 0), ("warehouse", int(strays))),
        Line("suppressed", ("bounced or complained", len(flood.lost_addresses)), ("suppression", suppressed)),
    ]


def _figures(plan: FloodPlan, flood: Flood) -> Iterator[str]:
    latencies = sorted(flood.latencies)
    share = {name: latencies[min(len(latencies) - 1, int(len(latencies) * at))] for name, at in _QUANTILES.items()}
    yield (
        f"{flood.acknowledged:,} events in {len(latencies) - flood.duplicates:,} bodies and {flood.duplicates:,} "
        f"duplicates in {flood.seconds:.1f} s: {flood.acknowledged / flood.seconds:,.0f} events a second, "
        f"{len(latencies) / flood.seconds:,.0f} bodies a second, {plan.clients} clients, {RECEIVERS} receivers"
    )
    yield "until the 2xx: " + ", ".join(f"{name} {seconds * 1000:,.0f} ms" for name, seconds in share.items())
    yield f"tried again: {', '.join(f'{count:,} for {why}' for why, count in flood.retries.items()) or 'never'}"
    yield (
        f"meanwhile {flood.passes} passes loaded, {flood.reports} reports were read, "
        f"{flood.failed_passes} passes failed for a part that was away"
    )
    yield f"faults: {', '.join(f'{what} ({times} times)' for what, times in Counter(flood.faults).items()) or 'none'}"


_QUANTILES = {"median": 0.5, "95 %": 0.95, "99 %": 0.99, "longest": 1.0}
