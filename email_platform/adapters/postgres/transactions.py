"""One transaction on the OLTP database, with the driver's failures translated once.

Invariant: a caller sees PartUnavailableError exactly where trying the same transaction again may help.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from email_platform.errors import PartUnavailableError


@contextmanager
def oltp_transaction(engine: Engine) -> Iterator[Connection]:
    """Begin, and commit on a clean exit.

    Raises:
        PartUnavailableError: PostgreSQL is away, restarting, or dropped the connection (also during the
            commit, where the outcome is not known: callers' statements are idempotent).
    """
    try:
        with engine.begin() as connection:
            yield connection
    except (OperationalError, InterfaceError) as error:
        raise _unavailable(engine, error) from error
    except DBAPIError as error:
        if error.connection_invalidated:
            raise _unavailable(engine, error) from error
        raise


def _unavailable(engine: Engine, error: DBAPIError) -> PartUnavailableError:
    address = f"{engine.url.host}:{engine.url.port}"
    return PartUnavailableError(f"PostgreSQL at {address} did not answer: {type(error.orig).__name__}")
