"""The state of a running simulator, which calls and the admin API share.

The invariant: it is used inside one event loop only, so that what is read and changed without an ``await`` in between
needs no lock.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
import sqlite3
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from starlette.types import Scope

from email_platform.local.provider_simulator.accepted_log import AcceptedLog, database_path, open_for_reading
from email_platform.local.provider_simulator.accepted_log_writer import AcceptedLogWriter
from email_platform.local.provider_simulator.connections import header
from email_platform.local.provider_simulator.faults import FaultInjector
from email_platform.local.provider_simulator.outcomes import OutcomePlanner
from email_platform.local.provider_simulator.rate_limit import AccountRateLimiter
from email_platform.local.provider_simulator.refusals import RefusalPlan
from email_platform.local.provider_simulator.settings import SimulatorSettings
from email_platform.local.provider_simulator.webhook_outbox import WebhookOutbox
from email_platform.local.provider_simulator.webhook_signature import signing_key
from email_platform.local.provider_simulator.webhooks import WebhookDispatcher


def utc_now_ms() -> int:
    """Return the time in milliseconds since the epoch, UTC."""
    return time.time_ns() // 1_000_000


class Simulator:
    """The state of one running simulator; built inside its event loop.

    Args:
        now_ms: UTC milliseconds since the epoch, for everything that is logged.
        monotonic_seconds: the rate limiter's clock.
        call_token: a fresh, never repeated text per accepted call, from which provider message ids are made.
    """

    def __init__(
        self,
        settings: SimulatorSettings,
        now_ms: Callable[[], int] = utc_now_ms,
        monotonic_seconds: Callable[[], float] = time.monotonic,
        call_token: Callable[[], str] = lambda: secrets.token_hex(12),
    ) -> None:
        self.settings = settings
        self.now_ms = now_ms
        self.monotonic_seconds = monotonic_seconds
        self.call_token = call_token
        self._authorization = f"Bearer {settings.api_key}".encode()
        self.writer = AcceptedLogWriter(settings.data_folder, asyncio.get_running_loop())
        self.reader: sqlite3.Connection = open_for_reading(database_path(settings.data_folder))
        self.log = AcceptedLog(settings.data_folder)
        self.faults = FaultInjector(settings.faults)
        self.refusals = RefusalPlan()
        self.limiter = AccountRateLimiter(settings.rate_limit, monotonic_seconds())
        self.outcomes = OutcomePlanner(settings.seed, settings.rates)
        self.outbox = WebhookOutbox(self.writer, self.reader, settings.seed)
        self.dispatcher = WebhookDispatcher(
            self.outbox,
            settings.webhooks,
            signing_key(settings.webhook_secret),
            settings.seed,
            now_ms,
        )
        self.stopping = asyncio.Event()
        self.in_flight: set[str] = set()
        self.counts: Counter[str] = Counter()
        self.answers: Counter[int] = Counter()
        self.recent: deque[tuple[dict[str, Any], dict[str, Any]]] = deque(maxlen=settings.recent_messages)

    def stop(self) -> None:
        """Let waiting calls go, so that the process can end; nothing new is accepted from now on."""
        self.stopping.set()
        self.dispatcher.stop()

    def is_authorized(self, scope: Scope) -> bool:
        """Whether the request carries the API key; compared in constant time."""
        presented = header(scope, b"authorization") or b""
        return hmac.compare_digest(presented, self._authorization)

    async def wait(self, seconds: float) -> bool:
        """Wait; return False at once when the simulator stops meanwhile."""
        try:
            async with asyncio.timeout(seconds):
                await self.stopping.wait()
        except TimeoutError:
            return True
        return False
