"""The rows of a file of leads, CSV or Parquet, as texts with their numbers.

Invariant: a file is read in pieces, so that its size is no question of memory; what cannot be read is named with its
line, and the rows before it were given out.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from email_platform.errors import CommandRefusedError

Rows = Iterator[tuple[int, Sequence[str]]]
"""Each row's number and its cells."""
_BATCH_ROWS = 10_000
_LONGEST_CELL = 1 << 20


def file_fingerprint(file: Path, names: Mapping[str, str], numbers: Iterable[str]) -> str:
    """Names the file's content and how it is read: another mapping is another import."""
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256")
    digest.update(json.dumps([sorted(names.items()), sorted(numbers)]).encode())
    return digest.hexdigest()


def lead_rows(file: Path, progress: Callable[[int], object] = lambda _: None) -> tuple[list[str], Rows]:
    """The header, and each row with its number: the line of a CSV file, or counted from 1.

    Args:
        file: Parquet where its name ends so, otherwise CSV in UTF-8.
        progress: is given the bytes that were read.

    Raises:
        ValueError: there is no header to read.
        CommandRefusedError: while rows are read: names the line from which on nothing can be.
    """
    if file.suffix.lower() == ".parquet":
        return _parquet_rows(file, progress)
    csv.field_size_limit(_LONGEST_CELL)
    lines = _lines(file, progress)
    reader = csv.reader(lines, strict=True)
    try:
        header = next(reader, None)
    except csv.Error as error:
        raise ValueError(f"line 1: {error}") from None
    if not header:
        raise ValueError("is empty; its first line must name the columns")
    return header, _csv_rows(file, reader)


def _lines(file: Path, progress: Callable[[int], object]) -> Iterator[str]:
    with file.open(encoding="utf-8-sig", errors="strict", newline="") as opened:
        try:
            for line in opened:
                progress(len(line.encode()))
                yield line
        except UnicodeDecodeError as error:
            raise CommandRefusedError(f"{file}: is no UTF-8 ({error.reason}); save it as UTF-8") from None


def _csv_rows(file: Path, reader: Any) -> Rows:
    try:
        for cells in reader:
            if cells:
                yield reader.line_num, cells
    except csv.Error as error:
        raise CommandRefusedError(f"{file}, line {reader.line_num}: {error}") from None


def _parquet_rows(file: Path, progress: Callable[[int], object]) -> tuple[list[str], Rows]:
    # Arrow reports a damaged page as OSError, an odd value (a time beyond Python's years) as ValueError or the like.
    unreadable = (pa.ArrowException, OSError, ValueError, OverflowError)
    try:
        parquet = pq.ParquetFile(file)
        header = list(parquet.schema_arrow.names)
    except unreadable as error:
        raise ValueError(f"is no Parquet file ({type(error).__name__})") from None

    def rows() -> Rows:
        number = 0
        row_bytes = file.stat().st_size / max(1, parquet.metadata.num_rows)
        batches = parquet.iter_batches(_BATCH_ROWS)
        while True:
            try:
                batch = next(batches, None)
                read = [] if batch is None else list(zip(*(each.to_pylist() for each in batch.columns), strict=True))
            except unreadable as error:
                raise CommandRefusedError(
                    f"{file}: cannot be read beyond row {number:,} ({type(error).__name__}); is the file whole?"
                ) from None
            if batch is None:
                return
            progress(int(batch.num_rows * row_bytes))
            for row in read:
                number += 1
                yield number, ["" if cell is None else str(cell) for cell in row]

    return header, rows()
