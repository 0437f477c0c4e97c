"""`email-platform up`, `down`, `demo`: the whole platform on a bare machine.

Invariant: a signal always ends in a clean stop, also one that comes while the parts still start.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from email_platform.cli.embedded import embedded_imports, require_engines
from email_platform.cli.output import Column, say, show_rows
from email_platform.settings import PART_NAMES, Settings, state_folder_of, variable_of

if TYPE_CHECKING:
    from email_platform.local.stack.written_state import PartStatus

app = typer.Typer()

_DOWN_TIMEOUT_SECONDS = 180.0
_PART_NAMES_HELP = f"{', '.join(PART_NAMES)}, api, code-server, dagster-webserver, dagster-daemon, worker, metrics"
_PART_COLUMNS = (
    Column("name", "part"),
    Column("address", "address"),
    Column("process_id", "pid", kind="id", show=lambda row: str(row["process_id"] or "not running")),
    Column("data_folder", "data", below=True, show=lambda row: _relative(row["data_folder"])),
    Column("log_file", "log", below=True, show=lambda row: _relative(row["log_file"])),
)


@app.command()
def up(
    only: Annotated[
        list[str] | None, typer.Option("--only", help=f"Start only this part; repeatable: {_PART_NAMES_HELP}.")
    ] = None,
    without_dagster: Annotated[
        bool, typer.Option("--without-dagster", help="Start no code server, no webserver and no daemon.")
    ] = False,
) -> None:
    """Start the parts and keep them running until Ctrl-C.

    A part whose address is set in the environment is yours and is not started.
    """
    with embedded_imports():
        from email_platform.local.stack.stack import ALL_PART_NAMES, DAGSTER_PART_NAMES, started_stack
        from email_platform.local.stack.written_state import statuses

    parts = set(only or ALL_PART_NAMES)
    if without_dagster:
        parts -= set(DAGSTER_PART_NAMES)
    require_engines(parts, os.environ)
    state_folder = state_folder_of(os.environ)
    with _stop_on_signal() as on_stop:
        say("starting; logs are in " + str(state_folder / "logs"))
        with started_stack(state_folder, environ=os.environ, parts=parts, say=say, stop_requested=on_stop) as stack:
            _show_parts(statuses(state_folder))
            for name in sorted(stack.external):
                say(f"{name} is external: its address is set in the environment")
            if "api" in parts:
                say(f"HTTP API: http://127.0.0.1:{stack.settings.api_port}")
                say(f"console: http://127.0.0.1:{stack.settings.api_port}/console/ (log in with an API key)")
            if "dagster-webserver" in parts:
                say(f"Dagster's UI: http://127.0.0.1:{stack.settings.dagster_port}")
            say("running; Ctrl-C stops everything")
            stack.supervisor.watch()
            say("stopping")
        say("stopped")


@app.command()
def demo(
    leads: Annotated[int, typer.Option(min=100, help="How many leads the database should have.")] = 100_000,
    seed: Annotated[int, typer.Option(min=0, help="Names the leads; another seed makes others.")] = 1,
    keep_running: Annotated[bool, typer.Option("--keep-running", help="Keep the UI up until Ctrl-C.")] = False,
) -> None:
    """Send four campaigns from the queue to the report tables, and compare every count."""
    with embedded_imports():
        from email_platform.local.demo.run import run_demo, second_terminal_lines, summary_lines, write_report
        from email_platform.local.demo.terminal import demo_console
        from email_platform.local.stack.stack import ALL_PART_NAMES, running_stack, supervisor_id

    state_folder = state_folder_of(os.environ)
    began_seconds = time.monotonic()
    with _stop_on_signal() as on_stop, contextlib.ExitStack() as stack:
        if supervisor_id(state_folder) is None:
            require_engines(ALL_PART_NAMES, os.environ)
            say("starting; logs are in " + str(state_folder / "logs"))
            # Somebody who watches a demo does not want to wait for the interval of a busy platform.
            environ = {variable_of("reports_interval_seconds"): "15", **os.environ}
            settings = stack.enter_context(
                running_stack(state_folder, ports="configured", parts=ALL_PART_NAMES, environ=environ, say=say)
            )
        else:
            say("using the stack that runs already")
            settings = Settings.load(state_folder=state_folder)
        for line in second_terminal_lines(settings):
            say(line)
        run_demo(settings, leads, seed, demo_console())
        seconds = time.monotonic() - began_seconds
        for line in summary_lines(settings, seconds, write_report(settings), keeps_running=keep_running):
            say(line)
        if keep_running:
            say("running; Ctrl-C stops everything")
            stopped = threading.Event()
            on_stop(stopped.set)
            while not stopped.wait(1):  # a signal that another thread gets ends no wait without a limit
                pass


@app.command()
def down() -> None:
    """Stop the parts that run here."""
    with embedded_imports():
        from email_platform.local.stack.stack import stop_stack

    state_folder = state_folder_of(os.environ)
    stopped = stop_stack(state_folder, _DOWN_TIMEOUT_SECONDS)
    say("stopped" if stopped else f"nothing runs on {state_folder}")


@contextmanager
def _stop_on_signal() -> Iterator[Callable[[Callable[[], None]], None]]:
    """Make SIGINT, SIGTERM and SIGHUP call what the stack gives; a signal before that ends the start at once."""
    stops: list[Callable[[], None]] = []

    def on_signal(number: int, _: FrameType | None) -> None:
        if not stops:
            raise typer.Exit(128 + number)
        for stop in stops:
            stop()

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    originals = {number: signal.signal(number, on_signal) for number in numbers}
    try:
        yield stops.append
    finally:
        for number, handler in originals.items():
            signal.signal(number, handler)


def _show_parts(parts: Sequence[PartStatus]) -> None:
    show_rows(_PART_COLUMNS, [_part_row(part) for part in parts], as_json=False, nothing="no part runs")


def _part_row(part: PartStatus) -> dict[str, str | int | None]:
    return {
        "name": part.name,
        "address": part.address,
        "process_id": part.process_id,
        "data_folder": part.data_folder or None,
        "log_file": part.log_file,
    }


def _relative(path: str | None) -> str:
    """The path as a user in this folder would type it."""
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if path and Path(path).is_relative_to(here) else path or ""
