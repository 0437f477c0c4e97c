"""Dagster's storage keeps its connection: one login for many questions, and nothing depends on that one."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dagster as dg
import pytest
from sqlalchemy import Engine, NullPool, create_engine, text
from sqlalchemy.engine import make_url

from email_platform.adapters.dagster_yaml import embedded_dagster_yaml
from email_platform.settings import Settings, variable_of
from resources.dagster_storage import KEPT

pytestmark = pytest.mark.integration

DATABASE = "dagster_kept"
QUESTIONS = 50
INSTANCES = 12
OF_CLIENTS = "datname = :name and backend_type = 'client backend'"


@pytest.fixture
def watch(stack: Settings) -> Engine:
    """Of a database beside the one that the instance has."""
    engine = create_engine(
        stack.dagster_postgres_url.get_secret_value(), poolclass=NullPool, isolation_level="AUTOCOMMIT"
    )
    with engine.connect() as connection:
        connection.execute(text(f"drop database if exists {DATABASE} with (force)"))
        connection.execute(text(f"create database {DATABASE}"))
    return engine


@pytest.fixture
def instance_folder(stack: Settings, watch: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With our own dagster.yaml, for an empty database."""
    url = make_url(stack.dagster_postgres_url.get_secret_value()).set(database=DATABASE)
    (tmp_path / "dagster.yaml").write_text(embedded_dagster_yaml(2, tmp_path / "logs"), encoding="utf-8")
    monkeypatch.setenv(variable_of("dagster_postgres_url"), url.render_as_string(hide_password=False))
    return tmp_path


@pytest.fixture
def instance(instance_folder: Path) -> Iterator[dg.DagsterInstance]:
    """The instance that the folder describes."""
    with dg.DagsterInstance.from_config(str(instance_folder)) as found:
        yield found


def sessions(watch: Engine) -> list[int]:
    """The server's processes that clients have in the instance's database now; autovacuum has processes of its own."""
    at_work = f"select pid from pg_stat_activity where {OF_CLIENTS} order by 1"
    with watch.connect() as connection:
        return list(connection.execute(text(at_work), {"name": DATABASE}).scalars())


def ask_everything(instance: dg.DagsterInstance) -> None:
    """A question to each of the three storages."""
    assert instance.get_run_records(limit=1) == []
    assert instance.get_latest_materialization_event(dg.AssetKey("campaign_audience")) is None
    assert list(instance.all_instigator_state()) == []


def test_many_questions_to_all_storages_are_asked_by_the_same_session(
    instance: dg.DagsterInstance, watch: Engine
) -> None:
    ask_everything(instance)
    kept = sessions(watch)
    assert len(kept) <= KEPT
    for _ in range(QUESTIONS):
        ask_everything(instance)
        assert sessions(watch) == kept


def test_instances_that_nobody_closes_keep_one_session_together(instance_folder: Path, watch: Engine) -> None:
    """The code server makes one for each tick, and Celery's workers one for each step; a server takes a hundred."""
    made = []
    for _ in range(INSTANCES):
        made.append(dg.DagsterInstance.from_config(str(instance_folder)))
        ask_everything(made[-1])
    assert len(sessions(watch)) <= KEPT
    with ThreadPoolExecutor(max_workers=4) as threads:
        list(threads.map(ask_everything, made))
    assert len(sessions(watch)) <= KEPT
    for one in made:
        one.dispose()
        ask_everything(made[0])  # an instance that is closed takes nothing from the others


def test_a_session_that_the_server_ended_costs_nothing(instance: dg.DagsterInstance, watch: Engine) -> None:
    ask_everything(instance)
    before = sessions(watch)
    with watch.connect() as connection:
        ended = f"select pg_terminate_backend(pid, 10000) from pg_stat_activity where {OF_CLIENTS}"
        assert set(connection.execute(text(ended), {"name": DATABASE}).scalars()) == {True}
    ask_everything(instance)
    assert not set(before) & set(sessions(watch))


def test_a_forked_process_has_a_session_of_its_own(instance: dg.DagsterInstance, watch: Engine) -> None:
    ask_everything(instance)
    kept = sessions(watch)
    receiving, sending = multiprocessing.Pipe(duplex=False)

    def ask_and_report() -> None:
        ask_everything(instance)
        sending.send(sessions(watch))

    child = multiprocessing.get_context("fork").Process(target=ask_and_report)
    child.start()
    seen: list[int] = receiving.recv() if receiving.poll(60) else []
    child.join()
    assert child.exitcode == 0
    assert set(kept) < set(seen), "the parent's session is still there, beside the child's"
    ask_everything(instance)
    assert sessions(watch) == kept
