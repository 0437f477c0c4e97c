"""The old RDS table `email`, read with COPY in binary by ADBC, which makes Arrow batches of it in C++.

Invariant: nothing is ever written here and no lock is waited for: every session is read only, at most one range of
ids is read in one transaction, and a statement that takes too long, or would have to wait for a lock, gives up.

Why ADBC: measured side by side for 1 M rows in ranges of 100,000 to Parquet, on 2 busy cores: ADBC 314,000 rows a
second, psycopg's COPY as CSV through pyarrow's reader 165,000, ClickHouse's own ``insert into function s3() select
from postgresql()`` 127,000. The last one also has no way to set a snapshot, a timeout or a pause, and gives the
ClickHouse server the network access and the password of the old database.

The row's canonical text, of which both sides take the MD5: the columns in the table's order, joined by commas;
numbers in decimal; text as its length in characters, a colon and itself, so that a separator inside the text cannot be
mistaken for one between columns; times in microseconds since 1970; null is N.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import adbc_driver_manager
import adbc_driver_postgresql.dbapi as adbc
import pyarrow as pa
from adbc_driver_postgresql import StatementOptions

from email_platform.errors import ConfigurationError, LegacySourceError, PartUnavailableError
from email_platform.runs.legacy_table import (
    EARLIEST_TIME,
    LATEST_TIME,
    RANGE_IDS,
    SOURCE_SCHEMA,
    Fingerprint,
    Fingerprints,
    Month,
    SourceDescription,
    require_known_columns,
)
from email_platform.settings import variable_of

URL_VARIABLE = variable_of("legacy_url")
TABLE_VARIABLE = variable_of("legacy_table")
IDLE_TIMEOUT_SECONDS = 60.0  # an importer that hangs while a snapshot is open loses it
_BATCH_BYTES = 8 << 20
_TABLE_NAME = re.compile(r"(?:[A-Za-z_]\w*\.)?[A-Za-z_]\w*", re.ASCII)
_COLUMNS = ", ".join(SOURCE_SCHEMA.names)
# By Arrow type: the types that the old table may have, and those that are copied as they are.
_ACCEPTED_TYPES = {
    pa.int64(): {"bigint", "integer", "smallint"},
    pa.string(): {"text", "character varying"},
    pa.timestamp("us", tz="UTC"): {"timestamp with time zone"},
}
_REFUSED = {"28000", "28P01", "3D000", "42501"}  # authentication, database, privilege
_FAILED_TRANSACTION = "25P02"  # the state of every statement that follows one that failed


def canonical_sql() -> str:
    """The row's canonical text as an expression of PostgreSQL; see the module."""
    return " || ',' || ".join(_canonical_column(column) for column in SOURCE_SCHEMA)


def _canonical_column(column: pa.Field) -> str:
    name = column.name
    if pa.types.is_timestamp(column.type):
        text = f"(extract(epoch from {name}) * 1000000)::bigint::text"
    elif pa.types.is_string(column.type):
        text = f"char_length({name})::text || ':' || {name}"
    else:
        text = f"{name}::text"
    return f"coalesce({text}, 'N')" if column.nullable else text


# The first 15 hexadecimal digits are 60 bits; `sum` of bigint is exact (numeric).
_CHECKSUM = f"sum(('x' || left(md5(convert_to({canonical_sql()}, 'UTF8')), 15))::bit(60)::bigint)::text"


class PostgresLegacySource:
    """`email_platform.runs.legacy_import.LegacySource`; one connection, opened on first use.

    Length: one Protocol over one connection, whose limits, repair and errors every method shares.
    """

    def __init__(
        self,
        url: str,
        table: str = "email",
        *,
        ignored_columns: Collection[str] = (),
        statement_timeout_seconds: float = 60.0,
        lock_timeout_seconds: float = 2.0,
    ) -> None:
        """Take the address; see `describe`.

        Args:
            url: ``postgresql://user:password@host:port/database``, best a read replica's.
            table: name, with its schema where it is not on the search path.
            ignored_columns: of the table, not copied; every other unknown one stops the import.
            statement_timeout_seconds, lock_timeout_seconds: when a statement gives up.

        Raises:
            ConfigurationError: no name of a table.
        """
        if not _TABLE_NAME.fullmatch(table):
            raise ConfigurationError(f"{TABLE_VARIABLE} must be a table's name or schema.table")
        parts = urlsplit(url)
        self._url = re.sub(r"^postgresql(\+\w+)?://", "postgresql://", url)
        self._address = f"{parts.hostname}:{parts.port or 5432}{parts.path}"
        self._table, self._ignored_columns = table, frozenset(ignored_columns)
        self._timeouts = {
            "statement_timeout": statement_timeout_seconds,
            "lock_timeout": lock_timeout_seconds,
            "idle_in_transaction_session_timeout": IDLE_TIMEOUT_SECONDS,
        }
        self._connection: Any = None

    def __repr__(self) -> str:
        return f"PostgresLegacySource({self._address}, {self._table})"

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def describe(self) -> SourceDescription:
        """Check columns, types and indexes; see the Protocol."""
        with self._transaction() as cursor:
            relation = f"to_regclass('{self._table}')"
            columns: dict[str, str] = dict(
                _rows(
                    cursor,
                    f"""
                    select attname::text, regexp_replace(format_type(atttypid, atttypmod), '\\(.*\\)', '')
                    from pg_attribute
                    where attrelid = {relation} and attnum > 0 and not attisdropped
                    """,  # noqa: S608 - the name was checked
                )
            )
            if not columns:
                raise LegacySourceError(f"{self._address} has no table {self._table!r}: set {TABLE_VARIABLE}")
            known = {name: (kind, kind) for name, kind in columns.items()}
            require_known_columns(f"{self._table} at {self._address}", known, _ACCEPTED_TYPES, self._ignored_columns)
            leading = {
                row[0]
                for row in _rows(
                    cursor,
                    f"""
                    select pg_get_indexdef(indexrelid, 1, true)
                    from pg_index
                    where indrelid = {relation} and indisvalid and indpred is null
                    """,  # noqa: S608 - the name was checked
                )
            }
            for name in ("id", "created_at"):
                if name not in leading:
                    raise LegacySourceError(
                        f"{self._table} has no index that starts with {name}: the import would read the whole table "
                        f"for every day; make one on the source (create index concurrently)"
                    )
            ((is_replica, earliest),) = _rows(
                cursor,
                f"select pg_is_in_recovery(), (select min(created_at) from {self._table})",  # noqa: S608
            )
        return SourceDescription(self._address, self._table, is_replica, earliest)

    def fingerprints(self, start: datetime, end: datetime, *, with_checksums: bool) -> Fingerprints:
        """One statement over the index on created_at; see the Protocol."""
        span = _span(start, end)
        with self._transaction() as cursor:
            ((bad, some_id),) = _rows(
                cursor,
                f"select count(*), min(id) from {self._table} where {span} and ({_unrepresentable()})",  # noqa: S608
            )
            if bad:
                raise LegacySourceError(
                    f"{self._table}: {bad:,} rows of {start:%Y-%m-%d} have a sent_at or updated_at outside "
                    f"{EARLIEST_TIME:%Y} to {LATEST_TIME:%Y} (or infinity), the first is id {some_id}: correct them"
                )
            rows = _rows(
                cursor,
                f"""
                select id / {RANGE_IDS}, count(*), {_CHECKSUM if with_checksums else "null::text"}
                from {self._table}
                where {span}
                group by 1
                """,  # noqa: S608 - the name was checked, the rest are numbers and times
            )
        return {int(index): Fingerprint(int(count), int(sum_) if sum_ else None) for index, count, sum_ in rows}

    @contextmanager
    def snapshot(self, month: Month, range_index: int) -> Iterator[_Snapshot]:
        """One transaction in repeatable read; see the Protocol."""
        condition = (
            f"id >= {range_index * RANGE_IDS} and id < {(range_index + 1) * RANGE_IDS} "
            f"and {_span(month.start, month.end)}"
        )
        with self._transaction() as cursor:
            # The first statement takes the snapshot.
            ((version,),) = _rows(cursor, "select (extract(epoch from now()) * 1000000)::bigint")
            yield _Snapshot(cursor, self._table, condition, int(version))

    @contextmanager
    def _transaction(self) -> Iterator[Any]:
        problem: Exception
        try:
            if self._connection is None:
                self._connection = self._connect()
            with self._connection.cursor() as cursor:
                cursor.adbc_statement.set_options(**{StatementOptions.BATCH_SIZE_HINT_BYTES.value: str(_BATCH_BYTES)})
                cursor.execute("begin isolation level repeatable read, read only")
                yield cursor
                cursor.execute("rollback")  # nothing was written: let the snapshot go
        except adbc_driver_manager.Error as error:
            problem = self._translated(error)
        except BaseException:
            self.close()  # ends the transaction, whatever its state
            raise
        else:
            return
        self.close()
        raise problem  # outside the handler: the driver's error quotes the statement

    def _connect(self) -> Any:
        # The driver's own transactions begin the next one at each end, and a snapshot held while nothing is read
        # keeps vacuum from its work: found by a test.
        connection = adbc.connect(self._url, autocommit=True)
        with connection.cursor() as cursor:
            for setting, seconds in self._timeouts.items():
                cursor.execute(f"set {setting} = {int(seconds * 1000)}")
            cursor.execute("set application_name = 'email-platform legacy import'")
            cursor.execute("set timezone = 'UTC'")
            cursor.execute("set jit = off")
            cursor.execute("set default_transaction_read_only = on")
        return connection

    def _translated(self, error: adbc_driver_manager.Error) -> Exception:
        state = getattr(error, "sqlstate", None)
        message = str(error).partition("Query was:")[0].strip()
        if state in _REFUSED or any(word in message for word in ("authentication failed", "does not exist")):
            return ConfigurationError(
                f"the old database at {self._address} refuses the user, password, database or right of "
                f"{URL_VARIABLE}: {message[:300]}"
            )
        if state == _FAILED_TRANSACTION:
            limits = ", ".join(f"{setting} {seconds:g} s" for setting, seconds in self._timeouts.items())
            message = (
                f"an earlier statement of the transaction failed and the driver did not hand on the reason; "
                f"look at the server's log, or allow more time (now {limits.replace('_', ' ')})"
            )
        return PartUnavailableError(f"the old database at {self._address} did not do it: {message[:300]}")


class _Snapshot:
    """`email_platform.runs.legacy_import.RangeSnapshot` over an open transaction."""

    def __init__(self, cursor: Any, table: str, condition: str, version: int) -> None:
        self._cursor, self._table, self._condition, self.version = cursor, table, condition, version

    def fingerprint(self) -> Fingerprint:
        """Count and checksum; see the Protocol."""
        statement = f"select count(*), {_CHECKSUM} from {self._table} where {self._condition}"  # noqa: S608
        ((rows, checksum),) = _rows(self._cursor, statement)
        return Fingerprint(int(rows), int(checksum or 0))

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The rows; see the Protocol."""
        return self._stream(f"{self._condition} order by id")

    def rows_of(self, ids: Sequence[int]) -> pa.Table:
        """Rows by id; see the Protocol."""
        wanted = ", ".join(str(int(one)) for one in ids)
        return pa.Table.from_batches(self._stream(f"id in ({wanted}) order by id"), SOURCE_SCHEMA)

    def _stream(self, condition: str) -> Iterator[pa.RecordBatch]:
        self._cursor.execute(f"select {_COLUMNS} from {self._table} where {condition}")  # noqa: S608
        for batch in self._cursor.fetch_record_batch():
            yield batch.cast(SOURCE_SCHEMA)


def _rows(cursor: Any, statement: str) -> list[tuple[Any, ...]]:
    cursor.execute(statement)
    rows: list[tuple[Any, ...]] = cursor.fetchall()
    return rows


def _span(start: datetime, end: datetime) -> str:
    return f"created_at >= '{_utc(start)}' and created_at < '{_utc(end)}'"


def _unrepresentable() -> str:
    bounds = f"not between '{_utc(EARLIEST_TIME)}' and '{_utc(LATEST_TIME)}'"
    return f"sent_at {bounds} or updated_at {bounds}"


def _utc(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S+00")
