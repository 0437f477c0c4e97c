"""Which run launcher of Dagster goes with which way of running steps; what cannot work is refused with the reason.

| launcher | steps=processes | steps=celery |
| --- | --- | --- |
| DefaultRunLauncher, K8sRunLauncher, EcsRunLauncher, DockerRunLauncher | yes | yes |
| CeleryRunLauncher | only where every worker runs with ``--pool solo`` | no |
| CeleryK8sRunLauncher | no | no |

Sources: Celery's *Tasks*, "Avoid launching synchronous subtasks" (a task that waits for others keeps its own slot, and
`AsyncResult.get` refuses to wait within one); Python's *multiprocessing*, `Process.daemon` (a daemonic process may have
no children; Celery's prefork slots are daemonic); dagster-celery-k8s 0.29, whose launcher takes runs of its own
executor only.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import yaml

from email_platform.errors import ConfigurationError
from email_platform.settings import variable_of

CELERY_RUN_LAUNCHER = "CeleryRunLauncher"
DEFAULT_RUN_LAUNCHER = "DefaultRunLauncher"
Steps = Literal["processes", "celery"]


def launcher_of(dagster_yaml: Path) -> str | None:
    """The class name of the run launcher of this file; Dagster's default where it names none, None without a file.

    Raises:
        ConfigurationError: the file is no YAML.
    """
    try:
        read = yaml.safe_load(dagster_yaml.read_text(encoding="utf-8")) or {}
    except FileNotFoundError:
        return None
    except yaml.YAMLError as wrong:
        raise ConfigurationError(f"{dagster_yaml} is not YAML: correct it, or let it be written") from wrong
    launcher = read.get("run_launcher") if isinstance(read, dict) else None
    return str(launcher.get("class", DEFAULT_RUN_LAUNCHER)) if isinstance(launcher, dict) else DEFAULT_RUN_LAUNCHER


def require_possible(launcher: str | None, steps: Steps, *, pool: str | None = None) -> None:
    """Refuse what cannot work.

    Args:
        launcher: class name of the run launcher; None where it is not known.
        steps: where steps run.
        pool: how Celery's workers run their tasks, where it is known.

    Raises:
        ConfigurationError: says why, and which settings go together.
    """
    reason = _why_not(launcher, steps, pool)
    if reason is not None:
        raise ConfigurationError(f"{launcher} with {variable_of('steps')}={steps} cannot work: {reason}")


def require_celery() -> None:
    """Refuse to go on where Celery's packages are missing.

    Raises:
        ConfigurationError: names the extra that brings them.
    """
    if find_spec("dagster_celery") is None or find_spec("redis") is None:
        raise ConfigurationError(
            f"{variable_of('steps')}=celery needs packages that are not installed: "
            "pip install -c requirements.txt '.[celery]'"
        )


def _why_not(launcher: str | None, steps: Steps, pool: str | None) -> str | None:
    if launcher == "CeleryK8sRunLauncher":
        return "it starts runs of its own executor only; use K8sRunLauncher"
    if launcher != CELERY_RUN_LAUNCHER:
        return None
    if steps == "celery":
        return (
            "a run would be a Celery task that waits for other tasks, which Celery refuses, and it would keep the slot "
            "that they need; use DefaultRunLauncher or K8sRunLauncher"
        )
    if pool not in (None, "solo"):
        return (
            f"a slot of Celery's {pool} pool may start no processes; start every worker with `--pool solo`, or use "
            "DefaultRunLauncher or K8sRunLauncher"
        )
    return None
