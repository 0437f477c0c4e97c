"""`email-platform warehouse …`: single emails in the warehouse, and its tables as statements to read or apply by hand.

Invariant: the statements that are printed are those that `email-platform migrate` applies with the same settings.
Drivers are imported inside the commands, so that help and shell completion do not wait for them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from email_platform.cli.output import AsJson, note, print_json, say, utc_text, visible
from email_platform.settings import Settings

if TYPE_CHECKING:
    from email_platform.adapters.clickhouse.lookups import LookupBy
    from email_platform.domain.found_email import FoundEmail

app = typer.Typer(no_args_is_help=True, help="Find single emails in the warehouse; print its tables.")


@app.callback()
def main() -> None:
    """Find single emails in the warehouse; print its tables."""


@app.command()
def find(
    lead: Annotated[int | None, typer.Option(help="The lead's id.", min=1, max=2**63 - 1)] = None,
    address: Annotated[str | None, typer.Option(help="The address, in upper or lower case.")] = None,
    provider_message_id: Annotated[str | None, typer.Option(help="The provider's id of the message.")] = None,
    message_id: Annotated[UUID | None, typer.Option(help="Our id of the message, as in its header.")] = None,
    limit: Annotated[int, typer.Option(help="How many, the newest first.", min=1, max=500)] = 100,
    as_json: AsJson = False,
) -> None:
    """Find every email to a lead or an address, or the one with an id, and what became of it.

    Campaigns that left the lead out are found too, with the reason; the old system's emails once they are imported.
    """
    from email_platform.adapters.assembly import open_warehouse
    from email_platform.adapters.clickhouse.client import READER_TIMEOUT_SECONDS
    from email_platform.adapters.clickhouse.lookups import find_emails

    options: dict[LookupBy, int | str | None] = {
        "lead": lead,
        "address": address.strip(" ") if address is not None else None,
        "provider_message_id": provider_message_id,
        "message_id": str(message_id) if message_id is not None else None,
    }
    given = [(by, wanted) for by, wanted in options.items() if wanted is not None]
    if len(given) != 1:
        raise typer.BadParameter("give one of --lead, --address, --provider-message-id and --message-id")
    by, wanted = given[0]
    if not wanted:  # every email that no provider accepted has an empty id
        raise typer.BadParameter(f"the {by.replace('_', ' ')} is empty")
    with open_warehouse(Settings.load(), READER_TIMEOUT_SECONDS) as warehouse:
        found = find_emails(warehouse, by, wanted, limit + 1)
    if as_json:
        print_json([_document(email) for email in found[:limit]])
    elif not found:
        say(f"no email with {by.replace('_', ' ')} {wanted!r} is loaded")
    else:
        for email in found[:limit]:
            say("\n".join(visible(line) for line in _lines(email)))
    if len(found) > limit:
        remark = f"only the newest {limit} are shown; --limit shows more"
        if as_json:
            note(remark)
        else:
            say(remark, style="yellow")


def _lines(email: FoundEmail) -> Iterator[str]:
    """What became of one email: whom it went to, what the provider answered, what it reported later."""
    provider = "old system" if email.is_old else email.provider
    yield f"campaign {email.campaign_id}, lead {email.lead_id}, {email.email}"
    yield "  ".join(filter(None, (f"  {utc_text(email.occurred_at)}", email.status, email.error)))
    if provider:
        yield f"  {provider} {email.provider_message_id}".rstrip()
    for event in email.events:
        yield f"  {utc_text(event.occurred_at)}  {event.type}{f' ({event.subtype})' if event.subtype else ''}"


def _document(email: FoundEmail) -> dict[str, Any]:
    return {
        "campaign_id": email.campaign_id,
        "lead_id": email.lead_id,
        "address": email.email,
        "status": email.status,
        "error": email.error,
        "provider": email.provider,
        "provider_message_id": email.provider_message_id,
        "occurred_at": email.occurred_at,
        "is_old": email.is_old,
        "events": [
            {"type": event.type, "subtype": event.subtype, "occurred_at": event.occurred_at} for event in email.events
        ],
    }


@app.command()
def ddl(
    cluster: Annotated[
        str | None, typer.Option(help="Make replicated tables on this cluster; without it, one server.")
    ] = None,
    sharded: Annotated[
        bool, typer.Option("--sharded", help="The cluster has several shards: Distributed tables over local ones.")
    ] = False,
    storage_policy: Annotated[
        str | None, typer.Option(help="The storage policy of the tables that grow; it has a volume `cold`.")
    ] = None,
    cold_after_months: Annotated[
        int | None, typer.Option(help="Rows older than this go to the volume `cold`.", min=1)
    ] = None,
    keep_events_months: Annotated[int | None, typer.Option(help="Events older than this are deleted.", min=1)] = None,
) -> None:
    """Print every statement that a new database needs; connects to nothing."""
    from email_platform.adapters.clickhouse.migrate import ddl as all_statements
    from email_platform.adapters.clickhouse.migrate import read_migrations
    from email_platform.adapters.clickhouse.production_form import ProductionForm

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
