"""Templates of the allowed grammar, and templates changed at random: the budget of steps and characters holds.

A template comes out as text within its limits, the same each time, or as a sentence; it takes no more calls of
functions, as Python's profiler counts them, than its budget of steps allows.
"""

from __future__ import annotations

import sys
import tracemalloc
from typing import Any

import pytest
from hypothesis import strategies as st

from email_platform.content import pieces
from email_platform.content.budget import Budget
from email_platform.content.compile import check_content, compile_content
from email_platform.content.prepare import prepared_content
from email_platform.content.problem import ContentProblem
from email_platform.content.render import render_rows
from email_platform.content.sandbox import ALLOWED_FILTERS, ALLOWED_METHODS, ALLOWED_TESTS
from email_platform.domain.campaigns import CampaignContent
from email_platform.errors import InvalidTemplateError
from tests.fuzz.mutation import changed_bytes
from tests.fuzz.target import Target
from tests.unit.content.test_pieces import SIGNER, manifest, table

MOST_MEMORY_BYTES = 64_000_000
FUZZ_STEPS = 20_000
FUZZ_CHARACTERS = 1_000_000
MOST_CALLS_PER_STEP = 60
LEADS = (
    {
        "first_name": "Ada",
        "city": "x" * 1_000,
        "attributes": {
            "t": ["a", "b"] * 20,
            "n": 3,
            "f": 1.5,
            "d": {"k": [1, {"l": "m"}]},
            "big": 10**300,
            "s": "<&%d\0",
        },
    },
    {"first_name": "<b>\u202e%s{{", "attributes": {"t": [[], {}], "n": -1, "f": 1e-300, "d": {}, "big": "9" * 400}},
)
NAMES = (
    *("a", "b", "first_name", "city", "age", "attributes.t", "attributes.d", "attributes.n", "attributes.f", "1"),
    *("attributes.big", "attributes.s", "attributes.none", "'xy'", "'%d'", "range(900)", "9.5", "[a, b]", "(a, a)"),
    *("{'k': a}", "campaign.year", "unsubscribe_url", "none", "true", "''", "[]", "-1", "'<>'", "1e300", "loop"),
)
ARGUMENT = st.sampled_from(
    ["", "(a)", "(b)", "('x', city)", "(3)", "(start=[])", "('xyz')", "(a, b)", "(attribute='k')"]
)
FILTER = st.tuples(st.sampled_from(sorted(ALLOWED_FILTERS)), ARGUMENT).map("".join)
METHOD = st.tuples(st.sampled_from(sorted(ALLOWED_METHODS)), st.sampled_from(["()", "(a)", "('x')", "(1)", "(a, b)"]))
TEST = st.tuples(st.sampled_from(sorted(ALLOWED_TESTS)), st.sampled_from(["", "(a)", "(7)", "('x')"])).map("".join)
OPERATOR = st.sampled_from(
    ["~", "+", "*", "==", "in", "<", "and", "%", "-", "//", "/", "**", "!=", ">=", "or", "not in"]
)


def combined(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.tuples(inner, OPERATOR, inner).map(lambda each: "(" + " ".join(each) + ")"),
        st.tuples(inner, FILTER).map(lambda each: f"({each[0]} | {each[1]})"),
        st.tuples(inner, METHOD).map(lambda each: f"({each[0]}).{each[1][0]}{each[1][1]}"),
        st.tuples(inner, TEST).map(lambda each: f"({each[0]} is {each[1]})"),
        st.lists(inner, min_size=2, max_size=6).map(lambda each: "[" + ", ".join(each) + "]"),
        st.lists(inner, min_size=2, max_size=9).map(lambda each: "(" + " ~ ".join(each) + ")"),
        st.tuples(inner, st.sampled_from(["[1:]", "[::-1]", "[0]", "['k']", "[a]", "[-1:]", ".k", "[:900:7]"])).map(
            "".join
        ),
        st.tuples(inner, inner).map(lambda each: f"({each[0]} if {each[1]} is odd else {each[1]})"),
        inner.map(lambda each: f"(-{each})"),
    )


EXPRESSION = st.recursive(st.sampled_from(NAMES), combined, max_leaves=8)
STATEMENT = st.one_of(
    EXPRESSION.map(lambda e: "{{ " + e + " }}"),
    EXPRESSION.map(lambda e: "{% set a = " + e + " %}"),
    EXPRESSION.map(lambda e: "{% set b = " + e + " %}"),
    st.tuples(EXPRESSION, st.integers(2, 30)).map(lambda each: ("{% set a = " + each[0] + " %}") * each[1]),
    EXPRESSION.map(lambda e: "{% for i in " + e + " %}{% for j in " + e + " %}{{ a }}{% endfor %}{% endfor %}"),
    EXPRESSION.map(lambda e: "{% for i in range(1000) %}{% set c = " + e + " %}{{ c }}x{% endfor %}"),
    EXPRESSION.map(lambda e: "{% for i in " + e + " if " + e + " %}{{ loop.index }}{% else %}y{% endfor %}"),
    EXPRESSION.map(lambda e: "{% if " + e + " %}{{ " + e + " }}{% elif a %}z{% else %}{{ b }}{% endif %}"),
    EXPRESSION.map(lambda e: "{% filter upper %}{{ " + e + " }}{% endfilter %}"),
    EXPRESSION.map(lambda e: "{% with a = " + e + " %}{{ a }}{% endwith %}"),
    st.text(max_size=20),
)
GENERATED = st.lists(STATEMENT, min_size=1, max_size=6).map(
    lambda each: ("{% set a = first_name %}{% set b = [1, first_name] %}" + "".join(each)).encode("utf-8", "replace")
)
SEEDS = [
    b"Hi {{ first_name | default('there') }}, {% for t in attributes.t %}{{ loop.index }} {{ t | upper }}{% endfor %}",
    b"{% if attributes.n is defined and attributes.n > 1 %}{{ attributes.d.k[1]['l'] }}{% endif %}{{ campaign.year }}",
    b"{% set a = [1] %}{% set a = [a, a] %}{{ a | join(',') }}{{ '%s' ~ city[:3] }}{# note #}{% raw %}{{{% endraw %}",
    b"<style>p { color: red }</style><p class='{{ city }}'>{{ attributes.f | round(2) }}</p><!-- {{ age }} -->",
]


class SmallBudget(Budget):
    """So small that it runs out often, and each input is cheap."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(FUZZ_STEPS, FUZZ_CHARACTERS)


def outcome(source: str) -> Any:
    """What becomes of a template: the values of two leads, or the sentence."""
    of = CampaignContent("s", source, source[:200])
    try:
        compiled = compile_content(of)
        check_content(compiled)
        return render_rows(compiled, table(*LEADS), manifest(of), SIGNER).values
    except InvalidTemplateError as refusal:
        assert str(refusal)
        return str(refusal)


def counting(calls: list[int]) -> Any:
    """`Program.run`, with every call of a function counted, Python's own and C's, whatever the budget says."""
    run = pieces.Program.run

    def counted(self: pieces.Program, variables: Any, budget: Budget) -> list[str]:
        calls.append(0)

        def count(_frame: object, event: str, _: object) -> None:
            calls[-1] += event in ("call", "c_call")

        sys.setprofile(count)
        try:
            return run(self, variables, budget)
        finally:
            sys.setprofile(None)

    return counted


def check(content: bytes) -> None:
    source = content.decode("utf-8", "surrogateescape")
    calls: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("email_platform.content.render.Budget", SmallBudget)
        patch.setattr("email_platform.content.layout.Budget", SmallBudget)
        once = outcome(source)
        patch.setattr(pieces.Program, "run", counting(calls))
        tracemalloc.start()
        try:
            again = outcome(source)
        finally:
            peak_bytes = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
    assert again == once, "the same row comes out the same"
    assert peak_bytes < MOST_MEMORY_BYTES
    assert max(calls, default=0) < MOST_CALLS_PER_STEP * FUZZ_STEPS
    for each in once if not isinstance(once, str) else ():
        if isinstance(each, ContentProblem):
            assert each.reason
        else:
            assert sum(map(len, each)) <= 4 * FUZZ_CHARACTERS
            "".join(each).encode("utf-8", "surrogateescape")


def check_prepared(content: bytes) -> None:
    """What is done to html before: every tag of the template survives it, or the content is refused."""
    source = content.decode("utf-8", "replace")
    try:
        html = prepared_content(CampaignContent("s", source, "", inline_css=True)).html_template
        prepared_content(
            CampaignContent("s", f"<mjml><mj-body><mj-text>{source}</mj-text></mj-body></mjml>", "", mjml=True)
        )
    except InvalidTemplateError:
        return
    assert html.count("{{") >= source.count("{{") or "{%" in source or "{#" in source


TARGETS = [
    Target("templates", GENERATED | changed_bytes(SEEDS), check, 40),
    Target("html-preparation", changed_bytes(SEEDS), check_prepared, 200),
]
