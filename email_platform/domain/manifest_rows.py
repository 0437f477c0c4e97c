"""Single leads in a manifest's Parquet objects, without reading the whole object.

Invariant: the objects are ordered by lead_id, and each row group has the bounds of its lead ids in the footer: one lead
is found by reading the footer and a few columns of one row group.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq


def rows_of_lead(file: pq.ParquetFile, lead_id: int, columns: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    """The lead's rows, with these columns.

    Raises:
        pyarrow.ArrowException, KeyError: the object is corrupt, or lacks a column.
    """
    column = file.schema_arrow.names.index("lead_id")
    for group in range(file.metadata.num_row_groups):
        bounds = file.metadata.row_group(group).column(column).statistics
        if bounds is not None and bounds.has_min_max and not bounds.min <= lead_id <= bounds.max:
            continue
        table = file.read_row_group(group, columns=["lead_id", *columns])
        yield from table.filter(pc.equal(table["lead_id"], lead_id)).to_pylist()


def rows_of_addresses(file: pq.ParquetFile, addresses: Collection[str]) -> Iterator[Mapping[str, Any]]:
    """``lead_id`` and ``email`` of the rows with one of these addresses; reads two columns, a row group at a time.

    Args:
        file: of eligible leads: their addresses are trimmed and in ASCII, so comparing in lower case is enough.
        addresses: as `email_platform.domain.addresses.normalised_address` gives them.
    """
    wanted = pa.array(sorted(addresses), pa.string())
    for group in range(file.metadata.num_row_groups if addresses else 0):
        table = file.read_row_group(group, columns=["lead_id", "email"])
        yield from table.filter(pc.is_in(pc.ascii_lower(table["email"]), wanted)).to_pylist()
