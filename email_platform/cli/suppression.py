"""`email-platform suppression …`: who must not be mailed, by hand and by file.

Invariant: every line of an imported file is counted as new, known before, or rejected; a rejected one is kept with its
number and the reason, in a file that can be mended and imported again. Drivers are imported inside the commands, so
that help and shell completion do not wait for them.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from email_platform.cli.failures import ExitCode
from email_platform.cli.output import AsJson, Column, Row, say, show_rows, visible, visible_lines
from email_platform.domain.suppression_reasons import SuppressionReason
from email_platform.errors import CommandRefusedError
from email_platform.settings import Settings

if TYPE_CHECKING:
    from email_platform.adapters.postgres.events import PostgresSuppressions
    from email_platform.events.suppression import Suppression, SuppressionRequest
    from email_platform.events.suppression_csv import CsvProblem

app = typer.Typer(no_args_is_help=True, help="Addresses that must not be mailed: list, add, remove, import, export.")

REQUESTS_PER_TRANSACTION = 20_000
_PROBLEMS_SHOWN = 10

Address = Annotated[str, typer.Argument(help="The email address.", show_default=False)]
Sender = Annotated[int | None, typer.Option(help="For this sender's mail only; without it for everybody's.", min=1)]

_COLUMNS = (
    Column("address", "address"),
    Column("sender_id", "sender", kind="id", show=lambda row: str(row["sender_id"] or "every")),
    Column("reason", "reason"),
    Column("created_at", "since"),
    Column("source", "source", below=True),
)


@contextmanager
def _suppressions() -> Iterator[PostgresSuppressions]:
    """The table."""
    from email_platform.adapters.assembly import open_oltp
    from email_platform.adapters.postgres.erased import erasure_key
    from email_platform.adapters.postgres.events import PostgresSuppressions
    from email_platform.adapters.postgres.lead_relation import LeadRelation

    settings = Settings.load()
    with open_oltp(settings) as engine:
        yield PostgresSuppressions(engine, erasure_key(settings), LeadRelation.from_settings(settings))


def _show(found: Sequence[Suppression], as_json: bool = False) -> None:
    show_rows(_COLUMNS, [_row(one) for one in found], as_json=as_json, nothing="no address is suppressed")


def _row(suppression: Suppression) -> Row:
    return {
        "address": suppression.address,
        "sender_id": suppression.sender_id,
        "reason": suppression.reason,
        "source": suppression.source,
        "created_at": suppression.created_at,
    }


@app.command("import")
def import_file(
    file: Annotated[
        Path,
        typer.Argument(help="A CSV file whose first line names the columns, among them `address`.", dir_okay=False),
    ],
    rejects: Annotated[
        Path | None, typer.Option(help="Where rejected lines go; FILE.rejects.csv by default.", dir_okay=False)
    ] = None,
) -> None:
    """Suppress the addresses of a CSV file; safe to repeat. Exit code 1 where a line was rejected."""
    from email_platform.events.suppression_csv import parse_csv

    rejects = rejects or file.with_name(f"{file.name}.rejects.csv")
    with _suppressions() as suppressions, file.open("rb") as lines, _Rejects(rejects, lines.readline()) as rejected:
        lines.seek(0)
        try:
            counts = _import(suppressions, parse_csv(lines, suppressions.sender_ids()), rejected)
        except ValueError as unreadable:  # the first line; an error in another one is a rejected line
            raise CommandRefusedError(f"{file}: {unreadable}") from unreadable
    by_outcome = ", ".join(f"{counts[outcome]:,} {outcome}" for outcome in ("new", "known before", "rejected"))
    say(f"{counts.total():,} lines: {by_outcome}")
    if counts["rejected"]:
        say(f"rejected lines with their reasons: {rejects}", style="yellow")
        raise typer.Exit(ExitCode.REFUSED)


def _import(
    suppressions: PostgresSuppressions, parsed: Iterable[SuppressionRequest | CsvProblem], rejected: _Rejects
) -> Counter[str]:
    """Lines by what became of them; constant memory, a transaction per `REQUESTS_PER_TRANSACTION`."""
    from more_itertools import chunked

    from email_platform.events.suppression_csv import CsvProblem

    counts: Counter[str] = Counter()
    for group in chunked(parsed, REQUESTS_PER_TRANSACTION):
        requests = [one for one in group if not isinstance(one, CsvProblem)]
        for problem in (one for one in group if isinstance(one, CsvProblem)):
            rejected.add(problem)
        new = suppressions.add(requests)
        counts.update({"new": new, "known before": len(requests) - new, "rejected": len(group) - len(requests)})
    return counts


class _Rejects:
    """The file of rejected lines, made with the first of them: number and problem before the line as it was.

    So it has the imported file's columns, and once its lines are mended it can be imported as it is.
    """

    def __init__(self, path: Path, header: bytes) -> None:
        self._path = path
        self._header = header.decode("utf-8-sig", "replace").rstrip("\r\n")
        self._file: TextIO | None = None
        self._count = 0

    def __enter__(self) -> _Rejects:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, problem: CsvProblem) -> None:
        if self._file is None:
            from email_platform.events.suppression_csv import PROBLEM_COLUMNS

            self._file = self._path.open("w", encoding="utf-8", newline="")
            self._write(PROBLEM_COLUMNS, self._header)
        self._write((str(problem.line), problem.problem), problem.text)
        self._count += 1
        if self._count <= _PROBLEMS_SHOWN:
            say(f"line {problem.line}: {visible(problem.problem)}", style="yellow")

    def _write(self, cells: tuple[str, ...], line: str) -> None:
        from email_platform.events.suppression_csv import csv_line

        assert self._file is not None
        self._file.write(f"{csv_line(cells).rstrip()},{line}\n")


@app.command("export")
def export_file(
    file: Annotated[Path, typer.Argument(help="Where to; `-` for standard output.", dir_okay=False, allow_dash=True)],
) -> None:
    """Write every suppression as CSV, which `import` takes again."""
    from email_platform.events.suppression_csv import export_csv

    with _suppressions() as suppressions:
        if str(file) == "-":
            lines_of = export_csv(suppressions.all())
            # For a file or a program the bytes as they are; on a terminal nothing may act.
            sys.stdout.writelines(map(visible_lines, lines_of) if sys.stdout.isatty() else lines_of)
            return
        unfinished = file.with_name(f"{file.name}.unfinished")
        with unfinished.open("w", encoding="utf-8", newline="") as lines:
            count = sum(1 for line in export_csv(suppressions.all()) if lines.write(line))
        unfinished.replace(file)
    say(f"{count - 1:,} suppressions written to {file}")


@app.command()
def add(
    address: Address,
    sender: Sender = None,
    reason: Annotated[SuppressionReason, typer.Option(help="Why.")] = "manual",
    source: Annotated[str, typer.Option(help="Where it comes from.")] = "operator",
) -> None:
    """Suppress one address; safe to repeat."""
    from email_platform.events.suppression_csv import CsvProblem, csv_line, parse_csv

    line = csv_line((address, str(sender or ""), reason, source)).encode()
    header = b"address,sender_id,reason,source\n"
    with _suppressions() as suppressions:
        [request] = parse_csv([header, line], suppressions.sender_ids())
        if isinstance(request, CsvProblem):
            raise CommandRefusedError(f"{visible(address)}: {visible(request.problem)}")
        new = suppressions.add([request])
        say("suppressed" if new else "was suppressed before")
        _show(suppressions.of_address(request.address))


@app.command()
def remove(address: Address, sender: Sender = None) -> None:
    """Let an address be mailed again, and show what was removed."""
    from email_platform.domain.addresses import normalised_address

    with _suppressions() as suppressions:
        removed = suppressions.remove(normalised_address(address.strip()), sender)
        if not removed:
            raise CommandRefusedError(
                f"{visible(address)} is not suppressed" + (f" for sender {sender}" if sender else "")
            )
    say(f"removed {len(removed)}:")
    _show(removed)


@app.command("list")
def list_suppressions(
    address: Annotated[str | None, typer.Option(help="Only this address.")] = None,
    limit: Annotated[int, typer.Option(help="How many, the newest first.", min=1, max=10_000)] = 50,
    as_json: AsJson = False,
) -> None:
    """List suppressions, the newest first, or all of one address."""
    from email_platform.domain.addresses import normalised_address

    with _suppressions() as suppressions:
        if address is None:
            found = suppressions.newest(limit)
        else:
            found = suppressions.of_address(normalised_address(address.strip()))
    _show(found, as_json)
