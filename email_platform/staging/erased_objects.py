"""Objects of the bucket without a person who was erased.

Invariant: an object keeps its rows, their order and its row groups; only cells change. So its counts stay, a chunk is
still one row group, and what was already loaded from it can be found by the same keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from email_platform.domain.erasure import ErasedPerson
from email_platform.domain.ports import ObjectStore
from email_platform.domain.storage_layout import EVENT_QUARANTINE_PREFIX, EVENT_RAW_PREFIX
from email_platform.events.erased_events import NO_DETAILS, archived_without, body_without
from email_platform.events.received import ReceivedBody, from_parquet, to_parquet

ADDRESS_COLUMNS = ("email", "recipient")
"""A row with the person in one of these is the person's row."""
# What else of the person's row is about the person, and what stands there afterwards.
_OF_THE_PERSON: dict[str, str | None] = {
    **dict.fromkeys(("first_name", "last_name", "country", "city", "plan", "language", "age")),
    "attributes": "{}",
    "details": NO_DETAILS,
}


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A new content, and in how many rows it differs."""

    body: bytes
    rows: int


def object_without(key: str, body: bytes, person: ErasedPerson) -> Rewritten | None:
    """The object's content without the person; None where it does not name them.

    Raises:
        pyarrow.ArrowException, OSError: it is no Parquet file of ours.
    """
    if key.endswith(".html"):
        text = body.decode("utf-8", "surrogateescape")
        without = person.without(text)
        return None if without == text else Rewritten(without.encode("utf-8", "surrogateescape"), 1)
    if key.startswith((EVENT_RAW_PREFIX, EVENT_QUARANTINE_PREFIX)):
        return _bodies_without(body, person, are_archived=key.startswith(EVENT_RAW_PREFIX))
    target = BytesIO()
    rows = _rewrite(pq.ParquetFile(BytesIO(body)), target, person)
    return Rewritten(target.getvalue(), rows) if rows else None


def named_rows(store: ObjectStore, key: str, person: ErasedPerson) -> list[int] | None:
    """Positions, within a manifest's list of recipients, of the person's rows; None where nothing of it names them.

    Reads a row group at a time.

    Raises:
        FileNotFoundError: it is gone.
    """
    found: list[int] = []
    is_named = False
    with store.reader(key) as file, pq.ParquetFile(file, pre_buffer=True) as parquet:
        for group in range(parquet.metadata.num_row_groups):
            table = parquet.read_row_group(group)
            for name in table.column_names:
                rows = _rows_naming(table, name, person)
                is_named = is_named or bool(rows)
                if name in ADDRESS_COLUMNS and rows:
                    positions = table["position"].to_pylist()
                    found += [positions[row] for row in rows]
    return found if is_named else None


def rewrite_recipients(store: ObjectStore, key: str, person: ErasedPerson) -> int:
    """Write a manifest's list of recipients again without the person, a row group at a time; returns the rows changed.

    The object is replaced as a whole, or not at all.
    """
    with store.reader(key) as file, pq.ParquetFile(file, pre_buffer=True) as parquet, store.writer(key) as target:
        return _rewrite(parquet, target, person)


def _rewrite(parquet: pq.ParquetFile, target: IO[bytes], person: ErasedPerson) -> int:
    changed = 0
    schema = parquet.schema_arrow
    with pq.ParquetWriter(target, schema, compression="zstd") as writer:
        for group in range(parquet.metadata.num_row_groups):
            table, rows = table_without(parquet.read_row_group(group), person)
            changed += len(rows)
            writer.write_table(table, row_group_size=max(1, table.num_rows))
    return changed


def table_without(table: pa.Table, person: ErasedPerson) -> tuple[pa.Table, set[int]]:
    """The table without the person, and the positions of the rows that differ."""
    of_person: set[int] = set()
    changed: set[int] = set()
    replaced: dict[str, dict[int, Any]] = {}
    for name in table.column_names:
        for row, text in _rows_naming(table, name, person).items():
            is_address = name in ADDRESS_COLUMNS
            of_person |= {row} if is_address else set()
            replaced.setdefault(name, {})[row] = person.pseudonym if is_address else person.without(text)
            changed.add(row)
    for name, value in _OF_THE_PERSON.items():
        if name in table.column_names and of_person:
            replaced.setdefault(name, {}).update(dict.fromkeys(of_person, value))
    for name, cells in replaced.items():
        place = table.schema.get_field_index(name)
        field = table.schema.field(place)
        values = table.column(place).to_pylist()
        for row, value in cells.items():
            values[row] = value
        table = table.set_column(place, field, pa.array(values, field.type))
    return table, changed


def _rows_naming(table: pa.Table, name: str, person: ErasedPerson) -> dict[int, str]:
    """By row, the cells of a column that name the person."""
    column = table[name]
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return {}
    likely = pc.indices_nonzero(pc.fill_null(pc.match_substring(column, person.needle, ignore_case=True), False))
    rows: Sequence[int] = likely.to_pylist()
    cells = zip(rows, column.take(likely).to_pylist(), strict=True)
    return {row: cell for row, cell in cells if person.is_named_in(cell)}


def _bodies_without(content: bytes, person: ErasedPerson, *, are_archived: bool) -> Rewritten | None:
    kept: list[ReceivedBody] = []
    changed = 0
    for body in from_parquet(content):
        after = archived_without(body, [person]) if are_archived else body_without(body, [person])
        changed += after != body
        if after is not None:
            kept.append(after)
    return Rewritten(to_parquet(kept), changed) if changed else None
