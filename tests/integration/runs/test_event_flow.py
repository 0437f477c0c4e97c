"""From the simulator's signed webhooks to suppressions, guard and reports, through receivers that run as parts."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import dagster as dg
import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy import Engine, select

from email_platform.adapters.assembly import open_events, open_oltp, open_parts, open_store, open_warehouse
from email_platform.adapters.clickhouse.warehouse import ClickHouseWarehouse
from email_platform.adapters.postgres.tables import campaign_guard, suppression
from email_platform.definitions import defs
from email_platform.domain.campaigns import CampaignStatus
from email_platform.errors import CampaignStoppedError
from email_platform.events.inbox import inbox_is_waiting
from email_platform.local.provider_simulator import AcceptedLog
from email_platform.local.stack.part import free_port, http_status
from email_platform.local.stack.stack import clean_environment, running_stack
from email_platform.runs.events import EventsReport, take_in_events
from email_platform.runs.finish import finish_sending
from email_platform.runs.freeze import freeze_audience
from email_platform.runs.load import account, load_staged
from email_platform.runs.parts import Parts
from email_platform.runs.send import send_chunk
from email_platform.settings import Settings, variable_of
from tests.integration.alert_server import alert_server
from tests.integration.campaign_rows import in_city, queue_campaign, row_of, seed_leads, unique

pytestmark = [pytest.mark.integration, pytest.mark.slow]

PATIENCE_SECONDS = 60.0
BACKLOG = ("waiting_posts", "unexpanded_recipients")
_numbers = count(1)


@pytest.fixture(scope="module")
def flow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """A stack of this module's own, with two receivers that the simulator delivers its events to."""
    parts = ("postgres", "s3", "clickhouse", "provider", "receiver")
    environ = {
        **clean_environment(),
        variable_of("receiver_processes"): "2",
        variable_of("chunk_rows"): "300",
    }
    with running_stack(tmp_path_factory.mktemp("flow") / "state", parts=parts, environ=environ) as settings:
        yield settings


@pytest.fixture
def parts(flow: Settings) -> Iterator[Parts]:
    with open_parts(flow, {}) as opened:
        yield opened


@pytest.fixture
def warehouse(flow: Settings) -> Iterator[ClickHouseWarehouse]:
    with open_warehouse(flow) as opened:
        yield opened


@pytest.fixture
def engine(flow: Settings) -> Iterator[Engine]:
    with open_oltp(flow) as opened:
        yield opened


@pytest.fixture
def log(flow: Settings) -> AcceptedLog:
    return AcceptedLog(Path(flow.state_folder) / "provider")


def leads(**marked: int) -> list[dict[str, Any]]:
    """Leads by what becomes of them at the simulator: so many of each marker, as in ``ann+bounce@example.com``."""
    tag = unique("flow")
    return [
        {"email": f"{tag}-{number}+{marker}@example.com"}
        for marker, how_many in marked.items()
        for number in range(how_many)
    ]


def send(parts: Parts, campaign_id: int, chunks: range | None = None) -> None:
    manifest = freeze_audience(parts, campaign_id).manifest
    for index in chunks or range(manifest.chunk_count):
        send_chunk(parts, campaign_id, index, holder=f"flow-{next(_numbers)}")


def take_in(settings: Settings, parts: Parts, warehouse: ClickHouseWarehouse) -> EventsReport:
    with open_events(settings) as events:
        return take_in_events(events, parts, warehouse)


def events_of(warehouse: ClickHouseWarehouse, campaign_id: int) -> dict[str, int]:
    """Loaded events of the campaign by type, each once."""
    rows = warehouse.client.query(
        "select type, uniqExact(event_key) from event where campaign_id = {id:Int64} group by type",
        parameters={"id": campaign_id},
    ).result_rows
    return {str(kind): int(number) for kind, number in rows}


def until_loaded(
    settings: Settings,
    parts: Parts,
    warehouse: ClickHouseWarehouse,
    log: AcceptedLog,
    campaign_id: int,
    address: str | None = None,
) -> EventsReport:
    """Wait until the receivers have taken everything that the simulator has to tell, and take it in: in one pass."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while any(admin(settings, address, "GET", "statistics")["webhooks"][name] for name in BACKLOG):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    report = take_in(settings, parts, warehouse)
    assert events_of(warehouse, campaign_id) == log.events_by_type(str(campaign_id))
    return report


def admin(settings: Settings, address: str | None, method: str, what: str, document: Any = None) -> Any:
    """Ask a simulator, by default the stack's own, or steer it."""
    assert settings.provider_api_key is not None
    headers = {"authorization": f"Bearer {settings.provider_api_key.get_secret_value()}"}
    url = f"{address or settings.provider_url}/admin/{what}"
    answer = httpx.request(method, url, json=document, headers=headers, trust_env=False)
    assert answer.status_code == 200, answer.text
    return answer.json()


@contextmanager
def provider_without_keys(settings: Settings, folder: Path) -> Iterator[tuple[str, AcceptedLog, dict[str, str]]]:
    """A second simulator that honours no idempotency keys, its log, and the variables of its account ``nokeys``."""
    assert settings.provider_api_key is not None
    assert settings.provider_webhook_secret is not None
    key = settings.provider_api_key.get_secret_value()
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "email_platform.local.provider_simulator", "--exit-with-parent"),
            *("--data-folder", str(folder / "nokeys"), "--port", str(port), "--idempotency", "off"),
            *("--blocked-domain", "blocked.example"),
        ],
        env={
            **os.environ,
            variable_of("provider_api_key"): key,
            variable_of("provider_webhook_secret"): settings.provider_webhook_secret.get_secret_value(),
        },
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while http_status(port, "/health") != 200:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.05)
        variables = {
            "EMAIL_PLATFORM_SIMULATOR_NOKEYS_BASE_URL": address,
            "EMAIL_PLATFORM_SIMULATOR_NOKEYS_API_KEY": key,
            "EMAIL_PLATFORM_SIMULATOR_NOKEYS_IDEMPOTENCY": "off",
        }
        yield address, AcceptedLog(folder / "nokeys"), variables
    finally:
        process.terminate()
        process.wait()


def test_what_the_simulator_tells_is_loaded_once_suppresses_and_keeps_the_next_campaign_from_mailing(
    flow: Settings, parts: Parts, warehouse: ClickHouseWarehouse, engine: Engine, log: AcceptedLog
) -> None:
    rows = leads(success=40, bounce=5, softbounce=3, complaint=2, click=6, unsubscribe=4)
    city = seed_leads(engine, rows)
    first = queue_campaign(engine, in_city(city))
    send(parts, first)
    finish_sending(parts, first)
    report = until_loaded(flow, parts, warehouse, log, first)
    assert events_of(warehouse, first)["bounced"] == 5 + 3
    assert report.staged.suppressions == 5 + 2 + 4
    assert not inbox_is_waiting(open_store(flow))

    with engine.connect() as connection:
        rows_of_list: Sequence[Any] = connection.execute(
            select(suppression.c.address, suppression.c.sender_id, suppression.c.reason).where(
                suppression.c.address.in_([row["email"] for row in rows])
            )
        ).all()
    own = row_of(engine, first).sender_id
    found = {address.rpartition("+")[2].partition("@")[0]: (sender, reason) for address, sender, reason in rows_of_list}
    assert found == {
        "bounce": (None, "hard_bounce"),
        "complaint": (own, "complaint"),
        "unsubscribe": (own, "unsubscribe"),
    }

    other = queue_campaign(engine, in_city(city))  # of another sender: complaints and opt-outs do not concern it
    assert freeze_audience(parts, other).manifest.excluded_by_reason["suppressed"] == 5


def test_a_campaign_that_bounces_too_much_is_paused_with_an_alert_and_resumed_only_by_its_operator(
    flow: Settings, parts: Parts, warehouse: ClickHouseWarehouse, engine: Engine, log: AcceptedLog
) -> None:
    rows = leads(bounce=30, success=270) + leads(success=300) + leads(bounce=40, success=260) + leads(success=10)
    city = seed_leads(engine, rows)
    campaign_id = queue_campaign(engine, in_city(city))
    send(parts, campaign_id, range(1))
    answers = iter([503, 200, 200])
    with alert_server(lambda: next(answers)) as (address, alerts):
        alerted = flow.model_copy(update={"alert_webhook_url": SecretStr(address)})
        report = until_loaded(alerted, parts, warehouse, log, campaign_id)
        row = row_of(engine, campaign_id)
        assert (row.status, row.status_reason) == (
            "paused",
            "30 of 300 messages bounced hard (10.00%; the limit is 5.00%)",
        )
        assert report.guarded.unsent_alerts == 1  # the alert's webhook answered 503
        assert take_in(alerted, parts, warehouse).guarded.standing
        assert [alert["happened"] for alert in alerts] == [
            f"campaign {campaign_id} {row.name!r} is paused: {row.status_reason}"
        ]
        with pytest.raises(CampaignStoppedError):
            send(parts, campaign_id, range(1, 2))

        parts.campaigns.change_status(campaign_id, CampaignStatus.QUEUED)
        take_in(alerted, parts, warehouse)
        assert row_of(engine, campaign_id).status == "queued"
        send(parts, campaign_id, range(1, 2))
        until_loaded(alerted, parts, warehouse, log, campaign_id)
        assert row_of(engine, campaign_id).status == "sending"  # 0 of 300 new ones bounced
        send(parts, campaign_id, range(2, 3))
        until_loaded(alerted, parts, warehouse, log, campaign_id)
        assert row_of(engine, campaign_id).status_reason == (
            "40 of 600 messages bounced hard (6.67%; the limit is 5.00%)"
        )
        assert len(alerts) == 2
        parts.campaigns.change_status(campaign_id, CampaignStatus.QUEUED)
        send(parts, campaign_id)
        finish_sending(parts, campaign_id)
    load_staged(parts.register, warehouse)
    assert all(line.holds for line in account(parts, warehouse, campaign_id))


def test_complaints_about_a_campaign_that_is_sent_are_reported_once_and_nothing_of_it_is_lost(
    flow: Settings, parts: Parts, warehouse: ClickHouseWarehouse, engine: Engine, log: AcceptedLog
) -> None:
    city = seed_leads(engine, leads(success=297, complaint=3))
    campaign_id = queue_campaign(engine, in_city(city))
    send(parts, campaign_id)
    finish_sending(parts, campaign_id)
    reports = [until_loaded(flow, parts, warehouse, log, campaign_id), take_in(flow, parts, warehouse)]
    alerts = [alert.text for report in reports for alert in report.guarded.alerts]
    assert [text for text in alerts if text.startswith(f"campaign {campaign_id} ")] == [
        f"campaign {campaign_id} {row_of(engine, campaign_id).name!r} is sent: "
        "3 of 300 messages were complained about (1.00%; the limit is 0.30%)"
    ]
    assert row_of(engine, campaign_id).status == "sent"


def test_events_settle_calls_whose_answers_were_lost_and_the_warehouse_learns_it(
    flow: Settings,
    parts: Parts,
    warehouse: ClickHouseWarehouse,
    engine: Engine,
    tmp_path: Path,
) -> None:
    """A provider without idempotency keys accepts and its answers are lost: held as unknown, settled by its events."""
    with provider_without_keys(flow, tmp_path) as (address, log, variables), open_parts(flow, variables) as own:
        city = seed_leads(
            engine,
            [
                *leads(success=55, bounce=3, click=1),
                {"email": f"{unique('flow')}@blocked.example"},  # refused in the answer that nobody read
            ],
        )
        campaign_id = queue_campaign(engine, in_city(city), sender={"provider_account": "nokeys"})
        admin(flow, address, "PUT", "webhooks", {"url": None})
        admin(flow, address, "PUT", "faults", {"script": ["reset_after", "reset_after"]})
        send(own, campaign_id)
        finish_sending(own, campaign_id)
        assert own.ledger.totals(campaign_id).unknown == 60
        load_staged(own.register, warehouse)
        assert warehouse.delivery_counts(campaign_id)["unknown"] == 60

        admin(flow, address, "PUT", "webhooks", {"url": f"{flow.receiver_url}/events/simulator/default"})
        report = until_loaded(flow, own, warehouse, log, campaign_id, address)
        assert report.resolved.recipients == 59
        totals = own.ledger.totals(campaign_id)
        # The provider reports nothing of the recipient whom it refused: still unknown, and never sent again.
        assert (totals.accepted, totals.unknown) == (59, 1)
        assert log.summary(str(campaign_id)).accepted_rows == 59
        counts = warehouse.delivery_counts(campaign_id)
        assert (counts["accepted"], counts["unknown"]) == (59, 1)
        assert all(line.holds for line in account(own, warehouse, campaign_id))
        ids = warehouse.client.query(
            "select message_id, provider_message_id from delivery final "
            "where campaign_id = {id:Int64} and status = 'accepted'",
            parameters={"id": campaign_id},
        ).result_rows
        assert {str(ours): theirs for ours, theirs in ids} == {
            row.message_id: row.provider_message_id for row in log.rows(str(campaign_id))
        }
        assert "1 recipients in 1 calls" in str(row_of(engine, campaign_id).status_reason)


def test_the_job_shows_what_it_took_in_and_fails_its_check_while_a_campaign_stands_stopped(
    flow: Settings, parts: Parts, engine: Engine, log: AcceptedLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable_of("state_folder"), str(flow.state_folder))
    city = seed_leads(engine, leads(bounce=30, success=270) + leads(success=10))
    campaign_id = queue_campaign(engine, in_city(city))
    send(parts, campaign_id, range(1))
    deadline = time.monotonic() + PATIENCE_SECONDS
    with dg.DagsterInstance.ephemeral() as instance:
        while row_of(engine, campaign_id).status == "sending":
            assert time.monotonic() < deadline
            result = defs.resolve_job_def("load_events_job").execute_in_process(instance=instance)
            assert result.success
        (materialization,) = result.asset_materializations_for_node("warehouse_events")
        assert materialization.metadata["new suppressions"].value is not None
        checks = {check.check_name: check for check in result.get_asset_check_evaluations()}
        assert checks["everything_readable"].passed
        assert not checks["campaigns_within_limits"].passed
        assert f"campaign {campaign_id} " in str(checks["campaigns_within_limits"].metadata["campaigns"].value)
        parts.campaigns.change_status(campaign_id, CampaignStatus.CANCELLED)
    with engine.connect() as connection:
        guard = connection.execute(select(campaign_guard).where(campaign_guard.c.campaign_id == campaign_id)).one()
    assert (guard.accepted, guard.bounced, guard.alerted_at is not None) == (300, 30, True)
