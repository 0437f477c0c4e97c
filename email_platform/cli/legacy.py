"""`email-platform legacy …`: an old email table to practise the import on.

Invariant: rows are generated on the embedded server only, never in a database that the environment names. The
import itself is a Dagster backfill of `legacy_import_job`; docs/legacy_import.md shows how to launch it.
"""

from __future__ import annotations

import os
import time
from datetime import UTC, date, datetime
from typing import Annotated

import typer

from email_platform.cli.embedded import embedded_imports, require_engines
from email_platform.cli.output import say
from email_platform.settings import LEGACY_DATABASE, Settings

app = typer.Typer(no_args_is_help=True, help="Generate an old email table on the embedded server.")


@app.callback()
def main() -> None:
    """Generate an old email table on the embedded server, to practise its import on."""


@app.command()
def generate(
    rows: Annotated[int, typer.Option(help="How many rows to add.", min=1)] = 5_000_000,
    first_month: Annotated[
        datetime, typer.Option(formats=["%Y-%m"], help="The month of the oldest row's created_at.")
    ] = datetime(2025, 1, 1, tzinfo=UTC),
    months: Annotated[int, typer.Option(help="Over how many months to spread them.", min=1, max=240)] = 12,
    seed: Annotated[int, typer.Option(help="Names the rows; another seed makes others.", min=0)] = 1,
) -> None:
    """Fill the old table `email` with realistic rows, hostile ones among them; about 90 s for 5 million."""
    with embedded_imports():
        from email_platform.local.demo.legacy_emails import LegacyTable, generate_legacy_emails, practice_database

    require_engines({"postgres"}, os.environ)
    table = LegacyTable(rows, date(first_month.year, first_month.month, 1), months, seed)
    began_seconds = time.monotonic()
    with practice_database(Settings.load(), os.environ) as engine:
        added = generate_legacy_emails(engine, table, on_progress=lambda made: say(f"{made:,} rows"))
    say(
        f"{added:,} rows added to table email of database {LEGACY_DATABASE} "
        f"in {time.monotonic() - began_seconds:.1f} s, indexes included"
    )
