"""The command line: ``email-platform up``, ``events``, ``migrate``, ``doctor``, ``status``, ``down``.

Invariant: a mistake of the operator ends in one sentence that names what to change and exit code 2, never in a
traceback; other failures to start end with exit code 1.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from email_platform.adapters import dbt as reports_commands
from email_platform.adapters.part_checks import check_parts
from email_platform.adapters.preparation import prepare
from email_platform.cli import campaign as campaign_commands
from email_platform.cli import legacy as legacy_commands
from email_platform.cli import suppression as suppression_commands
from email_platform.cli import warehouse as warehouse_commands
from email_platform.errors import ConfigurationError, EmailPlatformError
from email_platform.local.demo.run import run_demo, summary_lines
from email_platform.local.demo.terminal import demo_console
from email_platform.local.stack.stack import (
    ALL_PART_NAMES,
    DAGSTER_PART_NAMES,
    PartStatus,
    running_stack,
    started_stack,
    statuses,
    stop_stack,
    supervisor_id,
)
from email_platform.receiver import __main__ as receiver
from email_platform.settings import Settings, state_folder_of, variable_of

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Email campaign delivery: embedded engines for a bare machine, real ones by URL.",
)
app.add_typer(campaign_commands.app, name="campaign")
app.add_typer(suppression_commands.app, name="suppression")
app.add_typer(legacy_commands.app, name="legacy")
app.add_typer(warehouse_commands.app, name="warehouse")
console = demo_console()
error_console = Console(stderr=True)

_DOWN_TIMEOUT_SECONDS = 180.0


@app.command(
    "dbt", context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
)
def dbt(context: typer.Context) -> None:
    """Run dbt on the reports and the settings' warehouse, with dbt's arguments: `dbt build --select lead_history`."""
    with told_plainly():
        settings = Settings.load(state_folder=state_folder_of(os.environ))
    raise typer.Exit(reports_commands.run_dbt(settings, list(context.args)))


@app.callback()
def main() -> None:
    """Email campaign delivery: embedded engines for a bare machine, real ones by URL."""


@contextmanager
def told_plainly() -> Iterator[None]:
    """Turn the platform's errors into a sentence and an exit code: 2 for a wrong setting, 1 for the rest."""
    try:
        yield
    except EmailPlatformError as failure:
        error_console.print(f"error: {failure}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(2 if isinstance(failure, ConfigurationError) else 1) from None


@app.command()
def up(
    only: Annotated[
        list[str] | None, typer.Option("--only", help=f"Start only this part; repeatable: {', '.join(ALL_PART_NAMES)}.")
    ] = None,
    without_dagster: Annotated[
        bool, typer.Option("--without-dagster", help="Start no webserver and no daemon.")
    ] = False,
) -> None:
    """Start the parts and keep them running until Ctrl-C."""
    parts = set(only or ALL_PART_NAMES)
    if without_dagster:
        parts -= set(DAGSTER_PART_NAMES)
    state_folder = state_folder_of(os.environ)
    with told_plainly(), _stop_on_signal() as on_stop:
        say("starting; logs are in " + str(state_folder / "logs"))
        with started_stack(state_folder, environ=os.environ, parts=parts, say=say, stop_requested=on_stop) as stack:
            console.print(_table(statuses(state_folder)))
            for name in sorted(stack.external):
                say(f"{name} is external: its address is set in the environment")
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
    """Send three campaigns from the queue to the report tables and reconcile every count."""
    state_folder = state_folder_of(os.environ)
    began_seconds = time.monotonic()
    with told_plainly(), _stop_on_signal() as on_stop, contextlib.ExitStack() as stack:
        if supervisor_id(state_folder) is None:
            say("starting; logs are in " + str(state_folder / "logs"))
            # Who watches a demo does not want to wait for the interval of a busy platform.
            os.environ.setdefault(variable_of("reports_interval_seconds"), "15")
            settings = stack.enter_context(
                running_stack(state_folder, ports="configured", parts=ALL_PART_NAMES, say=say)
            )
        else:
            say("using the stack that runs already")
            settings = Settings.load(state_folder=state_folder)
        say(f"Dagster's UI: http://127.0.0.1:{settings.dagster_port}")
        run_demo(settings, leads, seed, console)
        for line in summary_lines(settings, time.monotonic() - began_seconds):
            say(line)
        if keep_running:
            say("running; Ctrl-C stops everything")
            stopped = threading.Event()
            on_stop(stopped.set)
            while not stopped.wait(1):  # a signal that another thread gets ends no wait without a limit
                pass


@app.command()
def events(
    host: Annotated[str, typer.Option(help="Put a TLS proxy in front for any other.")] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(
            min=1, max=65535, envvar=variable_of("receiver_port"), help="Where providers and recipients reach us."
        ),
    ] = 18080,
    share_port: Annotated[
        bool, typer.Option("--share-port", help="Several of these commands listen on the same port.")
    ] = False,
) -> None:
    """Receive providers' signed events and recipients' unsubscriptions until Ctrl-C."""
    share = ["--share-port"] if share_port else []
    raise typer.Exit(receiver.main(["--host", host, "--port", str(port), *share]))


@app.command()
def migrate() -> None:
    """Bring the OLTP database and the warehouse to this release's schemas; safe to repeat, and side by side."""
    with told_plainly():
        prepare(Settings.load())
    say("the schemas are up to date")


@app.command()
def doctor() -> None:
    """Ask every part whether the platform can work with it; exit code 1 where one says no."""
    table = Table(box=None, pad_edge=False)
    for column in ("part", "", "says"):
        table.add_column(column, overflow="fold")
    fits = True
    with told_plainly():
        for check in check_parts(Settings.load(), os.environ):
            fits = fits and check.fits
            table.add_row(check.part, "fits" if check.fits else "[red]WRONG[/red]", Text(check.says))
    console.print(table)
    if not fits:
        raise typer.Exit(1)


@app.command()
def status() -> None:
    """Show the parts of the state folder; exit code 1 where no supervisor runs."""
    state_folder = state_folder_of(os.environ)
    running = supervisor_id(state_folder)
    if running is None:
        say(f"nothing runs on {state_folder}")
        raise typer.Exit(1)
    console.print(_table(statuses(state_folder)))
    say(f"supervisor: process {running}")


@app.command()
def down() -> None:
    """Stop the parts of the state folder."""
    state_folder = state_folder_of(os.environ)
    with told_plainly():
        stopped = stop_stack(state_folder, _DOWN_TIMEOUT_SECONDS)
    say("stopped" if stopped else f"nothing runs on {state_folder}")


def say(text: str) -> None:
    """Print one line as it is."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


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


def _table(parts: list[PartStatus]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("part", "address", "pid", "data", "log"):
        table.add_column(column, overflow="fold")
    here = Path.cwd()
    for part in parts:
        table.add_row(
            part.name,
            part.address,
            str(part.process_id or "not running"),
            _relative(part.data_folder, here),
            _relative(part.log_file, here),
        )
    return table


def _relative(path: str, folder: Path) -> str:
    """The path as a user in this folder would type it."""
    return str(Path(path).relative_to(folder)) if path and Path(path).is_relative_to(folder) else path


if __name__ == "__main__":
    app()
