"""Puts verified bodies into the bucket's inbox in micro-batches, and answers when they are durable.

Invariants: `keep` returns only after the object with the body is stored; no object is ever written twice
under one key with another content, since the key holds a process's random id and a counter; memory is
bounded by `InboxLimits.backlog_bytes`.

Measured reason for batches: a PUT takes 2 to 30 ms and a request one body of about a kilobyte; one PUT per
request would make S3 the limit. While all uploads are busy, the waiting bodies grow into larger batches.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from uuid import uuid4

from email_platform.domain.ports import Clock, ObjectStore
from email_platform.domain.storage_layout import event_inbox_key
from email_platform.errors import EmailPlatformError, PartUnavailableError
from email_platform.events.received import ReceivedBody, to_parquet

_logger = logging.getLogger("email_platform.receiver")


@dataclass(frozen=True, slots=True)
class InboxLimits:
    """How bodies are batched.

    Attributes:
        batch_bytes: a batch of this size is stored at once.
        batch_milliseconds: a smaller batch is stored after this time.
        uploads: PUTs at the same time.
        backlog_bytes: bodies in memory, being stored or waiting; beyond it new ones are refused.
        store_within_seconds: how long a request waits for its body to become durable.
    """

    batch_bytes: int = 1 << 20
    batch_milliseconds: float = 50.0
    uploads: int = 4
    backlog_bytes: int = 64 << 20
    store_within_seconds: float = 8.0


@dataclass(slots=True)
class _Waiting:
    body: ReceivedBody
    stored: asyncio.Future[None]
    since_seconds: float


class EventInbox:
    """One process's writer of inbox objects; used from one event loop."""

    def __init__(self, store: ObjectStore, clock: Clock, limits: InboxLimits | None = None) -> None:
        self._store = store
        self._clock = clock
        self._limits = limits or InboxLimits()
        self._receiver_id = uuid4().hex
        self._sequence = 0
        self._waiting: deque[_Waiting] = deque()
        self._waiting_bytes = 0
        self._held_bytes = 0
        self._uploading: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._pool = ThreadPoolExecutor(self._limits.uploads, thread_name_prefix="inbox")
        self.stored_bodies = 0
        self.stored_objects = 0
        self.failed_objects = 0

    @property
    def held_bytes(self) -> int:
        """Bodies in memory that are not durable yet."""
        return self._held_bytes

    async def keep(self, body: ReceivedBody) -> None:
        """Return when the body is durable.

        Raises:
            PartUnavailableError: it is not, or not known to be within `store_within_seconds`; it may become so
                later, and the provider's second try is deduplicated.
        """
        size_bytes = len(body.body)
        if self._held_bytes + size_bytes > self._limits.backlog_bytes:
            raise PartUnavailableError("the inbox is full: the bucket is slower than the events")
        loop = asyncio.get_running_loop()
        waiting = _Waiting(body, loop.create_future(), loop.time())
        self._waiting.append(waiting)
        self._waiting_bytes += size_bytes
        self._held_bytes += size_bytes
        self._start_uploads()
        try:
            # The upload goes on when this request is given up: what it holds may still become durable.
            await asyncio.wait_for(asyncio.shield(waiting.stored), self._limits.store_within_seconds)
        except TimeoutError:
            raise PartUnavailableError("the bucket did not confirm in time") from None

    def _start_uploads(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting and len(self._uploading) < self._limits.uploads:
            age_seconds = loop.time() - self._waiting[0].since_seconds
            rest_seconds = self._limits.batch_milliseconds / 1000 - age_seconds
            if self._waiting_bytes < self._limits.batch_bytes and rest_seconds > 0:
                if self._timer is None:
                    self._timer = loop.call_later(rest_seconds, self._on_timer)
                return
            task = loop.create_task(self._upload(self._take_batch()))
            self._uploading.add(task)

    def _on_timer(self) -> None:
        self._timer = None
        self._start_uploads()

    def _take_batch(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        size_bytes = 0
        while self._waiting and (not batch or size_bytes < self._limits.batch_bytes):
            one = self._waiting.popleft()
            batch.append(one)
            size_bytes += len(one.body.body)
        self._waiting_bytes -= size_bytes
        return batch

    async def _upload(self, batch: Sequence[_Waiting]) -> None:
        self._sequence += 1
        key = event_inbox_key(self._clock().date(), self._receiver_id, self._sequence)
        failure = ""
        try:
            await asyncio.get_running_loop().run_in_executor(self._pool, self._put, key, [one.body for one in batch])
            self.stored_objects += 1
            self.stored_bodies += len(batch)
        except EmailPlatformError as error:
            # The text names the object, so it goes to the log alone: refusals are counted by their reason.
            _logger.warning("the bucket did not take a batch of events: %s", error)
            failure = "the bucket did not take the events"
        except Exception as error:
            failure = f"the bucket did not take the events: {type(error).__name__}"
        finally:
            current = asyncio.current_task()
            assert current is not None
            self._uploading.discard(current)
            self._held_bytes -= sum(len(one.body.body) for one in batch)
        self.failed_objects += bool(failure)
        for one in batch:
            if one.stored.done():
                continue
            if not failure:
                one.stored.set_result(None)
            else:
                one.stored.set_exception(PartUnavailableError(failure))
                one.stored.exception()  # seen: a request that was given up reads it no more
        self._start_uploads()

    def _put(self, key: str, bodies: Sequence[ReceivedBody]) -> None:
        self._store.put(key, to_parquet(bodies))

    async def aclose(self) -> None:
        """Store what waits, and end the threads."""
        while self._waiting or self._uploading:
            if self._uploading:
                await asyncio.wait(set(self._uploading))
            else:
                await asyncio.sleep(self._limits.batch_milliseconds / 1000)
        self._pool.shutdown(wait=True)
