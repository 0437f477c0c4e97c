"""What is removed stays true: nobody is mailed again, everybody can be explained, and the bucket brings it back."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import dagster as dg
import pytest
from sqlalchemy import func, insert, select, text, update
from typer.testing import CliRunner

from assets.retention import retention_job
from email_platform.adapters.assembly import open_explain, open_retention, open_warehouse
from email_platform.adapters.dagster_history import STEP_OUTPUTS, DagsterRunHistory
from email_platform.adapters.postgres.ledger_archive import PostgresLedgerArchive
from email_platform.adapters.postgres.tables import (
    campaign,
    campaign_manifest,
    chunk,
    lead_import,
    send_call,
    staged_object,
    work_lease,
)
from email_platform.adapters.postgres.work_lease import try_work_lease
from email_platform.cli.app import app
from email_platform.definitions import defs
from email_platform.domain.campaigns import CampaignStatus
from email_platform.domain.ports import StagedObject
from email_platform.domain.storage_layout import (
    archived_ledger_key,
    event_inbox_key,
    event_normalised_key,
    event_raw_key,
)
from email_platform.errors import CampaignArchivedError, CommandRefusedError
from email_platform.runs.explain import explain
from email_platform.runs.finish import finish_sending
from email_platform.runs.freeze import freeze_audience
from email_platform.runs.load import load_staged, prove
from email_platform.runs.rebuild import rebuild_warehouse
from email_platform.runs.retention import Removal, run_retention
from email_platform.runs.retry import retry_rejected
from email_platform.runs.send import send_chunk
from email_platform.runs.unknown import decide_unknown_calls
from email_platform.settings import Settings
from tests.integration.campaign_rows import in_city, numbered, queue_campaign, seed_leads
from tests.integration.own_databases import own_warehouse
from tests.integration.own_world import OwnWorld, own_world

pytestmark = [pytest.mark.integration, pytest.mark.slow]

LONG_AGO = datetime.now(UTC) - timedelta(days=200)
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class World(OwnWorld):
    """A database, a bucket's objects and a warehouse of their own."""

    def ended(self, *, leads: int = 230, at: datetime = LONG_AGO, load: bool = True) -> int:
        """A campaign in three chunks that was sent, loaded, and ended at this time; returns its id."""
        campaign_id = queue_campaign(self.engine, in_city(seed_leads(self.engine, numbered(leads))))
        manifest = freeze_audience(self.parts, campaign_id).manifest
        for index in range(manifest.chunk_count):
            send_chunk(self.parts, campaign_id, index, holder=f"retention-{next(_numbers)}")
        finish_sending(self.parts, campaign_id)
        if load:
            load_staged(self.parts.register, self.warehouse)
        with self.engine.begin() as connection:
            connection.execute(update(campaign).where(campaign.c.id == campaign_id).values(finished_at=at))
        return campaign_id

    def run(self, *, dry_run: bool = False, **days: int) -> dict[str, Removal]:
        """One pass over everything but Dagster's runs."""
        settings = self.settings.model_copy(update=days)
        with open_retention(settings, None) as parts:
            return {one.what: one for one in run_retention(parts, dry_run=dry_run)}

    def rows_of(self, campaign_id: int) -> list[list[Any]]:
        """Every row of its ledger."""
        with self.engine.connect() as connection:
            return [
                [tuple(row) for row in connection.execute(statement)]
                for statement in (
                    select(send_call)
                    .where(send_call.c.campaign_id == campaign_id)
                    .order_by(send_call.c.chunk_index, send_call.c.call_index),
                    # When a lease that nobody holds would have ended is of no use to anybody.
                    select(chunk.c.chunk_index, chunk.c.lease_epoch, chunk.c.lease_holder, chunk.c.finished_at)
                    .where(chunk.c.campaign_id == campaign_id)
                    .order_by(chunk.c.chunk_index),
                    select(campaign_manifest).where(campaign_manifest.c.campaign_id == campaign_id),
                )
            ]

    def calls_on_record(self, campaign_id: int) -> int:
        with self.engine.connect() as connection:
            of_it = select(func.count()).select_from(send_call).where(send_call.c.campaign_id == campaign_id)
            return int(connection.execute(of_it).scalar_one())


@pytest.fixture(scope="module")
def world(stack: Settings) -> Iterator[World]:
    with own_world(stack, "retention") as own:
        yield World.of(own)


def test_a_campaign_that_ended_long_ago_is_archived_and_a_backfill_of_it_sends_nothing_and_says_so(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, young = world.ended(), world.ended(at=datetime.now(UTC) - timedelta(days=1))
    totals = world.parts.ledger.totals(old)
    planned = world.run(dry_run=True)["ledgers"]
    assert (planned.items, world.calls_on_record(old) > 0) == (1, True), "a dry run changes nothing"
    removed = world.run()["ledgers"]
    assert (removed.items, removed.kept, removed.is_complete) == (1, {}, True)
    assert removed.details["calls"] == sum(totals.calls_by_state.values())
    assert (world.calls_on_record(old), world.calls_on_record(young) > 0) == (0, True)
    assert world.parts.ledger.totals(old) == totals, "what its rows added up to is kept"
    assert world.run()["ledgers"] == Removal("ledgers", 0, {"calls": 0}), "a second pass finds nothing"

    monkeypatch.setenv("EMAIL_PLATFORM_STATE_FOLDER", str(world.settings.state_folder))
    monkeypatch.setenv("EMAIL_PLATFORM_POSTGRES_URL", world.settings.postgres_url.get_secret_value())
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("campaign", [str(old)])
        job = defs.resolve_job_def("campaign_job")
        result = job.execute_in_process(partition_key=str(old), instance=instance)
        (event,) = result.asset_materializations_for_node("campaign_deliveries.finish_campaign")
        assert str(event.metadata["this run"].value).startswith("sent nothing: the campaign is archived since")
    assert world.calls_on_record(old) == 0

    for attempt in (
        lambda: world.parts.campaigns.change_status(old, CampaignStatus.QUEUED),
        lambda: send_chunk(world.parts, old, 0, holder="late"),
        lambda: retry_rejected(world.parts, old),
        lambda: decide_unknown_calls(world.parts, old, "resend"),
    ):
        with pytest.raises(CampaignArchivedError, match=f"retention restore {old}"):
            attempt()
    assert world.parts.campaigns.get(old).status is CampaignStatus.SENT
    assert prove(world.parts, world.warehouse, old).holds, "its accounting still holds"


def test_an_archived_campaign_is_explained_from_the_bucket(world: World) -> None:
    campaign_id = world.ended()
    lead_id = _a_lead_of(world, campaign_id)
    with open_explain(world.settings) as parts:
        before = explain(parts, campaign_id, lead_id)
        world.run()
        after = explain(parts, campaign_id, lead_id)
    assert (before.verdict, after.verdict) == ("accepted", "accepted")
    assert any("archived" in fact.text for fact in after.facts)
    assert after.summary.endswith("(archived)")


def test_a_ledger_comes_back_from_the_bucket_as_it_was(world: World) -> None:
    campaign_id = world.ended()
    before = world.rows_of(campaign_id)
    world.run()
    assert world.rows_of(campaign_id)[:2] == [[], []]
    archive = PostgresLedgerArchive(world.engine, world.store)
    assert archive.restore(campaign_id) == len(before[0])
    assert world.rows_of(campaign_id) == before
    with pytest.raises(CommandRefusedError, match="is not archived"):
        archive.restore(campaign_id)
    again = world.parts.campaigns.change_status(campaign_id, CampaignStatus.QUEUED)
    assert again.status is CampaignStatus.QUEUED
    progress = send_chunk(world.parts, campaign_id, 0, holder="after-restore").progress
    assert progress.sent_calls == 0, "what was sent stays sent"


def test_the_reports_rows_of_an_archived_campaign_are_rebuilt_from_the_bucket(world: World) -> None:
    campaign_id = world.ended()
    world.run()
    settings = own_warehouse(world.settings, f"test_retention_rebuilt_{next(_numbers)}")
    with open_warehouse(settings) as rebuilt:
        rebuild_warehouse(world.store, world.parts.register, world.parts.manifests, rebuilt)
        assert rebuilt.delivery_counts(campaign_id) == world.warehouse.delivery_counts(campaign_id)
        assert rebuilt.delivery_counts(campaign_id)["accepted"] == 230
    assert prove(world.parts, world.warehouse, campaign_id).holds


def test_a_removal_that_is_killed_anywhere_is_finished_by_the_next(world: World) -> None:
    before_mark, after_mark = world.ended(), world.ended()
    archive = PostgresLedgerArchive(world.engine, world.store)
    archive._store_ledger(before_mark)  # and dies before it marks it
    archive.archive(after_mark, datetime.now(UTC))  # and dies before it deletes
    assert world.calls_on_record(after_mark) > 0
    with pytest.raises(CampaignArchivedError):
        send_chunk(world.parts, after_mark, 0, holder="between")
    world.run()
    assert (world.calls_on_record(before_mark), world.calls_on_record(after_mark)) == (0, 0)


def test_rows_stay_whose_truth_is_not_elsewhere_and_the_reason_is_given(world: World) -> None:
    unloaded, undecided, gone = world.ended(load=False), world.ended(), world.ended()
    with world.engine.begin() as connection:
        of_it = select(staged_object.c.key).where(staged_object.c.campaign_id == gone)
        one = connection.execute(of_it).scalars().first()
        connection.execute(
            update(staged_object).where(staged_object.c.campaign_id == unloaded).values(loaded_sha256=None)
        )
        connection.execute(
            update(send_call)
            .where(send_call.c.campaign_id == undecided, send_call.c.chunk_index == 0, send_call.c.call_index == 0)
            .values(state="unknown", receipt=None)
        )
    body = world.store.get(str(one))
    world.store.delete(str(one))
    kept = world.run()["ledgers"].kept
    world.store.put(str(one), body)
    assert kept[f"campaign {unloaded}"] == "not all of its objects are loaded"
    assert kept[f"campaign {undecided}"] == "calls of unknown outcome are left"
    assert kept[f"campaign {gone}"] == f"the bucket has no {one}"
    assert all(world.calls_on_record(each) for each in (unloaded, undecided, gone))
    with pytest.raises(CommandRefusedError, match="nothing was deleted"):
        PostgresLedgerArchive(world.engine, world.store).remove(undecided)
    with world.engine.begin() as connection:  # of no use to the other tests
        connection.execute(
            update(campaign).where(campaign.c.id.in_([unloaded, undecided])).values(finished_at=func.now())
        )


def test_a_process_that_stood_still_does_not_replace_the_archive_by_an_empty_one(world: World) -> None:
    campaign_id = world.ended()
    archive = PostgresLedgerArchive(world.engine, world.store)
    assert archive.held_back(campaign_id) is None  # and now it stands still, and another process goes on
    world.run()
    stored = world.store.info(archived_ledger_key(campaign_id))
    assert archive.archive(campaign_id, datetime.now(UTC)) is None
    assert world.store.info(archived_ledger_key(campaign_id)) == stored
    assert archive.restore(campaign_id) == 3 * 2 - 1, "230 recipients in chunks of 100 and calls of 50"


def test_the_archive_s_object_that_is_lost_keeps_the_rows(world: World) -> None:
    campaign_id = world.ended()
    archive = PostgresLedgerArchive(world.engine, world.store)
    archive.archive(campaign_id, datetime.now(UTC))
    body = world.store.get(archived_ledger_key(campaign_id))
    world.store.delete(archived_ledger_key(campaign_id))
    kept = world.run()["ledgers"].kept
    assert kept == {
        f"campaign {campaign_id}": f"the bucket has no {archived_ledger_key(campaign_id)}; nothing was deleted"
    }
    assert world.calls_on_record(campaign_id) > 0
    world.store.put(archived_ledger_key(campaign_id), body)


def test_raw_bodies_go_once_their_events_are_loaded_and_no_body_of_the_day_waits(world: World) -> None:
    old, waiting, young = date(2025, 1, 1), date(2025, 1, 2), datetime.now(UTC).date()
    keys = {}
    for name, day, number in (("loaded", old, 1), ("unloaded", old, 2), ("waiting", waiting, 3), ("young", young, 4)):
        batch = f"{number:032x}"
        keys[name] = event_raw_key(day, batch)
        world.store.put(keys[name], b"raw")
        staged = StagedObject(event_normalised_key(day, batch), "event", 1, "content")
        world.store.put(staged.key, b"events")
        world.parts.register.record(staged, None)
        if name != "unloaded":
            world.parts.register.mark_loaded(staged, 1)
    world.store.put(event_inbox_key(waiting, "receiver", 1), b"body")
    removal = world.run()["raw events"]
    left = {name for name, key in keys.items() if world.store.info(key) is not None}
    assert (removal.items, left) == (1, {"unloaded", "waiting", "young"})
    assert removal.kept == {
        keys["unloaded"]: "its events are not loaded",
        "2025-01-02": "bodies of that day are still in the inbox",
    }
    assert world.store.info(event_normalised_key(old, f"{1:032x}")) is not None, "its events stay"


def test_rows_of_imports_that_nobody_goes_on_with_are_removed(world: World) -> None:
    with world.engine.begin() as connection:
        for name, days in (("old", 40), ("new", 1)):
            at = text(f"now() - interval '{days} days'")
            values = {"fingerprint": name, "last_row": 1, "added": 1, "changed": 0, "progress_at": at}
            connection.execute(insert(lead_import).values(values))
    assert world.run(dry_run=True)["leftover rows"].details["lead_import"] == 1
    assert world.run()["leftover rows"].details["lead_import"] == 1
    with world.engine.connect() as connection:
        assert connection.execute(select(lead_import.c.fingerprint)).scalars().all() == ["new"]


def test_zero_days_keep_everything(world: World) -> None:
    campaign_id = world.ended()
    found = world.run(keep_ledger_days=0, keep_raw_event_days=0, keep_leftover_days=0)
    assert (found, world.calls_on_record(campaign_id) > 0) == ({}, True)


def test_one_process_at_a_time_removes_and_a_lease_that_is_not_renewed_ends(world: World) -> None:
    with (
        try_work_lease(world.engine, "retention") as held,
        pytest.raises(CommandRefusedError, match="one process at a time"),
    ):
        world.run()
    assert not isinstance(held, str)
    with world.engine.begin() as connection:
        dead = {"name": "retention", "holder": "dead", "expires_at": text("now() - interval '1 second'")}
        connection.execute(insert(work_lease).values(dead))
    assert world.run(keep_ledger_days=0, keep_raw_event_days=0)


def test_dagsters_old_runs_go_with_their_step_outputs_and_logs_and_the_newest_of_each_job_stays(
    world: World, tmp_path: Any
) -> None:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        runs = [_ended_run(instance) for _ in range(3)]
        for run_id in runs:
            world.store.put(f"{STEP_OUTPUTS}/storage/{run_id}/step/result", b"1")
            folder = tmp_path / "storage" / run_id / "compute_logs"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "step.out").write_text("log")
        history = DagsterRunHistory(instance, world.store)
        assert history.old_runs(datetime.now(UTC) - timedelta(days=1), 10) == []
        due = history.old_runs(datetime.now(UTC) + timedelta(days=1), 10)
        assert list(due) == runs[:2], "the newest of the job stays"
        assert [history.remove(run_id) for run_id in due] == [1, 1]
        assert [instance.get_run_by_id(run_id) is None for run_id in runs] == [True, True, False]
        logs = {path.parent.parent.name for path in tmp_path.rglob("step.out")}
        assert logs == {runs[2]}
        assert not list(world.store.list(f"{STEP_OUTPUTS}/storage/{runs[0]}/"))
        assert len(list(world.store.list(f"{STEP_OUTPUTS}/storage/{runs[2]}/"))) == 1


def test_the_command_says_what_it_would_remove_and_did_and_brings_a_ledger_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in world.settings.variables().items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    world.run()  # what other tests left
    campaign_id = world.ended()

    def output_of(*arguments: object) -> str:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert result.exit_code == 0, result.output
        return result.output

    planned = json.loads(output_of("retention", "run", "--dry-run", "--json"))
    assert (planned["dry_run"], planned["removals"][0]["what"], planned["removals"][0]["items"]) == (True, "ledgers", 1)
    assert world.calls_on_record(campaign_id) > 0
    output = output_of("retention", "run")
    assert "removed 1 ledgers (5 calls)" in output
    assert "Dagster's runs were not looked at" in output
    assert "archived since" in output_of("campaign", "unknown", campaign_id)
    refused = CliRunner().invoke(app, ["campaign", "retry-rejected", str(campaign_id)])
    assert (refused.exit_code, f"retention restore {campaign_id}" in refused.output.replace("\n", " ")) == (1, True)
    assert "5 calls are back" in output_of("retention", "restore", campaign_id)
    assert world.calls_on_record(campaign_id) == 5


def test_the_job_says_what_it_removed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMAIL_PLATFORM_STATE_FOLDER", str(world.settings.state_folder))
    monkeypatch.setenv("EMAIL_PLATFORM_POSTGRES_URL", world.settings.postgres_url.get_secret_value())
    assert retention_job.name == "retention_job"
    with dg.DagsterInstance.ephemeral() as instance:
        job = defs.resolve_job_def("retention_job")
        config = {"ops": {"remove_what_is_old": {"config": {"dry_run": True}}}}
        result = job.execute_in_process(instance=instance, run_config=config)
        assert result.success
        output = next(event for event in result.all_events if event.event_type_value == "STEP_OUTPUT")
        assert output.step_key == "remove_what_is_old"
        assert {"ledgers", "raw events", "leftover rows", "dagster runs"} <= output.step_output_data.metadata.keys()


def _ended_run(instance: dg.DagsterInstance) -> str:
    return instance.create_run_for_job(defs.resolve_job_def("reports_job"), status=dg.DagsterRunStatus.SUCCESS).run_id


def _a_lead_of(world: World, campaign_id: int) -> int:
    from email_platform.audience.freeze import read_chunk

    manifest = world.parts.manifests.find(campaign_id)
    assert manifest is not None
    return int(read_chunk(world.parts.store, manifest, 1)["lead_id"][0].as_py())
