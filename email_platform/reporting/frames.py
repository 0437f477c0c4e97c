"""What a report is made of: pandas frames, counted by the warehouse; more recipients do not make them larger."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

MOST_BUCKETS = 60
"""Of a line over time: more look alike in print."""
MOST_DOMAINS = 15
MOST_REASONS = 15
MOST_CAMPAIGNS = 200
"""Rows of the overview; its sums and charts are over all campaigns."""
_STEPS_SECONDS = (
    *(1, 2, 5, 10, 15, 30),
    *(60, 120, 300, 600, 900, 1_800),
    *(3_600, 7_200, 10_800, 21_600, 43_200),
    *(86_400, 172_800, 604_800, 2_592_000),
)


@dataclass(frozen=True, slots=True)
class CampaignFrames:
    """One campaign.

    Attributes:
        summary: its one row of the mart `campaign_summary`.
        sending_step_seconds: the width of a bucket of `sending`.
        sending: recipients by the time of the provider's answer. Columns bucket (seconds since 1970, UTC), accepted,
            rejected; a bucket without any has no row.
        reactions_step_seconds: the width of a bucket of `reactions`.
        reactions: recipients by the time of their first event of each kind. Columns bucket, delivered, opened, clicked,
            bounced, complained, unsubscribed.
        domains: recipients by domain, the largest first, columns recipient_domain (null: all others together) and
            the counts of `campaign_summary`.
        reasons: recipients whose message did not arrive, columns problem, reason_class, reason_code (the three are null
            in the row of all others together), recipients.
    """

    summary: pd.DataFrame
    sending_step_seconds: int
    sending: pd.DataFrame
    reactions_step_seconds: int
    reactions: pd.DataFrame
    domains: pd.DataFrame
    reasons: pd.DataFrame


@dataclass(frozen=True, slots=True)
class OverviewFrames:
    """All campaigns.

    Attributes:
        totals: one row: campaigns, the sums of the counts of `campaign_summary`, snapshot_at, as_of.
        campaigns: the newest rows of `campaign_summary`, at most `MOST_CAMPAIGNS`.
        days_step_seconds: the width of a bucket of `days`, whole days.
        days: recipients by the UTC day of the provider's answer. Columns bucket (seconds since 1970), accepted,
            delivered, opened, bounced.
        domains: as of a campaign.
        reasons: as of a campaign.
    """

    totals: pd.DataFrame
    campaigns: pd.DataFrame
    days_step_seconds: int
    days: pd.DataFrame
    domains: pd.DataFrame
    reasons: pd.DataFrame


def bucket_seconds(span_seconds: float, least_seconds: int = 1) -> int:
    """The width that cuts a span into at most `MOST_BUCKETS` buckets: a round one where there is one.

    Buckets begin at multiples of the width since 1970, so a span may touch one more than it fills.
    """
    for step in _STEPS_SECONDS:
        if step >= least_seconds and span_seconds / step <= MOST_BUCKETS - 1:
            return step
    longest = _STEPS_SECONDS[-1]
    return longest * (int(span_seconds / longest / (MOST_BUCKETS - 1)) + 1)


def without_gaps(frame: pd.DataFrame, step_seconds: int) -> pd.DataFrame:
    """The buckets in order, those without rows as zeros, with a column `at` (UTC)."""
    if frame.empty:
        return frame.assign(at=pd.Series(dtype="datetime64[s, UTC]"))
    buckets = range(int(frame["bucket"].min()), int(frame["bucket"].max()) + step_seconds, step_seconds)
    filled = frame.set_index("bucket").reindex(buckets, fill_value=0).rename_axis("bucket").reset_index()
    return filled.assign(at=pd.to_datetime(filled["bucket"], unit="s", utc=True))
