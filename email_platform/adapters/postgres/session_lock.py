"""A lock of the OLTP database that lives as long as its session: PostgreSQL drops it with a process that dies."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine, text

POLL_SECONDS = 0.5


@contextmanager
def session_lock(engine: Engine, key: int) -> Iterator[None]:
    """Hold the advisory lock of this key, waiting without an open transaction until it is free."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        while not _takes(connection, key):
            time.sleep(POLL_SECONDS)
        try:
            yield
        finally:
            connection.execute(text("select pg_advisory_unlock(:key)"), {"key": key})


def _takes(connection: Connection, key: int) -> bool:
    """Whether this session has the lock now."""
    return bool(connection.execute(text("select pg_try_advisory_lock(:key)"), {"key": key}).scalar())
