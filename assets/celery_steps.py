"""Runs a campaign's steps on Celery workers of any machine: what Dagster's own Celery executor does, and sees more.

Invariant: however a worker, its machine, the network or the broker is lost, the run's process comes to an end, and
neither it nor a step outlives a run that is over by Dagster's account.

Dagster's loop (`core_celery_execution_loop` of dagster-celery 0.29, which its executors for Docker and Kubernetes are
built on too) waits for each result for ever, ends at the first question that Redis does not answer, and gives up a run
whose step's process died. `RemoteStep` is the result that it asks: it bears a broker that is away, repeats a step whose
process died, and ends with its run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import dagster as dg
from billiard.exceptions import WorkerLostError
from celery.backends.asynchronous import E_RETRY_LIMIT_EXCEEDED
from celery.exceptions import CeleryError, TaskRevokedError
from celery.result import AsyncResult
from dagster._core.execution.context.system import PlanOrchestrationContext
from dagster._core.execution.plan.plan import ExecutionPlan
from dagster._core.execution.retries import RetryMode
from dagster_celery.core_execution_loop import core_celery_execution_loop
from dagster_celery.executor import CeleryExecutor, _submit_task
from kombu.exceptions import KombuError
from redis.exceptions import RedisError

from assets.celery_app import RUN_TRIES, broker_of, celery_settings, steps_in_queue, worker_app
from assets.partitions import campaign_id_of
from assets.step_process import is_at_work
from email_platform.adapters.assembly import open_parts
from email_platform.errors import PartUnavailableError
from email_platform.settings import Settings

LOST_TRIES = 3
LOOK_SECONDS = 5.0
BROKER_AWAY = (RedisError, KombuError, OSError)


class RunIsOverError(dg.DagsterError):
    """Somebody else ended the run on record: `silent_campaigns`, run monitoring, or an operator."""


class RunOnRecord:
    """Whether the run is still at work; asked of Dagster every few seconds, however many steps wait.

    Args:
        ask: the question, to Dagster's storage.
        while_at_work: called each time that the answer is yes.
    """

    def __init__(
        self, ask: Callable[[], bool], while_at_work: Callable[[], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ask = ask
        self._while_at_work = while_at_work
        self._clock = clock
        self._asked_seconds = clock()
        self._is_over = False

    def is_over(self) -> bool:
        """Whether it ended, by the last answer."""
        if not self._is_over and self._clock() - self._asked_seconds >= LOOK_SECONDS:
            self._asked_seconds = self._clock()
            self._is_over = not self._ask()
            if not self._is_over:
                self._while_at_work()
        return self._is_over


def submitted(
    submit: Callable[[], AsyncResult], run: RunOnRecord, sleep: Callable[[float], None] = time.sleep
) -> AsyncResult:
    """Hand a step to the broker, again and again while it is away and the run is at work.

    Celery first subscribes to the result at Redis, and raises `RuntimeError` where Redis does not answer; the next time
    it opens a new connection.
    """
    while True:
        try:
            return submit()
        except (*BROKER_AWAY, RuntimeError) as error:
            if (isinstance(error, RuntimeError) and str(error) != E_RETRY_LIMIT_EXCEEDED) or run.is_over():
                raise
            sleep(1.0)


class RemoteStep:
    """A step on some worker, as Dagster's loop asks for it.

    Args:
        submit: hands the step to the broker.
        run: the step's run.
    """

    def __init__(self, submit: Callable[[], AsyncResult], run: RunOnRecord) -> None:
        self._submit = submit
        self._run = run
        self._result = submit()
        self._tries = 1
        self._is_revoked = False

    def ready(self) -> bool:
        """Whether there is nothing more to wait for; no while the broker is away."""
        if self._run.is_over():
            return True
        try:
            if not self._result.ready():
                return self._is_revoked and self._result.state == "PENDING"  # no worker has begun it
            if isinstance(self._result.result, WorkerLostError) and self._tries <= LOST_TRIES and not self._is_revoked:
                self._result = self._submit()
                self._tries += 1
                return False
        except BROKER_AWAY:
            return False
        return True

    def get(self) -> Any:
        """The step's events.

        Raises:
            RunIsOverError: nobody waits for them any more.
            TaskRevokedError: no worker began it before the run was ended.
            CeleryError: it ended without events; its process died each time.
        """
        if self._run.is_over():
            raise RunIsOverError("the run was ended on record; what it had sent is in the ledger")
        if self._is_revoked and self._result.state == "PENDING":
            raise TaskRevokedError("revoked before a worker began it")
        return self._result.get()

    def revoke(self) -> None:
        """Let no worker begin it; one that has begun ends by itself, as its run is being ended."""
        self._is_revoked = True
        with suppress(CeleryError, *BROKER_AWAY):
            self._result.revoke()


class CelerySteps(CeleryExecutor):
    """Hands steps to the workers of the settings' broker."""

    def __init__(self, settings: Settings, retries: RetryMode) -> None:
        self._settings = settings
        url = broker_of(settings)
        super().__init__(retries, broker=url, backend=url, config_source=celery_settings(settings, RUN_TRIES))

    def execute(
        self, plan_context: PlanOrchestrationContext, execution_plan: ExecutionPlan
    ) -> Iterator[dg.DagsterEvent]:
        """Run the plan; one event after the other, as they come back."""
        run = plan_context.dagster_run
        on_record = RunOnRecord(
            lambda: is_at_work(plan_context.instance, run.run_id, while_away=True), self._sign_of_life(run)
        )

        def submit(app: Any, context: Any, step: Any, queue: str, priority: int, known_state: Any) -> RemoteStep:
            def once() -> AsyncResult:
                return _submit_task(app, context, step, queue, priority, known_state)

            return RemoteStep(lambda: submitted(once, on_record), on_record)

        return core_celery_execution_loop(plan_context, execution_plan, step_execution_fn=submit)

    def _sign_of_life(self, run: dg.DagsterRun) -> Callable[[], None]:
        """While steps wait for a worker, nobody holds a lease: the campaign would pass for silent.

        Where no step waits, those of this run are with workers, who show their own signs, or are lost.
        """
        campaign_id = campaign_id_of(run.tags["dagster/partition"])
        app = worker_app(self._settings)

        def show() -> None:
            with suppress(PartUnavailableError, *BROKER_AWAY):
                if steps_in_queue(app):
                    with open_parts(self._settings) as parts:
                        parts.campaigns.note_progress(campaign_id)

        return show
