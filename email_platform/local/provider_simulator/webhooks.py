"""Events about accepted messages, POSTed signed until the receiver takes them.

The invariant: no event is lost and none is invented. What will happen to a recipient is written with its
acceptance (``planned_events``), so it is durable before the answer; the outbox rows follow from it behind a
durable cursor. A post keeps its id and its body over retries, restarts and duplicates.
"""

from __future__ import annotations

import asyncio
import heapq
import random
import secrets
import sqlite3
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import httpx
import orjson

from email_platform.errors import ConfigurationError
from email_platform.local.provider_simulator.accepted_log import AcceptedLogWriter, insert_rows
from email_platform.local.provider_simulator.faults import unit_interval
from email_platform.local.provider_simulator.webhook_signature import signed_headers

_WINDOW_ROWS = 1000
_MAXIMUM_WAITING_POSTS = 500
_CONCURRENT_POSTS = 8
_IDLE_SECONDS = 1.0

_SELECT_WINDOW = """
select r.sequence, r.planned_events, c.accepted_at_ms
from accepted_recipient as r join bulk_call as c on c.call_sequence = r.call_sequence
where r.sequence > (select expanded_through_sequence from webhook_cursor)
order by r.sequence
limit ?
"""
_SELECT_EVENTS = """
select a.provider_message_id, e.type, e.subtype, e.detail, a.message_id, a.recipient, a.campaign,
    e.occurred_at_ms
from webhook_event as e join accepted as a on a.sequence = e.accepted_sequence
where e.post_sequence = ?
order by e.event_sequence
"""
_INSERT_EVENTS = """
insert into webhook_event (post_sequence, accepted_sequence, type, subtype, detail, occurred_at_ms)
select value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5 from json_each(?)
"""
_UPDATE_POSTS = """
update webhook_post set attempts = attempts + (reported.value ->> 1), delivered_at_ms = reported.value ->> 2
from json_each(?) as reported
where post_sequence = reported.value ->> 0
"""


@dataclass(frozen=True, slots=True)
class WebhookPlan:
    """Where and how events are delivered.

    Attributes:
        url: the receiver; without one, events wait.
        batch_size: most events of one POST.
        delay_seconds: each event happens up to this long after the acceptance (seeded per event).
        duplicate_probability: chance that a post which was taken is sent once more, with the same id.
        reorder_probability: chance that a post is held back behind later ones; also shuffles events.
        reorder_hold_seconds: how long such a post is held at most.
        retry_base_seconds: first pause after a refusal; doubles up to `retry_limit_seconds`.
        retry_limit_seconds: the longest pause.
        timeout_seconds: how long the receiver may take.
    """

    url: str | None = None
    batch_size: int = 100
    delay_seconds: float = 0.0
    duplicate_probability: float = 0.0
    reorder_probability: float = 0.0
    reorder_hold_seconds: float = 1.0
    retry_base_seconds: float = 0.2
    retry_limit_seconds: float = 60.0
    timeout_seconds: float = 10.0

    def __post_init__(self) -> None:
        if self.url is not None:
            address = urlsplit(self.url) if isinstance(self.url, str) else None
            if address is None or address.scheme not in ("http", "https") or not address.hostname:
                raise ConfigurationError("url: must be an http or https address, or null")
        if type(self.batch_size) is not int or not 1 <= self.batch_size <= 1000:
            raise ConfigurationError("batch_size: must be an integer from 1 to 1000")
        for name in ("duplicate_probability", "reorder_probability"):
            if not _is_number(value := getattr(self, name)) or not 0.0 <= value <= 1.0:
                raise ConfigurationError(f"{name}: must be from 0 to 1")
        for name in (
            "delay_seconds",
            "reorder_hold_seconds",
            "retry_base_seconds",
            "retry_limit_seconds",
            "timeout_seconds",
        ):
            if not _is_number(value := getattr(self, name)) or not 0.0 <= value <= 86_400.0:
                raise ConfigurationError(f"{name}: must be from 0 to 86400 seconds")

    def changed_by(self, document: Any) -> WebhookPlan:
        """Return this plan with the fields that ``document`` (parsed JSON) names replaced.

        Raises:
            ConfigurationError: a field is unknown or has a wrong value; the message names it.
        """
        if not isinstance(document, dict):
            raise ConfigurationError("webhooks: must be a JSON object")
        if unknown := sorted(document.keys() - asdict(self).keys()):
            raise ConfigurationError(f"{unknown[0]}: unknown field; allowed: {', '.join(asdict(self))}")
        return replace(self, **document)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def retry_pause_seconds(plan: WebhookPlan, attempts: int) -> float:
    """Return the pause after this many refusals in a row (1 or more)."""
    return min(plan.retry_limit_seconds, plan.retry_base_seconds * 2.0 ** min(attempts - 1, 30))


@dataclass(frozen=True, slots=True)
class PlannedEvent:
    """One event of one accepted row, before it is grouped into a post."""

    accepted_sequence: int
    type: str
    subtype: str | None
    detail: str | None
    occurred_at_ms: int


def expand_events(rows: list[tuple[int, str, int]], *, seed: int, delay_seconds: float) -> list[PlannedEvent]:
    """Return the events of (sequence, planned events, accepted at) rows, by the time they occur.

    The events of one message keep their order: each occurs at least a millisecond after the one before.
    """
    events: list[PlannedEvent] = []
    for sequence, planned, accepted_at_ms in rows:
        occurred_at_ms = accepted_at_ms
        for kind in planned.split(","):
            name, _, rest = kind.partition(":")
            subtype, _, detail = rest.partition(":")
            occurred_at_ms += 1
            if delay_seconds:
                occurred_at_ms += int(unit_interval(seed, sequence, name) * delay_seconds * 1000)
            events.append(PlannedEvent(sequence, name, subtype or None, detail or None, occurred_at_ms))
    events.sort(key=lambda event: event.occurred_at_ms)
    return events


@dataclass(frozen=True, slots=True)
class _Attempt:
    """What one post came to in a round."""

    post_sequence: int
    attempts: int
    delivered: bool


class WebhookDispatcher:
    """Delivers the outbox, forever; run it as one task and `wake` it after an acceptance.

    Args:
        sign_key: see `webhook_signature.signing_key`.
        now_ms: UTC milliseconds since the epoch.
        sleep: pauses the dispatcher, at most until it is woken.
    """

    def __init__(
        self,
        writer: AcceptedLogWriter,
        reader: sqlite3.Connection,
        plan: WebhookPlan,
        sign_key: bytes,
        seed: int,
        now_ms: Callable[[], int],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._writer = writer
        self._reader = reader
        self._plan = plan
        self._sign_key = sign_key
        self._seed = seed
        self._now_ms = now_ms
        self._sleep = sleep
        self._awake = asyncio.Event()
        self._stopping = False
        # (next attempt, post); everything that is undelivered and expanded is here or in the running round.
        self._waiting: list[tuple[int, int]] = [
            (due_at_ms, post)
            for due_at_ms, post in reader.execute(
                "select due_at_ms, post_sequence from webhook_post where delivered_at_ms is null"
            )
        ]
        heapq.heapify(self._waiting)
        self._refusals: Counter[int] = Counter()
        self.counts: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"WebhookDispatcher(plan={self._plan!r})"

    @property
    def plan(self) -> WebhookPlan:
        """The plan in force."""
        return self._plan

    def steer(self, plan: WebhookPlan) -> None:
        """Put another plan in force; whatever waits for a retry is tried at once."""
        self._plan = plan
        self._refusals.clear()
        now_ms = self._now_ms()
        self._waiting = [(min(due_at_ms, now_ms), post) for due_at_ms, post in self._waiting]
        heapq.heapify(self._waiting)
        self.wake()

    def wake(self) -> None:
        """Look for new events now."""
        self._awake.set()

    def stop(self) -> None:
        """End `run` after the current round."""
        self._stopping = True
        self.wake()

    async def run(self) -> None:
        """Deliver until `stop`."""
        # trust_env off: a proxy from the environment must not see events meant for this machine.
        async with httpx.AsyncClient(trust_env=False) as client:
            while not self._stopping:
                self._awake.clear()
                plan = self._plan
                if plan.url is None:
                    await self._awake.wait()
                    continue
                expanded = await self._expand(plan)
                delivered = await self._deliver_due(client, plan)
                if not expanded and not delivered:
                    await self._pause()

    async def _pause(self) -> None:
        next_due_ms = self._waiting[0][0] if self._waiting else None
        pause_seconds = _IDLE_SECONDS
        if next_due_ms is not None:
            pause_seconds = min(pause_seconds, max(0.001, (next_due_ms - self._now_ms()) / 1000))
        woken = asyncio.ensure_future(self._awake.wait())
        slept = asyncio.ensure_future(self._sleep(pause_seconds))
        try:
            await asyncio.wait((woken, slept), return_when=asyncio.FIRST_COMPLETED)
        finally:
            woken.cancel()
            slept.cancel()

    async def _expand(self, plan: WebhookPlan) -> bool:
        if len(self._waiting) >= _MAXIMUM_WAITING_POSTS:
            return False
        # Asked on the reader first: an idle simulator must not write.
        [behind] = self._reader.execute(
            "select (select coalesce(max(sequence), 0) from accepted_recipient)"
            " > (select expanded_through_sequence from webhook_cursor)"
        ).fetchone()
        if not behind:
            return False
        for due_at_ms, post in await self._writer.write(lambda connection: self._fill(connection, plan)):
            heapq.heappush(self._waiting, (due_at_ms, post))
        return True

    def _fill(self, connection: sqlite3.Connection, plan: WebhookPlan) -> list[tuple[int, int]]:
        """Turn the next accepted rows into events and posts, and move the cursor, in one transaction."""
        rows = connection.execute(_SELECT_WINDOW, (_WINDOW_ROWS,)).fetchall()
        if not rows:
            return []
        events = expand_events(rows, seed=self._seed, delay_seconds=plan.delay_seconds)
        first_sequence, last_sequence = rows[0][0], rows[-1][0]
        if plan.reorder_probability:
            random.Random(f"{self._seed}:{first_sequence}").shuffle(events)  # noqa: S311  (seeded on purpose)
        posts: list[tuple[int, int]] = []
        event_rows: list[tuple[object, ...]] = []
        for start in range(0, len(events), plan.batch_size):
            batch = events[start : start + plan.batch_size]
            due_at_ms = max(event.occurred_at_ms for event in batch)
            if unit_interval(self._seed, first_sequence, start, "reorder") < plan.reorder_probability:
                hold = unit_interval(self._seed, first_sequence, start, "hold")
                due_at_ms += int(hold * plan.reorder_hold_seconds * 1000)
            post = connection.execute(
                "insert into webhook_post (webhook_id, due_at_ms) values (?, ?)",
                (f"msg_{secrets.token_hex(12)}", due_at_ms),
            ).lastrowid
            assert post is not None
            posts.append((due_at_ms, post))
            event_rows.extend(
                (post, event.accepted_sequence, event.type, event.subtype, event.detail, event.occurred_at_ms)
                for event in batch
            )
        insert_rows(connection, _INSERT_EVENTS, event_rows)
        connection.execute("update webhook_cursor set expanded_through_sequence = ?", (last_sequence,))
        return posts

    async def _deliver_due(self, client: httpx.AsyncClient, plan: WebhookPlan) -> bool:
        now_ms = self._now_ms()
        round_posts: list[int] = []
        while self._waiting and self._waiting[0][0] <= now_ms and len(round_posts) < _CONCURRENT_POSTS:
            round_posts.append(heapq.heappop(self._waiting)[1])
        if not round_posts:
            return False
        attempts = await asyncio.gather(*(self._deliver(client, plan, post) for post in round_posts))
        now_ms = self._now_ms()
        report = [
            (attempt.post_sequence, attempt.attempts, now_ms if attempt.delivered else None) for attempt in attempts
        ]
        # Reported before it counts as done: a kill in between sends the post again, under the same id.
        await self._writer.write(lambda connection: insert_rows(connection, _UPDATE_POSTS, list(report)))
        for attempt in attempts:
            if attempt.delivered:
                self._refusals.pop(attempt.post_sequence, None)
                continue
            self._refusals[attempt.post_sequence] += 1
            pause_seconds = retry_pause_seconds(plan, self._refusals[attempt.post_sequence])
            heapq.heappush(self._waiting, (now_ms + int(pause_seconds * 1000), attempt.post_sequence))
        return True

    async def _deliver(self, client: httpx.AsyncClient, plan: WebhookPlan, post: int) -> _Attempt:
        [webhook_id] = self._reader.execute(
            "select webhook_id from webhook_post where post_sequence = ?", (post,)
        ).fetchone()
        body = events_body(self._reader.execute(_SELECT_EVENTS, (post,)).fetchall())
        delivered = await self._post(client, plan, webhook_id, body)
        attempts = 1
        if delivered:
            self.counts["delivered_posts"] += 1
            if unit_interval(self._seed, post, "duplicate") < plan.duplicate_probability:
                self.counts["duplicated_posts"] += 1
                attempts += 1
                await self._post(client, plan, webhook_id, body)
        return _Attempt(post, attempts, delivered)

    async def _post(self, client: httpx.AsyncClient, plan: WebhookPlan, webhook_id: str, body: bytes) -> bool:
        assert plan.url is not None
        headers = signed_headers(self._sign_key, webhook_id, self._now_ms() // 1000, body)
        self.counts["attempts"] += 1
        try:
            answer = await client.post(
                plan.url,
                content=body,
                headers={**headers, "content-type": "application/json"},
                timeout=plan.timeout_seconds,
            )
        except httpx.HTTPError:
            self.counts["unreachable"] += 1
            return False
        if answer.is_success:
            return True
        self.counts["refused"] += 1
        return False

    def backlog(self) -> dict[str, int]:
        """Return what is still to be delivered: whole posts, and accepted rows not yet in a post."""
        [posts] = self._reader.execute("select count(*) from webhook_post where delivered_at_ms is null").fetchone()
        [rows] = self._reader.execute(
            "select (select coalesce(max(sequence), 0) from accepted_recipient)"
            " - (select expanded_through_sequence from webhook_cursor)"
        ).fetchone()
        return {"waiting_posts": posts, "unexpanded_recipients": rows}


def events_body(rows: list[tuple[Any, ...]]) -> bytes:
    """Return the POST's body; the same rows give the same bytes, which a stable id requires."""
    return orjson.dumps(
        {
            "events": [
                {
                    "event_id": f"evt_{provider_message_id}_{kind}",
                    "type": kind,
                    "subtype": subtype,
                    "detail": detail,
                    "provider_message_id": provider_message_id,
                    "message_id": message_id,
                    "recipient": recipient,
                    "campaign": campaign,
                    "occurred_at": datetime.fromtimestamp(occurred_at_ms / 1000, UTC).isoformat(
                        timespec="milliseconds"
                    ),
                }
                for (
                    provider_message_id,
                    kind,
                    subtype,
                    detail,
                    message_id,
                    recipient,
                    campaign,
                    occurred_at_ms,
                ) in rows
            ]
        }
    )
