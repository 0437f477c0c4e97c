"""How runs end on the real engines where somebody stops a campaign, and what is seen while they send."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from sqlalchemy import Engine, func, select

from assets.partitions import CAMPAIGN_PARTITIONS_NAME
from email_platform.adapters.assembly import open_parts
from email_platform.adapters.dagster_yaml import CAMPAIGN_NAME_TAG
from email_platform.adapters.postgres.tables import send_call
from email_platform.definitions import defs
from email_platform.domain.campaigns import CampaignStatus
from email_platform.local.provider_simulator import AcceptedLog
from email_platform.repeating import repeated_beside
from email_platform.runs.launch import Launch
from email_platform.settings import Settings, variable_of
from resources.parts import PartsResource
from resources.settings import SettingsResource
from sensors.queued_campaigns import run_request
from sensors.silent_campaigns import silent_campaigns
from tests.integration.campaign_rows import in_city, numbered, queue_campaign, row_of, seed_leads

pytestmark = [pytest.mark.integration, pytest.mark.slow]


@pytest.fixture(autouse=True)
def small_chunks_and_a_slow_provider(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable_of("state_folder"), str(settings.state_folder))
    for name, value in (("chunk_rows", 40), ("simulator_recipients_per_call", 10), ("simulator_calls_per_second", 5)):
        monkeypatch.setenv(variable_of(name), str(value))


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as opened:
        yield opened


def run_campaign(campaign_id: int, instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    instance.add_dynamic_partitions(CAMPAIGN_PARTITIONS_NAME, [str(campaign_id)])
    return defs.resolve_job_def("campaign_job").execute_in_process(
        partition_key=str(campaign_id), instance=instance, raise_on_error=False
    )


def answered_calls(engine: Engine, campaign_id: int) -> int:
    with engine.connect() as connection:
        is_answered = (send_call.c.campaign_id == campaign_id) & (send_call.c.state == "accepted")
        return int(connection.execute(select(func.count()).where(is_answered)).scalar_one())


def once_two_calls_are_answered(
    engine: Engine, campaign_id: int, do: Callable[[], object]
) -> AbstractContextManager[None]:
    """Do it while the body runs the campaign."""

    def look() -> bool:
        are_answered = answered_calls(engine, campaign_id) >= 2
        if are_answered:
            do()
        return are_answered

    return repeated_beside(look, 0.05, name="two-calls-answered")


def stop(settings: Settings, campaign_id: int, status: CampaignStatus) -> None:
    with open_parts(settings) as parts:
        parts.campaigns.change_status(campaign_id, status, "by an operator")


def failures_of(events: Sequence[dg.DagsterEvent]) -> dict[str, str]:
    """The first words of each step that failed."""
    return {
        str(event.step_key): str(event.step_failure_data.user_failure_data.description)
        for event in events
        if event.is_step_failure
    }


def accepted_rows(settings: Settings, campaign_id: int) -> tuple[int, int]:
    accepted = AcceptedLog(Path(settings.state_folder) / "provider").summary(str(campaign_id))
    return accepted.accepted_rows, accepted.distinct_message_ids


def test_a_pause_ends_the_run_as_cancelled_with_the_reason_and_a_resume_sends_the_rest(
    settings: Settings, oltp_engine: Engine, instance: dg.DagsterInstance
) -> None:
    campaign_id = queue_campaign(oltp_engine, in_city(seed_leads(oltp_engine, numbered(120))), name="Spring sale")
    with once_two_calls_are_answered(
        oltp_engine, campaign_id, lambda: stop(settings, campaign_id, CampaignStatus.PAUSED)
    ):
        result = run_campaign(campaign_id, instance)
    run = instance.get_run_by_id(result.run_id)
    assert run is not None
    assert run.status is dg.DagsterRunStatus.CANCELED
    assert run.tags[CAMPAIGN_NAME_TAG] == "Spring sale", "also of a run that somebody launched by hand"
    first, _, cure = failures_of(result.all_events)["campaign_deliveries.finish_campaign"].split("\n")
    assert first == f"campaign {campaign_id} 'Spring sale' is paused: by an operator"
    assert cure == f"Do: email-platform campaign resume {campaign_id}, or cancel {campaign_id}"
    assert list(failures_of(result.all_events)) == ["campaign_deliveries.finish_campaign"], "no chunk failed"
    (ending,) = [
        record.event_log_entry
        for record in instance.get_records_for_run(run.run_id, of_type=dg.DagsterEventType.RUN_CANCELING).records
    ]
    assert str(ending.dagster_event.message).startswith(first)
    assert 0 < accepted_rows(settings, campaign_id)[0] < 120

    resources = {"parts": PartsResource(settings=SettingsResource()), "settings": SettingsResource()}
    with dg.build_sensor_context(instance=instance, resources=resources, definitions=defs) as context:
        looked = silent_campaigns(context)
    assert isinstance(looked, dg.SensorResult)
    assert str(campaign_id) not in {request.partition_key for request in looked.run_requests or []}

    with open_parts(settings) as parts:
        resumed = parts.campaigns.change_status(campaign_id, CampaignStatus.QUEUED)
    assert resumed.attempt == 2
    again = run_campaign(campaign_id, instance)
    assert again.success
    assert row_of(oltp_engine, campaign_id).status == "sent"
    assert accepted_rows(settings, campaign_id) == (120, 120)
    (check,) = again.get_asset_check_evaluations()
    assert (check.asset_key.to_user_string(), check.check_name, check.passed) == (
        "campaign_deliveries",
        "accounting",
        True,
    )
    assert check.metadata["campaign"].value == "Spring sale"


def test_a_cancel_ends_a_run_whose_steps_have_processes_of_their_own_as_cancelled(
    settings: Settings, oltp_engine: Engine, tmp_path: Path
) -> None:
    campaign_id = queue_campaign(oltp_engine, in_city(seed_leads(oltp_engine, numbered(120))))
    command = [sys.executable, "-m", f"{__package__}.one_process_run", str(campaign_id), str(tmp_path), "own processes"]
    with once_two_calls_are_answered(
        oltp_engine, campaign_id, lambda: stop(settings, campaign_id, CampaignStatus.CANCELLED)
    ):
        subprocess.run(command, env=os.environ, check=True, stdout=subprocess.DEVNULL)
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        (run,) = instance.get_runs()
        events = [record.event_log_entry.dagster_event for record in instance.get_records_for_run(run.run_id).records]
    assert run.status is dg.DagsterRunStatus.CANCELED
    failures = failures_of([event for event in events if event is not None])
    assert list(failures) == ["campaign_deliveries.finish_campaign"]
    assert failures["campaign_deliveries.finish_campaign"].splitlines()[1].endswith("nobody else is mailed.")
    accepted, distinct = accepted_rows(settings, campaign_id)
    assert 0 < accepted == distinct < 120


def test_a_run_of_a_campaign_that_was_cancelled_before_ends_as_cancelled_at_once(
    oltp_engine: Engine, instance: dg.DagsterInstance
) -> None:
    campaign_id = queue_campaign(oltp_engine, in_city("nowhere"), status="cancelled", status_reason="by an operator")
    result = run_campaign(campaign_id, instance)
    run = instance.get_run_by_id(result.run_id)
    assert run is not None
    assert run.status is dg.DagsterRunStatus.CANCELED
    assert list(failures_of(result.all_events)) == ["campaign_audience"]


def test_a_failure_shows_two_lines_and_the_cure_and_ends_the_run_as_failed(
    oltp_engine: Engine, instance: dg.DagsterInstance
) -> None:
    campaign_id = queue_campaign(oltp_engine, in_city("nowhere"), html_template="{{ 1 / 0")
    result = run_campaign(campaign_id, instance)
    run = instance.get_run_by_id(result.run_id)
    assert run is not None
    assert run.status is dg.DagsterRunStatus.FAILURE
    happened, meaning, cure = failures_of(result.all_events)["campaign_audience"].split("\n")
    assert "html" in happened
    assert meaning.startswith("The campaign has failed")
    assert cure.startswith(f"Do: email-platform campaign clone {campaign_id}")


def test_rate_and_expected_end_are_observed_while_a_campaign_is_sent(
    oltp_engine: Engine, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("assets.pace.BEGIN_SECONDS", 0.2)
    monkeypatch.setattr("assets.pace.FIRST_SECONDS", 2.0)
    monkeypatch.setenv(variable_of("chunk_rows"), "300")  # of 30 calls, at 5 a second
    monkeypatch.setenv(variable_of("console_url"), "https://console.example.com/")
    campaign_id = queue_campaign(oltp_engine, in_city(seed_leads(oltp_engine, numbered(300))), name="Spring sale")
    result = run_campaign(campaign_id, instance)
    assert result.success
    observed: list[Any] = [
        event.event_specific_data.asset_observation  # type: ignore[union-attr]
        for event in result.all_events
        if event.event_type is dg.DagsterEventType.ASSET_OBSERVATION
    ]
    assert len(observed) == 1, "the next one would come after a minute"
    assert {one.partition for one in observed} == {str(campaign_id)}
    shown = {name: value.value for name, value in observed[0].metadata.items()}
    assert (shown["campaign"], shown["recipients"]) == ("Spring sale", 300)
    assert 0 < shown["recipients done"] < 300
    assert shown["recipients per second"] > 0
    assert "done about" in shown
    for asset in ("campaign_audience", "campaign_deliveries.finish_campaign"):
        (event,) = result.asset_materializations_for_node(asset)
        assert event.metadata["console"].value == f"https://console.example.com/console/campaigns/{campaign_id}"


def test_the_run_that_the_sensor_asks_for_has_the_campaigns_name_as_a_tag() -> None:
    request = run_request(Launch(17, "Spring sale, 50 % off: <b>now</b>", 1, 10), one_process_rows=5_000)
    assert request.tags[CAMPAIGN_NAME_TAG] == "Spring sale, 50 % off: <b>now</b>"
    with dg.DagsterInstance.ephemeral() as instance:  # as the daemon makes it
        run = instance.create_run_for_job(defs.resolve_job_def("campaign_job"), tags=dict(request.tags))
        (found,) = instance.get_runs(dg.RunsFilter(tags={CAMPAIGN_NAME_TAG: "Spring sale, 50 % off: <b>now</b>"}))
    assert found.run_id == run.run_id
