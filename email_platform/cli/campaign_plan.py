"""`email-platform campaign plan`: what sending a campaign would mean."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from email_platform.cli.campaign import CampaignId, say_other_types
from email_platform.cli.campaign_watch import open_watched
from email_platform.cli.output import AsJson, print_json, say, utc_text, visible

if TYPE_CHECKING:
    from email_platform.runs.plan import CampaignPlan
    from email_platform.runs.preview import SampleMessage

app = typer.Typer()


@app.command()
def plan(
    campaign_id: CampaignId,
    samples: Annotated[
        Path | None,
        typer.Option(help="Write sample messages into this folder, as HTML and text.", file_okay=False),
    ] = None,
    count: Annotated[int, typer.Option(help="How many samples.", min=1, max=1000)] = 5,
    as_json: AsJson = False,
) -> None:
    """Say what sending would mean: recipients, who is left out, calls, time, and what may be wrong; sends nothing.

    The time is estimated from the account's rate and from the campaigns before it. Links are judged by how they are
    written; none is opened.
    """
    from email_platform.runs.documents import plan_document
    from email_platform.runs.plan import plan_campaign

    with open_watched() as (parts, accounts):
        planned = plan_campaign(parts, accounts, campaign_id, count)
    written = _write(samples, planned.preview.samples[:count]) if samples is not None else []
    document = {**plan_document(planned), "sample_files": [str(path) for path in written]}
    if as_json:
        print_json(document)
    else:
        _say(planned, document)


def _say(planned: CampaignPlan, document: dict[str, Any]) -> None:
    from email_platform.local.demo.terminal import duration_text
    from email_platform.runs.campaign_state import rate_words

    campaign, account = planned.preview.campaign, planned.account
    say(f"campaign {campaign.campaign_id} '{visible(campaign.name)}': {campaign.status}")
    say(f"{document['considered']:,} leads meet the condition; {document['eligible']:,} would be mailed")
    for reason, leads in document["excluded_by_reason"].items():
        if leads:
            say(f"  left out, {reason.replace('_', ' ')}: {leads:,}")
    say(f"content: {document['check']}")
    say_other_types(planned.preview)
    say(f"{planned.calls:,} calls of at most {document['recipients_per_call']} in {document['chunks']} chunks")
    if campaign.scheduled_at is not None and not campaign.problem:
        say(f"not before {utc_text(campaign.scheduled_at)}")
    before = f"{account.campaigns_before:,} campaigns before it on this account"
    if account.campaigns_before:
        before += f", with {account.recipients_before:,} recipients left"
        if account.uncounted_before:
            before += f"; {account.uncounted_before:,} of them are not counted yet"
    say(before)
    say(visible(rate_words(account)))
    if planned.alone_seconds is None:
        say("time: cannot be estimated, since no rate is set for the account")
    else:
        shared = (
            f"; at most about {duration_text(planned.longest_seconds)} beside the campaigns before it"
            if account.campaigns_before
            else ""
        )
        say(f"time: about {duration_text(planned.alone_seconds)} at this rate{shared}")
    for warning, messages in planned.warnings.items():
        say(f"warning: {visible(warning)} ({messages} of {planned.reviewed} messages)", style="yellow")
    if not planned.warnings:
        say(f"no warnings for the {planned.reviewed} messages that were looked at")
    for path in document["sample_files"]:
        say(f"sample: {visible(path)}")


def _write(folder: Path, messages: tuple[SampleMessage, ...]) -> list[Path]:
    """Each message as ``lead-<id>.html`` and, with its headers, ``lead-<id>.txt``; older ones are replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for message in messages:
        path = folder / f"lead-{message.lead_id}.txt"
        if message.problem:
            path.write_text(f"lead {message.lead_id} gets no message: {message.problem}\n", encoding="utf-8")
            written.append(path)
            continue
        headers = {"To": message.address, "Subject": message.subject, **message.headers}
        lines = [f"{name}: {value}" for name, value in headers.items()]
        path.write_text("\n".join([*lines, "", message.text]) + "\n", encoding="utf-8")
        if message.html:
            written.append(folder / f"lead-{message.lead_id}.html")
            written[-1].write_text(message.html, encoding="utf-8")
        written.append(path)
    return written
