"""A warehouse rebuilt from the bucket holds what it held before, whatever the register and the tables still know.

That the reports are the same too is shown in test_hostile_data.py.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from hashlib import sha256
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sqlalchemy import Engine, delete, select, text, update

from email_platform.adapters.assembly import open_warehouse
from email_platform.adapters.clickhouse.warehouse import ClickHouseWarehouse
from email_platform.adapters.old_systems import import_legacy_month
from email_platform.adapters.postgres.events import PostgresEventIntake
from email_platform.adapters.postgres.tables import app_user, campaign, staged_object
from email_platform.definitions import defs
from email_platform.domain.ports import StagedObject
from email_platform.domain.storage_layout import deliveries_key, event_inbox_key, event_normalised_key
from email_platform.events.event import EVENT_SCHEMA
from email_platform.events.inbox import replay_quarantine, stage_inbox
from email_platform.events.received import ReceivedBody, to_parquet
from email_platform.local.demo.legacy_emails import INDEXES, LegacyTable, generate_legacy_emails
from email_platform.runs.finish import finish_sending
from email_platform.runs.freeze import freeze_audience
from email_platform.runs.legacy_table import Month
from email_platform.runs.load import account, load_staged
from email_platform.runs.parts import Parts
from email_platform.runs.rebuild import RebuildReport, rebuild_warehouse
from email_platform.runs.send import send_chunk
from email_platform.settings import Settings
from email_platform.staging.accounting import require_all
from email_platform.staging.dimensions import refresh_dimensions
from tests.integration.campaign_rows import in_city, numbered, queue_campaign, seed_leads
from tests.integration.dbt_project.test_dbt_reports import about, event
from tests.integration.own_databases import change_in_place, closing_engine, own_warehouse
from tests.integration.own_world import OwnWorld, own_world

pytestmark = [pytest.mark.integration, pytest.mark.slow]

_numbers = itertools.count(1)
NOON = datetime(2026, 3, 28, 12, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class World(OwnWorld):
    """Campaigns that were sent, events, an imported old table and snapshots, loaded into a warehouse of their own."""

    campaigns: tuple[int, ...]

    @contextmanager
    def empty_warehouse(self) -> Iterator[tuple[Settings, ClickHouseWarehouse]]:
        """Another warehouse over the same bucket and register, with tables and without rows."""
        settings = own_warehouse(self.settings, f"test_rebuilt_{next(_numbers)}")
        with open_warehouse(settings) as opened:
            yield settings, opened

    def rebuild(self, warehouse: ClickHouseWarehouse, **options: Any) -> RebuildReport:
        return rebuild_warehouse(self.store, self.parts.register, self.parts.manifests, warehouse, **options)

    def registered(self) -> list[tuple[Any, ...]]:
        columns = staged_object.c
        with self.engine.connect() as connection:
            rows = connection.execute(
                select(
                    columns.key, columns.kind, columns.campaign_id, columns.rows, columns.content_sha256,
                    columns.loaded_sha256, columns.loaded_rows,
                ).order_by(columns.key)
            )  # fmt: skip
            return [tuple(row) for row in rows]

    def forget(self, condition: Any = None) -> None:
        with self.engine.begin() as connection:
            statement = delete(staged_object)
            connection.execute(statement if condition is None else statement.where(condition))


@pytest.fixture(scope="module")
def world(stack: Settings) -> Iterator[World]:
    with own_world(stack, "rebuild") as own:
        campaigns = (send(own.parts, own.engine), send(own.parts, own.engine))
        stage_events(own.parts, campaigns)
        load_staged(own.parts.register, own.warehouse)
        import_old_table(own.settings)
        take_snapshots(own.parts, own.engine, own.warehouse)
        yield World.of(own, campaigns=campaigns)


def send(parts: Parts, engine: Engine) -> int:
    """A campaign to 230 leads, with three left out, sent and staged."""
    rows = numbered(230)
    rows += [{"email": None}, {"email": "no-at-sign"}, {"email": str(rows[0]["email"]).upper()}]
    campaign_id = queue_campaign(engine, in_city(seed_leads(engine, rows)))
    manifest = freeze_audience(parts, campaign_id).manifest
    assert (manifest.excluded_rows, manifest.chunk_count) == (3, 3)
    for index in range(manifest.chunk_count):
        send_chunk(parts, campaign_id, index, holder=f"rebuild-{next(_numbers)}")
    finish_sending(parts, campaign_id)
    return campaign_id


def stage_events(parts: Parts, campaigns: tuple[int, ...]) -> None:
    """Events of two months in two objects, one event in both of them; and a body that cannot be read."""
    lead_ids = [1, 2, 3]
    events = [
        {
            **event("bounced", "hard", key=f"b-{campaign_id}-{lead}", at=NOON, details='{"reason": "é 😀"}'),
            **about(campaign_id, lead),
        }
        for campaign_id in campaigns
        for lead in lead_ids
    ]
    later = [
        {**event("opened", key=f"o-{campaign_id}", at=NOON + timedelta(days=40)), **about(campaign_id, 1)}
        for campaign_id in campaigns
    ]
    for index, rows in enumerate((events, [*later, events[0]])):
        key = event_normalised_key(NOON.date(), sha256(str(index).encode()).hexdigest()[:32])
        parts.register.record(put(parts, key, pa.Table.from_pylist(rows, schema=EVENT_SCHEMA)), None)
    body = ReceivedBody("simulator", "default", NOON, "", b"{")
    parts.store.put(event_inbox_key(NOON.date(), "receiver", 1), to_parquet([body]))


def put(parts: Parts, key: str, table: pa.Table) -> StagedObject:
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    parts.store.put(key, buffer.getvalue())
    return StagedObject(key, "event", table.num_rows, sha256(buffer.getvalue()).hexdigest())


def import_old_table(settings: Settings) -> None:
    """3,000 old rows of two months; afterwards some change their month or campaign, some go."""
    months = (Month(2025, 1), Month(2025, 2))
    assert settings.legacy_url is not None
    with closing_engine(settings.legacy_url.get_secret_value()) as engine:
        generate_legacy_emails(engine, LegacyTable(3_000, date(2025, 1, 1), 2), with_indexes=False)
        with engine.begin() as connection:
            for index in INDEXES:
                connection.execute(text(index))
        for change in (
            "update email set created_at = created_at + interval '1 month' where id in (5, 6)",
            "update email set campaign_id = campaign_id + 1000 where id between 10 and 20",
            "delete from email where id between 30 and 40",
            "delete from email where id between 50 and 60",
        ):
            for month in months:
                assert import_legacy_month(settings, month).differences() == []
            with engine.begin() as connection:
                connection.execute(text(change))
        for month in months:
            assert import_legacy_month(settings, month).differences() == []


def take_snapshots(parts: Parts, engine: Engine, warehouse: ClickHouseWarehouse) -> None:
    """Three snapshots; between them a campaign changes its name and another one, never sent, is deleted."""
    draft = queue_campaign(engine, in_city("nowhere"), status="draft", name="soon gone")
    times = (NOON + timedelta(days=400 + day) for day in range(3))
    for at in times:
        refresh_dimensions(parts.dimensions, parts.store, warehouse, lambda at=at: at)  # type: ignore[misc]
        with engine.begin() as connection:
            connection.execute(delete(campaign).where(campaign.c.id == draft))
            connection.execute(update(app_user).values(name=f"renamed at {at}"))


def physical_rows(warehouse: ClickHouseWarehouse, table: str) -> tuple[int, Any]:
    """Rows without final and when the last was loaded: any insert would change one of the two."""
    return tuple(warehouse.client.query(f"select count(), max(loaded_at) from {table}").result_rows[0])  # type: ignore[return-value]


def test_an_empty_warehouse_is_filled_although_the_register_says_that_everything_is_loaded(world: World) -> None:
    before = world.warehouse.fingerprints()
    registered = world.registered()
    assert min(fingerprint.rows for name, fingerprint in before.items() if name != "suppression") > 0
    with world.empty_warehouse() as (_, rebuilt):
        report = world.rebuild(rebuilt)
        assert rebuilt.fingerprints() == before == report.after
        assert {fingerprint.rows for fingerprint in report.before.values()} == {0}
        assert report.done.quarantined == {}
        assert (report.done.held, report.done.registered, report.done.foreign) == (0, 0, ())
        assert report.done.loaded == report.done.found > 0
        assert report.is_complete
        for campaign_id in world.campaigns:
            require_all(account(world.parts, rebuilt, campaign_id))
        deleted = rebuilt.client.query("select count() from campaign final where name = 'soon gone'").result_rows
        assert deleted == [(1,)], "what an old snapshot alone remembers is remembered"
    assert world.registered() == registered


def test_a_register_without_rows_is_made_again_from_the_bucket(world: World) -> None:
    before = world.warehouse.fingerprints()
    stage_inbox(world.store, PostgresEventIntake(world.engine, None), lambda: NOON)  # the body that cannot be read
    registered = world.registered()
    assert {row[1] for row in registered} == {"delivery", "exclusion", "event", "event_quarantine", "legacy_email"}
    world.forget()
    with world.empty_warehouse() as (_, rebuilt):
        report = world.rebuild(rebuilt)
        assert report.after == before
        assert report.done.registered == len(registered)
    assert world.registered() == registered
    assert world.parts.register.unloaded() == []
    replayed = replay_quarantine(world.store, PostgresEventIntake(world.engine, None), lambda: NOON)
    assert replayed == 1, "bodies that could not be read can still be replayed"
    for info in list(world.store.list("events/inbox/")):
        world.store.delete(info.key)


def test_a_rebuild_of_a_complete_warehouse_inserts_nothing(world: World) -> None:
    tables = [table for table in world.warehouse.fingerprints() if table not in ("dimension_snapshot", "legacy_email")]
    physical = {table: physical_rows(world.warehouse, table) for table in tables}
    report = world.rebuild(world.warehouse)
    assert report.changed_tables() == []
    assert {table: physical_rows(world.warehouse, table) for table in tables} == physical


def test_only_what_is_missing_is_loaded(world: World) -> None:
    with world.empty_warehouse() as (_, rebuilt):
        complete = world.rebuild(rebuilt)
        lost = deliveries_key(world.campaigns[0], 1)
        change_in_place(rebuilt, "delivery", f"delete where source_object = '{lost}'")
        change_in_place(rebuilt, "event", "delete where 1")
        report = world.rebuild(rebuilt)
        assert report.after == complete.after
        assert sorted(report.changed_tables()) == ["delivery", "event"]
        assert report.done.found == complete.done.found
        assert report.done.loaded >= 3  # the chunk and two objects of events; old rows that were replaced are looked up
        assert report.done.held >= complete.done.found - 3 - 6


def test_tables_are_emptied_first_where_that_is_asked_for(world: World) -> None:
    with world.empty_warehouse() as (_, rebuilt):
        complete = world.rebuild(rebuilt)
        rebuilt.client.command(
            "insert into delivery select * replace (lead_id + 1000000 as lead_id) from delivery limit 5"
        )
        assert world.rebuild(rebuilt).after != complete.after, "rows that no object has stay"
        report = world.rebuild(rebuilt, empty_first=True)
        assert report.after == complete.after
        assert report.done.held == 0


def test_a_corrupt_and_a_foreign_object_are_named_and_block_nothing(world: World) -> None:
    corrupt = deliveries_key(999_999, 0)
    foreign = "deliveries/campaign=1/{a,b}*'.parquet"
    try:
        world.store.put(corrupt, b"PAR1 no Parquet PAR1")
        world.store.put(foreign, b"")
        with world.empty_warehouse() as (_, rebuilt):
            report = world.rebuild(rebuilt)
            assert report.after == world.warehouse.fingerprints()
            assert list(report.done.quarantined) == [corrupt]
            assert report.done.foreign == (foreign,)
            assert not report.is_complete
        assert corrupt not in [staged.key for staged in world.parts.register.unloaded()]
    finally:
        for key in (corrupt, foreign):
            world.store.delete(key)
        world.forget(staged_object.c.key == corrupt)


def test_a_list_of_excluded_leads_that_no_manifest_names_is_left_out(world: World) -> None:
    manifest = world.parts.manifests.find(world.campaigns[0])
    assert manifest is not None
    body = world.store.get(f"{manifest.prefix}/excluded.parquet")
    loser = f"manifests/campaign={world.campaigns[0]}/00000000-0000-0000-0000-000000000000/excluded.parquet"
    unknown = "manifests/campaign=999999/00000000-0000-0000-0000-000000000000/excluded.parquet"
    try:
        for key in (loser, unknown):
            world.store.put(key, body)
        with world.empty_warehouse() as (_, rebuilt):
            report = world.rebuild(rebuilt)
            assert report.after["exclusion"] == world.warehouse.fingerprints()["exclusion"]
            assert (report.done.without_manifest, report.done.foreign) == (1, ())
    finally:
        for key in (loser, unknown):
            world.store.delete(key)


def test_an_object_that_the_register_knows_and_the_bucket_lacks_is_named(world: World) -> None:
    key = deliveries_key(world.campaigns[1], 2)
    body = world.store.get(key)
    world.store.delete(key)
    try:
        with world.empty_warehouse() as (_, rebuilt):
            report = world.rebuild(rebuilt)
            assert (report.missing, report.done.quarantined, report.is_complete) == ((key,), {}, False)
            assert report.after["delivery"].rows == 430
    finally:
        world.store.put(key, body)


def test_a_register_that_tells_of_an_older_content_is_mended(world: World) -> None:
    key = deliveries_key(world.campaigns[0], 0)
    (was,) = world.parts.register.registered([key]).values()
    with world.engine.begin() as connection:
        connection.execute(
            update(staged_object)
            .where(staged_object.c.key == key)
            .values(content_sha256="older", loaded_sha256="older", rows=1, quarantined_reason="rewritten")
        )
    with world.empty_warehouse() as (_, rebuilt):
        report = world.rebuild(rebuilt)
        assert report.after == world.warehouse.fingerprints()
        assert (report.done.registered, report.done.quarantined) == (1, {})
    assert world.parts.register.registered([key]) == {key: was}
    assert world.parts.register.staged_rows(world.campaigns[0])["delivery"] == (230, 230)


def test_a_content_that_is_recorded_while_an_older_one_is_found_stays(world: World) -> None:
    register = world.parts.register
    staged = StagedObject("deliveries/campaign=7/chunk-00000.parquet", "delivery", 1, "new")
    try:
        for seen_before in (True, False):
            world.forget(staged_object.c.key == staged.key)
            if seen_before:
                register.record(replace(staged, content_sha256="oldest"), 7)
            seen = register.registered([staged.key])
            register.record(staged, 7)
            register.adopt([(replace(staged, content_sha256="older", rows=2), 7)], seen)
            assert register.registered([staged.key]) == {staged.key: staged}
    finally:
        world.forget(staged_object.c.key == staged.key)


def test_the_job_tells_what_the_tables_held_and_hold_and_refuses_another_database_s_name(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = defs.resolve_job_def("rebuild_warehouse_job")
    with world.empty_warehouse() as (settings, rebuilt), dg.DagsterInstance.ephemeral() as instance:
        for name, value in settings.variables().items():
            monkeypatch.setenv(name, value)

        def run(empty_database: str) -> dg.ExecuteInProcessResult:
            config = {"ops": {"rebuild_from_staging_area": {"config": {"empty_database": empty_database}}}}
            return job.execute_in_process(run_config=config, instance=instance, raise_on_error=False)

        refused = run("production")
        assert not refused.success
        (failure,) = [event for event in refused.all_events if event.is_step_failure]
        assert rebuilt.database in str(failure.step_failure_data.user_failure_data.description)
        assert physical_rows(rebuilt, "delivery")[0] == 0
        for empty_database in ("", rebuilt.database):
            result = run(empty_database)
            assert result.success
            (output,) = [event.event_specific_data for event in result.all_events if event.is_successful_output]
            metadata: dict[str, Any] = {name: value.value for name, value in output.metadata.items()}
            assert metadata["rows loaded now"] > 3_000
            assert metadata["rows per second"] > 0
            assert str(world.warehouse.fingerprints()["delivery"]) in metadata["tables"]
        assert rebuilt.fingerprints() == world.warehouse.fingerprints()
        key = deliveries_key(world.campaigns[1], 2)
        body = world.store.get(key)
        world.store.delete(key)
        try:
            assert not run("").success, "what cannot be rebuilt is no success"
        finally:
            world.store.put(key, body)
