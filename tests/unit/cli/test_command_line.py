"""What holds for every command: help, exit codes, one sentence for a failure, completion."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from email_platform.cli import campaign, parts
from email_platform.cli.app import app
from email_platform.cli.failures import EXIT_CODES_HELP
from email_platform.errors import CampaignNotFoundError, ConfigurationError, PartUnavailableError
from email_platform.local.stack.stack import ALL_PART_NAMES

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

    monkeypatch.setattr(parts.Settings, "load", fail)
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

    monkeypatch.setattr(parts.Settings, "load", fail)
    assert CliRunner().invoke(app, ["migrate"]).exception is failure


def test_a_campaign_that_is_not_there_is_not_guessed_about() -> None:
    assert str(CampaignNotFoundError(99)) == "campaign 99 does not exist"


def test_missing_settings_end_with_exit_code_2_and_every_variable(tmp_path: Path) -> None:
    for words in (("campaign", "list"), ("suppression", "list"), ("migrate",), ("doctor",), ("warehouse", "find")):
        arguments = [*words, "--lead", "1"] if words[0] == "warehouse" else list(words)
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 2, words
        assert "EMAIL_PLATFORM_POSTGRES_URL is not set" in result.stderr


@pytest.mark.parametrize(
    "words",
    [("campaign", "list"), ("campaign", "queue", "99"), ("suppression", "list"), ("suppression", "export", "x.csv"),
     ("warehouse", "find", "--lead", "1"), ("migrate",), ("doctor",)],
    ids=" ".join,
)  # fmt: skip
def test_parts_that_are_away_are_an_answer_and_no_traceback(words: tuple[str, ...], tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "email_platform.cli.app", *words],
        env={**AWAY, "PATH": os.environ["PATH"], "PYTHONPATH": str(Path(campaign.__file__).parents[2])},
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert ended.returncode == 1
    assert "127.0.0.1:9" in ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr
    assert "sekret" not in ended.stdout + ended.stderr
    if words != ("doctor",):
        assert len(ended.stderr.splitlines()) == 1


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
        cwd=Path(campaign.__file__).parents[2],
    )  # fmt: skip
    assert expected in completed.stdout.split()
