"""`email-platform retention …`: remove what nobody works with any more, and bring a ledger back."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import asdict
from typing import Annotated

import typer

from email_platform.cli.output import AsJson, print_json, say
from email_platform.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Remove what is old, and bring an archived ledger back.")


@app.command()
def run(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing; say what would be removed.")] = False,
    as_json: AsJson = False,
) -> None:
    """Archive ledgers of campaigns that ended long ago; remove old Dagster runs, raw events and leftover rows.

    For how long each is kept: EMAIL_PLATFORM_KEEP_…_DAYS. Dagster's runs need DAGSTER_HOME.
    """
    from email_platform.adapters.assembly import open_retention, open_store
    from email_platform.runs.retention import run_retention

    settings = Settings.load()
    with ExitStack() as opened:
        runs = None
        if os.environ.get("DAGSTER_HOME"):
            from email_platform.adapters.dagster_history import DagsterRunHistory, open_instance

            runs = DagsterRunHistory(opened.enter_context(open_instance()), open_store(settings))
        parts = opened.enter_context(open_retention(settings, runs))
        removals = []
        for removal in run_retention(parts, dry_run=dry_run):
            removals.append(removal)
            if not as_json:
                details = ", ".join(f"{count:,} {name}" for name, count in removal.details.items())
                say(
                    f"{'would remove' if dry_run else 'removed'} {removal.items:,} {removal.what}"
                    + (f" ({details})" if details else "")
                    + ("" if removal.is_complete else "; more is due, run it again")
                )
                for name, reason in removal.kept.items():
                    say(f"  kept {name}: {reason}")
    if as_json:
        print_json(
            {
                "dry_run": dry_run,
                "dagster_runs": "looked at" if runs else "not looked at: DAGSTER_HOME is not set",
                "removals": [asdict(one) for one in removals],
            }
        )
    elif runs is None:
        say("Dagster's runs were not looked at: DAGSTER_HOME is not set")


@app.command()
def restore(
    campaign_id: Annotated[int, typer.Argument(help="The campaign's id.", min=1, max=2**63 - 1, metavar="CAMPAIGN")],
) -> None:
    """Bring the archived ledger of a campaign back from the bucket, so that it can be decided about or queued again."""
    from email_platform.adapters.assembly import open_oltp, open_store
    from email_platform.adapters.postgres.ledger_archive import PostgresLedgerArchive

    settings = Settings.load()
    with open_oltp(settings) as engine:
        calls = PostgresLedgerArchive(engine, open_store(settings)).restore(campaign_id)
    say(f"campaign {campaign_id}: {calls:,} calls are back in the ledger")
