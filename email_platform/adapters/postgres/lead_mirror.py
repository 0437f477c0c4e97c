"""Our side of the leads' source: the table `lead`, and `lead_source_row`, which knows each source row.

Invariant: a batch is one commit, so whoever reads leads (a campaign that is being frozen, too) sees each source row as
it was before or as it is after, never half; an opt-out is never lost with an address: where a lead that opted out is
removed or gets another address, the old one is suppressed; and a row that no lead can be made of stops no other row.

A source row's lead is the one whose ``own_key`` is its key, and keeps its id while the row lives. Columns that the
source does not have stay as they are. A row that cannot be a lead is quarantined: it is in ``lead_source_row`` with its
problem, and a lead that it was before has no address until the row is mended, so that nobody is mailed at one that may
be wrong.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from hashlib import md5
from typing import Any

import psycopg
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from email_platform.adapters.mysql.lead_source import ATTRIBUTE, SPREAD, Field
from email_platform.adapters.postgres.lead_import import hold_lead_turn
from email_platform.adapters.postgres.transactions import oltp_transaction
from email_platform.domain.erasure import ErasedLookup
from email_platform.runs.lead_sync import RANGE_KEYS, SLICES, Applied, SourceRow
from email_platform.runs.legacy_table import Fingerprint

_LARGEST_JSON = 1_000_000
"""Characters of a JSON column; PostgreSQL takes more, but no message needs a megabyte about one person."""
_INCOMING = text(
    """
    create temporary table source_row (
        source_key bigint, checksum bigint, is_gone boolean, problem text, hashes text, attributes text,
        email text, first_name text, last_name text, country text, city text, plan text, language text, age text,
        unsubscribed_at text, created_at text
    ) on commit drop
    """
)
_COLUMNS = (
    *("source_key", "checksum", "is_gone", "problem", "hashes", "attributes"),
    *(
        "email",
        "first_name",
        "last_name",
        "country",
        "city",
        "plan",
        "language",
        "age",
        "unsubscribed_at",
        "created_at",
    ),
)
_KNOWN = text("select source_key, checksum from lead_source_row where source_key = any(:keys)")
_OTHERS_ARE_GONE = text(
    """
    insert into source_row (source_key, is_gone)
    select source_key, true
    from lead_source_row
    where
        source_key >= :first_key and source_key < :next_key
        and source_key not in (select source_key from source_row)
    """
)
# An opted-out lead that loses its address, to another one or with its row.
_KEEP_OPT_OUTS = text(
    """
    insert into suppression (address, reason, source)
    select distinct email_address_key(lead.email), 'unsubscribe', 'lead source: the lead is gone or has another address'
    from source_row as new
    inner join lead on lead.own_key = cast(new.source_key as text)
    where
        lead.unsubscribed_at is not null and email_address_key(lead.email) is not null
        and (
            new.is_gone or new.problem is not null or new.email is null
            or email_address_key(new.email) <> email_address_key(lead.email)
        )
    on conflict (address, sender_id) do nothing
    """
)
# No role has a right to delete leads: the function removes those that came from the source, and no others.
_REMOVE = text("select remove_leads_of_source(array(select source_key from source_row where is_gone))")
_HIDE = text(
    """
    update lead set email = null
    from source_row as new
    where new.problem is not null and lead.own_key = cast(new.source_key as text)
    """
)
_FORGET = text(
    """
    delete from lead_source_row as held
    using source_row as new
    where new.is_gone and held.source_key = new.source_key
    """
)
_REMEMBER = text(
    """
    insert into lead_source_row (source_key, checksum, hashes, problem)
    select source_key, checksum, cast(hashes as jsonb), problem from source_row where not is_gone
    on conflict (source_key) do update set
        checksum = excluded.checksum, hashes = excluded.hashes, problem = excluded.problem, seen_at = now()
    """
)
_TIME = "timestamptz 'epoch' + cast(new.{0} as bigint) * interval '1 microsecond'"
_POSITION = text("select position from lead_source_position where source = :source")
_MOVE = text(
    """
    insert into lead_source_position (source, position) values (:source, :position)
    on conflict (source) do update set position = excluded.position, moved_at = now()
    """
)


_ERASED = "the person was erased (docs/erasure.md), and stays so"


class PostgresLeadMirror:
    """`email_platform.runs.lead_sync.LeadMirror`.

    Length: one Protocol over one list of fields, from which each statement's columns follow.

    Args:
        engine: of the OLTP database.
        fields: what the source reads of a row, in its order.
        erased: whose rows no lead is made of.
    """

    def __init__(self, engine: Engine, fields: Sequence[Field], erased: ErasedLookup) -> None:
        self._engine, self._fields, self._erased = engine, tuple(fields), erased
        self._plain = [one.target for one in fields if not one.target.startswith(ATTRIBUTE)]
        self._has_attributes = len(self._plain) < len(self._fields)

    def position(self, source: str) -> datetime | None:
        """Up to where; see the Protocol."""
        with oltp_transaction(self._engine) as connection:
            found: datetime | None = connection.execute(_POSITION, {"source": source}).scalar_one_or_none()
        return found

    def move(self, source: str, position: datetime) -> None:
        """Remember a position; see the Protocol."""
        with oltp_transaction(self._engine) as connection:
            connection.execute(_MOVE, {"source": source, "position": position})

    def apply(self, rows: Sequence[SourceRow]) -> Applied:
        """A page of changes; rows that are known as they are cost a look; see the Protocol."""
        with oltp_transaction(self._engine) as connection:
            known: dict[int, int] = {
                row.source_key: row.checksum for row in connection.execute(_KNOWN, {"keys": [one.key for one in rows]})
            }
        fresh = [one for one in rows if (known.get(one.key) != one.checksum if not one.is_gone else one.key in known)]
        return Applied(unchanged=len(rows) - len(fresh)) + self._store(fresh, None)

    def replace(self, first_key: int, next_key: int, rows: Sequence[SourceRow]) -> Applied:
        """A whole range; see the Protocol."""
        return self._store(rows, (first_key, next_key))

    def _store(self, rows: Sequence[SourceRow], span: tuple[int, int] | None) -> Applied:
        if not rows and span is None:
            return Applied()
        problems = self._of_erased_people(rows)
        cause: Exception
        while True:
            try:
                with oltp_transaction(self._engine) as connection:
                    return self._applied(connection, rows, problems, span)
            except (DBAPIError, psycopg.DataError) as error:
                if not isinstance(getattr(error, "orig", error), psycopg.DataError):
                    raise
                cause = error
            refused = self._refused([one for one in rows if one.key not in problems])
            if not refused:
                raise cause  # of no row alone
            problems |= refused

    def _of_erased_people(self, rows: Sequence[SourceRow]) -> dict[int, str]:
        """The rows whose person was erased here: the source has them still, and a lead would bring them back."""
        if self._erased.is_empty():
            return {}
        addresses = {one.key: address for one in rows if not one.is_gone and (address := one.values.get("email"))}
        found = self._erased.pseudonyms(set(addresses.values()))
        return {key: _ERASED for key, address in addresses.items() if address in found}

    def _refused(self, rows: Sequence[SourceRow]) -> dict[int, str]:
        """The rows that PostgreSQL refuses, with its words; found by halves, in transactions that change nothing."""
        try:
            with oltp_transaction(self._engine) as connection:
                self._applied(connection, rows, {}, None)
                connection.rollback()
        except (DBAPIError, psycopg.DataError) as error:
            cause = getattr(error, "orig", error)
            if not isinstance(cause, psycopg.DataError):
                raise
            if len(rows) == 1:
                return {rows[0].key: _said(cause)}
        else:
            return {}
        half = len(rows) // 2
        return self._refused(rows[:half]) | self._refused(rows[half:])

    def _applied(
        self,
        connection: Connection,
        rows: Sequence[SourceRow],
        problems: Mapping[int, str],
        span: tuple[int, int] | None,
    ) -> Applied:
        hold_lead_turn(connection)
        connection.execute(_INCOMING)
        driver: Any = connection.connection.driver_connection
        odd = 0
        with driver.cursor().copy(f"copy source_row ({', '.join(_COLUMNS)}) from stdin") as copy:
            for one in rows:
                problem, attributes = (problems.get(one.key), None) if one.is_gone else self._attributes(one, problems)
                odd += problem is not None
                values = [None if problem else one.values.get(name) for name in _COLUMNS[6:]]
                copy.write_row([one.key, one.checksum, one.is_gone, problem, self._hashes(one), attributes, *values])
        if span is not None:
            connection.execute(_OTHERS_ARE_GONE, {"first_key": span[0], "next_key": span[1]})
        connection.execute(text("analyze source_row"))
        if "email" in self._plain:
            connection.execute(_KEEP_OPT_OUTS)
        removed: int = connection.execute(_REMOVE).scalar_one()
        connection.execute(_HIDE)
        changed = connection.execute(text(self._change())).rowcount
        added = connection.execute(text(self._add())).rowcount
        connection.execute(_FORGET)
        connection.execute(_REMEMBER)
        return Applied(added, changed, removed, 0, odd)

    def _hashes(self, row: SourceRow) -> str | None:
        """The MD5 of each value that the lead keeps in another form, as the source's engine hashes it."""
        found = {
            one.target: md5(value.encode(), usedforsecurity=False).hexdigest()
            for one in self._fields
            if one.hashed and (value := row.values.get(one.target)) is not None
        }
        return json.dumps(found) if found else None

    def _attributes(self, row: SourceRow, problems: Mapping[int, str]) -> tuple[str | None, str | None]:
        """The row's problem, or its attributes as JSON, with the digits that the source has."""
        if row.key in problems:
            return problems[row.key], None
        parts: list[str] = []
        for one in self._fields:
            value = row.values.get(one.target)
            if value is None or not one.target.startswith(ATTRIBUTE):
                continue
            name = one.target.removeprefix(ATTRIBUTE)
            if name.endswith(SPREAD):
                problem = _no_object(value)
                if problem is not None:
                    return f"{one.column}: {problem}", None
                parts.insert(0, value)  # first: a named column wins
            else:
                shown = json.dumps(value, ensure_ascii=False) if one.kind == "text" else value
                parts.append(f"{{{json.dumps(name)}: {shown}}}")
        # One JSON text a part, which PostgreSQL joins: it keeps every digit of a number.
        return None, "[" + ",".join(parts) + "]"

    def _values(self) -> dict[str, str]:
        values = {}
        for name in self._plain:
            if name == "age":
                values[name] = "cast(new.age as smallint)"
            elif name in ("unsubscribed_at", "created_at"):
                values[name] = _TIME.format(name)
            else:
                values[name] = f"new.{name}"
        if self._has_attributes:
            values["attributes"] = (
                "(select coalesce(jsonb_object_agg(pair.key, pair.value order by part.number), '{}') "
                "from jsonb_array_elements(cast(new.attributes as jsonb)) with ordinality as part (value, number), "
                "jsonb_each(part.value) as pair)"
            )
        if "created_at" in values:
            values["created_at"] = f"coalesce({values['created_at']}, now())"
        return values

    def _change(self) -> str:
        changes = ", ".join(f"{name} = {value}" for name, value in self._values().items())
        return (
            f"update lead set {changes} from source_row as new "  # noqa: S608 - names of our own columns
            "where not new.is_gone and new.problem is null and lead.own_key = cast(new.source_key as text)"
        )

    def _add(self) -> str:
        values = self._values()
        return (
            f"insert into lead (own_key, {', '.join(values)}) "  # noqa: S608 - names of our own columns
            f"select cast(new.source_key as text), {', '.join(values.values())} from source_row as new "
            "where not new.is_gone and new.problem is null "
            "and not exists (select from lead where lead.own_key = cast(new.source_key as text)) "
            "order by new.source_key"
        )

    def fingerprints(self, slice_index: int) -> Mapping[int, Fingerprint]:
        """Computed from the leads as they are; a quarantined row counts as the source gave it; see the Protocol."""
        statement = text(
            f"""
            select held.source_key / :range_keys as range_index, count(*) as rows, sum(
                case
                    when held.problem is not null then held.checksum
                    else cast(
                        cast(('x' || left(md5(convert_to({self._canonical()}, 'UTF8')), 15)) as bit(60)) as bigint
                    )
                end
            ) as checksum
            from lead_source_row as held
            left join lead on lead.own_key = cast(held.source_key as text)
            where (held.source_key / :range_keys) % :slices = :slice
            group by 1
            """  # noqa: S608 - names of our own columns, and quoted names of attributes
        )
        parameters = {"range_keys": RANGE_KEYS, "slices": SLICES, "slice": slice_index}
        with oltp_transaction(self._engine) as connection:
            found = connection.execute(statement, parameters).all()
        return {int(row.range_index): Fingerprint(int(row.rows), int(row.checksum)) for row in found}

    def _canonical(self) -> str:
        parts = []
        for one in self._fields:
            name = one.target.removeprefix(ATTRIBUTE)
            if one.hashed:
                value = f"held.hashes ->> {_literal(one.target)}"
            elif one.target.startswith(ATTRIBUTE):
                value = f"lead.attributes ->> {_literal(name)}"
            elif one.kind == "time":
                value = f"cast(cast(extract(epoch from lead.{name}) * 1000000 as bigint) as text)"
            else:
                value = f"cast(lead.{name} as text)"
            parts.append(f"coalesce(char_length({value}) || '\\:' || ({value}), 'N')")
        return " || ',' || ".join(parts)


def _literal(name: str) -> str:
    return "'" + name.replace("'", "''").replace(":", "\\:") + "'"


def _no_object(value: str) -> str | None:
    """Why a JSON column's text gives no attributes; None where it does."""
    if len(value) > _LARGEST_JSON:
        return f"has {len(value):,} characters, {_LARGEST_JSON:,} are the most"
    try:
        found = json.loads(value, parse_float=str, parse_int=str)
    except (ValueError, RecursionError) as error:
        return f"is no JSON that can be read ({type(error).__name__})"
    return None if isinstance(found, dict) else f"is no JSON object but {type(found).__name__}"


def _said(error: psycopg.DataError) -> str:
    diagnosis = getattr(error.diag, "message_primary", None)
    return f"PostgreSQL refuses it: {(diagnosis or str(error))[:300]}"
