"""`email-platform warehouse …`: the warehouse's tables as statements to read, or to apply by hand.

Invariant: what is printed is what `email-platform migrate` applies with the same settings.
"""

from __future__ import annotations

from typing import Annotated

import typer

from email_platform.adapters.clickhouse.migrate import ddl as all_statements
from email_platform.adapters.clickhouse.migrate import read_migrations
from email_platform.adapters.clickhouse.production_form import ProductionForm
from email_platform.errors import EmailPlatformError

app = typer.Typer(no_args_is_help=True, help="The warehouse's tables.")


@app.callback()
def main() -> None:
    """The warehouse's tables."""


@app.command()
def ddl(
    cluster: Annotated[
        str | None, typer.Option(help="replicated tables on this cluster; without it, one server")
    ] = None,
    sharded: Annotated[
        bool, typer.Option("--sharded", help="several shards: Distributed tables over local ones")
    ] = False,
    storage_policy: Annotated[str | None, typer.Option(help="of the tables that grow; has a volume `cold`")] = None,
    cold_after_months: Annotated[int | None, typer.Option(help="older rows go to the volume `cold`", min=1)] = None,
    keep_events_months: Annotated[int | None, typer.Option(help="older events are deleted", min=1)] = None,
) -> None:
    """Print every statement that a new database needs; connects to nothing."""
    try:
        form = None
        if cluster is not None:
            form = ProductionForm(
                cluster,
                sharded=sharded,
                storage_policy=storage_policy,
                cold_after_months=cold_after_months,
                keep_events_months=keep_events_months,
            )
        elif sharded or storage_policy or cold_after_months or keep_events_months:
            raise typer.BadParameter("shards, policies and keeping need --cluster")
        for statement in all_statements(read_migrations(), form):
            typer.echo(f"{statement};\n")
    except EmailPlatformError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
