"""What holds for every command: help, exit codes, one sentence for a failure, completion."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from email_platform.cli.app import app
from email_platform.cli.failures import EXIT_CODES_HELP
from email_platform.errors import CampaignNotFoundError, ConfigurationError, PartUnavailableError
from email_platform.local.stack.stack import ALL_PART_NAMES
from email_platform.settings import Settings
from tests.without_the_extra import PROJECT_FOLDER

AWAY = {
    "EMAIL_PLATFORM_POSTGRES_URL": "postgresql://u:sekret@127.0.0.1:9/x",
    "EMAIL_PLATFORM_S3_BUCKET": "bucket",
    "EMAIL_PLATFORM_S3_ENDPOINT_URL": "http://127.0.0.1:9",
    "EMAIL_PLATFORM_S3_ACCESS_KEY_ID": "a",
    "EMAIL_PLATFORM_S3_SECRET_ACCESS_KEY": "sekret",
    "EMAIL_PLATFORM_CLICKHOUSE_URL": "http://u:sekret@127.0.0.1:9/x",
    "EMAIL_PLATFORM_UNSUBSCRIBE_SECRET": "sekret-sekret-sekret",
}


def every_command(command: Any = None, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    command = command or get_command(app)
    if not hasattr(command, "commands"):
        yield words, command
        return
    for name, below in command.commands.items():
        yield from every_command(below, (*words, name))


COMMANDS = dict(every_command())


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("EMAIL_PLATFORM_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")


@pytest.mark.parametrize("words", [words for words in COMMANDS if words != ("dbt",)], ids=" ".join)
def test_every_command_explains_itself_and_each_of_its_options(words: tuple[str, ...]) -> None:
    result = CliRunner().invoke(app, [*words, "--help"])
    assert result.exit_code == 0, result.output
    assert all(len(line) <= 80 for line in result.output.splitlines())
    command = COMMANDS[words]
    assert command.help
    for parameter in command.params:
        assert getattr(parameter, "help", None), (words, parameter.name)


@pytest.mark.parametrize(
    "words",
    [("campaign", "list"), ("campaign", "preview"), ("campaign", "unknown"), ("suppression", "list"),
     ("warehouse", "find"), ("doctor",), ("status",)],
    ids=" ".join,
)  # fmt: skip
def test_every_command_that_lists_or_shows_prints_json_too(words: tuple[str, ...]) -> None:
    assert any("--json" in parameter.opts for parameter in COMMANDS[words].params)


def test_the_help_lists_every_noun_and_the_exit_codes() -> None:
    output = CliRunner().invoke(app, ["--help"]).output
    for noun in {words[0] for words in COMMANDS}:
        assert noun in output
    assert EXIT_CODES_HELP in " ".join(output.split())


def test_the_help_of_up_names_every_part() -> None:
    output = " ".join(CliRunner().invoke(app, ["up", "--help"]).output.replace("│", " ").split())
    assert ", ".join(ALL_PART_NAMES) in output


@pytest.mark.parametrize(
    ("failure", "exit_code"),
    [
        (ConfigurationError("EMAIL_PLATFORM_X: wrong"), 2),
        (PartUnavailableError("S3 does not answer"), 1),
        (CampaignNotFoundError(99), 1),
        (FileNotFoundError(2, "No such file or directory", "list.csv"), 1),
    ],
)
def test_an_expected_failure_is_one_sentence_on_standard_error(
    monkeypatch: pytest.MonkeyPatch, failure: Exception, exit_code: int
) -> None:
    def fail() -> None:
        raise failure

    monkeypatch.setattr(Settings, "load", fail)
    result = CliRunner().invoke(app, ["migrate"])
    assert result.exit_code == exit_code
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("error: ")


@pytest.mark.parametrize("failure", [ValueError("ours"), OSError("no file in it"), KeyError("ours")])
def test_a_fault_of_ours_is_not_passed_off_as_the_operator_s(
    monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    def fail() -> None:
        raise failure

    monkeypatch.setattr(Settings, "load", fail)
    assert CliRunner().invoke(app, ["migrate"]).exception is failure


def test_a_campaign_that_is_not_there_is_not_guessed_about() -> None:
    assert str(CampaignNotFoundError(99)) == "campaign 99 does not exist"


def test_missing_settings_end_with_exit_code_2_and_every_variable(tmp_path: Path) -> None:
    for words in (("campaign", "list"), ("suppression", "list"), ("migrate",), ("doctor",), ("warehouse", "find")):
        arguments = [*words, "--lead", "1"] if words[0] == "warehouse" else list(words)
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 2, words
        assert "EMAIL_PLATFORM_POSTGRES_URL is not set" in result.stderr


ASK_THE_PARTS: tuple[tuple[str, ...], ...] = (
    ("campaign", "list"), ("campaign", "queue", "99"), ("suppression", "list"), ("suppression", "export", "x.csv"),
    ("warehouse", "find", "--lead", "1"), ("migrate",), ("doctor",),
)  # fmt: skip
HEAVY = ("boto3", "botocore", "clickhouse_connect", "dagster", "numpy", "pandas", "psycopg", "pyarrow", "sqlalchemy")


@pytest.fixture(scope="module")
def answers_without_parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Every command of `ASK_THE_PARTS` in one fresh interpreter, where no log handler of the tests is installed.

    A driver's own line on standard error would be seen here, in the command's or in the interpreter's.
    """
    program = (
        "import json\n"
        "from typer.testing import CliRunner\n"
        "from email_platform.cli.app import app\n"
        "answers = {}\n"
        f"for words in {ASK_THE_PARTS!r}:\n"
        "    result = CliRunner().invoke(app, words)\n"
        "    fault = None if isinstance(result.exception, SystemExit | None) else repr(result.exception)\n"
        "    answers[' '.join(words)] = {\n"
        "        'code': result.exit_code, 'out': result.stdout, 'err': result.stderr, 'fault': fault}\n"
        "print(json.dumps(answers))\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env={**AWAY, "PATH": os.environ["PATH"], "PYTHONPATH": str(PROJECT_FOLDER), "COLUMNS": "80"},
        cwd=tmp_path_factory.mktemp("away"), capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (0, "")
    answers: dict[str, dict[str, Any]] = json.loads(ended.stdout)
    return answers


@pytest.mark.parametrize("words", ASK_THE_PARTS, ids=" ".join)
def test_parts_that_are_away_are_an_answer_and_no_traceback(
    words: tuple[str, ...], answers_without_parts: dict[str, dict[str, Any]]
) -> None:
    answer = answers_without_parts[" ".join(words)]
    assert answer["code"] == 1
    assert answer["fault"] is None
    assert "127.0.0.1:9" in answer["out"] + answer["err"]
    assert "Traceback" not in answer["err"]
    assert "sekret" not in answer["out"] + answer["err"]
    if words != ("doctor",):
        assert len(answer["err"].splitlines()) == 1


def test_help_and_completion_do_not_wait_for_drivers(tmp_path: Path) -> None:
    program = (
        "import os, sys\n"
        "from email_platform.cli.app import app\n"
        "def run(*words):\n"
        "    sys.argv = ['email-platform', *words]\n"
        "    try: app()\n"
        "    except SystemExit as end: assert not end.code, (words, end.code)\n"
        f"for words in {[words for words in COMMANDS if words != ('dbt',)]!r}: run(*words, '--help')\n"
        "os.environ |= {'_EMAIL_PLATFORM_COMPLETE': 'complete_bash', 'COMP_CWORD': '2',"
        " 'COMP_WORDS': 'email-platform campaign pre'}\n"
        "run()\n"
        f"heavy = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "assert not heavy, heavy\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], env={"PATH": os.environ["PATH"], "PYTHONPATH": str(PROJECT_FOLDER)},
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert "preview" in ended.stdout.split()


@pytest.mark.parametrize(
    ("typed", "expected"),
    [("email-platform camp", "campaign"), ("email-platform campaign pre", "preview"),
     ("email-platform campaign list --js", "--json"), ("email-platform campaign decide 1 aba", "abandon")],
)  # fmt: skip
def test_the_shell_completes_nouns_commands_options_and_choices(typed: str, expected: str) -> None:
    environment = {
        **os.environ,
        "_EMAIL_PLATFORM_COMPLETE": "complete_bash",
        "COMP_WORDS": typed,
        "COMP_CWORD": str(len(typed.split()) - 1),
    }
    program = "import sys; sys.argv[0] = 'email-platform'; from email_platform.cli.app import app; app()"
    completed = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False,
        cwd=PROJECT_FOLDER,
    )  # fmt: skip
    assert expected in completed.stdout.split()


def test_parts_that_are_away_are_named_one_by_one_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in AWAY.items():
        monkeypatch.setenv(name, value)
    for command in ("doctor", "status"):
        result = CliRunner().invoke(app, [command, "--json"])
        assert result.exit_code == 1, result.output
        document = json.loads(result.stdout)
        checks = {one["part"]: one for one in (document["checks"] if command == "status" else document)}
        for part in ("PostgreSQL", "S3", "ClickHouse", "queue", "events"):
            assert not checks[part]["fits"], part
            assert checks[part]["do"], part
        assert checks["receiver"]["says"].startswith("not asked")
        assert checks["disk"]["fits"]
        assert "sekret" not in result.output
    assert CliRunner().invoke(app, ["status", "--json", "--watch"]).exit_code == 2
