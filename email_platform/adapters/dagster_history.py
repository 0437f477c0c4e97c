"""Dagster's runs on record, and their removal through Dagster's public API.

Invariant: a run's record goes last, so that a removal that was killed finds the rest of it again.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import datetime

import dagster as dg

from email_platform.domain.ports import ObjectStore

STEP_OUTPUTS = "step-outputs"
_PAGE = 200
_ENDED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]


class DagsterRunHistory:
    """`email_platform.runs.retention.RunHistory` of one instance and the bucket of its step outputs."""

    def __init__(self, instance: dg.DagsterInstance, store: ObjectStore) -> None:
        self._instance = instance
        self._store = store

    def old_runs(self, ended_before: datetime, limit: int) -> Sequence[str]:
        """Ids of runs that ended before the moment, the oldest first; never the newest run of a job.

        Sensors and metrics ask when a job last ran, however long ago that is.
        """
        found: list[str] = []
        newest: dict[str, str] = {}
        cursor: str | None = None
        # Dagster's filter is by creation, which is never after a run's end.
        wanted = dg.RunsFilter(statuses=_ENDED, created_before=ended_before)
        while len(found) < limit:
            page = self._instance.get_run_records(wanted, limit=_PAGE, cursor=cursor, ascending=True)
            for record in page:
                run = record.dagster_run
                if run.job_name not in newest:
                    of_job = self._instance.get_run_records(dg.RunsFilter(job_name=run.job_name), limit=1)
                    newest[run.job_name] = of_job[0].dagster_run.run_id
                is_old = (record.end_time or record.create_timestamp.timestamp()) < ended_before.timestamp()
                if is_old and run.run_id != newest[run.job_name]:
                    found.append(run.run_id)
            if len(page) < _PAGE:
                break
            cursor = page[-1].dagster_run.run_id
        return found[:limit]

    def remove(self, run_id: str) -> int:
        """Remove the run's step outputs, then its logs, then its record with its events; returns the objects."""
        outputs = [info.key for info in self._store.list(f"{STEP_OUTPUTS}/storage/{run_id}/")]
        for key in outputs:
            self._store.delete(key)
        self._instance.compute_log_manager.delete_logs(prefix=[run_id])
        self._instance.delete_run(run_id)
        return len(outputs)


def open_instance() -> AbstractContextManager[dg.DagsterInstance]:
    """The instance of DAGSTER_HOME."""
    return dg.DagsterInstance.get()
