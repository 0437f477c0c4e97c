"""Staged objects reach ClickHouse once each: replays, orders, loaders side by side, corrupt and foreign objects."""

from __future__ import annotations

import io
import itertools
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from email_platform.adapters.clickhouse.address import ClickHouseAddress
from email_platform.adapters.clickhouse.client import connect
from email_platform.adapters.clickhouse.migrate import upgrade_to_head
from email_platform.adapters.clickhouse.staging_location import StagingLocation
from email_platform.adapters.clickhouse.warehouse import ClickHouseWarehouse
from email_platform.adapters.object_store import S3ObjectStore
from email_platform.domain.identity import call_id, message_id
from email_platform.domain.manifest import EXCLUDED_SCHEMA
from email_platform.domain.ports import StagedKind, StagedObject
from email_platform.domain.storage_layout import deliveries_key, excluded_key, manifest_prefix
from email_platform.errors import (
    AccountingError,
    ConfigurationError,
    EmailPlatformError,
    ObjectQuarantinedError,
    PartUnavailableError,
)
from email_platform.settings import Settings
from email_platform.staging.delivery_rows import DELIVERY_SCHEMA, DeliveryStatus, delivery_version
from tests.integration.clickhouse_process import DATABASE, PASSWORD, USER, running
from tests.integration.own_databases import change_in_place, own_warehouse

pytestmark = [pytest.mark.integration, pytest.mark.slow]

NOON_MS = 1_790_000_000_000
_campaign_ids = itertools.count(1)


@pytest.fixture(scope="module")
def warehouse_settings(stack: Settings) -> Settings:
    """A database of this module's own in the running ClickHouse."""
    return own_warehouse(stack, "test_warehouse_loads")


@pytest.fixture(scope="module")
def warehouse(warehouse_settings: Settings) -> Iterator[ClickHouseWarehouse]:
    opened = ClickHouseWarehouse.from_settings(warehouse_settings)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def store(stack: Settings) -> S3ObjectStore:
    return S3ObjectStore.from_settings(stack)


@pytest.fixture
def campaign_id() -> int:
    """No two tests share a campaign."""
    return next(_campaign_ids)


def delivery_rows(
    campaign_id: int, rows: int, *, status: DeliveryStatus = "accepted", first_lead: int = 1, at_ms: int = NOON_MS
) -> pa.Table:
    leads = range(first_lead, first_lead + rows)
    columns: dict[str, list[Any]] = {
        "campaign_id": [campaign_id] * rows,
        "lead_id": list(leads),
        "message_id": [str(message_id(campaign_id, lead)) for lead in leads],
        "owner_id": [1] * rows,
        "sender_id": [2] * rows,
        "email": [f"lead{lead}@example.org" for lead in leads],
        "provider": ["simulator"] * rows,
        "provider_message_id": [f"p{lead}" if status == "accepted" else "" for lead in leads],
        "status": [status] * rows,
        "error_code": [""] * rows,
        "error_message": [""] * rows,
        "chunk_index": [0] * rows,
        "call_index": [index // 50 for index in range(rows)],
        "call_id": [str(call_id(campaign_id, 0, index // 50)) for index in range(rows)],
        "occurred_at": [at_ms] * rows,
        "version": [delivery_version(status, at_ms)] * rows,
    }
    return pa.Table.from_arrays(
        [pa.array(columns[field.name], field.type) for field in DELIVERY_SCHEMA], schema=DELIVERY_SCHEMA
    )


def parquet(table: pa.Table, row_group_rows: int | None = None) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", row_group_size=row_group_rows or max(table.num_rows, 1))
    return buffer.getvalue()


def stage(store: S3ObjectStore, key: str, body: bytes, rows: int, kind: StagedKind = "delivery") -> StagedObject:
    store.put(key, body)
    return StagedObject(key, kind, rows, sha256(body).hexdigest())


def raw(warehouse: ClickHouseWarehouse, campaign_id: int) -> tuple[int, Any]:
    """Rows without final, and when the last was loaded: a second insert would change one of the two."""
    row = warehouse.client.query(
        "select count(), max(loaded_at) from delivery where campaign_id = {campaign_id:Int64}",
        parameters={"campaign_id": campaign_id},
    ).result_rows[0]
    return int(row[0]), row[1]


@pytest.mark.one_server
@pytest.mark.parametrize(("rows", "row_group_rows"), [(10_000, 10_000), (50_000, 50_000), (50_000, 700), (1, 1)])
def test_an_object_is_inserted_as_one_block_and_a_replay_changes_nothing(
    warehouse: ClickHouseWarehouse, store: S3ObjectStore, campaign_id: int, rows: int, row_group_rows: int
) -> None:
    body = parquet(delivery_rows(campaign_id, rows), row_group_rows)
    staged = stage(store, deliveries_key(campaign_id, 0), body, rows)
    other = next(_campaign_ids)  # so that there is a block to count from: migrations take numbers too
    warehouse.load(stage(store, deliveries_key(other, 0), parquet(delivery_rows(other, 1)), 1))
    parts_before = newest_block(warehouse)

    assert warehouse.load(staged) == rows
    loaded = raw(warehouse, campaign_id)
    for _ in range(3):
        assert warehouse.load(staged) == rows

    assert raw(warehouse, campaign_id) == loaded
    assert loaded[0] == rows
    assert newest_block(warehouse) - parts_before <= 4, "one block a load at most, replays included"
    assert warehouse.delivery_counts(campaign_id) == {
        "accepted": rows, "rejected": 0, "unknown": 0, "abandoned": 0, "duplicates": 0,
    }  # fmt: skip


def newest_block(warehouse: ClickHouseWarehouse) -> int:
    return int(
        warehouse.client.query(
            "select max(max_block_number) from system.parts where database = currentDatabase() and table = 'delivery'"
        ).result_rows[0][0]
    )


def test_loaders_side_by_side_load_each_object_once(
    warehouse: ClickHouseWarehouse, store: S3ObjectStore, campaign_id: int
) -> None:
    objects = [
        stage(
            store,
            deliveries_key(campaign_id, chunk),
            parquet(delivery_rows(campaign_id, 500, first_lead=chunk * 500)),
            500,
        )
        for chunk in range(4)
    ]
    work = objects * 4
    random.Random(1).shuffle(work)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(warehouse.load, work)) == [500] * len(work)
    assert warehouse.delivery_counts(campaign_id)["accepted"] == 2_000
    assert raw(warehouse, campaign_id)[0] == 2_000


@pytest.mark.parametrize("order", list(itertools.permutations(("unknown", "rejected", "accepted"))))
def test_a_rewritten_object_loads_as_new_and_the_version_decides_in_any_order(
    warehouse: ClickHouseWarehouse, store: S3ObjectStore, campaign_id: int, order: tuple[DeliveryStatus, ...]
) -> None:
    key = deliveries_key(campaign_id, 0)
    for _ in range(2):
        for index, status in enumerate(order):
            # The earliest status comes with the latest time: the rank goes before the time.
            body = parquet(delivery_rows(campaign_id, 50, status=status, at_ms=NOON_MS - index))
            assert warehouse.load(stage(store, key, body, 50)) == 50
    counts = warehouse.delivery_counts(campaign_id)
    assert (counts["accepted"], counts["rejected"], counts["unknown"]) == (50, 0, 0)


def test_an_object_that_grew_loads_its_new_rows(
    warehouse: ClickHouseWarehouse, store: S3ObjectStore, campaign_id: int
) -> None:
    key = deliveries_key(campaign_id, 0)
    for rows in (100, 150, 150):
        assert warehouse.load(stage(store, key, parquet(delivery_rows(campaign_id, rows)), rows)) == rows
    assert warehouse.delivery_counts(campaign_id)["accepted"] == 150


def test_an_object_rewritten_after_its_registration_is_set_aside_until_it_is_registered_again(
    warehouse: ClickHouseWarehouse, store: S3ObjectStore, campaign_id: int
) -> None:
    key = deliveries_key(campaign_id, 0)
    old = stage(store, key, parquet(delivery_rows(campaign_id, 10, status="unknown")), 10)
    new = stage(store, key, parquet(delivery_rows(campaign_id, 20)), 20)
    with pytest.raises(ObjectQuarantinedError, match="not the registered one"):
        warehouse.load(old)
    assert raw(warehouse, campaign_id)[0] == 0
    assert warehouse.load(new) == 20


def test_rows_lost_while_the_token_is_remembered_come_back(
    warehouse: ClickHouseWarehouse, store: S3ObjectStore, campaign_id: int
) -> None:
    staged = stage(store, deliveries_key(campaign_id, 0), parquet(delivery_rows(campaign_id, 30)), 30)
    warehouse.load(staged)
    change_in_place(warehouse, "delivery", f"delete where campaign_id = {campaign_id}")
    assert raw(warehouse, campaign_id)[0] == 0
    assert warehouse.load(staged) == 30
    assert warehouse.delivery_counts(campaign_id)["accepted"] == 30


def without(table: pa.Table, name: str) -> pa.Table:
    return table.drop_columns([name])


def with_values(table: pa.Table, name: str, values: list[Any], kind: pa.DataType) -> pa.Table:
    index = table.schema.get_field_index(name)
    return table.set_column(index, pa.field(name, kind), pa.array(values, kind))


def bad_objects(campaign_id: int) -> dict[str, bytes]:
    good = delivery_rows(campaign_id, 5_000)
    body = parquet(good, 500)
    strangers = delivery_rows(campaign_id + 1_000_000, 1)
    return {
        "cut at the end": body[:-100],
        "cut in the middle": body[: len(body) // 2],
        "empty": b"",
        "text": b"campaign_id,lead_id\n1,2\n",
        "a missing column": parquet(without(good, "status")),
        "other columns": parquet(pa.table({"a": [1], "b": ["x"]})),
        "text instead of a number": parquet(with_values(good, "lead_id", ["x"] * 5_000, pa.string())),
        "no uuid": parquet(with_values(good, "message_id", ["x"] * 5_000, pa.string())),
        "a null lead": parquet(with_values(good, "lead_id", [None, *range(4_999)], pa.int64()), 500),
        "one row of another campaign": parquet(pa.concat_tables([good, strangers]), 500),
        "an unknown status": parquet(with_values(good, "status", [*["accepted"] * 4_999, "sent"], pa.string()), 500),
    }


@pytest.mark.parametrize("name", list(bad_objects(0)))
def test_a_bad_object_is_set_aside_with_its_reason_and_nothing_of_it_is_inserted(
    warehouse: ClickHouseWarehouse, store: S3ObjectStore, stack: Settings, campaign_id: int, name: str
) -> None:
    body = bad_objects(campaign_id)[name]
    staged = stage(store, deliveries_key(campaign_id, 0), body, 5_000)
    with pytest.raises(ObjectQuarantinedError) as failure:
        warehouse.load(staged)
    assert staged.key in str(failure.value)
    assert_no_secret(failure.value, stack)
    assert raw(warehouse, campaign_id)[0] == 0
    assert warehouse.load(replace_body(store, staged, parquet(delivery_rows(campaign_id, 3)), 3)) == 3


def replace_body(store: S3ObjectStore, staged: StagedObject, body: bytes, rows: int) -> StagedObject:
    return stage(store, staged.key, body, rows, staged.kind)


def assert_no_secret(error: BaseException, settings: Settings) -> None:
    """Neither the error nor anything chained to it shows a secret."""
    assert settings.s3_secret_access_key is not None
    secrets = [settings.s3_secret_access_key.get_secret_value(), clickhouse_password(settings)]
    seen: BaseException | None = error
    while seen is not None:
        assert not [secret for secret in secrets if secret in f"{seen!s} {seen!r}"]
        seen = seen.__cause__ or seen.__context__


def clickhouse_password(settings: Settings) -> str:
    return settings.clickhouse_url.get_secret_value().split("@")[0].rsplit(":", 1)[1]


def test_a_damaged_page_that_clickhouse_would_read_is_found_by_the_hash(
    warehouse: ClickHouseWarehouse, store: S3ObjectStore, campaign_id: int
) -> None:
    body = bytearray(parquet(delivery_rows(campaign_id, 10_000), 1_000))
    digest = sha256(body).hexdigest()
    body[len(body) // 2 : len(body) // 2 + 200] = bytes(200)
    staged = replace(stage(store, deliveries_key(campaign_id, 0), bytes(body), 10_000), content_sha256=digest)
    with pytest.raises(ObjectQuarantinedError, match="damaged"):
        warehouse.load(staged)
    assert raw(warehouse, campaign_id)[0] == 0


@pytest.mark.parametrize(
    ("key", "kind", "reason"),
    [
        ("deliveries/campaign=77/chunk-99999.parquet", "delivery", "not in the bucket"),
        ("deliveries/somewhere.parquet", "delivery", "names no campaign"),
        ("deliveries/campaign=1/chunk-{0..9}'.parquet", "delivery", "not a key"),
        ("events/x.parquet", "event_quarantine", "no table takes"),
    ],
)
def test_a_foreign_key_is_set_aside(warehouse: ClickHouseWarehouse, key: str, kind: StagedKind, reason: str) -> None:
    with pytest.raises(ObjectQuarantinedError, match=reason):
        warehouse.load(StagedObject(key, kind, 1, "0" * 64))


def test_a_wrong_row_count_or_a_lead_twice_is_an_accounting_error(
    warehouse: ClickHouseWarehouse, store: S3ObjectStore, campaign_id: int
) -> None:
    once = delivery_rows(campaign_id, 10)
    with pytest.raises(AccountingError, match="11 rows registered, 10 in its footer, but 10"):
        warehouse.load(stage(store, deliveries_key(campaign_id, 0), parquet(once), 11))
    twice = pa.concat_tables([once, once.slice(0, 1)])
    with pytest.raises(AccountingError, match="11 rows registered, 11 in its footer, but 10"):
        warehouse.load(stage(store, deliveries_key(campaign_id, 1), parquet(twice), 11))


def outcomes(warehouse: ClickHouseWarehouse, objects: list[StagedObject]) -> dict[str, int | None]:
    """By key, the rows that were loaded; None where the object was set aside."""
    found = [outcome for group in warehouse.load_many(objects) for outcome in group]
    assert sorted(outcome.staged.key for outcome in found) == sorted(staged.key for staged in objects)
    return {outcome.staged.key: None if outcome.problem else outcome.rows for outcome in found}


def chunks(store: S3ObjectStore, campaign_id: int, count: int, rows: int = 200) -> list[StagedObject]:
    return [
        stage(
            store,
            deliveries_key(campaign_id, chunk),
            parquet(delivery_rows(campaign_id, rows, first_lead=chunk * rows)),
            rows,
        )
        for chunk in range(count)
    ]


def test_many_objects_load_together_once_in_whatever_groups(
    warehouse: ClickHouseWarehouse, store: S3ObjectStore, campaign_id: int
) -> None:
    objects = chunks(store, campaign_id, 70)
    assert outcomes(warehouse, objects[:30]) == {staged.key: 200 for staged in objects[:30]}
    loaded = raw(warehouse, campaign_id)
    assert loaded[0] == 6_000
    shuffled = objects[:30]
    random.Random(2).shuffle(shuffled)
    assert outcomes(warehouse, shuffled) == {staged.key: 200 for staged in objects[:30]}
    assert raw(warehouse, campaign_id) == loaded, "a crash before the mark: loaded again in another order, no change"
    assert outcomes(warehouse, objects[::-1]) == {staged.key: 200 for staged in objects}
    assert raw(warehouse, campaign_id)[0] == 14_000
    with ThreadPoolExecutor(3) as pool:
        for found in pool.map(lambda seed: outcomes(warehouse, random.Random(seed).sample(objects, 40)), range(6)):
            assert set(found.values()) == {200}
    assert raw(warehouse, campaign_id)[0] == 14_000


@pytest.mark.one_server
@pytest.mark.parametrize("count", [1, 3])
def test_a_few_small_objects_are_one_insert(
    warehouse: ClickHouseWarehouse, store: S3ObjectStore, campaign_id: int, count: int
) -> None:
    first, *objects = chunks(store, campaign_id, 1 + count)
    outcomes(warehouse, [first])
    before = newest_block(warehouse)
    assert outcomes(warehouse, objects) == {staged.key: 200 for staged in objects}
    assert newest_block(warehouse) == before + 1
    assert raw(warehouse, campaign_id)[0] == 200 * (1 + count)


def test_a_group_cut_short_by_a_crash_is_completed(
    warehouse: ClickHouseWarehouse, store: S3ObjectStore, campaign_id: int
) -> None:
    objects = chunks(store, campaign_id, 3)
    outcomes(warehouse, objects)
    change_in_place(warehouse, "delivery", f"delete where campaign_id = {campaign_id} and lead_id % 7 = 0")
    assert outcomes(warehouse, objects) == {staged.key: 200 for staged in objects}
    assert warehouse.delivery_counts(campaign_id)["accepted"] == 600


def test_a_bad_object_is_set_aside_and_blocks_no_other_of_its_group(
    warehouse: ClickHouseWarehouse, store: S3ObjectStore, campaign_id: int
) -> None:
    good = chunks(store, campaign_id, 4)
    bad = [
        stage(store, deliveries_key(campaign_id, 100 + number), body, 5_000)
        for number, body in enumerate(bad_objects(campaign_id).values())
    ]
    wrong_count = stage(store, deliveries_key(campaign_id, 200), parquet(delivery_rows(campaign_id, 2)), 3)
    missing = StagedObject(deliveries_key(campaign_id, 201), "delivery", 1, "0" * 64)
    foreign = StagedObject("deliveries/campaign=1/chunk-{0..9}.parquet", "delivery", 1, "0" * 64)
    mixed = [*bad[:6], *good, *bad[6:], wrong_count, missing, foreign]
    expected = {staged.key: 200 if staged in good else None for staged in mixed}
    assert outcomes(warehouse, mixed) == expected
    good_rows, of_the_wrong_count = 800, 0  # its two leads are among the good ones
    assert warehouse.delivery_counts(campaign_id)["accepted"] == good_rows + of_the_wrong_count


def test_a_message_id_under_two_leads_is_counted_as_a_duplicate(
    warehouse: ClickHouseWarehouse, store: S3ObjectStore, campaign_id: int
) -> None:
    table = delivery_rows(campaign_id, 3)
    ids = table.column("message_id").to_pylist()
    table = with_values(table, "message_id", [ids[0], ids[0], ids[2]], pa.string()).cast(DELIVERY_SCHEMA)
    warehouse.load(stage(store, deliveries_key(campaign_id, 0), parquet(table), 3))
    assert warehouse.duplicate_deliveries(campaign_id) == 1
    assert warehouse.delivery_counts(campaign_id)["duplicates"] == 1


def test_exclusions_are_counted_by_reason_and_may_lack_an_address(
    warehouse: ClickHouseWarehouse, store: S3ObjectStore, campaign_id: int
) -> None:
    table = pa.table(
        {
            "campaign_id": [campaign_id] * 3,
            "lead_id": [1, 2, 3],
            "email": ["a@example.org", None, 'it\'s "q" 😀 שלום'],
            "reason": ["suppressed", "invalid_address", "suppressed"],
        },
        schema=EXCLUDED_SCHEMA,
    )
    key = excluded_key(manifest_prefix(campaign_id, UUID(int=campaign_id)))
    staged = stage(store, key, parquet(table), 3, "exclusion")
    assert [warehouse.load(staged) for _ in range(3)] == [3, 3, 3]
    assert warehouse.exclusion_counts(campaign_id) == {
        "suppressed": 2, "unsubscribed": 0, "invalid_address": 1, "duplicate_address": 0, "unreadable": 0,
    }  # fmt: skip


def located(warehouse: ClickHouseWarehouse, location: StagingLocation) -> ClickHouseWarehouse:
    return ClickHouseWarehouse(warehouse.client, location, address="test")


def test_wrong_s3_credentials_are_a_setting_to_mend_and_are_not_shown(
    warehouse: ClickHouseWarehouse, store: S3ObjectStore, stack: Settings, campaign_id: int
) -> None:
    staged = stage(store, deliveries_key(campaign_id, 0), parquet(delivery_rows(campaign_id, 1)), 1)
    location = replace(StagingLocation.from_settings(stack), secret_access_key="wrong-but-secret")
    with pytest.raises(ConfigurationError, match="EMAIL_PLATFORM_S3_SECRET_ACCESS_KEY") as failure:
        located(warehouse, location).load(staged)
    assert "wrong-but-secret" not in f"{failure.value!r} {failure.value.__cause__!r} {failure.value.__context__!r}"
    assert "wrong-but-secret" not in repr(location)


def test_an_s3_that_does_not_answer_is_reported_in_bounded_time(tmp_path: Path, campaign_id: int) -> None:
    location = StagingLocation("http://127.0.0.1:9/bucket", "id", "hidden-secret")
    # The stack's ClickHouse reaches the stack's S3 alone.
    with running(tmp_path / "data", "--s3-endpoint", "http://127.0.0.1:9") as endpoint:
        url = f"http://{USER}:{quote(PASSWORD, safe='')}@127.0.0.1:{endpoint.port}/{DATABASE}"
        upgrade_to_head(url)
        warehouse = ClickHouseWarehouse(connect(ClickHouseAddress.parse(url)), location, address="test")
        with pytest.raises(PartUnavailableError, match="cannot read") as failure:
            warehouse.load(StagedObject(deliveries_key(campaign_id, 0), "delivery", 1, "0" * 64))
        warehouse.close()
    assert "hidden-secret" not in str(failure.value)


@pytest.mark.one_server
def test_an_s3_that_clickhouse_may_not_reach_is_a_setting_to_mend(
    warehouse: ClickHouseWarehouse, campaign_id: int
) -> None:
    location = StagingLocation("http://127.0.0.1:9/bucket", "id", "hidden-secret")
    with pytest.raises(ConfigurationError) as failure:
        located(warehouse, location).load(StagedObject(deliveries_key(campaign_id, 0), "delivery", 1, "0" * 64))
    assert "hidden-secret" not in str(failure.value)


def test_a_named_collection_serves_instead_of_keys(
    warehouse: ClickHouseWarehouse, store: S3ObjectStore, stack: Settings, campaign_id: int
) -> None:
    location = StagingLocation.from_settings(stack)
    warehouse.client.command("drop named collection if exists test_staging")
    warehouse.client.command(
        f"create named collection test_staging as url = '{location.bucket_url}/', "
        f"access_key_id = '{location.access_key_id}', secret_access_key = '{location.secret_access_key}'"
    )
    staged = stage(store, deliveries_key(campaign_id, 0), parquet(delivery_rows(campaign_id, 7)), 7)
    collected = StagingLocation("unused", named_collection="test_staging")
    assert "secret" not in collected.table_function(staged.key, "Parquet", "a Int64")
    assert located(warehouse, collected).load(staged) == 7


def test_errors_of_clickhouse_never_show_the_secret_key(
    warehouse: ClickHouseWarehouse, store: S3ObjectStore, stack: Settings, campaign_id: int
) -> None:
    """A statement that does not parse is quoted back by ClickHouse as it came."""
    staged = stage(store, deliveries_key(campaign_id, 0), parquet(delivery_rows(campaign_id, 1)), 1)
    with pytest.raises(EmailPlatformError) as failure:
        warehouse._loader._queries.read(
            staged.key, f"selec t from {StagingLocation.from_settings(stack).table_function('k', 'x', 'y')}"
        )
    assert_no_secret(failure.value, stack)
