"""The old table `email` in MySQL or MariaDB, read in pages by key within one snapshot a range.

Invariant: as of `email_platform.adapters.mysql.connection`, and: a row's canonical text is the one that
`email_platform.adapters.postgres.legacy_source` describes, so the warehouse's checksum is the same whichever engine
the rows come from. What both do not have in common is settled here, and nothing is changed silently:

| at the source | here |
| --- | --- |
| ``bigint unsigned`` above 2^63 - 1, a null where none may be, a time outside 1900 to 2299 | refused, with an id |
| a zero date (``0000-00-00 00:00:00``) in ``sent_at`` | no time, which is what it means there |
| a zero date in ``updated_at`` | refused, with an id |
| a zero date in ``created_at`` | in no month: the check of the earliest row names it |
| ``datetime`` | UTC, as it stands; it has no zone |
| ``timestamp`` | UTC, by the session's zone |
| latin1, utf8mb3 or utf8mb4 | the same text; both sides count characters, and hash UTF-8 |
| a table of MyISAM or another engine without snapshots | refused: the proof needs one |
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

import pyarrow as pa

from email_platform.adapters.mysql.connection import MysqlAddress, MysqlServer, MysqlTable, Snapshot, quoted_table
from email_platform.errors import LegacySourceError
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

PAGE_ROWS = 10_000
_SNAPSHOT_ENGINES = {"innodb", "rocksdb"}
_INTEGERS = {"tinyint", "smallint", "mediumint", "int", "bigint"}
# By Arrow type: the types that the old table may have.
_ACCEPTED_TYPES = {
    pa.int64(): _INTEGERS,
    pa.string(): {"char", "varchar", "tinytext", "text", "mediumtext", "longtext", "enum"},
    pa.timestamp("us", tz="UTC"): {"datetime", "timestamp"},
}
_LARGEST = 2**63 - 1
_ZERO = "'0000-00-00 00:00:00'"


def micros_sql(column: str) -> str:
    """Microseconds since 1970 as an expression of MySQL; null for a zero date."""
    return f"timestampdiff(microsecond, '1970-01-01 00:00:00', {column})"


def text_sql(column: str) -> str:
    """A text as UTF-8, whatever the column's character set is."""
    return f"convert({column} using utf8mb4)"


def canonical_sql() -> str:
    """The row's canonical text as an expression of MySQL; see the module."""
    return f"concat({', '.join(_joined())})"


def _joined() -> Iterator[str]:
    for number, column in enumerate(SOURCE_SCHEMA):
        if number:
            yield "','"
        name = f"`{column.name}`"
        if pa.types.is_timestamp(column.type):
            text = micros_sql(name)
        elif pa.types.is_string(column.type):
            text = f"concat(char_length({text_sql(name)}), ':', {text_sql(name)})"
        else:
            text = name
        yield f"coalesce({text}, 'N')" if column.nullable else text


# The first 15 hexadecimal digits are 60 bits; the sum of whole numbers is exact (decimal).
CHECKSUM_SQL = f"sum(cast(conv(left(md5({canonical_sql()}), 15), 16, 10) as unsigned))"


class MysqlLegacySource:
    """`email_platform.runs.legacy_table.LegacySource`; a connection for each snapshot."""

    def __init__(self, server: MysqlServer, table: str = "email", *, ignored_columns: Collection[str] = ()) -> None:
        """Take the server; see `describe`.

        Args:
            server: best a read replica.
            table: name, with its database where it is another one than the URL's.
            ignored_columns: of the table, not copied; every other unknown one stops the import.

        Raises:
            ConfigurationError: no name of a table.
        """
        self._server = server
        self._name, self._table = table, quoted_table(table, variable_of("legacy_table"))
        self._ignored_columns = frozenset(ignored_columns)
        self._found: MysqlTable | None = None

    def __repr__(self) -> str:
        return f"MysqlLegacySource({self._server.address}, {self._name})"

    @classmethod
    def from_url(
        cls,
        url: str,
        table: str,
        *,
        ignored_columns: Collection[str],
        statement_timeout_seconds: float,
        lock_timeout_seconds: float,
    ) -> MysqlLegacySource:
        """The source at this address; connects on first use."""
        server = MysqlServer(
            MysqlAddress.parse(url, variable_of("legacy_url")),
            statement_timeout_seconds=statement_timeout_seconds,
            lock_timeout_seconds=lock_timeout_seconds,
        )
        return cls(server, table, ignored_columns=ignored_columns)

    def close(self) -> None:
        """Nothing stays open between snapshots."""

    def describe(self) -> SourceDescription:
        """Check engine, columns, types and indexes; see the Protocol."""
        with self._server.snapshot() as snapshot:
            self._described(snapshot)
            ((is_replica, earliest),) = snapshot.rows(
                f"select @@global.read_only, (select min(created_at) from {self._table})"
            )
        # The driver gives a zero date as text; the year 1 is as early as a time can be.
        moment = earliest.replace(tzinfo=UTC) if isinstance(earliest, datetime) else datetime(1, 1, 1, tzinfo=UTC)
        return SourceDescription(
            str(self._server.address), self._name, bool(is_replica), None if earliest is None else moment
        )

    def _described(self, snapshot: Snapshot) -> MysqlTable:
        found = self._found or snapshot.table(self._name)
        if found is None:
            raise LegacySourceError(
                f"{self._server.address} has no table {self._name!r}: set {variable_of('legacy_table')}"
            )
        if self._found is None:
            self._require_known(found)
            self._found = found
        return found

    def _require_known(self, found: MysqlTable) -> None:
        if (found.engine or "a view").lower() not in _SNAPSHOT_ENGINES:
            raise LegacySourceError(
                f"{self._name} is {found.engine or 'a view'}: the import needs a table of InnoDB, which can be read as "
                "of one moment without locking writers out; read from a replica where it is one"
            )
        columns = {name: (column.kind, column.full_type) for name, column in found.columns.items()}
        require_known_columns(
            f"{self._name} at {self._server.address}", columns, _ACCEPTED_TYPES, self._ignored_columns
        )
        for name in ("id", "created_at"):
            if name not in found.indexes:
                raise LegacySourceError(
                    f"{self._name} has no index that starts with {name}: the import would read the whole table for "
                    f"every day; make one on the source (create index … on {self._name} ({name}))"
                )

    def fingerprints(self, start: datetime, end: datetime, *, with_checksums: bool) -> Fingerprints:
        """One statement over the index on created_at; see the Protocol."""
        span = _span(start, end)
        with self._server.snapshot() as snapshot:
            found = self._described(snapshot)
            ((bad, some_id),) = snapshot.rows(
                f"select count(*), min(id) from {self._table} where {span} and ({_unrepresentable(found)})"
            )
            if bad:
                raise LegacySourceError(
                    f"{self._name}: {bad:,} rows of {start:%Y-%m-%d} have a null where none may be, a number above "
                    f"{_LARGEST}, or a sent_at or updated_at outside {EARLIEST_TIME:%Y} to {LATEST_TIME:%Y} (or a zero "
                    f"date), the first is id {some_id}: correct them"
                )
            rows = snapshot.rows(
                f"select id div {RANGE_IDS}, count(*), {CHECKSUM_SQL if with_checksums else 'null'} "
                f"from {self._table} where {span} group by 1"
            )
        return {int(index): Fingerprint(int(count), None if sum_ is None else int(sum_)) for index, count, sum_ in rows}

    @contextmanager
    def snapshot(self, month: Month, range_index: int) -> Iterator[_RangeSnapshot]:
        """One transaction in repeatable read; see the Protocol."""
        with self._server.snapshot() as snapshot:
            found = self._described(snapshot)
            ((version,),) = snapshot.rows("select cast(unix_timestamp(now(6)) * 1000000 as unsigned)")
            yield _RangeSnapshot(
                snapshot,
                f"{self._table} force index (`{found.indexes['id']}`)",
                _span(month.start, month.end),
                range_index * RANGE_IDS,
                int(version),
            )


class _RangeSnapshot:
    """`email_platform.runs.legacy_table.RangeSnapshot` over an open snapshot."""

    def __init__(self, snapshot: Snapshot, table: str, span: str, first_id: int, version: int) -> None:
        self._snapshot, self._table, self._span = snapshot, table, span
        self._first_id, self.version = first_id, version

    def fingerprint(self) -> Fingerprint:
        """Count and checksum; see the Protocol."""
        ((rows, checksum),) = self._snapshot.rows(
            f"select count(*), {CHECKSUM_SQL} from {self._table} where {self._from(self._first_id)}"
        )
        return Fingerprint(int(rows), int(checksum or 0))

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The rows; see the Protocol."""
        next_id = self._first_id
        while True:
            page = self._snapshot.rows(
                f"select {_SELECTED} from {self._table} where {self._from(next_id)} order by id limit {PAGE_ROWS}"
            )
            if page:
                yield _batch(page)
                next_id = page[-1][0] + 1
            if len(page) < PAGE_ROWS:
                return

    def rows_of(self, ids: Sequence[int]) -> pa.Table:
        """Rows by id; see the Protocol."""
        batches = []
        for start in range(0, len(ids), PAGE_ROWS):
            wanted = ", ".join(str(int(one)) for one in ids[start : start + PAGE_ROWS])
            page = self._snapshot.rows(f"select {_SELECTED} from {self._table} where id in ({wanted}) order by id")
            batches += [_batch(page)] if page else []
        return pa.Table.from_batches(batches, SOURCE_SCHEMA)

    def _from(self, first_id: int) -> str:
        return f"id >= {first_id} and id < {self._first_id + RANGE_IDS} and {self._span}"


def _selected(column: pa.Field) -> str:
    name = f"`{column.name}`"
    if pa.types.is_timestamp(column.type):
        return micros_sql(name)
    return text_sql(name) if pa.types.is_string(column.type) else name


_SELECTED = ", ".join(_selected(column) for column in SOURCE_SCHEMA)
_READ_AS = [pa.int64() if pa.types.is_timestamp(column.type) else column.type for column in SOURCE_SCHEMA]


def _batch(rows: Sequence[tuple[object, ...]]) -> pa.RecordBatch:
    columns = [
        pa.array(values, read_as).cast(column.type)
        for values, read_as, column in zip(zip(*rows, strict=True), _READ_AS, SOURCE_SCHEMA, strict=True)
    ]
    return pa.RecordBatch.from_arrays(columns, schema=SOURCE_SCHEMA)


def _span(start: datetime, end: datetime) -> str:
    return f"created_at >= '{_utc(start)}' and created_at < '{_utc(end)}'"


def _unrepresentable(found: MysqlTable) -> str:
    conditions = []
    for column in SOURCE_SCHEMA:
        name = f"`{column.name}`"
        if found.columns[column.name].is_unsigned:
            conditions.append(f"{name} > {_LARGEST}")
        if found.columns[column.name].is_nullable and not column.nullable:
            conditions.append(f"{name} is null")
        if column.name in ("sent_at", "updated_at"):
            outside = f"({name} < '{_utc(EARLIEST_TIME)}' or {name} > '{_utc(LATEST_TIME)}')"
            conditions.append(f"({name} <> {_ZERO} and {outside})" if column.nullable else outside)
    return " or ".join(conditions)


def _utc(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
