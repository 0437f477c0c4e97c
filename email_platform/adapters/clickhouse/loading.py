"""Bulk loads of staged objects: in groups normally, one by one where something looks wrong.

Invariant: however often, in whatever order, in whatever groups and by however many processes objects are loaded,
an object counts as loaded only after its rows were found in the table, and a bad object neither leaves rows there
nor keeps another one out. The proof, cheap first: the table holds as many rows with the object's name and the hash of
its content as were registered; else every single key of the object is looked up, at its version or a later one.

A group is one hash of every object inside ClickHouse, one INSERT of one block, so it is inserted whole or not at
all, and one count by object. Where a group fails, or rows of its objects are replaced already, its objects go one
by one: one INSERT each, under a deduplication token of the object's own. The table's key and version are the second
guard (for events: the reader's `limit 1 by event_key`): they hold where a token is forgotten or a group is cut
differently.

What it costs beside the engine's bare insert: `python bench/loader.py`, figures in docs/warehouse.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from email_platform.adapters.clickhouse.object_groups import (
    GROUP_OBJECTS,
    GROUPS_AT_ONCE,
    CheckedObject,
    checked_object,
    deduplication_token,
    groups_of,
)
from email_platform.adapters.clickhouse.object_queries import KEY_OF_PATH, READ_SETTINGS, ObjectQueries
from email_platform.adapters.clickhouse.staging_location import StagingLocation, sql_literal
from email_platform.adapters.tracing import traced_load
from email_platform.domain.ports import LoadOutcome, StagedObject
from email_platform.errors import AccountingError, ObjectQuarantinedError

_ONE_BLOCK_ROWS = 100_000_000  # more than any group has: a block is cut at its end only
_INSERT_SETTINGS: Mapping[str, Any] = {
    **READ_SETTINGS,
    "async_insert": 0,
    "insert_deduplicate": 1,
    "input_format_parquet_allow_missing_columns": 1,  # see _insert
    "insert_null_as_default": 0,
    "optimize_on_insert": 1,  # the default: a lead twice in an object is one row, so the count finds it
    "max_threads": 2,  # they read; one of them writes, so it is one block all the same
    "max_insert_threads": 1,
    "max_insert_block_size": _ONE_BLOCK_ROWS,
    "min_insert_block_size_rows": _ONE_BLOCK_ROWS,
    "min_insert_block_size_bytes": 0,
}


class ObjectLoader:
    """Loads staged objects; may be used by several threads at once.

    Args:
        queries: asks ClickHouse about the objects, and inserts.
        location: where ClickHouse reads the objects.
    """

    def __init__(self, queries: ObjectQueries, location: StagingLocation) -> None:
        self._location = location
        self._queries = queries

    def load(self, staged: StagedObject) -> int:
        """Load one object; see `email_platform.domain.ports.Warehouse`."""
        one = checked_object(staged)
        if self._queries.held([one]).get(staged.key) == staged.rows:
            return staged.rows
        self._require_registered_content([one])
        self._insert([one], {"insert_deduplication_token": deduplication_token([one])})
        found = self._queries.found_rows(one)
        if found < staged.rows:
            # The window remembers the token, but rows are gone (deleted, or an older backup): the table's key
            # makes it safe to insert them without a token.
            self._insert([one], {"insert_deduplicate": 0})
            found = self._queries.found_rows(one)
        if found != staged.rows:
            raise AccountingError(
                f"{staged.key}: {staged.rows:,} rows registered, {self._queries.footer_rows(one):,} in its footer, but "
                f"{found:,} different {one.target.key}s of it in table {one.target.table}"
            )
        return found

    def load_many(self, objects: Sequence[StagedObject]) -> Iterator[Sequence[LoadOutcome]]:
        """Load many objects, `GROUPS_AT_ONCE` groups side by side; see `email_platform.domain.ports.Warehouse`."""
        load_group = traced_load(self._load_group)
        with ThreadPoolExecutor(GROUPS_AT_ONCE, thread_name_prefix="load") as pool:
            groups = [pool.submit(load_group, group) for group in groups_of(objects)]
            try:
                for group in groups:
                    yield group.result()
            finally:
                pool.shutdown(cancel_futures=True)

    def size_bytes(self, key: str) -> int:
        """Size of an object of the staging bucket as ClickHouse itself reads it; see `load` for what it raises."""
        return self._queries.size_bytes(key)

    def holds(self, staged: StagedObject) -> bool:
        """Whether the table holds every row of exactly this content, none of them replaced by a newer one."""
        return self._queries.held([checked_object(staged)]).get(staged.key, 0) == staged.rows

    def content_hashes(self, keys: Sequence[str]) -> dict[str, str]:
        """SHA-256 by key; an object that is gone is left out."""
        found: dict[str, str] = {}
        for group in (keys[first : first + GROUP_OBJECTS] for first in range(0, len(keys), GROUP_OBJECTS)):
            try:
                contents = self._queries.contents(group)
            except ObjectQuarantinedError:  # an object was removed after it was listed
                if len(group) > 1:
                    for key in group:
                        found |= self.content_hashes([key])
                continue
            found |= {key: digest for key, (digest, _) in contents.items()}
        return found

    def _load_group(self, objects: Sequence[StagedObject]) -> list[LoadOutcome]:
        """Load objects of one kind together; any that look wrong go one by one."""
        loaded: set[str] = set()
        held_before: set[str] = set()
        try:
            group = [checked_object(staged) for staged in objects]
            held = self._queries.held(group)
            held_before = {staged.key for staged in objects if held.get(staged.key) == staged.rows}
            missing = [one for one in group if one.staged.key not in held]
            if missing:
                self._require_registered_content(missing)
                self._insert(missing, {"insert_deduplication_token": deduplication_token(missing)})
                held = self._queries.held(group)
            loaded = {staged.key for staged in objects if held.get(staged.key) == staged.rows}
        except ObjectQuarantinedError:
            pass  # the code below finds out which one
        return [
            LoadOutcome(staged, staged.rows, was_held=staged.key in held_before)
            if staged.key in loaded
            else self._alone(staged)
            for staged in objects
        ]

    def _alone(self, staged: StagedObject) -> LoadOutcome:
        try:
            return LoadOutcome(staged, self.load(staged))
        except (ObjectQuarantinedError, AccountingError) as problem:
            return LoadOutcome(staged, 0, problem)

    def _require_registered_content(self, group: Sequence[CheckedObject]) -> None:
        """Compare each object's hash, computed inside ClickHouse, with the registered one.

        Needed because a damaged data page passes: with 200 bytes in the middle set to zero, ClickHouse read
        10,000 rows without a complaint. It also finds an object that was rewritten after it was registered.
        """
        found = self._queries.contents([one.staged.key for one in group])
        for one in group:
            digest, size_bytes = found.get(one.staged.key, ("", 0))
            if digest != one.staged.content_sha256:
                raise ObjectQuarantinedError(
                    f"{one.staged.key}: its content ({size_bytes:,} bytes, sha256 {digest[:12]}…) is not the "
                    f"registered one ({one.staged.content_sha256[:12]}…): cut short, damaged, or rewritten without "
                    "registration"
                )

    def _insert(self, group: Sequence[CheckedObject], settings: Mapping[str, Any]) -> None:
        """One INSERT of one block for the objects of one kind; nothing of it where a row does not belong there."""
        target = group[0].target
        keys = _array(one.staged.key for one in group)
        hashes = _array(one.staged.content_sha256 for one in group)
        conditions = ["1"]
        if target.of_campaign:
            campaigns = f"[{', '.join(str(one.campaign_id) for one in group)}]"
            conditions.append(
                f"throwIf(ifNull(campaign_id, -2) != transform(object_key, {keys}, {campaigns}, -1), "
                "'rows of another campaign than the key says') = 0"
            )
        if target.allowed_words:
            column, words = target.allowed_words
            allowed = ", ".join(sql_literal(word) for word in words)
            conditions.append(f"throwIf(ifNull({column}, '') not in ({allowed}), 'an unknown {column}') = 0")
        # Read as nullable: a missing column, and a null in a required one, come as nulls, which the table refuses.
        # (Parquet's own check for missing columns takes _path for one.)
        source = self._location.table_function(
            [one.staged.key for one in group], "Parquet", target.structure(nullable=True)
        )
        statement = (
            f"insert into {target.table} ({target.columns}, source_object, source_sha256, loaded_at) "  # noqa: S608
            f"select {target.columns}, object_key, transform(object_key, {keys}, {hashes}, ''), now64(3, 'UTC') "
            f"from (select {target.columns}, {KEY_OF_PATH} as object_key from {source}) "
            f"where {' and '.join(conditions)}"
        )
        self._queries.command([one.staged.key for one in group], statement, {**_INSERT_SETTINGS, **settings})


def _array(texts: Iterable[str]) -> str:
    return f"[{', '.join(sql_literal(text) for text in texts)}]"
