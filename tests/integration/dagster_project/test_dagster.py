"""The Dagster side on the real engines: definitions, sensors, the campaign's job, and the traps of its execution."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch
from uuid import uuid4

import dagster as dg
import httpx
import psutil
import pytest
import yaml
from dagster._core.events import EngineEventData
from dagster._core.storage.tags import GRPC_INFO_TAG
from dagster._utils.tags import TagConcurrencyLimitsCounter
from sqlalchemy import Engine, delete, func, insert, select, text, update

from assets.jobs import ATTEMPT_TAG, campaign_job
from assets.partitions import campaign_partitions
from assets.reports import campaign_reports, dbt_project, dbt_report_models
from assets.step_process import IN_ONE_PROCESS, runs_in_one_process
from assets.warehouse import warehouse_dimensions
from email_platform.adapters import dagster_yaml
from email_platform.adapters.assembly import open_oltp, open_parts, open_store, open_warehouse
from email_platform.adapters.dagster_yaml import CAMPAIGN_ID_TAG, SIZE_TAG
from email_platform.adapters.postgres.dimensions import PostgresDimensionSource
from email_platform.adapters.postgres.tables import campaign, chunk, lead, send_call
from email_platform.definitions import defs
from email_platform.domain.campaigns import CampaignStatus
from email_platform.local.provider_simulator import AcceptedLog
from email_platform.local.stack.dagster_processes import write_dagster_yaml
from email_platform.runs.freeze import freeze_audience
from email_platform.runs.launch import FRUITLESS_ATTEMPTS, LARGE_ROWS
from email_platform.sending.orphan_watch import is_alive_since
from email_platform.settings import Settings, variable_of
from resources.parts import PartsResource
from resources.settings import SettingsResource
from sensors.dead_runs import dead_runs, worker_is_gone
from sensors.old_campaign_partitions import old_campaign_partitions
from sensors.queued_campaigns import queued_campaigns
from sensors.reports_are_stale import reports_are_stale, seconds_until_due
from sensors.silent_campaigns import silent_campaigns
from sensors.staged_objects_waiting import is_running
from tests.integration.campaign_rows import in_city, numbered, queue_campaign, row_of, seed_leads
from tests.integration.own_databases import own_settings

pytestmark = [pytest.mark.integration, pytest.mark.slow]


@pytest.fixture(autouse=True)
def small_chunks(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable_of("state_folder"), str(settings.state_folder))
    monkeypatch.setenv(variable_of("chunk_rows"), "100")


@pytest.fixture(autouse=True)
def nothing_open_from_other_tests(oltp_engine: Engine) -> None:
    """A tick looks at a few campaigns only: those of this test must be among them."""
    with oltp_engine.begin() as connection:
        is_open = campaign.c.status.in_(["queued", "sending"])
        connection.execute(update(campaign).where(is_open).values(status="cancelled", finished_at=text("now()")))


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as opened:
        yield opened


@pytest.fixture
def resources() -> dict[str, Any]:
    settings = SettingsResource()
    return {"settings": settings, "parts": PartsResource(settings=settings)}


def evaluate(
    sensor: dg.SensorDefinition,
    instance: dg.DagsterInstance,
    resources: dict[str, Any],
    cursor: str | None = None,
) -> dg.SensorResult:
    wanted = {name: resources[name] for name in sensor.required_resource_keys}
    with dg.build_sensor_context(instance=instance, resources=wanted, definitions=defs, cursor=cursor) as context:
        result = sensor(context)
    assert isinstance(result, dg.SensorResult)
    return result


def run_campaign(campaign_id: int, instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    instance.add_dynamic_partitions("campaign", [str(campaign_id)])
    return defs.resolve_job_def("campaign_job").execute_in_process(
        partition_key=str(campaign_id), instance=instance, raise_on_error=False
    )


def load_what_waits(instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    result = defs.resolve_job_def("load_staged_job").execute_in_process(instance=instance)
    assert result.success
    return result


def checks_of(result: dg.ExecuteInProcessResult, campaign_id: int) -> dict[str, bool]:
    evaluations = result.get_asset_check_evaluations()
    return {check.check_name: check.passed for check in evaluations if check.partition == str(campaign_id)}


def loaded_partitions(result: dg.ExecuteInProcessResult) -> set[str | None]:
    return {event.partition for event in result.all_events if event.is_step_materialization}


def metadata_of(result: dg.ExecuteInProcessResult, asset: str) -> dict[str, Any]:
    (event,) = result.asset_materializations_for_node(
        {"campaign_deliveries": "campaign_deliveries.finish_campaign"}.get(asset, asset)
    )
    return {name: value.value for name, value in event.metadata.items()}


def test_the_definitions_load_in_a_fresh_interpreter_without_any_setting(tmp_path: Path) -> None:
    program = (
        "import socket\n"
        "def refuse(*_): raise AssertionError('loading the definitions opened a connection')\n"
        "socket.socket.connect = refuse\n"
        "from email_platform.definitions import defs\n"
        "names = sorted(job.name for job in defs.resolve_all_job_defs())\n"
        "assert {'campaign_job', 'reports_job', 'load_staged_job', 'resolve_unknown_calls_job'} <= set(names), names\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path, env={"PATH": "", "HOME": str(tmp_path)})


def test_every_retry_of_a_campaign_s_run_runs_all_its_steps() -> None:
    # From-failure retries lose the chunks of a dynamic fan-out (dagster #20925, #30077).
    tags = defs.resolve_job_def("campaign_job").tags
    assert tags["dagster/retry_strategy"] == "ALL_STEPS"
    assert int(tags["dagster/max_retries"]) > 0


def test_loads_and_reports_take_one_place_of_the_run_queue_together_and_campaigns_the_others() -> None:
    written = yaml.safe_load(dagster_yaml.production_dagster_yaml(4))
    limits = written["concurrency"]["runs"]["tag_concurrency_limits"]

    def run_of(job: str) -> dg.DagsterRun:
        tags = {**defs.resolve_job_def(job).tags, CAMPAIGN_ID_TAG: uuid4().hex}
        return dg.DagsterRun(job_name=job, tags=tags)

    hanging = TagConcurrencyLimitsCounter(limits, [run_of("load_staged_job")])
    for job in ("load_staged_job", "load_campaigns_job", "reports_job"):
        assert hanging.is_blocked(run_of(job)), job
    for job in ("campaign_job", "load_events_job"):
        assert not hanging.is_blocked(run_of(job)), job


def test_the_sensor_asks_for_one_run_per_due_campaign_and_again_for_the_same_key(
    oltp_engine: Engine, instance: dg.DagsterInstance, resources: dict[str, Any]
) -> None:
    due = queue_campaign(oltp_engine, in_city(seed_leads(oltp_engine, numbered(1))))
    later = queue_campaign(oltp_engine, in_city("nowhere"), scheduled_at="2999-01-01T00:00:00Z")
    first, second = (evaluate(queued_campaigns, instance, resources) for _ in range(2))
    keys = {request.partition_key: request.run_key for request in first.run_requests or []}
    assert keys[str(due)] == f"campaign-{due}-attempt-1"
    assert str(later) not in keys
    assert [request.run_key for request in first.run_requests or []] == [
        request.run_key for request in second.run_requests or []
    ]
    (added,) = first.dynamic_partitions_requests or []
    assert str(due) in added.partition_keys


def test_a_small_campaign_goes_before_a_large_one(
    oltp_engine: Engine, instance: dg.DagsterInstance, resources: dict[str, Any]
) -> None:
    seed_leads(oltp_engine, numbered(3000))
    with oltp_engine.begin() as connection:
        connection.execute(text("analyze lead"))
    large = queue_campaign(oltp_engine, {"all": []})
    small = queue_campaign(oltp_engine, {"all": [{"field": "id", "op": "eq", "value": 1}]})
    result = evaluate(queued_campaigns, instance, resources)
    priority = {request.partition_key: int(request.tags["dagster/priority"]) for request in result.run_requests or []}
    assert priority[str(small)] > priority[str(large)]


def test_a_campaign_s_run_materializes_its_assets_with_counts_rates_and_places(
    oltp_engine: Engine, instance: dg.DagsterInstance
) -> None:
    campaign_id = queue_campaign(oltp_engine, in_city(seed_leads(oltp_engine, numbered(230))))
    result = run_campaign(campaign_id, instance)
    assert result.success
    audience = metadata_of(result, "campaign_audience")
    assert (audience["considered"], audience["eligible"], audience["chunks"]) == (230, 230, 3)
    assert audience["eligible object"].startswith("s3://")
    deliveries = metadata_of(result, "campaign_deliveries")
    assert (deliveries["accepted"], deliveries["unknown"], deliveries["status"]) == (230, 0, "sent")
    assert "made 5 calls" in deliveries["this run"]
    loaded = load_what_waits(instance)
    assert str(campaign_id) in loaded_partitions(loaded)
    assert checks_of(loaded, campaign_id) == {"accounting": True, "nothing_quarantined": True}
    steps = {event.step_key for event in result.all_events if event.is_step_success}
    assert {f"campaign_deliveries.send_chunk[chunk_{index:05d}]" for index in range(3)} <= steps
    assert row_of(oltp_engine, campaign_id).status == "sent"


def test_a_backfill_of_a_sent_campaign_sends_nothing_and_says_so(
    oltp_engine: Engine, settings: Settings, instance: dg.DagsterInstance
) -> None:
    campaign_id = queue_campaign(oltp_engine, in_city(seed_leads(oltp_engine, numbered(150))))
    assert run_campaign(campaign_id, instance).success
    load_what_waits(instance)
    asked = provider_calls(settings)
    again = run_campaign(campaign_id, instance)
    assert again.success
    assert provider_calls(settings) == asked, "not even a call that the provider's idempotency would have to stop"
    accepted = AcceptedLog(Path(settings.state_folder) / "provider").summary(str(campaign_id))
    assert (accepted.accepted_rows, accepted.distinct_message_ids) == (150, 150)
    assert metadata_of(again, "campaign_deliveries")["this run"].startswith("sent nothing")
    assert "an earlier run" in metadata_of(again, "campaign_audience")["frozen by"]
    assert str(campaign_id) not in loaded_partitions(load_what_waits(instance))


def test_a_campaign_whose_counts_differ_fails_its_check_and_the_reports_know_what_is_staged(
    oltp_engine: Engine, settings: Settings, instance: dg.DagsterInstance
) -> None:
    campaign_id, other = (queue_campaign(oltp_engine, in_city(seed_leads(oltp_engine, numbered(30)))) for _ in range(2))
    assert run_campaign(campaign_id, instance).success
    load_what_waits(instance)
    with open_warehouse(settings) as warehouse:
        warehouse.client.command(
            "insert into delivery select * replace (lead_id + 1000000 as lead_id, generateUUIDv4() as message_id) "
            f"from delivery where campaign_id = {campaign_id} limit 1"
        )
    with oltp_engine.begin() as connection:
        connection.execute(text(f"update staged_object set loaded_sha256 = null where campaign_id = {campaign_id}"))
    assert run_campaign(other, instance).success
    both = load_what_waits(instance)
    assert checks_of(both, campaign_id) == {"accounting": False, "nothing_quarantined": True}
    assert checks_of(both, other) == {"accounting": True, "nothing_quarantined": True}, "it stops no other campaign"
    by_hand = defs.resolve_job_def("load_campaigns_job").execute_in_process(
        partition_key=str(campaign_id), instance=instance, raise_on_error=False
    )
    assert not by_hand.success
    (failed,) = [one for one in by_hand.get_asset_check_evaluations() if not one.passed]
    assert (failed.check_name, failed.blocking) == ("accounting", True)
    snapshot = PostgresDimensionSource(oltp_engine).snapshot("campaign", datetime.now(UTC)).to_pylist()
    assert {row["id"]: row["staged"] for row in snapshot}[campaign_id] == 30


def test_a_backfill_of_a_load_brings_back_what_the_warehouse_lost(
    oltp_engine: Engine, settings: Settings, instance: dg.DagsterInstance
) -> None:
    campaign_id = queue_campaign(oltp_engine, in_city(seed_leads(oltp_engine, numbered(30))))
    assert run_campaign(campaign_id, instance).success
    load_what_waits(instance)

    def load_again() -> dict[str, Any]:
        job = defs.resolve_job_def("load_campaigns_job")
        result = job.execute_in_process(partition_key=str(campaign_id), instance=instance, raise_on_error=False)
        assert result.success
        return metadata_of(result, "warehouse_deliveries")

    assert load_again()["objects loaded again"] == 0
    with open_warehouse(settings) as warehouse:
        warehouse.client.command(f"delete from delivery where campaign_id = {campaign_id} and lead_id % 2 = 0")
        assert 0 < sum(warehouse.delivery_counts(campaign_id).values()) < 30
        shown = load_again()
        assert (shown["objects loaded now"], shown["objects loaded again"], shown["rows loaded again"]) == (0, 1, 30)
        assert sum(warehouse.delivery_counts(campaign_id).values()) == 30
    assert load_again()["objects loaded again"] == 0


def test_a_backfill_of_reports_computes_a_range_of_campaigns_in_one_run(
    settings: Settings, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of its own, as dbt tests the whole warehouse, and other tests leave campaigns there that do not add up.
    own = own_settings(settings, "reports_backfill")
    for name, value in own.variables().items():
        monkeypatch.setenv(name, value)
    with open_oltp(own) as engine:
        ids = [queue_campaign(engine, in_city(seed_leads(engine, numbered(size)))) for size in (10, 20)]
    assert all(run_campaign(campaign_id, instance).success for campaign_id in ids)
    load_what_waits(instance)
    assert dg.materialize([warehouse_dimensions], instance=instance, resources=defs.resources).success
    with open_warehouse(own) as warehouse:
        changed = f"alter table delivery update status = 'rejected' where campaign_id in ({ids[0]}, {ids[1]})"
        warehouse.client.command(changed, settings={"mutations_sync": 2})
    instance.add_dynamic_partitions("campaign", ["999999999"])
    whole_range = {
        "dagster/asset_partition_range_start": str(ids[0]),
        "dagster/asset_partition_range_end": "999999999",
    }
    result = dg.materialize([campaign_reports], instance=instance, resources=defs.resources, tags=whole_range)
    shown = {one.partition: one.metadata for one in result.asset_materializations_for_node("campaign_reports")}
    assert {key: one.get("rejected") for key, one in shown.items()} == {
        str(ids[0]): dg.IntMetadataValue(10),
        str(ids[1]): dg.IntMetadataValue(20),
        "999999999": None,
    }
    assert shown["999999999"]["campaign_summary"].value == "has no such campaign"
    assert "report" not in shown["999999999"]
    for key, size in ((str(ids[0]), 10), (str(ids[1]), 20)):
        link = shown[key]["report"].value
        assert link == f"{own.s3_endpoint_url}/{own.s3_bucket}/reports/campaign={key}.html".replace("=", "%3D")
        assert f"| audience | {size} |" in str(shown[key]["summary"].value)
        assert f"![rejected {size}](data:image/png;base64," in str(shown[key]["outcome"].value)
        stored = open_store(own).client.get_object(Bucket=own.s3_bucket, Key=shown[key]["report_object"].value)
        assert stored["ContentType"] == "text/html; charset=utf-8"
        assert f"Campaign {key}: " in stored["Body"].read().decode()


def test_a_row_that_the_reports_cannot_hold_stops_no_refresh_and_is_named_by_a_check(
    oltp_engine: Engine, instance: dg.DagsterInstance
) -> None:
    campaign_id = queue_campaign(oltp_engine, in_city("nowhere"), status="draft", created_at="1850-01-01T00:00:00Z")
    with oltp_engine.begin() as connection:
        connection.execute(text("set local session_replication_role = replica"))  # a row from before it was refused
        connection.execute(text("update campaign set scheduled_at = 'infinity' where id = :id"), {"id": campaign_id})
    result = dg.materialize([warehouse_dimensions], instance=instance, resources=defs.resources)
    assert result.success
    (check,) = [one for one in result.get_asset_check_evaluations() if one.check_name == "rows_are_ordinary"]
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert f"campaign {campaign_id}: scheduled_at, created_at is not within" in str(check.metadata["odd rows"].value)
    with oltp_engine.begin() as connection:
        mended = update(campaign).where(campaign.c.id == campaign_id)
        connection.execute(mended.values(scheduled_at=None, created_at=text("now()")))


def test_every_data_test_of_dbt_is_a_check_of_an_asset() -> None:
    # What is none is logged as an observation with a warning, at every refresh, and is in no asset's health.
    manifest = json.loads(Path(dbt_project.manifest_path).read_text())
    tests = {node["name"] for node in manifest["nodes"].values() if node["resource_type"] == "test"}
    assert len(tests) > 30
    assert {key.name for key in dbt_report_models.check_keys} == tests


def test_marts_and_dimensions_are_overdue_after_a_day_and_campaigns_loads_never() -> None:
    specs = {spec.key.to_user_string(): spec for spec in defs.resolve_all_asset_specs()}
    overdue = {name for name, spec in specs.items() if spec.freshness_policy is not None}
    assert {"campaign_summary", "lead_history", "suppression_growth", "email", "warehouse_dimensions"} <= overdue
    assert not {"warehouse_deliveries", "warehouse_events", "int_hour_counts", "stg_events"} & overdue


def test_an_empty_audience_s_run_succeeds_and_says_that_nobody_was_there(
    oltp_engine: Engine, instance: dg.DagsterInstance
) -> None:
    campaign_id = queue_campaign(oltp_engine, in_city("nowhere"))
    result = run_campaign(campaign_id, instance)
    assert result.success
    assert "nobody to send to" in metadata_of(result, "campaign_deliveries")["status reason"]


def test_an_invalid_condition_ends_the_run_at_once_with_path_and_mend(
    oltp_engine: Engine, instance: dg.DagsterInstance
) -> None:
    campaign_id = queue_campaign(oltp_engine, {"all": [{"field": "contry", "op": "eq", "value": "DE"}]})
    result = run_campaign(campaign_id, instance)
    assert not result.success
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert "$.all[0].field" in str(failure.step_failure_data.user_failure_data.description)
    assert row_of(oltp_engine, campaign_id).status == "failed"


def test_a_partition_that_is_no_campaign_is_refused_with_a_reason(instance: dg.DagsterInstance) -> None:
    assert campaign_partitions.name is not None
    instance.add_dynamic_partitions(campaign_partitions.name, ["spring sale"])
    result = defs.resolve_job_def("campaign_job").execute_in_process(
        partition_key="spring sale", instance=instance, raise_on_error=False
    )
    assert not result.success
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert "no campaign id" in str(failure.step_failure_data.user_failure_data.description)


def test_a_run_that_stays_started_for_ever_is_ended_on_record_and_its_campaign_resumed(
    settings: Settings,
    oltp_engine: Engine,
    instance: dg.DagsterInstance,
    resources: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    campaign_id = queue_campaign(oltp_engine, in_city(seed_leads(oltp_engine, numbered(150))))
    with open_parts(settings) as parts:  # a run that froze its audience, sent nothing, and died with its code server
        freeze_audience(parts, campaign_id)
    dead = record_run(instance, campaign_id, dg.DagsterRunStatus.STARTED)
    alive = evaluate(silent_campaigns, instance, resources)
    assert str(campaign_id) not in {request.partition_key for request in alive.run_requests or []}

    make_silent(oltp_engine, campaign_id)
    fresh = evaluate(silent_campaigns, instance, resources)
    assert str(campaign_id) not in {request.partition_key for request in fresh.run_requests or []}, (
        "a run that waited in the queue and began just now has not come to show a sign of life"
    )
    monkeypatch.setenv(variable_of("stall_seconds"), "1")
    time.sleep(2.1)  # the run's own time has whole seconds
    result = evaluate(silent_campaigns, instance, resources)
    (request,) = [one for one in result.run_requests or [] if one.partition_key == str(campaign_id)]
    assert request.run_key == f"campaign-{campaign_id}-attempt-2"
    ended = instance.get_run_by_id(dead.run_id)
    assert ended is not None
    assert ended.status is dg.DagsterRunStatus.FAILURE
    assert run_campaign(campaign_id, instance).success
    assert row_of(oltp_engine, campaign_id).status == "sent"


def test_a_queued_campaign_whose_run_died_before_it_could_say_so_gets_another_attempt(
    oltp_engine: Engine, instance: dg.DagsterInstance, resources: dict[str, Any]
) -> None:
    long_ago = text("clock_timestamp() - interval '1 hour'")
    condition = in_city(seed_leads(oltp_engine, numbered(20)))
    unlaunched = queue_campaign(oltp_engine, condition, created_at=long_ago, queued_at=long_ago)
    stuck = queue_campaign(oltp_engine, condition, created_at=long_ago, queued_at=long_ago, launched_attempt=1)
    earlier = queue_campaign(
        oltp_engine, condition, created_at=long_ago, queued_at=long_ago, attempt=2, launched_attempt=1
    )
    record_run(instance, stuck, dg.DagsterRunStatus.FAILURE)
    record_run(instance, earlier, dg.DagsterRunStatus.FAILURE)  # of attempt 1; attempt 2 was not launched yet
    result = evaluate(silent_campaigns, instance, resources)
    keys = {request.partition_key: request.run_key for request in result.run_requests or []}
    assert keys[str(stuck)] == f"campaign-{stuck}-attempt-2"
    assert not {str(unlaunched), str(earlier)} & keys.keys(), "the other sensor launches these"
    assert run_campaign(stuck, instance).success


def test_a_campaign_of_which_every_attempt_comes_to_nothing_is_paused_with_the_last_run(
    settings: Settings, oltp_engine: Engine, instance: dg.DagsterInstance, resources: dict[str, Any]
) -> None:
    campaign_id = queue_campaign(oltp_engine, in_city(seed_leads(oltp_engine, numbered(20))))
    with open_parts(settings) as parts:
        freeze_audience(parts, campaign_id)
    attempts: list[str | None] = []
    cursor: str | None = None

    def tick() -> bool:
        """One tick of the sensor, and of the daemon: whether the campaign got another run, which fails at once."""
        nonlocal cursor
        result = evaluate(silent_campaigns, instance, resources, cursor)
        cursor = result.cursor
        asked = [one for one in result.run_requests or [] if one.partition_key == str(campaign_id)]
        attempts.extend(one.run_key for one in asked)
        for one in asked:
            record_run(instance, campaign_id, dg.DagsterRunStatus.FAILURE, one.tags[ATTEMPT_TAG])
        return bool(asked)

    record_run(instance, campaign_id, dg.DagsterRunStatus.FAILURE)
    for number in range(FRUITLESS_ATTEMPTS + 1):
        make_silent(oltp_engine, campaign_id, hours=3)
        tick()
        tick()  # counts the attempt, which is a sign of life
        make_silent(oltp_engine, campaign_id, hours=0.02)  # longer than a first silence, shorter than a later one
        pressed = tick()
        assert pressed == (number == 0), "after fruitless attempts the pauses double"
        if pressed:
            tick()
    assert len(attempts) == FRUITLESS_ATTEMPTS
    row = row_of(oltp_engine, campaign_id)
    assert row.status == "paused"
    assert "attempts in a row came to nothing; the last one: run " in row.status_reason
    with open_parts(settings) as parts:
        parts.campaigns.change_status(campaign_id, CampaignStatus.QUEUED)
    assert row_of(oltp_engine, campaign_id).fruitless_attempts == 0
    assert run_campaign(campaign_id, instance).success


def test_large_campaigns_leave_a_place_of_the_run_queue_to_small_ones(
    settings: Settings, oltp_engine: Engine, instance: dg.DagsterInstance, resources: dict[str, Any], tmp_path: Path
) -> None:
    seed_leads(oltp_engine, [{**row, "attributes": {"tier": "gold"}} for row in numbered(300)])
    with oltp_engine.begin() as connection:  # more than `LARGE_ROWS`, which the planner knows nothing of
        connection.execute(
            text(
                "insert into lead (email, city) select 'l' || n || '@example.com', 'metropolis' from"
                f" generate_series(1, {LARGE_ROWS}) n"
            )
        )
    large = queue_campaign(oltp_engine, in_city("metropolis"))
    small = queue_campaign(oltp_engine, {"field": "attributes.tier", "op": "eq", "value": "gold"})
    result = evaluate(queued_campaigns, instance, resources)
    tags = {request.partition_key: request.tags for request in result.run_requests or []}
    assert (tags[str(large)][SIZE_TAG], tags[str(small)][SIZE_TAG]) == ("large", "small")
    assert row_of(oltp_engine, small).estimated_rows == 300, "counted, whatever the planner guesses"
    configs = {request.partition_key: request.run_config for request in result.run_requests or []}
    assert (configs[str(large)], configs[str(small)]) == ({}, IN_ONE_PROCESS)

    def run_of(size: str) -> dg.DagsterRun:
        return dg.DagsterRun(job_name="campaign_job", tags={SIZE_TAG: size, CAMPAIGN_ID_TAG: uuid4().hex})

    written = write_dagster_yaml(settings.model_copy(update={"state_folder": tmp_path, "max_concurrent_runs": 4}))
    limits = yaml.safe_load(written.read_text(encoding="utf-8"))["concurrency"]["runs"]["tag_concurrency_limits"]
    queue = TagConcurrencyLimitsCounter(limits, [run_of("large") for _ in range(3)])
    assert queue.is_blocked(run_of("large"))
    assert not queue.is_blocked(run_of("small"))
    with oltp_engine.begin() as connection:
        connection.execute(delete(lead).where(lead.c.city == "metropolis"))


@pytest.mark.parametrize(
    ("run_config", "expected"),
    [
        ({}, False),
        (IN_ONE_PROCESS, True),
        ({"execution": {"config": {"in_one_process": False}}}, False),
        ({"execution": {"config": {"in_one_process": True, "other": 1}}, "loggers": {}}, True),
        ({"execution": {}}, False),
        ({"execution": None}, False),
    ],
)
def test_a_run_is_in_one_process_where_its_configuration_says_so_whatever_else_it_says(
    run_config: dict[str, Any], expected: bool
) -> None:
    assert runs_in_one_process(run_config) is expected


def one_process_run(campaign_id: int, folder: Path, *mode: str, **settings: int) -> subprocess.Popen[str]:
    variables = {variable_of(name): str(value) for name, value in settings.items()}
    return subprocess.Popen(
        [sys.executable, "-m", f"{__package__}.one_process_run", str(campaign_id), str(folder), *mode],
        env=os.environ | variables,
        stdout=subprocess.PIPE,
        text=True,
    )


def answered_calls(engine: Engine, campaign_id: int) -> int:
    with engine.connect() as connection:
        is_answered = (send_call.c.campaign_id == campaign_id) & (send_call.c.state == "accepted")
        return int(connection.execute(select(func.count()).where(is_answered)).scalar_one())


def test_an_interrupted_run_in_one_process_sees_its_calls_to_their_end_and_the_next_one_finishes(
    settings: Settings, oltp_engine: Engine, tmp_path: Path
) -> None:
    campaign_id = queue_campaign(oltp_engine, in_city(seed_leads(oltp_engine, numbered(300))))
    slow = {"simulator_recipients_per_call": 10, "simulator_calls_per_second": 4}
    with one_process_run(campaign_id, tmp_path, **slow) as run:
        while answered_calls(oltp_engine, campaign_id) < 3:
            assert run.poll() is None, "ended before it was interrupted"
            time.sleep(0.05)
        run.send_signal(signal.SIGINT)  # what Dagster does in a run worker when an operator terminates the run
        output, _ = run.communicate()
    assert json.loads(output.splitlines()[-1]) == {"success": False, "workers": False}
    with oltp_engine.connect() as connection:
        calls = select(send_call.c.state).where(send_call.c.campaign_id == campaign_id)
        states = set(connection.execute(calls).scalars())
    assert answered_calls(oltp_engine, campaign_id) < 30, "the interruption came in the middle"
    assert states <= {"accepted", "planned"}, "each call that was made has its answer on record"
    with one_process_run(campaign_id, tmp_path) as run:
        output, _ = run.communicate()
    assert json.loads(output.splitlines()[-1]) == {"success": True, "workers": False}
    assert row_of(oltp_engine, campaign_id).status == "sent"
    accepted = AcceptedLog(Path(settings.state_folder) / "provider").summary(str(campaign_id))
    assert (accepted.accepted_rows, accepted.distinct_message_ids) == (300, 300)


def test_a_step_whose_process_is_killed_is_repeated_within_its_run_and_nobody_is_mailed_twice(
    settings: Settings, oltp_engine: Engine, tmp_path: Path
) -> None:
    campaign_id = queue_campaign(oltp_engine, in_city(seed_leads(oltp_engine, numbered(90))))
    slow = {"simulator_recipients_per_call": 10, "simulator_calls_per_second": 2, "lease_seconds": 4}
    holder_of = select(chunk.c.lease_holder).where(chunk.c.campaign_id == campaign_id)
    with one_process_run(campaign_id, tmp_path, "own processes", **slow) as run:
        while answered_calls(oltp_engine, campaign_id) < 2:
            assert run.poll() is None, "ended before its step was killed"
            time.sleep(0.05)
        with oltp_engine.connect() as connection:
            holder = str(connection.execute(holder_of).scalar_one())
        step = int(holder.split(":")[1])
        assert step != run.pid
        os.kill(step, signal.SIGKILL)
        output, _ = run.communicate()
    assert json.loads(output.splitlines()[-1]) == {"success": True, "workers": True, "repeated": 1}
    assert row_of(oltp_engine, campaign_id).status == "sent"
    accepted = AcceptedLog(Path(settings.state_folder) / "provider").summary(str(campaign_id))
    assert (accepted.accepted_rows, accepted.distinct_message_ids) == (90, 90)


def test_a_campaign_that_waits_in_the_run_queue_is_not_taken_for_dead(
    settings: Settings, oltp_engine: Engine, instance: dg.DagsterInstance, resources: dict[str, Any]
) -> None:
    campaign_id = queue_campaign(oltp_engine, in_city("nowhere"), status="sending")
    record_run(instance, campaign_id, dg.DagsterRunStatus.NOT_STARTED)
    make_silent(oltp_engine, campaign_id)
    result = evaluate(silent_campaigns, instance, resources)
    assert str(campaign_id) not in {request.partition_key for request in result.run_requests or []}


def test_partitions_of_campaigns_that_ended_long_ago_are_archived_and_come_back_when_queued(
    oltp_engine: Engine, instance: dg.DagsterInstance, resources: dict[str, Any]
) -> None:
    condition = in_city("nowhere")
    long_ago = {"finished_at": "2020-01-01T00:00:00Z"}
    old_sent = queue_campaign(oltp_engine, condition, status="sent", **long_ago)
    old_cancelled = queue_campaign(oltp_engine, condition, status="cancelled", **long_ago)
    fresh = queue_campaign(oltp_engine, condition, status="sent", finished_at="2999-01-01T00:00:00Z")
    failed = queue_campaign(oltp_engine, condition, status="failed", **long_ago)  # somebody may mend and resume it
    undecided = queue_campaign(oltp_engine, condition, status="sent", **long_ago)
    with oltp_engine.begin() as connection:
        connection.execute(
            insert(send_call).values(
                campaign_id=undecided,
                chunk_index=0,
                call_index=0,
                call_id=uuid4(),
                state="unknown",
                first_position=0,
                recipient_count=1,
                body_sha256=b"",
                lease_epoch=1,
                intent_at=text("now()"),
            )
        )
    deleted = 2**40  # nobody knows when
    every = [old_sent, old_cancelled, fresh, failed, undecided, deleted]
    instance.add_dynamic_partitions("campaign", [*map(str, every), "by hand"])

    (request,) = evaluate(old_campaign_partitions, instance, resources).dynamic_partitions_requests or []
    assert isinstance(request, dg.DeleteDynamicPartitionsRequest)
    assert sorted(map(int, request.partition_keys)) == sorted([old_sent, old_cancelled])
    for key in request.partition_keys:
        instance.delete_dynamic_partition("campaign", key)
    assert evaluate(old_campaign_partitions, instance, resources).dynamic_partitions_requests == []

    with open_parts(resources["settings"].load()) as parts:
        parts.campaigns.change_status(old_sent, CampaignStatus.QUEUED)
    (added,) = evaluate(queued_campaigns, instance, resources).dynamic_partitions_requests or []
    assert str(old_sent) in added.partition_keys
    with oltp_engine.begin() as connection:  # other tests look through all unknown calls
        connection.execute(delete(send_call).where(send_call.c.campaign_id == undecided))


def test_refreshes_of_the_reports_keep_a_distance_and_the_first_one_comes_at_once(
    oltp_engine: Engine, instance: dg.DagsterInstance, resources: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    campaign_id = queue_campaign(oltp_engine, in_city("nowhere"))
    with oltp_engine.begin() as connection:
        connection.execute(update(campaign).where(campaign.c.id == campaign_id).values(started_at=text("now()")))
    (request,) = evaluate(reports_are_stale, instance, resources).run_requests or []
    assert str(request.run_key).startswith("reports-")

    job = defs.resolve_job_def("reports_job")
    instance.create_run_for_job(job, run_id=str(uuid4()), status=dg.DagsterRunStatus.FAILURE)
    skipped = evaluate(reports_are_stale, instance, resources)
    assert not skipped.run_requests
    assert re.search(r"the next refresh, in (60|5\d) s", str(skipped.skip_reason))

    monkeypatch.setenv(variable_of("reports_interval_seconds"), "0")
    assert evaluate(reports_are_stale, instance, resources).run_requests


def test_without_any_change_the_reports_are_refreshed_once_a_day(
    oltp_engine: Engine, instance: dg.DagsterInstance, resources: dict[str, Any]
) -> None:
    queued = queue_campaign(oltp_engine, in_city("nowhere"))
    with oltp_engine.begin() as connection:
        connection.execute(update(campaign).where(campaign.c.id == queued).values(started_at=text("now()")))
    with open_parts(resources["settings"].load()) as parts:
        shown = parts.register.last_change_at()
    assert shown is not None
    instance.create_run_for_job(
        defs.resolve_job_def("reports_job"), run_id=str(uuid4()), status=dg.DagsterRunStatus.SUCCESS
    )
    wanted = {name: resources[name] for name in reports_are_stale.required_resource_keys}

    def ask() -> dg.SensorResult:
        with dg.build_sensor_context(
            instance=instance, resources=wanted, definitions=defs, cursor=shown.isoformat()
        ) as context:
            result = reports_are_stale(context)
        assert isinstance(result, dg.SensorResult)
        return result

    assert "everything that is loaded" in str(ask().skip_reason)
    day_ago = datetime.now(UTC) - timedelta(days=1, seconds=1)
    with patch("sensors.reports_are_stale.last_refresh_at", return_value=day_ago):
        (request,) = ask().run_requests or []
    assert str(request.run_key).startswith("reports-daily-")


def test_a_refresh_is_due_after_the_interval_and_at_once_where_the_clock_was_set_back() -> None:
    noon = datetime(2026, 3, 28, 12, tzinfo=UTC)
    assert seconds_until_due(None, noon, 60) == 0
    assert seconds_until_due(noon, noon, 60) == 60
    assert seconds_until_due(noon, noon + timedelta(seconds=59), 60) == 1
    assert seconds_until_due(noon, noon + timedelta(seconds=61), 60) < 0
    assert seconds_until_due(noon + timedelta(hours=1), noon, 60) == 0


def test_the_job_that_the_sensors_launch_is_the_partitioned_one() -> None:
    assert campaign_job.name == "campaign_job"
    assert defs.resolve_job_def("campaign_job").partitions_def == campaign_partitions


def test_a_run_at_work_whose_worker_is_gone_is_ended_on_record_when_it_was_found_so_twice(tmp_path: Path) -> None:
    started_at = time.time()
    with (
        subprocess.Popen(["sleep", "600"]) as worker,
        dg.DagsterInstance.local_temp(str(tmp_path)) as instance,  # with Dagster's own run launcher
    ):
        time.sleep(0.1)
        tags = {GRPC_INFO_TAG: json.dumps({"host": "localhost", "socket": "gone"})}
        elsewhere = {GRPC_INFO_TAG: json.dumps({"host": "192.0.2.1", "port": 4000})}  # TEST-NET-1: nobody's
        mine, cli, other, remote = (
            instance.create_run_for_job(
                defs.resolve_job_def("reports_job"), status=dg.DagsterRunStatus.STARTED, tags=one
            )
            for one in (tags, {}, tags, elsewhere)
        )
        for run in (mine, cli, remote):
            instance.report_engine_event("Started process for run", run, EngineEventData.in_process(worker.pid))
        assert not worker_is_gone(instance, mine)
        assert is_running(instance, "reports_job"), "no other refresh is asked for"
        worker.kill()
        worker.wait()
        assert [worker_is_gone(instance, run) for run in (mine, cli, other, remote)] == [True, False, False, False]

        def tick(cursor: str | None) -> str:
            with dg.build_sensor_context(instance=instance, cursor=cursor, definitions=defs) as context:
                result = dead_runs(context)
            assert isinstance(result, dg.SensorResult)
            assert "not judged: runs of 192.0.2.1" in str(result.skip_reason)
            return result.cursor or ""

        cursor = tick(None)
        assert instance.get_run_by_id(mine.run_id).status is dg.DagsterRunStatus.STARTED
        assert json.loads(tick(cursor))["found"] == []
        statuses = [instance.get_run_by_id(run.run_id).status.value for run in (mine, cli, other, remote)]
        assert statuses == ["FAILURE", "STARTED", "STARTED", "STARTED"]
    assert not is_alive_since(worker.pid, started_at)
    assert is_alive_since(os.getpid(), started_at)
    assert not is_alive_since(os.getpid(), psutil.Process().create_time() - 60), "this process got the id of another"


def provider_calls(settings: Settings) -> int:
    """How many calls the simulator was ever asked to make."""
    assert settings.provider_api_key is not None
    headers = {"authorization": f"Bearer {settings.provider_api_key.get_secret_value()}"}
    answer = httpx.get(f"{settings.provider_url}/admin/statistics", headers=headers, trust_env=False)
    return int(answer.raise_for_status().json()["calls"])


def record_run(
    instance: dg.DagsterInstance, campaign_id: int, status: dg.DagsterRunStatus, attempt: str = "1"
) -> dg.DagsterRun:
    """A run of the campaign as the instance remembers it, with no process behind it."""
    tags = {CAMPAIGN_ID_TAG: str(campaign_id), ATTEMPT_TAG: attempt}
    return instance.create_run_for_job(defs.resolve_job_def("campaign_job"), status=status, tags=tags)


def make_silent(engine: Engine, campaign_id: int, hours: float = 1) -> None:
    """As if nothing had worked on the campaign for so long."""
    with engine.begin() as connection:
        long_ago = text(f"clock_timestamp() - interval '{hours} hours'")
        connection.execute(update(campaign).where(campaign.c.id == campaign_id).values(progress_at=long_ago))
        connection.execute(update(chunk).where(chunk.c.campaign_id == campaign_id).values(lease_expires_at=long_ago))
