"""A chunk and a load as spans at a real collector, and the same sending without one, or with one that fails."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import httpx
import pytest
from sqlalchemy import Engine

from email_platform.adapters import tracing
from email_platform.adapters.assembly import open_oltp, open_parts, open_warehouse
from email_platform.adapters.providers.simulator import SimulatorProvider
from email_platform.adapters.tracing import traced_step
from email_platform.adapters.tracing.spans import trace_id_of
from email_platform.local.provider_simulator import AcceptedLog
from email_platform.runs.freeze import freeze_audience
from email_platform.runs.load import load_staged
from email_platform.runs.send import ChunkReport, send_chunk
from email_platform.settings import Settings
from tests.integration.campaign_rows import in_city, numbered, queue_campaign, seed_leads
from tests.integration.otlp_collector import Behaviour, Collector, otlp_collector

pytestmark = pytest.mark.integration

CLIENT_KIND = 3
_numbers = count(1)


@pytest.fixture
def collector() -> Iterator[Collector]:
    with otlp_collector() as opened:
        yield opened


@pytest.fixture
def small(settings: Settings) -> Settings:
    return settings.model_copy(update={"chunk_rows": 100, "provider_connections": 1})


@pytest.fixture
def engine(small: Settings) -> Iterator[Engine]:
    with open_oltp(small) as opened:
        yield opened


def queued(engine: Engine, recipients: int = 100) -> int:
    return queue_campaign(engine, in_city(seed_leads(engine, numbered(recipients))))


def send_traced(small: Settings, campaign_id: int, otlp_url: str | None, run_id: str = "run") -> ChunkReport:
    with open_parts(small) as parts:
        freeze_audience(parts, campaign_id)
        attributes = {"email_platform.campaign.id": campaign_id, "email_platform.chunk.index": 0}
        with traced_step(otlp_url, "send_chunk", run_id, attributes):
            return send_chunk(parts, campaign_id, 0, holder=f"traced-{next(_numbers)}")


def accepted_rows(small: Settings, campaign_id: int) -> tuple[int, int]:
    summary = AcceptedLog(Path(small.state_folder) / "provider").summary(str(campaign_id))
    return summary.accepted_rows, summary.distinct_message_ids


def test_each_call_of_a_chunk_is_a_span_below_its_step_with_what_became_of_it(
    small: Settings, engine: Engine, collector: Collector
) -> None:
    campaign_id = queued(engine)
    headers = {"authorization": f"Bearer {small.provider_api_key.get_secret_value()}"}
    with httpx.Client(base_url=str(small.provider_url), headers=headers, trust_env=False) as simulator:
        plan = {"script": ["throttle"], "throttle_retry_after_seconds": 0.1}
        simulator.put("/admin/faults", json=plan).raise_for_status()
        report = send_traced(small, campaign_id, collector.url, "a-run")
    assert report.progress.accepted == 100

    (step,) = collector.named("send_chunk")
    calls = collector.named("send_call")
    of_all = {
        "email_platform.run.id": "a-run",
        "email_platform.campaign.id": campaign_id,
        "email_platform.chunk.index": 0,
    }
    assert step.attributes == of_all
    assert (step.trace_id, step.parent_id, step.is_error) == (f"{trace_id_of('a-run'):032x}", "", False)
    assert {(call.trace_id, call.parent_id, call.kind) for call in calls} == {
        (step.trace_id, step.span_id, CLIENT_KIND)
    }
    throttled, *answered = calls
    account = {
        **of_all,
        "http.request.method": "POST",
        "email_platform.provider.name": "simulator",
        "email_platform.provider.account": "default",
        "email_platform.call.recipients": 50,
    }
    call_id = throttled.attributes["email_platform.call.id"]
    assert throttled.attributes == {
        **account,
        "email_platform.call.id": call_id,
        "email_platform.call.attempt": 1,
        "email_platform.call.outcome": "not_accepted",
        "email_platform.call.throttled": True,
        "http.response.status_code": 429,
        "error.type": "CallThrottledError",
    }
    assert throttled.is_error
    again = {call.attributes["email_platform.call.id"]: call for call in answered}
    assert len(again) == len(answered) == 2
    assert again[call_id].attributes == {
        **account,
        "email_platform.call.id": call_id,
        "email_platform.call.attempt": 2,
        "email_platform.call.outcome": "accepted",
        "email_platform.call.throttled": False,
        "email_platform.call.accepted": 50,
        "http.response.status_code": 200,
    }
    assert collector.paths == {"/v1/traces"}
    assert collector.resource["service.name"] == "email-platform"


def test_the_load_of_a_group_of_objects_is_a_span_with_its_table_and_rows(
    small: Settings, engine: Engine, collector: Collector
) -> None:
    campaign_id = queued(engine, 60)
    send_traced(small, campaign_id, None)
    with (
        open_parts(small) as parts,
        traced_step(collector.url, "warehouse_deliveries", "b-run", {"email_platform.campaign.id": campaign_id}),
        open_warehouse(small) as warehouse,
    ):
        loaded = load_staged(parts.register, warehouse, campaign_id)
    by_table = {load.attributes["db.collection.name"]: load for load in collector.named("load")}
    assert set(by_table) == {"delivery"}
    assert by_table["delivery"].attributes == {
        "email_platform.run.id": "b-run",
        "email_platform.campaign.id": campaign_id,
        "db.system.name": "clickhouse",
        "db.operation.name": "INSERT",
        "db.collection.name": "delivery",
        "email_platform.load.objects": loaded.objects,
        "email_platform.load.rows": 60,
        "email_platform.load.held_before": 0,
        "email_platform.load.quarantined": 0,
    }
    (step,) = collector.named("warehouse_deliveries")
    assert {load.parent_id for load in by_table.values()} == {step.span_id}


def test_no_span_holds_an_address_a_key_content_or_the_text_of_an_error(
    small: Settings, engine: Engine, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20collector-key")
    campaign_id = queued(engine)
    send_traced(small, campaign_id, collector.url)
    with pytest.raises(ValueError, match="nobody@"), traced_step(collector.url, "broken", "run", {}):
        raise ValueError("nobody@example.com cannot be read")
    (broken,) = collector.named("broken")
    assert broken.is_error
    assert broken.attributes == {"email_platform.run.id": "run", "error.type": "ValueError"}
    everything = b"".join(collector.bodies)
    secret = small.provider_api_key.get_secret_value().encode()
    assert b"send_call" in everything
    for word in (
        b"@example",
        b"nobody",
        b"example.com",
        secret,
        b"collector-key",
        b"Hello",
        b"Ada",
        b"unsubscribe",
        b"://",
    ):
        assert word not in everything, word


@pytest.mark.parametrize("behaviour", ["hangs", "answers 500", "cuts the connection"])
def test_a_collector_that_fails_changes_nothing_of_what_is_sent(
    small: Settings, engine: Engine, collector: Collector, behaviour: Behaviour, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracing, "FLUSH_SECONDS", 0.2)
    collector.behaviour = behaviour
    campaign_id = queued(engine)
    report = send_traced(small, campaign_id, collector.url)
    assert (report.progress.accepted, report.progress.sent_calls) == (100, 2)
    assert accepted_rows(small, campaign_id) == (100, 100)
    assert collector.bodies, "it was asked"
    assert not collector.spans


def test_a_collector_that_nobody_can_reach_changes_nothing_of_what_is_sent(
    small: Settings,
    engine: Engine,
    collector: Collector,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(tracing, "FLUSH_SECONDS", 0.2)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20collector-key")
    with otlp_collector() as gone:
        url = gone.url
    campaign_id = queued(engine)
    with caplog.at_level(logging.DEBUG):
        report = send_traced(small, campaign_id, url)
    assert report.progress.accepted == 100
    assert accepted_rows(small, campaign_id) == (100, 100)
    assert "collector-key" not in caplog.text


def test_a_collector_that_dies_in_the_middle_keeps_what_it_has_and_the_chunk_goes_on(
    small: Settings, engine: Engine, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracing, "FLUSH_SECONDS", 0.2)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "1")
    take = collector.take

    def takes_one(body: bytes) -> None:
        take(body)
        collector.behaviour = "cuts the connection"

    monkeypatch.setattr(type(collector), "take", lambda _self, body: takes_one(body))
    campaign_id = queued(engine)
    report = send_traced(small, campaign_id, collector.url)
    assert [span.name for span in collector.spans] == ["send_call"]
    assert report.progress.accepted == 100
    assert accepted_rows(small, campaign_id) == (100, 100)


def test_spans_beyond_the_queue_are_dropped_and_never_wait(
    small: Settings, engine: Engine, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracing, "FLUSH_SECONDS", 0.2)
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "1")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "1")
    collector.behaviour = "hangs"
    campaign_id = queued(engine, 100)
    one_each = small.model_copy(update={"chunk_rows": 100})
    monkeypatch.setenv("EMAIL_PLATFORM_SIMULATOR_RECIPIENTS_PER_CALL", "5")
    assert send_traced(one_each, campaign_id, collector.url).progress.sent_calls == 20
    assert accepted_rows(small, campaign_id) == (100, 100)
    assert len(collector.bodies) == 1, "one export waits, and no call waited for it"


def test_without_a_collector_the_provider_is_the_adapter_itself(small: Settings, engine: Engine) -> None:
    campaign_id = queued(engine)
    with open_parts(small) as parts, traced_step(None, "send_chunk", "run", {}):
        manifest = freeze_audience(parts, campaign_id).manifest
        assert type(parts.provider(manifest.sender)) is SimulatorProvider


def test_without_a_collector_nothing_of_the_sdk_is_imported_by_a_step_and_its_parts() -> None:
    program = (
        "import sys, email_platform.adapters.assembly\n"
        "from email_platform.adapters.tracing import traced_step\n"
        "with traced_step(None, 'send_chunk', 'run', {}): pass\n"
        "print([name for name in sys.modules if name.startswith(('opentelemetry.sdk', 'opentelemetry.exporter'))])"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_without_the_package_a_step_says_so_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delitem(sys.modules, "email_platform.adapters.tracing.spans", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with traced_step("http://127.0.0.1:1", "send_chunk", "run", {}) as note:
        note({"email_platform.events.count": 1})
    assert "EMAIL_PLATFORM_OTLP_URL is set" in caplog.text
    assert "email-platform[tracing]" in caplog.text
