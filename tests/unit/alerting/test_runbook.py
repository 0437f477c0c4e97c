"""Does docs/runbook.md have an answer for every reason that the code can write, and for every fault that was caused?"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[3]
RUNBOOK = (PROJECT / "docs" / "runbook.md").read_text(encoding="utf-8")
FAULTS = PROJECT / "tests" / "integration" / "alerting" / "test_faults_ring_once.py"

# Every place that writes a reason, and the words that its reasons are made of, by the module that has them.
WRITTEN_AT = {
    "email_platform/alerting/rules.py": ["by an operator"],
    "email_platform/adapters/postgres/campaigns.py": [],  # writes what it is given
    "email_platform/adapters/postgres/guard.py": [],  # the guard's
    "email_platform/adapters/postgres/ledger.py": ["to resend unknown calls", "to send to refused recipients again"],
    "email_platform/api/campaigns.py": [],  # an operator's
    "email_platform/cli/campaign.py": [],  # an operator's
    "email_platform/runs/finish.py": ["nobody to send to", "nobody was reached", "have no answer and are held"],
    "email_platform/runs/freeze.py": ["or raise EMAIL_PLATFORM_CONTENT_ERROR_SHARE"],
    "email_platform/runs/launch.py": ["attempts in a row came to nothing"],
    "email_platform/runs/send.py": [],  # the errors' below
    "email_platform/runs/unknown.py": [],  # those of finish
}
MADE_ELSEWHERE = {
    "email_platform/adapters/postgres/campaigns.py": ["its condition ", "its scheduled_at "],
    "email_platform/content/analysis.py": [" template, line "],
    "email_platform/content/apart.py": ["rendering "],
    "email_platform/content/check.py": ["nobody can be sent this"],
    "email_platform/content/prepare.py": ["html template: "],
    "email_platform/errors.py": ["condition at "],
    "email_platform/runs/guard.py": ["bounced hard", "were complained about", "were blocked"],
    "email_platform/sending/breaker.py": [
        "the provider deferred every recipient of ",
        "the provider refused the only recipient who is left",
        " calls in a row",
        " recipients",
    ],
    "email_platform/sending/chunk_delivery.py": ["a call failed "],
    "email_platform/settings/names.py": ["EMAIL_PLATFORM_"],
}
# The one row without words of ours: those of providers.
OF_OTHERS = {"a provider's code and words"}


def rows(heading: str) -> list[list[str]]:
    """The cells of the table below a heading."""
    section = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", RUNBOOK, re.MULTILINE | re.DOTALL)
    assert section is not None, heading
    lines = [line for line in section[1].splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines[2:]]


REASONS = [row[0] for row in rows("Reasons of a campaign")]


def texts_of(path: str) -> str:
    """Every constant text of a module, as its f-strings and joined literals hold them."""
    tree = ast.parse((PROJECT / path).read_text(encoding="utf-8"))
    return "\n".join(
        node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def modules_that_write_reasons() -> Iterator[str]:
    for folder in ("email_platform", "assets", "sensors", "resources"):
        for path in sorted((PROJECT / folder).rglob("*.py")):
            if "migrations" in path.parts:
                continue
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if not isinstance(node, ast.Call):
                    continue
                name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                if name == "change_status" and len(node.args) + len(node.keywords) > 2:
                    yield str(path.relative_to(PROJECT))


def test_every_module_that_writes_a_reason_is_known() -> None:
    makes_words_only = {"email_platform/alerting/rules.py"}
    assert set(modules_that_write_reasons()) == WRITTEN_AT.keys() - makes_words_only


@pytest.mark.parametrize(
    ("path", "words"),
    [(path, words) for known in (WRITTEN_AT, MADE_ELSEWHERE) for path, several in known.items() for words in several],
)
def test_every_reason_has_a_row_in_the_runbook(path: str, words: str) -> None:
    assert words in texts_of(path), "the code has other words now"
    having = [row for row in REASONS if words.strip() in row]
    assert having, f"docs/runbook.md says nothing of {words!r}"


def test_no_row_is_about_words_that_nobody_writes_any_more() -> None:
    known = [words.strip() for each in (WRITTEN_AT, MADE_ELSEWHERE) for several in each.values() for words in several]
    without = [row for row in REASONS if row not in OF_OTHERS and not any(words in row for words in known)]
    assert without == []


def test_every_row_has_a_meaning_and_something_to_do() -> None:
    for row in rows("Reasons of a campaign"):
        assert len(row) == 4
        assert all(row), row


def test_every_fault_of_the_table_is_caused_and_rings_as_it_says() -> None:
    tests = FAULTS.read_text(encoding="utf-8")
    caused = dict(re.findall(r"^    (\w+): \"(\w+)\",$", tests, re.MULTILINE))
    found = {row[2].strip("`"): row[1].strip("`") for row in rows("Faults that were caused")}
    dead_receiver = {"a_dead_receiver_is_seen_from_dagster": "receiver_dead"}
    assert found == {**caused, **dead_receiver}
    assert all(f"def {name}(" in tests or f"def test_{name}(" in tests for name in found)
    assert len(found) >= 10
