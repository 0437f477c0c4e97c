"""`email-platform status` and `doctor`: whether the platform works, and what to do where it does not.

Invariant: each answers within about `ANSWER_WITHIN_SECONDS`, also where a part accepts connections and never
answers; and neither needs the embedded engines.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from io import StringIO
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.live import Live
from rich.text import Text

from email_platform.cli.failures import ExitCode
from email_platform.cli.output import AsJson, Column, Row, print_json, say, show_rows, utc_text
from email_platform.domain.figures import duration_words
from email_platform.settings import Settings, external_parts, state_folder_of

if TYPE_CHECKING:
    from pathlib import Path

    from email_platform.adapters.health.asking import PartCheck
    from email_platform.adapters.health.overview import Addresses, Overview
    from email_platform.local.stack.written_state import PartStatus

app = typer.Typer()

_CHECK_COLUMNS = (
    Column("part", "part"),
    Column("fits", "", show=lambda row: _verdict(row)),
    Column("says", "says", kind="lines"),
    Column("do", "do", below=True, show=lambda row: row["do"]),
)
_PROCESS_COLUMNS = (
    Column("name", "process"),
    Column("process_id", "pid", kind="id", show=lambda row: str(row["process_id"] or "not running")),
    Column("up_seconds", "up", show=lambda row: _up(row["up_seconds"])),
    Column("address", "address"),
)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Ask every part whether the platform can work with it.

    Asked side by side, each for at most 10 seconds: PostgreSQL and its roles, where leads are, Dagster's storage, S3,
    ClickHouse, the rights in both, ClickHouse's own way to S3, the settings of every provider account in use, and the
    URLs that alerts go to; Dagster's daemon, receiver and API; the queue, calls, events, loads and open alerts; this
    machine's clock and disk.
    Nothing is sent.

    Exit code 0 where everything fits, 1 where a part, a process or this machine does not, 3 where these fit and
    something waits for an operator.
    """
    from email_platform.adapters.health.overview import diagnosis

    settings = Settings.load()
    _, processes = _stack_here(settings.state_folder)
    found = diagnosis(settings, os.environ, _addresses(settings, processes))
    show_rows(_CHECK_COLUMNS, [_check_row(one) for one in found.checks], as_json=as_json, nothing="nothing was checked")
    _exit(found)


@app.command()
def status(
    as_json: AsJson = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show it again and again until Ctrl-C.")] = False,
    every_seconds: Annotated[float, typer.Option("--every", help="Seconds between two looks.", min=1, max=3600)] = 5.0,
) -> None:
    """Show on one screen whether the platform works, what waits, and what needs you.

    Exit code 0 where everything works, 1 where something does not or nothing runs, 3 where only work waits for an
    operator. `doctor` asks more.
    """
    from email_platform.adapters.health.overview import overview

    if watch and as_json:
        raise typer.BadParameter("one of --json and --watch, not both", param_hint="--watch")
    state_folder = state_folder_of(os.environ)
    supervisor, processes = _stack_here(state_folder)
    if supervisor is None and "postgres" not in external_parts(os.environ):
        if as_json:
            print_json(_document(state_folder, None, [], None))
        else:
            say(f"nothing runs on {state_folder}: `email-platform up` starts every part there")
        raise typer.Exit(ExitCode.REFUSED)
    settings = Settings.load()

    def look() -> tuple[int | None, Sequence[PartStatus], Overview]:
        supervisor, processes = _stack_here(state_folder)
        return supervisor, processes, overview(settings, os.environ, _addresses(settings, processes))

    if watch:
        _watch(look, every_seconds)
    supervisor, processes, found = look()
    if as_json:
        print_json(_document(state_folder, supervisor, processes, found))
    else:
        _show(Console(highlight=False), supervisor, processes, found)
    _exit(found)


def _exit(found: Overview) -> None:
    if found.wrong:
        raise typer.Exit(ExitCode.REFUSED)
    if found.needs:
        raise typer.Exit(ExitCode.NEEDS_OPERATOR)


def _watch(look: Callable[[], tuple[int | None, Sequence[PartStatus], Overview]], every_seconds: float) -> None:
    """Redraw on a terminal; elsewhere print one look after the other. Ends with Ctrl-C."""
    console = Console(highlight=False)
    try:
        if not console.is_terminal:
            while True:
                _show(console, *look())
                time.sleep(every_seconds)
        with Live(console=console, screen=True, auto_refresh=False) as live:
            live.update(Text("asking every part …"), refresh=True)
            while True:
                drawn = StringIO()  # what is printed on the live console itself would be drawn into the page
                _show(Console(file=drawn, force_terminal=True, width=console.width, highlight=False), *look())
                live.update(Text.from_ansi(drawn.getvalue()), refresh=True)
                time.sleep(every_seconds)
    except KeyboardInterrupt:
        raise typer.Exit(ExitCode.DONE) from None


def _show(console: Console, supervisor: int | None, processes: Sequence[PartStatus], found: Overview) -> None:
    console.print(_headline(found), soft_wrap=True)
    show_rows(
        _CHECK_COLUMNS,
        [_check_row(one) for one in found.checks],
        as_json=False,
        nothing="nothing was asked",
        console=console,
    )
    if supervisor is not None:
        rows = [_process_row(one) for one in processes]
        show_rows(_PROCESS_COLUMNS, rows, as_json=False, nothing="no process runs", console=console)
        logs = os.path.commonpath([one.log_file for one in processes]) if len(processes) > 1 else ""
        console.print(Text(f"supervisor: process {supervisor}; logs: {logs}"), soft_wrap=True)


def _headline(found: Overview) -> Text:
    if found.wrong:
        words, style = f"{_names(found.wrong)}: not as it must be", "bold red"
    elif found.needs:
        words, style = f"every part works; {_names(found.needs)}: waits for you", "yellow"
    else:
        words, style = "everything works", "green"
    return Text(f"{utc_text(found.at)}  ").append(words, style=style)


def _names(checks: Sequence[PartCheck]) -> str:
    return ", ".join(one.part for one in checks)


def _verdict(row: Row) -> str:
    if row["fits"]:
        return "fits"
    return "WAITS" if row["group"] == "work" else "WRONG"


def _check_row(check: PartCheck) -> dict[str, Any]:
    return {
        "part": check.part,
        "group": check.group,
        "fits": check.fits,
        "says": check.says,
        "do": check.do,
        "took_seconds": round(check.took_seconds, 3),
    }


def _document(
    state_folder: Path, supervisor: int | None, processes: Sequence[PartStatus], found: Overview | None
) -> dict[str, Any]:
    return {
        "state_folder": str(state_folder),
        "supervisor_process_id": supervisor,
        "parts": [_process_row(one) for one in processes],
        "at": found.at if found else None,
        "works": found is not None and not found.wrong,
        "needs_operator": found is not None and bool(found.needs),
        "checks": [_check_row(one) for one in found.checks] if found else [],
    }


def _stack_here(state_folder: Path) -> tuple[int | None, Sequence[PartStatus]]:
    """The embedded stack's supervisor and its processes; none without the extra `embedded`."""
    try:
        from email_platform.local.stack.stack import supervisor_id
        from email_platform.local.stack.written_state import statuses
    except ModuleNotFoundError:
        return None, []
    supervisor = supervisor_id(state_folder)
    return supervisor, [] if supervisor is None else statuses(state_folder)


def _addresses(settings: Settings, processes: Sequence[PartStatus]) -> Addresses:
    """Of receiver and API: those of the settings; of an embedded stack only what it started."""
    from email_platform.adapters.health.overview import Addresses

    names = {one.name for one in processes}
    receiver_url = settings.receiver_url
    if "receiver" not in external_parts(os.environ) and "receiver" not in names:
        receiver_url = None
    embedded_api = f"http://127.0.0.1:{settings.api_port}" if "api" in names else None
    return Addresses(receiver_url, settings.api_url or embedded_api)


def _process_row(process: PartStatus) -> dict[str, str | int | float | None]:
    return {
        "name": process.name,
        "address": process.address,
        "process_id": process.process_id,
        "up_seconds": None if process.started_at is None else max(0.0, round(time.time() - process.started_at, 1)),
        "data_folder": process.data_folder or None,
        "log_file": process.log_file,
    }


def _up(seconds: float | None) -> str:
    return "-" if seconds is None else duration_words(round(seconds))
