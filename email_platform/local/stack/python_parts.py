"""The embedded parts that are Python processes of ours: S3, ClickHouse, the simulator, receiver, API and metrics.

Invariant: secrets reach a part through its environment only, and an engine gets no secret but its own. The
receiver and the API are no engines but the platform itself: like Dagster's processes they read the settings as an
operator would.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

import email_platform
from email_platform.adapters.clickhouse.staging_location import StagingLocation
from email_platform.local.stack.part import LOOPBACK, Part, http_status
from email_platform.settings import Settings, variable_of

_KEPT_VARIABLES = ("PATH", "HOME", "USER", "LANG", "LC_ALL", "TMPDIR", "TZ", "VIRTUAL_ENV", "SSL_CERT_FILE")


def project_folder() -> Path:
    """Where the packages of this project lie."""
    return Path(email_platform.__file__).resolve().parent.parent


def python_environment(variables: Mapping[str, str]) -> dict[str, str]:
    """What a Python process needs of the caller's environment, with this project importable; none of its settings."""
    kept = {name: variables[name] for name in _KEPT_VARIABLES if name in variables}
    path = [str(project_folder()), *filter(None, [variables.get("PYTHONPATH", "")])]
    return {**kept, "PYTHONPATH": os.pathsep.join(path), "PYTHONUNBUFFERED": "1"}


def object_store_part(settings: Settings, log_file: Path, variables: Mapping[str, str]) -> Part:
    """The S3 server; ready when it refuses a request without a signature."""
    data_folder = settings.state_folder / "s3"
    secret = settings.s3_secret_access_key
    return Part(
        name="s3",
        command=(
            *(sys.executable, "-m", "email_platform.local.s3.server"),
            *("--data-folder", str(data_folder), "--host", LOOPBACK, "--port", str(settings.s3_port)),
        ),
        environment={
            **python_environment(variables),
            variable_of("s3_access_key_id"): settings.s3_access_key_id or "",
            variable_of("s3_secret_access_key"): secret.get_secret_value() if secret else "",
        },
        working_folder=settings.state_folder,
        data_folder=data_folder,
        log_file=log_file,
        address=f"http://{LOOPBACK}:{settings.s3_port} bucket {settings.s3_bucket}",
        is_ready=lambda: http_status(settings.s3_port, "/") == 403,
        port=settings.s3_port,
        port_variable=variable_of("s3_port"),
    )


def _reached_by_clickhouse(settings: Settings) -> list[str]:
    """The URLs of the buckets that s3() may name."""
    further = [name.strip() for name in settings.embedded_clickhouse_buckets.split(",") if name.strip()]
    every = [settings, *(settings.model_copy(update={"s3_bucket": name}) for name in further)]
    return [StagingLocation.from_settings(one).bucket_url for one in every]


def clickhouse_part(settings: Settings, log_file: Path, variables: Mapping[str, str]) -> Part:
    """ClickHouse's engine behind its HTTP protocol."""
    data_folder = settings.state_folder / "clickhouse"
    url = urlsplit(settings.clickhouse_url.get_secret_value())
    database = url.path.lstrip("/")
    memory = settings.embedded_clickhouse_memory_megabytes
    return Part(
        name="clickhouse",
        command=(
            *(sys.executable, "-m", "email_platform.local.clickhouse_endpoint"),
            *("--data-folder", str(data_folder), "--host", LOOPBACK, "--port", str(settings.clickhouse_port)),
            *("--user", unquote(url.username or ""), "--database", database, "--exit-with-parent"),
            *(word for url in _reached_by_clickhouse(settings) for word in ("--s3-endpoint", url)),
            *("--threads-per-query", str(settings.embedded_clickhouse_threads)),
            *(() if memory is None else ("--maximum-memory-bytes", str(memory * 1024 * 1024))),
        ),
        environment={
            **python_environment(variables),
            "EMAIL_PLATFORM_CLICKHOUSE_PASSWORD": unquote(url.password or ""),
        },
        working_folder=settings.state_folder,
        data_folder=data_folder,
        log_file=log_file,
        address=f"http://{LOOPBACK}:{settings.clickhouse_port}/{database}",
        is_ready=lambda: http_status(settings.clickhouse_port, "/ping") == 200,
        port=settings.clickhouse_port,
        port_variable=variable_of("clickhouse_port"),
        # It lets running queries end for 20 s and then closes the engine's files.
        grace_seconds=30.0,
    )


def provider_part(
    settings: Settings, log_file: Path, variables: Mapping[str, str], webhook_url: str | None = None
) -> Part:
    """The provider simulator; without an address for its events they wait in its outbox."""
    data_folder = settings.state_folder / "provider"
    secrets = {
        "provider_api_key": settings.provider_api_key,
        "provider_webhook_secret": settings.provider_webhook_secret,
    }
    webhook = () if webhook_url is None else ("--webhook-url", webhook_url)
    return Part(
        name="provider",
        command=(
            *(sys.executable, "-m", "email_platform.local.provider_simulator"),
            *("--data-folder", str(data_folder), "--host", LOOPBACK, "--port", str(settings.provider_port)),
            # A domain to which this provider refuses to send, so that refusals are seen in demo and tests.
            *("--exit-with-parent", "--blocked-domain", "blocked.example", *webhook),
        ),
        environment={
            **python_environment(variables),
            **{variable_of(name): value.get_secret_value() for name, value in secrets.items() if value},
        },
        working_folder=settings.state_folder,
        data_folder=data_folder,
        log_file=log_file,
        address=f"http://{LOOPBACK}:{settings.provider_port}",
        is_ready=lambda: http_status(settings.provider_port, "/health") == 200,
        port=settings.provider_port,
        port_variable=variable_of("provider_port"),
    )


def receiver_parts(settings: Settings, logs: Path, variables: Mapping[str, str]) -> list[Part]:
    """The receivers of events, which share one port; each is brought back by itself.

    They get the caller's whole environment, since the accounts that may send events are in it.
    """
    port = settings.receiver_port
    count = settings.receiver_processes
    names = ["receiver", *(f"receiver-{number}" for number in range(2, count + 1))]
    return [
        Part(
            name=name,
            command=(
                *(sys.executable, "-m", "email_platform.receiver", "--host", LOOPBACK, "--port", str(port)),
                *(("--share-port",) if count > 1 else ()),
                "--exit-with-parent",
            ),
            environment={
                **variables,
                **python_environment(variables),
                variable_of("state_folder"): str(settings.state_folder),
            },
            working_folder=settings.state_folder,
            data_folder=None,  # what it acknowledged is in the bucket
            log_file=logs / f"{name}.log",
            address=f"http://{LOOPBACK}:{port}",
            is_ready=lambda: http_status(port, "/health") == 200,
            port=port,
            port_variable=variable_of("receiver_port"),
            # Requests at work are answered within 20 s, then what waits is stored.
            grace_seconds=30.0,
        )
        for name in names
    ]


def metrics_part(settings: Settings, log_file: Path, environment: Mapping[str, str]) -> Part:
    """What Prometheus asks.

    Args:
        environment: as Dagster's processes have it, since Dagster's storage is asked too.
    """
    port = settings.metrics_port
    return Part(
        name="metrics",
        command=(
            *(sys.executable, "-m", "email_platform.metrics", "--host", LOOPBACK, "--port", str(port)),
            "--exit-with-parent",
        ),
        environment=environment,
        working_folder=settings.state_folder,
        data_folder=None,
        log_file=log_file,
        address=f"http://{LOOPBACK}:{port}/metrics",
        is_ready=lambda: http_status(port, "/metrics") == 200,
        port=port,
        port_variable=variable_of("metrics_port"),
    )


def api_part(settings: Settings, log_file: Path, variables: Mapping[str, str]) -> Part:
    """The HTTP API; it gets the caller's whole environment, since providers' accounts are in it."""
    port = settings.api_port
    return Part(
        name="api",
        command=(
            *(sys.executable, "-m", "email_platform.api", "--host", LOOPBACK, "--port", str(port)),
            "--exit-with-parent",
        ),
        environment={
            **variables,
            **python_environment(variables),
            variable_of("state_folder"): str(settings.state_folder),
        },
        working_folder=settings.state_folder,
        data_folder=None,
        log_file=log_file,
        address=f"http://{LOOPBACK}:{port}",
        is_ready=lambda: http_status(port, "/health") == 200,
        port=port,
        port_variable=variable_of("api_port"),
        # Requests at work are answered within 20 s.
        grace_seconds=30.0,
    )
