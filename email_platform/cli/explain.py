"""`email-platform explain`: why a lead was mailed by a campaign, or was not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from email_platform.cli.output import AsJson, print_json, say, utc_text, visible
from email_platform.settings import Settings

if TYPE_CHECKING:
    from email_platform.runs.explanation import AddressHistory, Explanation

app = typer.Typer()


@app.command()
def explain(
    campaign: Annotated[int | None, typer.Option(help="The campaign's id.", min=1, max=2**63 - 1)] = None,
    lead: Annotated[int | None, typer.Option(help="The lead's id.", min=1, max=2**63 - 1)] = None,
    address: Annotated[str | None, typer.Option(help="An address, over all campaigns.")] = None,
    limit: Annotated[int, typer.Option(help="With --address: how many emails, the newest first.", min=1, max=500)] = 50,
    as_json: AsJson = False,
) -> None:
    """Explain why a lead was mailed by a campaign or was not, or show what is known of an address.

    Give --campaign and --lead, or --address. The answer is also right while the campaign is sending.
    """
    if (address is None) == (campaign is None and lead is None) or (campaign is None) != (lead is None):
        raise typer.BadParameter("give --campaign and --lead, or --address")
    from email_platform.adapters.assembly import open_explain
    from email_platform.runs import explain as explaining
    from email_platform.runs.documents import explanation_document

    with open_explain(Settings.load()) as parts:
        if address is not None:
            if not address.strip():
                raise typer.BadParameter("the address is empty")
            history = explaining.explain_address(parts, address, limit)
            _show_history(history, as_json=as_json)
        elif campaign is not None and lead is not None:
            found = explaining.explain(parts, campaign, lead)
            if as_json:
                print_json(explanation_document(found))
            else:
                _show(found)


def _show(found: Explanation) -> None:
    say(f"campaign {found.campaign_id}, lead {found.lead_id}: {visible(found.summary)}")
    for fact in found.facts:
        say(f"  {utc_text(fact.at) if fact.at else 'now':<20}  {fact.kind:<12}  {visible(fact.text)}")


def _show_history(history: AddressHistory, *, as_json: bool) -> None:
    if as_json:
        from email_platform.runs.documents import history_document

        print_json(history_document(history))
        return
    say(visible(history.address))
    for suppression in history.suppressions:
        scope = "every sender" if suppression.sender_id is None else f"sender {suppression.sender_id}"
        reason = suppression.reason.replace("_", " ")
        say(f"  suppressed for {scope}: {reason}, by {visible(suppression.source)}, {utc_text(suppression.created_at)}")
    if not history.suppressions:
        say("  not on the suppression list")
    if history.leads is None:
        say("  which leads have it now is not known: searching took too long")
    for lead in history.leads or ():
        opted_out = f", unsubscribed {utc_text(lead.unsubscribed_at)}" if lead.unsubscribed_at else ""
        say(f"  lead {lead.lead_id} has it now{opted_out}")
    for found in history.open_campaigns:
        say(f"  campaign {found.campaign_id}, lead {found.lead_id}: {visible(found.summary)}")
    if history.emails is None:
        say("  loaded emails are not known: the warehouse does not answer")
    for email in history.emails or ():
        why = f": {visible(email.error)}" if email.error else ""
        events = "".join(f", {visible(event.type)}" for event in email.events)
        say(
            f"  {utc_text(email.occurred_at)}  campaign {email.campaign_id}, lead {email.lead_id}: "
            f"{visible(email.status)}{why}{events}"
        )
