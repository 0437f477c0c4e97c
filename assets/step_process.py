"""Whether a campaign's steps run in processes of their own, or in the run's: chosen by the run's configuration."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import dagster as dg

from email_platform.sending.orphan_watch import ending_with_ancestors

IN_ONE_PROCESS: Mapping[str, Any] = {"execution": {"config": {"in_one_process": True}}}


def runs_in_one_process(run_config: Mapping[str, Any]) -> bool:
    """Whether a run with this configuration starts no process for its steps, whatever else the configuration says."""
    execution = run_config.get("execution") or {}
    return bool((execution.get("config") or {}).get("in_one_process", False))


@contextmanager
def ending_with_the_run(context: dg.OpExecutionContext, stop: Callable[[], None]) -> Iterator[None]:
    """A step process calls `stop` when its run's process is gone; the run's own process has nobody to end with."""
    if runs_in_one_process(context.run_config):
        yield
        return
    with ending_with_ancestors(stop):
        yield
