from __future__ import annotations

from pathlib import Path

import pytest

from email_platform.adapters.launchers import Steps, launcher_of, require_possible
from email_platform.errors import ConfigurationError


@pytest.mark.parametrize("launcher", ["DefaultRunLauncher", "K8sRunLauncher", "EcsRunLauncher", "DockerRunLauncher"])
@pytest.mark.parametrize("steps", ["processes", "celery"])
def test_launchers_that_start_processes_go_with_both_ways(launcher: str, steps: Steps) -> None:
    require_possible(launcher, steps)


@pytest.mark.parametrize(
    ("launcher", "steps", "pool", "reason"),
    [
        ("CeleryRunLauncher", "celery", None, "waits for other tasks"),
        ("CeleryRunLauncher", "celery", "solo", "waits for other tasks"),
        ("CeleryRunLauncher", "processes", "prefork", "--pool solo"),
        ("CeleryK8sRunLauncher", "celery", None, "use K8sRunLauncher"),
        ("CeleryK8sRunLauncher", "processes", None, "use K8sRunLauncher"),
    ],
)
def test_what_cannot_work_is_refused_with_the_reason(
    launcher: str, steps: Steps, pool: str | None, reason: str
) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        require_possible(launcher, steps, pool=pool)
    assert str(refusal.value).startswith(f"{launcher} with EMAIL_PLATFORM_STEPS={steps} cannot work: ")
    assert reason in str(refusal.value)


def test_celery_s_launcher_goes_with_processes_where_the_pool_is_solo() -> None:
    require_possible("CeleryRunLauncher", "processes", pool="solo")
    require_possible("CeleryRunLauncher", "processes")


@pytest.mark.parametrize(
    ("text", "launcher"),
    [
        ("run_launcher:\n  module: dagster_k8s\n  class: K8sRunLauncher\n", "K8sRunLauncher"),
        ("storage: {}\n", "DefaultRunLauncher"),
        ("", "DefaultRunLauncher"),
    ],
)
def test_the_launcher_is_read_from_dagster_s_file(tmp_path: Path, text: str, launcher: str) -> None:
    path = tmp_path / "dagster.yaml"
    assert launcher_of(path) is None
    path.write_text(text, encoding="utf-8")
    assert launcher_of(path) == launcher


def test_a_file_that_is_no_yaml_is_named(tmp_path: Path) -> None:
    path = tmp_path / "dagster.yaml"
    path.write_text("run_launcher: [", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="is not YAML"):
        launcher_of(path)
