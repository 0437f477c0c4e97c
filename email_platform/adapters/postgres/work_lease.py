"""A lease of the OLTP database for work that one process at a time does: a row with an end, no lock of a session.

A session's advisory lock belongs to whichever connection the pooler lends (PgBouncer, "Feature list for pooling modes":
session-level advisory locks work in session mode only). A row works through any pooler, and one that its holder does
not renew ends by itself.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from uuid import uuid4

from sqlalchemy import Engine, delete, func, or_, select
from sqlalchemy.dialects.postgresql import insert

from email_platform.adapters.postgres.tables import work_lease
from email_platform.adapters.postgres.transactions import oltp_transaction
from email_platform.errors import PartUnavailableError
from email_platform.repeating import repeated_beside

LEASE_SECONDS = 60.0
POLL_SECONDS = 0.5
OLD_ROWS_WORK = "legacy import"
"""Who has it imports old rows; one process at a time."""


@contextmanager
def hold_work_lease(engine: Engine, name: str, lease_seconds: float = LEASE_SECONDS) -> Iterator[Callable[[], bool]]:
    """Wait until nobody else has the work of this name, then have it within the `with`; a thread renews it.

    Whoever holds it should ask before each step whether it still does: a frozen process loses it.

    Yields:
        Whether the lease is still this process's.
    """
    holder = _holder()
    while not _take(engine, name, holder, lease_seconds):
        time.sleep(POLL_SECONDS)
    with _renewed(engine, name, holder, lease_seconds) as held:
        yield held


@contextmanager
def try_work_lease(
    engine: Engine, name: str, lease_seconds: float = LEASE_SECONDS
) -> Iterator[Callable[[], bool] | str]:
    """As `hold_work_lease`, without waiting: where another process has the work, its name is given instead."""
    holder = _holder()
    if not _take(engine, name, holder, lease_seconds):
        with oltp_transaction(engine) as connection:
            other = connection.execute(select(work_lease.c.holder).where(work_lease.c.name == name)).scalar()
        yield other or "another process"
        return
    with _renewed(engine, name, holder, lease_seconds) as held:
        yield held


def is_work_held(engine: Engine, name: str) -> bool:
    """Whether some process has the work of this name now."""
    with oltp_transaction(engine) as connection:
        is_valid = (work_lease.c.name == name) & (work_lease.c.expires_at > func.clock_timestamp())
        return connection.execute(select(work_lease.c.name).where(is_valid)).one_or_none() is not None


def _holder() -> str:
    return f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}"


@contextmanager
def _renewed(engine: Engine, name: str, holder: str, lease_seconds: float) -> Iterator[Callable[[], bool]]:
    def renew() -> None:
        with suppress(PartUnavailableError):  # the next renewal may come in time
            _take(engine, name, holder, lease_seconds)

    try:
        with repeated_beside(renew, lease_seconds / 4, name="work-lease"):
            yield lambda: _take(engine, name, holder, lease_seconds)
    finally:
        with suppress(PartUnavailableError), oltp_transaction(engine) as connection:
            is_ours = (work_lease.c.name == name) & (work_lease.c.holder == holder)
            connection.execute(delete(work_lease).where(is_ours))


def _take(engine: Engine, name: str, holder: str, lease_seconds: float) -> bool:
    """Take or renew the lease; False where another holder's is valid. PostgreSQL's clock decides."""
    now = func.clock_timestamp()
    ends_at = now + func.make_interval(0, 0, 0, 0, 0, 0, lease_seconds)
    statement = insert(work_lease).values(name=name, holder=holder, expires_at=ends_at)
    statement = statement.on_conflict_do_update(
        index_elements=[work_lease.c.name],
        set_={"holder": holder, "expires_at": ends_at},
        where=or_(work_lease.c.holder == holder, work_lease.c.expires_at < now),
    )
    with oltp_transaction(engine) as connection:
        return connection.execute(statement.returning(work_lease.c.name)).one_or_none() is not None
