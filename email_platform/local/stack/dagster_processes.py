"""Dagster's code server, webserver and daemon and a Celery worker as parts, and the files of their home.

Invariant: every process of Dagster, run workers included, uses the same PostgreSQL storage and the same state
folder, and ``dagster.yaml`` holds no secret.
"""

from __future__ import annotations

import http.client
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from email_platform.adapters.dagster_yaml import embedded_dagster_yaml, write_whole
from email_platform.local.stack.part import LOOPBACK, Part, http_status
from email_platform.local.stack.python_parts import project_folder, python_environment
from email_platform.settings import Settings, variable_of

CODE_SERVER = "code-server"
_LOCATION_NAME = "email_platform"  # as in the project's workspace.yaml: runs and sensors are found by it
_STORAGE_VARIABLE = variable_of("dagster_postgres_url")
_DAEMON_HEALTH = "{ instance { daemonHealth { allDaemonStatuses { daemonType required healthy } } } }"


def dagster_home(settings: Settings) -> Path:
    """Dagster's home under the state folder."""
    return settings.state_folder / "dagster_home"


def write_dagster_yaml(settings: Settings) -> Path:
    """Write ``dagster.yaml`` into Dagster's home; returns its path."""
    home = dagster_home(settings)
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = home / "dagster.yaml"
    write_whole(path, embedded_dagster_yaml(settings.max_concurrent_runs, home / "compute_logs"))
    return path


def write_workspace(settings: Settings) -> Path:
    """Write which code server the webserver and the daemon ask into Dagster's home; returns the file's path."""
    server = {"host": LOOPBACK, "port": settings.code_server_port, "location_name": _LOCATION_NAME}
    path = dagster_home(settings) / "workspace.yaml"
    write_whole(path, json.dumps({"load_from": [{"grpc_server": server}]}, indent=2) + "\n")  # JSON is YAML
    return path


def dagster_environment(settings: Settings, variables: Mapping[str, str]) -> dict[str, str]:
    """The caller's whole environment, since providers' accounts are in it, and Dagster's own variables."""
    return {
        **variables,
        **python_environment(variables),
        "DAGSTER_HOME": str(dagster_home(settings)),
        "DAGSTER_DISABLE_TELEMETRY": "1",
        "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
        variable_of("state_folder"): str(settings.state_folder),
        _STORAGE_VARIABLE: settings.dagster_postgres_url.get_secret_value(),
    }


def code_server_part(settings: Settings, log_file: Path, variables: Mapping[str, str], _workspace: Path) -> Part:
    """Serves the definitions and starts the runs, whose processes end with it."""
    ready_file = settings.state_folder / "code-server.ready"
    port = settings.code_server_port
    return Part(
        name=CODE_SERVER,
        command=(
            *(sys.executable, "-m", "assets.code_server", "--host", LOOPBACK, "--port", str(port)),
            *("--ready-file", str(ready_file)),
        ),
        environment=dagster_environment(settings, variables),
        working_folder=project_folder(),
        data_folder=None,
        log_file=log_file,
        address=f"grpc://{LOOPBACK}:{port}",
        is_ready=ready_file.exists,
        port=port,
        port_variable=variable_of("code_server_port"),
        before_start=lambda: ready_file.unlink(missing_ok=True),
        # Steps end their provider calls in flight first.
        grace_seconds=30.0,
    )


def webserver_part(settings: Settings, log_file: Path, variables: Mapping[str, str], workspace: Path) -> Part:
    """Dagster's UI."""
    port = settings.dagster_port
    return Part(
        name="dagster-webserver",
        command=(
            *(sys.executable, "-m", "dagster_webserver", "-w", str(workspace)),
            *("-h", LOOPBACK, "-p", str(port), "--log-level", "warning"),
        ),
        environment=dagster_environment(settings, variables),
        working_folder=project_folder(),
        data_folder=dagster_home(settings),
        log_file=log_file,
        address=f"http://{LOOPBACK}:{port}",
        is_ready=lambda: http_status(port, "/server_info") == 200,
        port=port,
        port_variable=variable_of("dagster_port"),
    )


def daemon_part(settings: Settings, log_file: Path, variables: Mapping[str, str], workspace: Path) -> Part:
    """Dagster's daemon: sensors, run queue, run monitoring; ready when the webserver calls all of it healthy."""
    return Part(
        name="dagster-daemon",
        command=(sys.executable, "-m", "dagster._daemon", "run", "-w", str(workspace)),
        environment=dagster_environment(settings, variables),
        working_folder=project_folder(),
        data_folder=dagster_home(settings),
        log_file=log_file,
        address="(no port)",
        is_ready=lambda: daemons_are_healthy(settings.dagster_port),
        # Steps end their provider calls in flight first.
        grace_seconds=30.0,
    )


def worker_part(settings: Settings, log_file: Path, variables: Mapping[str, str], _workspace: Path) -> Part:
    """A Celery worker; the settings name its broker, and its steps name what they load."""
    ready_file = settings.state_folder / "worker.ready"
    return Part(
        name="worker",
        command=(sys.executable, "-m", "assets.celery_worker", "--ready-file", str(ready_file)),
        environment=dagster_environment(settings, variables),
        working_folder=project_folder(),
        data_folder=None,
        log_file=log_file,
        address="(no port)",
        is_ready=ready_file.exists,
        before_start=lambda: ready_file.unlink(missing_ok=True),
        # Steps end their provider calls in flight first.
        grace_seconds=30.0,
    )


DAGSTER_PARTS: Mapping[str, Callable[[Settings, Path, Mapping[str, str], Path], Part]] = {
    CODE_SERVER: code_server_part,
    "dagster-webserver": webserver_part,
    "dagster-daemon": daemon_part,
    "worker": worker_part,
}
"""In the order in which they start; the worker only where steps run on workers."""


def daemons_are_healthy(webserver_port: int) -> bool:
    """Whether the webserver has a recent heartbeat of every required daemon."""
    connection = http.client.HTTPConnection(LOOPBACK, webserver_port, timeout=5)
    try:
        body = json.dumps({"query": _DAEMON_HEALTH})
        connection.request("POST", "/graphql", body, {"content-type": "application/json"})
        answer = json.loads(connection.getresponse().read())
        statuses = answer["data"]["instance"]["daemonHealth"]["allDaemonStatuses"]
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        return False
    finally:
        connection.close()
    return all(status["healthy"] for status in statuses if status["required"])
