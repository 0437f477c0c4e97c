"""The connection pool to the OLTP database.

Invariant: an error says which address or variable is wrong and never shows the URL's password.
"""

from __future__ import annotations

from sqlalchemy import Engine, create_engine
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError

from email_platform.errors import ConfigurationError, PartUnavailableError

CONNECT_TIMEOUT_SECONDS = 5


def create_oltp_engine(url: str) -> Engine:
    """A small pool over psycopg 3, which checks a connection before lending it; connects on first use."""
    return create_engine(
        make_url(url),
        pool_size=5,
        max_overflow=5,
        pool_pre_ping=True,
        hide_parameters=True,  # statements carry addresses
        connect_args={"connect_timeout": CONNECT_TIMEOUT_SECONDS, "application_name": "email-platform"},
    )


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
        said = str(error.orig)
        if any(word in said for word in ("authentication failed", "does not exist", "no pg_hba.conf entry")):
            raise ConfigurationError(
                f"PostgreSQL at {address} refuses EMAIL_PLATFORM_POSTGRES_URL's user {engine.url.username!r}, its "
                f"password or its database {engine.url.database!r}: correct the variable"
            ) from None
        raise PartUnavailableError(f"PostgreSQL at {address} does not answer") from None
