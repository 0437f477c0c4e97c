"""`email-platform lead …`: leads from files, and people who want to be erased.

Invariant: every row of a file is counted: as added, as changed, as one that repeats an earlier row's address or
key, or as one that cannot be kept. The last are written with their numbers and reasons into a file that can be mended
and imported.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from email_platform.cli.failures import ExitCode
from email_platform.cli.output import AsJson, print_json, progress_of_bytes, say
from email_platform.errors import CommandRefusedError
from email_platform.settings import Settings

if TYPE_CHECKING:
    from email_platform.audience.lead_file import ImportedLead, RowProblem

app = typer.Typer(no_args_is_help=True, help="Leads: import them from a file, erase a person.")


@app.callback()
def main() -> None:
    """Leads: import them from a file, erase a person."""


@app.command("import")
def import_file(
    file: Annotated[Path, typer.Argument(help="A CSV file with a header, or a .parquet file.", dir_okay=False)],
    mapping: Annotated[
        list[str] | None,
        typer.Option("--map", help="What a column means, as 'E-Mail=email'; 'NAME=' leaves it out; repeatable."),
    ] = None,
    number: Annotated[
        list[str] | None, typer.Option("--number", help="An attribute that is a number; repeatable.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and count; change no lead.")] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Begin with the first row where an earlier import ended half-way.")
    ] = False,
    rejects: Annotated[
        Path | None,
        typer.Option(help="Where rows go that cannot be kept; FILE.rejects.csv by default.", dir_okay=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Add the leads of a file, and change those who are there already; opt-outs stay.

    Columns: email, own_key, first_name, last_name, country, city, plan, language, age; any other is an attribute. A
    lead is found by own_key (its key in your system), otherwise by its address. It is written in batches: an import
    that is interrupted goes on behind its last batch when the same command is run again. Of rows with one address or
    key the first counts. Exit code 1 where a row cannot be kept.
    """
    from email_platform.adapters.assembly import open_oltp
    from email_platform.adapters.postgres.erased import erasure_key
    from email_platform.adapters.postgres.lead_import import forget_import, import_leads
    from email_platform.adapters.postgres.lead_relation import LeadRelation
    from email_platform.audience.lead_file import LeadFile
    from email_platform.audience.lead_rows import file_fingerprint, lead_rows

    settings = Settings.load()
    LeadRelation.from_settings(settings).require_ours()
    names = dict(_pair(one) for one in mapping or ())
    rejects = rejects or file.with_name(f"{file.name}.rejects.csv")
    if rejects.exists() and rejects.samefile(file):
        raise typer.BadParameter("--rejects names the file itself, which would be overwritten while it is read")
    with progress_of_bytes(file) as progress:
        try:
            header, rows = lead_rows(file, progress)
            read = LeadFile(header, names, number or ())
        except ValueError as unreadable:
            raise CommandRefusedError(f"{file}: {unreadable}") from None
        rejected = _Rejects(rejects, header)
        with open_oltp(settings) as engine, rejected:
            fingerprint = file_fingerprint(file, names, number or ())
            if restart and not dry_run:
                forget_import(engine, fingerprint)
            counts = import_leads(
                engine,
                rejected.others(read.read(rows)),
                fingerprint=fingerprint,
                dry_run=dry_run,
                key=erasure_key(settings),
            )
    if as_json:
        print_json(
            {
                "added": counts.added,
                "changed": counts.changed,
                "rejected": rejected.count,
                "repeated": list(counts.repeated),
                "erased": list(counts.erased),
                "went_on_after": counts.went_on_after,
                "dry_run": dry_run,
            }
        )
    else:
        if counts.went_on_after is not None:
            say(f"went on after row {counts.went_on_after:,}, where an earlier import of this file had ended")
        what = "would be " if dry_run else ""
        say(f"{counts.added:,} leads {what}added, {counts.changed:,} {what}changed")
        say(f"{len(counts.repeated):,} rows repeat an address or key, {rejected.count:,} cannot be kept")
        if counts.repeated:
            shown = ", ".join(map(str, counts.repeated[:10])) + (" …" if len(counts.repeated) > 10 else "")
            say(f"rows that repeat an earlier row's address or key, and were not used: {shown}")
        if counts.erased:  # not into the file of rejected rows: it would keep what was erased
            shown = ", ".join(map(str, counts.erased[:10])) + (" …" if len(counts.erased) > 10 else "")
            say(f"rows of people who were erased at their request, and were left out: {shown}", style="yellow")
        if rejected.count:
            say(f"rows that cannot be kept, with their reasons: {rejected.path}", style="yellow")
    if rejected.count:
        raise typer.Exit(ExitCode.REFUSED)


@app.command("erase")
def erase_person(
    address: Annotated[
        str | None, typer.Argument(help="The person's address, in any spelling; left out with --unfinished.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing; say what would be removed.")] = False,
    unfinished: Annotated[
        bool, typer.Option("--unfinished", help="Go on with every request that is not finished.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Erase a person from everything that the platform keeps (GDPR); stays suppressed, by a keyed hash.

    Leads, manifests, staged objects, events, texts and the warehouse; counts stay as they are. Safe to kill and to run
    again. Exit code 1 where something has to end first, such as a call in flight: retention_job goes on each night.
    """
    from email_platform.adapters.assembly import open_erasure
    from email_platform.runs.erase import carry_on_all, erase, look_only

    if (address is None) != unfinished or (dry_run and unfinished):
        raise typer.BadParameter("give an address, or --unfinished alone")
    with open_erasure(Settings.load()) as parts:
        if address is not None and dry_run:
            found = look_only(parts, address)
            if as_json:
                print_json({"dry_run": True, **asdict(found)})
            else:
                _say_places("would remove", found.found, found.waits_for)
                for one in found.kept:
                    say(f"  not ours to change: {one}", style="yellow")
            return
        requests = [erase(parts, address)] if address is not None else list(carry_on_all(parts))
    if as_json:
        documents = [
            {
                "erasure": one.pseudonym,
                "finished": one.finished_at is not None,
                "removed": dict(one.removed),
                "waits_for": list(one.waits_for),
            }
            for one in requests
        ]
        print_json(documents if unfinished else documents[0])
    else:
        for request in requests:
            say(f"{request.pseudonym}: {'erased' if request.finished_at else 'NOT finished'}")
            _say_places("removed", request.removed, request.waits_for)
        if not requests:
            say("no request is unfinished")
    if any(one.finished_at is None for one in requests):
        raise typer.Exit(ExitCode.REFUSED)


def _say_places(done: str, counts: Mapping[str, int], waits_for: Iterable[str]) -> None:
    for place, count in sorted(counts.items()):
        say(f"  {done} {count:,} {place}")
    for reason in waits_for:
        say(f"  waits: {reason}", style="yellow")


def _pair(text: str) -> tuple[str, str]:
    name, equals, meaning = text.partition("=")
    if not equals or not name:
        raise typer.BadParameter(f"--map {text!r}: write it as 'COLUMN=MEANING', or 'COLUMN=' to leave it out")
    return name, meaning.strip()


class _Rejects:
    """The file of rows that are left out, made with the first of them: the problem, then the row as it was."""

    def __init__(self, path: Path, header: Sequence[str]) -> None:
        self.path = path
        self.count = 0
        self._header = header
        self._file: Any = None

    def __enter__(self) -> _Rejects:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def others(self, read: Iterable[ImportedLead | RowProblem]) -> Iterator[ImportedLead]:
        """The rows without a problem."""
        from email_platform.audience.lead_file import ImportedLead, rejects_header

        for one in read:
            if isinstance(one, ImportedLead):
                yield one
                continue
            if self._file is None:
                self._file = self.path.open("w", encoding="utf-8", errors="backslashreplace", newline="")
                csv.writer(self._file).writerow(rejects_header(self._header))
            self.count += 1
            csv.writer(self._file).writerow(one.line)
