"""`email-platform warehouse …`: single emails in the warehouse, and its tables as statements to read or apply by hand.

Invariant: the statements that are printed are those that `email-platform migrate` applies with the same settings.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from email_platform.adapters.assembly import open_warehouse
from email_platform.adapters.clickhouse.lookups import FoundEmail, LookupBy, find_emails
from email_platform.adapters.clickhouse.migrate import ddl as all_statements
from email_platform.adapters.clickhouse.migrate import read_migrations
from email_platform.adapters.clickhouse.production_form import ProductionForm
from email_platform.errors import EmailPlatformError
from email_platform.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Find single emails in the warehouse; print its tables.")
console = Console()


@app.callback()
def main() -> None:
    """Find single emails in the warehouse; print its tables."""


@app.command()
def find(
    lead: Annotated[int | None, typer.Option(help="the lead's id", min=1, max=2**63 - 1)] = None,
    address: Annotated[str | None, typer.Option(help="the address, in upper or lower case")] = None,
    provider_message_id: Annotated[str | None, typer.Option(help="the provider's id of the message")] = None,
    limit: Annotated[int, typer.Option(help="the newest so many", min=1, max=500)] = 100,
) -> None:
    """Every email to a lead or an address, or the one with a provider's id: what became of it, the old system's too."""
    options: dict[LookupBy, int | str | None] = {
        "lead": lead,
        "address": address.strip(" ") if address is not None else None,
        "provider_message_id": provider_message_id,
    }
    given = [(by, wanted) for by, wanted in options.items() if wanted is not None]
    if len(given) != 1:
        raise typer.BadParameter("give one of --lead, --address and --provider-message-id")
    by, wanted = given[0]
    if not wanted:  # every email that no provider accepted has an empty id
        raise typer.BadParameter(f"the {by.replace('_', ' ')} is empty")
    try:
        with open_warehouse(Settings.load()) as warehouse:
            found = find_emails(warehouse, by, wanted, limit + 1)
    except EmailPlatformError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    if not found:
        told = Text(f"no email with {by.replace('_', ' ')} {wanted!r} is loaded")
        console.print(told, soft_wrap=True)
        return
    for email in found[:limit]:
        # Texts of providers and leads are shown as they are: never as markup.
        console.print(Text("\n".join(_lines(email))), soft_wrap=True)
    if len(found) > limit:
        console.print(f"only the newest {limit} are shown; --limit shows more", style="yellow")


def _lines(email: FoundEmail) -> Iterator[str]:
    """What became of one email: whom it went to, what the provider answered, what it told later."""
    provider = "old system" if email.is_old else email.provider
    yield f"campaign {email.campaign_id}, lead {email.lead_id}, {email.email}"
    yield "  ".join(filter(None, (f"  {_moment(email.occurred_at)}", email.status, email.error)))
    yield f"  {provider} {email.provider_message_id}".rstrip()
    for event in email.events:
        yield f"  {_moment(event.occurred_at)}  {event.type}{f' ({event.subtype})' if event.subtype else ''}"


def _moment(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"


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
