"""`email-platform campaign show` and `campaign watch`: one campaign as it is, and as it goes on."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from email_platform.cli.campaign import CampaignId
from email_platform.cli.failures import ExitCode
from email_platform.cli.output import AsJson, print_json, say, utc_text, visible
from email_platform.domain.campaigns import CampaignStatus
from email_platform.settings import Settings

if TYPE_CHECKING:
    from email_platform.local.demo.terminal import CampaignProgress
    from email_platform.runs.campaign_state import AccountUses, CampaignState
    from email_platform.runs.parts import Parts

app = typer.Typer()

_STATUS_STYLES = {"sent": "green", "failed": "bold red", "paused": "yellow", "cancelled": "yellow"}


@app.command()
def show(campaign_id: CampaignId, as_json: AsJson = False) -> None:
    """Show one campaign: status, sender, content, times, counts, its place in the queue, and what it waits for."""
    from email_platform.runs.campaign_state import campaign_state
    from email_platform.runs.documents import state_document

    with open_watched() as (parts, accounts):
        state = campaign_state(parts, accounts, campaign_id)
        document = state_document(state, accounts.owner_email(state.campaign))
    if as_json:
        print_json(document)
        return
    campaign = state.campaign
    say(f"campaign {campaign.campaign_id} '{visible(campaign.name)}': {campaign.status}, version {campaign.version}")
    if campaign.status_reason:
        say(f"  reason: {visible(campaign.status_reason)}")
    say_waiting(state)
    sender = campaign.sender
    say(f"  from: {visible(sender.from_name)} <{visible(sender.from_address)}>, sender {sender.sender_id}")
    say(f"  account: {visible(document['account'])}; owner: {visible(document['owner'])}")
    say(f"  subject: {visible(campaign.content.subject_template)}")
    say(f"  html: {document['html_bytes']:,} bytes; text: {document['text_bytes']:,} bytes")
    say(f"  condition: {visible(_short(document['condition']))}")
    for name in ("created", "scheduled", "queued", "started", "finished"):
        if (at := document[f"{name}_at"]) is not None:
            say(f"  {name}: {utc_text(at)}")
    if state.manifest is None:
        say("  recipients: the audience is not frozen yet")
    else:
        say(
            f"  recipients: {document['eligible']:,}; accepted {document['accepted']:,}, "
            f"rejected {document['rejected']:,}, unknown {document['unknown']:,}, "
            f"abandoned {document['abandoned']:,}, to be tried again {document['planned']:,}"
        )
        for reason, leads in document["excluded_by_reason"].items():
            if leads:
                say(f"  left out, {reason.replace('_', ' ')}: {leads:,}")
        say(f"  calls: {document['calls']:,}; chunks: {document['chunks_finished']}/{document['chunks']}")


@app.command()
def watch(
    campaign_id: CampaignId,
    every_seconds: Annotated[float, typer.Option("--every", help="Seconds between two looks.", min=0.1, max=60)] = 1.0,
) -> None:
    """Watch one campaign until it has ended; says what it waits for and what to do. Ctrl-C ends the watching only.

    Where standard output is no terminal, it prints a line for each change. Exit code 1 where the campaign failed or
    was cancelled.
    """
    from email_platform.local.demo.terminal import ProgressDisplay
    from email_platform.runs.campaign_state import watch_campaign

    before, shown = None, ""
    with open_watched() as (parts, accounts), ProgressDisplay(plain_interval_seconds=0.0) as display:
        for state in watch_campaign(parts, accounts, campaign_id, lambda: time.sleep(every_seconds)):
            progress = _progress(state)
            counts = replace(progress, recipients_per_second=0.0, eta_seconds=None)
            if display.console.is_terminal or counts != before:  # elsewhere a new rate alone is no change
                display.update([progress])
            before, words = counts, _waiting_words(state)
            if words and _kind_of(words) != _kind_of(shown):
                display.say(words)
            shown = words
    status = state.campaign.status
    reason = f": {visible(state.campaign.status_reason)}" if state.campaign.status_reason else ""
    say(f"campaign {campaign_id} is {status}{reason}", style=_STATUS_STYLES.get(status))
    if status is not CampaignStatus.SENT:
        raise typer.Exit(ExitCode.REFUSED)


@contextmanager
def open_watched() -> Iterator[tuple[Parts, AccountUses]]:
    """What a campaign's state is read from."""
    from email_platform.adapters.assembly import account_rate, open_oltp, open_parts
    from email_platform.adapters.postgres.account_use import PostgresAccountUses

    settings = Settings.load()
    with open_parts(settings) as parts, open_oltp(settings) as engine:
        yield parts, PostgresAccountUses(engine, lambda provider, name: account_rate(provider, name, os.environ))


def say_waiting(state: CampaignState) -> None:
    """Print what the campaign waits for and what to do, where it waits."""
    if state.waiting is not None:
        say(f"  waits for: {state.waiting.kind.replace('_', ' ')} - {visible(state.waiting.what)}", style="yellow")
        if state.waiting.do:
            say(f"  to do: {visible(state.waiting.do)}", style="yellow")


def _progress(state: CampaignState) -> CampaignProgress:
    from email_platform.local.demo.terminal import CampaignProgress

    totals = state.totals
    return CampaignProgress(
        campaign_id=state.campaign.campaign_id,
        name=visible(state.campaign.name),
        status=state.campaign.status,
        eligible=state.manifest.eligible_rows if state.manifest else 0,
        accepted=totals.accepted,
        rejected=totals.rejected,
        unknown=totals.unknown + totals.in_call,
        calls=sum(totals.calls_by_state.values()),
        recipients_per_second=state.recipients_per_second,
        eta_seconds=state.eta_seconds,
        chunks_done=totals.chunks_finished,
        chunks_total=totals.chunks,
    )


def _waiting_words(state: CampaignState) -> str:
    waiting = state.waiting
    if waiting is None:
        return ""
    return visible(waiting.what + (f". To do: {waiting.do}" if waiting.do else ""))


def _kind_of(words: str) -> str:
    """The words without their figures: a wait of 3 s and then of 2 s is one wait."""
    return "".join(one for one in words if not one.isdigit())


def _short(condition: object) -> str:
    text = json.dumps(condition, ensure_ascii=False)
    return text if len(text) <= 400 else text[:400] + " …"
