"""What of a person is in the warehouse: raw tables and the reports' tables.

Invariant: no row of an email is removed and none is added, so every count stays; the keys by which it is looked up
(`key_index`) follow. A cell is changed in place, by a mutation that knows it by its hash: ClickHouse keeps the text of
mutations (``system.mutations``) and logs queries, and neither may hold the address. What names the person is decided by
Python, in one way for every store; the engine only searches for letters that every such text has.

A mutation rewrites the parts that have such a row (ClickHouse, "ALTER TABLE ... UPDATE Statements"), and is waited for
on every replica (``mutations_sync = 2``). Each look reads the text columns of every table once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from more_itertools import chunked

from email_platform.adapters.clickhouse.address import reports_database_beside
from email_platform.adapters.clickhouse.key_index import KEYS, KeyKind, key_hash
from email_platform.adapters.clickhouse.staging_location import sql_literal
from email_platform.adapters.clickhouse.targets import TARGETS
from email_platform.adapters.clickhouse.warehouse import ClickHouseWarehouse
from email_platform.domain.erasure import ErasedPerson
from email_platform.domain.storage_layout import kind_of_key
from email_platform.events.erased_events import NO_DETAILS
from email_platform.runs.erasure_parts import RewrittenObject
from email_platform.staging.erased_objects import ADDRESS_COLUMNS

_CELLS_PER_MUTATION = 500
_UNLOGGED: Mapping[str, Any] = {"log_queries": 0}
_MUTATION: Mapping[str, Any] = {**_UNLOGGED, "mutations_sync": 2}
_TEXT_TYPES = ("String", "Nullable(String)", "LowCardinality(String)", "LowCardinality(Nullable(String))")
_OUR_NAMES = ("source_object", "source_sha256")
_KIND_OF_COLUMN: Mapping[str, KeyKind] = {"email": "address", "provider_message_id": "provider_message_id"}


@dataclass(frozen=True, slots=True)
class _TextColumn:
    table: str
    name: str
    type: str
    columns: frozenset[str]

    @property
    def read_from(self) -> str:
        """Where the rows of every shard are: the Distributed table over a local one."""
        return self.table.removesuffix("_local")


class WarehousePerson:
    """`email_platform.runs.erasure_parts.PersonInWarehouse` over ClickHouse.

    Args:
        connect: connects to the warehouse, when something is first asked of it.
    """

    def __init__(self, connect: Callable[[], ClickHouseWarehouse]) -> None:
        self._connect = connect

    @cached_property
    def _warehouse(self) -> ClickHouseWarehouse:
        return self._connect()

    def erase(self, person: ErasedPerson, *, dry_run: bool) -> Mapping[str, int]:
        """Cells that name the person, by table; the pseudonym is put there. See the Protocol."""
        counts: dict[str, int] = {}
        for column in self._text_columns():
            found = self._cells(column, person)
            counts[column.table] = counts.get(column.table, 0) + len(found)
            for some in chunked(sorted(found.items()) if not dry_run else (), _CELLS_PER_MUTATION):
                with self._keys_kept_right(column, dict(some)):
                    self._replace(column, dict(some))
        return counts

    def replace_sources(self, objects: Collection[RewrittenObject]) -> None:
        """Have the rows of these objects name the objects' new contents; see the Protocol."""
        by_table: dict[str, list[RewrittenObject]] = {}
        for one in objects:
            found = kind_of_key(one.key)
            if found is not None and found[0] in TARGETS:
                by_table.setdefault(TARGETS[found[0]].table, []).append(one)
        for table, those in by_table.items():
            for some in chunked(those, _CELLS_PER_MUTATION):
                keys = _array([one.key for one in some])
                hashes = _array([one.new_sha256 for one in some])
                self._mutate(
                    f"{self._warehouse.database}.{self._warehouse.local_table(table)}",
                    f"update source_sha256 = transform(toString(source_object), {keys}, {hashes}, "
                    f"toString(source_sha256)) where source_object in {keys}",
                )

    def _text_columns(self) -> Sequence[_TextColumn]:
        """Columns that may hold texts, without those of keys: no mutation changes them, and they are ids of ours."""
        rows = self._warehouse.query(
            """
            select
                concat(columns.database, '.', columns.table) as its_table, columns.name, columns.type,
                groupArray(columns.name) over (partition by columns.database, columns.table) as its_columns
            from system.columns as columns
            inner join system.tables as tables
                on tables.database = columns.database and tables.name = columns.table
            where columns.database in {databases:Array(String)}
                and tables.engine like '%MergeTree'
                and columns.is_in_sorting_key = 0 and columns.is_in_partition_key = 0
                and columns.type in {types:Array(String)}
                and columns.name not in {ours:Array(String)}
            order by its_table, columns.name
            """,
            {
                "databases": [self._warehouse.database, reports_database_beside(self._warehouse.database)],
                "types": list(_TEXT_TYPES),
                "ours": list(_OUR_NAMES),
            },
        )
        return [_TextColumn(str(table), str(name), str(kind), frozenset(all_of)) for table, name, kind, all_of in rows]

    def _cells(self, column: _TextColumn, person: ErasedPerson) -> dict[int, str]:
        """By the hash of a cell that names the person, what is to stand there."""
        statement = (
            f"select distinct toString({column.name}) as cell, cityHash64(assumeNotNull({column.name})) "  # noqa: S608
            f"from {column.read_from} where positionCaseInsensitive(ifNull({column.name}, ''), {{needle:String}}) > 0 "
            "settings log_queries = 0"
        )
        rows = self._warehouse.query(statement, {"needle": person.needle})
        is_address = column.name in ADDRESS_COLUMNS
        return {
            int(digest): person.pseudonym if is_address else person.without(str(cell))
            for cell, digest in rows
            if person.is_named_in(str(cell))
        }

    def _replace(self, column: _TextColumn, cells: Mapping[int, str]) -> None:
        hashes = f"[{', '.join(f'toUInt64({one})' for one in cells)}]"
        digest = f"cityHash64(ifNull({column.name}, ''))"
        changed = f"transform({digest}, {hashes}, {_array(list(cells.values()))}, toString(ifNull({column.name}, '')))"
        updates = [f"{column.name} = cast({changed} as {column.type})"]
        if column.name == "recipient" and "details" in column.columns:  # the event is the person's
            updates.append(f"details = if({digest} in {hashes}, {sql_literal(NO_DETAILS)}, details)")
        self._mutate(
            column.table, f"update {', '.join(updates)} where isNotNull({column.name}) and {digest} in {hashes}"
        )

    @contextmanager
    def _keys_kept_right(self, column: _TextColumn, cells: Mapping[int, str]) -> Iterator[None]:
        """Look-ups find the rows by what is put there, before it is there; the keys that they had go afterwards.

        A death in between leaves 32 bits of a hash of the old text, by which nothing is found any more.
        """
        database, _, table = column.read_from.partition(".")
        kind = _KIND_OF_COLUMN.get(column.name)
        if kind is None or database != self._warehouse.database or kind not in KEYS.get(table, {}):
            yield
            return
        digest = f"cityHash64(ifNull({column.name}, ''))"
        hashes = f"[{', '.join(f'toUInt64({one})' for one in cells)}]"
        new = f"transform({digest}, {hashes}, {_array(list(cells.values()))}, '')"
        new_hash = key_hash(f"lower({new})" if kind == "address" else new)
        of_cells = f"from {column.read_from} where isNotNull({column.name}) and {digest} in {hashes}"
        keys = self._warehouse.query(
            f"select distinct {key_hash(KEYS[table][kind])}, {new_hash}, campaign_id, lead_id {of_cells} "
            "settings log_queries = 0",
            {},
        )
        self._warehouse.command(
            f"insert into email_key select '{kind}', {new_hash}, '{table}', campaign_id, lead_id {of_cells}",
            {**_UNLOGGED, "async_insert": 0},
        )
        yield
        gone = ((old, campaign, lead) for old, new, campaign, lead in keys if old != new)
        for some in chunked(gone, _CELLS_PER_MUTATION):
            rows = ", ".join(f"({old}, {campaign}, {lead})" for old, campaign, lead in some)
            self._mutate(
                f"{self._warehouse.database}.{self._warehouse.local_table('email_key')}",
                f"delete where kind = '{kind}' and source = '{table}' and (key_hash, campaign_id, lead_id) in ({rows})",
            )

    def _mutate(self, table: str, change: str) -> None:
        self._warehouse.mutate(table, change, _MUTATION)


def _array(texts: Sequence[str]) -> str:
    return f"[{', '.join(sql_literal(text) for text in texts)}]"
