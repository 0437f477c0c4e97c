"""Where leads are: in our table ``lead``, or in a table or view of the same database that belongs to somebody else.

Invariant: everything that reads leads reads them through `LeadRelation`, so an audience, an explanation and an opt-out
see the same rows; and a relation that is not ours is only ever read.

The columns of such a relation (``WANTED``), each of which the relation has under this name:

| column | types | without it |
| --- | --- | --- |
| ``id`` | smallint, integer, bigint; one row an id, never null | refused |
| ``email`` | text | refused |
| ``first_name``, ``last_name``, ``country``, ``city``, ``plan``, ``language`` | text | null |
| ``age`` | smallint, integer | null |
| ``attributes`` | jsonb | no attributes |
| ``unsubscribed_at`` | timestamptz, timestamp, date | nobody opted out there; ``suppression`` counts all the same |
| ``created_at`` | timestamptz, timestamp, date | null |

A text is text, varchar, char, citext or an enum. A time without a zone is UTC. Further attributes come from columns
that are named: each under its own name, dates and times as ISO 8601 texts, arrays as lists; ``name.*`` takes the keys
of a jsonb column. A column with another name or type needs a view.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import BigInteger, Column, DateTime, Engine, FromClause, SmallInteger, Text, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.type_api import TypeEngine

from email_platform.adapters.postgres.tables import lead
from email_platform.adapters.postgres.transactions import oltp_transaction
from email_platform.errors import CommandRefusedError, ConfigurationError
from email_platform.settings import Settings

_TEXTS = ("text", "varchar", "bpchar", "citext", "name")
_TIMES = ("timestamptz", "timestamp", "date")
_TYPES: Mapping[str, tuple[tuple[str, ...], TypeEngine[Any]]] = {
    "id": (("int2", "int4", "int8"), BigInteger()),
    "email": (_TEXTS, Text()),
    "first_name": (_TEXTS, Text()),
    "last_name": (_TEXTS, Text()),
    "country": (_TEXTS, Text()),
    "city": (_TEXTS, Text()),
    "plan": (_TEXTS, Text()),
    "language": (_TEXTS, Text()),
    "age": (("int2", "int4"), SmallInteger()),
    "attributes": (("jsonb",), JSONB()),
    "unsubscribed_at": (_TIMES, DateTime(timezone=True)),
    "created_at": (_TIMES, DateTime(timezone=True)),
}
WANTED = tuple(_TYPES)
REQUIRED = ("id", "email")
_WORDS: Mapping[str, str] = {
    "int2": "smallint",
    "int4": "integer",
    "int8": "bigint",
    "bpchar": "char",
    "timestamptz": "timestamp with time zone",
}
_NULLS: Mapping[str, str] = {"attributes": "cast('{}' as jsonb)"}
_PAIRS_A_CALL = 40  # a function of PostgreSQL takes 100 arguments
_SPREAD = ".*"

_FIND = text(
    """
    select relation.oid, namespace.nspname, relation.relname, relation.relkind
    from pg_class as relation
    inner join pg_namespace as namespace on namespace.oid = relation.relnamespace
    where relation.oid = to_regclass(:name) and relation.relkind in ('r', 'p', 'v', 'm', 'f')
    """
)
_COLUMNS = text(
    """
    select
        attribute.attname as name,
        coalesce(base.typname, own.typname) as type_name,
        coalesce(base.typtype, own.typtype) = 'e' as is_enum,
        format_type(attribute.atttypid, attribute.atttypmod) as shown_type,
        has_column_privilege(attribute.attrelid, attribute.attnum, 'select') as is_readable
    from pg_attribute as attribute
    inner join pg_type as own on own.oid = attribute.atttypid
    left join pg_type as base on base.oid = own.typbasetype
    where attribute.attrelid = :oid and attribute.attnum > 0 and not attribute.attisdropped
    order by attribute.attnum
    """
)


@dataclass(frozen=True, slots=True)
class FoundColumn:
    """One column of the relation, or one that it lacks.

    Attributes:
        name: of the column.
        type: as PostgreSQL writes it; None where the relation has no such column.
        used_for: the column of `WANTED`, or ``attributes.<name>``.
        problem: why it cannot be used; None where it can, or may be missing.
    """

    name: str
    type: str | None
    used_for: str
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class FoundRelation:
    """A relation of somebody else's, as its catalogue describes it now.

    Attributes:
        name: with its schema, as it stands in SQL.
        is_table: whether it can have indexes of its own (a table, also a partitioned one).
        columns: of `WANTED`, then those that are named as attributes.
        expressions: by column of `WANTED`, what gives it, in SQL.
    """

    name: str
    is_table: bool
    columns: tuple[FoundColumn, ...]
    expressions: Mapping[str, str] = field(repr=False)

    @property
    def problems(self) -> tuple[str, ...]:
        """What keeps it from being used, one sentence a column."""
        return tuple(one.problem for one in self.columns if one.problem is not None)

    def select(self) -> str:
        """The statement whose rows are leads."""
        listed = ", ".join(f"{expression} as {name}" for name, expression in self.expressions.items())
        return f"select {listed} from {self.name}"  # noqa: S608  (names are quoted, expressions are made here)


class LeadRelation:
    """Our table ``lead``, or the relation that EMAIL_PLATFORM_LEAD_RELATION names.

    What the relation has is looked up once, when it is first needed: a process that runs on must be started again to
    see a column that was added.

    Args:
        name: of the relation, as it stands in SQL (``app.customer``, ``app."Customer"``); empty: our own table.
        attributes: columns that become attributes, by name; ``name.*`` for the keys of a jsonb column.
    """

    def __init__(self, name: str = "", attributes: Sequence[str] = ()) -> None:
        self.name = name
        self._attributes = tuple(attributes)
        self._found: FoundRelation | None = None

    @classmethod
    def from_settings(cls, settings: Settings) -> LeadRelation:
        """Where the settings say that leads are."""
        return cls(settings.lead_relation, settings.lead_attribute_columns())

    @property
    def is_ours(self) -> bool:
        """Whether leads are in our own table, which we may write."""
        return not self.name

    def require_ours(self) -> None:
        """Before leads are written.

        Raises:
            CommandRefusedError: they belong to somebody else.
        """
        if not self.is_ours:
            raise CommandRefusedError(
                f"leads are in {self.name} (EMAIL_PLATFORM_LEAD_RELATION), which is only read: add them there"
            )

    def source(self, engine: Engine) -> FromClause:
        """What to select from: it has every column of `WANTED`.

        Raises:
            ConfigurationError: there is no such relation, or it cannot be used; the message says why.
            PartUnavailableError: PostgreSQL is away.
        """
        if self.is_ours:
            return lead
        columns = [Column(name, kind) for name, (_, kind) in _TYPES.items()]
        return text(_bindless(self._usable(engine).select())).columns(*columns).subquery("lead")

    def prefix(self, engine: Engine) -> str:
        """What a statement that names the table ``lead`` begins with, so that it reads the relation; often nothing.

        Raises:
            ConfigurationError, PartUnavailableError: as `source`.
        """
        if self.is_ours:
            return ""
        return _bindless(f"with lead as not materialized ({self._usable(engine).select()}) ")

    def look_up(self, engine: Engine) -> FoundRelation:
        """The relation as it is now, also where it cannot be used.

        Raises:
            ConfigurationError: our user sees no such relation.
            PartUnavailableError: PostgreSQL is away.
        """
        try:
            with oltp_transaction(engine) as connection:
                row = connection.execute(_FIND, {"name": self.name}).one_or_none()
                found = [] if row is None else connection.execute(_COLUMNS, {"oid": row.oid}).all()
        except DBAPIError as error:  # no name at all, or a schema that the user may not look into
            raise ConfigurationError(
                f"EMAIL_PLATFORM_LEAD_RELATION={self.name}: PostgreSQL does not look it up: {error.orig}"
            ) from None
        if row is None:
            raise ConfigurationError(
                f"EMAIL_PLATFORM_LEAD_RELATION={self.name}: there is no such table or view in database "
                f"{engine.url.database!r}; write it with its schema, and grant our user usage on the schema"
            )
        columns = {one.name: one for one in found}
        judged = tuple(_judged(columns, self._attributes))
        usable = {one.name for one in judged if one.type is not None and one.problem is None}
        expressions = {
            name: _expression(name, columns[name]) if name in usable else _NULLS.get(name, _null(name))
            for name in WANTED
        }
        expressions["attributes"] = _attributes(expressions["attributes"], "attributes" in usable, columns, [
            one for one in self._attributes if one.removesuffix(_SPREAD) in usable
        ])  # fmt: skip
        return FoundRelation(
            f"{_quoted(row.nspname)}.{_quoted(row.relname)}", row.relkind in ("r", "p"), judged, expressions
        )

    def _usable(self, engine: Engine) -> FoundRelation:
        if self._found is None:
            found = self.look_up(engine)
            if found.problems:
                raise ConfigurationError(
                    f"EMAIL_PLATFORM_LEAD_RELATION={self.name} cannot be read as leads: {'; '.join(found.problems)}. "
                    "Ask: email-platform adopt check"
                )
            self._found = found
        return self._found


OUR_LEADS = LeadRelation()


def _judged(columns: Mapping[str, Any], attributes: Sequence[str]) -> Iterator[FoundColumn]:
    for name, (types, _) in _TYPES.items():
        one = columns.get(name)
        if one is None:
            problem = f"column {name} is missing" if name in REQUIRED else None
            yield FoundColumn(name, None, name, problem)
            continue
        fits = one.type_name in types or (one.is_enum and types is _TEXTS)
        wanted = " or ".join(_WORDS.get(kind, kind) for kind in types if kind != "name")
        wrong = None if fits else f"column {name} is {one.shown_type}, not {wanted}: cast it in a view"
        yield FoundColumn(name, one.shown_type, name, _unreadable(one) or wrong)
    for given in attributes:
        name = given.removesuffix(_SPREAD)
        one = columns.get(name)
        used_for = f"attributes.{'*' if given.endswith(_SPREAD) else name}"
        if one is None:
            yield FoundColumn(
                name, None, used_for, f"column {name}, named in EMAIL_PLATFORM_LEAD_ATTRIBUTES, is missing"
            )
            continue
        spread_wrong = given.endswith(_SPREAD) and one.type_name != "jsonb"
        wrong = f"column {name} is {one.shown_type}, not jsonb: {given} takes its keys" if spread_wrong else None
        yield FoundColumn(name, one.shown_type, used_for, _unreadable(one) or wrong)


def _unreadable(column: Any) -> str | None:
    return None if column.is_readable else f"column {column.name} may not be read: grant select on it to our user"


def _expression(name: str, column: Any) -> str:
    """The column as its type in `_TYPES`; bare where it can be, so that the owner's indexes serve."""
    quoted = _quoted(column.name)
    if _TYPES[name][0] is _TEXTS and column.type_name != "text":
        return f"cast({quoted} as text)"
    if _TYPES[name][0] is _TIMES:
        return _time(quoted, column.type_name)
    return quoted


def _time(quoted: str, type_name: str) -> str:
    if type_name == "timestamptz":
        return quoted
    moment = f"cast({quoted} as timestamp)" if type_name == "date" else quoted
    return f"timezone('UTC', {moment})"


def _null(name: str) -> str:
    kind = {"id": "bigint", "age": "smallint", "unsubscribed_at": "timestamptz", "created_at": "timestamptz"}
    return f"cast(null as {kind.get(name, 'text')})"


def _attributes(base: str, has_base: bool, columns: Mapping[str, Any], named: Sequence[str]) -> str:
    """One jsonb document; later parts win where two have a key."""
    if not named:
        return base
    spread = [_quoted(one.removesuffix(_SPREAD)) for one in named if one.endswith(_SPREAD)]
    documents = [_object(one) for one in ([base] if has_base else []) + spread]
    pairs = [_pair(columns[one]) for one in named if not one.endswith(_SPREAD)]
    starts = range(0, len(pairs), _PAIRS_A_CALL)
    documents.extend(f"jsonb_build_object({', '.join(pairs[at : at + _PAIRS_A_CALL])})" for at in starts)
    return " || ".join(documents)


def _object(document: str) -> str:
    """The document where it has keys: anything else would make a list of the whole."""
    return f"case when jsonb_typeof({document}) = 'object' then {document} else cast('{{}}' as jsonb) end"


def _pair(column: Any) -> str:
    quoted = _quoted(column.name)
    value = _time(quoted, column.type_name) if column.type_name in _TIMES else quoted
    key = column.name.replace("'", "''")
    return f"'{key}', {value}"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _bindless(sql: str) -> str:
    """The text for `sqlalchemy.text`, to which a colon before a word is a parameter."""
    return sql.replace(":", "\\:")
