"""Tables and views of somebody else's, in our database, which stand in for tables of ours.

Invariant: such a relation is only ever read, and what it lacks or has in another type is named before it is used.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Row, text
from sqlalchemy.exc import DataError, NotSupportedError, ProgrammingError

from email_platform.errors import ConfigurationError

TEXTS = ("text", "varchar", "bpchar", "citext", "name")
TIMES = ("timestamptz", "timestamp", "date")
_WORDS: Mapping[str, str] = {
    "int2": "smallint",
    "int4": "integer",
    "int8": "bigint",
    "bpchar": "char",
    "timestamptz": "timestamp with time zone",
}

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
        """The statement whose rows stand in for ours."""
        listed = ", ".join(f"{expression} as {name}" for name, expression in self.expressions.items())
        return f"select {listed} from {self.name}"  # noqa: S608  (names are quoted, expressions are made here)


def find_relation(connection: Connection, variable: str, name: str) -> tuple[Row[Any], Mapping[str, Any]]:
    """The relation's row of the catalogue (``oid``, ``nspname``, ``relname``, ``relkind``), and its columns by name.

    Args:
        connection: our user's.
        variable: which setting names it.
        name: as it stands in SQL.

    Raises:
        ConfigurationError: our user sees no such relation.
    """
    try:
        row = connection.execute(_FIND, {"name": name}).one_or_none()
        found = [] if row is None else connection.execute(_COLUMNS, {"oid": row.oid}).all()
    except (
        DataError,
        NotSupportedError,
        ProgrammingError,
    ) as error:  # no name at all, or a schema that the user may not look into
        raise ConfigurationError(f"{variable}={name}: PostgreSQL does not look it up: {error.orig}") from None
    if row is None:
        raise ConfigurationError(
            f"{variable}={name}: there is no such table or view in database {connection.engine.url.database!r}; "
            "write it with its schema, and grant our user usage on the schema"
        )
    return row, {one.name: one for one in found}


def judged(
    types: Mapping[str, Sequence[str]], required: Collection[str], columns: Mapping[str, Any]
) -> Iterator[FoundColumn]:
    """Each wanted column as it is there, or as one that is lacking."""
    for name, wanted in types.items():
        one = columns.get(name)
        if one is None:
            yield FoundColumn(name, None, name, f"column {name} is missing" if name in required else None)
            continue
        fits = one.type_name in wanted or (one.is_enum and wanted is TEXTS)
        words = " or ".join(_WORDS.get(kind, kind) for kind in wanted if kind != "name")
        wrong = None if fits else f"column {name} is {one.shown_type}, not {words}: cast it in a view"
        yield FoundColumn(name, one.shown_type, name, unreadable(one) or wrong)


def unreadable(column: Any) -> str | None:
    """What is wrong where our user may not read the column."""
    return None if column.is_readable else f"column {column.name} may not be read: grant select on it to our user"


def expression(types: Sequence[str], column: Any) -> str:
    """The column as the first of these types; bare where it can be, so that the owner's indexes serve."""
    read = quoted(column.name)
    if types is TEXTS and column.type_name != "text":
        return f"cast({read} as text)"
    if types is TIMES:
        return as_time(read, column.type_name)
    return read


def as_time(read: str, type_name: str) -> str:
    """What is read, as a timestamptz; a time without a zone is UTC."""
    if type_name == "timestamptz":
        return read
    moment = f"cast({read} as timestamp)" if type_name == "date" else read
    return f"timezone('UTC', {moment})"


def quoted(name: str) -> str:
    """The name as it stands in SQL."""
    return '"' + name.replace('"', '""') + '"'


def bindless(sql: str) -> str:
    """The text for `sqlalchemy.text`, to which a colon before a word is a parameter."""
    return sql.replace(":", "\\:")
