"""The outbox: what will happen to accepted messages, as events grouped into posts that wait to be delivered.

The invariant: no event is lost and none is invented. What will happen to a recipient is written with its
acceptance (``planned_events``), so it is durable before the answer; the outbox rows follow from it behind a
durable cursor. A post keeps its id and its body over retries, restarts and duplicates.
"""

from __future__ import annotations

import random
import secrets
import sqlite3
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson

from email_platform.local.provider_simulator.accepted_log_writer import AcceptedLogWriter, insert_rows
from email_platform.local.provider_simulator.faults import unit_interval
from email_platform.local.provider_simulator.webhook_plan import WebhookPlan

_WINDOW_ROWS = 1000

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
class PostAttempt:
    """The outcome of one post in a round."""

    post_sequence: int
    attempts: int
    delivered: bool


class WebhookOutbox:
    """The posts of one simulator: written by the log's writer, read on a connection of their own."""

    def __init__(self, writer: AcceptedLogWriter, reader: sqlite3.Connection, seed: int) -> None:
        self._writer = writer
        self._reader = reader
        self._seed = seed

    def undelivered(self) -> list[tuple[int, int]]:
        """Return (due at, post) of everything that is in a post and not delivered."""
        return self._reader.execute(
            "select due_at_ms, post_sequence from webhook_post where delivered_at_ms is null"
        ).fetchall()

    async def expand(self, plan: WebhookPlan) -> list[tuple[int, int]]:
        """Put the next accepted rows into posts; return (due at, post) of each, none where no row is left."""
        # Asked on the reader first: an idle simulator must not write.
        [behind] = self._reader.execute(
            "select (select coalesce(max(sequence), 0) from accepted_recipient)"
            " > (select expanded_through_sequence from webhook_cursor)"
        ).fetchone()
        if not behind:
            return []
        return await self._writer.write(lambda connection: self._fill(connection, plan))

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

    def content(self, post: int) -> tuple[str, bytes]:
        """Return the id and the body of a post."""
        [webhook_id] = self._reader.execute(
            "select webhook_id from webhook_post where post_sequence = ?", (post,)
        ).fetchone()
        return webhook_id, events_body(self._reader.execute(_SELECT_EVENTS, (post,)).fetchall())

    async def report(self, attempts: list[PostAttempt], now_ms: int) -> None:
        """Return when the outcomes of a round are on disk."""
        report = [
            (attempt.post_sequence, attempt.attempts, now_ms if attempt.delivered else None) for attempt in attempts
        ]
        await self._writer.write(lambda connection: insert_rows(connection, _UPDATE_POSTS, list(report)))

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
