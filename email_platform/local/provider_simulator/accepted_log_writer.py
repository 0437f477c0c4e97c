"""The writer of the accepted log: one thread, which commits calls in groups.

The invariant: a call's rows, its stored answer and its planned events enter in one transaction, which is on
disk (WAL, ``synchronous = full``) before `AcceptedLogWriter.append` returns. Accepted rows are only added.

What the tables hold: `accepted_log`.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import orjson

from email_platform.local.provider_simulator.accepted_log import database_path
from email_platform.local.provider_simulator.idempotency import StoredAnswer

_Result = TypeVar("_Result")

_MAXIMUM_GROUP_CALLS = 256

_SCHEMA = """
create table if not exists bulk_call (
    call_sequence integer primary key,
    account text not null,
    idempotency_key text,
    call_id text not null,
    campaign text not null,
    accepted_at_ms integer not null
) strict;
create index if not exists bulk_call_by_campaign on bulk_call (campaign);
create table if not exists accepted_recipient (
    sequence integer primary key,
    call_sequence integer not null,
    recipient text not null,
    message_id text not null,
    provider_message_id text not null,
    planned_events text not null
) strict;
create index if not exists accepted_recipient_by_call on accepted_recipient (call_sequence);
create table if not exists rejected_recipient (
    sequence integer primary key,
    call_sequence integer not null,
    recipient text not null,
    message_id text not null,
    code text not null,
    message text not null
) strict;
create index if not exists rejected_recipient_by_call on rejected_recipient (call_sequence);
create table if not exists stored_answer (
    account text not null,
    idempotency_key text not null,
    fingerprint text not null,
    body text not null,
    stored_at_ms integer not null,
    primary key (account, idempotency_key)
) strict;
create table if not exists webhook_cursor (
    only_row integer primary key check (only_row = 1),
    expanded_through_sequence integer not null
) strict;
insert or ignore into webhook_cursor values (1, 0);
create table if not exists webhook_post (
    post_sequence integer primary key,
    webhook_id text not null,
    due_at_ms integer not null,
    attempts integer not null default 0,
    delivered_at_ms integer
) strict;
create index if not exists webhook_post_waiting on webhook_post (due_at_ms) where delivered_at_ms is null;
create table if not exists webhook_event (
    event_sequence integer primary key,
    post_sequence integer not null,
    accepted_sequence integer not null,
    type text not null,
    subtype text,
    detail text,
    occurred_at_ms integer not null
) strict;
create index if not exists webhook_event_by_post on webhook_event (post_sequence);
create view if not exists accepted as
select r.sequence, r.call_sequence, c.account, c.idempotency_key, c.call_id, c.campaign, r.recipient,
    r.message_id, r.provider_message_id, r.planned_events, c.accepted_at_ms
from accepted_recipient as r join bulk_call as c on c.call_sequence = r.call_sequence;
create view if not exists rejected as
select r.sequence, r.call_sequence, c.account, c.idempotency_key, c.call_id, c.campaign, r.recipient,
    r.message_id, r.code, r.message, c.accepted_at_ms as rejected_at_ms
from rejected_recipient as r join bulk_call as c on c.call_sequence = r.call_sequence;
"""

# One statement per group and table, rows as one JSON text: SQLite holds Python's lock only to start it. With
# executemany the writer thread gave the lock up once per row, and 40,000 rows took 4.9 s instead of 0.1 s
# beside a busy event loop.
_INSERT_CALLS = """
insert into bulk_call (call_sequence, account, idempotency_key, call_id, campaign, accepted_at_ms)
select value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5 from json_each(?)
"""
_INSERT_ACCEPTED = """
insert into accepted_recipient (call_sequence, recipient, message_id, provider_message_id, planned_events)
select value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4 from json_each(?)
"""
_INSERT_REJECTED = """
insert into rejected_recipient (call_sequence, recipient, message_id, code, message)
select value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4 from json_each(?)
"""
_INSERT_ANSWERS = """
insert or replace into stored_answer (account, idempotency_key, fingerprint, body, stored_at_ms)
select value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4 from json_each(?)
"""


@dataclass(frozen=True, slots=True)
class AnsweredCall:
    """A call as it goes into the log.

    Attributes:
        accepted: (recipient, message id, provider message id, planned events) in request order.
        rejected: (recipient, message id, code, message) in request order.
        answer: what to store for the idempotency key; None without a key.
    """

    account: str
    idempotency_key: str | None
    call_id: str
    campaign: str
    accepted_at_ms: int
    accepted: list[tuple[str, str, str, str]]
    rejected: list[tuple[str, str, str, str]] = field(default_factory=list)
    answer: StoredAnswer | None = None


@dataclass(frozen=True, slots=True)
class _Append:
    call: AnsweredCall
    done: asyncio.Future[None]


@dataclass(frozen=True, slots=True)
class _Write:
    work: Callable[[sqlite3.Connection], Any]
    done: asyncio.Future[Any]


class AcceptedLogWriter:
    """The only writer: a thread that commits all waiting calls as one group.

    Group commit is what makes durability affordable: one fsync serves all calls that arrived during the
    previous one.
    """

    def __init__(self, data_folder: Path, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._queue: queue.SimpleQueue[_Append | _Write | None] = queue.SimpleQueue()
        self._connection = sqlite3.connect(database_path(data_folder), isolation_level=None, check_same_thread=False)
        self._connection.execute("pragma journal_mode = wal")
        self._connection.execute("pragma synchronous = full")
        # 32 MB of log between checkpoints: at 10 MB/s the default of 4 MB fsyncs the database twice a second.
        self._connection.execute("pragma wal_autocheckpoint = 8000")
        self._connection.executescript(_SCHEMA)
        [last] = self._connection.execute("select coalesce(max(call_sequence), 0) from bulk_call").fetchone()
        self._next_call_sequence = int(last) + 1
        self._thread = threading.Thread(target=self._run, name="accepted-log-writer", daemon=True)
        self._thread.start()

    async def append(self, call: AnsweredCall) -> None:
        """Return when the call is on disk.

        Raises:
            sqlite3.Error: nothing of the call was logged (disk full, for one).
        """
        done: asyncio.Future[None] = self._loop.create_future()
        self._queue.put(_Append(call, done))
        await done

    async def write(self, work: Callable[[sqlite3.Connection], _Result]) -> _Result:
        """Run ``work`` in its own transaction on the writer's thread; return its result when on disk."""
        done: asyncio.Future[_Result] = self._loop.create_future()
        self._queue.put(_Write(work, done))
        return await done

    def close(self) -> None:
        """Finish what is queued, then close the database."""
        self._queue.put(None)
        self._thread.join()
        self._connection.close()

    def _run(self) -> None:
        stopping = False
        while not stopping:
            group = [self._queue.get()]
            while len(group) < _MAXIMUM_GROUP_CALLS:
                try:
                    group.append(self._queue.get_nowait())
                except queue.Empty:
                    break
            appends = [item for item in group if isinstance(item, _Append)]
            if appends:
                self._commit(
                    partial(self._insert, [append.call for append in appends]),
                    [append.done for append in appends],
                )
            for item in group:
                if isinstance(item, _Write):
                    self._commit(partial(item.work, self._connection), [item.done])
            stopping = None in group

    def _commit(self, work: Callable[[], Any], futures: list[asyncio.Future[Any]]) -> None:
        try:
            self._connection.execute("begin immediate")
            result = work()
            self._connection.execute("commit")
        # Any error is passed to the callers; the thread must live on to serve the next group.
        except Exception as failure:
            if self._connection.in_transaction:
                self._connection.execute("rollback")
            self._loop.call_soon_threadsafe(_fail, futures, failure)
        else:
            self._loop.call_soon_threadsafe(_resolve, futures, result)

    def _insert(self, calls: list[AnsweredCall]) -> None:
        call_rows: list[tuple[object, ...]] = []
        accepted_rows: list[tuple[object, ...]] = []
        rejected_rows: list[tuple[object, ...]] = []
        answer_rows: list[tuple[object, ...]] = []
        for sequence, call in enumerate(calls, self._next_call_sequence):
            call_rows.append(
                (
                    sequence,
                    call.account,
                    call.idempotency_key,
                    call.call_id,
                    call.campaign,
                    call.accepted_at_ms,
                )
            )
            accepted_rows.extend([(sequence, *row) for row in call.accepted])
            rejected_rows.extend([(sequence, *row) for row in call.rejected])
            if call.answer is not None:
                stored = call.answer
                answer_rows.append(
                    (call.account, call.idempotency_key, stored.fingerprint, stored.body, stored.stored_at_ms)
                )
        insert_rows(self._connection, _INSERT_CALLS, call_rows)
        insert_rows(self._connection, _INSERT_ACCEPTED, accepted_rows)
        insert_rows(self._connection, _INSERT_REJECTED, rejected_rows)
        insert_rows(self._connection, _INSERT_ANSWERS, answer_rows)
        # A rolled-back group leaves a gap, never a sequence that is used twice.
        self._next_call_sequence += len(calls)


def insert_rows(connection: sqlite3.Connection, statement: str, rows: list[tuple[object, ...]]) -> None:
    """Run a statement that takes its rows as one JSON array; no rows, no statement."""
    if rows:
        connection.execute(statement, (orjson.dumps(rows).decode(),))


def _resolve(futures: list[asyncio.Future[Any]], result: Any) -> None:
    for future in futures:
        if not future.done():
            future.set_result(result)


def _fail(futures: list[asyncio.Future[Any]], failure: Exception) -> None:
    for future in futures:
        if not future.done():
            future.set_exception(failure)
