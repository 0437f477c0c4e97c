"""A few hundred characters of template can ask for no more than the budget: steps, characters, memory."""

from __future__ import annotations

import sys
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from email_platform.content import pieces
from email_platform.content.budget import (
    MAXIMUM_STEPS,
    MAXIMUM_WORKED_CHARACTERS,
    Budget,
    BudgetError,
    size_of,
)
from email_platform.content.compile import CompiledContent, check_content, compile_content
from email_platform.content.layout import Layout
from email_platform.content.problem import ContentProblem
from email_platform.content.render import render_rows
from email_platform.domain.campaigns import CampaignContent
from email_platform.errors import InvalidTemplateError
from tests.unit.content.test_pieces import SIGNER, manifest, table

pytestmark = pytest.mark.slow

MOST_MEMORY_BYTES = 64_000_000
LEAD = {
    "first_name": "Ada",
    "city": "x" * 1_000,
    "attributes": {"t": ["a", "b"] * 20, "n": 3, "f": 1.5, "d": {"k": [1, {"l": "m"}]}},
}


def rendered(html: str, lead: dict[str, Any] | None = None) -> tuple[str, ...] | ContentProblem | InvalidTemplateError:
    """What becomes of this template, with its memory measured."""
    of = CampaignContent("s", html, "")
    tracemalloc.start()
    try:
        compiled = compile_content(of)
        check_content(compiled)
        (outcome,) = render_rows(compiled, table(lead or LEAD), manifest(of), SIGNER).values
    except InvalidTemplateError as error:
        return error
    finally:
        peak_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak_bytes < MOST_MEMORY_BYTES
    return outcome


def doubled(first: str, step: str, times: int = 40) -> str:
    return "{% set a = " + first + " %}" + ("{% set a = " + step + " %}") * times


BOMBS = {
    "nested lists": doubled("[first_name]", "[a, a]") + "{{ a }}",
    "nested lists of constants": doubled("[1]", "[a, a]") + "{{ a }}",
    "nested tuples": doubled("(first_name, 1)", "(a, a)") + "{{ a }}",
    "nested dictionaries": doubled("{'k': first_name}", "{'k': a, 'l': a}") + "{{ a }}",
    "nested lists compared": doubled("[first_name]", "[a, a]", 10) + "{% set b = [a, a] %}" * 1 + "{{ b == b }}" * 200,
    "nested lists, unique": doubled("(first_name, 1)", "(a, a)") + "{{ [a, a] | unique }}",
    "nested lists, sorted": doubled("[first_name]", "[a, a]") + "{{ [a, a] | sort }}",
    "lists added": doubled("[first_name]", "a + a") + "{{ a }}",
    "texts added": doubled("first_name", "a + a") + "{{ a }}",
    "a ~ a ~ a": "{% set a = city ~ city %}{% set a = a ~ a ~ a ~ a %}{{ " + " ~ ".join(["a"] * 5_000) + " }}",
    "concatenated constants": "{{ " + " ~ ".join(["'" + "x" * 50_000 + "'"] * 9) + " }}",
    "lists in sum": "{% set a = [[1, 2], [3]] %}" + "{{ a | sum(start=[]) }}",
    "two loops with a long body": "{% for a in range(1000) %}{% for b in range(1000) %}"
    + "{% if first_name == 'x' %}y{% endif %}" * 50
    + "{% endfor %}{% endfor %}",
    "two loops that print nothing": "{% for a in range(1000) %}{% for b in range(1000) %}{% endfor %}{% endfor %}",
    "two loops in a filter": "{% filter upper %}{% for a in range(1000) %}{% for b in range(1000) %}"
    + "x" * 10_000
    + "{% endfor %}{% endfor %}{% endfilter %}",
    "slices in loops": "{% set a = city ~ city ~ city ~ city %}{% for i in range(1000) %}{% for j in range(50) %}"
    + "{% set b = a[1:] %}" * 5
    + "{% endfor %}{% endfor %}",
    "a format by a test": "{{ '%1000000000d' is divisibleby 7 }}",
    "a format by another test": "{{ '%1000000000d' is odd }}",
    "tags stripped": "{% set a = '<>' %}"
    + "{% set a = a ~ a %}" * 15
    + "{% for i in range(200) %}{{ a | striptags }}{% endfor %}",
    "a long text in a loop": "{% set a = city %}"
    + "{% set a = a ~ a %}" * 6
    + "{% for i in range(1000) %}{{ a in a }}{% endfor %}",
    "a long split": "{% set a = city %}"
    + "{% set a = a ~ a %}" * 6
    + "{% for i in range(1000) %}{{ a.split('y') }}{% endfor %}",
    "an escaped replacement": "{% set a = city %}" + "{{ a | replace('x', '" + "<" * 90 + "') }}",
    "a list joined with itself": doubled("first_name", "[a, a] | join(a)"),
    "a text of a text": doubled("first_name", "[a, a] | string"),
    "a big sum": doubled("9", "a * a") + "{{ a }}",
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_template_bomb_ends_with_a_sentence_and_little_memory(name: str) -> None:
    outcome = rendered(BOMBS[name])
    assert isinstance(outcome, ContentProblem | InvalidTemplateError)
    sentence = outcome.reason if isinstance(outcome, ContentProblem) else str(outcome)
    assert any(
        limit in sentence
        for limit in (
            *("steps", "characters", "longer than", "holds more than", "more than 1,000 items", "nested more than"),
            *("for numbers only", "grew too large", "names, constants"),
        )
    ), sentence


def test_an_ordinary_long_newsletter_is_far_below_the_budget() -> None:
    rows = "{% for t in attributes.t %}<tr><td>{{ loop.index }}</td><td>{{ t | upper }}</td></tr>{% endfor %}" * 10
    used: list[Budget] = []

    class Watched(Budget):
        __slots__ = ()

        def __init__(self) -> None:
            super().__init__()
            used.append(self)

    of = CampaignContent("s", "<table>" + rows + "</table>" + "{{ city | upper }}" * 100, "")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("email_platform.content.render.Budget", Watched)
        (values,) = render_rows(compile_content(of), table(LEAD), manifest(of), SIGNER).values
    assert isinstance(values, tuple)
    assert used[0].steps > MAXIMUM_STEPS * 0.9
    assert used[0].characters > MAXIMUM_WORKED_CHARACTERS * 0.9


def test_a_value_counts_whatever_is_inside_however_often_it_is_named() -> None:
    inner: list[Any] = ["ab"]
    assert size_of([inner, inner]) == (5, 4 + 4 * 2 + 4 * 2)
    for _ in range(12):
        inner = [inner, inner]
    with pytest.raises(BudgetError, match="holds more than"):
        size_of([inner] * 3)
    deep: list[Any] = []
    for _ in range(60):
        deep = [deep]
    with pytest.raises(BudgetError, match="nested more than 50 deep"):
        size_of(deep)


def test_a_bomb_in_what_depends_on_the_campaign_alone_is_the_templates_fault() -> None:
    of = CampaignContent("s", "{% for a in range(1000) %}{% for b in range(1000) %}{% endfor %}{% endfor %}", "")
    with pytest.raises(InvalidTemplateError, match=r"more than 1,000,000 steps; the same for every recipient"):
        Layout(compile_content(of), manifest(of), SIGNER)


# --- templates from the grammar ------------------------------------------------------------------------------

ATOM = st.sampled_from(
    [
        *("a", "b", "first_name", "city", "attributes.t", "attributes.d", "attributes.n", "1", "'xy'", "range(900)"),
        *("9.5", "[a, b]", "(a, a)", "{'k': a}", "campaign.year", "attributes.f"),
    ]
)
FILTER = st.sampled_from(
    [
        *("upper", "string", "unique", "sort", "reverse", "join(a)", "join('xyz')", "replace('x', city)", "length"),
        *("sum", "sum(start=[])", "first", "last", "round(3)", "list", "default(b)", "urlencode", "striptags", "max"),
        *("e", "title", "truncate(9)", "wordcount", "int", "float", "abs", "trim", "replace(a, b)", "capitalize"),
    ]
)


def combined(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    operator = st.sampled_from([" ~ ", " + ", " * ", " == ", " in ", " < ", " and ", " % ", " - ", " // "])
    return st.one_of(
        st.tuples(inner, operator, inner).map(lambda each: "(" + "".join(each) + ")"),
        st.tuples(inner, FILTER).map(lambda each: f"({each[0]} | {each[1]})"),
        st.lists(inner, min_size=2, max_size=6).map(lambda each: "[" + ", ".join(each) + "]"),
        st.lists(inner, min_size=2, max_size=9).map(lambda each: "(" + " ~ ".join(each) + ")"),
        inner.map(lambda each: f"({each})[1:]"),
        inner.map(lambda each: f"({each}).split('x')"),
        st.tuples(inner, inner).map(lambda each: f"({each[0]} if {each[1]} is odd else {each[1]})"),
    )


FUZZED = st.recursive(ATOM, combined, max_leaves=8)
STATEMENT = st.one_of(
    FUZZED.map(lambda e: "{{ " + e + " }}"),
    FUZZED.map(lambda e: "{% set a = " + e + " %}"),
    FUZZED.map(lambda e: "{% set b = " + e + " %}"),
    st.tuples(FUZZED, st.integers(2, 30)).map(lambda each: ("{% set a = " + each[0] + " %}") * each[1]),
    FUZZED.map(lambda e: "{% for i in " + e + " %}{% for j in " + e + " %}{{ a }}{% endfor %}{% endfor %}"),
    FUZZED.map(lambda e: "{% for i in range(1000) %}{% set c = " + e + " %}{{ c }}x{% endfor %}"),
    FUZZED.map(lambda e: "{% filter upper %}{{ " + e + " }}{% endfilter %}"),
)


FUZZ_STEPS = 20_000
FUZZ_CHARACTERS = 1_000_000
MOST_CALLS_PER_STEP = 60


class SmallBudget(Budget):
    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(FUZZ_STEPS, FUZZ_CHARACTERS)


@settings(max_examples=60, deadline=None)
@given(st.lists(STATEMENT, min_size=1, max_size=6))
def test_no_template_of_the_grammar_does_more_work_than_its_budget_allows(statements: list[str]) -> None:
    html = "{% set a = first_name %}{% set b = [1, first_name] %}" + "".join(statements)
    run = pieces.Program.run
    calls: list[int] = []

    def counted(self: pieces.Program, variables: Any, budget: Budget) -> list[str]:
        """The work as Python sees it, whatever the budget says: every call of a function, its own or C's."""
        calls.append(0)

        def count(_frame: object, event: str, _: object) -> None:
            calls[-1] += event in ("call", "c_call")

        sys.setprofile(count)
        try:
            return run(self, variables, budget)
        finally:
            sys.setprofile(None)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces.Program, "run", counted)
        patch.setattr("email_platform.content.render.Budget", SmallBudget)
        patch.setattr("email_platform.content.layout.Budget", SmallBudget)
        outcome = rendered(html)
    assert max(calls, default=0) < MOST_CALLS_PER_STEP * FUZZ_STEPS
    if isinstance(outcome, tuple):
        assert sum(map(len, outcome)) <= 2 * FUZZ_CHARACTERS


def test_a_template_of_very_many_operators_is_refused_before_it_is_compiled() -> None:
    with pytest.raises(InvalidTemplateError, match="more than 30,000 names"):
        compile_content(CampaignContent("s", "{{ " + " ~ ".join(["city"] * 60_000) + " }}", ""))


def test_the_budget_is_one_recipients_and_not_the_calls() -> None:
    html = "{% for a in range(900) %}{% for b in range(50) %}{{ first_name }}{% endfor %}{% endfor %}"
    of = CampaignContent("s", html, "")
    compiled: CompiledContent = compile_content(of)
    values = render_rows(compiled, table(*[LEAD] * 6), manifest(of), SIGNER).values
    assert all(isinstance(each, tuple) for each in values)
