"""The way over as docs/adopting.md writes it: its lines as one script of a shell."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

Engine = Literal["PostgreSQL", "MySQL or MariaDB"]

_PAGE = Path(__file__).parents[3] / "docs" / "adopting.md"
_BLOCK = re.compile(r'^```sh(?: title="([^"]+)")?\n(.*?)^```', re.MULTILINE | re.DOTALL)
# What the page says to look for in Dagster's UI.
_UNTIL_THE_BACKFILLS_ARE_THROUGH = """
python - <<'END'
import time
from dagster import DagsterInstance
with DagsterInstance.get() as instance:
    waits = True
    while waits:
        time.sleep(1)
        is_through = {}
        for run in instance.get_runs():
            if "dagster/backfill" in run.tags:
                partition = run.tags["dagster/backfill"], run.tags["dagster/partition"]
                is_through[partition] = is_through.get(partition, False) or run.status.value == "SUCCESS"
        waits = not is_through or not all(is_through.values())
END
"""


def blocks(engine: Engine) -> list[str]:
    """The page's lines for an old system in this engine, block by block."""
    way = _PAGE.read_text(encoding="utf-8").partition("## The way over")[2]
    return [lines for title, lines in _BLOCK.findall(way) if title in ("", engine)]


def script(engine: Engine) -> str:
    """All of them, to be run from the project's folder; whatever happens, the platform is stopped at the end."""
    lines = ["trap 'email-platform down' EXIT"]
    for block in blocks(engine):
        lines += [block, _UNTIL_THE_BACKFILLS_ARE_THROUGH if "dagster job backfill" in block else ""]
    return "\n".join(lines)


def exports(engine: Engine) -> dict[str, str]:
    """What the page sets of the platform's own variables, as it stands there."""
    found = re.findall(r"^export (EMAIL_PLATFORM_\w+)=(.*)$", "\n".join(blocks(engine)), re.MULTILINE)
    return {name: value.strip("'\"") for name, value in found}
