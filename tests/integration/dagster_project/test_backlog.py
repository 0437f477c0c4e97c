"""The sensors in a backlog: a tick costs the same whatever waits, and everything that is due has its turn."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from sqlalchemy import Engine, event, insert, text

from assets.jobs import ATTEMPT_TAG
from email_platform.adapters.dagster_yaml import CAMPAIGN_ID_TAG
from email_platform.adapters.postgres.tables import campaign
from email_platform.definitions import defs
from email_platform.runs.launch import LARGE_ROWS, SMALL_LAUNCHES_PER_TICK, WAITING_LAUNCHES_PER_TICK
from email_platform.settings import Settings, variable_of
from resources.parts import PartsResource
from resources.settings import SettingsResource
from sensors.dead_runs import RUNS_PER_TICK, dead_runs
from sensors.old_campaign_partitions import KEYS_LOOKED_AT_PER_TICK, KEYS_REMOVED_PER_TICK, old_campaign_partitions
from sensors.queued_campaigns import queued_campaigns
from sensors.reports_are_stale import reports_are_stale
from sensors.silent_campaigns import CAMPAIGNS_PER_TICK, RELAUNCHES_PER_TICK, silent_campaigns
from sensors.staged_objects_waiting import staged_objects_waiting
from tests.integration.campaign_rows import in_city, numbered, queue_campaign, row_of, seed_leads

pytestmark = [pytest.mark.integration, pytest.mark.slow]

PROJECT = Path(__file__).parents[3]
LAUNCHES_PER_TICK = SMALL_LAUNCHES_PER_TICK + WAITING_LAUNCHES_PER_TICK


@pytest.fixture
def engine(own: Settings, own_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Engine:
    for name, value in own.variables().items():
        monkeypatch.setenv(name, value)
    # However slow this machine is: how much a tick does is what these tests count.
    monkeypatch.setattr("sensors.silent_campaigns.ENDING_SECONDS", 600.0)
    monkeypatch.setattr("email_platform.runs.launch.SIZING_SECONDS", 600.0)
    with own_engine.begin() as connection:
        connection.execute(text("truncate campaign, campaign_manifest, chunk, send_call, lead, staged_object cascade"))
    return own_engine


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as opened:
        yield opened


class Daemon:
    """What Dagster's daemon does with a sensor's ticks: keeps the cursor, adds keys, makes runs once a key."""

    def __init__(self, instance: dg.DagsterInstance, sensor: dg.SensorDefinition) -> None:
        self.instance = instance
        self.sensor = sensor
        self.cursor: str | None = None
        self.made: set[str] = set()
        settings = SettingsResource()
        self.resources = {"settings": settings, "parts": PartsResource(settings=settings)}

    def evaluate(self) -> dg.SensorResult:
        wanted = {name: self.resources[name] for name in self.sensor.required_resource_keys}
        with dg.build_sensor_context(
            instance=self.instance, resources=wanted, definitions=defs, cursor=self.cursor
        ) as context:
            result = self.sensor(context)
        assert isinstance(result, dg.SensorResult)
        return result

    def tick(self, status: dg.DagsterRunStatus = dg.DagsterRunStatus.NOT_STARTED, but: int | None = None) -> list[int]:
        """One tick; returns the campaigns that got a run. Of the campaign `but` no run can be made."""
        result = self.evaluate()
        self.cursor = result.cursor if result.cursor is not None else self.cursor
        got: list[int] = []
        for request in result.run_requests or []:
            campaign_id = int(request.tags[CAMPAIGN_ID_TAG])
            if request.run_key in self.made or campaign_id == but:
                continue
            self.made.add(str(request.run_key))
            run_of(self.instance, campaign_id, int(request.tags[ATTEMPT_TAG]), status)
            got.append(campaign_id)
        return got


def run_of(instance: dg.DagsterInstance, campaign_id: int, attempt: int, status: dg.DagsterRunStatus) -> dg.DagsterRun:
    """A run on record, without a process."""
    tags = {CAMPAIGN_ID_TAG: str(campaign_id), ATTEMPT_TAG: str(attempt)}
    return instance.create_run_for_job(defs.resolve_job_def("campaign_job"), status=status, tags=tags)


def queue_many(engine: Engine, how_many: int, **values: Any) -> list[int]:
    """Campaigns of one owner, in one statement, queued an hour ago at the same moment unless the values differ."""
    first = queue_campaign(engine, in_city("nowhere"))
    with engine.begin() as connection:
        row = connection.execute(text("select owner_id, sender_id from campaign where id = :id"), {"id": first}).one()
        connection.execute(text("delete from campaign where id = :id"), {"id": first})
        hour_ago = connection.execute(text("select clock_timestamp() - interval '1 hour'")).scalar_one()
        common = {
            "owner_id": row.owner_id,
            "sender_id": row.sender_id,
            "name": "many",
            "subject_template": "s",
            "html_template": "h",
            "condition": in_city("nowhere"),
            "status": "queued",
            "queued_at": hour_ago,
            "created_at": hour_ago,
            **values,
        }
        statement = insert(campaign).values([common] * how_many).returning(campaign.c.id)
        return sorted(connection.execute(statement).scalars())


@contextmanager
def counted_statements() -> Iterator[list[str]]:
    """Every statement of every SQLAlchemy engine: the OLTP database's and Dagster's storage."""
    seen: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        seen.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(Engine, "before_cursor_execute", note)


# --- queued -------------------------------------------------------------------------------------------------


def test_a_small_campaign_is_launched_at_once_behind_large_ones_that_wait_in_the_run_queue(
    engine: Engine, instance: dg.DagsterInstance
) -> None:
    large = queue_many(engine, 101, launched_attempt=1, estimated_rows=LARGE_ROWS)
    for campaign_id in large:
        run_of(instance, campaign_id, 1, dg.DagsterRunStatus.NOT_STARTED)
    small = queue_campaign(engine, in_city(seed_leads(engine, numbered(1))))
    assert Daemon(instance, queued_campaigns).tick() == [small]
    assert row_of(engine, small).estimated_rows == 1


def test_a_small_campaign_is_launched_at_once_before_large_ones_that_nobody_has_launched(
    engine: Engine, instance: dg.DagsterInstance
) -> None:
    large = queue_many(engine, 200, estimated_rows=LARGE_ROWS)
    seed_leads(engine, numbered(30))
    unsized = queue_many(engine, 200, condition={"all": []})
    small = queue_campaign(engine, in_city(seed_leads(engine, numbered(1))))
    first = Daemon(instance, queued_campaigns).tick()
    assert small in first[:SMALL_LAUNCHES_PER_TICK]
    assert set(first) & set(large), "and some of each tick are the longest waiting, whatever their size"
    assert len(first) == LAUNCHES_PER_TICK
    assert unsized


def test_every_due_campaign_has_its_turn_once_those_of_one_moment_by_their_ids(
    engine: Engine, instance: dg.DagsterInstance
) -> None:
    many = queue_many(engine, 3 * LAUNCHES_PER_TICK + 1, estimated_rows=5)
    daemon = Daemon(instance, queued_campaigns)
    launched = [daemon.tick() for _ in range(5)]
    assert [one for tick in launched for one in tick] == many
    assert launched[-1] == []
    assert instance.get_runs_count() == len(many)


def test_nothing_counts_as_launched_before_dagster_has_its_run(engine: Engine, instance: dg.DagsterInstance) -> None:
    campaign_id = queue_campaign(engine, in_city("nowhere"))
    daemon = Daemon(instance, queued_campaigns)
    lost = daemon.evaluate()  # the daemon died before it kept the cursor, or made a run
    assert [one.run_key for one in lost.run_requests or []] == [f"campaign-{campaign_id}-attempt-1"]
    assert row_of(engine, campaign_id).launched_attempt == 0
    daemon.cursor = lost.cursor  # and where it had kept the cursor only
    assert daemon.tick() == [campaign_id]
    assert row_of(engine, campaign_id).launched_attempt == 0
    assert daemon.tick() == []
    assert row_of(engine, campaign_id).launched_attempt == 1
    assert daemon.evaluate().run_requests == []


def test_campaigns_for_which_no_run_can_be_made_hold_up_nobody(engine: Engine, instance: dg.DagsterInstance) -> None:
    many = queue_many(engine, LAUNCHES_PER_TICK * 2, estimated_rows=5)
    daemon = Daemon(instance, queued_campaigns)
    assert daemon.tick(but=many[0]) == many[1:LAUNCHES_PER_TICK]
    assert daemon.tick(but=many[0]) == many[LAUNCHES_PER_TICK:], "the other one comes after all others"
    daemon.tick(but=many[0])
    assert daemon.tick() == [many[0]]


def test_a_cursor_of_an_earlier_version_is_taken_for_none(engine: Engine, instance: dg.DagsterInstance) -> None:
    campaign_id = queue_campaign(engine, in_city("nowhere"))
    daemon = Daemon(instance, queued_campaigns)
    daemon.cursor = f'{{"campaign-{campaign_id}-attempt-1": 300}}'
    assert daemon.tick() == [campaign_id]


# --- silent -------------------------------------------------------------------------------------------------


def silent(engine: Engine, how_many: int) -> list[int]:
    """Campaigns in ``sending`` of which nobody has heard for an hour."""
    return queue_many(engine, how_many, status="sending", progress_at="2020-01-01T00:00:00Z")


def test_every_silent_campaign_has_its_turn_and_an_attempt_counts_once_its_run_is_on_record(
    engine: Engine, instance: dg.DagsterInstance
) -> None:
    many = silent(engine, CAMPAIGNS_PER_TICK + 5)
    for campaign_id in many:
        run_of(instance, campaign_id, 1, dg.DagsterRunStatus.FAILURE)
    daemon = Daemon(instance, silent_campaigns)
    daemon.evaluate()  # lost: nothing is used up
    assert {row_of(engine, one).attempt for one in many} == {1}
    resumed: list[int] = []
    for _ in range(2 * len(many) // RELAUNCHES_PER_TICK + 4):
        got = daemon.tick()
        assert len(got) <= RELAUNCHES_PER_TICK
        resumed += got
    assert sorted(resumed) == many
    assert {row_of(engine, one).attempt for one in many} == {2}
    assert {row_of(engine, one).launched_attempt for one in many} == {2}


def test_an_attempt_whose_cursor_was_lost_is_counted_when_its_run_is_found(
    engine: Engine, instance: dg.DagsterInstance
) -> None:
    (campaign_id,) = silent(engine, 1)
    daemon = Daemon(instance, silent_campaigns)
    assert daemon.tick(dg.DagsterRunStatus.FAILURE) == [campaign_id]
    daemon.cursor = None
    assert daemon.tick() == []
    assert row_of(engine, campaign_id).attempt == 2


def test_a_run_that_is_ended_on_record_gets_a_new_attempt_and_no_retry_beside_it(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable_of("stall_seconds"), "0.001")
    (campaign_id,) = silent(engine, 1)
    retries = {"run_retries": {"enabled": True, "max_retries": 3}}
    with dg.DagsterInstance.local_temp(str(tmp_path), overrides=retries) as instance:
        dead = run_of(instance, campaign_id, 1, dg.DagsterRunStatus.STARTED)
        Daemon(instance, silent_campaigns).tick()
        ended = instance.get_run_by_id(dead.run_id)
    assert ended is not None
    assert ended.status is dg.DagsterRunStatus.FAILURE
    assert ended.tags["dagster/will_retry"] == "false", "the retry would send nothing, and take a run's place"


def test_one_campaign_that_cannot_be_resumed_holds_up_nobody(engine: Engine, instance: dg.DagsterInstance) -> None:
    odd, other = silent(engine, 2)
    with engine.begin() as connection:
        connection.execute(
            text("update campaign set attempt_mark = 0, fruitless_attempts = 2147483647 where id = :id"), {"id": odd}
        )
        connection.execute(
            text(
                "insert into send_call (campaign_id, chunk_index, call_index, call_id, state, first_position,"
                " recipient_count, body_sha256, lease_epoch, intent_at, receipt) values"
                " (:id, 0, 0, gen_random_uuid(), 'accepted', 0, 1, '', 1, now(), '{\"rejected\": 1}')"
            ),
            {"id": odd},
        )
        connection.execute(text("insert into chunk (campaign_id, chunk_index) values (:id, 0)"), {"id": odd})
    daemon = Daemon(instance, silent_campaigns)
    (added,) = daemon.evaluate().dynamic_partitions_requests or []
    assert str(other) in added.partition_keys, "a key that somebody removed would fail the tick for all campaigns of it"
    assert other in daemon.tick()


# --- what a tick costs --------------------------------------------------------------------------------------

SENSORS = (queued_campaigns, silent_campaigns, old_campaign_partitions, staged_objects_waiting, reports_are_stale)


def fill(engine: Engine, instance: dg.DagsterInstance, how_many: int) -> None:
    """So many of everything that the sensors look at."""
    queue_many(engine, how_many, estimated_rows=5)
    queue_many(engine, how_many, estimated_rows=LARGE_ROWS, launched_attempt=1, progress_at="2020-01-01T00:00:00Z")
    for campaign_id in silent(engine, how_many):
        run_of(instance, campaign_id, 1, dg.DagsterRunStatus.STARTED)
    past = queue_many(engine, how_many, status="sent", finished_at="2020-01-01T00:00:00Z")
    instance.add_dynamic_partitions("campaign", [str(one) for one in past])
    with engine.begin() as connection:
        connection.execute(
            text(
                "insert into staged_object (key, kind, rows, content_sha256, staged_at)"
                " select gen_random_uuid()::text, 'delivery', 1, 'x', now() - interval '1 hour'"
                " from generate_series(1, :n) n"
            ),
            {"n": how_many},
        )


@pytest.mark.parametrize("sensor", SENSORS, ids=lambda sensor: sensor.name)
def test_a_tick_asks_as_many_questions_in_a_larger_backlog(
    engine: Engine, instance: dg.DagsterInstance, sensor: dg.SensorDefinition
) -> None:
    costs = []
    for how_many in (CAMPAIGNS_PER_TICK + 10, 3 * CAMPAIGNS_PER_TICK):
        fill(engine, instance, how_many)
        with counted_statements() as statements:
            Daemon(instance, sensor).evaluate()
        costs.append(len(statements))
    assert costs[1] <= costs[0] + 2, costs
    assert costs[1] < 200


def test_a_tick_removes_a_bounded_number_of_old_partitions_and_goes_through_all_of_them(
    engine: Engine, instance: dg.DagsterInstance
) -> None:
    old = queue_many(engine, KEYS_REMOVED_PER_TICK + 10, status="sent", finished_at="2020-01-01T00:00:00Z")
    by_hand = [f"by hand {number}" for number in range(KEYS_LOOKED_AT_PER_TICK)]
    instance.add_dynamic_partitions("campaign", [*map(str, old[:-1]), *by_hand, str(old[-1])])
    daemon = Daemon(instance, old_campaign_partitions)
    removed: list[str] = []
    for _ in range(6):
        result = daemon.evaluate()
        daemon.cursor = result.cursor
        for request in result.dynamic_partitions_requests or []:
            assert len(request.partition_keys) <= KEYS_REMOVED_PER_TICK
            for key in request.partition_keys:
                instance.delete_dynamic_partition("campaign", key)
            removed += request.partition_keys
    assert sorted(map(int, removed)) == old
    assert sorted(instance.get_dynamic_partitions("campaign")) == sorted(by_hand)


def test_dead_runs_goes_through_all_runs_at_work(tmp_path: Path) -> None:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        runs = [run_of(instance, number, 1, dg.DagsterRunStatus.STARTED) for number in range(RUNS_PER_TICK + 3)]
        daemon = Daemon(instance, dead_runs)
        seen = []
        for _ in range(3):
            result = daemon.evaluate()
            daemon.cursor = result.cursor
            seen.append(str(result.skip_reason))
        assert f"of {RUNS_PER_TICK} runs" in seen[0]
        assert "of 3 runs" in seen[1]
        assert seen[2] == seen[0]
        assert len(runs) == RUNS_PER_TICK + 3


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_no_tick_fails_in_a_backlog_under_dagsters_own_daemon(tmp_path: Path) -> None:
    # The short form of `make backlog`. Without a word about seconds, but a tick of more than 60 of them fails by
    # Dagster's own rule.
    sizes = ("--queued", "1000", "--silent", "1000", "--past", "1000", "--leads", "2000")
    figures = tmp_path / "figures.json"
    command = [sys.executable, "bench/sensor_backlog.py", "--ticks", "3", "--json", str(figures), *sizes]
    subprocess.run(command, check=True, cwd=PROJECT, timeout=550)
    found = json.loads(figures.read_text(encoding="utf-8"))
    assert {name: one["failed"] for name, one in found["sensors"].items()} == dict.fromkeys(found["sensors"], 0)
    assert len(found["sensors"]) == 8
    assert found["sensors"]["queued_campaigns"]["runs"] == 4 * LAUNCHES_PER_TICK
    assert found["small_after_ticks"] == 1
