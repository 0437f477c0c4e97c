"""A campaign's run as a run worker executes it: a process of its own, with the job's executor.

python -m tests.integration.dagster_project.one_process_run CAMPAIGN FOLDER: all steps in that process; prints how it
ended, as JSON. With a third argument, any, each step has a process of its own.
"""

from __future__ import annotations

import json
import sys

import dagster as dg

from assets.step_process import IN_ONE_PROCESS
from email_platform.definitions import defs


def campaign_job() -> dg.JobDefinition:
    """The job, as another process finds it."""
    return defs.resolve_job_def("campaign_job")


def main(campaign_id: str, folder: str, *own_processes: str) -> None:
    """Run the campaign; the instance's storage is the folder."""
    with dg.DagsterInstance.local_temp(folder) as instance:
        instance.add_dynamic_partitions("campaign", [campaign_id])
        result = dg.execute_job(
            dg.reconstructable(campaign_job),
            instance,
            run_config={} if own_processes else dict(IN_ONE_PROCESS),
            tags={"dagster/partition": campaign_id},
            raise_on_error=False,
        )
        types = {event.event_type_value for event in result.all_events}
        ended: dict[str, bool | int] = {"success": result.success, "workers": "STEP_WORKER_STARTED" in types}
        if own_processes:
            ended["repeated"] = sum(event.event_type_value == "STEP_RESTARTED" for event in result.all_events)
        sys.stdout.write(json.dumps(ended) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
