"""All campaigns on one page."""

from __future__ import annotations

import pandas as pd

from email_platform.reporting import charts
from email_platform.reporting.frames import OverviewFrames, without_gaps
from email_platform.reporting.page import Page, Section, Table, count, duration, moment, percent, render, share, text
from email_platform.reporting.sections import domains_section, reasons_section

_DAY_SECONDS = 86_400


def overview_report(frames: OverviewFrames) -> str:
    """The overview as one HTML document, also of no campaign at all.

    Args:
        frames: of all campaigns; `totals` has one row.
    """
    totals = frames.totals.iloc[0]
    newest = totals["snapshot_at"]
    return render(
        Page(
            title="All campaigns",
            words=f"{count(totals['campaigns'])} campaigns, those of the old system included.",
            figures={
                "campaigns": count(totals["campaigns"]),
                "to be mailed": count(totals["eligible"]),
                "accepted": count(totals["accepted"]),
                "delivered, of accepted": share(totals["delivered"], totals["accepted"]),
                "opened, of delivered": share(totals["opened"], totals["delivered"]),
                "complained, of delivered": share(totals["complained"], totals["delivered"]),
            },
            sections=(
                _campaigns(frames, int(totals["campaigns"])),
                _days(frames),
                domains_section(frames.domains),
                reasons_section(frames.reasons),
            ),
            currency=[
                f"Status and audience are those of {moment(newest)}. The other figures hold what was "
                f"loaded until {moment(totals['as_of'])}."
                if pd.notna(newest)
                else "No campaign is in the reports yet.",
                "Every delivery that is staged is counted."
                if not totals["not_loaded"]
                else f"{count(totals['not_loaded'])} deliveries are staged and not counted here.",
            ],
        )
    )


def _campaigns(frames: OverviewFrames, campaigns: int) -> Section:
    rows = [
        [
            str(row.campaign_id), text(row.name), text(row.status), moment(row.first_sent_at), count(row.eligible),
            count(row.accepted), count(row.delivered), share(row.delivered, row.accepted), count(row.bounced_hard),
            percent(row.open_rate), percent(row.click_rate),
            percent(row.unsubscribe_rate), percent(row.complaint_rate),
        ]
        for row in frames.campaigns.itertuples()
    ]  # fmt: skip
    headings = (
        *("campaign", "name", "status", "first sent", "to be mailed", "accepted", "delivered", "of accepted"),
        *("hard bounces", "opened", "clicked", "unsubscribed", "complained"),
    )
    shown = len(frames.campaigns)
    words = (
        "The newest first." if shown == campaigns else f"The newest {shown:,} of {campaigns:,}; the sums are of all."
    )
    return Section(
        "campaigns",
        "Campaigns",
        f"{words} Opened, clicked, unsubscribed and complained are shares of delivered.",
        table=Table(headings, rows, texts=3),
    )


def _days(frames: OverviewFrames) -> Section:
    filled = without_gaps(frames.days, frames.days_step_seconds)
    rows = [
        [f"{row.at:%Y-%m-%d}", count(row.accepted), count(row.delivered), count(row.opened), count(row.bounced)]
        for row in filled.itertuples()
    ]
    days = frames.days_step_seconds // _DAY_SECONDS
    step = "by UTC day" if days == 1 else f"in steps of {duration(frames.days_step_seconds)}"
    return Section(
        "days",
        "Emails over time",
        f"Recipients by the time of the provider's answer, {step}. What became of a message later counts on its day.",
        charts.lines("chart-days", "Recipients accepted, delivered and opened over time", filled["at"],
                     {name: filled[name] for name in ("accepted", "delivered", "opened")}, "recipients"),
        Table(("from", "accepted", "delivered", "opened", "bounced"), rows),
    )  # fmt: skip
