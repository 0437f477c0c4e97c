"""Does docs/templates.md say what the sandbox allows, no more and no less?"""

from __future__ import annotations

import re
from pathlib import Path

from email_platform.content.analysis import _FORBIDDEN_TAGS, CAMPAIGN_FIELDS, CONTENT_FIELDS, LEAD_FIELDS
from email_platform.content.budget import (
    MAXIMUM_LOOP_ITEMS,
    MAXIMUM_STEPS,
    MAXIMUM_VALUE_CHARACTERS,
    MAXIMUM_VALUE_DEPTH,
    MAXIMUM_VALUE_ITEMS,
    MAXIMUM_WORKED_CHARACTERS,
)
from email_platform.content.compile import MAXIMUM_TEMPLATE_CHARACTERS, MAXIMUM_TEMPLATE_NODES, ContentLimits
from email_platform.content.sandbox import ALLOWED_FILTERS, ALLOWED_FUNCTIONS, ALLOWED_METHODS, ALLOWED_TESTS

PAGE = (Path(__file__).parents[3] / "docs" / "templates.md").read_text(encoding="utf-8")


def in_row(name: str) -> set[str]:
    """The words in backticks of the allowed things' row."""
    row = re.search(rf"^\| {name} \| (.*) \|$", PAGE, re.MULTILINE)
    assert row is not None, name
    return {word for code in re.findall(r"`([^`]+)`", row[1]) for word in code.split()}


def test_filters_tests_methods_and_functions_are_those_that_are_allowed() -> None:
    assert in_row("Filters") == ALLOWED_FILTERS
    assert in_row("Tests") == ALLOWED_TESTS
    assert {word.removeprefix("loop.") for word in in_row("Methods of texts")} == ALLOWED_METHODS
    assert in_row("Functions") == ALLOWED_FUNCTIONS


def test_the_variables_are_those_that_a_template_may_use() -> None:
    table = PAGE.partition("## Variables")[2].partition("\n## ")[0]
    named = set(re.findall(r"`([a-z_.]+)`", table)) - {"attributes.key", "attributes.key.key"}
    assert named == set(CONTENT_FIELDS)
    assert {*LEAD_FIELDS, *CAMPAIGN_FIELDS} < named


def test_what_is_refused_is_named() -> None:
    refused = re.search(r"^Not allowed are (.*)\.$", PAGE, re.MULTILINE)
    assert refused is not None
    assert set(re.findall(r"`([^`]+)`", refused[1])) == set(_FORBIDDEN_TAGS.values())


def test_the_limits_are_those_of_the_code() -> None:
    limits = PAGE.partition("## Limits")[2].partition("\n## ")[0]
    numbers = {int(number.replace(",", "")) for number in re.findall(r"\d[\d,]*", limits)}
    assert {
        *(MAXIMUM_TEMPLATE_CHARACTERS, MAXIMUM_TEMPLATE_NODES, ContentLimits().html_bytes),
        *(MAXIMUM_VALUE_CHARACTERS, MAXIMUM_VALUE_ITEMS, MAXIMUM_VALUE_DEPTH, MAXIMUM_LOOP_ITEMS),
        *(MAXIMUM_STEPS, MAXIMUM_WORKED_CHARACTERS),
    } == numbers
