"""One ClickHouse client, and its failures translated once.

Invariant: a caller sees PartUnavailableError exactly where trying again may help, ConfigurationError where an
operator must act, and no message or chained exception holds a password or a secret key. The driver's own
exception is not chained: for a statement that does not parse, ClickHouse quotes the statement back unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import clickhouse_connect
from clickhouse_connect.driver.exceptions import ClickHouseError, DatabaseError, OperationalError

from email_platform.adapters.clickhouse.address import URL_VARIABLE, ClickHouseAddress
from email_platform.errors import ConfigurationError, EmailPlatformError, PartUnavailableError

CONNECT_TIMEOUT_SECONDS = 5
# How long one statement may stay without an answer, by what is waiting for it. A server that is stopped or overloaded
# accepts connections and never answers.
LOAD_TIMEOUT_SECONDS = 600.0
READER_TIMEOUT_SECONDS = 8.0

_WRONG_CREDENTIALS = {192, 193, 194, 516}  # unknown user, wrong password, password required, authentication failed
UNKNOWN_DATABASE = 81
_SCHEMA_BEHIND = {16, 47, 60, UNKNOWN_DATABASE}  # no such column, identifier, table, database
_NOT_GRANTED = {497}
# No such element in the server's configuration (a macro), no Keeper, no DDL for clusters, no such cluster.
_CLUSTER_INCOMPLETE = {139, 225, 392, 701}
_CODE = re.compile(r"Code: (\d+)")


def error_code(error: BaseException) -> int | None:
    """ClickHouse's number of the error, from the driver's field or from the text."""
    code = getattr(error, "code", None)
    if isinstance(code, int):
        return code
    found = _CODE.search(str(error))
    return int(found[1]) if found else None


def scrubbed(text: str, secrets: Collection[str]) -> str:
    """The first 600 characters of the text without the secrets."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, "[HIDDEN]")
    return text[:600]


def translated(error: ClickHouseError, address: str, secrets: Collection[str]) -> EmailPlatformError:
    """The platform's error for a driver's error; raise it ``from None``."""
    code = error_code(error)
    message = scrubbed(str(error), secrets)
    if code in _WRONG_CREDENTIALS:
        return ConfigurationError(
            f"ClickHouse at {address} refuses the user or password of {URL_VARIABLE}: correct the variable"
        )
    if code in _NOT_GRANTED:
        return ConfigurationError(f"ClickHouse at {address}: the user of {URL_VARIABLE} lacks a right: {message}")
    if code in _CLUSTER_INCOMPLETE:
        return ConfigurationError(
            f"ClickHouse at {address} is not set up as the cluster of EMAIL_PLATFORM_CLICKHOUSE_CLUSTER; its "
            f"configuration needs remote_servers, zookeeper, distributed_ddl, the macros shard and replica: {message}"
        )
    if code in _SCHEMA_BEHIND:
        return ConfigurationError(f"ClickHouse at {address} lacks a database or table; apply the migrations: {message}")
    if code is None and isinstance(error, OperationalError):
        return PartUnavailableError(f"ClickHouse at {address} does not answer ({URL_VARIABLE})")
    if isinstance(error, DatabaseError):
        return PartUnavailableError(f"ClickHouse at {address} could not do it: {message}")
    return ConfigurationError(f"ClickHouse at {address}: the driver refuses the request: {message}")


@contextmanager
def clickhouse_errors(address: str, secrets: Collection[str]) -> Iterator[None]:
    """Run the block and translate what the driver raises.

    Raises:
        ConfigurationError, PartUnavailableError: see `translated`.
    """
    try:
        yield
    except ClickHouseError as error:
        problem = translated(error, address, secrets)
    else:
        return
    raise problem  # outside the handler, so that the original is no context either


def connect(
    address: ClickHouseAddress,
    *,
    database: str | None = None,
    timeout_seconds: float = LOAD_TIMEOUT_SECONDS,
    settings: Mapping[str, str | int] = MappingProxyType({}),
) -> Any:
    """A clickhouse-connect client that may be used by several threads at once.

    Args:
        address: the server, and the user to connect as.
        database: instead of the address's database; "" for the server's default.
        timeout_seconds: how long a statement may stay without an answer.
        settings: of every statement; a statement's own come before them.

    Raises:
        ConfigurationError: wrong user, password or database.
        PartUnavailableError: nothing answers.
    """
    with clickhouse_errors(str(address), [address.password]):
        return clickhouse_connect.get_client(
            host=address.host,
            port=address.port,
            username=address.user,
            password=address.password,
            database=(address.database if database is None else database) or None,
            interface="https" if address.is_secure else "http",
            connect_timeout=CONNECT_TIMEOUT_SECONDS,
            send_receive_timeout=timeout_seconds,
            autogenerate_session_id=False,  # a session allows one query at a time; loaders run side by side
            client_name="email-platform",
            settings=dict(settings),
            tz_mode="aware",  # every _at of this platform is UTC-aware
        )
    raise AssertionError("unreachable")
