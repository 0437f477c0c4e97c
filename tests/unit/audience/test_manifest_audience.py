"""How a stream of candidates becomes a manifest with one row group per chunk, without any engine."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from email_platform.audience.conditions import Condition
from email_platform.audience.freeze import read_chunk, resolve_audience
from email_platform.domain.campaigns import Campaign, CampaignContent, CampaignStatus, Sender
from email_platform.domain.manifest import (
    CANDIDATE_SCHEMA,
    ELIGIBLE_SCHEMA,
    EXCLUDED_SCHEMA,
    EXCLUSION_REASONS,
    Manifest,
)
from email_platform.domain.storage_layout import eligible_key, excluded_key
from email_platform.errors import AccountingError, InvalidConditionError
from tests.fakes.stores import InMemoryManifestStore, InMemoryObjectStore

NOW = datetime(2026, 3, 1, 9, tzinfo=UTC)
CAMPAIGN = Campaign(
    campaign_id=7,
    owner_id=1,
    name="Spring",
    sender=Sender(3, 1, "news@example.com", "News", None, "simulator", "default"),
    content=CampaignContent("Hello", "<p>Hello</p>", ""),
    condition={"all": []},
    status=CampaignStatus.SENDING,
    status_reason=None,
    scheduled_at=None,
    attempt=1,
)


class ListedSource:
    """An AudienceSource over reasons given in a list: lead 10 is the first, 11 the next."""

    def __init__(self, reasons: list[str | None], fails_after_rows: int | None = None) -> None:
        self.rows = [candidate(10 + number, reason) for number, reason in enumerate(reasons)]
        self.fails_after_rows = fails_after_rows
        self.asked: list[tuple[Any, ...]] = []

    def estimate_rows(self, condition: object) -> int:
        return len(self.rows)

    def resolved(self, condition: object) -> object:
        return condition

    def other_types(self, condition: object, timeout_seconds: float) -> tuple[()]:
        return ()

    def count_rows(self, condition: object, at_most_rows: int, timeout_seconds: float) -> int | None:
        return min(len(self.rows), at_most_rows)

    @contextmanager
    def stream(self, condition: Condition, sender_id: int, batch_rows: int) -> Iterator[Iterator[pa.RecordBatch]]:
        self.asked.append((condition, sender_id))
        yield self._batches(batch_rows)

    def _batches(self, batch_rows: int) -> Iterator[pa.RecordBatch]:
        for start in range(0, len(self.rows), min(batch_rows, 4)):
            if self.fails_after_rows is not None and start >= self.fails_after_rows:
                raise ConnectionError("the database went away")
            yield pa.RecordBatch.from_pylist(self.rows[start : start + 4], schema=CANDIDATE_SCHEMA)


def candidate(lead_id: int, reason: str | None) -> dict[str, Any]:
    return {"lead_id": lead_id, "email": f"l{lead_id}@example.com", "age": 30, "attributes": "{}", "reason": reason}


def resolve(source: ListedSource, store: InMemoryObjectStore, chunk_rows: int, **more: Any) -> Manifest:
    return resolve_audience(CAMPAIGN, source, store, lambda: NOW, chunk_rows=chunk_rows, call_rows=2, **more)


@given(reasons=st.lists(st.none() | st.sampled_from(EXCLUSION_REASONS), max_size=40), chunk_rows=st.integers(1, 12))
@settings(max_examples=100, deadline=None)
def test_every_candidate_is_in_exactly_one_object_and_each_chunk_is_one_row_group(
    reasons: list[str | None], chunk_rows: int
) -> None:
    store = InMemoryObjectStore()
    progress: list[int] = []
    manifest = resolve(ListedSource(reasons), store, chunk_rows, on_progress=progress.append)

    eligible = pq.ParquetFile(io.BytesIO(store.get(eligible_key(manifest.prefix))))
    excluded = pq.read_table(io.BytesIO(store.get(excluded_key(manifest.prefix))))
    wanted = [10 + number for number, reason in enumerate(reasons) if reason is None]
    left_out = [(10 + number, reason) for number, reason in enumerate(reasons) if reason is not None]

    assert eligible.schema_arrow == ELIGIBLE_SCHEMA
    assert excluded.schema == EXCLUDED_SCHEMA
    assert eligible.num_row_groups == manifest.chunk_count
    assert eligible.read().column("lead_id").to_pylist() == wanted
    assert eligible.read().column("position").to_pylist() == list(range(len(wanted)))
    assert list(zip(*(excluded.column(name).to_pylist() for name in ("lead_id", "reason")), strict=True)) == left_out
    assert set(excluded.column("campaign_id").to_pylist()) <= {7}

    assert manifest.eligible_rows == len(wanted)
    assert manifest.considered_rows == len(reasons)
    assert tuple(manifest.excluded_by_reason) == EXCLUSION_REASONS
    assert progress == sorted(progress)
    assert progress[-1] == len(reasons)

    chunks = [read_chunk(store, manifest, index) for index in range(manifest.chunk_count)]
    assert [chunk.num_rows for chunk in chunks] == [manifest.chunk_size_rows(index) for index in range(len(chunks))]
    assert [lead_id for chunk in chunks for lead_id in chunk.column("lead_id").to_pylist()] == wanted
    assert all(chunk.schema == ELIGIBLE_SCHEMA for chunk in chunks)


def test_the_manifest_freezes_what_the_campaign_was() -> None:
    source = ListedSource([None, None, None, "suppressed"])
    manifest = resolve(source, InMemoryObjectStore(), 2, new_id=lambda: UUID(int=5))
    assert manifest == Manifest(
        campaign_id=7,
        manifest_id=UUID(int=5),
        prefix=f"manifests/campaign=7/{UUID(int=5)}",
        eligible_rows=3,
        excluded_by_reason={
            "suppressed": 1,
            "unsubscribed": 0,
            "invalid_address": 0,
            "duplicate_address": 0,
            "unreadable": 0,
        },
        chunk_rows=2,
        call_rows=2,
        sender=CAMPAIGN.sender,
        content=CAMPAIGN.content,
        on_unknown="hold",
        frozen_at=NOW,
        condition={"all": []},
    )
    assert [sender_id for _, sender_id in source.asked] == [3]


def test_an_empty_audience_is_a_manifest_without_chunks() -> None:
    store = InMemoryObjectStore()
    manifest = resolve(ListedSource([]), store, 100)
    assert (manifest.chunk_count, manifest.considered_rows) == (0, 0)
    assert pq.ParquetFile(io.BytesIO(store.get(eligible_key(manifest.prefix)))).num_row_groups == 0
    with pytest.raises(IndexError, match="0 chunks"):
        read_chunk(store, manifest, 0)


def test_a_source_that_fails_half_way_leaves_no_object() -> None:
    store = InMemoryObjectStore()
    with pytest.raises(ConnectionError):
        resolve(ListedSource([None] * 40, fails_after_rows=20), store, 3)
    assert list(store.list("")) == []


def test_a_bad_condition_is_refused_before_anything_is_asked_or_written() -> None:
    source, store = ListedSource([None]), InMemoryObjectStore()
    bad = replace(CAMPAIGN, condition={"field": "contry", "op": "eq", "value": "DE"})
    with pytest.raises(InvalidConditionError, match="country"):
        resolve_audience(bad, source, store, lambda: NOW, chunk_rows=10, call_rows=2)
    assert source.asked == []
    assert list(store.list("")) == []


def test_an_object_that_is_not_its_manifests_is_refused() -> None:
    store = InMemoryObjectStore()
    manifest = resolve(ListedSource([None] * 5), store, 2)
    with pytest.raises(AccountingError, match="3 row groups"):
        read_chunk(store, replace(manifest, eligible_rows=7), 0)
    with pytest.raises(AccountingError, match="has 1 rows"):
        read_chunk(store, replace(manifest, eligible_rows=6), 2)
    other = resolve(ListedSource([None] * 6), store, 3)
    with pytest.raises(AccountingError, match="from position 3"):
        read_chunk(store, replace(other, chunk_rows=4), 1)


def test_the_first_manifest_of_a_campaign_counts() -> None:
    manifests = InMemoryManifestStore()
    first = resolve(ListedSource([None]), InMemoryObjectStore(), 2)
    second = resolve(ListedSource([]), InMemoryObjectStore(), 2)
    assert manifests.find(7) is None
    assert manifests.freeze(first) == first
    assert manifests.freeze(second) == first
    assert manifests.find(7) == first
