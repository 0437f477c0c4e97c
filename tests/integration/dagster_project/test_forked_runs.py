"""Runs that the code server forks: they start, end and die as Dagster's other runs do, whatever happens around them.

The code server is the real one, with a small module of the test's own, or with the platform's definitions.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import pytest
from dagster._core.test_utils import create_test_daemon_workspace_context
from dagster._core.workspace.load_target import GrpcServerTarget
from sqlalchemy import Engine

from assets.partitions import CAMPAIGN_PARTITIONS_NAME
from assets.step_process import IN_ONE_PROCESS
from email_platform.adapters.assembly import open_parts
from email_platform.local.provider_simulator import AcceptedLog
from email_platform.local.stack.part import free_port
from email_platform.settings import Settings, variable_of
from sensors.dead_runs import worker_is_gone
from tests.integration.campaign_rows import in_city, numbered, queue_campaign, row_of, seed_leads

pytestmark = [pytest.mark.integration, pytest.mark.slow]

PATIENCE_SECONDS = 120.0
LOCATION = "served"
STUB = """
import os
import time
from pathlib import Path

import dagster as dg

FOLDER = Path({folder!r})


@dg.op
def wait(context):
    (FOLDER / context.run_id).write_text(f"{version} {{os.getpid()}} {{os.getppid()}}")
    while not (FOLDER / "go").exists():
        time.sleep(0.05)


@dg.job(executor_def=dg.in_process_executor)
def waiting_job():
    wait()


defs = dg.Definitions(jobs=[waiting_job])
"""


def wait_until(is_so: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@dataclass
class Served:
    """A code server and the instance whose runs it starts."""

    instance: dg.DagsterInstance
    process: subprocess.Popen[bytes]
    port: int

    @property
    def fork_server(self) -> psutil.Process:
        (found,) = [
            child for child in psutil.Process(self.process.pid).children() if "forkserver" in str(child.cmdline())
        ]
        return found

    def launch(self, job: str, **options: Any) -> str:
        """Launch a run as the run queue does; returns its id."""
        target = GrpcServerTarget(host="127.0.0.1", port=self.port, socket=None, location_name=LOCATION)
        with create_test_daemon_workspace_context(target, self.instance) as context:
            workspace = context.create_request_context()
            (repository,) = workspace.get_code_location(LOCATION).get_repositories().values()
            remote = repository.get_full_job(job)
            run = self.instance.create_run(
                job_name=job,
                run_id=None,
                run_config=options.get("run_config"),
                status=dg.DagsterRunStatus.NOT_STARTED,
                tags=options.get("tags"),
                root_run_id=None,
                parent_run_id=None,
                step_keys_to_execute=None,
                execution_plan_snapshot=None,
                job_snapshot=remote.job_snapshot,
                parent_job_snapshot=None,
                asset_selection=options.get("asset_selection"),
                asset_check_selection=None,
                resolved_op_selection=None,
                op_selection=None,
                remote_job_origin=remote.get_remote_origin(),
                job_code_origin=remote.get_python_origin(),
                asset_graph=repository.asset_graph,
            )
            self.instance.launch_run(run.run_id, workspace)
        return run.run_id

    def status(self, run_id: str) -> dg.DagsterRunStatus:
        run = self.instance.get_run_by_id(run_id)
        assert run is not None
        return run.status

    def wait_for(self, run_id: str, *expected: dg.DagsterRunStatus) -> None:
        wait_until(lambda: self.status(run_id) in expected)


@contextmanager
def serving(folder: Path, instance: dg.DagsterInstance, module: str) -> Iterator[Served]:
    """A code server with this module; it is asked to end on leaving, and its runs with it."""
    port, ready = free_port(), folder / "ready"
    ready.unlink(missing_ok=True)
    options = ("--module", module, "--port", str(port), "--ready-file", str(ready))
    environment = {
        **os.environ,
        "DAGSTER_HOME": str(folder),
        "PYTHONPATH": os.pathsep.join([str(folder), str(Path.cwd())]),
    }
    with (
        (folder / "code_server.log").open("a") as log,
        subprocess.Popen(
            [sys.executable, "-m", "assets.code_server", *options], env=environment, stdout=log, stderr=log
        ) as process,
    ):
        try:
            wait_until(lambda: ready.exists() or process.poll() is not None)
            assert process.poll() is None, (folder / "code_server.log").read_text()
            yield Served(instance, process, port)
        finally:
            process.terminate()


@dataclass
class Stub:
    """The tests' own module, and what its runs wrote."""

    folder: Path

    def write(self, version: str) -> None:
        (self.folder / "stub.py").write_text(STUB.format(folder=str(self.folder), version=version))

    def began(self, run_id: str) -> tuple[str, int, int]:
        """Version, process and parent of the run, once it is at work."""
        path = self.folder / run_id
        wait_until(lambda: path.exists() and path.read_text())
        version, process_id, parent_id = path.read_text().split()
        return version, int(process_id), int(parent_id)

    def go(self) -> None:
        (self.folder / "go").touch()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("served")
    (made / "dagster.yaml").touch()
    return made


@pytest.fixture(scope="module")
def instance(folder: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.from_config(str(folder)) as opened:
        yield opened


@pytest.fixture(scope="module")
def served(folder: Path, instance: dg.DagsterInstance) -> Iterator[Served]:
    """One code server for the tests that leave it as it was."""
    Stub(folder).write("first")
    with serving(folder, instance, "stub") as one:
        yield one


@pytest.fixture
def stub(folder: Path) -> Stub:
    (folder / "go").unlink(missing_ok=True)
    return Stub(folder)


def test_runs_are_forked_from_a_server_that_takes_nothing_of_the_code_server_s_along(
    served: Served, stub: Stub
) -> None:
    first, second = served.launch("waiting_job"), served.launch("waiting_job")
    assert stub.began(first)[2] == stub.began(second)[2] == served.fork_server.pid
    worker = psutil.Process(stub.began(first)[1])
    for process in (served.fork_server, worker):
        assert process.net_connections("inet") == [], "not the code server's port, and no connection of it"
    run = served.instance.get_run_by_id(first)
    assert run is not None
    assert not worker_is_gone(served.instance, run), "dead_runs finds the process that announced itself"
    stub.go()
    served.wait_for(first, dg.DagsterRunStatus.SUCCESS)
    served.wait_for(second, dg.DagsterRunStatus.SUCCESS)


def test_a_run_goes_on_and_the_next_one_starts_where_the_fork_server_is_killed(served: Served, stub: Stub) -> None:
    at_work = served.launch("waiting_job")
    _, worker_id, killed = stub.began(at_work)
    served.fork_server.kill()
    wait_until(lambda: psutil.Process(worker_id).ppid() != killed)
    after = served.launch("waiting_job")
    assert stub.began(after)[2] == served.fork_server.pid != killed
    time.sleep(2)  # the code server looks every half second whether a run's process is there
    assert served.status(at_work) is dg.DagsterRunStatus.STARTED
    stub.go()
    for run_id in (at_work, after):
        served.wait_for(run_id, dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE)
        assert served.status(run_id) is dg.DagsterRunStatus.SUCCESS


@pytest.mark.parametrize("its_fork_server_is_killed_first", [False, True])
def test_a_run_whose_process_is_killed_ends_as_failed(
    served: Served, stub: Stub, its_fork_server_is_killed_first: bool
) -> None:
    run_id = served.launch("waiting_job")
    _, worker_id, fork_server_id = stub.began(run_id)
    if its_fork_server_is_killed_first:
        os.kill(fork_server_id, signal.SIGKILL)
        wait_until(lambda: psutil.Process(worker_id).ppid() != fork_server_id)
    os.kill(worker_id, signal.SIGKILL)
    served.wait_for(run_id, dg.DagsterRunStatus.FAILURE)


def test_an_operator_s_stop_reaches_a_forked_run(served: Served, stub: Stub) -> None:
    run_id = served.launch("waiting_job")
    stub.began(run_id)
    assert served.instance.run_launcher.terminate(run_id)
    served.wait_for(run_id, dg.DagsterRunStatus.CANCELED)


def test_a_code_server_that_is_asked_to_end_ends_its_runs_first_and_the_next_one_runs_the_changed_definitions(
    folder: Path, instance: dg.DagsterInstance, stub: Stub
) -> None:
    stub.write("second")
    with serving(folder, instance, "stub") as served:
        run_id = served.launch("waiting_job")
        version, worker_id, fork_server_id = stub.began(run_id)
        assert version == "second"
        both = [psutil.Process(worker_id), psutil.Process(fork_server_id)]
        stub.write("third")
        meanwhile = served.launch("waiting_job")
        assert stub.began(meanwhile)[0] == "second", "as the code server's own definitions"
        served.process.terminate()
        assert served.process.wait(PATIENCE_SECONDS) == 0
        for each in (run_id, meanwhile):
            assert served.status(each) is dg.DagsterRunStatus.FAILURE, "so that Dagster retries it"
    assert psutil.wait_procs(both, timeout=PATIENCE_SECONDS)[1] == []
    with serving(folder, instance, "stub") as served:
        run_id = served.launch("waiting_job")
        version, worker_id, fork_server_id = stub.began(run_id)
        assert version == "third"
        both = [psutil.Process(worker_id), psutil.Process(fork_server_id)]
        served.process.kill()
        served.process.wait()
        stub.go()
        served.wait_for(run_id, dg.DagsterRunStatus.SUCCESS)
    assert psutil.wait_procs(both, timeout=PATIENCE_SECONDS)[1] == [], "the fork server ends after its last run"


# --- the platform's own definitions ------------------------------------------------------------------------------


@pytest.fixture
def slow_provider(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable_of("state_folder"), str(settings.state_folder))
    values = {
        "lease_seconds": 3,
        "simulator_recipients_per_call": 5,
        "simulator_calls_per_second": 4,  # six seconds for 24 calls: time to kill and to stop in the middle
    }
    for name, value in values.items():
        monkeypatch.setenv(variable_of(name), str(value))


@pytest.mark.usefixtures("slow_provider")
def test_a_campaign_is_sent_by_a_forked_run_after_one_was_killed_and_one_was_stopped(
    settings: Settings, oltp_engine: Engine, folder: Path, instance: dg.DagsterInstance
) -> None:
    campaign_id = queue_campaign(oltp_engine, in_city(seed_leads(oltp_engine, numbered(120))))
    instance.add_dynamic_partitions(CAMPAIGN_PARTITIONS_NAME, [str(campaign_id)])
    with ExitStack() as stack:
        parts = stack.enter_context(open_parts(settings))
        served = stack.enter_context(serving(folder, instance, "email_platform.definitions"))

        def launch() -> str:
            return served.launch(
                "campaign_job", run_config=dict(IN_ONE_PROCESS), tags={"dagster/partition": str(campaign_id)}
            )

        def accepted() -> int:
            return parts.ledger.totals(campaign_id).accepted

        killed = launch()
        wait_until(lambda: accepted() > 0)
        worker_of(served, killed).kill()
        served.wait_for(killed, dg.DagsterRunStatus.FAILURE)
        before = accepted()

        stopped = launch()
        wait_until(lambda: accepted() > before)
        its_worker = worker_of(served, stopped)
        assert instance.run_launcher.terminate(stopped)
        served.wait_for(stopped, dg.DagsterRunStatus.CANCELED)
        psutil.wait_procs([its_worker], timeout=PATIENCE_SECONDS)
        totals = parts.ledger.totals(campaign_id)
        assert totals.unknown == 0, "its calls in flight were seen to their end"
        assert totals.accepted < 120

        last = launch()
        served.wait_for(last, dg.DagsterRunStatus.SUCCESS)
    assert row_of(oltp_engine, campaign_id).status == "sent"
    summary = AcceptedLog(Path(settings.state_folder) / "provider").summary(str(campaign_id))
    assert (summary.accepted_rows, summary.distinct_message_ids) == (120, 120)


def worker_of(served: Served, run_id: str) -> psutil.Process:
    for entry in served.instance.all_logs(run_id, of_type=dg.DagsterEventType.ENGINE_EVENT):
        event = entry.dagster_event
        if event is not None and "pid" in event.engine_event_data.metadata:
            return psutil.Process(int(str(event.engine_event_data.metadata["pid"].value)))
    raise AssertionError("the run has no process on record")
