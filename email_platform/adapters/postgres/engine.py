"""The connection pool to the OLTP database.

Invariant: an error names the address or variable that is wrong and never shows the URL's password; and a process
that stops in the middle of a transaction (SIGSTOP, a frozen machine, a lost network) keeps no row locked for
longer than `idle_in_transaction_seconds`, so that the process that takes over its work is not blocked too. Both hold
behind a transaction pooler, where nothing may be asked of a session: the next transaction may have another one, and
somebody else has ours (PgBouncer, "Feature list for pooling modes": SET and prepared statements).
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError

from email_platform.adapters.postgres.lenient_reading import read_json, read_leniently
from email_platform.errors import ConfigurationError, PartUnavailableError
from email_platform.settings.postgres import Pooler

CONNECT_TIMEOUT_SECONDS = 5
IDLE_IN_TRANSACTION_SECONDS = 20.0
# PostgreSQL's words, and PgBouncer's for a database that it does not know.
_REFUSALS = ("authentication failed", "does not exist", "no pg_hba.conf entry", "no such database")


def create_oltp_engine(
    url: str, idle_in_transaction_seconds: float = IDLE_IN_TRANSACTION_SECONDS, pooler: Pooler = "none"
) -> Engine:
    """A small pool over psycopg 3, which checks a connection before lending it; connects on first use.

    Args:
        url: the database.
        idle_in_transaction_seconds: PostgreSQL ends a session that leaves a transaction alone for so long. Without
            it an orphan that was stopped inside the ledger's transaction blocked its successor for ever (found by
            ``make chaos SEED=3``): the lease had expired, but its row was locked.
        pooler: what the URL leads to. With ``transaction`` the driver prepares nothing (psycopg, "Prepared
            statements": no ``prepare_threshold``), and each transaction begins with the limit on its idle time, which
            costs one more answer of the server. It works on the database itself too.
    """
    milliseconds = round(idle_in_transaction_seconds * 1000)
    has_session = pooler == "none"
    connect_args = {"connect_timeout": CONNECT_TIMEOUT_SECONDS, "application_name": "email-platform"}
    engine = create_engine(
        make_url(url),
        pool_size=5,
        max_overflow=5,
        pool_pre_ping=True,
        hide_parameters=True,  # statements carry addresses
        json_deserializer=read_json,
        connect_args=connect_args if has_session else {**connect_args, "prepare_threshold": None},
    )

    @event.listens_for(engine, "connect")
    def make_ready(connection: Any, _record: object) -> None:
        read_leniently(connection)
        if has_session:
            # A statement, not a start-up option: connection poolers refuse options that they do not know.
            connection.execute(f"set idle_in_transaction_session_timeout = {milliseconds}")
            connection.commit()

    if not has_session:

        @event.listens_for(engine, "begin")
        def limit_idle_time(connection: Connection) -> None:
            connection.exec_driver_sql(f"set local idle_in_transaction_session_timeout = {milliseconds}")

    return engine


def check_connection(engine: Engine) -> None:
    """Return when the database answers; that a pooler before it takes the connection is not enough.

    Raises:
        ConfigurationError: it refuses the user, password or database of EMAIL_PLATFORM_POSTGRES_URL.
        PartUnavailableError: nothing answers at the address.
    """
    address = f"{engine.url.host}:{engine.url.port}"
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql("select 1")
            return
    except OperationalError as error:
        message = str(error.orig)
        if any(words in message for words in _REFUSALS):
            raise ConfigurationError(
                f"PostgreSQL at {address} refuses EMAIL_PLATFORM_POSTGRES_URL's user {engine.url.username!r}, its "
                f"password or its database {engine.url.database!r}: correct the variable"
            ) from None
        raise PartUnavailableError(f"PostgreSQL at {address} does not answer") from None
