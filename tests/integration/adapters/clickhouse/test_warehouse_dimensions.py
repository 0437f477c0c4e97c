"""Campaigns and users reach ClickHouse as whole snapshots; what PostgreSQL deletes stays known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from io import BytesIO
from typing import Any
from uuid import uuid4

import pyarrow.parquet as pq
import pytest
from sqlalchemy import Engine, delete, insert, update

from email_platform.adapters.clickhouse.warehouse import ClickHouseWarehouse
from email_platform.adapters.object_store import S3ObjectStore
from email_platform.adapters.postgres.dimensions import PostgresDimensionSource
from email_platform.adapters.postgres.manifests import PostgresManifestStore
from email_platform.adapters.postgres.tables import app_user, campaign, sender, suppression
from email_platform.domain.campaigns import CampaignContent, Sender
from email_platform.domain.manifest import Manifest
from email_platform.domain.odd_rows import OddRow
from email_platform.domain.storage_layout import dimension_key, manifest_prefix
from email_platform.settings import Settings
from email_platform.staging.dimensions import DIMENSION_SCHEMAS, DimensionName, refresh_dimensions
from tests.integration.own_databases import own_warehouse

pytestmark = pytest.mark.integration

HOSTILE = 'it\'s "q", \\N \t\r\n;-- \u202eשלום 😀 %s {x} ' + "x" * 500  # noqa: RUF001
NOON = datetime(2026, 3, 29, 12, 0, 0, 123456, tzinfo=UTC)


@pytest.fixture
def warehouse(stack: Settings) -> Iterator[ClickHouseWarehouse]:
    """An empty warehouse of the test's own."""
    opened = ClickHouseWarehouse.from_settings(own_warehouse(stack, f"test_dimensions_{uuid4().hex[:8]}"))
    yield opened
    opened.close()


@pytest.fixture
def store(stack: Settings) -> S3ObjectStore:
    return S3ObjectStore.from_settings(stack)


def add_user(engine: Engine, name: str) -> int:
    with engine.begin() as connection:
        statement = insert(app_user).values(email=f"{uuid4().hex}@example.org", name=name).returning(app_user.c.id)
        return connection.execute(statement).scalar_one()


def add_campaign(engine: Engine, owner_id: int, **values: Any) -> tuple[int, int]:
    """Ids of a campaign and of its sender."""
    with engine.begin() as connection:
        sender_id = connection.execute(
            insert(sender)
            .values(owner_id=owner_id, from_address="now@example.org", from_name="Now")
            .returning(sender.c.id)
        ).scalar_one()
        defaults = {"name": HOSTILE, "subject_template": HOSTILE, "html_template": "<p>", "condition": {}}
        campaign_id = connection.execute(
            insert(campaign)
            .values(owner_id=owner_id, sender_id=sender_id, **(defaults | values))
            .returning(campaign.c.id)
        ).scalar_one()
    return campaign_id, sender_id


def freeze(engine: Engine, campaign_id: int, owner_id: int, sender_id: int) -> None:
    manifest_id = uuid4()
    PostgresManifestStore(engine).freeze(
        Manifest(
            campaign_id=campaign_id,
            manifest_id=manifest_id,
            prefix=manifest_prefix(campaign_id, manifest_id),
            eligible_rows=25,
            excluded_by_reason={"suppressed": 1, "unsubscribed": 2, "invalid_address": 3, "duplicate_address": 4},
            chunk_rows=10,
            call_rows=5,
            sender=Sender(sender_id, owner_id, "frozen@example.org", "Frozen", None, "simulator", "default"),
            content=CampaignContent("frozen subject", "<p>", ""),
            on_unknown="hold",
            frozen_at=NOON,
        )
    )


def refresh(engine: Engine, store: S3ObjectStore, warehouse: ClickHouseWarehouse, at: datetime) -> dict[str, int]:
    refreshed = refresh_dimensions(PostgresDimensionSource(engine), store, warehouse, lambda: at)
    return {str(name): rows for name, rows in refreshed.items()}


def row_of(warehouse: ClickHouseWarehouse, table: str, row_id: int) -> dict[str, Any]:
    found = warehouse.client.query(
        f"""
        select * except (source_object, loaded_at),
            snapshot_at < (select max(snapshot_at) from dimension_snapshot where name = '{table}') as is_deleted
        from {table} final where id = {{id:Int64}}
        """,
        parameters={"id": row_id},
    )
    rows = list(found.named_results())
    assert len(rows) == 1
    return dict(rows[0])


def test_a_campaign_has_its_manifests_counts_sender_and_subject(
    oltp_engine: Engine, store: S3ObjectStore, warehouse: ClickHouseWarehouse
) -> None:
    owner_id = add_user(oltp_engine, HOSTILE)
    draft, _ = add_campaign(oltp_engine, owner_id, status_reason="", scheduled_at=NOON)
    frozen, sender_id = add_campaign(oltp_engine, owner_id)
    freeze(oltp_engine, frozen, owner_id, sender_id)

    rows = refresh(oltp_engine, store, warehouse, NOON + timedelta(days=400))

    assert rows["campaign"] >= 2
    assert rows["app_user"] >= 1
    assert row_of(warehouse, "app_user", owner_id)["name"] == HOSTILE
    seen = row_of(warehouse, "campaign", draft)
    assert (seen["name"], seen["subject"], seen["from_address"]) == (HOSTILE, HOSTILE, "now@example.org")
    assert (seen["status"], seen["status_reason"], seen["is_deleted"]) == ("draft", "", 0)
    assert (seen["scheduled_at"], seen["queued_at"], seen["frozen_at"]) == (NOON, None, None)
    assert (seen["considered"], seen["eligible"], seen["excluded_suppressed"], seen["chunk_count"]) == (None,) * 4
    seen = row_of(warehouse, "campaign", frozen)
    assert (seen["subject"], seen["from_address"], seen["status_reason"]) == (
        "frozen subject", "frozen@example.org", None,
    )  # fmt: skip
    assert (seen["considered"], seen["eligible"], seen["chunk_count"], seen["frozen_at"]) == (35, 25, 3, NOON)
    assert [
        seen[f"excluded_{reason}"] for reason in ("suppressed", "unsubscribed", "invalid_address", "duplicate_address")
    ] == [1, 2, 3, 4]


def test_a_change_replaces_the_row_and_a_deleted_campaign_stays_known(
    oltp_engine: Engine, store: S3ObjectStore, warehouse: ClickHouseWarehouse
) -> None:
    owner_id = add_user(oltp_engine, "n")
    kept, _ = add_campaign(oltp_engine, owner_id)
    gone, _ = add_campaign(oltp_engine, owner_id, name="once there")
    start = NOON + timedelta(days=400)
    refresh(oltp_engine, store, warehouse, start)
    with oltp_engine.begin() as connection:
        connection.execute(update(campaign).where(campaign.c.id == kept).values(name="renamed", status="queued"))
        connection.execute(delete(campaign).where(campaign.c.id == gone))
    refresh(oltp_engine, store, warehouse, start + timedelta(microseconds=1))
    refresh(oltp_engine, store, warehouse, start + timedelta(microseconds=1))

    seen = row_of(warehouse, "campaign", kept)
    assert (seen["name"], seen["status"], seen["is_deleted"]) == ("renamed", "queued", 0)
    seen = row_of(warehouse, "campaign", gone)
    assert (seen["name"], seen["is_deleted"]) == ("once there", 1)


def test_a_campaign_deleted_before_any_snapshot_is_known_from_its_manifest(
    oltp_engine: Engine, store: S3ObjectStore, warehouse: ClickHouseWarehouse
) -> None:
    owner_id = add_user(oltp_engine, "n")
    gone, sender_id = add_campaign(oltp_engine, owner_id)
    freeze(oltp_engine, gone, owner_id, sender_id)
    with oltp_engine.begin() as connection:
        connection.execute(delete(campaign).where(campaign.c.id == gone))
    refresh(oltp_engine, store, warehouse, NOON + timedelta(days=400))
    seen = row_of(warehouse, "campaign", gone)
    assert (seen["owner_id"], seen["sender_id"], seen["status"], seen["is_deleted"]) == (
        owner_id, sender_id, "deleted", 1,
    )  # fmt: skip
    assert (seen["subject"], seen["eligible"], seen["considered"]) == ("frozen subject", 25, 35)


def test_an_older_snapshot_that_comes_late_changes_nothing(
    oltp_engine: Engine, store: S3ObjectStore, warehouse: ClickHouseWarehouse
) -> None:
    owner_id = add_user(oltp_engine, "old name")
    start = NOON + timedelta(days=400)
    old = PostgresDimensionSource(oltp_engine).snapshot("app_user", start)
    with oltp_engine.begin() as connection:
        connection.execute(update(app_user).where(app_user.c.id == owner_id).values(name="new name"))
    refresh(oltp_engine, store, warehouse, start + timedelta(seconds=1))

    class Late:
        def snapshot(self, name: DimensionName, snapshot_at: datetime) -> Any:
            return old if name == "app_user" else DIMENSION_SCHEMAS[name].empty_table()

        def odd_rows(self) -> Sequence[OddRow]:
            return ()

    refresh_dimensions(Late(), store, warehouse, lambda: start)
    seen = row_of(warehouse, "app_user", owner_id)
    assert (seen["name"], seen["is_deleted"]) == ("new name", 0)


def test_a_snapshot_of_an_empty_table_marks_every_row_as_deleted(
    oltp_engine: Engine, store: S3ObjectStore, warehouse: ClickHouseWarehouse
) -> None:
    owner_id = add_user(oltp_engine, "n")
    start = NOON + timedelta(days=400)
    refresh(oltp_engine, store, warehouse, start)

    class Empty:
        def snapshot(self, name: DimensionName, snapshot_at: datetime) -> Any:
            return DIMENSION_SCHEMAS[name].empty_table()

        def odd_rows(self) -> Sequence[OddRow]:
            return ()

    assert refresh_dimensions(Empty(), store, warehouse, lambda: start + timedelta(seconds=1)) == {
        "campaign": 0, "app_user": 0, "suppression": 0,
    }  # fmt: skip
    assert row_of(warehouse, "app_user", owner_id)["is_deleted"] == 1


def test_suppressions_come_as_counts_without_any_address(
    oltp_engine: Engine, store: S3ObjectStore, warehouse: ClickHouseWarehouse
) -> None:
    _, sender_id = add_campaign(oltp_engine, add_user(oltp_engine, "n"))
    marker = uuid4().hex
    last_moment = datetime(2026, 3, 28, 23, 59, 59, 999999, tzinfo=UTC)
    rows: list[dict[str, Any]] = [
        {"reason": "hard_bounce", "source": HOSTILE + marker, "sender_id": None, "created_at": last_moment},
        {
            "reason": "hard_bounce",
            "source": HOSTILE + marker,
            "sender_id": None,
            "created_at": NOON - timedelta(days=1),
        },
        {"reason": "unsubscribe", "source": HOSTILE + marker, "sender_id": sender_id, "created_at": NOON},
    ]
    with oltp_engine.begin() as connection:
        addresses = [f"{number}-{marker}@example.org" for number in range(len(rows))]
        connection.execute(
            insert(suppression), [row | {"address": address} for row, address in zip(rows, addresses, strict=True)]
        )
    start = NOON + timedelta(days=400)
    refresh(oltp_engine, store, warehouse, start)

    def found() -> list[Any]:
        return list(
            warehouse.client.query(
                """
                select created_on, reason, sender_id, suppressions
                from suppression final
                where endsWith(source, {marker:String})
                    and snapshot_at = (select max(snapshot_at) from dimension_snapshot where name = 'suppression')
                order by created_on
                """,
                parameters={"marker": marker},
            ).result_rows
        )

    assert found() == [
        (last_moment.date(), "hard_bounce", None, 2),
        (NOON.date(), "unsubscribe", sender_id, 1),
    ]
    key = dimension_key("suppression", start.strftime("%Y%m%dT%H%M%S.%fZ"))
    staged = pq.read_table(BytesIO(store.get(key)))
    assert not [address for address in addresses if address in str(staged.to_pydict())]

    with oltp_engine.begin() as connection:
        connection.execute(delete(suppression).where(suppression.c.address.in_(addresses[1:])))
    refresh(oltp_engine, store, warehouse, start + timedelta(seconds=1))
    assert found() == [(last_moment.date(), "hard_bounce", None, 1)], "what was removed counts no more"
