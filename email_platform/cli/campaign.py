"""`email-platform campaign …`: what an operator does with one campaign from the terminal.

Invariant: every change of status goes through the state machine; what is shown comes from the ledger.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from email_platform.adapters.assembly import open_parts
from email_platform.domain.campaigns import Campaign, CampaignStatus
from email_platform.errors import EmailPlatformError
from email_platform.runs.parts import Parts
from email_platform.runs.preview import preview_campaign
from email_platform.runs.unknown import decide_unknown_calls
from email_platform.sending.ledger import UnknownDecision
from email_platform.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Look at campaigns, queue, pause, resume and cancel them.")
console = Console()

CampaignId = Annotated[int, typer.Argument(help="the campaign's id", min=1)]
Reason = Annotated[str | None, typer.Option(help="kept with the status")]


@contextmanager
def _parts() -> Iterator[Parts]:
    """The platform's parts; an expected error ends the command with one line and status 1."""
    try:
        with open_parts(Settings.load()) as parts:
            yield parts
    except EmailPlatformError as error:
        console.print(str(error), style="red", markup=False, highlight=False)
        raise typer.Exit(1) from error


def _change(campaign_id: int, wanted: CampaignStatus, reason: str | None) -> None:
    with _parts() as parts:
        _say(parts.campaigns.change_status(campaign_id, wanted, reason))


def _say(campaign: Campaign) -> None:
    reason = f" ({campaign.status_reason})" if campaign.status_reason else ""
    _print(f"campaign {campaign.campaign_id} {campaign.name!r}: {campaign.status}{reason}")


def _print(text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


@app.command("list")
def list_campaigns(
    limit: Annotated[int, typer.Option(help="the newest so many", min=1, max=1000)] = 50,
) -> None:
    """Campaigns, the newest first, with what the ledger knows of each."""
    table = Table("id", "name", "status", "eligible", "accepted", "rejected", "unknown", "chunks", "reason")
    with _parts() as parts:
        for campaign in parts.campaigns.newest(limit):
            manifest = parts.manifests.find(campaign.campaign_id)
            totals = parts.ledger.totals(campaign.campaign_id)
            table.add_row(
                str(campaign.campaign_id),
                campaign.name,
                campaign.status,
                f"{manifest.eligible_rows:,}" if manifest else "-",
                f"{totals.accepted:,}",
                f"{totals.rejected:,}",
                f"{totals.unknown + totals.in_call:,}",
                f"{totals.chunks_finished}/{totals.chunks}",
                campaign.status_reason or "",
            )
    console.print(table)


@app.command()
def preview(
    campaign_id: CampaignId,
    samples: Annotated[int, typer.Option(help="show the messages of the first so many recipients", min=0)] = 1,
) -> None:
    """Who would get what, were the campaign sent now; sends nothing and changes nothing."""
    with _parts() as parts:
        found = preview_campaign(parts, campaign_id, samples)
    manifest = found.manifest
    _say(found.campaign)
    _print(f"{manifest.considered_rows:,} leads meet the condition; {manifest.eligible_rows:,} would be mailed")
    for reason, leads in manifest.excluded_by_reason.items():
        _print(f"  left out, {reason.replace('_', ' ')}: {leads:,}")
    calls = sum(-(-manifest.chunk_size_rows(index) // manifest.call_rows) for index in range(manifest.chunk_count))
    _print(f"{calls:,} calls of at most {manifest.call_rows} in {manifest.chunk_count} chunks; every message renders")
    for message in found.samples:
        _print(f"\nTo: {message.address}\nSubject: {message.subject}")
        for name, value in message.headers.items():
            _print(f"{name}: {value}")
        _print(f"\n{message.text or message.html}")


@app.command()
def queue(campaign_id: CampaignId) -> None:
    """Queue a draft, paused or failed campaign; the sensor launches it when its time has come."""
    _change(campaign_id, CampaignStatus.QUEUED, None)


@app.command()
def pause(campaign_id: CampaignId, reason: Reason = "by an operator") -> None:
    """Stop a campaign between two calls; calls in flight are seen to their end."""
    _change(campaign_id, CampaignStatus.PAUSED, reason)


@app.command()
def resume(campaign_id: CampaignId) -> None:
    """Queue a paused campaign again; it goes on where the ledger ends."""
    _change(campaign_id, CampaignStatus.QUEUED, None)


@app.command()
def cancel(campaign_id: CampaignId, reason: Reason = "by an operator") -> None:
    """End a campaign for good, between two calls."""
    _change(campaign_id, CampaignStatus.CANCELLED, reason)


@app.command()
def unknown(campaign_id: CampaignId) -> None:
    """The calls whose outcome nobody knows: which, since when, and what was the matter."""
    table = Table("chunk", "call", "recipients", "attempts", "intended at", "error")
    with _parts() as parts:
        for chunk_index, record in parts.ledger.unknown_calls(campaign_id):
            table.add_row(
                str(chunk_index),
                str(record.call_index),
                str(record.unknown_count),
                str(record.attempts),
                record.intent_at.isoformat(timespec="seconds"),
                record.error or "no answer was recorded",
            )
    console.print(table if table.row_count else f"campaign {campaign_id} has no call of unknown outcome")


@app.command()
def decide(
    campaign_id: CampaignId,
    decision: Annotated[UnknownDecision, typer.Argument(help="abandon: never twice; resend: never missed")],
    chunk: Annotated[int | None, typer.Option(help="only this chunk", min=0)] = None,
) -> None:
    """Abandon or resend the calls whose outcome nobody knows."""
    with _parts() as parts:
        decided = decide_unknown_calls(parts, campaign_id, decision, chunk)
    console.print(f"{decision}: {decided.calls:,} calls, {decided.recipients:,} recipients")
    _say(decided.campaign)
