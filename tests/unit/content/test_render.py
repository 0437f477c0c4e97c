"""Personalisation: what cannot be rendered is found before sending, and no lead's data can do harm."""

from __future__ import annotations

import io
import subprocess
import sys
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import IO, Any
from uuid import UUID

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from email_platform.content.budget import Budget
from email_platform.content.check import ContentCheck, check_against_manifest
from email_platform.content.compile import ContentLimits, check_content, compile_content, required_attributes
from email_platform.content.layout import header_text
from email_platform.content.problem import ContentProblem
from email_platform.content.render import render_rows
from email_platform.content.renderer import TemplateRenderer
from email_platform.content.unsubscribe import UnsubscribeSigner
from email_platform.domain.campaigns import CampaignContent, Sender
from email_platform.domain.manifest import ELIGIBLE_SCHEMA, Manifest
from email_platform.domain.message import Message
from email_platform.errors import InvalidTemplateError

SIGNER = UnsubscribeSigner(SecretStr("a secret that is only for tests"), "https://mail.example.com")


def content(subject: str = "Hello", html: str = "<p>Hi</p>", text: str = "") -> CampaignContent:
    return CampaignContent(subject, html, text)


def manifest(of: CampaignContent, rows: int = 1) -> Manifest:
    return Manifest(
        campaign_id=7,
        manifest_id=UUID(int=7),
        prefix="manifests/campaign=7/x",
        eligible_rows=rows,
        excluded_by_reason={},
        chunk_rows=1000,
        call_rows=50,
        sender=Sender(3, 1, "news@example.com", "The News", None, "simulator", "default"),
        content=of,
        on_unknown="hold",
        frozen_at=datetime(2026, 3, 4, 23, 30, tzinfo=UTC),
    )


def leads(*rows: Mapping[str, Any]) -> pa.Table:
    whole = [
        {
            "position": index,
            "lead_id": 100 + index,
            "email": f"lead{index}@example.com",
            **dict.fromkeys(("first_name", "last_name", "country", "city", "plan", "language", "age")),
            **row,
            "attributes": orjson.dumps(row.get("attributes", {})).decode(),
        }
        for index, row in enumerate(rows)
    ]
    return pa.Table.from_pylist(whole, schema=ELIGIBLE_SCHEMA)


class CannotBeRenderedError(Exception):
    """A row's problem, raised."""


def outcomes(
    table: pa.Table, of: CampaignContent, limits: ContentLimits | None = None
) -> list[Message | ContentProblem]:
    rendered = render_rows(compile_content(of, limits), table, manifest(of), SIGNER)
    return [
        values if isinstance(values, ContentProblem) else rendered.skeleton.message(values)
        for values in rendered.values
    ]


def render(of: CampaignContent, *rows: Mapping[str, Any], limits: ContentLimits | None = None) -> list[Message]:
    messages: list[Message] = []
    for outcome in outcomes(leads(*(rows or ({},))), of, limits):
        if isinstance(outcome, ContentProblem):
            raise CannotBeRenderedError(outcome.reason)
        messages.append(outcome)
    return messages


class OneObjectStore:
    """An object store that holds one Parquet object under any key."""

    def __init__(self, table: pa.Table) -> None:
        buffer = io.BytesIO()
        pq.write_table(table, buffer, row_group_size=7)
        self.body = buffer.getvalue()

    @contextmanager
    def reader(self, key: str) -> Iterator[IO[bytes]]:
        yield io.BytesIO(self.body)


def check(of: CampaignContent, *rows: Mapping[str, Any], **options: Any) -> ContentCheck:
    store: Any = OneObjectStore(leads(*rows))
    return check_against_manifest(store, manifest(of, len(rows)), compile_content(of), **options)


# --- rendering ----------------------------------------------------------------------------------------------


def test_a_message_is_rendered_from_the_leads_columns_attributes_and_campaign() -> None:
    of = content(
        "{{ first_name }}, {{ attributes.points }} points",
        "<p>{{ last_name }} in {{ city }}, {{ country }}</p><a href='{{ unsubscribe_url }}'>x</a>",
        "{{ campaign.from_name }} {{ campaign.id }} {{ campaign.date }} {{ campaign.year }} {{ age + 1 }}",
    )
    lead = {"first_name": "Zoë", "last_name": "O'Neil", "city": "Köln", "country": "DE", "age": 41}
    (recipient,) = render(of, lead | {"attributes": {"points": 12}})
    url = SIGNER.url(7, 100, 3)
    assert recipient == Message(
        subject="Zoë, 12 points",
        html=f"<p>O&#39;Neil in Köln, DE</p><a href='{url}'>x</a>",
        text="The News 7 2026-03-04 2026 42",
        headers={"List-Unsubscribe": f"<{url}>", "List-Unsubscribe-Post": "List-Unsubscribe=One-Click"},
    )


def test_html_is_escaped_and_subject_and_text_are_not() -> None:
    of = content("{{ first_name }}", "{{ first_name }}", "{{ first_name }}")
    (recipient,) = render(of, {"first_name": "<b>&'"})
    assert (recipient.subject, recipient.html, recipient.text) == ("<b>&'", "&lt;b&gt;&amp;&#39;", "<b>&'")


def test_a_missing_value_takes_its_default_whether_null_column_null_attribute_or_absent_key() -> None:
    of = content("{{ first_name | default('you') }} {{ attributes.a | d('A') }} {{ attributes.b | default('B') }}")
    (recipient,) = render(of, {"attributes": {"a": None}})
    assert recipient.subject == "you A B"


def test_an_attribute_may_be_called_like_a_method_of_a_dictionary() -> None:
    of = content("{{ attributes.items }} {{ attributes['keys'] }} {{ attributes.a.get }}")
    (recipient,) = render(of, {"attributes": {"items": 3, "keys": "k", "a": {"get": "g"}}})
    assert recipient.subject == "3 k g"


def test_a_number_keeps_every_digit() -> None:
    of = content("{{ attributes.account }} {{ attributes.price }} {{ attributes.score }}")
    document = '{"account": 12345678901234567890123456789, "price": 0.1, "score": 12}'
    table = leads({})
    table = table.set_column(table.column_names.index("attributes"), "attributes", pa.array([document]))
    (recipient,) = outcomes(table, of)
    assert isinstance(recipient, Message)
    assert recipient.subject == "12345678901234567890123456789 0.1 12"


def test_one_leads_failure_is_that_leads_outcome_and_names_the_part_but_neither_address_nor_value() -> None:
    of = content(text="one\n{{ attributes.score | round }}")
    rows = ({"attributes": {"score": 1.2}}, {"attributes": {"score": "ann@example.com"}}, {"attributes": {"score": 3}})
    first, odd, last = outcomes(leads(*rows), of)
    assert isinstance(first, Message)
    assert isinstance(last, Message)
    assert isinstance(odd, ContentProblem)
    assert odd.reason.startswith("text template, line 2: ")
    assert "ann" not in odd.reason
    assert "@" not in odd.reason


@pytest.mark.parametrize(
    ("html", "problem"),
    [
        ("{% for a in range(10**9) %}x{% endfor %}", r"\*\* is not allowed"),
        ("{% for a in range(1000000000000000000000000000000) %}x{% endfor %}", "range has more than"),
        ("{{ first_name * 1000000000 }}", "for numbers only"),
        ("{{ '%1000000000d' % 1 }}", "for numbers only"),
        ("{% set a = first_name %}" + "{% set a = a ~ a %}" * 40 + "{{ a }}", "longer than 100,000"),
        ("{{ first_name" + " | replace('A', 'AAAA')" * 40 + " }}", "longer than 100,000"),
        ("{{ 1.5 | round(1000000000, 'ceil') }}", "round takes at most 20 digits"),
        ("{{ range(900) | join('" + "x" * 1000 + "') }}", "longer than 100,000"),
        (
            "{% for a in range(1000) %}{% for b in range(1000) %}" + "0123456789" * 10 + "{% endfor %}{% endfor %}",
            "output is longer than 1,000,000 bytes",
        ),
    ],
)
def test_a_template_cannot_ask_for_unbounded_time_or_memory(html: str, problem: str) -> None:
    with pytest.raises((InvalidTemplateError, CannotBeRenderedError), match=problem):
        render(content(html=html), {"first_name": "Ada"})


def test_a_body_is_bounded_in_bytes_and_a_subject_is_cut() -> None:
    limits = ContentLimits(html_bytes=10, text_bytes=100)
    assert render(content("é" * 2000, "éééée"), limits=limits)[0].subject == "é" * 998
    with pytest.raises(CannotBeRenderedError, match=r"html template: .* longer than 10 bytes"):
        render(content("s", "é" * 6), limits=limits)


@pytest.mark.parametrize(
    "html",
    [
        "{{ first_name.upper }}",
        "{{ first_name['upper'] }}",
        "{{ first_name['format'] }}",
        "{{ [first_name] | join(attribute='upper') }}",
        "{{ [first_name] | join(attribute='__class__') }}",
        "{{ first_name.__class__ }}",
        "{{ campaign.__class__ }}",
        "{{ loop }}",
        "{{ range }}",
    ],
)
def test_nothing_that_would_print_a_memory_address_or_an_internal_is_written_out(html: str) -> None:
    try:
        of = manifest(content(html=html))
        rendered = TemplateRenderer(of, SIGNER).render(of, leads({"first_name": "Ada"}))
    except InvalidTemplateError:
        return
    assert isinstance(rendered.values[0], ContentProblem)


def test_allowed_methods_filters_and_loops_work() -> None:
    html = (
        "{{ first_name.strip().upper() }}|{{ attributes.tags | reverse | join(', ') }}|{{ [1, 1, 2] | unique }}|"
        "{% for t in attributes.tags %}{{ loop.index }}{{ t.title() }}{{ loop.cycle('a', 'b') }}{% endfor %}"
        "{% with total = attributes.n * 2 %}{{ total }}{% endwith %}{% filter upper %}x{% endfilter %}"
    )
    (recipient,) = render(content(html=html), {"first_name": " ada ", "attributes": {"tags": ["x", "y"], "n": 2}})
    assert recipient.html == "ADA|y, x|[1, 2]|1Xa2Yb4X"


HOSTILE = st.text(
    st.characters(codec="utf-8") | st.sampled_from("\r\n\0\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029\x7f\x9f{}%"), max_size=30
)


@given(first_name=HOSTILE, attribute=HOSTILE)
def test_no_rendered_header_ever_holds_a_line_end_or_a_control_character(first_name: str, attribute: str) -> None:
    of = content("{{ first_name }}: {{ attributes.a }}\r\nBcc: x@example.com", "{{ first_name }}")
    (recipient,) = render(of, {"first_name": first_name, "attributes": {"a": attribute}})
    for value in (recipient.subject, *recipient.headers.values()):
        assert not any(unicodedata.category(character) in ("Cc", "Zl", "Zp") for character in value)
        assert len(value.splitlines()) == 1
        assert len(value) <= 998
    assert "<script" not in render(of, {"first_name": "<script>", "attributes": {"a": ""}})[0].html


@given(st.text(), st.integers(1, 998))
def test_header_text_is_clean_bounded_and_stable(value: str, maximum_characters: int) -> None:
    cleaned = header_text(value, maximum_characters)
    assert len(cleaned) <= maximum_characters
    assert not any(unicodedata.category(character) in ("Cc", "Zl", "Zp") for character in cleaned)
    assert header_text(cleaned, maximum_characters).strip() == cleaned.strip()


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "first_name": st.none() | st.text(max_size=10),
                "attributes": st.dictionaries(st.text(max_size=5), st.none()),
            }
        ),
        min_size=1,
        max_size=5,
    ),
    st.data(),
)
def test_rendering_is_deterministic_and_does_not_depend_on_how_the_rows_are_sliced(rows: Any, data: Any) -> None:
    of = content("{{ first_name | default('you') }}", "{{ attributes.x | default('-') }} {{ unsubscribe_url }}", "t")
    table = leads(*rows)
    whole = render_rows(compile_content(of), table, manifest(of), SIGNER)
    cut = data.draw(st.integers(0, len(rows)))
    renderer = TemplateRenderer(manifest(of), SIGNER)
    first, second = (renderer.render(manifest(of), each) for each in (table.slice(0, cut), table.slice(cut)))
    assert first.skeleton == second.skeleton == whole.skeleton
    assert [*first.values, *second.values] == list(whole.values)


def test_another_process_with_another_hash_seed_renders_the_same_bytes() -> None:
    program = (
        "from jinja2 import Template\n"
        "from email_platform.domain.campaigns import CampaignContent\n"
        "from email_platform.content.compile import compile_content\n"
        "c = compile_content(CampaignContent('{{ attributes }}'.replace('attributes', 'attributes.a'), 'x', ''))\n"
        "print(c.subject.pieces.slots[0].text({'z': 1, 'b': [2, 3], 'c': 'd'}))\n"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": seed}, capture_output=True, check=True, text=True
        ).stdout
        for seed in ("1", "2")
    }
    assert outputs == {"{'z': 1, 'b': [2, 3], 'c': 'd'}\n"}


# --- what is refused when compiling -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("html", "problem"),
    [
        ("one\n{% if %}", "html template, line 2"),
        ("\n\n{{ first_name", "html template, line 3"),
        ("{% include 'x' %}", "include is not allowed"),
        ("{% extends 'x' %}", "extends is not allowed"),
        ("{% import 'x' as y %}", "import is not allowed"),
        ("{% block a %}{% endblock %}", "block is not allowed"),
        ("{% macro m() %}{{ m() }}{% endmacro %}", "macro is not allowed"),
        ("{% set a %}x{% endset %}", "set … endset is not allowed"),
        ("{% autoescape false %}x{% endautoescape %}", "autoescape is not allowed"),
        ("{{ city | safe }}", "filter 'safe' is not allowed"),
        ("{{ city | uper }}", "did you mean upper"),
        ("{{ [1, 2] | random }}", "filter 'random' is not allowed"),
        ("{{ lipsum() }}", "calling lipsum is not allowed"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "calling this is not allowed"),
        ("{{ '{0}'.format(1) }}", "calling this is not allowed"),
        ("{{ attributes.get('a') }}", "calling attributes.get is not allowed"),
        ("{{ attributes | length }}", "attributes can only be used as"),
        ("{{ attributes[country] }}", "attributes can only be used as"),
        ("{% set first_name = 'x' %}", "'first_name' is a variable of the lead"),
        ("{% for city in [1] %}{% endfor %}", "'city' is a variable of the lead"),
        ("{% for a in [1] recursive %}{% endfor %}", "recursive loop"),
        ("{% for a in [1] %}" * 3 + "{% endfor %}" * 3, "nested 2 deep"),
        ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "too deeply nested"),
        ("x" * 600_000, "longer than 512,000 characters"),
    ],
)
def test_a_syntax_error_or_a_forbidden_construct_is_refused_with_its_place(html: str, problem: str) -> None:
    with pytest.raises(InvalidTemplateError) as refused:
        compile_content(content(html=html))
    assert problem in str(refused.value)


def test_an_empty_subject_and_an_empty_message_are_refused() -> None:
    with pytest.raises(InvalidTemplateError, match="subject template: is empty"):
        compile_content(content(subject=" \n"))
    with pytest.raises(InvalidTemplateError, match="both are empty"):
        compile_content(content(html="", text=""))


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("{{ frist_name }}", "unknown variable 'frist_name': did you mean first_name"),
        ("{{ lifetime_value }}", "is written attributes.lifetime_value"),
        ("{{ campaign.title }}", "unknown variable 'campaign.title'"),
        ("{{ campaign }}", "did you mean campaign.id"),
        ("{{ later }}{% set later = 1 %}", "unknown variable 'later'"),
        ("{% for a in [1] %}{% endfor %}{{ a }}", "unknown variable 'a'"),
        ("{{ frist_name | default('x') }}", "did you mean first_name"),
    ],
)
def test_an_unknown_variable_is_named_with_what_was_probably_meant(source: str, problem: str) -> None:
    compiled = compile_content(content(html=source))
    with pytest.raises(InvalidTemplateError) as refused:
        check_content(compiled)
    assert problem in str(refused.value)
    assert str(refused.value).startswith("html template, line 1: ")


# --- what every recipient must have -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "required"),
    [
        ("{{ first_name }}", {"first_name"}),
        ("{{ first_name | default('x') }}", set()),
        ("{{ first_name | d }}", set()),
        ("{{ first_name | upper | default('x') }}", {"first_name"}),
        ("{{ first_name | default(city) }}", {"city"}),
        ("{{ first_name | default('x') }}{{ first_name }}", {"first_name"}),
        ("{% if first_name is defined %}{{ first_name }}{% endif %}", set()),
        ("{% if first_name is defined %}{% else %}{{ first_name }}{% endif %}", {"first_name"}),
        ("{% if first_name is undefined %}x{% else %}{{ first_name }}{% endif %}", set()),
        ("{% if first_name is not defined %}x{% elif city == 'a' %}{{ first_name }}{% endif %}", {"city"}),
        (
            "{% if not (first_name is defined and city is defined) %}x{% else %}{{ first_name }}{{ city }}{% endif %}",
            set(),
        ),
        ("{% if first_name is defined or city is defined %}{{ first_name }}{% endif %}", {"first_name"}),
        ("{% if first_name is defined and first_name.startswith('A') %}x{% endif %}", set()),
        ("{% if first_name is undefined or first_name == 'A' %}x{% endif %}", set()),
        ("{{ first_name if first_name is defined else city }}", {"city"}),
        ("{% for t in attributes.tags if city is defined %}{{ city }}{{ t }}{% endfor %}", {"attributes.tags"}),
        ("{% set x = attributes.a.b %}{{ x }}", {"attributes.a.b"}),
        ("{{ attributes.a.b | default('x') }}", {"attributes.a"}),
        ("{% if attributes.a is defined %}{{ attributes.a.b }}{% endif %}", {"attributes.a.b"}),
        ("{% if attributes.a.b is defined %}{{ attributes.a }}{% endif %}", {"attributes.a"}),
        ("{{ attributes.tags[0] }}{{ attributes['x'] }}", {"attributes.tags.0", "attributes.x"}),
        ("{{ attributes.tags[:2] }}", {"attributes.tags"}),
        ("{{ attributes.name.upper() }}", {"attributes.name"}),
        ("{% raw %}{{ city }}{% endraw %}", set()),
    ],
)
def test_a_variable_is_required_unless_a_default_or_a_guard_answers_for_it(source: str, required: set[str]) -> None:
    compiled = compile_content(content(html=source + " "))
    check_content(compiled)
    assert compiled.required == required
    assert required_attributes(compiled) == {
        name.removeprefix("attributes.") for name in required if name.startswith("attributes.")
    }


def test_recipients_without_a_required_column_are_counted_and_named() -> None:
    rows = [{"first_name": None if index % 2 else "A", "city": "B"} for index in range(20)]
    message = str(check(content("{{ first_name }} {{ city }}"), *rows))
    assert "first_name is missing for 10 recipients (lead 101, 103, 105, 107, 109, …)" in message
    assert "city" not in message
    with pytest.raises(InvalidTemplateError, match="nobody can be sent this") as refused:
        check(content("{{ first_name }} {{ city }}"), *rows[1:2])
    assert "{{ first_name | default('…') }}" in str(refused.value)


def test_recipients_without_a_required_attribute_are_counted_and_named() -> None:
    rows = [{"attributes": {"a": {"b": index or None}, "c": 1}} for index in range(9)] + [{"attributes": {"a": 3}}]
    message = str(check(content("{{ attributes.a.b }} {{ attributes.c }}"), *rows))
    assert "attributes.a.b is missing for 2 recipients (lead 100, 109)" in message
    assert "attributes.c is missing for 1 recipient (lead 109)" in message


def test_the_check_passes_where_every_recipient_has_everything() -> None:
    check(content("{{ first_name }} {{ attributes.a }}"), *[{"first_name": "A", "attributes": {"a": 1}}] * 30)
    check(content("{{ first_name }}"))


def test_the_check_passes_for_an_empty_audience() -> None:
    check(content("{{ first_name }} {{ attributes.a }}"))


def test_attributes_that_cannot_be_read_are_an_error_with_the_lead() -> None:
    of = content("{{ attributes.a }}")
    table = leads({"attributes": {"a": 1}})
    table = table.set_column(table.column_names.index("attributes"), "attributes", pa.array(["{broken"]))
    store: Any = OneObjectStore(table)
    with pytest.raises(InvalidTemplateError, match=r"attributes cannot be read .*\(lead 100\)"):
        check_against_manifest(store, manifest(of), compile_content(of))


def test_no_json_is_parsed_where_no_attribute_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise AssertionError("parsed")

    monkeypatch.setattr("email_platform.content.check.attributes_of", refuse)
    monkeypatch.setattr("email_platform.content.render.attributes_of", refuse)
    check(content("{{ first_name }}"), *[{"first_name": "A"}] * 30)


def test_a_sample_is_rendered_so_that_a_failing_filter_is_found_before_sending() -> None:
    rows: list[dict[str, Any]] = [{"attributes": {"score": 1}} for _ in range(50)]
    rows[33] = {"attributes": {"score": "a long text where a number should be"}}
    found = check(content("{{ attributes.score | round }}"), *rows, sample_rows=3, rendered_rows=10)
    assert not found.is_complete
    assert found.problem_rows == 1
    assert "(lead 133)" in str(found)
    assert "a sample of" in str(found)


def test_the_renderer_checks_its_content_as_soon_as_it_is_made() -> None:
    with pytest.raises(InvalidTemplateError, match="frist_name"):
        TemplateRenderer(manifest(content("{{ frist_name }}")), SIGNER)
    store: Any = OneObjectStore(leads({}))
    renderer = TemplateRenderer(manifest(content("{{ first_name }}")), SIGNER)
    with pytest.raises(InvalidTemplateError, match="first_name is missing for 1 recipient"):
        renderer.check(store, manifest(content("{{ first_name }}")))


def test_a_lead_whose_attribute_has_another_type_is_counted_and_everybody_else_renders() -> None:
    rows: list[dict[str, Any]] = [{"attributes": {"score": 85}} for _ in range(1_000)]
    rows[703] = {"attributes": {"score": "85"}}
    found = check(content("s", "{% if attributes.score > 50 %}a{% else %}b{% endif %}"), *rows)
    assert found.is_complete
    assert found.rows == found.rendered_rows == 1_000
    assert found.problem_rows == 1
    assert str(found) == (
        "all 1,000 recipients were looked at: 1 recipient of them cannot be rendered: html template, line 1: "
        "'>' not supported between instances of 'str' and 'int' for 1 recipient (lead 803)"
    )


def test_an_audience_that_is_too_large_is_sampled_and_that_is_what_the_check_says() -> None:
    rows: list[dict[str, Any]] = [
        {"attributes": {"score": "x" if index % 30 == 0 else 1}, "city": "A"} for index in range(1_000)
    ]
    rows[5]["city"] = None
    found = check(content("{{ attributes.score | round }}{{ city }}"), *rows, sample_rows=100, rendered_rows=999)
    assert found.rows == 1_000
    assert 100 <= found.rendered_rows < 400
    assert found.lacking_rows == 1
    assert found.problem_share == found.problem_rows / found.rendered_rows
    assert found.expected_problem_rows == round(found.problem_share * 1_000)
    assert "a sample of" in str(found)
    assert "city is missing for 1 recipient (lead 105)" in str(found)


def test_the_check_goes_over_to_a_sample_when_its_time_is_used_up() -> None:
    clock = iter(range(10**6))
    rows = [{"first_name": "A"}] * 1_000
    options = {"sample_rows": 10, "budget_seconds": 4.5, "monotonic": lambda: next(clock)}
    found = check(content("{{ first_name }}"), *rows, **options)
    assert found.rows == 1_000
    assert 0 < found.rendered_rows < 1_000
    assert "a sample of" in str(found)


def test_a_template_that_uses_its_whole_budget_for_everybody_ends_the_check_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("email_platform.content.render.Budget", lambda: Budget(steps=5_000))
    bomb = "{% for a in range(1000) %}{% for b in range(1000) %}{{ first_name }}{% endfor %}{% endfor %}"
    clock = iter(range(10**6))
    options = {"budget_seconds": 2.5, "monotonic": lambda: next(clock)}
    with pytest.raises(InvalidTemplateError, match=r"nobody can be sent this: a sample of [0-9]+ of 1,000 .* steps"):
        check(content(html=bomb), *[{"first_name": "A"}] * 1_000, **options)


@pytest.mark.parametrize(
    ("html", "attributes"),
    [
        ("{{ first_name[0] * 2 }}", {}),
        ("{{ attributes.a + 1 }}", {"a": "ann@example.com"}),
        ("{{ attributes.a.b.c }}", {"a": {"b": "ann@example.com"}}),
        ("{{ campaign[attributes.a] }}", {"a": "ann@example.com"}),
        ("{{ attributes.a | round('x') }}", {"a": 1}),
        ("{{ 1 / attributes.a }}", {"a": 0}),
        ("{{ attributes.a % 3 }}", {"a": "ann@example.com"}),
        ("{{ attributes.a.split('') }}", {"a": "ann@example.com"}),
        ("{{ attributes.a | sum }}", {"a": ["ann@example.com"]}),
        ("{{ [attributes.a, 1] | sort }}", {"a": "ann@example.com"}),
        ("{{ attributes.a[99] }}", {"a": "ann@example.com"}),
        ("{{ attributes.a | join(attribute='x') }}", {"a": ["ann@example.com"]}),
    ],
)
def test_no_reason_holds_an_address_or_a_leads_value(html: str, attributes: dict[str, Any]) -> None:
    (problem,) = outcomes(leads({"first_name": "ann@example.com", "attributes": attributes}), content(html=html))
    assert isinstance(problem, ContentProblem)
    assert "@" not in problem.reason
    assert "ann@" not in problem.reason.replace("cannot", "")
    assert len(problem.reason) > 10


def test_half_a_surrogate_pair_in_a_template_is_refused_with_its_line() -> None:
    """A campaign's file may hold one as an escape of JSON."""
    for content in (("a\udc80", "x", ""), ("s", "x", "a\n\ud800"), ("s", "<p>\n\ud83d</p>", "")):
        with pytest.raises(InvalidTemplateError, match=r"line [12]: holds half a surrogate pair"):
            compile_content(CampaignContent(*content))


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("{{ [][0] ~ 'x' }}", "a value is missing"),
        ("{{ [1, 2][7] ~ first_name }}", "a value is missing"),
        ("{{ ('a'.b ~ 'x')|upper }}", "a value is missing"),
        ("{% for each in {}.a ~ 'b' %}{% endfor %}", "a value is missing"),
        ("{{ [][0] and 'x' }}", "a value is missing"),
        ("{{ 'a' if [][0] else first_name }}", "a value is missing"),
        ("{{ first_name if {1: 2, {}: 3} else city }}", "unhashable type: 'dict'"),
    ],
)
@pytest.mark.parametrize("part", ["subject", "html", "text"])
def test_what_names_no_variable_and_has_no_value_is_refused_with_its_line(part: str, written: str, reason: str) -> None:
    with pytest.raises(InvalidTemplateError) as refused:
        compile_content(content(**{part: f"Hi\n{written}"}))
    assert str(refused.value) == f"{part} template, line 2: {reason}; the same for every recipient"
