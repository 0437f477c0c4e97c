"""Old rows without people who were erased, and what that does to the proof that both sides hold the same.

Invariant: no row is left out, and of a row only the cells that name the person differ from the source's. How much a
range's checksum differs by that is computed exactly, from those rows alone: a fingerprint is a sum over rows, so the
source's own, less the checksums of these rows, plus those of the rows without the person, is what the warehouse must
have. Every other row is still compared by what the two engines computed.

The old system may keep somebody whom the platform was asked to forget. Erasing them there is its own work.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from email_platform.domain.erasure import ErasedLookup, ErasedPerson, erased_among
from email_platform.runs.legacy_table import SOURCE_SCHEMA, Fingerprint
from email_platform.staging.erased_objects import table_without

_TEXTS = [column.name for column in SOURCE_SCHEMA if pa.types.is_string(column.type)]
_TIMES = [column.name for column in SOURCE_SCHEMA if pa.types.is_timestamp(column.type)]
_NAMES_SOMEBODY = r"@|%40|\\u0040"


@dataclass(frozen=True, slots=True)
class WithoutErased:
    """Rows of the old table in `SOURCE_SCHEMA`.

    Attributes:
        difference: to be added to the source's fingerprint; of no rows.
        rows: in how many rows something differs from the source.
    """

    table: pa.Table
    difference: Fingerprint
    rows: int


def without_erased(table: pa.Table, erased: ErasedLookup) -> WithoutErased:
    """The rows with pseudonyms in the place of people who were erased, in whichever text column they are named.

    Raises:
        ConfigurationError: people were erased under another key.
        PartUnavailableError: who was erased cannot be asked.
    """
    people = _people(table, erased)
    if not people:
        return WithoutErased(table, Fingerprint(), 0)
    places = _likely(table, people)
    before = after = table.take(places)
    changed: set[int] = set()
    for person in people:
        theirs = _likely(after, [person])
        without, of_person = table_without(after.take(theirs), person)
        if of_person:
            those = pa.array(sorted(of_person), pa.uint64())
            after = _with_rows(after, theirs.take(those), without.take(those))
            changed.update(theirs.take(those).to_pylist())
    rows = sorted(changed)
    places, before, after = places.take(rows), before.take(rows), after.take(rows)
    difference = sum(row_checksums(after)) - sum(row_checksums(before))
    return WithoutErased(_with_rows(table, places, after), Fingerprint(0, difference), len(rows))


def row_checksums(table: pa.Table) -> list[int]:
    """The checksum of each row, bit by bit the one that the engines compute.

    The first 60 bits of the MD5 of the text that `email_platform.adapters.postgres.legacy_source` describes.
    """
    for name in _TIMES:
        micros = table[name].cast(pa.int64())
        table = table.set_column(table.schema.get_field_index(name), name, micros)
    columns = [table[column.name].to_pylist() for column in SOURCE_SCHEMA]
    return [_checksum(row) for row in zip(*columns, strict=True)]


def _checksum(row: tuple[int | str | None, ...]) -> int:
    cells = ("N" if cell is None else f"{len(cell)}:{cell}" if isinstance(cell, str) else str(cell) for cell in row)
    return int(hashlib.md5(",".join(cells).encode(), usedforsecurity=False).hexdigest()[:15], 16)


def _people(table: pa.Table, erased: ErasedLookup) -> list[ErasedPerson]:
    """Whom the rows name, of the people who were erased."""
    if erased.is_empty():
        return []
    addresses = [text for text in pc.unique(table["email"]).to_pylist() if text]
    found = {pseudonym: ErasedPerson(each, pseudonym) for each, pseudonym in erased.pseudonyms(addresses).items()}
    texts = (pc.unique(table[name].drop_null()) for name in _TEXTS)
    naming = [
        text for some in texts for text in some.filter(pc.match_substring_regex(some, _NAMES_SOMEBODY)).to_pylist()
    ]
    found.update((person.pseudonym, person) for person in erased_among(erased, naming))
    return list(found.values())


def _likely(table: pa.Table, people: list[ErasedPerson]) -> pa.Array:
    """Positions of rows that have the letters of somebody's address: few, since each is then looked at by Python."""
    needles = "|".join(sorted({person.needle for person in people}))  # letters and digits, nothing to escape
    likely = None
    for name in _TEXTS:
        has_one = pc.fill_null(pc.match_substring_regex(table[name], needles, ignore_case=True), False)
        likely = has_one if likely is None else pc.or_(likely, has_one)
    return pc.indices_nonzero(likely)


def _with_rows(table: pa.Table, places: pa.Array, rows: pa.Table) -> pa.Table:
    """The table with these rows at these places."""
    if not rows.num_rows:
        return table
    mask = pc.is_in(pa.array(range(table.num_rows), places.type), value_set=places)
    for name in _TEXTS:
        index = table.schema.get_field_index(name)
        cells = pc.replace_with_mask(table[name].combine_chunks(), mask, rows[name].combine_chunks())
        table = table.set_column(index, table.schema.field(index), cells)
    return table
