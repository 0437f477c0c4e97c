"""Dagster's webserver and daemon as parts, and the ``dagster.yaml`` of their home.

Invariant: every process of Dagster, run workers included, uses the same PostgreSQL storage and the same state
folder, and ``dagster.yaml`` holds no secret.
"""

from __future__ import annotations

import http.client
import json
import sys
from collections.abc import Mapping
from pathlib import Path

from email_platform.local.stack.part import LOOPBACK, Part, http_status
from email_platform.local.stack.python_parts import project_folder, python_environment
from email_platform.settings import Settings, variable_of

CAMPAIGN_TAG = "email_platform/campaign_id"
SIZE_TAG = "email_platform/size"
WORKSPACE_FILE = "workspace.yaml"
_STORAGE_VARIABLE = variable_of("dagster_postgres_url")
_DAEMON_HEALTH = "{ instance { daemonHealth { allDaemonStatuses { daemonType required healthy } } } }"

_DAGSTER_YAML = """\
# Written by `email-platform up` at every start. Checked against dagster 1.13; the keys are explained in
# Dagster's reference of dagster.yaml. In production, start from this file.

storage:
  postgres:
    postgres_url:
      env: {storage_variable}

run_coordinator:
  module: dagster
  class: QueuedRunCoordinator

run_launcher:
  module: dagster
  class: DefaultRunLauncher

concurrency:
  runs:
    max_concurrent_runs: {max_concurrent_runs}
    tag_concurrency_limits:
      # The second guard behind the chunk leases: one run of a campaign at a time, whatever asks for it.
      - key: {campaign_tag}
        value:
          applyLimitPerUniqueValue: true
        limit: 1
      # A place is always left for small campaigns and everything else, however many large ones are queued.
      - key: {size_tag}
        value: large
        limit: {large_runs}
  pools:
    # The old database's import and the reports are pools: one run at a time, the others wait in the queue and take no
    # place of max_concurrent_runs there.
    granularity: run
    default_limit: 1

run_monitoring:
  enabled: true
  poll_interval_seconds: 5
  start_timeout_seconds: 120
  cancel_timeout_seconds: 60
  # A run worker cannot be resumed in place by the default launcher: run_retries starts a new run instead.
  max_resume_run_attempts: 0
  # Without it, the pool slots of a killed run stay taken for ever.
  free_slots_after_run_end_seconds: 30

# The states of the assets' freshness policies, shown with them.
freshness:
  enabled: true

run_retries:
  enabled: true
  max_retries: 3
  # Only after the death of a run worker. A failed op has had its own retries; retrying the whole run for it
  # would ask the provider again and again. The strategy ALL_STEPS is a tag of the jobs: from the failure on,
  # the chunks of a dynamic fan-out would be lost.
  retry_on_asset_or_op_failure: false

# Logs of steps as local files. In production, where steps run on other machines than the webserver:
#   compute_logs:
#     module: dagster_aws.s3.compute_log_manager
#     class: S3ComputeLogManager
#     config: {{ bucket: ..., prefix: dagster-compute-logs }}
compute_logs:
  module: dagster._core.storage.local_compute_log_manager
  class: LocalComputeLogManager
  config:
    base_dir: {compute_logs_folder}

# Ticks that did nothing are of no use for long, and sensors tick every few seconds.
retention:
  sensor:
    purge_after_days:
      skipped: 1
      success: 30
      failure: 30

code_servers:
  local_startup_timeout: 180

telemetry:
  enabled: false
nux:
  enabled: false
"""


def dagster_home(settings: Settings) -> Path:
    """Dagster's home under the state folder."""
    return settings.state_folder / "dagster_home"


def write_dagster_yaml(settings: Settings) -> Path:
    """Write ``dagster.yaml`` into Dagster's home; returns its path."""
    home = dagster_home(settings)
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = home / "dagster.yaml"
    unfinished = path.with_name("dagster.yaml.unfinished")
    unfinished.write_text(
        _DAGSTER_YAML.format(
            storage_variable=_STORAGE_VARIABLE,
            max_concurrent_runs=settings.max_concurrent_runs,
            campaign_tag=CAMPAIGN_TAG,
            size_tag=SIZE_TAG,
            large_runs=max(1, settings.max_concurrent_runs - 1),
            # JSON is YAML, and quotes whatever the path holds.
            compute_logs_folder=json.dumps(str(home / "compute_logs")),
        ),
        encoding="utf-8",
    )
    unfinished.replace(path)
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
