"""Where every object lives in the staging bucket; keys are deterministic: a re-run overwrites its own object.

    manifests/campaign=<id>/<manifest id>/eligible.parquet     one row group per chunk, in position order
    manifests/campaign=<id>/<manifest id>/excluded.parquet     every lead left out, with its reason
    deliveries/campaign=<id>/chunk-<index>.parquet             what became of each recipient of one chunk
    dimensions/<name>/<snapshot id>.parquet                    small OLTP tables for the reports
    legacy/month=<YYYY-MM>/ids-<first id>.parquet              rows of the old email table, by range of old ids
    legacy/month=<YYYY-MM>/ids-<first id>-removed.parquet      keys of them that the old table has no more
    events/inbox/<date>/<receiver>-<sequence>.parquet          verified bodies that no batch holds yet
    events/raw/<date>/<batch>.parquet                          the bodies of one batch, for a replay
    events/normalised/<date>/<batch>.parquet                   their events, loaded into the warehouse
    events/quarantine/<date>/<batch>.parquet                   bodies that could not be read, with the reason

Which manifest of a campaign counts is said by its row of ``campaign_manifest`` in PostgreSQL, never by a
listing.
"""

from __future__ import annotations

from datetime import date
from uuid import UUID


def manifest_prefix(campaign_id: int, manifest_id: UUID) -> str:
    """The folder of one resolved audience; the id tells concurrent resolutions apart until one wins."""
    return f"manifests/campaign={campaign_id}/{manifest_id}"


def eligible_key(prefix: str) -> str:
    """The object with the eligible recipients of a manifest."""
    return f"{prefix}/eligible.parquet"


def excluded_key(prefix: str) -> str:
    """The object with the excluded leads of a manifest and why each was left out."""
    return f"{prefix}/excluded.parquet"


def deliveries_prefix(campaign_id: int) -> str:
    """The folder of a campaign's staged deliveries, with its closing slash."""
    return f"deliveries/campaign={campaign_id}/"


def deliveries_key(campaign_id: int, chunk_index: int) -> str:
    """The object with the outcome for each recipient of one chunk."""
    return f"{deliveries_prefix(campaign_id)}chunk-{chunk_index:05d}.parquet"


def dimension_key(name: str, snapshot_id: str) -> str:
    """One snapshot of a small OLTP table."""
    return f"dimensions/{name}/{snapshot_id}.parquet"


def legacy_emails_key(month: str, first_id: int) -> str:
    """One range of the old email table's rows of one month."""
    return f"legacy/month={month}/ids-{first_id:012d}.parquet"


def legacy_removed_key(month: str, first_id: int) -> str:
    """The keys of one range that the old table has no more, or has under another key."""
    return f"legacy/month={month}/ids-{first_id:012d}-removed.parquet"


EVENT_INBOX_PREFIX = "events/inbox/"


def event_inbox_key(day: date, receiver: str, sequence: int) -> str:
    """One micro-batch of verified bodies; the receiver's id is unique, so no two writers share a key."""
    return f"{EVENT_INBOX_PREFIX}{day.isoformat()}/{receiver}-{sequence:09d}.parquet"


def event_raw_prefix(day: date) -> str:
    """The archive's folder of one day of reception."""
    return f"events/raw/{day.isoformat()}/"


def event_raw_key(day: date, batch: str) -> str:
    """The bodies of one batch as they came."""
    return f"{event_raw_prefix(day)}{batch}.parquet"


def event_normalised_key(day: date, batch: str) -> str:
    """The events of one batch."""
    return f"events/normalised/{day.isoformat()}/{batch}.parquet"


def event_quarantine_key(day: date, batch: str) -> str:
    """The bodies of one batch that could not be read, with the reason of each."""
    return f"events/quarantine/{day.isoformat()}/{batch}.parquet"
