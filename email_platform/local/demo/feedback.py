"""The provider's events about the demo's messages, counted wherever they left a trace, and the leads left out for them.

Invariant: each line compares the simulator's own log with the result at the other end; the two sides are counted
independently.
"""

from __future__ import annotations

from rich.console import Console

from email_platform.domain.manifest import EXCLUSION_REASONS
from email_platform.domain.storage_layout import eligible_key, excluded_key
from email_platform.local.demo.terminal import print_table
from email_platform.local.demo.watch import DemoWatch
from email_platform.runs.parts import find_manifest
from email_platform.staging.accounting import AccountingLine


def stored_events(watch: DemoWatch) -> dict[int, int]:
    """The provider's events in the warehouse by campaign, each once."""
    rows = watch.warehouse.client.query(
        """
        select campaign_id, uniqExact(event_key) from event
        where campaign_id in {ids:Array(Int64)} and provider != 'platform' group by campaign_id
        """,
        parameters={"ids": watch.ids},
    ).result_rows
    return {int(campaign_id): int(events) for campaign_id, events in rows}


def event_lines(watch: DemoWatch) -> list[AccountingLine]:
    """The provider's log against what was acknowledged, stored and reported; nothing with a real provider."""
    if watch.log is None:
        return []
    stored, reported, old_table = stored_events(watch), _reported(watch), _bounced_in_old_table(watch)
    lines = []
    for campaign_id in watch.ids:
        counts = watch.log.events_by_type(str(campaign_id))
        bounced, complained = counts.get("bounced", 0), counts.get("complained", 0)
        acknowledged = watch.log.acknowledged_events(str(campaign_id))
        reported_bounced, reported_complained = reported.get(campaign_id, (0, 0))
        provider = "provider's log"
        for name, left, right in (
            ("events acknowledged", (provider, sum(counts.values())), ("receivers' 2xx", acknowledged)),
            ("events stored once", ("receivers' 2xx", acknowledged), ("warehouse", stored.get(campaign_id, 0))),
            ("bounced", (provider, bounced), ("campaign_summary", reported_bounced)),
            ("bounced in the old table's view", (provider, bounced), ("email", old_table.get(campaign_id, 0))),
            ("complained", (provider, complained), ("campaign_summary", reported_complained)),
        ):
            lines.append(AccountingLine(f"campaign {campaign_id}: {name}", left, right))
    return lines


def _reported(watch: DemoWatch) -> dict[int, tuple[int, int]]:
    rows = watch.warehouse.client.query(
        f"""
        select campaign_id, bounced_hard + bounced_soft, complained
        from {watch.reports}.campaign_summary where campaign_id in {{ids:Array(Int64)}}
        """,  # noqa: S608 (our own name)
        parameters={"ids": watch.ids},
    ).result_rows
    return {int(campaign_id): (int(bounced), int(complained)) for campaign_id, bounced, complained in rows}


def feedback_is_reported(watch: DemoWatch) -> bool:
    """Whether the reports show every event of the simulator's log; always true with a real provider."""
    if watch.log is None:
        return True
    by_campaign = {one: watch.log.events_by_type(str(one)) for one in watch.ids}
    return _reported(watch) == {
        one: (counts.get("bounced", 0), counts.get("complained", 0)) for one, counts in by_campaign.items()
    }


def _bounced_in_old_table(watch: DemoWatch) -> dict[int, int]:
    rows = watch.warehouse.client.query(
        f"""
        select campaign_id, count() from {watch.reports}.email
        where campaign_id in {{ids:Array(Int64)}} and status = 'bounced' group by campaign_id
        """,  # noqa: S608 (our own name)
        parameters={"ids": watch.ids},
    ).result_rows
    return {int(campaign_id): int(bounced) for campaign_id, bounced in rows}


def skipped_lines(before: DemoWatch, follow_up: DemoWatch) -> list[AccountingLine]:
    """No lead whose mail bounced hard, or who complained about this sender, is in the audience of the next campaign.

    Such a lead may be excluded for another reason that comes first: a lead that complained and also unsubscribed is
    listed in the manifest as unsubscribed. So what counts is that the lead is not eligible.

    Args:
        before: the campaigns that were sent first.
        follow_up: the one that came after.
    """
    if before.log is None:
        return []
    [next_one] = follow_up.campaigns
    lost = set[str]().union(
        *(
            before.log.lost_recipients(str(one.campaign_id), with_complaints=one.sender_id == next_one.sender_id)
            for one in before.campaigns
        )
    )
    campaign_id = next_one.campaign_id
    excluded, eligible = (
        {str(email).lower() for email in frozen.column("email").to_pylist() if email}
        for frozen in (follow_up.frozen(campaign_id, key_of, ["email"]) for key_of in (excluded_key, eligible_key))
    )
    return [left_out_line(campaign_id, lost, excluded, eligible)]


def left_out_line(campaign_id: int, lost: set[str], excluded: set[str], eligible: set[str]) -> AccountingLine:
    """Of the lost addresses that met the campaign's condition, none is eligible.

    Args:
        campaign_id: the campaign that came after.
        lost: addresses that bounced hard or complained before.
        excluded, eligible: the addresses of its manifest.
    """
    met_again = (excluded | eligible) & lost
    return AccountingLine(
        f"campaign {campaign_id}: hard bounces and complaints are left out",
        ("met the condition again", len(met_again)),
        ("not eligible", len(met_again - eligible)),
    )


def print_skipped(watch: DemoWatch, console: Console) -> None:
    """The manifest's reasons for leaving leads out, and some of the suppressed ones."""
    [campaign_id] = watch.ids
    manifest = find_manifest(watch.parts, campaign_id)
    print_table(
        f"campaign {campaign_id}: the manifest",
        ["considered", "eligible", *EXCLUSION_REASONS],
        [
            [
                manifest.considered_rows,
                manifest.eligible_rows,
                *(manifest.excluded_by_reason[reason] for reason in EXCLUSION_REASONS),
            ]
        ],
        console=console,
    )
    rows = watch.frozen(campaign_id, excluded_key, ["lead_id", "email", "reason"]).to_pylist()
    shown = [[row["lead_id"], row["email"], row["reason"]] for row in rows if row["reason"] == "suppressed"]
    print_table(
        f"campaign {campaign_id}: left out as suppressed (some of {len(shown):,})",
        ["lead_id", "email", "reason"],
        shown[:5],
        console=console,
    )
