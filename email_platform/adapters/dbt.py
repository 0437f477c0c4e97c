"""dbt on the reports' project and the warehouse of the settings: for ``email-platform dbt``, and for Dagster's steps.

``python -m email_platform.adapters.dbt …`` becomes dbt with these arguments; a step's process starts it, so that the
step need not change its own environment, which other threads and steps of the same process read.

Invariant: the warehouse's password reaches dbt by its environment only, never by an argument, which a list of processes
shows.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from email_platform.adapters.clickhouse import dbt_environment
from email_platform.adapters.clickhouse.production_form import production_form
from email_platform.errors import ConfigurationError
from email_platform.settings import Settings

PROJECT_FOLDER = Path(__file__).parents[2] / "dbt_reports"
_KEPT = "partial_parse.msgpack"
_PARSED = "DBT_PARTIAL_PARSE_FILE_PATH"


def dbt_executable() -> str:
    """The dbt beside this interpreter, so that an inactive virtual environment works too; else the one on PATH."""
    beside = Path(sys.executable).with_name("dbt")
    return str(beside) if beside.exists() else "dbt"


def run_dbt(settings: Settings, arguments: list[str]) -> int:
    """Run dbt with these arguments on the warehouse of the settings; returns its exit code."""
    command = [
        dbt_executable(),
        *arguments,
        "--project-dir",
        str(PROJECT_FOLDER),
        "--profiles-dir",
        str(PROJECT_FOLDER),
    ]
    return subprocess.run(command, env=_environment(settings), check=False).returncode


def _environment(settings: Settings) -> dict[str, str]:
    own_target = Path(os.environ.get("DBT_TARGET_PATH") or PROJECT_FOLDER / "target")
    parsed = newest_parse(PROJECT_FOLDER / "target", own_target.parent)
    form = production_form(settings)
    return {
        **({_PARSED: str(parsed)} if parsed is not None else {}),
        **os.environ,
        **dbt_environment(settings.clickhouse_url.get_secret_value(), sharded=form is not None and form.sharded),
        "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
    }


def newest_parse(*folders: Path) -> Path | None:
    """What dbt kept of its newest parse, in these folders or right below them; None where it kept nothing.

    Dagster gives each build a new target folder, in which dbt finds nothing and parses the whole project: 3.5 s of
    processor rather than 2.0 s for ``dbt parse``. dbt compares project, profile and variables with what it finds, and
    parses everything where they differ or the file is broken (dbt's documentation, "Partial parsing").
    """
    found = {
        path: _written_at(path) for folder in folders for path in (*folder.glob(_KEPT), *folder.glob(f"*/{_KEPT}"))
    }
    return max(found, key=found.__getitem__, default=None)


def _written_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # another build has just removed it
        return 0.0


def become_dbt(arguments: Sequence[str]) -> NoReturn:
    """Replace this process by dbt on the warehouse of the settings; signals then reach dbt itself.

    Raises:
        ConfigurationError: a setting is missing or wrong.
    """
    dbt = shutil.which(dbt_executable()) or dbt_executable()
    os.execve(dbt, [dbt, *arguments], _environment(Settings.load()))  # noqa: S606 (no shell is wanted)


if __name__ == "__main__":
    try:
        become_dbt(sys.argv[1:])
    except ConfigurationError as error:
        sys.exit(str(error))
