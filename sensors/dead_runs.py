"""Waits for runs that Dagster calls at work while their worker is gone, and ends them on record.

The worker of a run is watched by the code server that started it, and by nobody else: where both die (a container is
killed, a machine restarts), the run stays STARTED for ever. It keeps its place in the run queue, and a sensor that asks
for one run at a time asks for no other: no event would be loaded any more, no report refreshed. Ended on record, it is
retried as Dagster retries any run whose worker died.

A tick runs in the code server, beside the workers that it started, and looks for their processes. A process id means
nothing on another machine: a run is judged only where its code server's name means this machine alone. Launchers that
watch their workers themselves (Kubernetes, ECS, Docker) are left alone: Dagster's run monitoring asks them. Celery's
does not, and is left alone as well: see `why_not_judged`.
"""

import json

import dagster as dg

from email_platform.adapters.launchers import CELERY_RUN_LAUNCHER
from email_platform.sending.orphan_watch import is_alive_since, is_this_host

# How Dagster's default launcher marks a run that a code server works on. Dagster has no public name for it (`dagster`
# exports no tag but MAX_RUNTIME_SECONDS_TAG), and the default launcher has no check of a worker's health to ask
# instead. A test holds the text to Dagster's own constant.
CODE_SERVER_TAG = ".dagster/grpc_info"

RUNS_PER_TICK = 50


def why_not_judged(launcher: str) -> str:
    """What to say of runs of another launcher than Dagster's default one.

    Celery's says of a task whose worker's host was killed that it is running, for as long as one asks (tried).
    """
    if launcher == CELERY_RUN_LAUNCHER:
        return (
            f"{launcher} does not notice that a worker's host died, and its workers are on other machines: campaigns "
            "are resumed by silent_campaigns, other runs you must end"
        )
    return f"{launcher} watches its workers itself"


def worker_is_gone(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Whether the process that announced itself as the run's worker is not there any more.

    False for a run that may work on another machine: no code server started it (an operator's `dagster job execute`),
    or one whose name is not, or not only, this machine's.
    """
    if not is_this_host(code_server_of(run)):
        return False
    events = instance.get_records_for_run(run.run_id, of_type=dg.DagsterEventType.ENGINE_EVENT, limit=20).records
    for entry in (record.event_log_entry for record in events):
        metadata = entry.dagster_event.engine_event_data.metadata if entry.dagster_event else {}
        if "pid" in metadata:
            return not is_alive_since(int(str(metadata["pid"].value)), entry.timestamp)
    return False


def code_server_of(run: dg.DagsterRun) -> str:
    """The host name of the code server that started the run's worker; empty where none did, or nobody can say."""
    try:
        return str(json.loads(run.tags.get(CODE_SERVER_TAG, "{}")).get("host") or "")
    except (ValueError, AttributeError):
        return ""


@dg.sensor(
    minimum_interval_seconds=15,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="A run is at work by Dagster's account, but the process that worked on it is gone.",
)
def dead_runs(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """End on record what was found without a worker twice in a row: at first its code server may be about to say so.

    A tick looks at the next few runs, the oldest first, and again at those that the last tick found so: however many
    runs are at work, its cost is the same. The cursor holds those, and after which run to go on.
    """
    if not isinstance(context.instance.run_launcher, dg.DefaultRunLauncher):
        return dg.SensorResult(skip_reason=dg.SkipReason(why_not_judged(type(context.instance.run_launcher).__name__)))
    cursor = json.loads(context.cursor or "{}")
    before = cursor if isinstance(cursor, dict) else {}
    found_before: list[str] = before.get("found", [])
    again = started_runs(context.instance, run_ids=found_before) if found_before else []
    for run in again:
        if worker_is_gone(context.instance, run):
            context.log.warning(f"run {run.run_id} of {run.job_name}: its worker is gone; ending it")
            context.instance.report_run_failed(run, "its worker is gone, and so is the code server that watched it")
    after_run_id = before.get("after")
    if after_run_id is not None and context.instance.get_run_by_id(after_run_id) is None:
        after_run_id = None  # somebody deleted it
    page = started_runs(context.instance, after_run_id=after_run_id)
    gone = [run.run_id for run in page if run.run_id not in found_before and worker_is_gone(context.instance, run)]
    elsewhere = {code_server_of(run) for run in page} - {""}
    not_ours = sorted(name for name in elsewhere if not is_this_host(name))
    there = f"; not judged: runs of {', '.join(not_ours)}" if not_ours else ""
    return dg.SensorResult(
        cursor=json.dumps({"found": gone, "after": page[-1].run_id if len(page) == RUNS_PER_TICK else None}),
        skip_reason=dg.SkipReason(f"{len(gone)} of {len(page)} runs at work have no worker{there}"),
    )


def started_runs(
    instance: dg.DagsterInstance, run_ids: list[str] | None = None, after_run_id: str | None = None
) -> list[dg.DagsterRun]:
    """The next runs that are at work by Dagster's account, the oldest first; or those of the ids."""
    records = instance.get_run_records(
        dg.RunsFilter(run_ids=run_ids, statuses=[dg.DagsterRunStatus.STARTED]),
        limit=RUNS_PER_TICK,
        ascending=True,
        cursor=after_run_id,
    )
    return [record.dagster_run for record in records]
