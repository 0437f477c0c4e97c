"""The one template of ``dagster.yaml``, for the embedded stack and for production.

Invariant: both instances differ in nothing but where the steps' logs go, and neither file holds a secret.

Dagster takes whole numbers of this file literally, never from a variable: ``concurrency.runs.max_concurrent_runs`` and
the limits of tags are plain integers in its schema (dagster 1.13, `dagster_instance_config_schema`; only strings, and
some whole numbers elsewhere, may be ``env:``). So the file is written from the settings before Dagster starts.
"""

from __future__ import annotations

import json
from pathlib import Path

from email_platform.settings import variable_of

# Tags of runs that the run queue limits; jobs and sensors set them.
CAMPAIGN_ID_TAG = "email_platform/campaign_id"
CAMPAIGN_NAME_TAG = "email_platform/campaign"  # for people who look for a run; no limit goes by it
SIZE_TAG = "email_platform/size"
WAITS_FOR_TAG = "email_platform/waits_for"
WAREHOUSE = "warehouse"

_TEMPLATE = """\
{heading}
storage:
  custom:
    # dagster-postgres with a connection that is kept, where its own makes one for each question.
    module: resources.dagster_storage
    class: PooledPostgresStorage
    config:
      postgres_url:
        env: {storage_variable}

run_coordinator:
  module: dagster
  class: QueuedRunCoordinator
  config:
    # How soon a run that is asked for begins; the look is one query while nothing waits.
    dequeue_interval_seconds: 1

run_launcher:
  module: dagster
  class: DefaultRunLauncher

concurrency:
  runs:
    # {max_runs_variable}; Dagster takes a number here, and no variable.
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
      # Loads and reports wait for the warehouse. One that hangs takes one place, and campaigns go on in the others.
      - key: {waits_for_tag}
        value: {warehouse}
        limit: 1
  pools:
    # The old database's import and the reports are pools: one run at a time, the others wait in the queue and take no
    # place of max_concurrent_runs there.
    granularity: run
    default_limit: 1

# Side by side, so that a sensor that waits for a database delays no other; a thread for each sensor.
sensors:
  use_threads: true
  num_workers: 10
  num_submit_workers: 4

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

{compute_logs}
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

_EMBEDDED_HEADING = """\
# Written by `email-platform up` at every start. Checked against dagster 1.13; the keys are explained in
# Dagster's reference of dagster.yaml.
"""
_OURS = "# Written by `email-platform dagster-yaml` at each start of the image, as long as this line is here."
_PRODUCTION_HEADING = f"""\
{_OURS}
# Dagster's instance in production. The copy in deploy/ has 4 runs side by side; a test holds it equal to the command's.
"""
_EMBEDDED_LOGS = """\
# Logs of steps as local files; production keeps them in the bucket.
compute_logs:
  module: dagster._core.storage.local_compute_log_manager
  class: LocalComputeLogManager
  config:
    base_dir: {folder}
"""
_PRODUCTION_LOGS = """\
# Logs of steps in the staging bucket, where the webserver reads them. With keys instead of a role, or MinIO, add
# endpoint_url and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.
compute_logs:
  module: dagster_aws.s3.compute_log_manager
  class: S3ComputeLogManager
  config:
    bucket:
      env: EMAIL_PLATFORM_S3_BUCKET
    region:
      env: EMAIL_PLATFORM_S3_REGION
    prefix: dagster-compute-logs
"""


def embedded_dagster_yaml(max_concurrent_runs: int, compute_logs_folder: Path) -> str:
    """The embedded stack's file: the steps' logs lie in a folder."""
    # JSON is YAML, and quotes whatever the path holds.
    logs = _EMBEDDED_LOGS.format(folder=json.dumps(str(compute_logs_folder)))
    return _filled(_EMBEDDED_HEADING, logs, max_concurrent_runs)


def production_dagster_yaml(max_concurrent_runs: int) -> str:
    """Production's file: the steps' logs go to the bucket."""
    return _filled(_PRODUCTION_HEADING, _PRODUCTION_LOGS, max_concurrent_runs)


def write_production_dagster_yaml(path: Path, max_concurrent_runs: int) -> bool:
    """Write production's file, unless an operator's own is there (another run launcher, say); whether it was written.

    The operator's own is one without our first line.
    """
    if path.exists() and _OURS not in path.read_text(encoding="utf-8").splitlines():
        return False
    write_whole(path, production_dagster_yaml(max_concurrent_runs))
    return True


def write_whole(path: Path, text: str) -> None:
    """Put the file in place in one step, so that nobody reads half of it."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)


def _filled(heading: str, compute_logs: str, max_concurrent_runs: int) -> str:
    return _TEMPLATE.format(
        heading=heading,
        storage_variable=variable_of("dagster_postgres_url"),
        max_runs_variable=variable_of("max_concurrent_runs"),
        max_concurrent_runs=max_concurrent_runs,
        campaign_tag=CAMPAIGN_ID_TAG,
        size_tag=SIZE_TAG,
        waits_for_tag=WAITS_FOR_TAG,
        warehouse=WAREHOUSE,
        large_runs=max(1, max_concurrent_runs - 1),
        compute_logs=compute_logs,
    )
