"""The connection pool to the OLTP database.

Invariant: an error names the address or variable that is wrong and never shows the URL's password; and a process
that stops in the middle of a transaction (SIGSTOP, a frozen machine, a lost network) keeps no row locked for
longer than `idle_in_transaction_seconds`, so that the process that takes over its work is not blocked too.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError

from email_platform.adapters.postgres.lenient_reading import read_json, read_leniently
from email_platform.errors import ConfigurationError, PartUnavailableError

CONNECT_TIMEOUT_SECONDS = 5
IDLE_IN_TRANSACTION_SECONDS = 20.0


def create_oltp_engine(url: str, idle_in_transaction_seconds: float = IDLE_IN_TRANSACTION_SECONDS) -> Engine:
    """A small pool over psycopg 3, which checks a connection before lending it; connects on first use.

    Args:
        url: the database.
        idle_in_transaction_seconds: PostgreSQL ends a session that leaves a transaction alone for so long. Without
            it an orphan that was stopped inside the ledger's transaction blocked its successor for ever (found by
            ``make chaos SEED=3``): the lease had expired, but its row was locked.
    """
    engine = create_engine(
        make_url(url),
        pool_size=5,
        max_overflow=5,
        pool_pre_ping=True,
        hide_parameters=True,  # statements carry addresses
        json_deserializer=read_json,
        connect_args={"connect_timeout": CONNECT_TIMEOUT_SECONDS, "application_name": "email-platform"},
    )

    # A statement, not a start-up option: connection poolers refuse options that they do not know.
    @event.listens_for(engine, "connect")
    def limit_idle_transactions(connection: Any, _record: object) -> None:
        milliseconds = round(idle_in_transaction_seconds * 1000)
        connection.execute(f"set idle_in_transaction_session_timeout = {milliseconds}")
        connection.commit()
        read_leniently(connection)

    return engine


def check_connection(engine: Engine) -> None:
    """Return when the database answers.

    Raises:
        ConfigurationError: it refuses the user, password or database of EMAIL_PLATFORM_POSTGRES_URL.
        PartUnavailableError: nothing answers at the address.
    """
    address = f"{engine.url.host}:{engine.url.port}"
    try:
        with engine.connect():
            return
    except OperationalError as error:
        message = str(error.orig)
        if any(word in message for word in ("authentication failed", "does not exist", "no pg_hba.conf entry")):
            raise ConfigurationError(
                f"PostgreSQL at {address} refuses EMAIL_PLATFORM_POSTGRES_URL's user {engine.url.username!r}, its "
                f"password or its database {engine.url.database!r}: correct the variable"
            ) from None
        raise PartUnavailableError(f"PostgreSQL at {address} does not answer") from None
