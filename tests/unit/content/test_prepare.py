"""MJML and inlined style sheets: every tag of the template survives, or the content is refused."""

from __future__ import annotations

import pytest

from email_platform.content.compile import check_content, compile_content
from email_platform.content.prepare import prepared_content
from email_platform.domain.campaigns import CampaignContent
from email_platform.errors import InvalidTemplateError


def inlined(html: str) -> str:
    prepared = prepared_content(CampaignContent("s", html, "", inline_css=True))
    assert not prepared.inline_css
    check_content(compile_content(prepared))
    return prepared.html_template


def from_mjml(body: str, head: str = "") -> str:
    source = f"<mjml><mj-head>{head}</mj-head><mj-body>{body}</mj-body></mjml>"
    prepared = prepared_content(CampaignContent("s", source, "", mjml=True))
    assert not prepared.mjml
    check_content(compile_content(prepared))
    return prepared.html_template


def test_content_without_options_stays_as_it_is() -> None:
    of = CampaignContent("s", "<style>p{color:red}</style><p>{{ city }}", "t")
    assert prepared_content(of) == of


def test_style_sheets_are_written_into_the_elements_and_media_queries_stay() -> None:
    html = inlined("<style>p { color: red } @media (max-width: 9px) { p { color: blue } }</style><p>{{ city }}</p>")
    assert '<p style="color: red;">{{ city }}</p>' in html
    assert "@media" in html


def test_expressions_survive_in_text_attributes_and_style_sheets() -> None:
    html = inlined(
        "<html><head><title>{{ city }}</title>"
        '<style>a { color: {{ attributes.color | default("red") }} }</style></head>'
        "<body><a href=\"{{ unsubscribe_url }}?a=1&amp;b={{ plan }}\" title='{{ first_name | default('\"<you>\"') }}'>"
        "{{ first_name | default('<&>') }}</a>{# a comment #}</body></html>"
    )
    assert 'href="{{ unsubscribe_url }}?a=1&amp;b={{ plan }}"' in html
    assert "{{ first_name | default('<&>') }}</a>" in html
    assert 'title="{{ first_name | default(\'"<you>"\') }}"' in html
    assert 'color: {{ attributes.color | default("red") }};' in html
    assert "<title>{{ city }}</title>" in html


def test_loops_around_rows_and_blocks_around_elements_survive() -> None:
    html = inlined(
        "<style>td { color: red }</style><table>{% for t in attributes.tags %}<tr>{% if t %}<td>{{ t }}</td>{% endif %}"
        "</tr>{% else %}<tr><td>none</td></tr>{% endfor %}</table>{% raw %}{{ kept }}{% endraw %}"
    )
    order = ["{% for t in attributes.tags %}", "<tr>", "{% if t %}", "<td", "{{ t }}", "{% endif %}", "{% else %}"]
    places = [html.index(each) for each in order]
    assert places == sorted(places)
    assert html.index("<table>") < places[0]
    assert html.index("{% endfor %}") < html.index("</table>")
    assert "{% raw %}{{ kept }}{% endraw %}" in html


def test_whitespace_control_survives() -> None:
    assert "{%- if plan == 'a' -%}" in inlined("<p>a {%- if plan == 'a' -%} b {%- endif -%} c</p>")


@pytest.mark.parametrize("html", ["<p {% if plan == 'a' %}class='x'{% endif %}>a</p>", "<p class={{ plan }}>a</p>"])
def test_tags_among_the_attributes_of_an_element_are_refused_with_their_line(html: str) -> None:
    with pytest.raises(InvalidTemplateError, match=r"html template, line 2: .* attribute's quotes"):
        inlined("\n" + html)


def test_what_the_library_would_throw_away_is_refused() -> None:
    with pytest.raises(InvalidTemplateError, match=r"would lose '\{\{ city \}\}'"):
        inlined("<style>.nothing { color: {{ city }} }</style><p>a</p>")


def test_mjml_becomes_html_and_the_templates_tags_survive() -> None:
    html = from_mjml(
        "{% if plan == 'pro' %}<mj-section><mj-column><mj-text>Hello {{ first_name | default('<you>') }}"
        "{% for t in attributes.tags %}<b>{{ t }}</b>{% endfor %}</mj-text>"
        '<mj-button href="{{ unsubscribe_url }}">{{ city }}</mj-button>'
        "<mj-table><tr>{% for t in attributes.tags %}<td>{{ t }}</td>{% endfor %}</tr></mj-table>"
        "</mj-column></mj-section>{% endif %}",
        head="<mj-title>{{ campaign.from_name }}</mj-title><mj-preview>{{ city }}</mj-preview>",
    )
    assert "<mj-" not in html
    assert 'href="{{ unsubscribe_url }}"' in html
    assert "{{ first_name | default('<you>') }}{% for t in attributes.tags %}<b>{{ t }}</b>{% endfor %}" in html
    assert html.index("{% if plan == 'pro' %}") < html.index("Hello") < html.index("{% endif %}")
    assert "<title>{{ campaign.from_name }}</title>" in html


def test_mjml_and_inlining_work_together() -> None:
    source = (
        "<mjml><mj-head><mj-style>.b { color: red }</mj-style></mj-head><mj-body><mj-section><mj-column>"
        "<mj-text css-class='b'>{{ city }}</mj-text></mj-column></mj-section></mj-body></mjml>"
    )
    prepared = prepared_content(CampaignContent("s", source, "", mjml=True, inline_css=True))
    assert "color: red" in prepared.html_template
    assert "{{ city }}" in prepared.html_template


def test_broken_mjml_is_refused_with_a_sentence() -> None:
    with pytest.raises(InvalidTemplateError, match="no valid MJML"):
        from_mjml("<mj-section><mj-column>")


@pytest.mark.parametrize("text", ["caf\N{LATIN SMALL LETTER E WITH ACUTE}?>", "\N{LATIN SMALL LETTER E WITH ACUTE}?>"])
def test_a_library_that_panics_refuses_one_template_and_ends_nothing(text: str) -> None:
    """Its exception is no Exception, so it would end the process that checks everybody's campaigns."""
    with pytest.raises(InvalidTemplateError, match="write the letter as an entity"):
        from_mjml(f"<mj-section><mj-column><mj-text>{text}</mj-text></mj-column></mj-section>")


def test_preparing_is_deterministic() -> None:
    html = "<style>p{color:red}</style>{% for t in attributes.tags %}<p>{{ t }}</p>{% endfor %}"
    assert inlined(html) == inlined(html)
