"""Do the files of deploy/ agree with the settings, the commands and the instance that the embedded stack runs?"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster._core.instance.ref import InstanceRef
from dagster._core.run_coordinator import QueuedRunCoordinator
from dagster._core.storage.tags import GRPC_INFO_TAG
from dagster_aws.s3 import S3ComputeLogManager
from typer.main import get_command

from email_platform.adapters.assembly import account_rate, utc_now
from email_platform.adapters.dagster_yaml import production_dagster_yaml, write_production_dagster_yaml
from email_platform.adapters.providers import account_from_variables
from email_platform.cli.app import app
from email_platform.events.accounts import WebhookAccounts
from email_platform.local.stack.dagster_processes import write_dagster_yaml
from email_platform.settings import Settings, external_parts, variable_of
from sensors.dead_runs import CODE_SERVER_TAG

DEPLOY = Path(__file__).parents[3] / "deploy"
_ASSIGNMENT = re.compile(r"^#?([A-Z][A-Z0-9_]*)=(.*)$", re.MULTILINE)


def example_variables() -> dict[str, str]:
    text = (DEPLOY / "production.env.example").read_text(encoding="utf-8")
    return {name: value for name, value in _ASSIGNMENT.findall(text) if f"#{name}=" not in text}


def compose_services() -> dict[str, dict[str, Any]]:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))["services"]


def test_the_example_is_a_complete_set_of_settings_with_every_part_external(tmp_path: Path) -> None:
    variables = example_variables()
    settings = Settings.load(variables, state_folder=tmp_path)
    assert external_parts(variables) == {"postgres", "s3", "clickhouse"}
    assert settings.public_base_url == "https://mail.example.com"


def test_every_variable_of_the_example_is_read_by_somebody(tmp_path: Path) -> None:
    text = (DEPLOY / "production.env.example").read_text(encoding="utf-8")
    names = {name for name, _ in _ASSIGNMENT.findall(text)}
    settings = {variable_of(field) for field in Settings.model_fields}
    accounts = {
        f"EMAIL_PLATFORM_{provider}_{setting}"
        for provider in ("SES", "RESEND")
        for setting in (
            *("REGION", "API_KEY", "RECIPIENTS_PER_SECOND", "CALLS_PER_SECOND"),
            *("WEBHOOK_SECRET", "WEBHOOK_TOPIC_ARNS"),
        )
    }
    assert names - settings - accounts == set()


def test_the_example_s_provider_account_is_one_that_sends_and_receives() -> None:
    variables = example_variables()
    assert account_from_variables("ses", "default", variables).region == "eu-central-1"
    assert account_rate("ses", "default", variables).recipients_per_second == 500

    async def no_fetch(url: str) -> bytes:
        raise AssertionError(url)

    assert WebhookAccounts(variables, no_fetch, utc_now).find("ses", "default") is not None


def test_every_command_of_the_composition_exists() -> None:
    commands = set(get_command(app).commands)  # type: ignore[attr-defined]
    services = compose_services()
    assert set(services) == {"migrate", "code", "webserver", "daemon", "receiver", "api", "metrics"}
    for name, service in services.items():
        program, *arguments = service["command"]
        if program == "email-platform":
            assert arguments[0] in commands, name
        else:
            assert program in ("dagster", "dagster-webserver", "dagster-daemon"), name


def test_the_code_server_s_port_is_the_one_the_workspace_names() -> None:
    workspace = yaml.safe_load((DEPLOY / "workspace.yaml").read_text(encoding="utf-8"))
    server = workspace["load_from"][0]["grpc_server"]
    command = compose_services()["code"]["command"]
    assert command[command.index("--port") + 1] == str(server["port"])
    assert server["host"] in compose_services()


def test_the_image_takes_what_the_definitions_need() -> None:
    dockerfile = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    for folder in ("email_platform", "assets", "sensors", "resources", "dbt_reports"):
        assert f"COPY {folder} {folder}\n" in dockerfile
    assert "COPY deploy/roles deploy/roles\n" in dockerfile, "email-platform roles and doctor read them"
    assert "COPY deploy/grants deploy/grants\n" in dockerfile, "migrate --clickhouse-grants and doctor read them"
    assert "cyclonedx-py environment" in dockerfile
    makefile = (DEPLOY.parent / "Makefile").read_text(encoding="utf-8")
    (tool,) = set(re.findall(r"cyclonedx-bom==[0-9.]+", dockerfile + makefile))
    assert tool, "`make sbom` tries what the image does"
    assert "\nUSER platform\n" in dockerfile


def test_production_s_instance_is_the_embedded_one_but_for_the_steps_logs(tmp_path: Path) -> None:
    settings = Settings.load(example_variables(), state_folder=tmp_path)
    embedded = yaml.safe_load(write_dagster_yaml(settings).read_text(encoding="utf-8"))
    production = yaml.safe_load((DEPLOY / "dagster.yaml").read_text(encoding="utf-8"))
    assert embedded.pop("compute_logs") != production.pop("compute_logs")
    assert production == embedded


def test_production_s_file_is_what_the_command_writes(tmp_path: Path) -> None:
    settings = Settings.load(example_variables(), state_folder=tmp_path)
    assert (DEPLOY / "dagster.yaml").read_text(encoding="utf-8") == production_dagster_yaml(
        settings.max_concurrent_runs
    ), "write it again with `email-platform dagster-yaml`"


@pytest.mark.parametrize(("runs", "of_large_campaigns"), [("1", 1), ("2", 1), ("9", 8)])
def test_the_image_s_entrypoint_brings_the_number_of_runs_into_dagster_s_file(
    tmp_path: Path, runs: str, of_large_campaigns: int
) -> None:
    environment = {
        **example_variables(),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "DAGSTER_HOME": str(tmp_path),
        "EMAIL_PLATFORM_MAX_CONCURRENT_RUNS": runs,
    }
    subprocess.run(
        ["sh", DEPLOY / "entrypoint.sh", "dagster", "--version"],
        env=environment, cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip
    settings: Mapping[str, Any] = InstanceRef.from_dir(str(tmp_path)).settings
    written = settings["concurrency"]["runs"]
    assert written["max_concurrent_runs"] == int(runs)
    assert [limit["limit"] for limit in written["tag_concurrency_limits"]] == [1, of_large_campaigns, 1]


def test_a_launcher_that_cannot_work_with_the_steps_is_refused_before_dagster_starts(tmp_path: Path) -> None:
    own = "run_launcher:\n  module: dagster_celery.launcher\n  class: CeleryRunLauncher\n"
    (tmp_path / "dagster.yaml").write_text(own, encoding="utf-8")
    environment = {
        **example_variables(),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "DAGSTER_HOME": str(tmp_path),
        "EMAIL_PLATFORM_STEPS": "celery",
        "EMAIL_PLATFORM_CELERY_BROKER_URL": "redis://:never-shown@h:6379/0",  # pragma: allowlist secret
    }
    ended = subprocess.run(
        ["sh", DEPLOY / "entrypoint.sh", "dagster", "--version"],
        env=environment, cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert ended.returncode == 2
    assert "CeleryRunLauncher with EMAIL_PLATFORM_STEPS=celery cannot work" in ended.stderr
    assert "never-shown" not in ended.stdout + ended.stderr
    assert "dagster, version" not in ended.stdout


def test_an_operator_s_own_instance_file_is_never_written_over(tmp_path: Path) -> None:
    path = tmp_path / "dagster.yaml"
    assert write_production_dagster_yaml(path, 4)
    assert write_production_dagster_yaml(path, 5)
    assert "max_concurrent_runs: 5" in path.read_text(encoding="utf-8")
    own = path.read_text(encoding="utf-8").split("\n", 1)[1].replace("DefaultRunLauncher", "K8sRunLauncher")
    path.write_text(own, encoding="utf-8")
    assert not write_production_dagster_yaml(path, 6)
    assert path.read_text(encoding="utf-8") == own


def test_the_image_s_entrypoint_starts_other_commands_as_they_are_and_hands_on_their_exit_code(tmp_path: Path) -> None:
    ended = subprocess.run(
        ["sh", DEPLOY / "entrypoint.sh", "sh", "-c", "exit 7"], env={"PATH": os.environ["PATH"]}, check=False
    )
    assert ended.returncode == 7


def test_dagster_s_processes_do_not_start_on_wrong_settings(tmp_path: Path) -> None:
    environment = {
        **example_variables(),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "DAGSTER_HOME": str(tmp_path),
        "EMAIL_PLATFORM_MAX_CONCURRENT_RUNS": "many",
    }
    ended = subprocess.run(
        ["sh", DEPLOY / "entrypoint.sh", "dagster", "--version"],
        env=environment, cwd=tmp_path, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert ended.returncode == 2
    assert "EMAIL_PLATFORM_MAX_CONCURRENT_RUNS: " in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_every_sensor_has_a_thread_of_its_own() -> None:
    sensors = yaml.safe_load((DEPLOY / "dagster.yaml").read_text(encoding="utf-8"))["sensors"]
    assert sensors["use_threads"] is True
    assert sensors["num_workers"] >= len(list((DEPLOY.parent / "sensors").glob("[!_]*.py"))), "a module is a sensor"


def test_the_tag_of_a_code_server_s_run_is_still_dagster_s() -> None:
    assert CODE_SERVER_TAG == GRPC_INFO_TAG


def test_dagster_reads_production_s_instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dagster.yaml").write_bytes((DEPLOY / "dagster.yaml").read_bytes())
    for name, value in example_variables().items():
        monkeypatch.setenv(name, value)
    reference = InstanceRef.from_dir(str(tmp_path))
    assert isinstance(reference.compute_log_manager, S3ComputeLogManager)
    assert isinstance(reference.run_coordinator, QueuedRunCoordinator)


def test_the_example_names_the_driver_that_dagster_s_storage_is_written_for() -> None:
    # dagster.yaml hands the variable to SQLAlchemy as it is, which takes psycopg 3 for a bare postgresql://.
    assert example_variables()["EMAIL_PLATFORM_DAGSTER_POSTGRES_URL"].startswith("postgresql+psycopg2://")
