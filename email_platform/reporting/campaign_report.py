"""One campaign's report."""

from __future__ import annotations

from typing import Any

import pandas as pd

from email_platform.reporting import charts
from email_platform.reporting.frames import CampaignFrames, without_gaps
from email_platform.reporting.page import (
    Page,
    Section,
    Table,
    count,
    duration,
    moment,
    number,
    percent,
    render,
    share,
    text,
)
from email_platform.reporting.sections import domains_section, reasons_section

_EXCLUSIONS = {
    "excluded_suppressed": "address suppressed",
    "excluded_unsubscribed": "lead unsubscribed",
    "excluded_invalid_address": "address missing or invalid",
    "excluded_duplicate_address": "another lead with this address is mailed",
    "excluded_unreadable": "lead's attributes cannot be read",
}
_ANSWERS = {
    "accepted": "accepted by the provider",
    "rejected": "rejected by the provider",
    "unknown": "outcome not known",
    "abandoned": "outcome not known, given up",
    "not_attempted": "not attempted or not loaded yet",
}
_LAST_WORDS = {
    "delivered": "delivered",
    "bounced_hard": "bounced for good",
    "bounced_soft": "bounced for now",
    "blocked": "blocked (reputation, content or policy)",
    "rejected_later": "accepted, then not tried",
}
_REACTIONS = {"opened": "opened", "clicked": "clicked", "unsubscribed": "unsubscribed", "complained": "complained"}


def campaign_report(frames: CampaignFrames) -> str:
    """The campaign's report as one HTML document.

    Args:
        frames: of one campaign; `summary` has its row.
    """
    summary = frames.summary.iloc[0]
    return render(
        Page(
            title=f"Campaign {int(summary['campaign_id'])}: {text(summary['name'])}",
            words=_words(summary),
            figures=campaign_figures(summary),
            sections=(
                _audience(summary),
                _sending(frames, summary),
                _outcome(summary),
                _reactions(frames),
                domains_section(frames.domains),
                reasons_section(frames.reasons),
                _unsubscribes(frames, summary),
            ),
            currency=_currency(summary),
        )
    )


def campaign_figures(summary: pd.Series) -> dict[str, str]:
    """The most important figures by name, as texts; of a row of `campaign_summary`."""
    return {
        "audience": count(summary["considered"]),
        "accepted": count(summary["accepted"]),
        "delivered": percent(summary["delivered_rate"]),
        "opened, of delivered": percent(summary["open_rate"]),
        "unsubscribed, of delivered": percent(summary["unsubscribe_rate"]),
        "emails per minute": number(summary["emails_per_minute"]),
    }


def _words(summary: pd.Series) -> str:
    owner = text(summary["owner_name"]) if pd.notna(summary["owner_name"]) else f"user {int(summary['owner_id'])}"
    status = f"status {text(summary['status'])}"
    if pd.notna(summary["status_reason"]) and summary["status_reason"]:
        status += f" ({text(summary['status_reason'])})"
    return f"Of {owner}; {status}{', deleted since' if summary['is_deleted'] else ''}."


def _counted(summary: pd.Series, names: dict[str, str], whole: Any) -> tuple[list[str], list[int], list[list[str]]]:
    """Labels, counts and rows of a table for columns of the summary."""
    counts = [int(summary[name]) for name in names]
    rows = [[label, count(one), share(one, whole)] for label, one in zip(names.values(), counts, strict=True)]
    return list(names.values()), counts, rows


def _audience(summary: pd.Series) -> Section:
    names = {"eligible": "to be mailed", **_EXCLUSIONS}
    labels, counts, rows = _counted(summary, names, summary["considered"])
    return Section(
        "audience",
        "Audience and exclusions",
        f"{count(summary['considered'])} leads met the condition; {count(summary['eligible'])} are to be mailed, "
        f"{count(summary['excluded'])} are left out.",
        charts.bars("chart-audience", "Leads by whether and why they are left out", labels, counts),
        Table(("leads", "count", "of those that met the condition"), rows),
    )


def _sending(frames: CampaignFrames, summary: pd.Series) -> Section:
    step = frames.sending_step_seconds
    filled = without_gaps(frames.sending, step)
    per_minute = filled["accepted"] * 60 / step
    rows = [
        [moment(row.at), count(row.accepted), number(rate), count(row.rejected)]
        for row, rate in zip(filled.itertuples(), per_minute, strict=True)
    ]
    words = f"By the time of the provider's answer, in steps of {duration(step)}."
    if pd.notna(summary["first_sent_at"]):
        words = (
            f"From {moment(summary['first_sent_at'])} to {moment(summary['last_sent_at'])}, "
            f"{duration(summary['duration_seconds'])}. {words}"
        )
    return Section(
        "sending",
        "Sending rate",
        words,
        charts.lines("chart-sending", "Accepted emails per minute over time", filled["at"],
                     {"accepted per minute": per_minute}, "per minute"),
        Table(("from", "accepted", "per minute", "rejected"), rows),
    )  # fmt: skip


def _outcome(summary: pd.Series) -> Section:
    answers, answer_counts, answer_rows = _counted(summary, _ANSWERS, summary["eligible"])
    words, word_counts, word_rows = _counted(summary, _LAST_WORDS, summary["eligible"])
    reactions, reaction_counts, reaction_rows = _counted(summary, _REACTIONS, summary["eligible"])
    return Section(
        "outcome",
        "Outcome",
        "The first five rows are the provider's answers: each recipient is in exactly one. The next five are what "
        "became of the messages: each recipient is in at most one. The last four are recipients who reacted.",
        charts.bars(
            "chart-outcome",
            "Recipients by outcome",
            [*answers, *words, *reactions],
            [*answer_counts, *word_counts, *reaction_counts],
        ),
        Table(("recipients", "count", "of those to be mailed"), [*answer_rows, *word_rows, *reaction_rows]),
    )


def _reactions(frames: CampaignFrames) -> Section:
    filled = without_gaps(frames.reactions, frames.reactions_step_seconds)
    rows = [
        [moment(row.at), count(row.delivered), count(row.opened), count(row.clicked), count(row.bounced)]
        for row in filled.itertuples()
    ]
    return Section(
        "reactions",
        "Deliveries, opens and clicks over time",
        f"Recipients by their first event of each kind, in steps of {duration(frames.reactions_step_seconds)}. "
        "The chart shows the sums so far, the table what each step adds.",
        charts.lines("chart-reactions", "Recipients delivered to, opened and clicked so far, over time", filled["at"],
                     {name: filled[name].cumsum() for name in ("delivered", "opened", "clicked")}, "recipients"),
        Table(("from", "delivered", "opened", "clicked", "bounced"), rows),
    )  # fmt: skip


def _unsubscribes(frames: CampaignFrames, summary: pd.Series) -> Section:
    names = ["unsubscribed", "complained"]
    some = frames.reactions[frames.reactions[names].sum(axis=1) > 0]
    filled = without_gaps(some, frames.reactions_step_seconds)
    rows = [[moment(row.at), count(row.unsubscribed), count(row.complained)] for row in filled.itertuples()]
    return Section(
        "unsubscribes",
        "Unsubscribes and complaints",
        f"{count(summary['unsubscribed'])} recipients unsubscribed, "
        f"{percent(summary['unsubscribe_rate'])} of delivered; "
        f"{count(summary['complained'])} complained, "
        f"{percent(summary['complaint_rate'])} of delivered.",
        charts.lines("chart-unsubscribes", "Unsubscribes and complaints over time", filled["at"],
                     {name: filled[name] for name in names}, "recipients"),
        Table(("from", "unsubscribed", "complained"), rows),
    )  # fmt: skip


def _currency(summary: pd.Series) -> list[str]:
    not_loaded = int(summary["not_loaded"])
    whole = (
        "Every delivery that is staged is counted."
        if not_loaded == 0
        else f"{count(not_loaded)} deliveries are staged and not counted here: still to be loaded, or set aside."
    )
    return [
        f"Status and audience are those of {moment(summary['snapshot_at'])}. The other figures hold what was "
        f"loaded until {moment(summary['as_of'])}.",
        whole,
        "Bounces, opens and complaints that come later correct these figures at the next refresh.",
    ]
