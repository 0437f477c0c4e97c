"""Encoding holds for every provider alike: the same call, the same bytes; what must not leave, does not."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from email_platform.adapters.providers import ProviderAccount, build_provider, provider_names
from email_platform.domain.identity import call_id, message_id
from email_platform.domain.ports import BulkCall, EmailProvider
from email_platform.errors import InvalidTemplateError
from tests.fakes.whole_messages import WholeMessage, call_of

_KEY = SecretStr("key-that-must-never-be-seen")
_ACCOUNT = ProviderAccount(
    api_key=_KEY,
    region="eu-west-1",
    access_key_id=SecretStr("AKIDEXAMPLE"),
    secret_access_key=_KEY,
    domain="mg.example.com",
    template_id="d-1234",
)


@pytest.fixture(scope="module", params=provider_names())
def provider(request: pytest.FixtureRequest) -> Iterator[EmailProvider]:
    base_url = "https://simulator.example.com" if request.param == "simulator" else None
    built = build_provider(request.param, replace(_ACCOUNT, base_url=base_url))
    yield built
    asyncio.run(built.aclose())


def _recipient(lead_id: int = 1, **changes: Any) -> WholeMessage:
    recipient = WholeMessage(
        lead_id=lead_id,
        message_id=message_id(7, lead_id),
        address=f"lead{lead_id}@example.com",
        subject="Good day",
        html="<p>Good day</p>",
        text="Good day",
        headers={"List-Unsubscribe": f"<https://example.org/u/{lead_id}>"},
    )
    return replace(recipient, **changes)  # type: ignore[arg-type]


def _call(*recipients: WholeMessage, **changes: object) -> BulkCall:
    call = call_of(
        *(recipients or (_recipient(1), _recipient(2))),
        call_id=call_id(7, 0, 0),
        campaign_id=7,
        from_address="news@example.org",
        from_name="News",
        reply_to=None,
        tags={"variant": "a", "team": "b"},
    )
    return replace(call, **changes)  # type: ignore[arg-type]


_LINES = st.text(
    st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp"), exclude_characters="\x85"), min_size=1, max_size=40
)
_BODIES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=200)


@st.composite
def _calls(draw: st.DrawFn) -> BulkCall:
    count = draw(st.integers(1, 4))
    recipients = tuple(
        _recipient(lead_id, subject=draw(_LINES), html=draw(_BODIES), text=draw(_BODIES))
        for lead_id in range(1, count + 1)
    )
    return _call(
        *recipients,
        from_name=draw(_LINES),
        call_id=UUID(int=draw(st.integers(0, 2**128 - 1))),
        campaign_id=draw(st.integers(1, 2**40)),
    )


def _reordered(call: BulkCall) -> BulkCall:
    """An equal call whose mappings were filled in another order."""
    return replace(
        call,
        tags=dict(reversed(list(call.tags.items()))),
        skeleton=replace(call.skeleton, headers=dict(reversed(list(call.skeleton.headers.items())))),
    )


_PROPERTY = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@_PROPERTY
@given(call=_calls())
def test_the_same_call_encodes_to_the_same_bytes_whatever_its_mappings_order(
    provider: EmailProvider, call: BulkCall
) -> None:
    first, second = provider.encode(call), provider.encode(_reordered(call))
    assert first == second
    assert first.recipient_count == len(call.recipients)
    assert first.call_id == call.call_id


@_PROPERTY
@given(call=_calls(), other=_BODIES)
def test_another_content_encodes_to_another_hash(provider: EmailProvider, call: BulkCall, other: str) -> None:
    first, *rest = call.recipients
    assume(first.values[1] != other)
    values = (first.values[0], other, *first.values[2:])
    changed = replace(call, recipients=(replace(first, values=values), *rest))
    assert _hash(provider, call) != _hash(provider, changed)


def _hash(provider: EmailProvider, call: BulkCall) -> str:
    return hashlib.sha256(provider.encode(call).body).hexdigest()


@pytest.mark.parametrize(
    "change",
    [
        {"from_name": "Other"},
        {"from_address": "other@example.org"},
        {"reply_to": "answers@example.org"},
        {"campaign_id": 8},
        {"tags": {"variant": "b"}},
        {"call_id": call_id(7, 0, 1)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_field_of_the_call_is_part_of_its_bytes(provider: EmailProvider, change: dict[str, Any]) -> None:
    assert _hash(provider, _call()) != _hash(provider, _call(**change))


@pytest.mark.parametrize(
    "change",
    [
        {"address": "other@example.com"},
        {"subject": "Other"},
        {"html": "<p>other</p>"},
        {"text": "other"},
        {"message_id": message_id(9, 9)},
        {"headers": {"List-Unsubscribe": "<https://example.org/other>"}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_field_of_a_recipient_is_part_of_the_bytes(provider: EmailProvider, change: dict[str, Any]) -> None:
    assert _hash(provider, _call(_recipient())) != _hash(provider, _call(_recipient(**change)))


@pytest.mark.parametrize("breaking", ["a\rb", "a\nBcc: x@example.com", "a\r\nb", "a\x00b", "a\u2028b"])
@pytest.mark.parametrize("field", ["address", "subject"])
def test_a_line_break_in_a_recipients_header_field_is_refused(
    provider: EmailProvider, field: str, breaking: str
) -> None:
    changes: dict[str, Any] = {field: breaking}
    with pytest.raises(InvalidTemplateError, match="lead 1"):
        provider.encode(_call(_recipient(**changes)))


@pytest.mark.parametrize("field", ["from_name", "from_address", "reply_to"])
def test_a_line_break_in_the_senders_fields_is_refused(provider: EmailProvider, field: str) -> None:
    with pytest.raises(InvalidTemplateError, match="one line"):
        provider.encode(_call(**{field: "a@example.org\r\nBcc: b@example.org"}))


def test_a_line_break_in_a_header_or_a_tag_is_refused(provider: EmailProvider) -> None:
    for headers in ({"X-A": "1\r\nBcc: b@example.org"}, {"X-A\r\nBcc": "1"}, {'X"; name="to': "1"}, {"": "1"}):
        with pytest.raises(InvalidTemplateError):
            provider.encode(_call(_recipient(headers=headers)))
    with pytest.raises(InvalidTemplateError):
        provider.encode(_call(tags={"a": "1\n2"}))
    with pytest.raises(InvalidTemplateError):
        provider.encode(_call(tags={'a"b': "1"}))


@pytest.mark.parametrize("address", ["a@example.com,b@example.com", "a@example.com; b@x.org", "A <a@example.com>", ""])
def test_an_address_that_could_be_two_is_refused(provider: EmailProvider, address: str) -> None:
    with pytest.raises(InvalidTemplateError, match="lead 1: address"):
        provider.encode(_call(_recipient(address=address)))
    with pytest.raises(InvalidTemplateError, match="from address"):
        provider.encode(_call(from_address=address))


@pytest.mark.parametrize("name", ["Bcc", "to", "FROM", "Subject", "Content-Type", "Reply-To"])
def test_a_header_that_the_provider_sets_cannot_be_an_extra_one(provider: EmailProvider, name: str) -> None:
    with pytest.raises(InvalidTemplateError, match=name):
        provider.fit(_call(_recipient(headers={name: "b@example.org"})))
    with pytest.raises(InvalidTemplateError, match=name):
        provider.encode(_call(_recipient(headers={name: "b@example.org"})))


def test_a_refusal_names_the_lead_and_never_the_address(provider: EmailProvider) -> None:
    with pytest.raises(InvalidTemplateError) as caught:
        provider.encode(_call(_recipient(address="ann@example.com\n")))
    assert "lead 1" in str(caught.value)
    assert "ann@" not in str(caught.value)


def test_more_recipients_than_the_provider_takes_are_refused(provider: EmailProvider) -> None:
    most = provider.limits.recipients_per_call
    recipients = tuple(_recipient(lead_id) for lead_id in range(1, most + 2))
    assert provider.fit(_call(*recipients)).count == most
    assert provider.encode(_call(*recipients[:most])).recipient_count == most
    with pytest.raises(InvalidTemplateError, match=str(most)):
        provider.encode(_call(*recipients))
    with pytest.raises(InvalidTemplateError):
        provider.encode(replace(_call(), recipients=()))


def test_a_body_above_the_documented_size_is_refused_with_the_number_that_fits(provider: EmailProvider) -> None:
    limit_bytes = provider.limits.body_bytes
    if limit_bytes is None:
        assert provider.name == "resend", "only Resend documents no size"
        return
    count = provider.limits.recipients_per_call
    html = "x" * (limit_bytes // count + 1)
    with pytest.raises(InvalidTemplateError, match="recipients_per_call to about"):
        provider.encode(_call(*(_recipient(lead_id, html=html) for lead_id in range(1, count + 1))))


def test_a_recipient_without_any_body_is_refused(provider: EmailProvider) -> None:
    with pytest.raises(InvalidTemplateError, match="lead 1"):
        provider.encode(_call(_recipient(html="", text="")))


def test_half_a_surrogate_pair_is_refused_as_content(provider: EmailProvider) -> None:
    with pytest.raises(InvalidTemplateError, match="encoded"):
        provider.encode(_call(_recipient(html="\ud800")))


def test_no_encoded_call_holds_a_secret(provider: EmailProvider) -> None:
    assert _KEY.get_secret_value().encode() not in provider.encode(_call()).body


def test_only_providers_that_document_it_promise_idempotency(provider: EmailProvider) -> None:
    promised = provider.name in {"simulator", "resend"}
    assert provider.limits.honours_idempotency_keys is promised
    assert provider.limits.idempotency_seconds == (24 * 3600 if promised else 0)
