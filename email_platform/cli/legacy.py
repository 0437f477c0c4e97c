"""`email-platform legacy …`: an old email table to practise the import on, or a whole old system.

Invariant: the table's rows are generated on the embedded server only, never in a database that the environment names;
a whole old system only where none of its tables is yet. The import itself is a Dagster backfill of
`legacy_import_job`; docs/legacy_import.md shows how to launch it.
"""

from __future__ import annotations

import json
import os
import time
from datetime import UTC, date, datetime
from typing import Annotated

import typer

from email_platform.cli.embedded import embedded_imports, require_engines
from email_platform.cli.output import say
from email_platform.settings import LEGACY_DATABASE, Settings

app = typer.Typer(no_args_is_help=True, help="Generate an old email table, or a whole old system to practise on.")


@app.callback()
def main() -> None:
    """Generate an old email table on the embedded server, or a whole old system, to practise on."""


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


@app.command()
def system(
    url: Annotated[
        str,
        typer.Option(
            envvar="OLD_SYSTEM_URL",
            show_envvar=True,
            help="Where: postgresql://…, mysql://… or mariadb://… of a user who may make tables.",
        ),
    ],
    reader_url: Annotated[
        str | None,
        typer.Option(
            envvar="OLD_SYSTEM_READER_URL",
            show_envvar=True,
            help="The same database with a user who will only read: made where there is none.",
        ),
    ] = None,
    customers: Annotated[int, typer.Option(help="How many customers it ever had.", min=10, max=1_000_000)] = 2_000,
    first_month: Annotated[
        datetime, typer.Option(formats=["%Y-%m"], help="The month in which it began to send.")
    ] = datetime(2025, 1, 1, tzinfo=UTC),
    months: Annotated[int, typer.Option(help="For how many months it has been sending.", min=1, max=240)] = 6,
    campaigns_per_month: Annotated[int, typer.Option(help="How often it sends.", min=1, max=60)] = 2,
    seed: Annotated[int, typer.Option(help="Names the rows; another seed makes others.", min=0)] = 1,
) -> None:
    """Make a small old system to practise the way over on: users, senders, customers, campaigns and years of emails.

    In PostgreSQL in the schema `app`. Refused where a table of one of these names is there already.
    """
    with embedded_imports():
        from email_platform.local.demo.old_system import OldSystem
        from email_platform.local.demo.old_system_database import write_old_system

    old = OldSystem(customers, date(first_month.year, first_month.month, 1), months, campaigns_per_month, seed)
    write_old_system(url, old.tables, reader_url, lambda table, rows: say(f"{rows:,} rows in {table}"))
    last = old.tables["campaign"][-1]
    say(f"its last campaign is {last['id']}, sent on {last['sent_at']:%Y-%m-%d} to {json.dumps(last['audience'])}")
