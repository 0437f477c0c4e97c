"""`make chaos-hosts`: Celery's workers on two hosts that die, freeze and lose their network, as seeded schedules.

python -m tests.chaos.host_deaths --seed 1 --schedules 20 [--report FILE]

The first machine has the engines, Redis, Dagster's daemon and the runs' processes, as `email-platform up` starts them;
two hosts (`tests.chaos.hosts`) have a worker each. A schedule disturbs hosts, a step's process or the broker while one
campaign is sent, and brings back what it took after some seconds. Nothing else is done to the system. Held at the end:
the invariant of the delivery, and that no run of the campaign is at work by Dagster's account or has a process left.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Literal, get_args

import psutil
from sqlalchemy import select

from email_platform.adapters.assembly import open_oltp, open_parts
from email_platform.adapters.postgres.tables import chunk
from email_platform.local.stack.dagster_processes import CODE_SERVER
from email_platform.local.stack.stack import ENGINE_NAMES
from tests.chaos.dagster_deaths import (
    AT_WORK,
    CALL_ROWS,
    CONNECTIONS,
    PATIENCE_SECONDS,
    POLL_SECONDS,
    SLOW_SECONDS,
    DagsterWorld,
    dagster_world,
    is_sent,
)
from tests.chaos.hosts import Host, wait_until, why_no_hosts
from tests.chaos.invariant import InvariantBrokenError, OnUnknown, queue_chaos_campaign
from tests.chaos.series import (
    Recovered,
    console,
    counted,
    hold_schedule,
    keys_of,
    run_series,
    series_options,
)
from tests.integration.redis_process import Redis, running_redis

Move = Literal[
    "host killed",
    "host frozen",
    "network cut, nothing arrives",
    "network cut, everything reset",
    "broker killed, comes back with what it held",
    "broker killed, comes back empty",
    "step's process killed",
]
MOVES: tuple[Move, ...] = get_args(Move)
OF_THE_BROKER = (MOVES[4], MOVES[5])
HOSTS, SLOTS, CHUNK_ROWS = 2, 2, 200
STALL_SECONDS = 45  # a step on a busy machine may need 20 s before it shows its first sign of life


@dataclass(frozen=True)
class Disturbance:
    """One move.

    Attributes:
        share: strikes when so much of the campaign is accepted.
        host: which one; of the broker's no matter.
        away_seconds: until what it took is brought back.
    """

    move: Move
    share: float
    host: int
    away_seconds: float

    def __str__(self) -> str:
        where = "" if self.move in OF_THE_BROKER else f" {'ab'[self.host]}"
        how_long = "" if self.move == "step's process killed" else f", for {self.away_seconds:.0f} s"
        return f"{self.move}{where} at {self.share:.0%}{how_long}"


@dataclass(frozen=True)
class HostSchedule:
    """What happens to one campaign; the same seed always gives the same schedule."""

    seed: int
    honours_keys: bool
    on_unknown: OnUnknown
    leads: int
    disturbances: tuple[Disturbance, ...]

    @classmethod
    def of(cls, seed: int) -> HostSchedule:
        """The schedule of a seed: every move in turn, then up to two more."""
        random = Random(seed)
        honours_keys = random.random() < 0.4
        on_unknown: OnUnknown = "resend" if not honours_keys and random.random() < 0.3 else "hold"
        moves = [MOVES[seed % len(MOVES)], *random.choices(MOVES, k=random.choice((0, 1, 1, 2)))]
        shares = sorted(random.uniform(0.02, 0.8) for _ in moves)
        disturbances = tuple(
            Disturbance(move, share, random.randrange(HOSTS), random.choice((3.0, 8.0, 20.0, 40.0)))
            for move, share in zip(moves, shares, strict=True)
        )
        return cls(seed, honours_keys, on_unknown, random.randrange(1000, 2000), disturbances)

    def __str__(self) -> str:
        return f"seed {self.seed}: {self.leads} leads, {keys_of(self)}; " + " | ".join(map(str, self.disturbances))


@dataclass
class HostsWorld:
    """The first machine, two hosts with a worker each, and the broker between them."""

    dagster: DagsterWorld
    redis: Redis
    hosts: tuple[Host, ...]
    did: Counter[str] = field(default_factory=Counter)
    _waiting: list[tuple[float, Callable[[], None]]] = field(default_factory=list)

    def run(self, schedule: HostSchedule) -> Recovered:
        """Let the schedule happen, wait for the system to recover by itself, and hold the invariant."""
        world = self.dagster
        self._heal()
        simulator = world.simulators[schedule.honours_keys]
        simulator.set_faults(
            seed=schedule.seed,
            probabilities={"slow": 0.5, "slow_response": 0.5},
            slow_seconds=SLOW_SECONDS,
            slow_response_seconds=SLOW_SECONDS,
        )
        campaign_id = queue_chaos_campaign(world.settings, simulator.account, schedule.leads, schedule.on_unknown)
        with open_parts(world.settings, world.variables) as parts:
            struck, struck_at = [], 0.0
            for disturbance in schedule.disturbances:
                if self._strike(disturbance, campaign_id, lambda: parts.ledger.totals(campaign_id).accepted, schedule):
                    struck.append(disturbance)
                    struck_at = time.time()
            self._wait_for(
                schedule, "the campaign to be sent", lambda: is_sent(parts.campaigns.get(campaign_id).status)
            )
            finished_at = parts.campaigns.get(campaign_id).finished_at
            sent_seconds = finished_at.timestamp() - struck_at if finished_at and struck_at else 0.0
            simulator.no_faults()
            self._wait_for(schedule, "the objects to be loaded", lambda: not parts.register.unloaded(campaign_id))
            self._wait_for(schedule, "the end of the campaign's runs", lambda: not self._left_of(campaign_id))
            attempt = parts.campaigns.get(campaign_id).attempt
        most_unknown = len(struck) * SLOTS * CONNECTIONS * CALL_ROWS
        totals = hold_schedule(schedule, world.settings, world.variables, simulator, campaign_id, most_unknown)
        return Recovered(
            schedule=schedule,
            struck=tuple(struck),
            accepted=totals.accepted,
            unknown=totals.unknown,
            runs=Counter(run.status.value for run in world.runs_of(campaign_id)),
            resumed=attempt - 1,
            sent_seconds=sent_seconds,
        )

    # --- moves ----------------------------------------------------------------------------------------------

    def _strike(
        self, disturbance: Disturbance, campaign_id: int, accepted: Callable[[], int], schedule: HostSchedule
    ) -> bool:
        """Wait for the moment and strike; False where the campaign was sent first."""
        host = self.hosts[disturbance.host]
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            self._bring_back()
            share = accepted() / schedule.leads
            if share >= 1.0:
                return False
            if share >= disturbance.share and self._strikes_now(disturbance, host, campaign_id):
                self.did[disturbance.move] += 1
                console.print(f"  {disturbance}")
                return True
            time.sleep(POLL_SECONDS)
        raise InvariantBrokenError(f"{schedule}\nthe moment of {disturbance} did not come; {share:.0%} were accepted")

    def _strikes_now(self, disturbance: Disturbance, host: Host, campaign_id: int) -> bool:
        back: Callable[[], None]
        if disturbance.move in OF_THE_BROKER:
            self.redis.kill()
            if disturbance.move == "broker killed, comes back empty":
                shutil.rmtree(self.redis.folder)
            back = self.redis.start
        elif not host.is_well:
            return False  # one thing at a time for a host
        elif disturbance.move == "step's process killed":
            return self._kill_step(host, campaign_id)
        elif disturbance.move == "host killed":
            host.kill()
            back = host.start
        elif disturbance.move == "host frozen":
            host.freeze()
            back = host.thaw
        else:
            host.cut(silently=disturbance.move == "network cut, nothing arrives")
            back = host.mend
        self._waiting.append((time.monotonic() + disturbance.away_seconds, back))
        return True

    def _kill_step(self, host: Host, campaign_id: int) -> bool:
        """Kill a slot that has a lease, by its name as the lease's holder; False where the host has none."""
        holders = select(chunk.c.lease_holder).where(
            chunk.c.campaign_id == campaign_id, chunk.c.lease_holder.contains(f"@{host.name}:")
        )
        with open_oltp(self.dagster.settings) as engine, engine.connect() as connection:
            inside = {int(str(holder).split(":")[1]) for holder in connection.execute(holders).scalars()}
        for process in host.processes():
            with suppress(psutil.NoSuchProcess, FileNotFoundError):
                if _id_inside(process.pid) in inside:
                    process.kill()
                    return True
        return False

    def _bring_back(self) -> None:
        now = time.monotonic()
        due = [back for at, back in self._waiting if at <= now]
        self._waiting = [(at, back) for at, back in self._waiting if at > now]
        for back in due:
            back()

    def _heal(self) -> None:
        """Everything is there again: what an earlier schedule took, and what has ended since."""
        for _, back in self._waiting:
            back()
        self._waiting.clear()
        for host in self.hosts:
            if not host.is_alive:
                host.start()
            wait_until((host.folder / "ready").exists, "a worker that takes steps", host)

    # --- recovery -------------------------------------------------------------------------------------------

    def _wait_for(self, schedule: HostSchedule, what: str, is_there: Callable[[], bool]) -> None:
        def look() -> bool:
            self._bring_back()
            return is_there()

        self.dagster.wait_for(schedule, what, look)

    def _left_of(self, campaign_id: int) -> list[str]:
        """The campaign's runs that are at work by Dagster's account, or have a process."""
        runs = self.dagster.runs_of(campaign_id)
        return [run.run_id for run in runs if run.status in AT_WORK or self.dagster.worker_of(run) is not None]


def _id_inside(process_id: int) -> int:
    """A process's id on its own host: the last of its ids (proc(5), ``NSpid``)."""
    status = Path(f"/proc/{process_id}/status").read_text(encoding="utf-8")
    (line,) = [line for line in status.splitlines() if line.startswith("NSpid:")]
    return int(line.split()[-1])


@contextmanager
def hosts_world(folder: Path) -> Iterator[HostsWorld]:
    """Start the first machine and the hosts; everything ends on leaving."""
    parts = [*ENGINE_NAMES, CODE_SERVER, "dagster-webserver", "dagster-daemon"]
    with ExitStack() as stack:
        redis = stack.enter_context(running_redis(folder / "redis", keeps_its_data=True))
        own = {
            "steps": "celery",
            "celery_broker_url": redis.url,
            "celery_visibility_seconds": 900,
            "one_process_rows": 0,
            "chunk_rows": CHUNK_ROWS,
            "worker_slots": SLOTS,
            "stall_seconds": STALL_SECONDS,
            "reports_interval_seconds": 1_000_000,  # they are not what is tried here, and dbt takes the machine
        }
        world = stack.enter_context(dagster_world(folder, parts, own))
        settings = world.settings
        environment = {**os.environ, **world.variables, **settings.variables()}
        environment.pop("DAGSTER_HOME", None)
        ports = [settings.postgres_port, settings.s3_port, settings.provider_port, redis.port]
        ports.append(int(world.simulators[False].address.rsplit(":", 1)[1]))
        hosts = []
        for name in "ab"[:HOSTS]:
            own_folder = folder / f"host-{name}"
            command = (sys.executable, "-m", "assets.celery_worker", "--ready-file", str(own_folder / "ready"))
            state_folder = settings.state_folder
            host = Host(f"host-{name}", command, environment, state_folder, ports, own_folder)
            stack.callback(host.kill)
            host.start()
            hosts.append(host)
        yield HostsWorld(world, redis, tuple(hosts))


def main() -> int:
    chosen = series_options(__doc__, schedules=20).parse_args()
    reason = why_no_hosts()
    if reason is not None:
        console.print(f"skipped: {reason}")
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the parts and hosts end with us
    with tempfile.TemporaryDirectory(prefix="chaos-hosts-") as folder, hosts_world(Path(folder)) as world:
        return run_series(chosen, "chaos-hosts", HostSchedule.of, world.run, lambda done: _table(world, done))


def _table(world: HostsWorld, recovered: Sequence[Recovered]) -> list[str]:
    return [
        f"`make chaos-hosts SEED={recovered[0].schedule.seed} N={len(recovered)}`: the invariant held in all "
        f"{len(recovered)} schedules.",
        "",
        "| seed | what happened | provider | accepted | unknown | the campaign's runs | resumed | s until sent |",
        "| ---: | --- | --- | ---: | ---: | --- | ---: | ---: |",
        *(one.row() for one in recovered),
        "",
        *counted("what", world.did),
    ]


if __name__ == "__main__":
    sys.exit(main())
