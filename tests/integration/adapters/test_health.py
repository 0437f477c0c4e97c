"""Do `status` and `doctor` tell the truth where parts hang, and agree with the alerts and the figures?"""

from __future__ import annotations

import json
import signal
import socket
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine, insert
from sqlalchemy.engine import make_url
from typer.testing import CliRunner

from email_platform.adapters.assembly import open_alerts, open_store
from email_platform.adapters.health.asking import PartCheck
from email_platform.adapters.health.machine import CLOCK_SECONDS
from email_platform.adapters.health.overview import Addresses, diagnosis, overview
from email_platform.adapters.postgres.metrics import PostgresFigures
from email_platform.adapters.postgres.tables import alert_beat
from email_platform.alerting.watch import look
from email_platform.cli.app import app
from email_platform.settings import Settings
from tests.integration.campaign_rows import in_city, queue_campaign
from tests.integration.clickhouse_process import DATABASE, PASSWORD, USER, running

pytestmark = pytest.mark.integration


def status_of(settings: Settings) -> dict[str, PartCheck]:
    return {one.part: one for one in overview(settings, {}, Addresses()).checks}


def test_everything_fits_and_says_since_when(own: Settings) -> None:
    found = {one.part: one for one in diagnosis(own, {}, Addresses()).checks}
    assert [one for one in found.values() if not one.fits] == []
    assert "up " in found["PostgreSQL"].says
    assert "up " in found["ClickHouse"].says
    assert found["queue"].says == "empty"
    assert found["events"].says == "the inbox is empty"
    assert found["calls"].says == "0 at work, 0 with an unknown outcome"
    assert found["receiver"].says.startswith("not asked")
    for clock in ("clock beside PostgreSQL's", "clock beside S3's"):
        assert abs(float(found[clock].says.split()[0])) < CLOCK_SECONDS, found[clock]
    assert "free at" in found["disk"].says


def test_a_campaign_that_waits_for_its_time_is_not_late_and_one_that_is_due_is(
    own: Settings, own_engine: Engine
) -> None:
    long_ago = datetime.now(UTC) - timedelta(hours=3)
    planned = {"queued_at": long_ago, "scheduled_at": datetime.now(UTC) + timedelta(days=1)}
    queue_campaign(own_engine, in_city("nowhere"), **planned)
    assert status_of(own)["queue"].says == "1 campaign queued, 0 due"
    assert {one.status: one.queued_seconds for one in PostgresFigures(own_engine).campaigns()} == {"queued": None}
    queue_campaign(own_engine, in_city("nowhere"), queued_at=long_ago, scheduled_at=long_ago + timedelta(hours=1))
    paused = queue_campaign(own_engine, in_city("nowhere"), status="paused", status_reason="the provider refused it")
    open_store(own).put("events/inbox/2026-01-01/late.parquet", b"a body")
    late = own.model_copy(update={"alert_late_seconds": 0.001})
    with open_alerts(late) as parts:
        rung = {str(alert.condition.kind): alert.condition for alert in look(parts, "receiver").raised}
    found = overview(late, {}, Addresses())
    lines = {one.part: one for one in found.checks}
    assert rung.keys() == {"queue_stuck", "campaign_paused", "events_late"}
    for part, kind in (("queue", "queue_stuck"), ("campaigns", "campaign_paused"), ("events", "events_late")):
        assert not lines[part].fits
        assert rung[kind].happened in lines[part].says, "status says what the alert says"
        assert lines[part].do == rung[kind].command
    assert lines["queue"].says.startswith("2 campaigns queued, 1 due, the oldest for 2 h")
    assert f"campaign resume {paused}" in lines["campaigns"].do
    assert (lines["open alerts"].fits, lines["open alerts"].do) == (False, "email-platform alert list")
    assert (list(found.wrong), {one.part for one in found.needs}) == (
        [],
        {"queue", "campaigns", "events", "open alerts"},
    )


def test_hosts_that_fell_silent_are_said_to_be(own: Settings, own_engine: Engine) -> None:
    assert "looked for alerts" in status_of(own)["receiver's watch"].says
    assert "none has run so far" in status_of(own)["Dagster's daemon"].says
    with own_engine.begin() as connection:
        connection.execute(insert(alert_beat).values(host="dagster", beat_at=datetime.now(UTC) - timedelta(hours=2)))
    found = status_of(own)["Dagster's daemon"]
    assert (found.fits, found.says) == (False, "looked for alerts 2 h ago")
    assert "dagster-daemon run" in found.do


@pytest.mark.slow
def test_parts_that_accept_and_never_answer_are_told_one_by_one_and_hide_nothing(own: Settings, tmp_path: Path) -> None:
    with ExitStack() as opened:
        silent_postgres, silent_s3, silent_receiver = (
            opened.enter_context(closing(socket.create_server(("127.0.0.1", 0)))).getsockname()[1] for _ in range(3)
        )
        clickhouse = opened.enter_context(running(tmp_path / "data"))
        url = make_url(own.postgres_url.get_secret_value())
        settings = own.model_copy(
            update={
                "postgres_url": SecretStr(url.set(port=silent_postgres).render_as_string(hide_password=False)),
                "s3_endpoint_url": f"http://127.0.0.1:{silent_s3}",
                "clickhouse_url": SecretStr(
                    f"http://{USER}:{quote(PASSWORD, safe='')}@127.0.0.1:{clickhouse.port}/{DATABASE}"
                ),
            }
        )
        clickhouse.process.send_signal(signal.SIGSTOP)
        try:
            addresses = Addresses(receiver_url=f"http://127.0.0.1:{silent_receiver}", api_url="http://127.0.0.1:9")
            found = {one.part: one for one in diagnosis(settings, {}, addresses).checks}
        finally:
            clickhouse.process.send_signal(signal.SIGCONT)
    for part in ("PostgreSQL", "S3", "ClickHouse", "receiver", "queue", "events", "clock beside S3's"):
        assert not found[part].fits, part
        assert "not answer" in found[part].says, found[part]
        assert found[part].do, part
    assert "nothing answers" in found["API"].says
    for part in ("Dagster's storage", "alerts", "disk"):
        assert found[part].fits, found[part]
    assert url.password is not None
    assert not [one for one in found.values() if url.password in one.says]


def test_the_commands_end_with_three_where_only_work_waits(
    own: Settings, own_engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    queue_campaign(own_engine, in_city("nowhere"), status="paused", status_reason="the provider refused it")
    with own_engine.begin() as connection:
        connection.execute(alert_beat.delete())
    for name, value in own.variables().items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("EMAIL_PLATFORM_RECEIVER_URL", raising=False)
    shown = CliRunner().invoke(app, ["status"])
    assert shown.exit_code == 3, shown.output
    assert "every part works" in shown.output
    assert "WAITS" in shown.output
    result = CliRunner().invoke(app, ["status", "--json"])
    document = json.loads(result.stdout)
    assert (result.exit_code, document["works"], document["needs_operator"]) == (3, True, True)
    asked = CliRunner().invoke(app, ["doctor", "--json"])
    assert asked.exit_code == 3, asked.output
    assert {"part", "process", "work", "machine"} == {one["group"] for one in json.loads(asked.stdout)}
