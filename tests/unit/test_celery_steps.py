"""What the run's process makes of a step's result: lost steps are repeated, a run that is over waits for nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from billiard.exceptions import WorkerLostError
from celery.exceptions import TaskRevokedError
from redis.exceptions import ConnectionError as RedisConnectionError

from assets.celery_app import broker_of, celery_settings, worker_app
from assets.celery_steps import LOOK_SECONDS, LOST_TRIES, RemoteStep, RunIsOverError, RunOnRecord
from assets.jobs import campaign_steps
from assets.step_process import ending_with_the_run, is_at_work, on_a_worker
from email_platform.errors import ConfigurationError, PartUnavailableError, SendingInterruptedError
from email_platform.settings import Settings

VALUES = {
    "postgres_url": "postgresql://u:p@h/d",
    "s3_bucket": "bucket",
    "clickhouse_url": "http://u:p@h/d",
    "unsubscribe_secret": "0123456789abcdef",  # pragma: allowlist secret
    "steps": "celery",
    "celery_broker_url": "redis://:hidden@h:6379/0",  # pragma: allowlist secret
    "celery_visibility_seconds": 7000,
}


@dataclass
class Answer:
    """As Celery's AsyncResult answers."""

    state: str = "PENDING"
    result: Any = None
    is_away: bool = False
    was_revoked: bool = False

    def ready(self) -> bool:
        if self.is_away:
            raise RedisConnectionError("away")
        return self.state in ("SUCCESS", "FAILURE")

    def get(self) -> Any:
        if self.state == "FAILURE":
            raise self.result
        return self.result

    def revoke(self) -> None:
        if self.is_away:
            raise RedisConnectionError("away")
        self.was_revoked = True


class Run:
    """A run on record, and a clock."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.is_at_work = True
        self.questions = self.signs = 0
        self.on_record = RunOnRecord(self._ask, self._sign, lambda: self.seconds)

    def _ask(self) -> bool:
        self.questions += 1
        return self.is_at_work

    def _sign(self) -> None:
        self.signs += 1


@pytest.fixture
def run() -> Run:
    return Run()


def step_of(run: Run, *answers: Answer) -> RemoteStep:
    waiting: Iterator[Answer] = iter(answers)
    return RemoteStep(lambda: next(waiting), run.on_record)


def test_a_step_is_ready_when_its_events_are_there(run: Run) -> None:
    answer = Answer()
    step = step_of(run, answer)
    assert not step.ready()
    answer.state, answer.result = "SUCCESS", ["event"]
    assert step.ready()
    assert step.get() == ["event"]


def test_a_broker_that_is_away_is_waited_for(run: Run) -> None:
    answer = Answer("SUCCESS", ["event"], is_away=True)
    step = step_of(run, answer)
    assert not step.ready()
    step.revoke()
    answer.is_away = False
    assert step.ready()


def test_a_step_whose_process_died_is_repeated_so_often_and_no_more(run: Run) -> None:
    lost = [Answer("FAILURE", WorkerLostError("killed")) for _ in range(LOST_TRIES + 1)]
    step = step_of(run, *lost)
    assert [step.ready() for _ in lost] == [False] * LOST_TRIES + [True]
    with pytest.raises(WorkerLostError):
        step.get()


def test_a_run_that_was_ended_on_record_waits_for_no_step(run: Run) -> None:
    step = step_of(run, Answer("STARTED"))
    assert not step.ready()
    run.is_at_work = False
    assert not step.ready(), "it is not asked at every look"
    run.seconds += LOOK_SECONDS
    assert step.ready()
    with pytest.raises(RunIsOverError):
        step.get()
    run.seconds += LOOK_SECONDS
    assert step.ready()
    assert run.questions == 1, "what is over stays over"


def test_a_run_shows_that_it_is_alive_however_many_steps_wait(run: Run) -> None:
    steps = [step_of(run, Answer()) for _ in range(20)]
    run.seconds += LOOK_SECONDS
    assert not any(step.ready() for step in steps)
    assert (run.questions, run.signs) == (1, 1)


def test_a_revoked_step_that_no_worker_began_is_waited_for_no_longer(run: Run) -> None:
    waiting, begun = Answer(), Answer("STARTED")
    first, second = step_of(run, waiting), step_of(run, begun)
    first.revoke()
    second.revoke()
    assert first.ready()
    with pytest.raises(TaskRevokedError):
        first.get()
    assert not second.ready(), "it ends by itself, with its calls recorded"
    assert waiting.was_revoked
    assert begun.was_revoked


# --- the settings -------------------------------------------------------------------------------------------


def test_steps_are_acknowledged_late_one_at_a_time_and_stay_invisible_as_long_as_the_settings_say(
    tmp_path: Path,
) -> None:
    settings = Settings.checked({**VALUES, "state_folder": tmp_path})
    app = worker_app(settings)
    assert app.conf.task_acks_late
    assert app.conf.worker_prefetch_multiplier == 1
    assert not app.conf.task_reject_on_worker_lost
    assert app.conf.broker_transport_options["visibility_timeout"] == 7000
    assert app.conf.result_backend_transport_options["retry_policy"]["max_retries"] > 100
    assert celery_settings(settings, 2)["result_backend_transport_options"]["retry_policy"]["max_retries"] == 2


def test_celery_needs_a_broker_and_names_the_variable_and_never_the_address(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="EMAIL_PLATFORM_CELERY_BROKER_URL is not set"):
        Settings.checked({**VALUES, "state_folder": tmp_path, "celery_broker_url": None})
    with pytest.raises(ConfigurationError, match="EMAIL_PLATFORM_CELERY_BROKER_URL: must look like") as refusal:
        Settings.checked({**VALUES, "state_folder": tmp_path, "celery_broker_url": "amqp://:hidden@h"})
    assert "hidden" not in str(refusal.value)
    settings = Settings.checked({**VALUES, "state_folder": tmp_path})
    assert "hidden" not in repr(settings)
    assert "hidden" in broker_of(settings)


# --- on the worker ------------------------------------------------------------------------------------------


def test_a_run_is_at_work_while_dagster_says_so(tmp_path: Path) -> None:
    @dg.job
    def job() -> None: ...

    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        for status in set(dg.DagsterRunStatus) - {dg.DagsterRunStatus.QUEUED}:  # which needs more to be made
            run = instance.create_run_for_job(job, status=status)
            at_work = status in (dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED)
            assert is_at_work(instance, run.run_id, while_away=not at_work) is at_work
        assert not is_at_work(instance, "of nobody", while_away=True)


class AwayInstance:
    def get_run_by_id(self, _run_id: str) -> None:
        raise ConnectionError("away")


@pytest.mark.parametrize("answer", [True, False])
def test_while_dagster_s_storage_is_away_the_caller_decides(answer: bool) -> None:
    instance: Any = AwayInstance()
    assert is_at_work(instance, "run", while_away=answer) is answer


@dataclass
class Context:
    run_config: dict[str, Any]
    instance: Any
    run_id: str = "run"


class OverInstance:
    def get_run_by_id(self, _run_id: str) -> None:
        return None


def test_a_step_stops_soon_after_its_run_is_over_on_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("assets.step_process.CHECK_SECONDS", 0.01)
    stop = threading.Event()
    context: Any = Context({}, OverInstance())
    with on_a_worker(lambda: False), ending_with_the_run(context, stop.set):
        assert stop.wait(30)


def test_a_step_of_a_worker_that_is_to_end_is_repeated_by_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("assets.step_process.CHECK_SECONDS", 0.01)
    stop = threading.Event()
    context: Any = Context({}, AwayInstance())

    def step() -> None:
        with on_a_worker(lambda: True), ending_with_the_run(context, stop.set):
            assert stop.wait(30)
            raise SendingInterruptedError("asked to end")

    with pytest.raises(PartUnavailableError, match="another one goes on"):
        step()


def test_another_interruption_of_a_step_on_a_worker_stays_what_it_is() -> None:
    context: Any = Context({}, AwayInstance())
    with (
        pytest.raises(SendingInterruptedError),
        on_a_worker(lambda: False),
        ending_with_the_run(context, lambda: None),
    ):
        raise SendingInterruptedError("asked to end")


# --- refusals -----------------------------------------------------------------------------------------------


def test_a_run_of_celery_s_launcher_refuses_steps_on_celery_s_workers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class CeleryRunLauncher(dg.DefaultRunLauncher):
        """By its name only: the real one connects to its broker."""

    for name, value in VALUES.items():
        monkeypatch.setenv(f"EMAIL_PLATFORM_{name.upper()}", str(value))
    monkeypatch.setenv("EMAIL_PLATFORM_STATE_FOLDER", str(tmp_path))
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        instance._run_launcher = CeleryRunLauncher()
        context: Any = type("Context", (), {"executor_config": {"in_one_process": False}, "instance": instance})()
        with pytest.raises(ConfigurationError, match="waits for other tasks"):
            campaign_steps.executor_creation_fn(context)  # type: ignore[misc]
        context.executor_config["in_one_process"] = True
        assert type(campaign_steps.executor_creation_fn(context)).__name__ == "InProcessExecutor"  # type: ignore[misc]
