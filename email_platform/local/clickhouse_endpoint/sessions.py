"""Engine handles for requests: a fresh one each, or the lasting one of a session.

The invariant: a handle is never in two requests at once, and the effect of one client's SET or USE never reaches
another client.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

from email_platform.local.clickhouse_endpoint.exceptions import SESSION_IS_LOCKED, SESSION_NOT_FOUND, refusal
from email_platform.local.clickhouse_endpoint.statement import Kind

# async_insert is on by default in 26.9: a load must be in the table when it is acknowledged. chDB starts with the
# other two on, which a server does not: with implicit_select, a misspelt statement is taken for an expression.
# An unreachable object store fails after 6 s with 8 attempts; with the default of 500, s3() hangs for more than
# nine minutes.
SERVER_DEFAULTS = "async_insert = 0, implicit_select = 0, allow_introspection_functions = 0, s3_retry_attempts = 8"


class _Session:
    """A handle that outlives a request, for clients that SET or USE or create temporary tables."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.handle: Any = None
        self.expires_at_seconds = 0.0


class Sessions:
    """Lends handles, and keeps those of sessions until they expire."""

    def __init__(self, connect: Callable[[], Any], version: str, monotonic: Callable[[], float]) -> None:
        """Lend what `connect` opens.

        Args:
            connect: opens a handle.
            version: the engine's, for refusals.
            monotonic: the clock that ends sessions.
        """
        self._connect = connect
        self._version = version
        self._monotonic = monotonic
        self._sessions: dict[str, _Session] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close the handles of all sessions."""
        with self._lock:
            for session in self._sessions.values():
                if session.handle is not None:
                    session.handle.close()
            self._sessions.clear()

    @contextlib.contextmanager
    def lent(
        self, session_id: str, *, kind: Kind, timeout_seconds: float, must_exist: bool = False
    ) -> Iterator[tuple[Any, bool]]:
        """Lend an engine handle, and whether it belongs to a session and so keeps its state.

        A session gets a lasting handle with the first statement that changes it; until then its requests need
        none, and most clients send a session's name without ever using it.

        Raises:
            ClickHouseError: another request runs in the session (373), or there is no such session (372).
        """
        if not session_id:
            yield from self._fresh()
            return
        with self._lock:
            self._expire()
            session = self._sessions.get(session_id)
            if session is None:
                if must_exist:
                    raise refusal(SESSION_NOT_FOUND, "SESSION_NOT_FOUND", "Session not found", self._version)
                session = self._sessions[session_id] = _Session()
            if not session.lock.acquire(blocking=False):
                raise refusal(
                    SESSION_IS_LOCKED,
                    "SESSION_IS_LOCKED",
                    f"Session {session_id} is locked by a concurrent client",
                    self._version,
                )
        try:
            if session.handle is None and kind is Kind.SESSION:
                session.handle = self._connect()
                session.handle.query(f"set {SERVER_DEFAULTS}")
            if session.handle is None:
                yield from self._fresh()
            else:
                yield session.handle, True
        finally:
            session.expires_at_seconds = self._monotonic() + timeout_seconds
            session.lock.release()

    def _fresh(self) -> Iterator[tuple[Any, bool]]:
        handle = self._connect()
        try:
            yield handle, False
        finally:
            handle.close()

    def _expire(self) -> None:
        now = self._monotonic()
        for name, session in list(self._sessions.items()):
            if session.expires_at_seconds < now and session.lock.acquire(blocking=False):
                if session.handle is not None:
                    session.handle.close()
                del self._sessions[name]
                session.lock.release()
