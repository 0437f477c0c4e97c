"""Leads of every kind of the demo, each asked why it was mailed or not, and the answer compared with what happened.

Invariant: what happened is read elsewhere than `explain` reads it: of called leads in the provider's own log, with the
events that it reported; of the others in the whole frozen audience.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console

from email_platform.domain.identity import message_id
from email_platform.domain.manifest import EXCLUSION_REASONS, ExclusionReason
from email_platform.domain.storage_layout import eligible_key, excluded_key
from email_platform.local.demo.terminal import Cell, print_table
from email_platform.local.demo.watch import DemoWatch
from email_platform.runs.explain import explain
from email_platform.runs.explanation import ExplainParts, Explanation, Verdict
from email_platform.staging.accounting import AccountingLine

_SAME_ADDRESS = 20
_NOBODY = 2**62  # no lead has this id
_LEFT_OUT: Mapping[ExclusionReason, str] = {
    "suppressed": "left out: the address is on the suppression list",
    "unsubscribed": "left out: the address, or the lead, has unsubscribed",
    "invalid_address": "is no address that can be mailed",
    "duplicate_address": "has the same address and got the message",
    "unreadable": "left out: the lead's attributes cannot be read",
}


@dataclass(frozen=True, slots=True)
class Asked:
    """A lead, and what the answer must be.

    Attributes:
        kind: of lead, as people would say it.
        verdict: that the answer must have.
        words: that its summary must have.
        events: the types that its timeline must have, and no other.
    """

    kind: str
    campaign_id: int
    lead_id: int
    verdict: Verdict
    words: str
    events: frozenset[str] = frozenset()

    def is_answered_by(self, found: Explanation) -> bool:
        """Whether the answer says what happened."""
        events = {fact.text.partition(",")[0] for fact in found.facts if fact.kind == "event"}
        return found.verdict == self.verdict and self.words in found.summary and events == self.events


def leads_to_ask(watch: DemoWatch, explaining: ExplainParts) -> Iterator[Asked]:
    """One lead of each kind that each campaign has; the provider's part needs the simulator's log."""
    for campaign_id in watch.ids:
        yield from _called(watch, explaining, campaign_id)
        yield from _not_called(watch, explaining, campaign_id)


def _called(watch: DemoWatch, explaining: ExplainParts, campaign_id: int) -> Iterator[Asked]:
    if watch.log is None:
        return
    for row in watch.log.one_of_each_plan(str(campaign_id)):
        lead_id = _lead_of(explaining, campaign_id, row.recipient, row.message_id)
        events = frozenset(plan.partition(":")[0] for plan in row.planned_events.split(",") if plan)
        kind = "accepted, then " + (row.planned_events.replace(",", ", ").replace(":", " ") or "silence")
        yield Asked(kind, campaign_id, lead_id, "accepted", "mailed: the provider accepted the message", events)
    for refused in watch.log.one_of_each_refusal(str(campaign_id)):
        lead_id = _lead_of(explaining, campaign_id, refused.recipient, refused.message_id)
        yield Asked(f"refused: {refused.code}", campaign_id, lead_id, "rejected", refused.message)


def _lead_of(explaining: ExplainParts, campaign_id: int, address: str, message: str) -> int:
    """The lead to whom a message was addressed; 0, which no lead has, where none is found."""
    for lead in explaining.leads.with_address(address.lower(), _SAME_ADDRESS) or ():
        if str(message_id(campaign_id, lead.lead_id)) == message:
            return lead.lead_id
    return 0


def _not_called(watch: DemoWatch, explaining: ExplainParts, campaign_id: int) -> Iterator[Asked]:
    excluded = watch.frozen(campaign_id, excluded_key, ["lead_id", "reason"]).to_pydict()
    eligible = watch.frozen(campaign_id, eligible_key, ["lead_id"]).column("lead_id").to_pylist()
    first_of: dict[str, int] = {}
    for lead_id, reason in zip(excluded["lead_id"], excluded["reason"], strict=True):
        first_of.setdefault(reason, lead_id)
    for reason in EXCLUSION_REASONS:
        if reason in first_of:
            kind = f"left out: {reason.replace('_', ' ')}"
            yield Asked(kind, campaign_id, first_of[reason], "excluded", _LEFT_OUT[reason])
    considered = {*eligible, *excluded["lead_id"]}
    between = range(min(considered, default=0), max(considered, default=0))
    others = (lead_id for lead_id in between if lead_id not in considered)
    outside = next((lead_id for lead_id in others if explaining.leads.lead(lead_id, ()) is not None), None)
    if outside is not None:
        yield Asked("outside the audience", campaign_id, outside, "not_in_audience", "the condition is not met: ")
    yield Asked("no such lead", campaign_id, _NOBODY, "not_in_audience", "there is no row of the lead now")


def explained_lines(watch: DemoWatch, explaining: ExplainParts, console: Console) -> list[AccountingLine]:
    """Ask for each lead, show an answer of each kind, and count the right ones of each campaign."""
    right: dict[int, int] = defaultdict(int)
    asked: dict[int, int] = defaultdict(int)
    shown: dict[str, Sequence[Cell]] = {}
    for one in leads_to_ask(watch, explaining):
        found = explain(explaining, one.campaign_id, one.lead_id)
        is_right = one.is_answered_by(found)
        asked[one.campaign_id] += 1
        right[one.campaign_id] += is_right
        if one.kind not in shown or not is_right:
            shown[one.kind] = [one.kind, one.campaign_id, str(one.lead_id), found.summary, is_right]
    print_table(
        f"email-platform explain: {sum(asked.values())} leads of {len(shown)} kinds (an answer of each kind)",
        ["what happened to the lead", "campaign", "lead", "the answer", "right"],
        [shown[kind] for kind in sorted(shown)],
        console=console,
    )
    return [
        AccountingLine(
            f"campaign {campaign_id}: explain's answers are what happened",
            ("leads of each kind", asked[campaign_id]),
            ("right answers", right[campaign_id]),
        )
        for campaign_id in watch.ids
    ]
