"""The OLTP database, and Dagster's storage beside it."""

from __future__ import annotations

from typing import Any, Literal, Self
from urllib.parse import unquote, urlsplit, urlunsplit

from pydantic import BaseModel, SecretStr, model_validator

from email_platform.settings.names import ReplaceablePart
from email_platform.settings.values import POSTGRES_SCHEMES, Port, PostgresUrl, plain

DAGSTER_DATABASE = "dagster"
Pooler = Literal["none", "transaction"]
POSTGRES = ReplaceablePart(
    "postgres",
    addresses=("postgres_url",),
    fields=("postgres_url", "dagster_postgres_url", "legacy_url"),
)


class PostgresSettings(BaseModel):
    """Where PostgreSQL is.

    Attributes:
        postgres_url: the OLTP database, ``postgresql+psycopg://user:password@host:port/database``.
        dagster_postgres_url: Dagster's storage, by default the database ``dagster`` on the same server as
            `postgres_url`. Its driver is always psycopg2, which dagster-postgres is written for: SQLAlchemy 2.1
            gives a bare ``postgresql://`` psycopg 3, with which its NOTIFY statements are syntax errors.
        postgres_pooler: what `postgres_url` leads to. ``none``: the database itself, or a pooler that keeps a session
            on one connection. ``transaction``: a pooler that may give each transaction another one (PgBouncer's
            ``pool_mode = transaction``); Dagster's storage then needs an address of its own.
        postgres_port: of the embedded server.
        lead_relation: a table or view of `postgres_url`'s database that has the leads, as it stands in SQL
            (``app.customer``); it is only read. Empty: our own table ``lead``.
        user_relation, sender_relation: likewise for the users and senders (docs/adopting.md); `email-platform migrate`
            has the database read them in the place of ``app_user`` and ``sender``.
        lead_attributes: columns of `lead_relation` that become attributes, separated by commas; ``name.*`` for the
            keys of a jsonb column. A jsonb column ``attributes`` needs no mention.
    """

    postgres_url: PostgresUrl
    dagster_postgres_url: PostgresUrl = SecretStr("")
    postgres_pooler: Pooler = "none"
    postgres_port: Port = 15432
    lead_relation: str = ""
    lead_attributes: str = ""
    user_relation: str = ""
    sender_relation: str = ""

    @model_validator(mode="before")
    @classmethod
    def _name_the_drivers(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        url = plain(values.get("postgres_url"))
        if url and values.get("postgres_pooler") == "transaction" and not values.get("dagster_postgres_url"):
            raise ValueError(
                "EMAIL_PLATFORM_DAGSTER_POSTGRES_URL: must be set to the database itself where "
                "EMAIL_PLATFORM_POSTGRES_POOLER is transaction: Dagster's storage changes settings of its sessions"
            )
        dagster_url = plain(values.get("dagster_postgres_url")) or _with_database(url, DAGSTER_DATABASE)
        return {
            **values,
            # A bare postgresql:// means another driver in another SQLAlchemy release: name it.
            **({"postgres_url": _with_scheme(url, "postgresql+psycopg")} if url else {}),
            **({"dagster_postgres_url": _with_scheme(dagster_url, "postgresql+psycopg2")} if dagster_url else {}),
        }

    @model_validator(mode="after")
    def _attributes_have_a_relation(self) -> Self:
        if self.lead_attributes.strip() and not self.lead_relation:
            raise ValueError(
                "EMAIL_PLATFORM_LEAD_ATTRIBUTES: names columns of EMAIL_PLATFORM_LEAD_RELATION, which is not set"
            )
        return self

    def lead_attribute_columns(self) -> tuple[str, ...]:
        """The columns of `lead_attributes`."""
        return tuple(name.strip() for name in self.lead_attributes.split(",") if name.strip())

    def postgres_password(self) -> str:
        """The password in `postgres_url`."""
        return unquote(urlsplit(self.postgres_url.get_secret_value()).password or "")


def _with_database(url: str, database: str) -> str:
    """The same server's other database; nothing where the URL is wrong anyway, so that one mistake gives one line."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=f"/{database}")) if parts.scheme.startswith("postgresql") else ""


def _with_scheme(url: str, scheme: str) -> str:
    """The same URL with the driver that its reader needs; a foreign scheme stays, to be refused."""
    parts = urlsplit(url)
    return url.replace(parts.scheme, scheme, 1) if parts.scheme in POSTGRES_SCHEMES else url
