"""Where a campaign's steps run, chosen by the run's configuration and the settings, and how each ends with its run.

Invariant: no step begins another call once its run's process died, its run ended on record, or its worker is asked to
end; what is in flight is seen to its end and recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from itertools import count
from typing import Any

import dagster as dg

from email_platform.errors import PartUnavailableError, SendingInterruptedError
from email_platform.repeating import repeated_beside
from email_platform.sending.orphan_watch import CHECK_SECONDS, ending_with_ancestors

IN_ONE_PROCESS: Mapping[str, Any] = {"execution": {"config": {"in_one_process": True}}}
DEFINITIONS = "email_platform.definitions"  # by its name, which is a layer above
LOADED_ONCE = "assets.loaded_once"
PRELOADED = (DEFINITIONS, LOADED_ONCE)  # what the process of a run or a step is forked with
LOOKS_PER_QUESTION = 10  # a worker's end is seen in half a second, a run's end in five
_worker_is_stopping: ContextVar[Callable[[], bool] | None] = ContextVar("worker_is_stopping", default=None)


def runs_in_one_process(run_config: Mapping[str, Any]) -> bool:
    """Whether a run with this configuration starts no process for its steps, whatever else the configuration says."""
    execution = run_config.get("execution") or {}
    return bool((execution.get("config") or {}).get("in_one_process", False))


def is_at_work(instance: dg.DagsterInstance, run_id: str, *, while_away: bool) -> bool:
    """Whether Dagster's storage calls the run at work; a run that is being ended is not.

    Args:
        instance: whose storage is asked.
        run_id: the run.
        while_away: the answer while the storage is away.
    """
    try:
        run = instance.get_run_by_id(run_id)
    except Exception:  # of whichever driver its storage has
        return while_away
    return run is not None and run.status in (dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED)


@contextmanager
def on_a_worker(is_stopping: Callable[[], bool]) -> Iterator[None]:
    """Steps within the `with` run on a worker that the run's process knows nothing of.

    Args:
        is_stopping: whether the worker is asked to end.
    """
    token = _worker_is_stopping.set(is_stopping)
    try:
        yield
    finally:
        _worker_is_stopping.reset(token)


@contextmanager
def ending_with_the_run(context: dg.OpExecutionContext, stop: Callable[[], None]) -> Iterator[None]:
    """A step process calls `stop` when its run's process is gone; the run's own process has nobody to end with.

    On a worker (`on_a_worker`) it calls `stop` when the run is over on record, or the worker is to end.

    Raises:
        PartUnavailableError: the worker is to end; the step is repeated, on another one.
    """
    if runs_in_one_process(context.run_config):
        yield
        return
    is_stopping = _worker_is_stopping.get()
    with ending_with_ancestors(stop):
        if is_stopping is None:
            yield
            return
        with _watching(lambda: is_at_work(context.instance, context.run_id, while_away=True), is_stopping, stop):
            try:
                yield
            except SendingInterruptedError as interruption:
                if is_stopping():
                    raise PartUnavailableError("this worker is asked to end; another one goes on") from interruption
                raise


def _watching(
    at_work: Callable[[], bool], is_stopping: Callable[[], bool], stop: Callable[[], None]
) -> AbstractContextManager[None]:
    """Call `stop` once, soon after the run is over or the worker is to end; the watch ends with the block."""
    looks = count(1)

    def look() -> bool:
        asks = next(looks) % LOOKS_PER_QUESTION == 0
        if is_stopping() or (asks and not at_work()):
            stop()
            return True
        return False

    return repeated_beside(look, CHECK_SECONDS, name="run-watch")
