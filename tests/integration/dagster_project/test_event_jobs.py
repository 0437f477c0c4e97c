"""Events in the inbox become rows of the warehouse and suppressions through the sensor and its job."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import count
from typing import Any

import dagster as dg
import pytest
from sqlalchemy import Engine, func, select

from assets.events import load_events_job
from email_platform.adapters.assembly import open_store, open_warehouse
from email_platform.adapters.postgres.tables import suppression
from email_platform.definitions import defs
from email_platform.domain.storage_layout import event_inbox_key
from email_platform.events.inbox import inbox_is_waiting
from email_platform.events.received import ReceivedBody, to_parquet
from email_platform.settings import Settings, variable_of
from resources.events import EventsResource
from resources.parts import PartsResource
from resources.settings import SettingsResource
from sensors.events_are_waiting import events_are_waiting

pytestmark = pytest.mark.integration

_numbers = count(1)


@pytest.fixture(autouse=True)
def stack_of_the_session(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable_of("state_folder"), str(settings.state_folder))


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as opened:
        yield opened


def receive(settings: Settings, account: str, content: bytes) -> None:
    now = datetime.now(UTC)
    body = ReceivedBody("simulator", account, now, "", content)
    open_store(settings).put(event_inbox_key(now.date(), account, next(_numbers)), to_parquet([body]))


def events(account: str, *kinds: tuple[str, str | None]) -> bytes:
    return json.dumps(
        {
            "events": [
                {
                    "event_id": f"{account}-{number}",
                    "type": kind,
                    "subtype": subtype,
                    "recipient": f"{account}-{number}@example.com",
                    "occurred_at": datetime.now(UTC).isoformat(),
                }
                for number, (kind, subtype) in enumerate(kinds)
            ]
        }
    ).encode()


def ask(instance: dg.DagsterInstance, cursor: str | None = None) -> dg.SensorResult:
    settings = SettingsResource()
    resources = {"events": EventsResource(settings=settings), "parts": PartsResource(settings=settings)}
    with dg.build_sensor_context(instance=instance, cursor=cursor, resources=resources, definitions=defs) as context:
        result = events_are_waiting(context)
    assert isinstance(result, dg.SensorResult)
    return result


def run(instance: dg.DagsterInstance, job: str, config: dict[str, Any] | None = None) -> None:
    result = defs.resolve_job_def(job).execute_in_process(instance=instance, run_config=config)
    assert result.success


def loaded(settings: Settings, account: str) -> list[tuple[str, str]]:
    with open_warehouse(settings) as warehouse:
        rows = warehouse.client.query(
            "select type, subtype from event where account = {account:String} order by event_key limit 1 by event_key",
            parameters={"account": account},
        ).result_rows
    return [(str(kind), str(subtype)) for kind, subtype in rows]


def test_the_sensor_asks_while_events_wait_and_the_job_loads_and_suppresses(
    settings: Settings, instance: dg.DagsterInstance, oltp_engine: Engine
) -> None:
    receive(settings, "jobs", events("jobs", ("delivered", None), ("bounced", "hard")))
    receive(settings, "jobs", events("jobs", ("delivered", None), ("bounced", "hard"), ("complained", None)))
    result = ask(instance)
    assert result.run_requests is not None
    assert len(result.run_requests) == 1
    run(instance, load_events_job.name)
    assert loaded(settings, "jobs") == [("delivered", ""), ("bounced", "hard"), ("complained", "")]
    assert not inbox_is_waiting(open_store(settings))
    assert not ask(instance, result.cursor).run_requests  # without it, calls that other tests hold would be looked at
    with oltp_engine.connect() as connection:
        addresses = connection.execute(
            select(func.count()).where(suppression.c.address.in_(["jobs-1@example.com", "jobs-2@example.com"]))
        ).scalar_one()
    assert addresses == 2


def test_a_replay_of_quarantine_and_archive_counts_nothing_twice(
    settings: Settings, instance: dg.DagsterInstance
) -> None:
    receive(settings, "replayed", events("replayed", ("delivered", None)))
    receive(settings, "replayed", b"no json")
    run(instance, load_events_job.name)
    today = datetime.now(UTC).date().isoformat()
    config = {"ops": {"replay_events": {"config": {"quarantine": True, "first_day": today}}}}
    run(instance, "replay_events_job", config)
    assert loaded(settings, "replayed") == [("delivered", "")]
    assert not inbox_is_waiting(open_store(settings))
