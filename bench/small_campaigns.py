"""What does a small campaign cost beyond its sending? On a whole stack with Dagster, its code server and a plain one.

`make bench-small`, which is
python -m bench.small_campaigns [--campaigns 20] [--leads 1000] [--code-servers plain forking] [--json FILE]

Three things are measured, one after the other, in one run:

1. The sending alone: the same campaigns, one after the other, in this process, which has everything loaded: audience
   resolved and frozen, sent, staged, judged. Counted are this process and the engines that it asks.
2. The same campaigns through the sensor, the run queue and the launcher, with a plain code server
   (`dagster api grpc`), which starts an interpreter for each run.
3. The same with the platform's code server, which forks a run's process.

Counted is the processor time, user and system, of every process of every part: each part runs under a guard, which
reaps whatever the part leaves behind, so a part's time is the time of its living processes and of all that they, and
the guard, have waited for (`psutil`'s `cpu_times`, which reads /proc/PID/stat; children count when they are reaped).
What the stack takes while nothing is queued is measured before and taken off. Each stack sends a few campaigns first
that do not count. It ends when every campaign is sent, every object loaded and no run at work; the runs that load are
counted too. There are no events and no reports: nobody receives events, and the reports are refreshed before anything
is counted and then wait an hour.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import dagster as dg
import psutil
from sqlalchemy import Engine

from assets.jobs import reports_job
from bench.send.campaigns import queue, seed_leads, send_here
from email_platform.adapters.assembly import open_oltp, open_parts
from email_platform.domain.campaigns import CampaignStatus
from email_platform.local.stack.dagster_processes import (
    CODE_SERVER,
    DAGSTER_PARTS,
    code_server_part,
    dagster_environment,
)
from email_platform.local.stack.part import LOOPBACK, Part
from email_platform.local.stack.stack import (
    DAGSTER_PART_NAMES,
    ENGINE_NAMES,
    Stack,
    clean_environment,
    started_stack,
)
from email_platform.runs.parts import Parts
from email_platform.settings import Settings, variable_of

CITY = "small"
IDLE_SECONDS = 30.0
SETTLING_SECONDS = 15.0
POLL_SECONDS = 0.5
PATIENCE_SECONDS = 1800.0
UNCOUNTED = 3  # campaigns that each stack sends first


@dataclass(frozen=True, slots=True)
class Cost:
    """What campaigns took.

    Attributes:
        by_part: CPU-seconds a campaign of each part, without what the part takes while nothing is queued.
        idle_by_part: CPU-seconds a second of each part while nothing is queued.
        seconds: from queueing the first campaign until nothing is left to do.
    """

    campaigns: int
    by_part: Mapping[str, float]
    idle_by_part: Mapping[str, float]
    seconds: float

    @property
    def total(self) -> float:
        """CPU-seconds a campaign."""
        return sum(self.by_part.values())


def main() -> int:
    """Measure, print; returns the exit code."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--campaigns", type=int, default=20)
    options.add_argument("--leads", type=int, default=1000)
    options.add_argument("--code-servers", nargs="+", choices=("plain", "forking"), default=["plain", "forking"])
    options.add_argument("--json", type=Path, help="where to write the figures")
    given = options.parse_args()
    alone = sending_alone(given.campaigns, given.leads)
    print(f"{given.campaigns} campaigns of {given.leads:,} leads, CPU-seconds a campaign")
    show("sending alone", alone)
    costs = {"sending alone": alone}
    for name in given.code_servers:
        costs[name] = cost = through_dagster(name, given.campaigns, given.leads)
        show(f"{name} code server", cost)
        print(f"  beyond its sending: {cost.total - alone.total:.2f}", flush=True)
    if given.json is not None:
        given.json.write_text(json.dumps({name: asdict(cost) for name, cost in costs.items()}, indent=1))
    return 0


def show(name: str, cost: Cost) -> None:
    """Print one measurement."""
    parts = ", ".join(f"{part} {seconds:.2f}" for part, seconds in cost.by_part.items())
    idle = ", ".join(f"{part} {seconds:.3f}" for part, seconds in cost.idle_by_part.items())
    print(f"{name}: {cost.total:.2f} ({parts}); {cost.seconds:.0f} s in all")
    if idle:
        print(f"  taken off, CPU-seconds a second: {idle}", flush=True)


def sending_alone(campaigns: int, leads: int) -> Cost:
    """The campaigns in this process."""
    with stack_with(ENGINE_NAMES) as (stack, parts, engine):
        seed_leads(engine, CITY, leads)
        for _ in range(UNCOUNTED):
            send_here(parts, queue(engine, CITY))
        queued = [queue(engine, CITY) for _ in range(campaigns)]
        before, own_before, began = cpu_by_part(stack), own_cpu_seconds(), time.monotonic()
        for campaign_id in queued:
            send_here(parts, campaign_id)
        seconds, own = time.monotonic() - began, own_cpu_seconds() - own_before
        spent = {"this process": own, **differences(before, cpu_by_part(stack))}
    return Cost(campaigns, {name: one / campaigns for name, one in spent.items()}, {}, seconds)


def through_dagster(code_server: str, campaigns: int, leads: int) -> Cost:
    """The campaigns on a whole stack."""
    with (
        patch.dict(DAGSTER_PARTS, {} if code_server == "forking" else {CODE_SERVER: plain_code_server}),
        stack_with((*ENGINE_NAMES, *DAGSTER_PART_NAMES)) as (stack, parts, engine),
        dagster_instance(stack.settings) as instance,
    ):
        is_quiet = partial(nothing_left, parts, instance)
        seed_leads(engine, CITY, leads)
        wait_for(partial(are_sent, parts, [queue(engine, CITY) for _ in range(UNCOUNTED)]), "the first campaigns")
        wait_for(partial(have_reports, instance), "the first refresh of the reports")
        wait_for(is_quiet, "the first loads and that refresh")
        time.sleep(SETTLING_SECONDS)
        before, began = cpu_by_part(stack), time.monotonic()
        time.sleep(IDLE_SECONDS)
        seconds = time.monotonic() - began
        idle = {name: spent / seconds for name, spent in differences(before, cpu_by_part(stack)).items()}
        before, began, earlier = cpu_by_part(stack), time.monotonic(), set(instance.get_run_ids())
        wait_for(partial(are_sent, parts, [queue(engine, CITY) for _ in range(campaigns)]), "the campaigns")
        wait_for(is_quiet, "the loads")
        time.sleep(POLL_SECONDS * 4)  # what has ended is reaped
        seconds = time.monotonic() - began
        spent = differences(before, cpu_by_part(stack))
        jobs = Counter(run.job_name for run in instance.get_runs() if run.run_id not in earlier)
    print(f"runs: {', '.join(f'{count} of {job}' for job, count in sorted(jobs.items()))}", flush=True)
    return Cost(
        campaigns, {name: (one - idle[name] * seconds) / campaigns for name, one in spent.items()}, idle, seconds
    )


@contextmanager
def stack_with(names: tuple[str, ...]) -> Iterator[tuple[Stack, Parts, Engine]]:
    """A stack of its own, watched, with what asks it."""
    environment = clean_environment() | {
        variable_of("start_timeout_seconds"): "300",
        variable_of("reports_interval_seconds"): "3600",
        variable_of("stall_seconds"): "900",  # where the machine is busy, a slow start is no silence
    }
    with (
        tempfile.TemporaryDirectory(prefix="small-campaigns-") as folder,
        started_stack(Path(folder) / "state", parts=names, ports="free", environ=environment) as stack,
        open_oltp(stack.settings) as engine,
        open_parts(stack.settings, {**os.environ, **environment}) as parts,
    ):
        watching = threading.Thread(target=stack.supervisor.watch, daemon=True)
        watching.start()
        try:
            yield stack, parts, engine
        finally:
            stack.supervisor.request_stop()
            watching.join()


@contextmanager
def dagster_instance(settings: Settings) -> Iterator[dg.DagsterInstance]:
    """The stack's instance, as its own processes have it."""
    with patch.dict(os.environ, dagster_environment(settings, os.environ)), dg.DagsterInstance.get() as instance:
        yield instance


def plain_code_server(settings: Settings, log_file: Path, variables: Mapping[str, str], workspace: Path) -> Part:
    """Dagster's own, in the place of the platform's."""
    part = code_server_part(settings, log_file, variables, workspace)
    command = (
        *(sys.executable, "-m", "dagster", "api", "grpc", "-m", "email_platform.definitions"),
        *("--host", LOOPBACK, "--port", str(settings.code_server_port), "--location-name", "email_platform"),
    )
    return replace(part, command=command, is_ready=lambda: listens(settings.code_server_port))


def listens(port: int) -> bool:
    """Whether somebody takes connections there."""
    return any(
        one.laddr.port == port and one.status == psutil.CONN_LISTEN
        for one in psutil.net_connections("tcp")
        if one.laddr
    )


def nothing_left(parts: Parts, instance: dg.DagsterInstance) -> bool:
    """Whether every object is loaded and no run waits or works."""
    at_work = [status for status in dg.DagsterRunStatus if status not in FINISHED]
    return not parts.register.unloaded() and not instance.get_run_ids(dg.RunsFilter(statuses=at_work), limit=1)


FINISHED = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)


def have_reports(instance: dg.DagsterInstance) -> bool:
    """Whether a refresh of the reports began: at once after the first loads, then not for an hour."""
    return bool(instance.get_run_ids(dg.RunsFilter(job_name=reports_job.name), limit=1))


def are_sent(parts: Parts, campaign_ids: list[int]) -> bool:
    """Whether all of them are."""
    return all(parts.campaigns.get(one).status is CampaignStatus.SENT for one in campaign_ids)


def own_cpu_seconds() -> float:
    """User and system time of this process and its threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def cpu_by_part(stack: Stack) -> dict[str, float]:
    """CPU-seconds of each part so far: of its living processes and of all that ended and were waited for."""
    return {one.part.name: tree_cpu_seconds(one.guard_id) for one in stack.supervisor.started_parts()}


def tree_cpu_seconds(guard_id: int) -> float:
    """See `cpu_by_part`."""
    guard = psutil.Process(guard_id)
    seconds = 0.0
    for process in [guard, *guard.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            times: Any = process.cpu_times()
            seconds += times.user + times.system + times.children_user + times.children_system
    return seconds


def differences(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """How much more each is."""
    return {name: after[name] - before[name] for name in after}


def wait_for(is_so: Callable[[], bool], what: str) -> None:
    """Look again and again, within bounds."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        if time.monotonic() > deadline:
            raise SystemExit(f"waited too long for {what}; see the logs in the state folder")
        time.sleep(POLL_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
