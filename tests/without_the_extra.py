"""An interpreter that has what an image without the extra `embedded` has, and nothing of `email_platform.local`.

Refused are the packages that only the extra brings: what it asks for, with all that those ask for, less what the
platform's own dependencies bring anyway (numpy comes with pandas). Both sets come from the installed metadata, so a
package that moves from one to the other needs no change here. A slow test holds this to a virtual environment that is
really built without them.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

PROJECT_FOLDER = Path(__file__).parents[1]

_PROGRAM = """
import importlib.metadata, os, sys
modules, distributions, local = set({modules!r}), set({distributions!r}), {local!r}
class Refusal:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in modules or local and (name + ".").startswith("email_platform.local."):
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Refusal())
found = importlib.metadata.distribution
def distribution(name):
    if name.lower().replace("_", "-") in distributions:
        raise importlib.metadata.PackageNotFoundError(name)
    return found(name)
importlib.metadata.distribution = distribution
sys.argv = ["email-platform", *{arguments!r}]
{program}
"""
_COMMAND_LINE = "from email_platform.cli.app import app; app()"


@cache
def refused_distributions() -> frozenset[str]:
    """The packages that only the extra brings, by normalised name."""
    own = [Requirement(line) for line in metadata.requires("email-platform") or []]
    base = _closure([each for each in own if each.marker is None or each.marker.evaluate({"extra": ""})])
    extra = [each for each in own if each.marker is not None and each.marker.evaluate({"extra": "embedded"})]
    return frozenset(_closure(extra) - base)


@cache
def refused_modules() -> frozenset[str]:
    """What those packages are imported as; not what another package brings too."""
    refused = refused_distributions()
    return frozenset(
        module
        for module, distributions in metadata.packages_distributions().items()
        if {_normalised(name) for name in distributions} <= refused
    )


def run_without_the_extra(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    folder: Path,
    *,
    refuse_local: bool = True,
    program: str = _COMMAND_LINE,
) -> subprocess.CompletedProcess[str]:
    """The command line, or another program, in a fresh interpreter without the extra."""
    return subprocess.run(
        command_without_the_extra(arguments, refuse_local=refuse_local, program=program),
        env={**environment, "PYTHONPATH": str(PROJECT_FOLDER)},
        cwd=folder, capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip


def command_without_the_extra(
    arguments: Sequence[str], *, refuse_local: bool = True, program: str = _COMMAND_LINE
) -> list[str]:
    """The same as a command line."""
    filled = _PROGRAM.format(
        modules=sorted(refused_modules()),
        distributions=sorted(refused_distributions()),
        local=refuse_local,
        arguments=list(arguments),
        program=program,
    )
    return [sys.executable, "-c", filled]


def _closure(requirements: Collection[Requirement]) -> set[str]:
    """The packages that these requirements bring, with all that those require, as far as they are installed."""
    found: set[str] = set()
    waiting = [(_normalised(each.name), extra) for each in requirements for extra in ("", *each.extras)]
    seen = set(waiting)
    while waiting:
        name, extra = waiting.pop()
        try:
            lines = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        found.add(name)
        for each in map(Requirement, lines):
            if each.marker is None or each.marker.evaluate({"extra": extra}):
                for below in ("", *each.extras):
                    step = (_normalised(each.name), below)
                    if step not in seen:
                        seen.add(step)
                        waiting.append(step)
    return found


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
