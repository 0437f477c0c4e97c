"""One trace for each run, from whatever process its steps are in; loads, events and reports have spans too."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from sqlalchemy import Engine

from email_platform.definitions import defs
from email_platform.settings import Settings, variable_of
from tests.integration.campaign_rows import in_city, numbered, queue_campaign, row_of, seed_leads
from tests.integration.otlp_collector import Collector, otlp_collector
from tests.integration.own_databases import own_settings

pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True)
def collector(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with otlp_collector() as opened:
        monkeypatch.setenv(variable_of("state_folder"), str(settings.state_folder))
        monkeypatch.setenv(variable_of("chunk_rows"), "100")
        monkeypatch.setenv(variable_of("otlp_url"), opened.url)
        yield opened


def test_the_calls_of_a_campaign_are_one_trace_though_each_chunk_has_a_process_of_its_own(
    collector: Collector, oltp_engine: Engine, tmp_path: Path
) -> None:
    campaign_id = queue_campaign(oltp_engine, in_city(seed_leads(oltp_engine, numbered(200))))
    module = f"{__package__}.one_process_run"
    command = [sys.executable, "-m", module, str(campaign_id), str(tmp_path), "own processes"]
    subprocess.run(command, env=os.environ.copy(), capture_output=True, check=True)
    assert row_of(oltp_engine, campaign_id).status == "sent"

    steps, calls = collector.named("send_chunk"), collector.named("send_call")
    assert sorted(step.attributes["email_platform.chunk.index"] for step in steps) == [0, 1]
    assert sum(call.attributes["email_platform.call.accepted"] for call in calls) == 200
    assert {call.attributes["email_platform.campaign.id"] for call in calls} == {campaign_id}
    assert len({span.trace_id for span in (*steps, *calls)}) == 1
    of_step = {step.span_id: step.attributes["email_platform.chunk.index"] for step in steps}
    assert all(of_step[call.parent_id] == call.attributes["email_platform.chunk.index"] for call in calls)


def test_loads_and_events_are_steps_with_what_they_did(collector: Collector, oltp_engine: Engine) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        campaign_id = queue_campaign(oltp_engine, in_city(seed_leads(oltp_engine, numbered(30))))
        instance.add_dynamic_partitions("campaign", [str(campaign_id)])
        job = defs.resolve_job_def("campaign_job")
        assert job.execute_in_process(partition_key=str(campaign_id), instance=instance).success
        loading = defs.resolve_job_def("load_staged_job").execute_in_process(instance=instance)
        events = defs.resolve_job_def("load_events_job").execute_in_process(instance=instance)
    (load_step,) = collector.named("load_waiting_objects")
    loads = [span for span in collector.named("load") if span.parent_id == load_step.span_id]
    assert {span.attributes["db.collection.name"] for span in loads} >= {"delivery"}
    assert load_step.attributes["email_platform.run.id"] == loading.run_id
    (events_step,) = collector.named("warehouse_events")
    assert events_step.attributes["email_platform.run.id"] == events.run_id
    assert events_step.attributes["email_platform.events.quarantined"] == 0
    assert len({load_step.trace_id, events_step.trace_id, collector.named("send_chunk")[0].trace_id}) == 3


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:AssetExecutionContext.op is deprecated")  # dagster-dbt 0.29 asks for it
def test_a_refresh_of_the_reports_is_a_step(
    collector: Collector, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In a warehouse of its own: dbt tests all of it, and other tests leave campaigns that do not add up.
    for name, value in own_settings(settings, "traced_runs").variables().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(variable_of("otlp_url"), collector.url)
    with dg.DagsterInstance.ephemeral() as instance:
        refresh = defs.resolve_job_def("reports_job").execute_in_process(instance=instance)
    assert refresh.success
    (step,) = collector.named("dbt_report_models")
    assert step.attributes == {"email_platform.run.id": refresh.run_id, "email_platform.full_refresh": False}
    assert not step.is_error
