"""Suppressions as CSV: an export can be imported again, and no line of an import vanishes.

Invariant: each line of a file becomes a request or a problem with its number and its text; one bad line touches no
other. So one line of the file is one record: no cell of ours holds a line break, and a quotation mark that
nobody closed spoils its own line only.

| column | missing or empty means |
| --- | --- |
| address | a problem |
| sender_id | every sender |
| reason | ``manual`` |
| source | ``import`` |
| created_at | now; else ISO 8601 with an offset |
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from datetime import datetime

from email_platform.domain.addresses import normalised_address, trimmed_address
from email_platform.domain.suppression_reasons import SUPPRESSION_REASONS, SuppressionReason
from email_platform.errors import MalformedEventError
from email_platform.events.formats.reading import time_from_iso
from email_platform.events.suppression import Suppression, SuppressionRequest

CSV_COLUMNS = ("address", "sender_id", "reason", "source", "created_at")
PROBLEM_COLUMNS = ("line", "problem")
MAXIMUM_ADDRESS_CHARACTERS = 320
MAXIMUM_SOURCE_CHARACTERS = 100
_BYTE_ORDER_MARK = "\ufeff"
# A spreadsheet would run a cell that begins with one of the first four; the quote is how such a cell is written.
_ESCAPED_STARTS = ("=", "+", "-", "@", "'")


@dataclass(frozen=True, slots=True)
class CsvProblem:
    """A line of an import that was left out.

    Attributes:
        line: counts from 1, the header included.
        text: the line as it was, without its end.
    """

    line: int
    problem: str
    text: str


class _BadLineError(Exception):
    pass


def csv_line(cells: Iterable[str]) -> str:
    """One line with its end; a line break inside a cell becomes a space."""
    buffer = io.StringIO()
    plain = (" ".join(cell.splitlines()) for cell in cells)
    csv.writer(buffer, lineterminator="\n").writerow(
        [f"'{cell}" if cell.startswith(_ESCAPED_STARTS) else cell for cell in plain]
    )
    return buffer.getvalue()


def export_csv(suppressions: Iterable[Suppression]) -> Iterator[str]:
    """The lines of a CSV file with a header, in `CSV_COLUMNS`; an empty sender_id means every sender."""
    yield csv_line(CSV_COLUMNS)
    for one in suppressions:
        sender_id = "" if one.sender_id is None else str(one.sender_id)
        yield csv_line((one.address, sender_id, one.reason, one.source, one.created_at.isoformat()))


def parse_csv(lines: Iterable[bytes], known_sender_ids: Set[int]) -> Iterator[SuppressionRequest | CsvProblem]:
    """The requests of a CSV file whose header names at least ``address``, and the lines that are none.

    Empty lines hold nothing and are passed over.

    Args:
        lines: of a file opened as bytes; one that is not UTF-8 is a problem of that line alone.
        known_sender_ids: a suppression for any other sender would be none for anybody.

    Raises:
        ValueError: the header cannot be read, or does not name ``address``.
    """
    header: list[str] | None = None
    for number, line in enumerate(lines, start=1):
        shown = line.decode("utf-8", "replace").rstrip("\r\n")
        try:
            cells = _cells(line)
            if header is None:
                header = [cell.strip() for cell in cells]
                if "address" not in header:
                    raise ValueError("the first line must name the columns, among them address")
            elif any(cells):
                yield _request(header, cells, known_sender_ids)
        except _BadLineError as error:
            if header is None:
                raise ValueError(f"the first line must name the columns: {error}") from None
            yield CsvProblem(number, str(error), shown)
    if header is None:
        raise ValueError("the file is empty: the first line must name the columns, among them address")


def _cells(line: bytes) -> list[str]:
    try:
        text = line.decode("utf-8").removeprefix(_BYTE_ORDER_MARK)
        return next(csv.reader([text], strict=True), [])
    except UnicodeDecodeError as error:
        raise _BadLineError(f"not UTF-8 at byte {error.start + 1}") from None
    except csv.Error as error:
        raise _BadLineError(str(error)) from None


def _request(header: list[str], cells: list[str], known_sender_ids: Set[int]) -> SuppressionRequest:
    if len(cells) > len(header):
        raise _BadLineError(f"{len(cells)} cells for {len(header)} columns")
    row = {name: _unescaped(cell.strip()) for name, cell in zip(header, cells, strict=False)}
    sender_id = _sender_id(row.get("sender_id", ""), known_sender_ids)
    return SuppressionRequest(
        address=_address(row.get("address", "")),
        reason=_reason(row.get("reason") or "manual"),
        source=(row.get("source") or "import")[:MAXIMUM_SOURCE_CHARACTERS],
        everywhere=not sender_id,
        sender_id=sender_id,
        created_at=_created_at(row),
    )


def _unescaped(cell: str) -> str:
    return cell[1:] if cell[:1] == "'" and cell[1:].startswith(_ESCAPED_STARTS) else cell


def _address(cell: str) -> str:
    cell = trimmed_address(cell)  # a spreadsheet leaves no-break spaces and zero-width marks
    local, _, domain = cell.rpartition("@")
    if not local or not domain or len(cell) > MAXIMUM_ADDRESS_CHARACTERS or not cell.isprintable() or " " in cell:
        raise _BadLineError("no address")
    return normalised_address(cell)


def _sender_id(cell: str, known: Set[int]) -> int:
    if not cell:
        return 0
    if not (cell.isascii() and cell.isdigit() and len(cell) <= 18):
        raise _BadLineError("sender_id is no number")
    if int(cell) not in known:
        raise _BadLineError("there is no sender with this sender_id")
    return int(cell)


def _reason(cell: str) -> SuppressionReason:
    for known in SUPPRESSION_REASONS:
        if cell == known:
            return known
    raise _BadLineError(f"reason is none of {', '.join(SUPPRESSION_REASONS)}")


def _created_at(row: Mapping[str, str]) -> datetime | None:
    try:
        return time_from_iso(row["created_at"], "created_at") if row.get("created_at") else None
    except MalformedEventError as error:
        raise _BadLineError(str(error)) from None
