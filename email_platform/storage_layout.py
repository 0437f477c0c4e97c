"""Where every object lives in the staging bucket; keys are deterministic: a re-run overwrites its own object.

    manifests/campaign=<id>/<manifest id>/eligible.parquet     one row group per chunk, in position order
    manifests/campaign=<id>/<manifest id>/excluded.parquet     every lead left out, with its reason
    deliveries/campaign=<id>/chunk-<index>.parquet             what became of each recipient of one chunk
    dimensions/<name>/<snapshot id>.parquet                    small OLTP tables for the reports

Which manifest of a campaign counts is said by its row of ``campaign_manifest`` in PostgreSQL, never by a
listing.
"""

from __future__ import annotations

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
