"""A call is refused with the path of the wrong field, or every recipient has one result."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from email_platform.local.provider_simulator.bulk_request import (
    BulkCall,
    InvalidBulkRequestError,
    parse_bulk_call,
    put_together,
)


def _recipient(**fields: Any) -> dict[str, Any]:
    return {"to": "a@example.com", "message_id": "m1", "subject": "Hi", "text": "Hello", **fields}


def _call(**fields: Any) -> dict[str, Any]:
    return {"from": "Ann <ann@example.com>", "recipients": [_recipient()], **fields}


def _parse(document: Any, maximum_recipients: int = 50) -> BulkCall:
    return parse_bulk_call(
        orjson.dumps(document),
        maximum_recipients=maximum_recipients,
        blocked_domains=frozenset({"blocked.example"}),
    )


def test_tags_name_the_campaign_and_the_call() -> None:
    call = _parse(_call(tags={"campaign_id": 7, "call_id": "c-1", "other": "x"}))
    assert (call.campaign, call.call_id) == ("7", "c-1")


def test_recipients_keep_their_order_and_only_the_bad_ones_are_rejected() -> None:
    call = _parse(
        _call(
            recipients=[
                _recipient(message_id="1"),
                _recipient(message_id="2", to="nowhere"),
                _recipient(message_id="3", to="x@Blocked.example"),
                _recipient(message_id="4", headers={"List-Unsubscribe": "<https://example.com/u>"}),
            ]
        )
    )
    assert [(message_id, rejection and rejection.code) for _, message_id, rejection in call.recipients] == [
        ("1", None),
        ("2", "InvalidAddress"),
        ("3", "BlockedDomain"),
        ("4", None),
    ]


def test_a_template_is_shared_and_a_recipient_without_its_substitutions_is_rejected() -> None:
    call = _parse(
        _call(
            template={"subject": "Hi {{name}}", "html": "<p>{{ city }}</p>"},
            recipients=[
                {"to": "a@example.com", "message_id": "1", "substitutions": {"name": "A", "city": "B"}},
                {"to": "b@example.com", "message_id": "2", "substitutions": {"name": "A"}},
            ],
        )
    )
    first, second = (rejection for _, _, rejection in call.recipients)
    assert first is None
    assert second is not None
    assert (second.code, "city" in second.message) == ("RenderingFailure", True)


def test_a_message_is_put_together_from_the_template_and_a_value_is_not_read_again() -> None:
    document = _call(
        template={"subject": "Hi {{name}}", "html": "<p>{{ city }}</p>{ {{name}} }", "text": None},
        recipients=[{"to": "a@example.com", "message_id": "1", "substitutions": {"name": "{{city}}", "city": "B"}}],
    )
    _parse(document)
    assert put_together(document, document["recipients"][0]) == {
        "subject": "Hi {{city}}",
        "html": "<p>B</p>{ {{city}} }",
        "text": "",
    }


def test_a_message_of_ones_own_is_put_together_as_it_is() -> None:
    recipient = _recipient(html="<p>{{x}}</p>")
    del recipient["subject"]
    document = _call(subject="Hi", recipients=[recipient])
    _parse(document)
    made = put_together(document, recipient)
    assert (made["subject"], made["html"]) == ("Hi", "<p>{{x}}</p>")


def test_the_sender_is_the_bare_address() -> None:
    assert _parse(_call(**{"from": '"News" <news@example.com>'})).sender == "news@example.com"
    assert _parse(_call(**{"from": "news@example.com"})).sender == "news@example.com"


def test_the_call_subject_serves_recipients_without_their_own() -> None:
    recipient = _recipient()
    del recipient["subject"]
    assert _parse(_call(subject="Hi", recipients=[recipient])).recipients[0][2] is None


@pytest.mark.parametrize(
    ("document", "path"),
    [
        ([], ""),
        (_call(surprise=1), "surprise"),
        ({"recipients": [_recipient()]}, "from"),
        (_call(**{"from": "nobody"}), "from"),
        (_call(**{"from": "Ann\r\nBcc: x@example.com <ann@example.com>"}), "from"),
        (_call(reply_to=3), "reply_to"),
        (_call(subject="two\nlines"), "subject"),
        (_call(tags=[]), "tags"),
        (_call(tags={"campaign_id": 1.5}), "tags.campaign_id"),
        (_call(recipients={}), "recipients"),
        (_call(recipients=[]), "recipients"),
        (_call(recipients=["a@example.com"]), "recipients[0]"),
        (_call(recipients=[_recipient(), _recipient(cc="x")]), "recipients[1].cc"),
        (_call(recipients=[_recipient(to=None)]), "recipients[0].to"),
        (_call(recipients=[_recipient(message_id="")]), "recipients[0].message_id"),
        (_call(recipients=[_recipient(message_id="a b")]), "recipients[0].message_id"),
        (_call(recipients=[_recipient(subject=None)]), "recipients[0].subject"),
        (_call(recipients=[_recipient(subject="a\nb")]), "recipients[0].subject"),
        (_call(recipients=[_recipient(text=None)]), "recipients[0].html"),
        (_call(recipients=[_recipient(text="")]), "recipients[0].text"),
        (_call(recipients=[_recipient(html=1)]), "recipients[0].html"),
        (_call(recipients=[_recipient(headers={"A b": "x"})]), "recipients[0].headers.A b"),
        (_call(recipients=[_recipient(headers={"A": "x\r\ny"})]), "recipients[0].headers.A"),
        (_call(recipients=[_recipient(substitutions={})]), "recipients[0].substitutions"),
        (_call(template={"html": "x"}), "template.subject"),
        (_call(template={"subject": "x"}), "template.html"),
        (_call(template={"subject": "x", "html": "x", "css": "x"}), "template.css"),
        (_call(template={"subject": "x", "html": "x"}), "recipients[0].subject"),
    ],
)
def test_a_wrong_field_is_named_by_its_path(document: Any, path: str) -> None:
    with pytest.raises(InvalidBulkRequestError) as refusal:
        _parse(document)
    assert refusal.value.path == path


def test_one_recipient_too_many_refuses_the_call() -> None:
    _parse(_call(recipients=[_recipient()] * 3), maximum_recipients=3)
    with pytest.raises(InvalidBulkRequestError) as refusal:
        _parse(_call(recipients=[_recipient()] * 4), maximum_recipients=3)
    assert (refusal.value.code, refusal.value.path) == ("TooManyRecipients", "recipients")


def test_a_body_that_is_not_json_is_refused() -> None:
    with pytest.raises(InvalidBulkRequestError, match="not JSON"):
        parse_bulk_call(b"{", maximum_recipients=50)
