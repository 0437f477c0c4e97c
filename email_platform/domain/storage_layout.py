"""Where every object lives in the staging bucket; keys are deterministic: a re-run overwrites its own object.

    manifests/campaign=<id>/<manifest id>/eligible.parquet     one row group per chunk, in position order
    manifests/campaign=<id>/<manifest id>/excluded.parquet     every lead left out, with its reason
    deliveries/campaign=<id>/chunk-<index>.parquet             what became of each recipient of one chunk
    dimensions/<name>/<snapshot id>.parquet                    small OLTP tables for the reports
    legacy/month=<YYYY-MM>/ids-<first id>.parquet              rows of the old email table, by range of old ids
    legacy/month=<YYYY-MM>/ids-<first id>-left-<time>.parquet  rows found to be in another month, or gone
    events/inbox/<date>/<receiver>-<sequence>.parquet          verified bodies that no batch holds yet
    events/raw/<date>/<batch>.parquet                          the bodies of one batch, for a replay
    events/normalised/<date>/<batch>.parquet                   their events, loaded into the warehouse
    events/quarantine/<date>/<batch>.parquet                   bodies that could not be read, with the reason
    ledgers/campaign=<id>.parquet                              the calls of a campaign that ended long ago
    reports/campaign=<id>.html                                 a campaign's report as people read it; can be made again

The campaign's row of ``campaign_manifest`` in PostgreSQL decides which of its manifests counts, never a listing.
"""

from __future__ import annotations

import re
from datetime import date
from uuid import UUID

from email_platform.domain.ports import StagedKind

_DAY = r"\d{4}-\d\d-\d\d"
_ID = r"[1-9]\d{0,17}"
MANIFESTS_PREFIX, DELIVERIES_PREFIX = "manifests/", "deliveries/"
EVENT_INBOX_PREFIX, EVENT_RAW_PREFIX = "events/inbox/", "events/raw/"
EVENT_NORMALISED_PREFIX, EVENT_QUARANTINE_PREFIX = "events/normalised/", "events/quarantine/"
LEDGERS_PREFIX, LEGACY_PREFIX, DIMENSIONS_PREFIX, REPORTS_PREFIX = "ledgers/", "legacy/", "dimensions/", "reports/"
_ELIGIBLE_KEY = re.compile(rf"manifests/campaign=(?P<campaign>{_ID})/[0-9a-f-]{{36}}/eligible\.parquet", re.ASCII)
_DELIVERY_KEY = re.compile(rf"deliveries/campaign=(?P<campaign>{_ID})/chunk-(?P<chunk>\d{{5,9}})\.parquet", re.ASCII)
_RAW_KEY = re.compile(rf"events/raw/(?P<day>{_DAY})/(?P<batch>[0-9a-f]{{32}})\.parquet", re.ASCII)
# The objects that the warehouse is made of, by key. Nothing else under these prefixes is ours, whoever put it there.
_KIND_OF_KEY: tuple[tuple[StagedKind, re.Pattern[str]], ...] = (
    ("delivery", _DELIVERY_KEY),
    ("exclusion", re.compile(rf"manifests/campaign=(?P<campaign>{_ID})/[0-9a-f-]{{36}}/excluded\.parquet", re.ASCII)),
    ("event", re.compile(rf"events/normalised/{_DAY}/[0-9a-f]{{32}}\.parquet", re.ASCII)),
    ("event_quarantine", re.compile(rf"events/quarantine/{_DAY}/[\w.-]+\.parquet", re.ASCII)),
    ("dimension_campaign", re.compile(r"dimensions/campaign/\d{8}T\d{6}\.\d{6}Z\.parquet", re.ASCII)),
    ("dimension_app_user", re.compile(r"dimensions/app_user/\d{8}T\d{6}\.\d{6}Z\.parquet", re.ASCII)),
    ("dimension_suppression", re.compile(r"dimensions/suppression/\d{8}T\d{6}\.\d{6}Z\.parquet", re.ASCII)),
    ("legacy_email", re.compile(r"legacy/month=\d{4}-\d\d/ids-\d{12,19}(-left-\d{16,20})?\.parquet", re.ASCII)),
)


def kind_of_key(key: str) -> tuple[StagedKind, int | None] | None:
    """Which kind of object lies under the key, and of which campaign; None where it is none for the warehouse."""
    for kind, pattern in _KIND_OF_KEY:
        if found := pattern.fullmatch(key):
            campaign = found.groupdict().get("campaign")
            return kind, int(campaign) if campaign else None
    return None


def is_eligible_key(key: str) -> bool:
    """Whether the object is a manifest's list of recipients, which no warehouse takes."""
    return eligible_campaign(key) is not None


def eligible_campaign(key: str) -> int | None:
    """The campaign of a manifest's list of recipients; None for anything else."""
    found = _ELIGIBLE_KEY.fullmatch(key)
    return None if found is None else int(found["campaign"])


def delivery_parts(key: str) -> tuple[int, int] | None:
    """Campaign and chunk of staged deliveries; None for anything else."""
    found = _DELIVERY_KEY.fullmatch(key)
    return None if found is None else (int(found["campaign"]), int(found["chunk"]))


def manifests_prefix(campaign_id: int) -> str:
    """The folder of all audiences that were ever resolved for a campaign, with its closing slash."""
    return f"{MANIFESTS_PREFIX}campaign={campaign_id}/"


def manifest_prefix(campaign_id: int, manifest_id: UUID) -> str:
    """The folder of one resolved audience; the id tells concurrent resolutions apart until one wins."""
    return f"{MANIFESTS_PREFIX}campaign={campaign_id}/{manifest_id}"


def eligible_key(prefix: str) -> str:
    """The object with the eligible recipients of a manifest."""
    return f"{prefix}/eligible.parquet"


def excluded_key(prefix: str) -> str:
    """The object with the excluded leads of a manifest and why each was left out."""
    return f"{prefix}/excluded.parquet"


def deliveries_prefix(campaign_id: int) -> str:
    """The folder of a campaign's staged deliveries, with its closing slash."""
    return f"{DELIVERIES_PREFIX}campaign={campaign_id}/"


def deliveries_key(campaign_id: int, chunk_index: int) -> str:
    """The object with the outcome for each recipient of one chunk."""
    return f"{deliveries_prefix(campaign_id)}chunk-{chunk_index:05d}.parquet"


def dimension_key(name: str, snapshot_id: str) -> str:
    """One snapshot of a small OLTP table."""
    return f"{DIMENSIONS_PREFIX}{name}/{snapshot_id}.parquet"


def legacy_emails_key(month: str, first_id: int) -> str:
    """One range of the old email table's rows of one month."""
    return f"{LEGACY_PREFIX}month={month}/ids-{first_id:012d}.parquet"


def legacy_left_key(month: str, first_id: int, version: int) -> str:
    """What one range's rows of a month had lost by a snapshot of the old table (microseconds since 1970)."""
    return f"{LEGACY_PREFIX}month={month}/ids-{first_id:012d}-left-{version}.parquet"


def archived_ledger_key(campaign_id: int) -> str:
    """The call ledger of a campaign whose rows are removed from PostgreSQL."""
    return f"{LEDGERS_PREFIX}campaign={campaign_id}.parquet"


def report_page_key(campaign_id: int) -> str:
    """A campaign's report as HTML; each refresh that is asked for replaces it."""
    return f"{REPORTS_PREFIX}campaign={campaign_id}.html"


def event_inbox_prefix(day: date) -> str:
    """The inbox's folder of one day of reception."""
    return f"{EVENT_INBOX_PREFIX}{day.isoformat()}/"


def event_raw_parts(key: str) -> tuple[date, str] | None:
    """Day and batch of an archive's object; None for anything else."""
    found = _RAW_KEY.fullmatch(key)
    try:
        return None if found is None else (date.fromisoformat(found["day"]), found["batch"])
    except ValueError:  # no day of the calendar
        return None


def event_inbox_key(day: date, receiver: str, sequence: int) -> str:
    """One micro-batch of verified bodies; the receiver's id is unique, so no two writers share a key."""
    return f"{EVENT_INBOX_PREFIX}{day.isoformat()}/{receiver}-{sequence:09d}.parquet"


def event_raw_prefix(day: date) -> str:
    """The archive's folder of one day of reception."""
    return f"{EVENT_RAW_PREFIX}{day.isoformat()}/"


def event_raw_key(day: date, batch: str) -> str:
    """The bodies of one batch as they came."""
    return f"{event_raw_prefix(day)}{batch}.parquet"


def event_normalised_key(day: date, batch: str) -> str:
    """The events of one batch."""
    return f"{EVENT_NORMALISED_PREFIX}{day.isoformat()}/{batch}.parquet"


def event_quarantine_key(day: date, batch: str) -> str:
    """The bodies of one batch that could not be read, with the reason of each."""
    return f"{EVENT_QUARANTINE_PREFIX}{day.isoformat()}/{batch}.parquet"
