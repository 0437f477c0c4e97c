"""One short read-only snapshot at a time of a MySQL or MariaDB that belongs to somebody else.

Invariant: nothing is ever written, no row lock is taken, and no transaction stays open after `MysqlServer.snapshot`:
each has a connection of its own that ends with it, a statement that takes too long or waits for a table's lock gives
up, and the server ends a session that hangs. What is read in one snapshot is of one moment.

What the servers do, by their documentation:

- ``start transaction with consistent snapshot, read only`` takes the snapshot at once, under repeatable read, for
  transactional engines only, so tables of others are refused
  (https://dev.mysql.com/doc/refman/8.4/en/commit.html, https://mariadb.com/kb/en/start-transaction/).
- A statement's time limit is ``max_execution_time`` in milliseconds in MySQL, for ``select``, and
  ``max_statement_time`` in seconds in MariaDB (https://mariadb.com/kb/en/aborting-statements/).
- ``lock_wait_timeout`` is about a table's metadata lock, in whole seconds.
- ``time_zone = '+00:00'`` makes every ``timestamp`` UTC; a ``datetime`` has no zone and is read as it stands.
- With an empty ``sql_mode``, zero dates may be compared and quotes mean text, whatever the server's own mode is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import pymysql

from email_platform.errors import ConfigurationError, PartUnavailableError

_IDLE_SECONDS = 60  # a reader that hangs while a snapshot is open loses it
_OPTIONS = ("ssl_ca", "unix_socket")
# Access denied to the database, to the user, no database, no right to a table or column, a wrong plugin.
_REFUSED = {1044, 1045, 1049, 1142, 1143, 1227, 1251, 1410, 1698}
_NAME = re.compile(r"[A-Za-z_$][\w$]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class MysqlAddress:
    """Where a server is, and how to log on.

    Attributes:
        ssl_ca: a file with the certificates that the server's must go back to; None: without TLS.
        variable: of the setting, for errors.
    """

    host: str
    port: int
    database: str
    user: str = field(repr=False)
    password: str = field(repr=False)
    unix_socket: str | None
    ssl_ca: str | None
    variable: str

    @classmethod
    def parse(cls, url: str, variable: str) -> MysqlAddress:
        """The parts of ``mysql://user:password@host:port/database?ssl_ca=FILE`` (or ``mariadb://``).

        Raises:
            ConfigurationError: an option that is not known.
        """
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query))
        unknown = sorted(options.keys() - set(_OPTIONS))
        if unknown:
            raise ConfigurationError(f"{variable}: {', '.join(unknown)} is no option; {' and '.join(_OPTIONS)} are")
        return cls(
            parts.hostname or "localhost",
            parts.port or 3306,
            unquote(parts.path.lstrip("/")),
            unquote(parts.username or ""),
            unquote(parts.password or ""),
            options.get("unix_socket"),
            options.get("ssl_ca"),
            variable,
        )

    def __str__(self) -> str:
        return f"{self.unix_socket or f'{self.host}:{self.port}'}/{self.database}"


def quoted_table(name: str, variable: str) -> str:
    """``table`` or ``database.table`` as it stands in SQL.

    Raises:
        ConfigurationError: no name of a table.
    """
    parts = name.split(".")
    if len(parts) > 2 or not all(_NAME.fullmatch(part) for part in parts):
        raise ConfigurationError(f"{variable} must be a table's name or database.table")
    return ".".join(f"`{part}`" for part in parts)


@dataclass(frozen=True, slots=True)
class MysqlColumn:
    """One column, as the server describes it.

    Attributes:
        kind: the type's name, such as ``bigint``.
        full_type: with its length and ``unsigned``.
    """

    name: str
    kind: str
    full_type: str
    is_nullable: bool
    collation: str | None

    @property
    def is_unsigned(self) -> bool:
        """Whether it is a number without sign."""
        return "unsigned" in self.full_type


@dataclass(frozen=True, slots=True)
class MysqlTable:
    """What the server says of a table or view.

    Attributes:
        engine: None for a view.
        indexes: by their first column, the name of one such index, a primary or unique one where there is one.
        estimated_rows: the server's guess; None for a view.
    """

    columns: dict[str, MysqlColumn]
    engine: str | None
    indexes: dict[str, str]
    estimated_rows: int | None


class Snapshot:
    """One open snapshot."""

    def __init__(self, connection: Any, database: str) -> None:
        self._connection, self._database = connection, database

    def rows(self, statement: str, parameters: Sequence[object] | None = None) -> list[tuple[Any, ...]]:
        """All rows of a statement; with parameters, ``%s`` stands for each."""
        with self._connection.cursor() as cursor:
            cursor.execute(statement, parameters)
            return list(cursor.fetchall())

    def table(self, name: str) -> MysqlTable | None:
        """A table or view as the server describes it; None where our user sees none.

        Args:
            name: ``table`` or ``database.table``, without quotes.
        """
        *schema, table = name.split(".")
        where = (schema[0] if schema else self._database, table)
        columns = {
            row[0]: MysqlColumn(row[0], row[1].lower(), row[2].lower(), row[3] == "YES", row[4])
            for row in self.rows(
                "select column_name, data_type, column_type, is_nullable, collation_name "
                "from information_schema.columns where table_schema = %s and table_name = %s",
                where,
            )
        }
        if not columns:
            return None
        ((engine, estimated),) = self.rows(
            "select engine, table_rows from information_schema.tables where table_schema = %s and table_name = %s",
            where,
        )
        indexes: dict[str, str] = {}
        for column, index in self.rows(
            "select column_name, index_name from information_schema.statistics "
            "where table_schema = %s and table_name = %s and seq_in_index = 1 and index_type = 'BTREE' "
            "and sub_part is null order by index_name <> 'PRIMARY', non_unique, index_name",
            where,
        ):
            indexes.setdefault(column, index)
        return MysqlTable(columns, engine, indexes, None if estimated is None else int(estimated))


class MysqlServer:
    """Opens snapshots of one server."""

    def __init__(
        self, address: MysqlAddress, *, statement_timeout_seconds: float = 60.0, lock_timeout_seconds: float = 2.0
    ) -> None:
        self.address = address
        self._statement_timeout_seconds = statement_timeout_seconds
        self._lock_timeout_seconds = max(1, math.ceil(lock_timeout_seconds))

    def __repr__(self) -> str:
        return f"MysqlServer({self.address})"

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """Open a read-only snapshot on a connection of its own, and close both.

        Raises:
            ConfigurationError: the server refuses the user, the database or a right.
            PartUnavailableError: it is away, or a statement took too long.
        """
        problem: Exception
        connection = None
        try:
            connection = self._connect()
            yield Snapshot(connection, self.address.database)
        except pymysql.err.MySQLError as error:
            problem = self._translated(error)
        else:
            return
        finally:
            if connection is not None:
                with suppress(pymysql.err.MySQLError):
                    connection.close()  # ends the transaction, whatever its state
        raise problem  # outside the handler: the driver's error may quote the statement

    def _connect(self) -> Any:
        at = self.address
        tls = {"ssl_ca": at.ssl_ca, "ssl_verify_cert": True, "ssl_verify_identity": True} if at.ssl_ca else {}
        connection = pymysql.connect(
            host=at.host,
            port=at.port,
            user=at.user,
            password=at.password,
            database=at.database,
            unix_socket=at.unix_socket,
            charset="utf8mb4",
            connect_timeout=10,
            # Above the server's own limit: a server that hangs is left as well.
            read_timeout=self._statement_timeout_seconds + 30,
            autocommit=True,
            program_name="email-platform",
            **tls,
        )
        try:
            is_mariadb = "mariadb" in connection.get_server_info().lower()
            limit = (
                f"max_statement_time = {self._statement_timeout_seconds:.3f}"
                if is_mariadb
                else f"max_execution_time = {max(1, round(self._statement_timeout_seconds * 1000))}"
            )
            with connection.cursor() as cursor:
                cursor.execute(
                    "set session sql_mode = '', time_zone = '+00:00', collation_connection = utf8mb4_bin, "
                    f"lock_wait_timeout = {self._lock_timeout_seconds}, wait_timeout = {_IDLE_SECONDS}, {limit}"
                )
                cursor.execute("set session transaction isolation level repeatable read")
                cursor.execute("start transaction with consistent snapshot, read only")
        except BaseException:
            connection.close()
            raise
        return connection

    def _translated(self, error: pymysql.err.MySQLError) -> Exception:
        code = error.args[0] if error.args else None
        reason = str(error.args[1] if len(error.args) > 1 else error)[:300]
        if code in _REFUSED:
            return ConfigurationError(
                f"the database at {self.address} refuses the user, password, database or right of "
                f"{self.address.variable}: {reason}"
            )
        return PartUnavailableError(f"the database at {self.address} did not do it ({code}): {reason}")
