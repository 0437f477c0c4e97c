"""Events reach ClickHouse through the same loader, and a reader finds each of them once."""

from __future__ import annotations

import io
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from itertools import count

import pyarrow.parquet as pq
import pytest

from email_platform.adapters.clickhouse.warehouse import ClickHouseWarehouse
from email_platform.adapters.object_store import S3ObjectStore
from email_platform.domain.ports import StagedObject
from email_platform.errors import ObjectQuarantinedError
from email_platform.events import Event, event_table
from email_platform.events.event import EventType
from email_platform.settings import Settings
from tests.integration.own_databases import change_in_place, own_warehouse

pytestmark = pytest.mark.integration

NOW = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)
READ = """
    select event_id, status_rank, normaliser_version
    from event
    where provider = {provider:String}
    order by event_key, normaliser_version desc
    limit 1 by event_key
"""
_numbers = count()


@pytest.fixture(scope="module")
def warehouse(stack: Settings) -> Iterator[ClickHouseWarehouse]:
    """A database of this module's own in the running ClickHouse."""
    opened = ClickHouseWarehouse.from_settings(own_warehouse(stack, "test_event_loads"))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def store(stack: Settings) -> Iterator[S3ObjectStore]:
    opened = S3ObjectStore.from_settings(stack)
    yield opened
    opened.client.close()


def event(provider: str, number: int, kind: EventType = "delivered", subtype: str = "", at: datetime = NOW) -> Event:
    return Event(provider, "default", f"e{number}", kind, subtype, 7, "", f"p{number}", "a@b.example", at, NOW, "{}")


def stage(store: S3ObjectStore, events: list[Event]) -> StagedObject:
    table = event_table(events)
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    key = f"events/normalised/2026-06-01/test-{next(_numbers)}.parquet"
    store.put(key, buffer.getvalue())
    return StagedObject(key, "event", table.num_rows, sha256(buffer.getvalue()).hexdigest())


def read(warehouse: ClickHouseWarehouse, provider: str) -> list[tuple[str, int, int]]:
    return [tuple(row) for row in warehouse.client.query(READ, parameters={"provider": provider}).result_rows]


def raw_rows(warehouse: ClickHouseWarehouse, provider: str) -> int:
    query = "select count() from event where provider = {provider:String}"
    return int(warehouse.client.query(query, parameters={"provider": provider}).result_rows[0][0])


def test_an_object_over_several_months_is_loaded_once_however_often_it_is_offered(
    warehouse: ClickHouseWarehouse, store: S3ObjectStore
) -> None:
    events = [event("months", number, at=NOW - timedelta(days=number)) for number in range(390)]
    staged = stage(store, events)
    assert [warehouse.load(staged) for _ in range(3)] == [390, 390, 390]
    assert raw_rows(warehouse, "months") == 390


def test_an_event_in_several_objects_is_read_once(warehouse: ClickHouseWarehouse, store: S3ObjectStore) -> None:
    objects = [
        stage(store, [event("again", 1), event("again", 2, "bounced", "hard")]),
        stage(store, [event("again", 2, "bounced", "hard"), event("again", 3, "complained")]),
    ]
    for staged in objects + objects[::-1]:
        assert warehouse.load(staged) == 2
    assert raw_rows(warehouse, "again") == 4
    assert [row[:2] for row in read(warehouse, "again")] == [("e1", 40), ("e2", 90), ("e3", 100)]


def test_a_newer_reading_of_an_event_counts(
    warehouse: ClickHouseWarehouse, store: S3ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = event("newer", 1, "bounced", "hard")
    with monkeypatch.context() as patched:
        patched.setattr("email_platform.events.event.NORMALISER_VERSION", 2)
        warehouse.load(stage(store, [newer]))
    warehouse.load(stage(store, [event("newer", 1, "bounced", "soft")]))
    assert read(warehouse, "newer") == [("e1", 90, 2)]


def test_rows_that_were_deleted_are_loaded_again(warehouse: ClickHouseWarehouse, store: S3ObjectStore) -> None:
    staged = stage(store, [event("deleted", number) for number in range(5)])
    warehouse.load(staged)
    change_in_place(warehouse, "event", "delete where provider = 'deleted'")
    assert warehouse.load(staged) == 5
    assert len(read(warehouse, "deleted")) == 5


def test_an_object_with_a_type_that_no_event_has_is_set_aside(
    warehouse: ClickHouseWarehouse, store: S3ObjectStore
) -> None:
    staged = stage(store, [event("foreign", 1, "teleported")])  # type: ignore[arg-type]
    with pytest.raises(ObjectQuarantinedError):
        warehouse.load(staged)
    assert raw_rows(warehouse, "foreign") == 0
