"""The world in which schedules happen: real parts that die and come back, two providers, and the check at the end."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil

from email_platform.local.stack.stack import ENGINE_NAMES, Stack, clean_environment, started_stack
from email_platform.settings import VARIABLE_PREFIX, Settings
from tests.chaos.crashing import Obstacles
from tests.chaos.invariant import BAD, BLOCKED, ODD, InvariantBrokenError, Promise, hold, queue_chaos_campaign
from tests.chaos.providers import KEYS, NO_KEYS, PATIENCE_SECONDS, Simulator, provider_without_keys
from tests.chaos.schedule import Disturbance, Schedule
from tests.chaos.worker import FAULT, FINISHED, life

CONNECTIONS, CALL_ROWS, CHUNK_ROWS, LEASE_SECONDS = 4, 10, 120, 1.5
LIVES_TO_RECOVER = 12
NOTHING_LOST = ("throttle", "slow", "slow_response", "outage", "duplicate_response")


@dataclass
class ChaosWorld:
    """Running parts, and what was done to them.

    Attributes:
        did: how often each kind of disturbance struck, and each provider fault was injected.
    """

    settings: Settings
    stack: Stack
    folder: Path
    simulators: dict[str, Simulator]  # by account
    variables: dict[str, str]
    did: Counter[str] = field(default_factory=Counter)

    # --- one schedule -------------------------------------------------------------------------------------

    def run(self, schedule: Schedule) -> dict[str, int]:
        """Let the schedule happen, recover by ordinary lives, and hold the invariant; returns the counts."""
        simulator = self.simulators[KEYS if schedule.honours_keys else NO_KEYS]
        campaign_id = queue_chaos_campaign(self.settings, simulator.account, schedule.leads, schedule.on_unknown)
        before = simulator.fault_counts()
        self._faults(simulator, schedule)
        deaths = 0
        for disturbance in schedule.disturbances:
            deaths += self._disturb(campaign_id, disturbance, simulator, schedule)
        injected = self._injected(simulator, before)
        simulator.no_faults()
        self._recover(schedule, campaign_id)
        if schedule.on_unknown == "hold" and schedule.seed % 2:
            self._abandon(schedule, campaign_id)
        return self._check(schedule, campaign_id, simulator, deaths, injected)

    # --- disturbances -------------------------------------------------------------------------------------

    def _disturb(self, campaign_id: int, disturbance: Disturbance, simulator: Simulator, schedule: Schedule) -> int:
        """Let one life be disturbed; returns how many processes died (each may leave its open calls unknown)."""
        match disturbance.kind:
            case "crash":
                assert disturbance.crash is not None
                if disturbance.crash.when == "during":
                    self._slow_answers(simulator, schedule)
                process = self._start(campaign_id, schedule, str(disturbance.crash))
                self._wait(process)
                if disturbance.crash.slow_seconds:
                    self.did["commit slower than the lease"] += 1
                if disturbance.crash.when == "during":
                    self._faults(simulator, schedule)
                if process.exitcode == -signal.SIGKILL:
                    self.did[
                        f"died {disturbance.crash.when} {disturbance.crash.part}.{disturbance.crash.operation}"
                    ] += 1
                    return 1
                return 0
            case "kill":
                process = self._start(campaign_id, schedule)
                process.join(disturbance.delay_seconds)
                return self._kill(process)
            case "part":
                process = self._start(campaign_id, schedule)
                process.join(disturbance.delay_seconds)
                assert disturbance.part is not None
                self._kill_part(disturbance.part)
                self._wait(process)
                # A provider that dies takes the answers of its open calls along.
                return 1 if disturbance.part == "provider" else 0
            case "limit":
                variables = simulator.variables(disturbance.rows)
                process = self._start(campaign_id, schedule, str(disturbance.crash), variables=variables)
                self._wait(process)
                self.did["limit lowered for a life"] += 1
                return int(process.exitcode == -signal.SIGKILL)
            case "refused sender":
                process = self._start(campaign_id, schedule)
                process.join(disturbance.delay_seconds)
                simulator.set_faults(seed=schedule.seed, refuse_account=True)
                self._wait(process)
                self._faults(simulator, schedule)
                self.did["sender refused, then mended"] += 1
                return 0
            case "orphan":
                return self._orphan(campaign_id, schedule, disturbance)

    def _orphan(self, campaign_id: int, schedule: Schedule, disturbance: Disturbance) -> int:
        orphan = self._start(campaign_id, schedule, str(disturbance.crash))
        deadline = time.monotonic() + PATIENCE_SECONDS
        stopped = False
        while orphan.is_alive() and not stopped and time.monotonic() < deadline:
            with suppress(psutil.NoSuchProcess):
                stopped = psutil.Process(orphan.pid).status() == psutil.STATUS_STOPPED
            time.sleep(0.02)
        if not stopped:
            self._wait(orphan)
            return 0
        self.did["orphan stopped, taken over, went on"] += 1
        successor_dies = str(disturbance.successor) if disturbance.successor else None
        successor = self._start(campaign_id, schedule, successor_dies)
        self._wait(successor)
        died = int(successor.exitcode == -signal.SIGKILL)
        assert orphan.pid is not None
        os.kill(orphan.pid, signal.SIGCONT)
        self._wait(orphan)
        return 1 + died

    def _kill(self, process: BaseProcess) -> int:
        alive = process.is_alive()
        process.kill()
        process.join()
        self.did["process killed at a moment"] += int(alive)
        return int(alive)

    def _kill_part(self, name: str) -> None:
        for started in self.stack.supervisor.started_parts():
            if started.part.name == name and started.process_id is not None:
                with suppress(ProcessLookupError):
                    os.kill(started.process_id, signal.SIGKILL)
                    self.did[f"part killed: {name}"] += 1

    def _start(
        self,
        campaign_id: int,
        schedule: Schedule,
        crash: str | None = None,
        *,
        variables: Mapping[str, str] | None = None,
        abandons: bool = False,
    ) -> BaseProcess:
        process = multiprocessing.get_context("forkserver").Process(
            target=life,
            args=(
                *(str(self.settings.state_folder), campaign_id, crash, str(self.folder / "lives.log")),
                *(self.variables | dict(variables or {}), schedule.obstacles, abandons),
            ),
        )
        process.start()
        return process

    def _wait(self, process: BaseProcess) -> None:
        process.join(PATIENCE_SECONDS)
        if process.is_alive():
            process.kill()
            raise InvariantBrokenError(f"a life did not end within {PATIENCE_SECONDS:.0f} s")
        if process.exitcode == FAULT:
            log = (self.folder / "lives.log").read_text(encoding="utf-8")
            raise InvariantBrokenError(f"a life ended with a fault of the product:\n{log[-4000:]}")

    # --- the providers --------------------------------------------------------------------------------------

    def _faults(self, simulator: Simulator, schedule: Schedule) -> None:
        simulator.set_faults(
            seed=schedule.seed,
            probabilities=schedule.faults,
            slow_seconds=0.2,
            slow_response_seconds=0.2,
            drop_response_limit_seconds=0.5,
            throttle_retry_after_seconds=0.2,
        )

    def _slow_answers(self, simulator: Simulator, schedule: Schedule) -> None:
        """Every call is accepted at once and answered late, so that a death finds answers under way."""
        simulator.set_faults(seed=schedule.seed, probabilities={"slow_response": 1.0}, slow_response_seconds=0.3)

    def _injected(self, simulator: Simulator, before: Counter[str]) -> Counter[str]:
        now = simulator.fault_counts()
        injected = now - before if all(now[kind] >= times for kind, times in before.items()) else now
        for kind, times in injected.items():
            self.did[f"provider fault: {kind}"] += times
        return injected

    # --- recovery and check -----------------------------------------------------------------------------------

    def _recover(self, schedule: Schedule, campaign_id: int) -> None:
        for _ in range(LIVES_TO_RECOVER):
            process = self._start(campaign_id, schedule)
            self._wait(process)
            if process.exitcode == FINISHED:
                return
            time.sleep(LEASE_SECONDS / 2)
        log = (self.folder / "lives.log").read_text(encoding="utf-8")
        raise InvariantBrokenError(f"{schedule}\nnot finished after {LIVES_TO_RECOVER} lives:\n{log[-3000:]}")

    def _abandon(self, schedule: Schedule, campaign_id: int) -> None:
        """An operator abandons what has no answer; the command dies between two transactions, and is given again."""
        process = self._start(campaign_id, schedule, str(schedule.abandon_dies), abandons=True)
        self._wait(process)
        self.did["died between two transactions of a decision"] += int(process.exitcode == -signal.SIGKILL)
        self._wait(self._start(campaign_id, schedule, abandons=True))

    def _check(
        self, schedule: Schedule, campaign_id: int, simulator: Simulator, deaths: int, injected: Counter[str]
    ) -> dict[str, int]:
        losing = sum(injected[kind] for kind in injected if kind not in NOTHING_LOST)
        promise = Promise(
            leads=schedule.leads,
            honours_keys=schedule.honours_keys,
            on_unknown=schedule.on_unknown,
            answers_lost=bool(deaths or injected),
            most_unknown=(deaths * CONNECTIONS + losing) * CALL_ROWS,
            refuses_calls=schedule.obstacles != Obstacles(),
            abandoned=schedule.on_unknown == "hold" and bool(schedule.seed % 2),
        )
        try:
            totals = hold(promise, self.settings, self.variables, simulator.log, campaign_id)
        except InvariantBrokenError as error:
            raise InvariantBrokenError(f"{schedule}\n{deaths} deaths, {losing} lost answers: {error}") from error
        return {
            "eligible": schedule.leads + BLOCKED + ODD + BAD,
            "accepted": totals.accepted,
            "rejected": totals.rejected,
            "unknown": totals.unknown,
            "abandoned": totals.abandoned,
            "deaths": deaths,
        }


@contextmanager
def chaos_world(folder: Path) -> Iterator[ChaosWorld]:
    """Start the parts and a second provider without idempotency keys; stop everything on leaving."""
    environment = clean_environment() | {
        f"{VARIABLE_PREFIX}CHUNK_ROWS": str(CHUNK_ROWS),
        f"{VARIABLE_PREFIX}LEASE_SECONDS": str(LEASE_SECONDS),
        f"{VARIABLE_PREFIX}PROVIDER_CONNECTIONS": str(CONNECTIONS),
    }
    multiprocessing.get_context("forkserver").set_forkserver_preload(["tests.chaos.worker"])
    with (
        started_stack(folder / "state", environ=environment, parts=ENGINE_NAMES, ports="free") as stack,
        provider_without_keys(folder) as without_keys,
    ):
        watching = threading.Thread(target=stack.supervisor.watch, name="part-watch", daemon=True)
        watching.start()
        settings = stack.settings
        assert settings.provider_url is not None
        assert settings.provider_api_key is not None
        simulators = {
            KEYS: Simulator(
                KEYS,
                settings.provider_url,
                settings.provider_api_key.get_secret_value(),
                settings.state_folder / "provider",
                honours_keys=True,
            ),
            NO_KEYS: without_keys,
        }
        variables = {name: value for name, value in environment.items() if name.startswith(VARIABLE_PREFIX)}
        for simulator in simulators.values():
            variables |= simulator.variables(CALL_ROWS)
        try:
            yield ChaosWorld(settings, stack, folder, simulators, variables)
        finally:
            stack.supervisor.request_stop()
            watching.join()
