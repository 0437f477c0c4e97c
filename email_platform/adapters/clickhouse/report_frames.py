"""The marts as frames for `email_platform.reporting`: counted by ClickHouse, a few hundred rows at any size.

Invariant: what is read does not grow with the recipients, whatever times events carry; the counts are the marts'.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from email_platform.adapters.clickhouse.address import reports_database_beside
from email_platform.adapters.clickhouse.warehouse import ClickHouseWarehouse
from email_platform.errors import CommandRefusedError
from email_platform.reporting.frames import (
    MOST_CAMPAIGNS,
    MOST_DOMAINS,
    MOST_REASONS,
    CampaignFrames,
    OverviewFrames,
    bucket_seconds,
)

_COUNTS = (
    *("accepted", "rejected", "unknown", "abandoned", "delivered", "bounced_hard", "bounced_soft", "blocked"),
    *("rejected_later", "complained", "opened", "clicked", "unsubscribed"),
)
_SUMS = ", ".join(f"sum({name}) as {name}" for name in _COUNTS)
_FIRST_EVENTS = {
    "delivered": "delivered_at",
    "opened": "opened_at",
    "clicked": "clicked_at",
    "bounced": "bounced_at",
    "complained": "complained_at",
    "unsubscribed": "unsubscribed_at",
}
_OF_CAMPAIGN = "campaign_id = {campaign:Int64}"
_REACTION_STEP_SECONDS = 60
_DAY_SECONDS = 86_400


def read_campaign(warehouse: ClickHouseWarehouse, campaign_id: int) -> CampaignFrames:
    """One campaign's frames, as of the reports' last refresh.

    Raises:
        CommandRefusedError: the reports have no such campaign.
        ConfigurationError, PartUnavailableError: ClickHouse refuses, lacks the reports or does not answer.
    """
    marts = reports_database_beside(warehouse.database)
    bound: dict[str, Any] = {"campaign": campaign_id}
    summary = warehouse.query_frame(f"select * from {marts}.campaign_summary where {_OF_CAMPAIGN}", bound)  # noqa: S608
    if summary.empty:
        raise CommandRefusedError(
            f"the reports have no campaign {campaign_id}: correct the id or refresh the reports (Dagster's reports_job)"
        )
    recipients = f"{marts}.campaign_recipients"
    span = warehouse.query(
        f"select min(occurred_at), max(occurred_at) from {recipients} where {_OF_CAMPAIGN} "  # noqa: S608
        "and outcome in ('accepted', 'rejected')",
        bound,
    )[0]
    sending_step = bucket_seconds((span[1] - span[0]).total_seconds())
    sending = warehouse.query_frame(
        f"""
        select
            intDiv(toUnixTimestamp(occurred_at), {{step:Int64}}) * {{step:Int64}} as bucket,
            countIf(outcome = 'accepted') as accepted,
            countIf(outcome = 'rejected') as rejected
        from {recipients}
        where {_OF_CAMPAIGN} and outcome in ('accepted', 'rejected')
        group by bucket
        order by bucket
        """,  # noqa: S608 - constants and our own database's name
        {**bound, "step": sending_step},
    )
    moments = f"""
        select
            tupleElement(happened, 1) as kind,
            toUnixTimestamp64Second(assumeNotNull(tupleElement(happened, 2))) as second
        from {recipients}
        array join [{", ".join(f"('{kind}', {column})" for kind, column in _FIRST_EVENTS.items())}] as happened
        where {_OF_CAMPAIGN} and tupleElement(happened, 2) is not null
    """  # noqa: S608
    earliest, latest = warehouse.query(f"select min(second), max(second) from ({moments})", bound)[0]  # noqa: S608
    step = bucket_seconds(int(latest) - int(earliest), _REACTION_STEP_SECONDS)
    reactions = warehouse.query_frame(
        f"""
        select
            intDiv(second, {{step:Int64}}) * {{step:Int64}} as bucket,
            {", ".join(f"countIf(kind = '{kind}') as {kind}" for kind in _FIRST_EVENTS)}
        from ({moments})
        group by bucket
        order by bucket
        """,  # noqa: S608
        {**bound, "step": step},
    )
    return CampaignFrames(
        summary=summary,
        sending_step_seconds=sending_step,
        sending=sending,
        reactions_step_seconds=step,
        reactions=reactions,
        domains=_domains(warehouse, marts, _OF_CAMPAIGN, bound),
        reasons=_reasons(warehouse, marts, _OF_CAMPAIGN, bound),
    )


def read_overview(warehouse: ClickHouseWarehouse) -> OverviewFrames:
    """The frames of all campaigns, as of the reports' last refresh.

    Raises:
        ConfigurationError, PartUnavailableError: ClickHouse refuses, lacks the reports or does not answer.
    """
    marts = reports_database_beside(warehouse.database)
    first, last = warehouse.query(f"select min(activity_date), max(activity_date) from {marts}.sender_activity", {})[0]  # noqa: S608
    step = bucket_seconds((last - first).days * _DAY_SECONDS, _DAY_SECONDS)
    return OverviewFrames(
        totals=warehouse.query_frame(
            f"select count() as campaigns, sum(eligible) as eligible, sum(not_loaded) as not_loaded, {_SUMS}, "  # noqa: S608
            f"maxOrNull(snapshot_at) as snapshot_at, max(as_of) as as_of from {marts}.campaign_summary",
            {},
        ),
        campaigns=warehouse.query_frame(
            f"select * from {marts}.campaign_summary "  # noqa: S608
            "order by first_sent_at desc nulls first, campaign_id desc limit {most:UInt32}",
            {"most": MOST_CAMPAIGNS},
        ),
        days_step_seconds=step,
        days=warehouse.query_frame(
            f"""
            select
                intDiv(toInt64(toUnixTimestamp(toDateTime(activity_date, 'UTC'))), {{step:Int64}}) * {{step:Int64}}
                    as bucket,
                sum(activity.accepted) as accepted,
                sum(activity.delivered) as delivered,
                sum(activity.opened) as opened,
                sum(activity.bounced_hard + activity.bounced_soft) as bounced
            from {marts}.sender_activity as activity
            group by bucket
            order by bucket
            """,  # noqa: S608
            {"step": step},
        ),
        domains=_domains(warehouse, marts, "true", {}),
        reasons=_reasons(warehouse, marts, "true", {}),
    )


def _domains(warehouse: ClickHouseWarehouse, marts: str, condition: str, bound: dict[str, Any]) -> pd.DataFrame:
    """The domains with the most recipients, and all others as one row whose domain is null."""
    source = f"{marts}.int_campaign_domains as counted where {condition}"
    tried = "sum(counted.accepted + counted.rejected + counted.unknown + counted.abandoned)"
    sums = ", ".join(f"sum(counted.{name}) as {name}" for name in _COUNTS)
    return warehouse.query_frame(
        f"""
        with largest as (
            select counted.recipient_domain
            from {source}
            group by counted.recipient_domain
            order by {tried} desc, counted.recipient_domain
            limit {{most:UInt32}}
        )
        select if(counted.recipient_domain in largest, counted.recipient_domain, null) as domain, {sums}
        from {source}
        group by domain
        order by domain is null, {tried} desc, domain
        """,  # noqa: S608
        {**bound, "most": MOST_DOMAINS},
    ).rename(columns={"domain": "recipient_domain"})


def _reasons(warehouse: ClickHouseWarehouse, marts: str, condition: str, bound: dict[str, Any]) -> pd.DataFrame:
    """The most frequent reasons, and all others as one row of nulls. Reasons in words stay out: they name addresses."""
    return warehouse.query_frame(
        f"""
        with reasons as (
            select
                toString(problem) as problem,
                toString(reason_class) as reason_class,
                toString(reason_code) as reason_code,
                sum(mart.recipients) as recipients,
                row_number() over (order by recipients desc, problem, reason_class, reason_code) <= {{most:UInt32}}
                    as is_named
            from {marts}.bounce_reasons as mart
            where {condition}
            group by problem, reason_class, reason_code
        )
        select
            if(is_named, reasons.problem, null) as named_problem,
            if(is_named, reasons.reason_class, null) as named_class,
            if(is_named, reasons.reason_code, null) as named_code,
            sum(reasons.recipients) as all_recipients
        from reasons
        group by named_problem, named_class, named_code
        order by named_problem is null, all_recipients desc, named_problem, named_class, named_code
        """,  # noqa: S608
        {**bound, "most": MOST_REASONS},
    ).rename(
        columns={
            "named_problem": "problem",
            "named_class": "reason_class",
            "named_code": "reason_code",
            "all_recipients": "recipients",
        }
    )
