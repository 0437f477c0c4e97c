"""`/healthz` of the receiver and the API: whether the process works, and which part it needs does not answer it.

Invariant: nobody can make it work by asking. The parts are asked at most once in `KEEP_SECONDS`, in one thread a part,
and no second time while the first question waits. The answer names parts and no address, version or reason: it may be
read from outside.

| status | answer | when |
| --- | --- | --- |
| 200 | `ok` | every part answers |
| 200 | `degraded` | a part does not, and the process does its main work without it |
| 503 | `down` | a part does not without which it can do nothing useful |
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from email_platform.adapters.assembly import open_oltp, open_store, open_warehouse
from email_platform.adapters.health.asking import Question, ask_side_by_side
from email_platform.adapters.postgres.engine import check_connection
from email_platform.domain.storage_layout import EVENT_INBOX_PREFIX
from email_platform.errors import ConfigurationError, PartUnavailableError
from email_platform.settings import Settings

HEALTH_PATH = "/healthz"
ANSWER_WITHIN_SECONDS = 4.0
"""Below the 5 s after which load balancers usually give up (AWS: *Health checks for Application Load Balancer target
groups*)."""
KEEP_SECONDS = 5.0
ANSWERS, REFUSES, SILENT = "answers", "refuses us", "does not answer"


@dataclass(frozen=True, slots=True)
class Health:
    """What is answered."""

    status: HTTPStatus
    body: Mapping[str, Any]


class ServingHealth:
    """Asks the parts that a serving process needs, seldom.

    Args:
        asks: by part; raises where it does not answer.
        essential: parts without which the process can do nothing useful.
        within_seconds: after which a part counts as silent.
        keep_seconds: how long an answer holds.
        monotonic: the clock.
    """

    def __init__(
        self,
        asks: Mapping[str, Callable[[], object]],
        essential: Collection[str],
        within_seconds: float = ANSWER_WITHIN_SECONDS,
        keep_seconds: float = KEEP_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._asks = asks
        self._essential = essential
        self._within_seconds = within_seconds
        self._keep_seconds = keep_seconds
        self._monotonic = monotonic
        self._began = monotonic()
        self._under_way: set[str] = set()
        self._lock = threading.Lock()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="health")
        self._look: asyncio.Future[tuple[Mapping[str, str], float]] | None = None

    def close(self) -> None:
        """Ask no more."""
        self._executor.shutdown(wait=False)

    async def read(self) -> Health:
        """The newest answers; all who ask at the same time wait for one look."""
        look = self._look
        if look is None or (look.done() and self._monotonic() - look.result()[1] >= self._keep_seconds):
            look = self._look = asyncio.get_running_loop().run_in_executor(self._executor, self._look_once)
        parts, _ = await asyncio.shield(look)
        missing = {part for part, answer in parts.items() if answer != ANSWERS}
        is_down = bool(missing & set(self._essential))
        return Health(
            HTTPStatus.SERVICE_UNAVAILABLE if is_down else HTTPStatus.OK,
            {
                "status": "down" if is_down else "degraded" if missing else "ok",
                "uptime_seconds": round(self._monotonic() - self._began, 1),
                "process_id": os.getpid(),  # of several behind one address
                "parts": dict(parts),
            },
        )

    def _look_once(self) -> tuple[Mapping[str, str], float]:
        """Never raises, so that a look that failed is not kept as the answer."""
        questions = [
            Question(part, lambda part=part, ask=ask: self._ask(part, ask))  # type: ignore[misc]
            for part, ask in self._asks.items()
        ]
        found = ask_side_by_side(questions, self._within_seconds)
        return {one.part: ANSWERS if one.fits else REFUSES if one.says == REFUSES else SILENT for one in found}, (
            self._monotonic()
        )

    def _ask(self, part: str, ask: Callable[[], object]) -> str:
        with self._lock:
            if part in self._under_way:
                raise PartUnavailableError(SILENT)
            self._under_way.add(part)
        try:
            ask()
        except ConfigurationError:
            raise PartUnavailableError(REFUSES) from None
        finally:
            with self._lock:
                self._under_way.discard(part)
        return ANSWERS


@contextmanager
def serving_health(settings: Settings, essential: Collection[str], *, warehouse: bool) -> Iterator[ServingHealth]:
    """Over the parts of the settings, with connections of its own: a busy pool is no part that is away.

    Args:
        settings: where the parts are.
        essential: see `ServingHealth`.
        warehouse: whether the process needs ClickHouse too.
    """
    with open_oltp(settings) as engine, closing(open_store(settings)) as store:
        asks: dict[str, Callable[[], object]] = {
            "PostgreSQL": lambda: check_connection(engine),
            "S3": lambda: store.oldest_of_first(EVENT_INBOX_PREFIX, 1),  # as the look for alerts asks
        }
        if warehouse:
            asks["ClickHouse"] = lambda: _ask_warehouse(settings)
        with closing(ServingHealth(asks, essential)) as health:
            yield health


def _ask_warehouse(settings: Settings) -> None:
    with open_warehouse(settings, ANSWER_WITHIN_SECONDS) as warehouse:
        warehouse.client.command("select 1")
