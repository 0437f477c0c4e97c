"""`make chaos-dagster`: deaths of Dagster's processes on a running stack, as seeded schedules.

python -m tests.chaos.dagster_deaths --seed 1 --schedules 8 [--report FILE]

Everything runs as `email-platform up` starts it: the sensors launch, the run queue, run workers and step processes
work, the supervisor brings parts back. A schedule kills with SIGKILL and then only waits; nothing else is done to the
system. Held at the end: the invariant of the delivery, and that the system is whole again, which means that the
provider's events are loaded, the reports show the campaign, and no run is left that Dagster calls at work.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Literal, get_args

import dagster as dg
import psutil

from assets.events import load_events_job
from assets.jobs import campaign_job, reports_job
from email_platform.adapters.assembly import open_parts, open_warehouse
from email_platform.adapters.clickhouse.address import reports_database
from email_platform.adapters.dagster_yaml import CAMPAIGN_ID_TAG
from email_platform.domain.campaigns import CampaignStatus
from email_platform.events.inbox import inbox_is_waiting
from email_platform.local.stack.dagster_processes import CODE_SERVER, dagster_home
from email_platform.local.stack.stack import ALL_PART_NAMES, Stack, clean_environment, started_stack
from email_platform.settings import Settings, variable_of
from tests.chaos.invariant import InvariantBrokenError, OnUnknown, queue_chaos_campaign
from tests.chaos.providers import Simulator, provider_without_keys
from tests.chaos.series import (
    Recovered,
    console,
    counted,
    hold_schedule,
    keys_of,
    run_series,
    series_options,
)

Victim = Literal[
    "run worker",
    "step process",
    "fork server",  # of a run worker, for its steps
    "code server",
    "daemon",
    "run worker and code server, at one moment",
    "fork server of the runs",  # of the code server
]
VICTIMS: tuple[Victim, ...] = get_args(Victim)
JOBS = (campaign_job.name, load_events_job.name, reports_job.name)
ONE_PROCESS_ROWS = 2500  # some campaigns have step processes, and some have none
WITH_STEP_PROCESSES: tuple[Victim, ...] = ("step process", "fork server")
CONNECTIONS, CALL_ROWS, CHUNK_ROWS, LEASE_SECONDS, STALL_SECONDS = 4, 20, 500, 5, 20
STEPS_AT_ONCE = os.cpu_count() or 1  # Dagster's multiprocess executor
SLOW_SECONDS = 0.8
PATIENCE_SECONDS = 600.0
POLL_SECONDS = 0.1
AT_WORK = [
    *(dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING),
    *(dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING),
]


@dataclass(frozen=True)
class Death:
    """One SIGKILL.

    Attributes:
        job: the process works for a run of this job.
        share: strikes when so much of the campaign is accepted; with another job, when its run is at work.
        delay_seconds: after that moment.
    """

    victim: Victim
    job: str
    share: float
    delay_seconds: float

    def __str__(self) -> str:
        when = f"at {self.share:.0%}" if self.job == campaign_job.name else f"in {self.job}"
        return f"{self.victim} {when} and {self.delay_seconds:.1f} s"


@dataclass(frozen=True)
class Schedule:
    """What happens to one campaign; the same seed always gives the same schedule."""

    seed: int
    honours_keys: bool
    on_unknown: OnUnknown
    leads: int
    deaths: tuple[Death, ...]

    @classmethod
    def of(cls, seed: int) -> Schedule:
        """The schedule of a seed: every victim in turn, then perhaps more."""
        random = Random(seed)
        honours_keys = random.random() < 0.5
        on_unknown: OnUnknown = "resend" if not honours_keys and random.random() < 0.3 else "hold"
        first = _death(random, VICTIMS[seed % len(VICTIMS)], 0.0)
        deaths = [first]
        if random.random() < 0.4:  # what recovers from the first death dies as well
            deaths.append(_death(random, random.choice(VICTIMS), first.share))
        if random.random() < 0.6:
            victims = [victim for victim in VICTIMS if victim not in WITH_STEP_PROCESSES]
            job = random.choice(JOBS[1:]) if honours_keys else reports_job.name  # the other provider sends no events
            deaths.append(Death(random.choice(victims), job, 0.0, random.uniform(0.0, 2.0)))
        needs_steps = any(death.victim in WITH_STEP_PROCESSES for death in deaths)
        leads = random.randrange(3000 if needs_steps else 2000, 4000)
        return cls(seed, honours_keys, on_unknown, leads, tuple(deaths))

    def __str__(self) -> str:
        return f"seed {self.seed}: {self.leads} leads, {keys_of(self)}; " + " | ".join(map(str, self.deaths))


def _death(random: Random, victim: Victim, after_share: float) -> Death:
    share = random.uniform(after_share, 0.95)
    return Death(victim, campaign_job.name, share, random.uniform(0.0, 1.0))


@dataclass(frozen=True)
class Whole(Recovered):
    """How the system came back as a whole.

    Attributes:
        whole_seconds: from the last death of all until nothing was left to do.
    """

    whole_seconds: float

    def row(self) -> str:
        """A line of the table."""
        return f"{super().row()} {self.whole_seconds:.0f} |"


@dataclass
class DagsterWorld:
    """A running stack with Dagster, and what was done to it."""

    settings: Settings
    stack: Stack
    instance: dg.DagsterInstance
    simulators: dict[bool, Simulator]  # by whether it honours keys
    variables: dict[str, str]
    did: Counter[str] = field(default_factory=Counter)

    def run(self, schedule: Schedule) -> Whole:
        """Let the schedule happen, wait for the system to recover by itself, and hold the invariant."""
        simulator = self.simulators[schedule.honours_keys]
        simulator.set_faults(
            seed=schedule.seed,
            probabilities={"slow": 0.3, "slow_response": 0.6},
            slow_seconds=SLOW_SECONDS,
            slow_response_seconds=SLOW_SECONDS,
        )
        campaign_id = queue_chaos_campaign(self.settings, simulator.account, schedule.leads, schedule.on_unknown)
        with open_parts(self.settings, self.variables) as parts:

            def share() -> float:
                return parts.ledger.totals(campaign_id).accepted / schedule.leads

            struck = []
            sending_until = 0.0
            for death in schedule.deaths:
                if self._strike(death, campaign_id, share):
                    struck.append(death)
                    if death.job == campaign_job.name:
                        sending_until = time.time()
            last_death = time.monotonic()
            if not struck:
                raise InvariantBrokenError(f"{schedule}\nno death found its victim")
            self.wait_for(schedule, "the campaign to be sent", lambda: is_sent(parts.campaigns.get(campaign_id).status))
            finished_at = parts.campaigns.get(campaign_id).finished_at
            sent_seconds = finished_at.timestamp() - sending_until if finished_at and sending_until else 0.0
            simulator.no_faults()
            self.wait_for(
                schedule,
                "the objects to be loaded",
                lambda: not parts.register.unloaded(campaign_id) and not inbox_is_waiting(parts.store),
            )
            self.wait_for(schedule, "the provider's events", lambda: self._events_are_in(simulator, campaign_id))
            self.wait_for(
                schedule,
                "the reports",
                lambda: self._reported(campaign_id) == (parts.ledger.totals(campaign_id).accepted, "sent"),
            )
            self.wait_for(schedule, "the end of every run", lambda: not self._runs_at_work())
            whole_seconds = time.monotonic() - last_death
            attempt = parts.campaigns.get(campaign_id).attempt
        most_unknown = len(struck) * STEPS_AT_ONCE * CONNECTIONS * CALL_ROWS
        totals = hold_schedule(schedule, self.settings, self.variables, simulator, campaign_id, most_unknown)
        return Whole(
            schedule=schedule,
            struck=tuple(struck),
            accepted=totals.accepted,
            unknown=totals.unknown,
            runs=Counter(run.status.value for run in self.runs_of(campaign_id)),
            resumed=attempt - 1,
            sent_seconds=sent_seconds,
            whole_seconds=whole_seconds,
        )

    # --- deaths ---------------------------------------------------------------------------------------------

    def _strike(self, death: Death, campaign_id: int, share: Callable[[], float]) -> bool:
        """Wait for the moment and kill; False where the campaign, or the other job's run, was faster."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            if death.job != campaign_job.name:
                due = True
            else:
                reached = share()
                if reached >= 1.0:
                    return False
                due = reached >= death.share
            run = self._run_at_work(death.job, campaign_id) if due else None
            if run is not None:
                if death.delay_seconds:
                    time.sleep(death.delay_seconds)
                victims = self._victims(death.victim, run)
                if victims:
                    for process in victims:
                        with suppress(psutil.NoSuchProcess):
                            process.kill()
                    self.did[f"{death.victim}, of a run of {death.job}"] += 1
                    console.print(f"  killed: {death} ({', '.join(str(one.pid) for one in victims)})")
                    return True
            time.sleep(POLL_SECONDS)
        raise InvariantBrokenError(f"the moment of {death} did not come")

    def _run_at_work(self, job: str, campaign_id: int) -> dg.DagsterRun | None:
        tags = {CAMPAIGN_ID_TAG: str(campaign_id)} if job == campaign_job.name else {}
        runs = self.instance.get_runs(
            dg.RunsFilter(job_name=job, statuses=[dg.DagsterRunStatus.STARTED], tags=tags), limit=1
        )
        return runs[0] if runs else None

    def _victims(self, victim: Victim, run: dg.DagsterRun) -> list[psutil.Process]:
        """The processes to kill; none where the run's worker, or the wanted child of it, is not alive now."""
        worker = self.worker_of(run)
        if worker is None:
            return []
        with suppress(psutil.NoSuchProcess):
            servers = _forked(worker)
            match victim:
                case "run worker":
                    return [worker]
                case "fork server":
                    return servers
                case "fork server of the runs":
                    return [server for code_server in self._part(CODE_SERVER) for server in _forked(code_server)]
                case "step process":
                    return [step for server in servers for step in _forked(server)][:1]
                case "code server":
                    return self._part(CODE_SERVER)
                case "run worker and code server, at one moment":
                    return [worker, *self._part(CODE_SERVER)]
                case "daemon":
                    return self._part("dagster-daemon")
        return []

    def _part(self, name: str) -> list[psutil.Process]:
        return [
            psutil.Process(started.process_id)
            for started in self.stack.supervisor.started_parts()
            if started.part.name == name and started.process_id is not None
        ]

    def worker_of(self, run: dg.DagsterRun) -> psutil.Process | None:
        for entry in self.instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ENGINE_EVENT):
            event = entry.dagster_event
            metadata = event.engine_event_data.metadata if event is not None else {}
            if "pid" in metadata and event is not None and event.step_key is None:
                with suppress(psutil.NoSuchProcess):
                    return psutil.Process(int(str(metadata["pid"].value)))
        return None

    # --- recovery -------------------------------------------------------------------------------------------

    def wait_for(self, schedule: object, what: str, is_there: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            if is_there():
                return
            time.sleep(POLL_SECONDS * 5)
        runs = [f"{run.job_name} {run.run_id} {run.status.value}" for run in self._runs_at_work()]
        raise InvariantBrokenError(f"{schedule}\nwaited {PATIENCE_SECONDS:.0f} s for {what}; runs at work: {runs}")

    def _runs_at_work(self) -> list[dg.DagsterRun]:
        return list(self.instance.get_runs(dg.RunsFilter(statuses=AT_WORK)))

    def runs_of(self, campaign_id: int) -> list[dg.DagsterRun]:
        return list(self.instance.get_runs(dg.RunsFilter(tags={CAMPAIGN_ID_TAG: str(campaign_id)})))

    def _events_are_in(self, simulator: Simulator, campaign_id: int) -> bool:
        """Whether everything that the provider had to tell is acknowledged and in the warehouse."""
        if not simulator.honours_keys:
            return True  # it was given no address to tell
        reported = sum(simulator.log.events_by_type(str(campaign_id)).values())
        stored = self._ask("select uniqExact(event_key) from event where campaign_id = {id:Int64}", campaign_id)
        return simulator.log.acknowledged_events(str(campaign_id)) == reported and stored == [(reported,)]

    def _reported(self, campaign_id: int) -> tuple[int, str] | None:
        reports = reports_database(self.settings.clickhouse_url.get_secret_value())
        if not self._ask(f"select 1 from system.tables where database = '{reports}' and name = 'campaign_summary'"):
            return None
        rows = self._ask(
            f"select accepted, status from {reports}.campaign_summary where campaign_id = {{id:Int64}}",
            campaign_id,
        )
        return (int(rows[0][0]), str(rows[0][1])) if rows else None

    def _ask(self, query: str, campaign_id: int = 0) -> list[tuple[Any, ...]]:
        with open_warehouse(self.settings) as warehouse:
            return [tuple(row) for row in warehouse.client.query(query, parameters={"id": campaign_id}).result_rows]


def _forked(process: psutil.Process) -> list[psutil.Process]:
    """A process's fork server, or the processes that a fork server forked: their command lines are alike."""
    return [
        child for child in process.children() if any("multiprocessing.forkserver" in part for part in child.cmdline())
    ]


def is_sent(status: CampaignStatus) -> bool:
    if status in (CampaignStatus.PAUSED, CampaignStatus.FAILED):
        raise InvariantBrokenError(f"the campaign is {status}: it needs an operator")
    return status is CampaignStatus.SENT


@contextmanager
def dagster_world(
    folder: Path, parts: Collection[str] = ALL_PART_NAMES, settings_of_its_own: Mapping[str, object] | None = None
) -> Iterator[DagsterWorld]:
    """Start what `email-platform up` starts, or some of it, and a second provider; stop all on leaving."""
    with provider_without_keys(folder) as without_keys:
        environment = clean_environment() | {
            variable_of(name): str(value)
            for name, value in {
                "chunk_rows": CHUNK_ROWS,
                "one_process_rows": ONE_PROCESS_ROWS,
                "lease_seconds": LEASE_SECONDS,
                "stall_seconds": STALL_SECONDS,
                "provider_connections": CONNECTIONS,
                "start_timeout_seconds": 300,
                # Some leads bounce; whether a campaign is paused for it is not what is tried here.
                "guard_bounce_rate": 1,
                "guard_complaint_rate": 1,
                **(settings_of_its_own or {}),
            }.items()
        }
        environment |= without_keys.variables(CALL_ROWS)
        environment["EMAIL_PLATFORM_SIMULATOR_RECIPIENTS_PER_CALL"] = str(CALL_ROWS)
        with started_stack(
            folder / "state", environ=environment, parts=parts, ports="free", say=console.print
        ) as stack:
            watching = threading.Thread(target=stack.supervisor.watch, name="part-watch", daemon=True)
            watching.start()
            settings = stack.settings
            assert settings.provider_url is not None
            assert settings.provider_api_key is not None
            default = Simulator(
                "default",
                settings.provider_url,
                settings.provider_api_key.get_secret_value(),
                settings.state_folder / "provider",
                honours_keys=True,
            )
            os.environ[variable_of("dagster_postgres_url")] = settings.dagster_postgres_url.get_secret_value()
            try:
                with dg.DagsterInstance.from_config(str(dagster_home(settings))) as instance:
                    yield DagsterWorld(
                        settings, stack, instance, {True: default, False: without_keys}, {**os.environ, **environment}
                    )
            finally:
                del os.environ[variable_of("dagster_postgres_url")]
                stack.supervisor.request_stop()
                watching.join()


def main() -> int:
    options = series_options(__doc__, schedules=8)
    options.add_argument("--folder", type=Path, help="keep the stack's folder here")
    chosen = options.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the parts end with us
    with (
        tempfile.TemporaryDirectory(prefix="chaos-dagster-") as temporary,
        dagster_world(chosen.folder or Path(temporary)) as world,
    ):
        return run_series(chosen, "chaos-dagster", Schedule.of, world.run, lambda done: _table(world, done))


def _table(world: DagsterWorld, recovered: Sequence[Recovered]) -> list[str]:
    return [
        f"`make chaos-dagster SEED={recovered[0].schedule.seed} N={len(recovered)}`: the invariant held in all "
        f"{len(recovered)} schedules, and the system was whole again each time.",
        "",
        "| seed | killed with SIGKILL | provider | accepted | unknown | the campaign's runs | resumed | s until sent "
        "| s until whole |",
        "| ---: | --- | --- | ---: | ---: | --- | ---: | ---: | ---: |",
        *(one.row() for one in recovered),
        "",
        *counted("killed", world.did),
    ]


if __name__ == "__main__":
    sys.exit(main())
