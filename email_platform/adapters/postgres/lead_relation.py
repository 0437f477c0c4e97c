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
from typing import Any

from sqlalchemy import BigInteger, Column, DateTime, Engine, FromClause, SmallInteger, Text, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.sql.type_api import TypeEngine

from email_platform.adapters.postgres.foreign_relation import (
    TEXTS,
    TIMES,
    FoundColumn,
    FoundRelation,
    as_time,
    bindless,
    expression,
    find_relation,
    judged,
    quoted,
    unreadable,
)
from email_platform.adapters.postgres.tables import lead
from email_platform.adapters.postgres.transactions import oltp_transaction
from email_platform.errors import CommandRefusedError, ConfigurationError
from email_platform.settings import Settings

_TYPES: Mapping[str, tuple[tuple[str, ...], TypeEngine[Any]]] = {
    "id": (("int2", "int4", "int8"), BigInteger()),
    "email": (TEXTS, Text()),
    "first_name": (TEXTS, Text()),
    "last_name": (TEXTS, Text()),
    "country": (TEXTS, Text()),
    "city": (TEXTS, Text()),
    "plan": (TEXTS, Text()),
    "language": (TEXTS, Text()),
    "age": (("int2", "int4"), SmallInteger()),
    "attributes": (("jsonb",), JSONB()),
    "unsubscribed_at": (TIMES, DateTime(timezone=True)),
    "created_at": (TIMES, DateTime(timezone=True)),
}
_VARIABLE = "EMAIL_PLATFORM_LEAD_RELATION"
WANTED = tuple(_TYPES)
REQUIRED = ("id", "email")
_NULLS: Mapping[str, str] = {"attributes": "cast('{}' as jsonb)"}
_PAIRS_A_CALL = 40  # a function of PostgreSQL takes 100 arguments
_SPREAD = ".*"


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
        return text(bindless(self._usable(engine).select())).columns(*columns).subquery("lead")

    def prefix(self, engine: Engine) -> str:
        """What a statement that names the table ``lead`` begins with, so that it reads the relation; often nothing.

        Raises:
            ConfigurationError, PartUnavailableError: as `source`.
        """
        if self.is_ours:
            return ""
        return bindless(f"with lead as not materialized ({self._usable(engine).select()}) ")

    def look_up(self, engine: Engine) -> FoundRelation:
        """The relation as it is now, also where it cannot be used.

        Raises:
            ConfigurationError: our user sees no such relation.
            PartUnavailableError: PostgreSQL is away.
        """
        with oltp_transaction(engine) as connection:
            row, columns = find_relation(connection, _VARIABLE, self.name)
        found = tuple(_judged(columns, self._attributes))
        usable = {one.name for one in found if one.type is not None and one.problem is None}
        expressions = {
            name: expression(_TYPES[name][0], columns[name]) if name in usable else _NULLS.get(name, _null(name))
            for name in WANTED
        }
        expressions["attributes"] = _attributes(expressions["attributes"], "attributes" in usable, columns, [
            one for one in self._attributes if one.removesuffix(_SPREAD) in usable
        ])  # fmt: skip
        return FoundRelation(
            f"{quoted(row.nspname)}.{quoted(row.relname)}", row.relkind in ("r", "p"), found, expressions
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
    yield from judged({name: types for name, (types, _) in _TYPES.items()}, REQUIRED, columns)
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
        yield FoundColumn(name, one.shown_type, used_for, unreadable(one) or wrong)


def _null(name: str) -> str:
    kind = {"id": "bigint", "age": "smallint", "unsubscribed_at": "timestamptz", "created_at": "timestamptz"}
    return f"cast(null as {kind.get(name, 'text')})"


def _attributes(base: str, has_base: bool, columns: Mapping[str, Any], named: Sequence[str]) -> str:
    """One jsonb document; later parts win where two have a key."""
    if not named:
        return base
    spread = [quoted(one.removesuffix(_SPREAD)) for one in named if one.endswith(_SPREAD)]
    documents = [_object(one) for one in ([base] if has_base else []) + spread]
    pairs = [_pair(columns[one]) for one in named if not one.endswith(_SPREAD)]
    starts = range(0, len(pairs), _PAIRS_A_CALL)
    documents.extend(f"jsonb_build_object({', '.join(pairs[at : at + _PAIRS_A_CALL])})" for at in starts)
    return " || ".join(documents)


def _object(document: str) -> str:
    """The document where it has keys: anything else would make a list of the whole."""
    return f"case when jsonb_typeof({document}) = 'object' then {document} else cast('{{}}' as jsonb) end"


def _pair(column: Any) -> str:
    read = quoted(column.name)
    value = as_time(read, column.type_name) if column.type_name in TIMES else read
    key = column.name.replace("'", "''")
    return f"'{key}', {value}"
