"""`email-platform dbt`: the reports' models by hand, on the warehouse of the settings."""

from __future__ import annotations

import os

import typer

from email_platform.adapters.dbt import run_dbt
from email_platform.settings import Settings, state_folder_of

app = typer.Typer()


@app.command(
    "dbt",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    # --help goes to dbt too, so the list of commands is where this is explained.
    short_help="Run dbt on the reports and the settings' warehouse, with dbt's own arguments.",
)
def dbt(context: typer.Context) -> None:
    """Run dbt on the reports and the settings' warehouse, with dbt's arguments: `dbt build --select lead_history`."""
    settings = Settings.load(state_folder=state_folder_of(os.environ))
    raise typer.Exit(run_dbt(settings, list(context.args)))
