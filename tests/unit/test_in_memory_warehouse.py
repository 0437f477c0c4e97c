"""The stand-in for the warehouse keeps the warehouse's promises; refreshing dimensions is one snapshot at a time."""

from __future__ import annotations

import io
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from email_platform.adapters.in_memory import InMemoryObjectStore, InMemoryWarehouse
from email_platform.deliveries import DELIVERY_SCHEMA, DeliveryStatus, delivery_version
from email_platform.dimensions import APP_USER_SCHEMA, DIMENSION_SCHEMAS, DimensionName, refresh_dimensions
from email_platform.errors import AccountingError, ObjectQuarantinedError, PartUnavailableError
from email_platform.identity import call_id, message_id
from email_platform.manifest import EXCLUDED_SCHEMA
from email_platform.ports import StagedKind, StagedObject
from email_platform.storage_layout import deliveries_key

NOON = datetime(2026, 3, 29, 12, tzinfo=UTC)
KEY = deliveries_key(7, 0)


@pytest.fixture
def store() -> InMemoryObjectStore:
    return InMemoryObjectStore()


@pytest.fixture
def warehouse(store: InMemoryObjectStore) -> InMemoryWarehouse:
    return InMemoryWarehouse(store)


def delivery(lead_id: int, status: DeliveryStatus, campaign_id: int = 7) -> Mapping[str, Any]:
    return {
        "campaign_id": campaign_id,
        "lead_id": lead_id,
        "message_id": str(message_id(campaign_id, lead_id)),
        "owner_id": 1,
        "sender_id": 2,
        "email": f"lead{lead_id}@example.org",
        "provider": "simulator",
        "provider_message_id": "",
        "status": status,
        "error_code": "",
        "error_message": "",
        "chunk_index": 0,
        "call_index": 0,
        "call_id": str(call_id(campaign_id, 0, 0)),
        "occurred_at": NOON,
        "version": delivery_version(status, int(NOON.timestamp() * 1000)),
    }


def stage(
    store: InMemoryObjectStore,
    rows: list[Mapping[str, Any]],
    *,
    kind: StagedKind = "delivery",
    schema: pa.Schema = DELIVERY_SCHEMA,
    key: str = KEY,
) -> StagedObject:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), buffer)
    store.put(key, buffer.getvalue())
    return StagedObject(key, kind, len(rows), sha256(buffer.getvalue()).hexdigest())


def test_a_replay_and_an_older_outcome_change_nothing(warehouse: InMemoryWarehouse, store: InMemoryObjectStore) -> None:
    for status in ("accepted", "accepted", "unknown"):
        assert warehouse.load(stage(store, [delivery(1, status), delivery(2, "rejected")])) == 2
    assert warehouse.delivery_counts(7) == {
        "accepted": 1, "rejected": 1, "unknown": 0, "abandoned": 0, "duplicates": 0,
    }  # fmt: skip


def test_bad_objects_are_set_aside_and_nothing_is_loaded(
    warehouse: InMemoryWarehouse, store: InMemoryObjectStore
) -> None:
    staged = stage(store, [delivery(1, "accepted")])
    store.put(KEY, b"other")
    with pytest.raises(ObjectQuarantinedError, match="not the registered one"):
        warehouse.load(staged)
    with pytest.raises(ObjectQuarantinedError):
        warehouse.load(StagedObject(KEY, "delivery", 1, sha256(b"other").hexdigest()))
    with pytest.raises(ObjectQuarantinedError, match="another campaign"):
        warehouse.load(stage(store, [delivery(1, "accepted", campaign_id=8)]))
    store.delete(KEY)
    with pytest.raises(ObjectQuarantinedError, match="not in the bucket"):
        warehouse.load(staged)
    assert warehouse.deliveries == {}


def test_a_wrong_row_count_is_an_accounting_error(warehouse: InMemoryWarehouse, store: InMemoryObjectStore) -> None:
    with pytest.raises(AccountingError, match="2 rows registered, but 1"):
        warehouse.load(stage(store, [delivery(1, "accepted"), delivery(1, "accepted")]))


def test_exclusions_are_counted_by_reason(warehouse: InMemoryWarehouse, store: InMemoryObjectStore) -> None:
    row = {"campaign_id": 7, "lead_id": 1, "email": None, "reason": "invalid_address"}
    key = "manifests/campaign=7/x/excluded.parquet"
    assert warehouse.load(stage(store, [row], kind="exclusion", schema=EXCLUDED_SCHEMA, key=key)) == 1
    assert warehouse.exclusion_counts(7)["invalid_address"] == 1
    assert sum(warehouse.exclusion_counts(8).values()) == 0


class Users:
    """A source with users only; `names` by id."""

    def __init__(self, names: Mapping[int, str]) -> None:
        self.names = names

    def snapshot(self, name: DimensionName, snapshot_at: datetime) -> pa.Table:
        if name != "app_user":
            return DIMENSION_SCHEMAS[name].empty_table()
        rows = [
            {"id": user, "email": "", "name": text, "created_at": NOON, "snapshot_at": snapshot_at}
            for user, text in self.names.items()
        ]
        return pa.Table.from_pylist(rows, schema=APP_USER_SCHEMA)


def test_a_refresh_counts_its_rows_and_keeps_what_was_deleted(
    warehouse: InMemoryWarehouse, store: InMemoryObjectStore
) -> None:
    counts = refresh_dimensions(Users({1: "a", 2: "b"}), store, warehouse, lambda: NOON)
    assert counts == {"campaign": 0, "app_user": 2, "suppression": 0}
    later = NOON + timedelta(seconds=1)
    assert refresh_dimensions(Users({2: "c"}), store, warehouse, lambda: later)["app_user"] == 1
    users = warehouse.dimensions["app_user"]
    assert (users[1]["name"], users[1]["snapshot_at"]) == ("a", NOON)
    assert (users[2]["name"], users[2]["snapshot_at"]) == ("c", later)
    assert warehouse.snapshots == {"campaign": (later, 0), "app_user": (later, 1), "suppression": (later, 0)}


def test_a_snapshot_that_is_not_loaded_whole_does_not_count(store: InMemoryObjectStore) -> None:
    class Away(InMemoryWarehouse):
        def load(self, staged: StagedObject) -> int:
            raise PartUnavailableError("away")

    warehouse = Away(store)
    with pytest.raises(PartUnavailableError):
        refresh_dimensions(Users({1: "a"}), store, warehouse, lambda: NOON)
    assert "app_user" not in warehouse.snapshots
