"""Where ClickHouse is, read from one URL.

Invariant: no repr shows the password; code that needs it reads the attribute by name.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from email_platform.errors import ConfigurationError

URL_VARIABLE = "EMAIL_PLATFORM_CLICKHOUSE_URL"
_URL_SHAPE = "http(s)://user:password@host:port/database"
_DEFAULT_PORTS = {"http": 8123, "https": 8443}


@dataclass(frozen=True, slots=True)
class ClickHouseAddress:
    """The parts of a ClickHouse URL, percent-decoded."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    database: str
    is_secure: bool

    @classmethod
    def parse(cls, url: str) -> ClickHouseAddress:
        """Read ``http(s)://user:password@host:port/database``; the port defaults to 8123 or 8443.

        Raises:
            ConfigurationError: names the variable and the shape, never the URL.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            parts, port = urlsplit(""), None
        database = unquote(parts.path.strip("/"))
        if parts.scheme not in _DEFAULT_PORTS or not parts.hostname or not database or "/" in database:
            raise ConfigurationError(f"{URL_VARIABLE} must look like {_URL_SHAPE}")
        return cls(
            host=parts.hostname,
            port=port or _DEFAULT_PORTS[parts.scheme],
            user=unquote(parts.username or "default"),
            password=unquote(parts.password or ""),
            database=database,
            is_secure=parts.scheme == "https",
        )

    def __str__(self) -> str:
        return f"{'https' if self.is_secure else 'http'}://{self.host}:{self.port}/{self.database}"


def dbt_environment(clickhouse_url: str, *, sharded: bool = False) -> dict[str, str]:
    """The variables that ``dbt_reports`` reads; the password is among them in plain text.

    Args:
        clickhouse_url: of the warehouse.
        sharded: the raw tables are spread over several servers.
    """
    address = ClickHouseAddress.parse(clickhouse_url)
    return {
        "EMAIL_PLATFORM_DBT_HOST": address.host,
        "EMAIL_PLATFORM_DBT_PORT": str(address.port),
        "EMAIL_PLATFORM_DBT_USER": address.user,
        "EMAIL_PLATFORM_DBT_PASSWORD": address.password,
        "EMAIL_PLATFORM_DBT_SCHEMA": address.database,
        "EMAIL_PLATFORM_DBT_SECURE": "true" if address.is_secure else "false",
        "EMAIL_PLATFORM_DBT_SHARDED": "true" if sharded else "false",
    }


def reports_database(clickhouse_url: str) -> str:
    """The database of the report tables: dbt's own rule for the custom schema ``reports``."""
    return reports_database_beside(ClickHouseAddress.parse(clickhouse_url).database)


def reports_database_beside(raw_database: str) -> str:
    """As `reports_database`, for callers that have the raw tables' database and not its URL."""
    return f"{raw_database}_reports"
