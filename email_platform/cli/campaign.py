"""`email-platform campaign …`: what an operator does with one campaign from the terminal.

Invariant: every change of status goes through the state machine; what is shown comes from the ledger.
Drivers are imported inside the commands, so that help and shell completion do not wait for them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from email_platform.alerting.rules import OPERATORS_REASON, operators_reason
from email_platform.cli.output import AsJson, Column, print_json, say, show_rows, utc_text, visible, visible_lines
from email_platform.cli.people import checked_address
from email_platform.domain.campaigns import Campaign, CampaignStatus
from email_platform.errors import CommandRefusedError
from email_platform.sending.ledger import UnknownDecision
from email_platform.settings import Settings

if TYPE_CHECKING:
    from email_platform.runs.parts import Parts
    from email_platform.runs.preview import CampaignPreview

app = typer.Typer(no_args_is_help=True, help="Look at campaigns; queue, pause, resume and cancel them.")

CampaignId = Annotated[int, typer.Argument(help="The campaign's id.", min=1, show_default=False)]
Reason = Annotated[str | None, typer.Option(help="Why; it is kept with the status.")]

_CAMPAIGN_COLUMNS = (
    Column("campaign_id", "id", kind="id"),
    Column("name", "name"),
    Column("status", "status"),
    Column("eligible", "eligible", kind="count"),
    Column("accepted", "accepted", kind="count"),
    Column("rejected", "rejected", kind="count"),
    Column("unknown", "unknown", kind="count"),
    Column("chunks", "chunks", kind="id", show=lambda row: f"{row['chunks_finished']}/{row['chunks']}"),
    Column("status_reason", "reason", below=True),
)
_UNKNOWN_COLUMNS = (
    Column("chunk_index", "chunk", kind="id"),
    Column("call_index", "call", kind="id"),
    Column("recipients", "recipients", kind="count"),
    Column("attempts", "attempts", kind="count"),
    Column("intent_at", "intended at"),
    Column("error", "error", below=True, show=lambda row: row["error"] or "no answer was recorded"),
)


@app.command("list")
def list_campaigns(
    limit: Annotated[int, typer.Option(help="How many, the newest first.", min=1, max=1000)] = 50,
    status: Annotated[CampaignStatus | None, typer.Option(help="Only those with this status.")] = None,
    owner: Annotated[str | None, typer.Option(help="Only those of the user with this address.")] = None,
    as_json: AsJson = False,
) -> None:
    """List campaigns, the newest first, with what became of their recipients so far."""
    with _parts() as parts:
        rows = [_row(parts, campaign) for campaign in parts.campaigns.newest(limit, status, owner)]
    show_rows(
        _CAMPAIGN_COLUMNS,
        rows,
        as_json=as_json,
        nothing="there is no such campaign" if status or owner else "there is no campaign yet",
    )


@app.command()
def preview(
    campaign_id: CampaignId,
    samples: Annotated[int, typer.Option(help="Show the messages to the first so many recipients.", min=0)] = 1,
    as_json: AsJson = False,
) -> None:
    """Show who would get what if the campaign were sent now; sends nothing and changes nothing."""
    from email_platform.runs.documents import preview_document
    from email_platform.runs.preview import preview_campaign

    with _parts() as parts:
        found = preview_campaign(parts, campaign_id, samples)
    document = preview_document(found)
    if as_json:
        print_json(document)
        return
    _say_campaign(found.campaign)
    say(f"{document['considered']:,} leads meet the condition; {document['eligible']:,} would be mailed")
    for reason, leads in document["excluded_by_reason"].items():
        say(f"  left out, {reason.replace('_', ' ')}: {leads:,}")
    say(
        f"{document['calls']:,} calls of at most {document['recipients_per_call']} in {document['chunks']} chunks; "
        f"{document['check']}"
    )
    say_other_types(found)
    for message in document["samples"]:
        if message["problem"]:
            say(f"\nlead {message['lead_id']} gets no message: {visible(message['problem'])}")
            continue
        say(f"\nTo: {visible(message['address'])}\nSubject: {visible(message['subject'])}")
        for name, value in message["headers"].items():
            say(f"{visible(name)}: {visible(value)}")
        # Indented, so that no line of a message can pass for one of ours.
        body = visible_lines(message["text"] or message["html"])
        say("\n" + "\n".join(f"    {line}" for line in body.split("\n")))


@app.command()
def test(
    campaign_id: CampaignId,
    to: Annotated[str, typer.Option(help="Who gets the message; yourself.", callback=checked_address)],
    as_lead: Annotated[int, typer.Option(help="Whose values are shown: the lead's id.", min=1, max=2**63 - 1)],
) -> None:
    """Send the campaign's message to yourself as one lead would get it, through its provider.

    It is marked in subject and headers, counts for nobody, and its unsubscribe link belongs to nobody.
    """
    from email_platform.adapters.assembly import open_oltp
    from email_platform.adapters.postgres.lead_relation import LeadRelation
    from email_platform.adapters.postgres.leads_now import PostgresLeadsNow
    from email_platform.runs.trial import send_trial

    settings = Settings.load()
    with _parts() as parts, open_oltp(settings) as engine:
        trial = send_trial(
            parts, PostgresLeadsNow(engine, LeadRelation.from_settings(settings)), campaign_id, as_lead, to
        )
    result = trial.result
    if result.status != "accepted":
        words = visible(": ".join(part for part in (result.error_code, result.error_message) if part))
        raise CommandRefusedError(f"not sent ({result.status}): {words}")
    say(f"sent to {to}: {visible(trial.subject)}")
    say(f"the provider's id: {visible(result.provider_message_id)}")


@app.command()
def queue(
    campaign_id: CampaignId,
    at: Annotated[
        str | None, typer.Option(help="Not before this time, as '2026-12-01 09:00 Europe/Berlin'.", show_default=False)
    ] = None,
) -> None:
    """Queue a draft, paused or failed campaign; it is sent when its time has come."""
    if at is None:
        _change(campaign_id, CampaignStatus.QUEUED, None)
        return
    from email_platform.domain.local_time import scheduled_time

    try:
        moment = scheduled_time(at)
    except ValueError as wrong:
        raise typer.BadParameter(visible(str(wrong)), param_hint="--at") from None
    with _parts() as parts:
        parts.campaigns.schedule(campaign_id, moment)
        _say_campaign(parts.campaigns.change_status(campaign_id, CampaignStatus.QUEUED, None))
    say(f"not before {utc_text(moment)}")


@app.command()
def pause(campaign_id: CampaignId, reason: Reason = OPERATORS_REASON) -> None:
    """Stop a campaign between two calls; calls in flight are seen to their end."""
    _change(campaign_id, CampaignStatus.PAUSED, operators_reason(reason))


@app.command()
def resume(campaign_id: CampaignId) -> None:
    """Queue a paused campaign again; it goes on where it stopped."""
    _change(campaign_id, CampaignStatus.QUEUED, None)


@app.command()
def cancel(campaign_id: CampaignId, reason: Reason = "by an operator") -> None:
    """End a campaign for good, between two calls."""
    _change(campaign_id, CampaignStatus.CANCELLED, reason)


@app.command()
def unknown(campaign_id: CampaignId, as_json: AsJson = False) -> None:
    """List the calls to the provider that got no answer: which, since when, and what was the matter."""
    with _parts() as parts:
        rows = [
            {
                "chunk_index": chunk_index,
                "call_index": record.call_index,
                "recipients": record.unknown_count,
                "attempts": record.attempts,
                "intent_at": record.intent_at,
                "error": record.error,
            }
            for chunk_index, record in parts.ledger.unknown_calls(campaign_id)
        ]
        manifest = parts.manifests.find(campaign_id)
    nothing = f"campaign {campaign_id} has no call of unknown outcome"
    if manifest is not None and manifest.archived_at is not None:
        nothing += f"; it is archived since {manifest.archived_at:%Y-%m-%d}, which none with such a call is"
    show_rows(_UNKNOWN_COLUMNS, rows, as_json=as_json, nothing=nothing)


@app.command()
def decide(
    campaign_id: CampaignId,
    decision: Annotated[
        UnknownDecision, typer.Argument(help="abandon: nobody is mailed twice; resend: nobody is missed.")
    ],
    chunk: Annotated[int | None, typer.Option(help="Only the calls of this chunk.", min=0)] = None,
) -> None:
    """Abandon or resend the calls that got no answer."""
    from email_platform.runs.unknown import decide_unknown_calls

    with _parts() as parts:
        decided = decide_unknown_calls(parts, campaign_id, decision, chunk)
    say(f"{decision}: {decided.calls:,} calls, {decided.recipients:,} recipients")
    _say_campaign(decided.campaign)


@app.command("retry-rejected")
def retry_rejected_recipients(
    campaign_id: CampaignId,
    code: Annotated[
        str | None, typer.Option(help="Only recipients refused with this code, as reports show it.")
    ] = None,
) -> None:
    """Send again to recipients who were refused for certain, when the reason is mended."""
    from email_platform.runs.retry import retry_rejected

    with _parts() as parts:
        put_back = retry_rejected(parts, campaign_id, code)
    say(f"{put_back.recipients:,} recipients are sent to again")
    _say_campaign(put_back.campaign)


@app.command()
def create(
    file: Annotated[Path, typer.Option(help="The campaign as YAML; see examples/campaign.yaml.", dir_okay=False)],
    html: Annotated[Path | None, typer.Option(help="Its HTML template, instead of the file's.", dir_okay=False)] = None,
    text: Annotated[Path | None, typer.Option(help="Its text template, likewise.", dir_okay=False)] = None,
    condition: Annotated[Path | None, typer.Option(help="Its audience as JSON, likewise.", dir_okay=False)] = None,
    as_json: AsJson = False,
) -> None:
    """Make a campaign from a file, as a draft: the condition and the templates are checked, nothing is sent."""
    from email_platform.adapters.assembly import open_oltp
    from email_platform.adapters.postgres.accounts import NewCampaign, PostgresAccounts
    from email_platform.runs.campaign_file import read_campaign_file

    given = {"html": html, "text": text, "condition": condition}
    read = read_campaign_file(file, {name: path for name, path in given.items() if path is not None})
    if read.version is not None:
        raise CommandRefusedError(f"{file}: a new campaign has no version; remove it, or use `campaign edit ID`")
    with open_oltp(Settings.load()) as engine:
        campaign_id = PostgresAccounts(engine).add_campaign(
            NewCampaign(read.name, read.sender, read.content, read.condition, read.on_unknown, read.scheduled_at)
        )
    if as_json:
        print_json({"campaign_id": campaign_id, "name": read.name, "status": "draft"})
    else:
        say(f"campaign {campaign_id} '{visible(read.name)}': draft")
        say(f"what it would send: email-platform campaign preview {campaign_id}")


# Further commands for one campaign go here, above the functions that the commands share.


@contextmanager
def _parts() -> Iterator[Parts]:
    from email_platform.adapters.assembly import open_parts

    with open_parts(Settings.load()) as parts:
        yield parts


def _change(campaign_id: int, wanted: CampaignStatus, reason: str | None) -> None:
    with _parts() as parts:
        _say_campaign(parts.campaigns.change_status(campaign_id, wanted, reason))


def _say_campaign(campaign: Campaign) -> None:
    reason = f" ({visible(campaign.status_reason)})" if campaign.status_reason else ""
    say(f"campaign {campaign.campaign_id} '{visible(campaign.name)}': {campaign.status}{reason}")


def _row(parts: Parts, campaign: Campaign) -> dict[str, Any]:
    manifest = parts.manifests.find(campaign.campaign_id)
    totals = parts.ledger.totals(campaign.campaign_id)
    return {
        "campaign_id": campaign.campaign_id,
        "name": campaign.name,
        "status": campaign.status,
        "status_reason": campaign.status_reason,
        "scheduled_at": campaign.scheduled_at,
        "created_at": campaign.created_at,
        "finished_at": campaign.finished_at,
        "eligible": manifest.eligible_rows if manifest else None,
        "accepted": totals.accepted,
        "rejected": totals.rejected,
        "unknown": totals.unknown + totals.in_call,
        "chunks": totals.chunks,
        "chunks_finished": totals.chunks_finished,
    }


def say_other_types(found: CampaignPreview) -> None:
    """Which leads the condition passes over, since their attribute has another type."""
    if found.other_types is None:
        say("leads with a value of another type than the condition compares were not counted: it takes too long")
    for one in found.other_types or ():
        say(f"warning: {visible(str(one))}", style="yellow")
