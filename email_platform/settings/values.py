"""The kinds of values that settings have, each with the sentence that says what it must look like.

Invariant: no check repeats the value that it refuses; it may be a secret.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Annotated, Any
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, Field, SecretStr

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://.")
BROKER_SCHEMES = ("redis", "rediss")
POSTGRES_SCHEMES = ("postgresql", "postgresql+psycopg", "postgresql+psycopg2")
MYSQL_SCHEMES = ("mysql", "mariadb", "mysql+pymysql", "mariadb+pymysql")


def plain(value: Any) -> str:
    """A value as text, secret or not; empty where there is none."""
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value or "")


def _parts(url: str) -> SplitResult:
    """The URL's parts, of which the host and the port can be read.

    A ``/``, ``#`` or ``?`` in a password ends the host, and part of the password stands where the port does; Python's
    own error would repeat it.
    """
    readable = False
    with suppress(ValueError):
        readable = urlsplit(url).port != 0
    if not readable:
        raise ValueError(
            "has a port that is no number up to 65535, or a host that is none; in a user or password write / as %2F, "
            "# as %23, ? as %3F, [ as %5B and @ as %40"
        )
    return urlsplit(url)


def has_database(url: str) -> bool:
    """Whether the URL names a host and a database."""
    parts = _parts(url)
    return bool(parts.hostname) and len(parts.path) > 1


def _check_http_url(url: str) -> str:
    parts = _parts(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must look like http(s)://host:port")
    if parts.username or parts.password:
        raise ValueError("must hold no credentials: they have variables of their own")
    return url.rstrip("/")


def _check_collector_url(url: str) -> str:
    checked = _check_http_url(url)
    if (parts := _parts(checked)).query or parts.fragment:
        raise ValueError("must have no ? and no #: a key belongs into OTEL_EXPORTER_OTLP_HEADERS")
    if parts.path.endswith("/v1/traces"):
        raise ValueError("must be the collector's address without /v1/traces, which is added")
    return checked


def _check_webhook_url(url: SecretStr) -> SecretStr:
    if not _parts(url.get_secret_value()).hostname:
        raise ValueError("must look like https://host/path")
    return url


def _check_notification_urls(urls: SecretStr) -> SecretStr:
    if not all(_SCHEME.match(one) for one in urls.get_secret_value().split()):
        raise ValueError("must be URLs such as slack://… or mailto://…, with blanks between them")
    return urls


def _check_postgres_url(url: SecretStr) -> SecretStr:
    text = url.get_secret_value()
    if text and (_parts(text).scheme not in POSTGRES_SCHEMES or not has_database(text)):
        raise ValueError("must look like postgresql+psycopg://user:password@host:port/database")
    return url


def _check_broker_url(url: SecretStr) -> SecretStr:
    parts = _parts(url.get_secret_value())
    if parts.scheme not in BROKER_SCHEMES or not parts.hostname:
        raise ValueError("must look like redis://:password@host:port/0, or rediss:// for TLS")
    return url


def is_mysql(url: str) -> bool:
    """Whether the URL is of MySQL or MariaDB."""
    return urlsplit(url).scheme in MYSQL_SCHEMES


def _check_old_url(url: SecretStr) -> SecretStr:
    parts = _parts(text := url.get_secret_value())
    if parts.scheme in MYSQL_SCHEMES and len(parts.path) > 1 and (parts.hostname or "unix_socket=" in parts.query):
        return url
    if parts.scheme not in POSTGRES_SCHEMES or not has_database(text):
        raise ValueError("must look like postgresql://user:password@host:port/database, or mysql://… or mariadb://…")
    return url


def _check_mysql_url(url: SecretStr) -> SecretStr:
    if _parts(url.get_secret_value()).scheme not in MYSQL_SCHEMES:
        raise ValueError("must look like mysql://user:password@host:port/database, or mariadb://…")
    return _check_old_url(url)


def _check_clickhouse_url(url: SecretStr) -> SecretStr:
    text = url.get_secret_value()
    if _parts(text).scheme not in ("http", "https") or not has_database(text):
        raise ValueError("must look like http(s)://user:password@host:port/database")
    return url


def _check_signing_secret(secret: SecretStr) -> SecretStr:
    if len(secret.get_secret_value()) < 16:
        raise ValueError("must have at least 16 characters")
    return secret


Port = Annotated[int, Field(ge=1, le=65535)]
PositiveInt = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0)]
PositiveSeconds = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, le=1)]
HttpUrl = Annotated[str, AfterValidator(_check_http_url)]
CollectorUrl = Annotated[str, AfterValidator(_check_collector_url)]
WebhookUrl = Annotated[SecretStr, AfterValidator(_check_webhook_url)]
NotificationUrls = Annotated[SecretStr, AfterValidator(_check_notification_urls)]
PostgresUrl = Annotated[SecretStr, AfterValidator(_check_postgres_url)]
BrokerUrl = Annotated[SecretStr, AfterValidator(_check_broker_url)]
OldUrl = Annotated[SecretStr, AfterValidator(_check_old_url)]
MysqlUrl = Annotated[SecretStr, AfterValidator(_check_mysql_url)]
ClickHouseUrl = Annotated[SecretStr, AfterValidator(_check_clickhouse_url)]
SigningSecret = Annotated[SecretStr, AfterValidator(_check_signing_secret)]
