"""A warehouse made anew from the bucket equals the one that was filled as things happened."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from hashlib import sha256
from io import BytesIO
from itertools import count
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import dagster as dg
import pyarrow.parquet as pq
import pytest
from pydantic import SecretStr
from sqlalchemy import Engine, delete

from email_platform.adapters.assembly import open_parts, open_warehouse, utc_now
from email_platform.adapters.clickhouse.warehouse import ClickHouseWarehouse, Fingerprint
from email_platform.adapters.postgres.tables import staged_object
from email_platform.adapters.preparation import prepare
from email_platform.campaign_run import Parts, finish_sending, freeze_audience, load_staged, send_chunk
from email_platform.definitions import defs
from email_platform.dimensions import refresh_dimensions
from email_platform.events.event import Event, event_table
from email_platform.ports import StagedObject
from email_platform.rebuild import RebuildReport, rebuild_warehouse
from email_platform.settings import Settings
from email_platform.storage_layout import dimension_key, event_normalised_key, excluded_key
from tests.integration.campaign_rows import in_city, numbered, queue_campaign, seed_leads

pytestmark = pytest.mark.integration

_numbers = count(1)


@pytest.fixture
def own(settings: Settings) -> Settings:
    """A bucket and a database of the test's own, so that the bucket is all there is."""
    name = f"rebuild_{uuid4().hex[:8]}"
    changed = settings.model_copy(
        update={
            "chunk_rows": 100,
            "s3_bucket": name.replace("_", "-"),
            "clickhouse_url": with_database(settings.clickhouse_url, name),
        }
    )
    prepare(changed, ("s3", "clickhouse"))
    return changed


def with_database(url: SecretStr, name: str) -> SecretStr:
    return SecretStr(urlunsplit(urlsplit(url.get_secret_value())._replace(path=f"/{name}")))


@pytest.fixture
def parts(own: Settings, oltp_engine: Engine) -> Iterator[Parts]:
    with oltp_engine.begin() as connection:  # the register is shared with other tests, whose objects lie elsewhere
        saved = connection.execute(staged_object.select()).mappings().all()
        connection.execute(delete(staged_object))
    with open_parts(own) as opened:
        yield opened
    with oltp_engine.begin() as connection:
        connection.execute(delete(staged_object))
        if saved:
            connection.execute(staged_object.insert(), [dict(row) for row in saved])


@contextmanager
def empty_warehouse(own: Settings) -> Iterator[tuple[Settings, ClickHouseWarehouse]]:
    changed = own.model_copy(update={"clickhouse_url": with_database(own.clickhouse_url, f"rebuilt_{uuid4().hex[:8]}")})
    prepare(changed, ("clickhouse",))
    with open_warehouse(changed) as warehouse:
        yield changed, warehouse


def fill(parts: Parts, own: Settings, engine: Engine) -> dict[str, Fingerprint]:
    """Two campaigns with exclusions, events, one event twice, two snapshots with a lead's campaign between."""
    with open_warehouse(own) as warehouse:
        for size in (230, 40):
            city = seed_leads(engine, [*numbered(size), {"email": "no-at-sign"}, {"email": "quote'; drop@x"}])
            campaign_id = queue_campaign(engine, in_city(city))
            manifest = freeze_audience(parts, campaign_id).manifest
            for index in range(manifest.chunk_count):
                send_chunk(parts, campaign_id, index, holder=f"rebuild-{next(_numbers)}")
            finish_sending(parts, campaign_id)
            refresh_dimensions(parts.dimensions, parts.store, warehouse, parts.clock)
        moment = datetime(2026, 3, 1, tzinfo=UTC)
        for copies in (3, 2):  # the second object repeats two events of the first
            events = [
                Event(
                    provider="simulator",
                    account="default",
                    event_id=f"rebuild-{number}",
                    type="bounced",
                    subtype="hard",
                    campaign_id=1,
                    message_id="",
                    provider_message_id=f"p-{number}",
                    recipient=f"{number}@example.com",
                    occurred_at=moment,
                    received_at=utc_now(),
                    details="{}",
                )
                for number in range(copies)
            ]
            stage_events(parts, events)
        load_staged(parts.register, warehouse)
        return dict(warehouse.fingerprints())


def stage_events(parts: Parts, events: list[Event]) -> None:
    buffer = BytesIO()
    table = event_table(events)
    pq.write_table(table, buffer)
    key = event_normalised_key(events[0].occurred_at.date(), uuid4().hex)
    parts.store.put(key, buffer.getvalue())
    parts.register.record(StagedObject(key, "event", table.num_rows, sha256(buffer.getvalue()).hexdigest()), None)


def rebuild(parts: Parts, warehouse: ClickHouseWarehouse) -> RebuildReport:
    return rebuild_warehouse(parts.store, parts.register, parts.manifests, warehouse)


def test_an_empty_warehouse_becomes_equal_though_the_register_calls_everything_loaded(
    parts: Parts, own: Settings, oltp_engine: Engine
) -> None:
    filled = fill(parts, own, oltp_engine)
    assert filled["delivery"].rows == 270
    assert filled["exclusion"].rows == 4
    assert filled["event"].rows == 3
    assert parts.register.unloaded() == []
    with empty_warehouse(own) as (_, warehouse):
        assert warehouse.fingerprints()["delivery"].rows == 0
        report = rebuild(parts, warehouse)
        assert report.is_complete
        assert report.registered == 0
        assert dict(warehouse.fingerprints()) == filled
        again = rebuild(parts, warehouse)
        assert (again.objects, again.rows) == (report.objects, report.rows)
        assert dict(warehouse.fingerprints()) == filled
        snapshots = warehouse.client.query("select count() from dimension_snapshot final").result_rows[0][0]
        assert snapshots == 2  # the newest of the campaigns and of the users; nobody is suppressed


def test_a_lost_register_is_made_anew_from_the_bucket(parts: Parts, own: Settings, oltp_engine: Engine) -> None:
    filled = fill(parts, own, oltp_engine)
    with oltp_engine.begin() as connection:
        before = {
            row.key: (row.kind, row.rows, row.content_sha256) for row in connection.execute(staged_object.select())
        }
        connection.execute(delete(staged_object))
    with empty_warehouse(own) as (_, warehouse):
        report = rebuild(parts, warehouse)
        assert report.registered == len(before)
        assert dict(warehouse.fingerprints()) == filled
    with oltp_engine.connect() as connection:
        after = {
            row.key: (row.kind, row.rows, row.content_sha256) for row in connection.execute(staged_object.select())
        }
    assert after == before
    assert parts.register.unloaded() == []


def test_only_the_lost_rows_of_a_damaged_warehouse_come_back(parts: Parts, own: Settings, oltp_engine: Engine) -> None:
    filled = fill(parts, own, oltp_engine)
    with open_warehouse(own) as warehouse:
        warehouse.client.command("delete from delivery where lead_id % 3 = 0")
        assert dict(warehouse.fingerprints()) != filled
        assert rebuild(parts, warehouse).is_complete
        assert dict(warehouse.fingerprints()) == filled


def test_what_is_damaged_missing_or_foreign_is_named_and_blocks_nothing_else(
    parts: Parts, own: Settings, oltp_engine: Engine
) -> None:
    filled = fill(parts, own, oltp_engine)
    deliveries = sorted(found.key for found in parts.store.list("deliveries/"))
    damaged, missing = deliveries[0], deliveries[-1]
    parts.store.put(damaged, b"PAR1 is not enough")
    parts.store.delete(missing)
    parts.store.put("deliveries/notes.txt", b"somebody's")
    parts.store.put(dimension_key("campaign", "20260101T000000.000000Z"), b"not a file either")
    with empty_warehouse(own) as (_, warehouse):
        report = rebuild(parts, warehouse)
        assert set(report.quarantined) == {damaged, dimension_key("campaign", "20260101T000000.000000Z")}
        assert report.missing == (missing,)
        assert report.foreign == ("deliveries/notes.txt",)
        assert not report.is_complete
        assert warehouse.fingerprints()["event"] == filled["event"]
        assert 0 < warehouse.fingerprints()["delivery"].rows < filled["delivery"].rows


def test_an_audience_that_was_resolved_but_not_chosen_is_not_loaded(
    parts: Parts, own: Settings, oltp_engine: Engine
) -> None:
    filled = fill(parts, own, oltp_engine)
    chosen = next(found.key for found in parts.store.list("manifests/") if found.key.endswith("excluded.parquet"))
    campaign = chosen.split("/")[1]
    parts.store.put(excluded_key(f"manifests/{campaign}/{uuid4()}"), parts.store.get(chosen))
    with oltp_engine.begin() as connection:
        connection.execute(delete(staged_object))
    with empty_warehouse(own) as (_, warehouse):
        assert rebuild(parts, warehouse).is_complete
        assert warehouse.fingerprints()["exclusion"] == filled["exclusion"]


def test_the_job_rebuilds_and_shows_the_tables(
    parts: Parts, own: Settings, oltp_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled = fill(parts, own, oltp_engine)
    with empty_warehouse(own) as (changed, warehouse):
        for name, value in changed.variables().items():
            monkeypatch.setenv(name, value)
        with dg.DagsterInstance.ephemeral() as instance:
            job = defs.resolve_job_def("rebuild_warehouse_job")
            result = job.execute_in_process(instance=instance, raise_on_error=False)
            assert result.success
            (output,) = [event for event in result.all_events if event.is_successful_output]
            metadata = {name: value.value for name, value in output.step_output_data.metadata.items()}
            assert metadata["delivery rows"] == 270
            assert f"| delivery | 270 | {filled['delivery'].checksum} |" in metadata["tables now"]
            parts.store.delete(sorted(found.key for found in parts.store.list("deliveries/"))[0])
            failed = job.execute_in_process(instance=instance, raise_on_error=False)
            assert not failed.success
        assert dict(warehouse.fingerprints()) == filled
