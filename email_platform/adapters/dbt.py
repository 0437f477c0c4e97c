"""``email-platform dbt``: dbt on the reports' project and the warehouse of the settings.

Invariant: the warehouse's password reaches dbt by its environment only, never by an argument, which a list of processes
shows.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from email_platform.adapters.clickhouse import dbt_environment
from email_platform.settings import Settings

PROJECT_FOLDER = Path(__file__).parents[2] / "dbt_reports"


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
    environment = {
        **os.environ,
        **dbt_environment(settings.clickhouse_url.get_secret_value()),
        "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
    }
    return subprocess.run(command, env=environment, check=False).returncode
