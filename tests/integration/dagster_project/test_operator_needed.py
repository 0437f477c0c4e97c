"""What only Dagster can see rings once too: failed runs and checks, late reports, and a warehouse that refuses us."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import patch

import dagster as dg
import pytest
from pydantic import SecretStr
from sqlalchemy import Engine, delete, insert, update

from assets.jobs import ATTEMPT_TAG, campaign_job, load_staged_job, reports_job
from email_platform.adapters.assembly import open_oltp
from email_platform.adapters.dagster_yaml import CAMPAIGN_ID_TAG
from email_platform.adapters.postgres.tables import alert, alert_beat, alert_delivery, campaign, staged_object
from email_platform.definitions import defs
from email_platform.settings import Settings, variable_of
from resources.alerts import AlertsResource
from resources.settings import SettingsResource
from sensors.operator_needed import operator_needed
from tests.integration.alert_server import alert_server
from tests.integration.campaign_rows import in_city, queue_campaign, unique

pytestmark = pytest.mark.integration

HOUR = 3600.0


@dataclass
class Ticks:
    """The sensor on an instance of its own, and who listens."""

    instance: dg.DagsterInstance
    engine: Engine
    monkeypatch: pytest.MonkeyPatch
    heard: list[dict[str, Any]]
    ahead_seconds: float = 0.0
    times: list[datetime] = field(default_factory=list)

    def clock(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=self.ahead_seconds)

    def tick(self) -> list[tuple[str, str]]:
        before = len(self.heard)
        resources = {"alerts": AlertsResource(settings=SettingsResource())}
        with (
            patch("email_platform.adapters.assembly.utc_now", self.clock),
            dg.build_sensor_context(instance=self.instance, resources=resources, definitions=defs) as context,
        ):
            operator_needed(context)
        return [(one["kind"], one["state"]) for one in self.heard[before:]]

    def run(self, job: str, status: dg.DagsterRunStatus, **tags: str) -> str:
        """A run of this job that ended so; what failed it does not matter here."""
        run = self.instance.create_run_for_job(defs.resolve_job_def(job), tags=tags)
        if status is dg.DagsterRunStatus.FAILURE:
            self.instance.report_run_failed(run)
        elif status is dg.DagsterRunStatus.CANCELED:
            self.instance.report_run_canceled(run)
        else:
            kind = dg.DagsterEventType.RUN_SUCCESS if status is SUCCESS else dg.DagsterEventType.RUN_START
            self.instance.report_dagster_event(dg.DagsterEvent(kind.value, job), run.run_id)
        return run.run_id


@pytest.fixture
def ticks(own: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ticks]:
    for name, value in own.variables().items():
        monkeypatch.setenv(name, value)
    with ExitStack() as stack:
        address, heard = stack.enter_context(alert_server(lambda: 200))
        monkeypatch.setenv(variable_of("alert_webhook_url"), address)
        engine = stack.enter_context(open_oltp(own))
        instance = stack.enter_context(dg.DagsterInstance.ephemeral())
        yield Ticks(instance, engine, monkeypatch, heard)
        with engine.begin() as connection:
            for table in (alert_delivery, alert, alert_beat, staged_object):
                connection.execute(delete(table))
            connection.execute(update(campaign).values(status="cancelled", started_at=None, finished_at=None))


FAILURE, SUCCESS = dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.SUCCESS


def test_a_failed_run_rings_once_after_the_time_for_a_retry_and_is_over_when_one_succeeds(ticks: Ticks) -> None:
    ticks.run(load_staged_job.name, SUCCESS)
    assert ticks.tick() == []
    run_id = ticks.run(load_staged_job.name, FAILURE)
    assert ticks.tick() == []  # Dagster may retry it
    ticks.ahead_seconds = 600
    assert ticks.tick() == [("run_failed", "raised")]
    assert run_id in ticks.heard[0]["happened"]
    assert ticks.heard[0]["command"] == "dagster job launch -w workspace.yaml -j load_staged_job"
    ticks.run(load_staged_job.name, dg.DagsterRunStatus.STARTED)
    assert ticks.tick() == []
    ticks.run(load_staged_job.name, dg.DagsterRunStatus.CANCELED)
    assert ticks.tick() == []
    ticks.run(load_staged_job.name, SUCCESS)
    assert ticks.tick() == [("run_failed", "resolved")]
    assert ticks.tick() == []


def test_runs_that_fail_one_after_the_other_ring_although_the_next_is_at_work(ticks: Ticks) -> None:
    for _ in range(3):
        ticks.run(load_staged_job.name, FAILURE)
    ticks.run(load_staged_job.name, dg.DagsterRunStatus.STARTED)
    assert ticks.tick() == [("run_failed", "raised")]
    ticks.run(load_staged_job.name, FAILURE)
    assert ticks.tick() == []


def test_a_campaigns_failed_run_counts_for_its_present_attempt_and_not_where_it_was_paused(ticks: Ticks) -> None:
    campaign_id = queue_campaign(ticks.engine, in_city("nowhere"), queued_at=datetime.now(UTC) + timedelta(days=1))
    tags = {CAMPAIGN_ID_TAG: str(campaign_id), ATTEMPT_TAG: "1"}
    ticks.run(campaign_job.name, FAILURE, **tags)
    ticks.ahead_seconds = 600
    assert ticks.tick() == [("run_failed", "raised")]
    assert ticks.heard[0]["subject"] == f"campaign {campaign_id}"
    with ticks.engine.begin() as connection:
        connection.execute(update(campaign).where(campaign.c.id == campaign_id).values(attempt=2))
    assert ticks.tick() == [("run_failed", "resolved")]
    ticks.run(campaign_job.name, FAILURE, **tags | {ATTEMPT_TAG: "2"})
    with ticks.engine.begin() as connection:
        connection.execute(
            update(campaign).where(campaign.c.id == campaign_id).values(status="paused", status_reason="by an operator")
        )
    ticks.ahead_seconds = 1200
    assert ticks.tick() == []


def report_check(ticks: Ticks, name: str, passed: bool) -> None:
    ticks.instance.report_runless_asset_event(
        dg.AssetCheckEvaluation(asset_key=dg.AssetKey("warehouse_events"), check_name=name, passed=passed, metadata={})
    )


def test_a_failed_check_rings_once_and_is_over_when_it_passes(ticks: Ticks) -> None:
    report_check(ticks, "everything_readable", True)
    report_check(ticks, "campaigns_within_limits", False)  # the campaign itself rings
    assert ticks.tick() == []
    report_check(ticks, "everything_readable", False)
    assert ticks.tick() == [("check_failed", "raised")]
    report_check(ticks, "everything_readable", False)
    assert ticks.tick() == []
    report_check(ticks, "everything_readable", True)
    assert ticks.tick() == [("check_failed", "resolved")]


def test_late_reports_ring_once_and_are_over_after_a_refresh(ticks: Ticks) -> None:
    with ticks.engine.begin() as connection:
        connection.execute(
            insert(staged_object).values(
                key=unique("loaded"),
                kind="delivery",
                rows=1,
                content_sha256="a",
                loaded_sha256="a",
                staged_at=datetime.now(UTC),
                loaded_at=datetime.now(UTC),
            )
        )
    assert ticks.tick() == []
    ticks.ahead_seconds = HOUR
    assert ticks.tick() == [("reports_late", "raised")]
    assert ticks.tick() == []
    ticks.run(reports_job.name, SUCCESS)
    assert ticks.tick() == [("reports_late", "resolved")]


def test_a_warehouse_that_refuses_our_password_rings_once(ticks: Ticks, own: Settings) -> None:
    right = own.clickhouse_url.get_secret_value()
    user, _, rest = right.partition("@")
    wrong = f"{user.rpartition(':')[0]}:hidden-password@{rest}"
    assert SecretStr(wrong) != own.clickhouse_url
    ticks.monkeypatch.setenv(variable_of("clickhouse_url"), wrong)
    assert ticks.tick() == [("credential_refused", "raised")]
    assert ticks.tick() == []
    ticks.monkeypatch.setenv(variable_of("clickhouse_url"), right)
    assert ticks.tick() == [("credential_refused", "resolved")]
    assert "hidden-password" not in str(ticks.heard)
