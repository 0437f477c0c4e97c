"""How commands print: lines, tables and JSON.

Invariant: what somebody typed into a name, a subject or a reason never acts on the terminal. It is no markup, and
control characters (colours, cursor moves, line breaks, reversed writing) are shown escaped, so that no text can pass
for another row. With `--json`, standard output is exactly one JSON document; field names are stable, times are ISO
8601 in UTC.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.padding import Padding
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from email_platform.domain.texts import visible as visible

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead, for programs.")]
Row = Mapping[str, Any]
"""Field names, and values as JSON has them; datetimes beside."""

_COLUMNS_OF_A_FILE = 160  # what is piped into a file or a program is not folded as for a small terminal
_GAP_COLUMNS = 2
_LEAST_TEXT_COLUMNS = 8


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table.

    Attributes:
        key: the row's field.
        heading: above the column.
        kind: ``text``; ``count``: to the right, thousands separated; ``id``: to the right, as it is; ``lines``: a text
            of ours that may have several lines.
        below: where the terminal is too narrow for the table, on a line of its own below the row.
        show: the cell's text, where it is not just the field's.
    """

    key: str
    heading: str
    kind: Literal["text", "count", "id", "lines"] = "text"
    below: bool = False
    show: Callable[[Row], str] | None = None


def visible_lines(text: str) -> str:
    """The same, keeping line breaks and tabs: for texts that have lines of their own."""
    return "\n".join("\t".join(visible(cell) for cell in line.split("\t")) for line in _lines(text))


def _lines(text: str) -> list[str]:
    return text.replace("\r\n", "\n").split("\n")


def say(text: str, style: str | None = None) -> None:
    """Print a text of ours, whatever was put into it."""
    _console().print(Text(visible_lines(text), style=style or ""), soft_wrap=True)


def note(text: str) -> None:
    """Print a remark on standard error, beside what the command was asked for."""
    _console(stderr=True).print(Text(visible_lines(text), style="yellow"), soft_wrap=True)


def complain(text: str) -> None:
    """Print why a command failed, on standard error."""
    _console(stderr=True).print(Text(f"error: {visible_lines(text)}", style="red"), soft_wrap=True)


@contextmanager
def progress_of_bytes(file: Path) -> Iterator[Callable[[int], None]]:
    """A progress bar on standard error while a file is read, where somebody looks at it.

    Gives a function that takes how many bytes more have been read.
    """
    console = _console(stderr=True)
    if not console.is_terminal:
        yield lambda _: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(visible(file.name), total=file.stat().st_size)
        yield lambda count: progress.update(task, advance=count)


def print_json(document: Any) -> None:
    """Print one JSON document; ASCII only, so that nothing in it acts on a terminal."""
    typer.echo(json.dumps(document, default=_json_value, indent=2))


def _json_value(value: Any) -> str:
    if isinstance(value, datetime):
        return _utc(value).isoformat()
    raise TypeError(f"{type(value).__name__} has no JSON form")


def show_rows(
    columns: Sequence[Column], rows: Sequence[Row], *, as_json: bool, nothing: str, console: Console | None = None
) -> None:
    """Print rows as a table that fits the terminal, or as a JSON array.

    Args:
        columns: of the table; the JSON array has every field of the rows.
        rows: one mapping per row.
        as_json: an array of the rows.
        nothing: what to say in place of an empty table.
        console: where to print the table; standard output by default.
    """
    if as_json:
        print_json(list(rows))
        return
    console = console or _console()
    if not rows:
        console.print(Text(visible_lines(nothing)), soft_wrap=True)
        return
    cells = [[_cell(column, row) for column in columns] for row in rows]
    widths = [
        max(max(cell_len(line) for line in _lines(text)) for text in (column.heading, *(row[at] for row in cells)))
        for at, column in enumerate(columns)
    ]
    if sum(widths) + _GAP_COLUMNS * (len(widths) - 1) <= console.width or not any(one.below for one in columns):
        _print_table(console, columns, cells)
    else:
        _print_with_lines_below(console, columns, cells, widths)


def _print_table(console: Console, columns: Sequence[Column], cells: Sequence[Sequence[str]]) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, _GAP_COLUMNS, 0, 0))
    for column in columns:
        is_number = column.kind in ("count", "id")
        table.add_column(
            Text(column.heading), justify="right" if is_number else "left", no_wrap=is_number, overflow="fold"
        )
    for row in cells:
        table.add_row(*(Text(text) for text in row))
    console.print(table)


def _print_with_lines_below(
    console: Console, columns: Sequence[Column], cells: Sequence[Sequence[str]], widths: Sequence[int]
) -> None:
    """The short columns as a table, and under each row a line for every long one that says something."""
    short = [at for at, column in enumerate(columns) if not column.below]
    texts = [at for at in short if columns[at].kind in ("text", "lines")]
    spare = console.width - sum(widths[at] for at in short if at not in texts) - _GAP_COLUMNS * (len(short) - 1)
    shares = dict(zip(short, (widths[at] for at in short), strict=True))
    for number, at in enumerate(sorted(texts, key=lambda at: widths[at])):
        shares[at] = min(widths[at], max(_LEAST_TEXT_COLUMNS, spare // (len(texts) - number)))
        spare -= shares[at]

    def print_row(row: Sequence[str], style: str = "") -> None:
        grid = Table.grid(padding=(0, _GAP_COLUMNS, 0, 0))
        for at in short:
            is_number = columns[at].kind in ("count", "id")
            grid.add_column(
                min_width=shares[at], max_width=shares[at], justify="right" if is_number else "left", overflow="fold"
            )
        grid.add_row(*(Text(row[at], style=style) for at in short))
        console.print(grid)

    print_row([column.heading for column in columns], style="bold")
    for row in cells:
        print_row(row)
        for at, column in enumerate(columns):
            if column.below and row[at] not in ("", "-"):
                console.print(Padding(Text(f"{column.heading}: {row[at]}", overflow="fold"), (0, 0, 0, 4)))


def _cell(column: Column, row: Row) -> str:
    if column.show is not None:
        return visible(column.show(row))
    match row[column.key]:
        case None:
            return "-"
        case bool() as value:
            return "yes" if value else "no"
        case int() as value:
            return f"{value:,}" if column.kind == "count" else str(value)
        case datetime() as value:
            return utc_text(value)
        case value:
            return visible_lines(str(value)) if column.kind == "lines" else visible(str(value))


def utc_text(at: datetime) -> str:
    """A moment as people read it, in UTC."""
    return f"{_utc(at):%Y-%m-%d %H:%M:%S} UTC"


def _utc(at: datetime) -> datetime:
    """The warehouse's driver gives times without a zone, which are UTC."""
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)


def _console(*, stderr: bool = False) -> Console:
    console = Console(stderr=stderr, highlight=False)
    if console.is_terminal or "COLUMNS" in os.environ:
        return console
    return Console(stderr=stderr, highlight=False, width=_COLUMNS_OF_A_FILE)
