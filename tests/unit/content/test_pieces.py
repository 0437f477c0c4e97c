"""A message put together from skeleton and values is, byte for byte, what Jinja renders for the whole template."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from email_platform.content.budget import Budget
from email_platform.content.compile import check_content, compile_content
from email_platform.content.exact_number import attributes_of
from email_platform.content.layout import Layout, header_text
from email_platform.content.pieces import Computed, Direct
from email_platform.content.problem import ContentProblem
from email_platform.content.render import render_rows
from email_platform.content.sandbox import BUDGET, Sandbox
from email_platform.content.unsubscribe import UnsubscribeSigner
from email_platform.domain.campaigns import CampaignContent, Sender
from email_platform.domain.manifest import ELIGIBLE_SCHEMA, Manifest
from email_platform.domain.message import Message
from email_platform.errors import InvalidTemplateError

SIGNER = UnsubscribeSigner(SecretStr("a secret that is only for tests"), "https://mail.example.com")
COLUMNS = ("first_name", "last_name", "country", "city", "plan", "language")


def manifest(of: CampaignContent) -> Manifest:
    return Manifest(
        campaign_id=7,
        manifest_id=UUID(int=7),
        prefix="p",
        eligible_rows=1,
        excluded_by_reason={},
        chunk_rows=1000,
        call_rows=50,
        sender=Sender(3, 1, "news@example.com", "The <News>", None, "simulator", "default"),
        content=of,
        on_unknown="hold",
        frozen_at=datetime(2026, 3, 4, tzinfo=UTC),
    )


def table(*rows: Mapping[str, Any]) -> pa.Table:
    whole = [
        dict.fromkeys((*COLUMNS, "age"))
        | {"position": index, "lead_id": 100 + index, "email": f"lead{index}@example.com"}
        | dict(row)
        | {"attributes": json.dumps(row.get("attributes", {}))}
        for index, row in enumerate(rows)
    ]
    return pa.Table.from_pylist(whole, schema=ELIGIBLE_SCHEMA)


def whole_template(source: str, variables: Mapping[str, Any], *, autoescape: bool) -> str | None:
    """The template rendered by Jinja in one piece, or None where it fails."""
    environment = Sandbox(autoescape)
    try:
        return environment.from_string(source).render({**variables, BUDGET: Budget()})
    except Exception:  # whatever a template may raise
        return None


def by_jinja(of: CampaignContent, row: Mapping[str, Any]) -> Message | None:
    url = SIGNER.url(7, row["lead_id"], 3)
    variables: dict[str, Any] = {name: row[name] for name in (*COLUMNS, "age", "email") if row[name] is not None}
    variables |= {
        "attributes": attributes_of(row["attributes"]),
        "unsubscribe_url": url,
        "campaign": {
            "id": 7,
            "from_name": "The <News>",
            "from_address": "news@example.com",
            "date": "2026-03-04",
            "year": 2026,
        },
    }
    subject = whole_template(of.subject_template, variables, autoescape=False)
    html = whole_template(of.html_template, variables, autoescape=True)
    text = whole_template(of.text_template, variables, autoescape=False)
    if subject is None or html is None or text is None:
        return None
    headers = {"List-Unsubscribe": f"<{url}>", "List-Unsubscribe-Post": "List-Unsubscribe=One-Click"}
    return Message(header_text(subject), html, text, headers)


def assert_the_same(of: CampaignContent, *rows: Mapping[str, Any]) -> None:
    leads = table(*rows)
    try:
        compiled = compile_content(of)
        check_content(compiled)
    except InvalidTemplateError:  # pieces that happen to make a tag, or a name used before it is set
        return
    rendered = render_rows(compiled, leads, manifest(of), SIGNER)
    for row, values in zip(leads.to_pylist(), rendered.values, strict=True):
        expected = by_jinja(of, row)
        if expected is None:
            assert isinstance(values, ContentProblem)
        else:
            assert not isinstance(values, ContentProblem), values
            assert len(values) == rendered.skeleton.value_count
            assert all(type(value) is str for value in values)
            assert rendered.skeleton.message(values) == expected


HOSTILE = st.text(
    st.characters(codec="utf-8") | st.sampled_from("\r\n\0\u2028\u202e\u200f{}%#<>&'\"\\$-⟦0🎉é"), max_size=12
) | st.sampled_from(["{{ first_name }}", "{% raw %}", "{0}", "%(a)s", "%recipient.a%", "{{v0}}", "*|a|*", "</p>"])
STATIC = st.text(
    st.characters(codec="utf-8", exclude_characters="{}#%") | st.sampled_from("\n\r\t -$"), max_size=15
) | (
    st.sampled_from(
        ["<p>", " 0 ", "%s", "%(a)s", "[[0]]", "{0}", "${a}", "{ {", "} }", "{% raw %}{{ x }}{% endraw %}", "{# a #}"]
    )
)
EXPRESSION = st.sampled_from(
    [
        *("first_name", "last_name | default('you')", "city | d", "plan | default('<none>', true)", "age", "email"),
        *("unsubscribe_url", "attributes.a", "attributes.a.b | default(0)", "attributes['t'][0] | default('-')"),
        *("attributes.n * 2", "first_name | upper", "first_name ~ city", "campaign.from_name", "campaign.year + 1"),
        *("x", "x ~ first_name", "k", "attributes.t", "attributes.a.b.c", "first_name[:2]", "language | default(city)"),
        *("'<b>'", "1 + 1", "attributes.f", "attributes.f | round(1)", "[first_name, 1]", "x if age == 3 else k"),
        *("attributes.items | default('i')", "first_name.title()", "first_name == city", "age is divisibleby(2)"),
    ]
)
BLOCK = st.sampled_from(
    [
        "{% if first_name is defined %}yes {{ first_name }}{% else %}no{% endif %}",
        "{% for t in attributes.t | default([]) %}{{ loop.index }}:{{ t }}\n{% endfor %}",
        "{%- if age == 3 -%} three {%- endif %}",
        "{% set x = city %}",
        "{% set x = first_name | default('?') %}",
        "{% set k = campaign.id %}",
        "{% if plan == 'pro' %}{% set x = 'pro' %}{% endif %}",
        "{% with y = age %}{{ y }}{% endwith %}",
        "{% filter upper %}a{{ city }}<b>{% endfilter %}",
        "{% for i in range(3) %}{{ i }}{% if loop.last %}!{% endif %}{% endfor %}",
        "{% set x, k = 1, 2 %}",
    ]
)
PART = st.lists(
    STATIC | EXPRESSION.map(lambda e: "{{ " + e + " }}") | EXPRESSION.map(lambda e: "{{- " + e + " -}}") | BLOCK,
    max_size=8,
)
TEMPLATE = PART.map("".join)
LEAD = st.fixed_dictionaries(
    {
        **{name: st.none() | HOSTILE for name in COLUMNS},
        "age": st.none() | st.integers(0, 120),
        "attributes": st.fixed_dictionaries(
            {},
            optional={
                "a": st.none() | HOSTILE | st.fixed_dictionaries({"b": st.none() | HOSTILE | st.integers()}),
                "t": st.lists(HOSTILE | st.integers() | st.booleans(), max_size=3) | HOSTILE,
                "n": st.integers() | HOSTILE,
                "f": st.floats(allow_nan=False, allow_infinity=False, width=32) | HOSTILE,
            },
        ),
    }
)


@settings(max_examples=60, deadline=None)
@given(subject=TEMPLATE, html=TEMPLATE, text=TEMPLATE, rows=st.lists(LEAD, min_size=1, max_size=3))
@example(subject="{{ first_name }}{{ city }}", html="", text="", rows=[{"first_name": "\1", "city": "\1 x \n"}])
@example(subject="{{ first_name }} x", html="", text="", rows=[{"first_name": ""}, {"first_name": " a"}])
@example(subject="", html="", text="{% set x, k = 1, 2 %}{{ k }}{% set x = city %}", rows=[{"city": "Bern"}])
def test_skeleton_and_values_make_the_message_that_jinja_renders_in_one_piece(
    subject: str, html: str, text: str, rows: list[Mapping[str, Any]]
) -> None:
    assert_the_same(CampaignContent("s" + subject, "h" + html, text), *rows)


@settings(max_examples=60, deadline=None)
@given(expression=EXPRESSION, row=LEAD)
def test_each_kind_of_piece_alone_gives_what_jinja_gives(expression: str, row: Mapping[str, Any]) -> None:
    source = "{% set x = 1 %}{% set k = 2 %}{{ " + expression + " }}"
    assert_the_same(CampaignContent("s", source, source), row)


def layout_of(html: str, subject: str = "s") -> Layout:
    of = CampaignContent(subject, html, "")
    return Layout(compile_content(of), manifest(of), SIGNER)


def test_equal_pieces_share_one_value_and_the_link_in_the_body_is_the_one_in_the_header() -> None:
    block = "{% if plan == 'pro' %}a{% endif %}"
    layout = layout_of(
        "{{ city }}-{{ city }}{{ unsubscribe_url }}" + block + "+" + block + "{{ city | upper }}{{ city | upper }}"
    )
    assert layout.skeleton.html == (1, "-", 1, 0, 2, "+", 2, 3, 3)
    assert layout.skeleton.headers["List-Unsubscribe"] == ("<", 0, ">")
    assert layout.skeleton.value_count == 4


def test_equal_pieces_with_a_set_between_them_are_two_values() -> None:
    layout = layout_of("{% set x = city %}{{ x }}{% set x = plan %}{{ x }}")
    assert layout.skeleton.html == (1, 2)


def test_what_depends_on_the_campaign_alone_is_static_text() -> None:
    html = (
        "{% set year = campaign.year %}(c) {{ year - 1 }}-{{ year }} {{ campaign.from_name }}"
        "{% for i in range(2) %}{{ i }}{% endfor %}"
    )
    layout = layout_of(html, subject="News {{ campaign.year }}\n")
    assert layout.skeleton.html == ("(c) 2025-2026 The &lt;News&gt;01",)
    assert layout.skeleton.subject == ("News 2026",)
    assert layout.skeleton.value_count == 1


def test_a_name_that_some_set_makes_depend_on_the_lead_is_never_static_text() -> None:
    html = "{% set x = 1 %}{% if plan == 'pro' %}{% set x = 2 %}{% endif %}{{ x }}{% set y = x %}{{ y }}"
    assert_the_same(CampaignContent("s", html, ""), {"plan": "pro"}, {"plan": "free"}, {"plan": None})
    assert all(isinstance(piece, int) for piece in layout_of(html).skeleton.html)


@pytest.mark.parametrize(
    ("expression", "kind"),
    [
        ("first_name", Direct),
        ("first_name | default('x')", Direct),
        ("first_name | d('x', true)", Direct),
        ("attributes.a['b'][0]", Direct),
        ("unsubscribe_url", Direct),
        ("first_name | default(city)", Computed),
        ("first_name | upper", Computed),
        ("first_name.upper()", Computed),
        ("first_name[0]", Computed),
    ],
)
def test_plain_variables_need_no_jinja(expression: str, kind: type) -> None:
    compiled = compile_content(CampaignContent("s", "{{ " + expression + " }}", ""))
    (slot,) = compiled.html.pieces.slots
    assert isinstance(slot, kind)
    assert (compiled.html.pieces.program is None) == (kind is Direct)


def test_the_link_is_a_value_of_its_own_where_html_changes_it() -> None:
    class Ampersands:
        def url(self, campaign_id: int, lead_id: int, sender_id: int) -> str:
            return f"https://mail.example.com/a&b/{lead_id}"

    of = CampaignContent("s", "{{ unsubscribe_url }}", "{{ unsubscribe_url }}")
    rendered = render_rows(compile_content(of), table({}), manifest(of), Ampersands())
    (values,) = rendered.values
    assert not isinstance(values, ContentProblem)
    message = rendered.skeleton.message(values)
    assert message.html == "https://mail.example.com/a&amp;b/100"
    assert message.text == "https://mail.example.com/a&b/100"
    assert message.headers["List-Unsubscribe"] == "<https://mail.example.com/a&b/100>"


def test_half_a_surrogate_pair_is_the_problem_of_the_lead_who_has_it() -> None:
    of = CampaignContent("s", "{{ attributes.a }}", "")
    leads = table({"attributes": {"a": "x"}}, {"attributes": {"a": "x"}})
    documents = pa.array(['{"a": "\\ud800", "b": 1.5}', '{"a": "\\ud83c\\udf89"}'])
    leads = leads.set_column(leads.column_names.index("attributes"), "attributes", documents)
    odd, whole = render_rows(compile_content(of), leads, manifest(of), SIGNER).values
    assert odd == ContentProblem("attributes hold half a surrogate pair, which has no UTF-8 form")
    assert isinstance(whole, tuple)
    assert "🎉" in whole
