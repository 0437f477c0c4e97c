"""Leads in a table or view of MySQL or MariaDB: what is asked of it, and how each type is written out.

Invariant: as of `email_platform.adapters.mysql.connection`, and: the server writes every value out as text itself and
hashes that text, so a row's checksum is of exactly what is read. The canonical text is the columns in `fields` order,
joined by commas, each as its length in characters, a colon and itself; null is N.

| type at the source | becomes |
| --- | --- |
| ``char``, ``varchar``, ``text``, ``enum``, ``set``, any character set | text, in UTF-8 |
| whole numbers, signed or not; ``decimal`` | the number, digit by digit |
| ``tinyint(1)``, ``bit(1)`` | true or false in an attribute, a number elsewhere |
| ``float``, ``double`` | a number in an attribute |
| ``datetime`` (read as UTC), ``timestamp`` | a time; in an attribute ISO 8601 in UTC |
| ``date`` | midnight UTC; in an attribute ``YYYY-MM-DD`` |
| a zero date | no time, no attribute |
| ``json`` (in MariaDB a ``longtext``) with ``name.*`` | its keys are attributes |

A key is compared as a number, so no collation decides which rows are the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from email_platform.adapters.mysql.connection import MysqlAddress, MysqlColumn, MysqlServer, MysqlTable, quoted_table
from email_platform.adapters.mysql.legacy_source import micros_sql, text_sql
from email_platform.errors import ConfigurationError
from email_platform.runs.lead_sync import ChangedPage, SourceRow
from email_platform.runs.legacy_table import Fingerprint
from email_platform.settings import Settings, variable_of

TEXT_COLUMNS = ("email", "first_name", "last_name", "country", "city", "plan", "language")
TIME_COLUMNS = ("unsubscribed_at", "created_at")
LEAD_COLUMNS = (*TEXT_COLUMNS, "age", *TIME_COLUMNS)
ATTRIBUTE = "attributes."
SPREAD = ".*"
Kind = Literal["text", "integer", "number", "boolean", "time", "json"]
"""How a value is written: a time as microseconds since 1970 in a lead's column, as text in an attribute."""

_TEXTS = {"char", "varchar", "tinytext", "text", "mediumtext", "longtext", "enum", "set"}
_INTEGERS = {"tinyint", "smallint", "mediumint", "int", "bigint", "year"}
_TIMES = {"datetime", "timestamp", "date"}
_BY_KEY = "a row by its key"
_BY_CHANGE = "rows by their time of change"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LARGEST_KEY = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Field:
    """One value that is read.

    Attributes:
        target: our column, ``attributes.<name>``, or ``attributes.<name>.*`` for the keys of a JSON column.
        column: at the source.
        sql: the value as text, an expression of MySQL.
        hashed: whether the canonical text has the value's MD5 instead of itself: PostgreSQL writes such a value out in
            another way, so it keeps the MD5 beside the lead.
    """

    target: str
    column: str
    kind: Kind
    sql: str
    hashed: bool = False

    @property
    def canonical_sql(self) -> str:
        """What is hashed of it."""
        return f"md5({self.sql})" if self.hashed else self.sql


@dataclass(frozen=True, slots=True)
class ColumnVerdict:
    """One column that is asked for, as `adopt check` shows it."""

    name: str
    type: str | None
    used_for: str
    problem: str | None


@dataclass(frozen=True, slots=True)
class FoundLeads:
    """The source's table as it is now.

    Attributes:
        indexes: by question, whether an index answers it.
    """

    table: MysqlTable
    fields: tuple[Field, ...]
    columns: tuple[ColumnVerdict, ...]
    indexes: Mapping[str, bool]

    @property
    def problems(self) -> tuple[str, ...]:
        """What keeps it from being used."""
        return tuple(one.problem for one in self.columns if one.problem)


def _field(target: str, column: MysqlColumn) -> Field | str:
    """How a column is read for a target, or why it cannot be."""
    name, kind = f"`{column.name}`", column.kind
    is_attribute = target.startswith(ATTRIBUTE)
    is_boolean = column.full_type.startswith(("tinyint(1)", "bit(1)"))
    read: tuple[Kind, str] | None = None
    hashed = False
    if target.endswith(SPREAD):
        if kind in ("json", "longtext", "mediumtext", "text"):
            read, hashed = ("json", text_sql(name)), True
    elif kind in _TEXTS:
        read = ("text", text_sql(name)) if target not in ("age", *TIME_COLUMNS) else None
    elif kind in _TIMES and (target in TIME_COLUMNS or is_attribute):
        hashed = target == "created_at"  # a lead without one has the moment when it came
        text = _time_text(name, kind) if is_attribute else f"cast({micros_sql(name)} as char)"
        read = ("text" if is_attribute else "time", text)
    elif is_boolean and is_attribute:
        read = ("boolean", f"case when {name} is null then null when {name} + 0 <> 0 then 'true' else 'false' end")
    elif kind in _INTEGERS and (target == "age" or is_attribute):
        read = ("integer", f"cast({name} + 0 as char)")
    elif kind in ("decimal", "float", "double") and is_attribute:
        read, hashed = ("number", f"cast({name} + 0 as char)"), kind != "decimal"
    if read is None:
        return f"{column.name} is {column.full_type}, which {target} cannot be"
    return Field(target, column.name, read[0], read[1], hashed)


def _time_text(name: str, kind: str) -> str:
    shape = "%Y-%m-%d" if kind == "date" else "%Y-%m-%dT%H:%i:%s.%fZ"
    return f"case when {micros_sql(name)} is null then null else date_format({name}, '{shape}') end"


class MysqlLeadSource:
    """`email_platform.runs.lead_sync.LeadSource`; a connection for each snapshot.

    Length: one Protocol over one table, whose names and conditions every statement shares.
    """

    def __init__(self, server: MysqlServer, settings: Settings) -> None:
        """Take the server; the table is looked up when it is first needed.

        Raises:
            ConfigurationError: a name that is none.
        """
        self._server = server
        self._table_name = settings.lead_source_table
        self._table = quoted_table(settings.lead_source_table, variable_of("lead_source_table"))
        self._key = _name(settings.lead_source_key, "lead_source_key")
        self._changed = _name(settings.lead_source_changed, "lead_source_changed")
        deleted = settings.lead_source_deleted.strip()
        self._deleted = _name(deleted, "lead_source_deleted") if deleted else None
        self._mapped = _mapping(settings.lead_source_columns)
        self._attributes = [one.strip() for one in settings.lead_source_attributes.split(",") if one.strip()]
        self._found: FoundLeads | None = None

    @classmethod
    def from_settings(cls, settings: Settings) -> MysqlLeadSource:
        """The source of the settings; connects on first use.

        Raises:
            ConfigurationError: there is none, or a name that is none.
        """
        if settings.lead_source_url is None:
            raise ConfigurationError(
                f"{variable_of('lead_source_url')} is not set: set it to the database with your leads (best a read "
                "replica), mysql://user:password@host:port/database"
            )
        address = MysqlAddress.parse(settings.lead_source_url.get_secret_value(), variable_of("lead_source_url"))
        limit = settings.lead_source_statement_timeout_seconds
        return cls(MysqlServer(address, statement_timeout_seconds=limit), settings)

    @property
    def name(self) -> str:
        """Address and table; see the Protocol."""
        return f"{self._server.address} {self._table_name}"

    @property
    def fields(self) -> tuple[Field, ...]:
        """What is read of each row, in the order of the canonical text.

        Raises:
            ConfigurationError: the table cannot be used; the message says why.
        """
        return self._usable().fields

    def look_up(self) -> FoundLeads:
        """The table as it is now, also where it cannot be used.

        Raises:
            ConfigurationError: our user sees no such table.
        """
        with self._server.snapshot() as snapshot:
            table = snapshot.table(self._table_name)
        if table is None:
            raise ConfigurationError(
                f"{variable_of('lead_source_table')}={self._table_name}: {self._server.address} shows our user no such "
                "table or view"
            )
        judged = list(self._judged(table))
        fields = tuple(one for _, one in judged if one is not None)
        indexes = {
            _BY_KEY: self._key.strip("`") in table.indexes,
            _BY_CHANGE: self._changed.strip("`") in table.indexes,
        }
        return FoundLeads(table, fields, tuple(verdict for verdict, _ in judged), indexes)

    def index_proposal(self, question: str) -> str:
        """A statement that makes the index which answers a question of `FoundLeads.indexes`, for the table's owner."""
        column = self._key if question == _BY_KEY else self._changed
        return f"create index ix_{self._table_name.rpartition('.')[2]}_{column.strip('`')} on {self._table} ({column})"

    def _judged(self, table: MysqlTable) -> Iterator[tuple[ColumnVerdict, Field | None]]:
        for role, quoted, kinds, needed in (
            ("the key", self._key, _INTEGERS - {"year"}, "a whole number"),
            ("the time of change", self._changed, {"datetime", "timestamp"}, "datetime or timestamp"),
            ("the mark of deleted rows", self._deleted, _INTEGERS | _TIMES | {"bit"}, "a number or a time"),
        ):
            if quoted is None:
                continue
            name = quoted.strip("`")
            column = table.columns.get(name)
            problem = None
            if column is None:
                problem = f"{name} is missing: it is {role}"
            elif column.kind not in kinds:
                problem = f"{name} is {column.full_type}: {role} must be {needed}"
            yield ColumnVerdict(name, None if column is None else column.full_type, role, problem), None
        wanted = [(target, self._mapped.get(target, target)) for target in LEAD_COLUMNS]
        wanted += [(ATTRIBUTE + one, one.removesuffix(SPREAD)) for one in self._attributes]
        for target, name in wanted:
            column = table.columns.get(name)
            is_named = target in self._mapped or target.startswith(ATTRIBUTE) or target == "email"
            if column is None:
                problem = f"{name} is missing: it is to be {target}" if is_named else None
                yield ColumnVerdict(name, None, target, problem), None
                continue
            field = _field(target, column)
            if isinstance(field, str):
                yield ColumnVerdict(name, column.full_type, target, field), None
            else:
                yield ColumnVerdict(name, column.full_type, target, None), field

    def _usable(self) -> FoundLeads:
        if self._found is None:
            found = self.look_up()
            lacking = [question for question, served in found.indexes.items() if not served and found.table.engine]
            problems = [*found.problems, *(f"no index for {question}" for question in lacking)]
            if problems:
                raise ConfigurationError(f"{self.name}: {'; '.join(problems)}; `email-platform adopt check` says more")
            self._found = found
        return self._found

    def changed(self, since: datetime, after: tuple[datetime, int] | None, rows: int) -> ChangedPage:
        """One page by key within time, never by offset; see the Protocol."""
        # Written out, not bound: the shapes of dates in the statement have percent signs of their own.
        condition = f"{self._changed} >= '{_moment(since)}'"
        if after is not None:
            at, key = _moment(after[0]), int(after[1])
            condition += f" and ({self._changed} > '{at}' or ({self._changed} = '{at}' and {self._key} > {key}))"
        fields = self.fields
        with self._server.snapshot() as snapshot:
            ((now,),) = snapshot.rows("select cast(unix_timestamp(now(6)) * 1000000 as unsigned)")
            found = snapshot.rows(
                f"select {self._selected(fields)} from {self._table} where {condition} and {self._readable_key()} "
                f"order by {self._changed}, {self._key} limit {rows}"
            )
        page = [_row(values, fields) for values in found]
        return ChangedPage(page, _at(now), len(page) < rows)

    def newest_change(self) -> tuple[datetime | None, datetime]:
        """One look into the change column's index; see the Protocol."""
        self._usable()
        with self._server.snapshot() as snapshot:
            ((newest, now),) = snapshot.rows(
                f"select {micros_sql(f'(select max({self._changed}) from {self._table})')}, "
                "cast(unix_timestamp(now(6)) * 1000000 as unsigned)"
            )
        return None if newest is None else _at(newest), _at(now)

    def next_key(self, key: int) -> int | None:
        """One look into the key's index; see the Protocol."""
        self._usable()
        with self._server.snapshot() as snapshot:
            ((found,),) = snapshot.rows(
                f"select min({self._key}) from {self._table} where {self._key} >= {int(key)} and {self._readable_key()}"
            )
        return None if found is None else int(found)

    def fingerprint(self, first_key: int, next_key: int) -> Fingerprint:
        """Computed by the server; see the Protocol."""
        statement = f"select count(*), sum({_checksum(self.fields)}) {self._range(first_key, next_key)}"
        with self._server.snapshot() as snapshot:
            ((rows, checksum),) = snapshot.rows(statement)
        return Fingerprint(int(rows), int(checksum or 0))

    def rows(self, first_key: int, next_key: int) -> Sequence[SourceRow]:
        """One statement; see the Protocol."""
        fields = self.fields
        with self._server.snapshot() as snapshot:
            found = snapshot.rows(
                f"select {self._selected(fields)} {self._range(first_key, next_key)} order by {self._key}"
            )
        return [_row(values, fields) for values in found]

    def count_unreadable(self) -> tuple[int, int]:
        """Rows whose change column is null or a zero date (only the slices see them), and rows without a usable key."""
        with self._server.snapshot() as snapshot:
            ((timeless, keyless),) = snapshot.rows(
                f"select coalesce(sum({micros_sql(self._changed)} is null), 0), "
                f"coalesce(sum(not ({self._readable_key()})), 0) from {self._table}"
            )
        return int(timeless), int(keyless)

    def _range(self, first_key: int, next_key: int) -> str:
        alive = f" and not ({self._gone()})" if self._deleted else ""
        return (
            f"from {self._table} where {self._key} >= {int(first_key)} and {self._key} < {int(next_key)} "
            f"and {self._readable_key()}{alive}"
        )

    def _readable_key(self) -> str:
        return f"coalesce({self._key} between 0 and {_LARGEST_KEY}, 0)"

    def _gone(self) -> str:
        return f"coalesce({self._deleted} + 0 <> 0, 0)" if self._deleted else "0"

    def _selected(self, fields: Sequence[Field]) -> str:
        values = "".join(f", {one.sql}" for one in fields)
        return f"{self._key}, {_checksum(fields)}, {self._gone()}, {micros_sql(self._changed)}{values}"


def _checksum(fields: Sequence[Field]) -> str:
    """60 bits of the MD5 of the row's canonical text."""
    text = ", ',', ".join(
        f"coalesce(concat(char_length({one.canonical_sql}), ':', {one.canonical_sql}), 'N')" for one in fields
    )
    return f"cast(conv(left(md5(concat({text})), 15), 16, 10) as unsigned)"


def _row(values: Sequence[Any], fields: Sequence[Field]) -> SourceRow:
    key, checksum, is_gone, changed, *texts = values
    moment = None if changed is None else _at(changed)
    named = {one.target: text for one, text in zip(fields, texts, strict=True)}
    return SourceRow(int(key), int(checksum), bool(is_gone), moment, named)


def _at(micros: Any) -> datetime:
    return _EPOCH + timedelta(microseconds=int(micros))


def _moment(moment: datetime) -> str:
    return moment.replace(tzinfo=None).isoformat(" ", "microseconds")


def _name(text: str, setting: str) -> str:
    name = quoted_table(text.strip(), variable_of(setting))
    if "`.`" in name:
        raise ConfigurationError(f"{variable_of(setting)} must be a column's name")
    return name


def _mapping(text: str) -> dict[str, str]:
    """``email=mail,first_name=given_name`` by our column."""
    found = {}
    for one in filter(None, (part.strip() for part in text.split(","))):
        target, _, column = (part.strip() for part in one.partition("="))
        if target not in LEAD_COLUMNS or not column:
            raise ConfigurationError(
                f"{variable_of('lead_source_columns')} has {one!r}: write our column, = and yours, commas between; "
                f"ours are {', '.join(LEAD_COLUMNS)}"
            )
        found[target] = column
    return found
