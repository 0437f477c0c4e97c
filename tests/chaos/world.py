"""The world in which schedules happen: real parts that die and come back, two providers, and the check at the end."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import httpx
import psutil
import pyarrow.parquet as pq
from sqlalchemy import insert

from email_platform.accounting import require_all
from email_platform.adapters.assembly import open_oltp, open_parts, open_warehouse
from email_platform.adapters.postgres.tables import app_user, campaign, lead, sender
from email_platform.campaign_run import account
from email_platform.embedded.part import held_free_ports
from email_platform.embedded.provider_simulator import AcceptedLog
from email_platform.embedded.stack import ENGINE_NAMES, Stack, started_stack
from email_platform.settings import VARIABLE_PREFIX, Settings
from email_platform.storage_layout import deliveries_prefix
from tests.chaos.schedule import Disturbance, Schedule
from tests.chaos.worker import FAULT, FINISHED, life

CONNECTIONS, CALL_ROWS, CHUNK_ROWS, LEASE_SECONDS = 4, 10, 120, 1.5
PATIENCE_SECONDS = 120.0
LIVES_TO_RECOVER = 12
BLOCKED = 3  # recipients whom the provider refuses one by one
KEYS, NO_KEYS = "keys", "nokeys"
NOTHING_LOST = ("throttle", "slow", "slow_response", "outage", "duplicate_response")
_NO_KEYS_API_KEY = "the-key-of-the-provider-without-keys"


class InvariantBrokenError(AssertionError):
    """The invariant does not hold; the message has the schedule, whose seed replays it."""


@dataclass
class ChaosWorld:
    """Running parts, and what was done to them.

    Attributes:
        did: how often each kind of disturbance struck, and each provider fault was injected.
    """

    settings: Settings
    stack: Stack
    folder: Path
    simulators: dict[str, tuple[str, str, Path]]  # account: address, key, data folder
    variables: dict[str, str]
    did: Counter[str] = field(default_factory=Counter)

    # --- one schedule -------------------------------------------------------------------------------------

    def run(self, schedule: Schedule) -> dict[str, int]:
        """Let the schedule happen, recover by ordinary lives, and hold the invariant; returns the counts."""
        campaign_id = self._campaign(schedule)
        account = KEYS if schedule.honours_keys else NO_KEYS
        self._before = self._counted(account)
        self._faults(account, schedule)
        deaths = 0
        for disturbance in schedule.disturbances:
            deaths += self._disturb(campaign_id, disturbance, account, schedule)
        injected = self._injected(account)
        self._no_faults(account)
        self._recover(schedule, campaign_id)
        return self._check(schedule, campaign_id, deaths, injected)

    def _campaign(self, schedule: Schedule) -> int:
        account = KEYS if schedule.honours_keys else NO_KEYS
        name = f"chaos-{schedule.seed}-{time.monotonic_ns()}"
        with open_oltp(self.settings) as engine, engine.begin() as connection:
            rows = [
                {"email": f"{name}-{number}@example.com", "first_name": "Ada", "city": name}
                for number in range(schedule.leads)
            ]
            rows += [
                {"email": f"{name}-{number}@blocked.example", "first_name": "Bo", "city": name} for number in range(3)
            ]
            rows += [{"email": "nobody", "first_name": "No", "city": name}]
            connection.execute(insert(lead), rows)
            owner = connection.execute(
                insert(app_user).values(email=f"{name}@example.com", name=name).returning(app_user.c.id)
            ).scalar_one()
            sender_id = connection.execute(
                insert(sender)
                .values(owner_id=owner, from_address="a@example.com", from_name="A", provider_account=account)
                .returning(sender.c.id)
            ).scalar_one()
            return connection.execute(
                insert(campaign)
                .values(
                    owner_id=owner,
                    sender_id=sender_id,
                    name=name,
                    subject_template="Hello {{ first_name }}",
                    html_template="<p>{{ first_name }} {{ unsubscribe_url }}</p>",
                    condition={"all": [{"field": "city", "op": "eq", "value": name}]},
                    on_unknown=schedule.on_unknown,
                    status="queued",
                )
                .returning(campaign.c.id)
            ).scalar_one()

    # --- disturbances -------------------------------------------------------------------------------------

    def _disturb(self, campaign_id: int, disturbance: Disturbance, account: str, schedule: Schedule) -> int:
        """Let one life be disturbed; returns how many processes died (each may leave its open calls unknown)."""
        match disturbance.kind:
            case "crash":
                assert disturbance.crash is not None
                if disturbance.crash.when == "during":
                    self._slow_answers(account, schedule)
                process = self._start(campaign_id, str(disturbance.crash))
                self._wait(process)
                if disturbance.crash.when == "during":
                    self._faults(account, schedule)
                if process.exitcode == -signal.SIGKILL:
                    self.did[
                        f"died {disturbance.crash.when} {disturbance.crash.part}.{disturbance.crash.operation}"
                    ] += 1
                    return 1
                return 0
            case "kill":
                process = self._start(campaign_id)
                process.join(disturbance.delay_seconds)
                return self._kill(process)
            case "part":
                process = self._start(campaign_id)
                process.join(disturbance.delay_seconds)
                assert disturbance.part is not None
                self._kill_part(disturbance.part)
                self._wait(process)
                # A provider that dies takes the answers of its open calls along.
                return 1 if disturbance.part == "provider" else 0
            case "orphan":
                return self._orphan(campaign_id, disturbance)

    def _orphan(self, campaign_id: int, disturbance: Disturbance) -> int:
        orphan = self._start(campaign_id, str(disturbance.crash))
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
        successor = self._start(campaign_id, str(disturbance.successor) if disturbance.successor else None)
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

    def _start(self, campaign_id: int, crash: str | None = None) -> BaseProcess:
        process = multiprocessing.get_context("forkserver").Process(
            target=life,
            args=(str(self.settings.state_folder), campaign_id, crash, str(self.folder / "lives.log"), self.variables),
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

    def _admin(self, account: str, method: str, path: str, document: Any = None) -> Any:
        address, key, _ = self.simulators[account]
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                answer = httpx.request(
                    method, f"{address}/admin/{path}", json=document, headers={"Authorization": f"Bearer {key}"}
                )
                answer.raise_for_status()
                return answer.json()
            except httpx.TransportError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)  # it was killed and comes back

    def _faults(self, account: str, schedule: Schedule) -> None:
        self._admin(account, "DELETE", "faults")
        self._admin(
            account,
            "PUT",
            "faults",
            {
                "seed": schedule.seed,
                "probabilities": schedule.faults,
                "slow_seconds": 0.2,
                "slow_response_seconds": 0.2,
                "drop_response_limit_seconds": 0.5,
                "throttle_retry_after_seconds": 0.2,
            },
        )

    def _slow_answers(self, account: str, schedule: Schedule) -> None:
        """Every call is accepted at once and answered late, so that a death finds answers under way."""
        self._admin(
            account,
            "PUT",
            "faults",
            {"seed": schedule.seed, "probabilities": {"slow_response": 1.0}, "slow_response_seconds": 0.3},
        )

    def _no_faults(self, account: str) -> None:
        self._admin(account, "DELETE", "faults")

    def _counted(self, account: str) -> Counter[str]:
        return Counter(
            {str(kind): int(times) for kind, times in self._admin(account, "GET", "statistics")["faults"].items()}
        )

    def _injected(self, account: str) -> Counter[str]:
        now = self._counted(account)
        injected = now - self._before if all(now[kind] >= times for kind, times in self._before.items()) else now
        for kind, times in injected.items():
            self.did[f"provider fault: {kind}"] += times
        return injected

    # --- recovery and check -----------------------------------------------------------------------------------

    def _recover(self, schedule: Schedule, campaign_id: int) -> None:
        for _ in range(LIVES_TO_RECOVER):
            process = self._start(campaign_id)
            self._wait(process)
            if process.exitcode == FINISHED:
                return
            time.sleep(LEASE_SECONDS / 2)
        log = (self.folder / "lives.log").read_text(encoding="utf-8")
        raise InvariantBrokenError(f"{schedule}\nnot finished after {LIVES_TO_RECOVER} lives:\n{log[-3000:]}")

    def _check(self, schedule: Schedule, campaign_id: int, deaths: int, injected: Counter[str]) -> dict[str, int]:
        account_name = KEYS if schedule.honours_keys else NO_KEYS
        log = AcceptedLog(self.simulators[account_name][2])
        with open_parts(self.settings, self.variables) as parts, open_warehouse(self.settings) as warehouse:
            totals = parts.ledger.totals(campaign_id)
            try:
                require_all(account(parts, warehouse, campaign_id))
            except Exception as error:
                raise InvariantBrokenError(f"{schedule}\n{error}") from error
            told: dict[str, str] = {}
            ids: dict[str, str] = {}
            for found in parts.store.list(deliveries_prefix(campaign_id)):
                with parts.store.reader(found.key) as reader:
                    table = pq.read_table(reader, columns=["message_id", "status", "provider_message_id"])
                ids |= dict(zip(table["message_id"].to_pylist(), table["provider_message_id"].to_pylist(), strict=True))
                told |= dict(zip(table["message_id"].to_pylist(), table["status"].to_pylist(), strict=True))
            in_warehouse = dict(
                warehouse.client.query(
                    "select toString(message_id), status from delivery final where campaign_id = {id:Int64}",
                    parameters={"id": campaign_id},
                ).result_rows
            )
        logged: dict[str, set[str]] = {}
        counted: Counter[str] = Counter()
        for row in log.rows(str(campaign_id)):
            counted[row.message_id] += 1
            logged.setdefault(row.message_id, set()).add(row.provider_message_id)
        accepted = {one for one, status in told.items() if status == "accepted"}
        unknown = {one for one, status in told.items() if status == "unknown"}
        eligible = schedule.leads + BLOCKED
        problems = []
        if in_warehouse != told:
            problems.append("the warehouse does not hold what the objects say")
        if any(ids[one] not in logged.get(one, ()) for one in accepted):
            problems.append("a receipt has a provider's message id that the provider gave to somebody else")
        if schedule.on_unknown == "resend" and max(counted.values(), default=0) > 1 and not (deaths or injected):
            problems.append("somebody was mailed twice without any unknown call")
        if len(told) != eligible:
            problems.append(f"{eligible} eligible, {len(told)} staged")
        if (schedule.honours_keys or schedule.on_unknown == "hold") and max(counted.values(), default=0) > 1:
            problems.append(f"{sum(times > 1 for times in counted.values())} leads were mailed twice")
        if not accepted <= set(counted):
            problems.append(f"{len(accepted - set(counted))} accepted in the ledger but not by the provider")
        if not set(counted) - accepted <= unknown:
            problems.append("an acceptance of the provider's is neither accepted nor unknown here")
        if schedule.honours_keys and unknown:
            problems.append(f"{len(unknown)} unknown although keys are honoured")
        losing = sum(injected[kind] for kind in injected if kind not in NOTHING_LOST)
        if len(unknown) > (deaths * CONNECTIONS + losing) * CALL_ROWS:
            problems.append(f"{len(unknown)} unknown after {deaths} deaths and {losing} lost answers")
        if problems:
            raise InvariantBrokenError(f"{schedule}\n" + "; ".join(problems))
        return {
            "eligible": eligible,
            "accepted": totals.accepted,
            "rejected": totals.rejected,
            "unknown": totals.unknown,
            "deaths": deaths,
        }


@contextmanager
def chaos_world(folder: Path) -> Iterator[ChaosWorld]:
    """Start the parts and a second provider without idempotency keys; stop everything on leaving."""
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith(VARIABLE_PREFIX)}
    surroundings |= {
        f"{VARIABLE_PREFIX}CHUNK_ROWS": str(CHUNK_ROWS),
        f"{VARIABLE_PREFIX}LEASE_SECONDS": str(LEASE_SECONDS),
        f"{VARIABLE_PREFIX}PROVIDER_CONNECTIONS": str(CONNECTIONS),
    }
    multiprocessing.get_context("forkserver").set_forkserver_preload(["tests.chaos.worker"])
    with (
        started_stack(folder / "state", environ=surroundings, parts=ENGINE_NAMES, ports="free") as stack,
        _provider_without_keys(folder) as (address, data_folder),
    ):
        watching = threading.Thread(target=stack.supervisor.watch, name="part-watch", daemon=True)
        watching.start()
        settings = stack.settings
        assert settings.provider_url is not None
        assert settings.provider_api_key is not None
        key = settings.provider_api_key.get_secret_value()
        variables = {name: value for name, value in surroundings.items() if name.startswith(VARIABLE_PREFIX)} | {
            f"{VARIABLE_PREFIX}SIMULATOR_KEYS_BASE_URL": settings.provider_url,
            f"{VARIABLE_PREFIX}SIMULATOR_KEYS_API_KEY": key,
            f"{VARIABLE_PREFIX}SIMULATOR_KEYS_RECIPIENTS_PER_CALL": str(CALL_ROWS),
            f"{VARIABLE_PREFIX}SIMULATOR_NOKEYS_BASE_URL": address,
            f"{VARIABLE_PREFIX}SIMULATOR_NOKEYS_API_KEY": _NO_KEYS_API_KEY,
            f"{VARIABLE_PREFIX}SIMULATOR_NOKEYS_RECIPIENTS_PER_CALL": str(CALL_ROWS),
            f"{VARIABLE_PREFIX}SIMULATOR_NOKEYS_IDEMPOTENCY": "off",
        }
        simulators = {
            KEYS: (settings.provider_url, key, settings.state_folder / "provider"),
            NO_KEYS: (address, _NO_KEYS_API_KEY, data_folder),
        }
        try:
            yield ChaosWorld(settings, stack, folder, simulators, variables)
        finally:
            stack.supervisor.request_stop()
            watching.join()


@contextmanager
def _provider_without_keys(folder: Path) -> Iterator[tuple[str, Path]]:
    data_folder = folder / "provider-without-keys"
    with held_free_ports(1) as (port,):
        pass
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "email_platform.embedded.provider_simulator", "--data-folder", str(data_folder)),
            *("--port", str(port), "--idempotency", "off", "--exit-with-parent", "--blocked-domain", "blocked.example"),
        ],
        env={
            **os.environ,
            "EMAIL_PLATFORM_PROVIDER_API_KEY": _NO_KEYS_API_KEY,
            "EMAIL_PLATFORM_PROVIDER_WEBHOOK_SECRET": "not used by this provider",
        },
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + PATIENCE_SECONDS
    try:
        while True:
            with suppress(httpx.TransportError):
                if httpx.get(f"{address}/health").status_code == 200:
                    break
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the provider without keys did not start")
            time.sleep(0.05)
        yield address, data_folder
    finally:
        process.terminate()
        process.wait()


def as_json(did: Counter[str]) -> str:
    """The counts of what was done, for a report."""
    return json.dumps(dict(sorted(did.items())), indent=2)
