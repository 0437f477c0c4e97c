"""Writes an old system's rows into a PostgreSQL, MySQL or MariaDB that somebody names, and lets a reader read them.

Invariant: no table that is there already is touched: where one of these names is taken, nothing at all is made. The
reader's user may select and nothing else.

One description of the tables is made into each engine's own types by SQLAlchemy; what differs is written beside the
column. MariaDB's ``json`` is a ``longtext`` with a check, and a MySQL ``datetime`` has no zone, so it is UTC.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from more_itertools import chunked
from psycopg import sql
from sqlalchemy import (
    JSON,
    URL,
    BigInteger,
    Column,
    Connection,
    DateTime,
    Dialect,
    Engine,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    create_engine,
    func,
    insert,
    inspect,
    make_url,
    select,
    text,
)
from sqlalchemy.dialects import mysql, postgresql
from sqlalchemy.exc import OperationalError, ProgrammingError
from sqlalchemy.pool import NullPool
from sqlalchemy.types import TypeEngine

from email_platform.errors import CommandRefusedError, ConfigurationError
from email_platform.settings import is_mysql

SCHEMA = "app"
"""Where the tables are in PostgreSQL: beside our own in the same database, so that leads can stay where they are."""
_BATCH_ROWS = 2_000
_Json = JSON().with_variant(postgresql.JSONB(), "postgresql")
# What docs/adopting.md calls a view for columns of other names; MySQL's are mapped by a setting instead.
_VIEW = """
create view app.mail_lead as
select customer_no as id, mail as email, given_name as first_name, family_name as last_name, country, city, plan,
    language, age, profile, last_order_at, opted_out_at as unsubscribed_at, created_at
from app.customer
where deleted_at is null
"""


class _Moment(TypeDecorator[datetime]):
    """A time in UTC with microseconds: with its zone in PostgreSQL, without one in MySQL."""

    impl = DateTime
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return mysql.DATETIME(fsp=6) if dialect.name == "mysql" else postgresql.TIMESTAMP(timezone=True)

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value.astimezone(UTC).replace(tzinfo=None) if value and dialect.name == "mysql" else value


def old_tables(schema: str | None) -> MetaData:
    """The old system's tables, whose names are those of `email_platform.local.demo.old_system.OldSystem.tables`."""
    tables = MetaData(schema=schema)

    def table(name: str, *columns: Any) -> None:
        Table(name, tables, *columns, mysql_engine="InnoDB", mysql_charset="utf8mb4")

    def created() -> Column[Any]:
        return Column("created_at", _Moment, nullable=False)

    def key(name: str = "id") -> Column[Any]:
        return Column(name, BigInteger, primary_key=True)

    table("users", key(), Column("email", String(320), nullable=False), Column("name", String(200)), created())
    table(
        "senders",
        key(),
        Column("user_id", BigInteger, nullable=False),
        Column("from_address", String(320), nullable=False),
        Column("from_name", String(200)),
    )
    table(
        "customer",
        key("customer_no"),
        Column("mail", String(320)),
        *(Column(name, String(200)) for name in ("given_name", "family_name", "country", "city", "plan", "language")),
        Column("age", Integer),
        Column("profile", _Json),
        Column("opted_out_at", _Moment),
        Column("last_order_at", _Moment),
        created(),
        Column("updated_at", _Moment, nullable=False, index=True),
        Column("deleted_at", _Moment),
    )
    table(
        "campaign",
        key(),
        Column("user_id", BigInteger, nullable=False),
        Column("sender_id", BigInteger, nullable=False),
        Column("name", String(200), nullable=False),
        Column("subject", String(500), nullable=False),
        Column("audience", _Json, nullable=False),
        Column("status", String(20), nullable=False),
        created(),
        Column("sent_at", _Moment),
    )
    table(
        "email",
        key(),
        *(Column(name, BigInteger, nullable=False) for name in ("campaign_id", "user_id", "lead_id")),
        Column("email", String(500), nullable=False),
        Column("subject", Text, nullable=False),
        Column("status", String(20), nullable=False),
        Column("provider_message_id", String(100), unique=True),
        Column("error", Text),
        Column("sent_at", _Moment),
        created(),
        Column("updated_at", _Moment, nullable=False),
        Index("ix_old_email_created_at", "created_at"),
        Index("ix_old_email_campaign_id_status", "campaign_id", "status"),
    )
    return tables


def write_old_system(
    url: str,
    rows: Mapping[str, Sequence[Mapping[str, Any]]],
    reader_url: str | None,
    on_table: Callable[[str, int], None],
) -> None:
    """Make the tables in this database, fill them, and let the reader's user select.

    Args:
        url: ``postgresql://…``, ``mysql://…`` or ``mariadb://…`` of the application's own user, who may make tables.
        rows: of each table.
        reader_url: the same database with the user whom the platform is to be: made where there is none of that name.
        on_table: called with each table's name and rows once it is filled.

    Raises:
        CommandRefusedError: a table of one of these names is there, or the reader's URL is of another database.
        ConfigurationError: the database does not answer, or its user may not do it.
    """
    address = _address(url)
    reader = None if reader_url is None else _reader(address, _address(reader_url))
    is_postgresql = address.get_backend_name() == "postgresql"
    schema = SCHEMA if is_postgresql else None
    tables = old_tables(schema)
    with _connected(address) as engine:
        _refuse_taken_names(engine, tables, schema)
        with engine.begin() as connection:
            if schema is not None:
                connection.execute(text(f"create schema if not exists {schema}"))
            tables.create_all(connection)
            for table in tables.sorted_tables:
                for batch in chunked(rows[table.name], _BATCH_ROWS):
                    connection.execute(insert(table), batch)
                ((count,),) = connection.execute(select(func.count()).select_from(table)).all()
                on_table(table.name, count)
            if schema is not None:
                connection.execute(text(_VIEW))
            if reader is not None:
                (_let_read_postgresql if is_postgresql else _let_read_mysql)(connection, reader)
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            for table in tables.sorted_tables:
                connection.execute(text(f"analyze {'' if is_postgresql else 'table '}{table.fullname}"))


def _address(url: str) -> URL:
    address = make_url(url)
    if is_mysql(url):
        query = {**address.query, "charset": "utf8mb4"}
        return address.set(drivername="mysql+pymysql", query=query)
    if address.get_backend_name() != "postgresql":
        raise ConfigurationError(
            "the old system's URL must be postgresql://user:password@host:port/database, or mysql://… or mariadb://…"
        )
    return address.set(drivername="postgresql+psycopg")


def _reader(address: URL, reader: URL) -> URL:
    same = ("drivername", "host", "port", "database")
    if any(getattr(address, name) != getattr(reader, name) for name in same):
        raise CommandRefusedError("the reader's URL must be of the same host, port and database as the old system's")
    if not reader.username or not reader.password or reader.username == address.username:
        raise CommandRefusedError("the reader's URL must have a user of its own, and a password")
    return reader


@contextmanager
def _connected(address: URL) -> Iterator[Engine]:
    """An engine without a pool; what the driver says of a refusal becomes an error of ours, without the password."""
    problem: ConfigurationError
    try:
        yield create_engine(address, poolclass=NullPool)
    except (OperationalError, ProgrammingError) as error:
        reason = str(error.orig).splitlines()[0]
        where = f"{address.host or 'a socket'}/{address.database}"
        problem = ConfigurationError(
            f"the database at {where} did not do it as user {address.username}: {reason[:300]}"
        )
    else:
        return
    raise problem  # outside the handler: the driver's error has the statement, and with it the reader's password


def _refuse_taken_names(engine: Engine, tables: MetaData, schema: str | None) -> None:
    looking = inspect(engine)
    there = {*looking.get_table_names(schema), *looking.get_view_names(schema)} if schema in (
        None, *looking.get_schema_names()
    ) else set()  # fmt: skip
    taken = sorted(there & {*(table.name for table in tables.sorted_tables), *(["mail_lead"] if schema else [])})
    if taken:
        where = f"schema {schema} of this database" if schema else "this database"
        raise CommandRefusedError(
            f"{where} has {', '.join(taken)} already, and nothing there is touched: name an empty database"
        )


def _let_read_postgresql(connection: Connection, reader: URL) -> None:
    name = sql.Identifier(reader.username or "")
    exists = connection.execute(
        text("select 1 from pg_roles where rolname = :name"), {"name": reader.username}
    ).scalar()
    statements = [
        *([] if exists else [sql.SQL("create role {} login password {}").format(name, sql.Literal(reader.password))]),
        sql.SQL("grant usage on schema {} to {}").format(sql.Identifier(SCHEMA), name),
        sql.SQL("grant select on all tables in schema {} to {}").format(sql.Identifier(SCHEMA), name),
    ]
    for statement in statements:
        connection.exec_driver_sql(statement.as_string(None).replace("%", "%%"))


def _let_read_mysql(connection: Connection, reader: URL) -> None:
    driver: Any = connection.connection.driver_connection
    with driver.cursor() as cursor:
        cursor.execute("create user if not exists %s@'%%' identified by %s", (reader.username, reader.password))
        database = str(reader.database).replace("`", "``")
        cursor.execute(f"grant select on `{database}`.* to %s@'%%'", (reader.username,))
