"""What a recipient gets is what rendering the whole message gives, for every provider and every content."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from email.header import decode_header, make_header

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from email_platform.adapters.providers import ProviderAccount, build_provider, provider_names
from email_platform.domain.identity import call_id, message_id
from email_platform.domain.message import Message, Piece, Skeleton
from email_platform.domain.ports import BulkCall, EmailProvider, Recipient
from tests.fakes.assembling import Assembled, handlebars, put_together

_ACCOUNT = ProviderAccount(
    api_key=SecretStr("k"),
    region="eu-west-1",
    access_key_id=SecretStr("AKIDEXAMPLE"),
    secret_access_key=SecretStr("k"),
    domain="mg.example.com",
)


_FORMS = [*((name, None) for name in provider_names()), ("sendgrid", "d-1")]


@pytest.fixture(scope="module", params=_FORMS, ids=lambda form: "-".join(filter(None, form)))
def provider(request: pytest.FixtureRequest) -> Iterator[EmailProvider]:
    name, template_id = request.param
    base_url = "https://simulator.example.com" if name == "simulator" else None
    built = build_provider(name, replace(_ACCOUNT, base_url=base_url, template_id=template_id))
    yield built
    asyncio.run(built.aclose())


_SYNTAX = (
    *(
        "{",
        "}",
        "{{",
        "}}",
        "{{{",
        "}}}",
        "{{v0}}",
        "{{v1}}",
        "{{c0}}",
        "{{ v0 }}",
        "{{#each}}",
        "{{!--",
        "{{>x}}",
        "{}",
    ),
    *("\\", "\\\\", "\\{{v0}}", "\\\\{{v0}}", "{\\{{", "%", "%%", "%recipient", "recipient.v0%", "-", "-v0-", "-name-"),
    *("-000000000000v0-", "000000000000", "v0-", "%unsubscribe", "[unsubscribe]", "<%asm%>", "{%", "${x}", "&#123;"),
    *('"', "'", "&amp;", "<b>", "\t", "😀", "é", "\u202eabc\u202c", "שלום", "\u00a0", "\ufeff", "日本"),
)
_BODY_ONLY = ("\n", "\r\n", "\r", "\x00", "\u2028", "\x0b", "--call-", "@media{a{b:c}}\n", "a{b:c}\n}")
_line = st.lists(st.sampled_from(_SYNTAX) | st.text("ab ", min_size=1, max_size=3), max_size=4).map("".join)
_body = st.lists(st.sampled_from((*_SYNTAX, *_BODY_ONLY)) | st.text("ab ", min_size=1, max_size=3), max_size=6).map(
    "".join
)
_VARIABLE = "%recipient."


@st.composite
def _calls(draw: st.DrawFn) -> BulkCall:
    count = draw(st.integers(0, 3))
    # Values that stand in the subject or a header are one line, as the renderer makes them.
    one_line = draw(st.lists(st.booleans(), min_size=count, max_size=count))
    lines = [index for index in range(count) if one_line[index]]

    def pieces(texts: st.SearchStrategy[str], indexes: list[int]) -> st.SearchStrategy[tuple[Piece, ...]]:
        choices: list[st.SearchStrategy[Piece]] = [texts, *([st.sampled_from(indexes)] if indexes else [])]
        return st.lists(st.one_of(choices), max_size=6).map(tuple)

    every = list(range(count))
    skeleton = Skeleton(
        subject=draw(pieces(_line, lines)),
        html=("<p>", *draw(pieces(_body, every))),
        text=draw(pieces(_body, every)),
        headers={"X-First": ("x", *draw(pieces(_line, lines))), "List-Unsubscribe": ("<https://e.org>",)},
        value_count=count,
    )
    recipients = tuple(
        Recipient(
            lead_id,
            str(message_id(7, lead_id)),
            f"lead{lead_id}@example.com",
            tuple(draw(_line if one_line[index] else _body) for index in range(count)),
        )
        for lead_id in range(1, draw(st.integers(1, 3)) + 1)
    )
    return _call(skeleton, *recipients)


def _call(skeleton: Skeleton, *recipients: Recipient) -> BulkCall:
    return BulkCall(call_id(7, 0, 0), 7, "news@example.org", "News", None, skeleton, recipients, {})


def _one(skeleton: Skeleton, *values: str) -> BulkCall:
    return _call(skeleton, Recipient(1, str(message_id(7, 1)), "lead1@example.com", values))


def _sent(provider: EmailProvider, call: BulkCall) -> tuple[Assembled, dict[int, str]]:
    """Everybody's message by calls as large as fit, and the problems of those who cannot be sent, by lead."""
    assembled: Assembled = []
    problems: dict[int, str] = {}
    rest = call
    while rest.recipients:
        fit = provider.fit(rest)
        if fit.problem is not None:
            assert fit.count == 0
            problems[rest.recipients[0].lead_id] = fit.problem
        else:
            assert fit.count > 0
            fitting = replace(rest, recipients=rest.recipients[: fit.count])
            assembled += put_together(provider.name, provider.encode(fitting).body)
        rest = replace(rest, recipients=rest.recipients[max(1, fit.count) :])
    return assembled, problems


def _decoded(message: Message) -> Message:
    """With headers as a mail client reads them."""
    return replace(
        message,
        headers={
            name: value if "=?" not in value else str(make_header(decode_header(value)))
            for name, value in message.headers.items()
        },
    )


_PROPERTY = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
_PLAIN = Skeleton((0,), ("<p>", 0, "{", 1, "}", "}}"), ("\\", 0, "{{v1}}", "{", "{v0}}", 1), {"X-First": ("x", 0)}, 2)


@_PROPERTY
@given(call=_calls())
@example(call=_one(_PLAIN, "{{v1}}", "\\{{v0}}"))
@example(call=_one(_PLAIN, "-000000000000v1-", "}}{{"))
@example(call=_one(_PLAIN, "100%", "recipient.v0%"))
@example(call=_one(replace(_PLAIN, html=("50%recipient.v0% ", 0, "%recipient.x%")), "a", "b"))
@example(call=_one(_PLAIN, "%recipient.v1%", "x"))
def test_everybody_gets_the_message_that_rendering_for_him_gives(provider: EmailProvider, call: BulkCall) -> None:
    assembled, problems = _sent(provider, call)
    expected = []
    for recipient in call.recipients:
        message = call.skeleton.message(recipient.values)
        if recipient.lead_id in problems:
            assert provider.name == "mailgun", problems
            headers = message.headers.values()
            assert any(_VARIABLE in text for text in (*recipient.values, *headers))
            assert "%recipient." in problems[recipient.lead_id]
        else:
            expected.append((recipient.address, message))
    assert [(address, _decoded(message)) for address, message in assembled] == expected


@pytest.mark.parametrize(
    ("template", "result"),
    [
        ("a {{v0}} b", "a 1 b"),
        ("\\{{v0}}", "{{v0}}"),
        ("\\\\{{v0}}", "\\1"),
        ("{{{v0}}}", "1"),
        ("{ {{v0}} }", "{ 1 }"),
    ],
)
def test_the_tests_own_handlebars_reads_tags_as_handlebars_does(template: str, result: str) -> None:
    assert handlebars(template, {"v0": "1"}) == result


@pytest.mark.parametrize("template", ["{{v9}}", "{{{v0}}", "{{#if v0}}", "{{ v0"])
def test_the_tests_own_handlebars_refuses_what_handlebars_refuses(template: str) -> None:
    with pytest.raises((KeyError, ValueError)):
        handlebars(template, {"v0": "1"})
