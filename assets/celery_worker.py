"""A Celery worker for steps of campaigns: `email-platform worker`.

python -m assets.celery_worker [--slots 2] [--pool prefork|solo] [--ready-file FILE]

Each slot is a process that was forked from this one, with the definitions loaded. A worker that is asked to end
(SIGTERM) takes no new step, and each step that it has sees its calls in flight to their end, records them, and is
handed to another worker.
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dagster as dg
from celery import Celery, Task
from celery.signals import worker_ready, worker_shutting_down
from dagster._grpc.types import ExecuteStepArgs
from dagster._serdes import unpack_value
from dagster_celery.tasks import create_execute_job_task, create_resume_job_task, create_task

from assets.celery_app import QUEUE, worker_app
from assets.step_process import PRELOADED, is_at_work, on_a_worker
from email_platform.adapters.launchers import CELERY_RUN_LAUNCHER, launcher_of, require_possible
from email_platform.errors import ConfigurationError
from email_platform.settings import Settings

_is_stopping = multiprocessing.get_context("fork").Event()
"""Shared with the slots, which are forked: Celery tells them nothing of a worker's end."""


class StepTask(Task):  # type: ignore[misc]  # Celery has no types
    """Dagster's task for a step, unless the step's run is over."""

    def __call__(self, execute_step_args_packed: Any, executable_dict: Any) -> Any:
        """The step's events, as Dagster's loop reads them; none where nobody waits for them."""
        arguments = unpack_value(execute_step_args_packed, as_type=ExecuteStepArgs)
        assert arguments.instance_ref is not None
        with dg.DagsterInstance.from_ref(arguments.instance_ref) as instance:
            if not is_at_work(instance, arguments.run_id, while_away=False):
                return []
        with on_a_worker(_is_stopping.is_set):
            return self.run(execute_step_args_packed, executable_dict)


def app_with_tasks(settings: Settings) -> Celery:
    """The worker's application."""
    app = worker_app(settings)
    create_task(app, base=StepTask)
    create_execute_job_task(app)
    create_resume_job_task(app)
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Work until a signal comes; returns the exit code."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--slots", type=int, help="steps side by side; EMAIL_PLATFORM_WORKER_SLOTS by default")
    options.add_argument("--pool", choices=("prefork", "solo"), default="prefork")
    options.add_argument("--ready-file", type=Path, help="made when the worker takes steps, gone before")
    given = options.parse_args(arguments)
    settings = Settings.load()
    if settings.celery_broker_url is None:
        raise ConfigurationError("EMAIL_PLATFORM_CELERY_BROKER_URL is not set: a worker takes its steps from there")
    launcher = launcher_of(Path(os.environ["DAGSTER_HOME"]) / "dagster.yaml") if "DAGSTER_HOME" in os.environ else None
    if launcher == CELERY_RUN_LAUNCHER:
        require_possible(launcher, settings.steps, pool=given.pool)
    if given.ready_file is not None:
        given.ready_file.unlink(missing_ok=True)

    def is_ready(**_: object) -> None:
        if given.ready_file is not None:
            given.ready_file.write_text(str(os.getpid()), encoding="utf-8")

    def is_ending(**_: object) -> None:
        _is_stopping.set()
        if given.ready_file is not None:
            given.ready_file.unlink(missing_ok=True)

    worker_ready.connect(is_ready, weak=False)
    worker_shutting_down.connect(is_ending, weak=False)
    for module in PRELOADED:  # before the slots are forked
        importlib.import_module(module)

    app_with_tasks(settings).worker_main(
        [
            *("worker", "--loglevel=INFO", "--without-gossip", "--without-mingle"),
            *(f"--pool={given.pool}", f"--concurrency={given.slots or settings.worker_slots}"),
            *(f"--queues={QUEUE}", f"--hostname=steps-{os.getpid()}@{socket.gethostname()}"),
        ]
    )
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ConfigurationError as wrong:
        sys.stderr.write(f"{wrong}\n")
        sys.exit(2)
