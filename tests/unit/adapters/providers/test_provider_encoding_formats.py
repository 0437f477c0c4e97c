"""The exact form of each provider's request, as its documentation shows it."""

from __future__ import annotations

import ast
import asyncio
import email
import email.policy
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from email.header import decode_header, make_header
from email.utils import parseaddr
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import SecretStr

from email_platform.adapters.providers import ProviderAccount, build_provider
from email_platform.adapters.providers.message_fields import (
    ascii_domain_address,
    encoded_mailbox,
    unicode_mailbox,
)
from email_platform.adapters.providers.registry import provider_names
from email_platform.domain.identity import call_id, message_id
from email_platform.domain.message import Skeleton
from email_platform.domain.ports import BulkCall, EmailProvider, Recipient
from email_platform.errors import InvalidTemplateError
from tests.fakes.whole_messages import WholeMessage, call_of

_CALL_ID = str(call_id(7, 0, 0))
_MESSAGE_IDS = [str(message_id(7, lead_id)) for lead_id in (1, 2)]
_ACCOUNT = ProviderAccount(
    api_key=SecretStr("k"),
    region="eu-west-1",
    access_key_id=SecretStr("AKIDEXAMPLE"),
    secret_access_key=SecretStr("k"),
    domain="mg.example.com",
)

Build = Callable[..., EmailProvider]


@pytest.fixture
def build() -> Iterator[Build]:
    built: list[EmailProvider] = []

    def make(name: str, **changes: Any) -> EmailProvider:
        built.append(build_provider(name, replace(_ACCOUNT, **changes)))
        return built[-1]

    yield make
    for provider in built:
        asyncio.run(provider.aclose())


def _recipient(lead_id: int, **changes: Any) -> WholeMessage:
    recipient = WholeMessage(
        lead_id=lead_id,
        message_id=message_id(7, lead_id),
        address=f"lead{lead_id}@example.com",
        subject=f"Subject {lead_id}",
        html=f"<p>{{{{html}}}} & {lead_id}</p>",
        text=f"text {lead_id}",
        headers={"List-Unsubscribe": f"<https://example.org/u/{lead_id}>"},
    )
    return replace(recipient, **changes)


def _call(*recipients: WholeMessage) -> BulkCall:
    return call_of(
        *(recipients or (_recipient(1), _recipient(2))),
        call_id=call_id(7, 0, 0),
        campaign_id=7,
        from_address="news@example.org",
        from_name="News, Inc.",
        reply_to="answers@example.org",
        tags={"team": "red"},
    )


def _greeting(count: int = 2, **values: Any) -> BulkCall:
    """A skeleton with a static text, and each recipient's values."""
    recipients = tuple(
        Recipient(
            lead_id,
            str(message_id(7, lead_id)),
            f"lead{lead_id}@example.com",
            (f"Ann {lead_id}", f"https://e.org/{lead_id}"),
        )
        for lead_id in range(1, count + 1)
    )
    skeleton = Skeleton(
        subject=("Dear ", 0),
        html=("<p>Dear ", 0, ", ", 0, "</p><a href='", 1, "'>x</a><style>a{b:c}</style>"),
        text=("Dear ", 0, ": ", 1),
        headers={"List-Unsubscribe": ("<", 1, ">"), "X-Same": ("same",)},
        value_count=2,
    )
    return replace(_call(), skeleton=skeleton, recipients=recipients, **values)


def test_the_simulator_gets_the_skeleton_once_and_no_empty_bodies(build: Build) -> None:
    provider = build("simulator", base_url="https://simulator.example.com")
    document = json.loads(provider.encode(_greeting()).body)
    assert document["from"] == '"News, Inc." <news@example.org>'
    assert document["tags"] == {"team": "red", "campaign_id": "7", "call_id": _CALL_ID}
    assert document["template"]["text"] == "Dear {{v0}}: {{v1}}"
    assert [entry["message_id"] for entry in document["recipients"]] == _MESSAGE_IDS
    assert document["recipients"][1] == {
        "to": "lead2@example.com",
        "message_id": _MESSAGE_IDS[1],
        "headers": {"List-Unsubscribe": "<https://e.org/2>", "X-Same": "same"},
        "substitutions": {"v0": "Ann 2", "v1": "https://e.org/2"},
    }
    without = json.loads(provider.encode(_call(_recipient(1, text=""), _recipient(2, text=""))).body)
    assert without["template"]["text"] is None


def test_ses_gets_one_inline_template_and_each_entry_its_values(build: Build) -> None:
    document = json.loads(build("ses", configuration_set="events").encode(_greeting()).body)
    assert document["FromEmailAddress"] == '"News, Inc." <news@example.org>'
    assert document["ConfigurationSetName"] == "events"
    assert document["ReplyToAddresses"] == ["answers@example.org"]
    assert document["DefaultContent"]["Template"]["TemplateContent"] == {
        "Subject": "Dear {{v0}}",
        "Html": "<p>Dear {{v0}}, {{v0}}</p><a href='{{v1}}'>x</a><style>a{b:c}</style>",
        "Text": "Dear {{v0}}: {{v1}}",
    }
    first = document["BulkEmailEntries"][0]
    data = json.loads(first["ReplacementEmailContent"]["ReplacementTemplate"]["ReplacementTemplateData"])
    assert data == {"v0": "Ann 1", "v1": "https://e.org/1"}
    assert first["ReplacementHeaders"] == [
        {"Name": "List-Unsubscribe", "Value": "<https://e.org/1>"},
        {"Name": "X-Same", "Value": "same"},
    ]
    assert {tag["Name"]: tag["Value"] for tag in first["ReplacementTags"]} == {
        "campaign_id": "7",
        "call_id": _CALL_ID,
        "message_id": _MESSAGE_IDS[0],
        "team": "red",
    }


def test_ses_is_counted_as_boto_writes_it(build: Build) -> None:
    import boto3
    from botocore.awsrequest import AWSResponse

    encoded = build("ses").encode(_call(_recipient(1, html='<p>日本語 😀 \\ "</p>'), _recipient(2)))
    client = boto3.session.Session().client(
        "sesv2", region_name="eu-west-1", aws_access_key_id="a", aws_secret_access_key="b"
    )
    sent: list[bytes] = []

    def keep(request: Any, **_: Any) -> AWSResponse:
        sent.append(request.body)
        raw = SimpleNamespace(stream=lambda **_: iter([b'{"BulkEmailEntryResults": []}']))
        return AWSResponse(request.url, 200, {}, raw)

    client.meta.events.register("before-send.sesv2", keep)
    client.send_bulk_email(**json.loads(encoded.body))
    client.close()
    assert [len(body) for body in sent] == [len(encoded.body)]


def test_ses_takes_the_request_by_botos_own_model(build: Build) -> None:
    import boto3
    from botocore.stub import Stubber

    document = json.loads(build("ses").encode(_call()).body)
    client = boto3.session.Session().client(
        "sesv2", region_name="eu-west-1", aws_access_key_id="a", aws_secret_access_key="b"
    )
    with Stubber(client) as stub:
        stub.add_response("send_bulk_email", {"BulkEmailEntryResults": []}, document)
        client.send_bulk_email(**document)
    client.close()


def test_ses_leaves_a_part_out_of_the_template_that_no_recipient_has(build: Build) -> None:
    document = json.loads(build("ses").encode(_call(_recipient(1, text=""))).body)
    assert document["DefaultContent"]["Template"]["TemplateContent"].keys() == {"Subject", "Html"}


def test_ses_makes_tag_values_fit_its_alphabet(build: Build) -> None:
    document = json.loads(build("ses").encode(replace(_call(), tags={"team": "röd & blå"})).body)
    tags = {tag["Name"]: tag["Value"] for tag in document["BulkEmailEntries"][0]["ReplacementTags"]}
    assert tags["team"] == "r_d___bl_"


@pytest.mark.parametrize(
    "changes",
    [
        {"headers": {"X-Long": "v" * 1000}},
        {"headers": {"X-Empty": ""}},
        {"html": "x" * 262_144},
    ],
    ids=["long header", "empty header", "256 KiB of data"],
)
def test_ses_limits_of_one_recipient_are_enforced(build: Build, changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidTemplateError, match="lead 1"):
        build("ses").encode(_call(_recipient(1, **changes)))
    fit = build("ses").fit(_call(_recipient(1, **changes), _recipient(2, **changes)))
    assert fit.count == 0
    assert fit.problem is not None
    assert fit.problem.startswith("ses: ")


def test_more_headers_than_ses_takes_are_nobodys_but_the_calls(build: Build) -> None:
    headers = {f"X-{number}": "v" for number in range(16)}
    for ask in (build("ses").fit, build("ses").encode):
        with pytest.raises(InvalidTemplateError, match="16 headers; the limit is 15"):
            ask(_call(_recipient(1, headers=headers)))


def test_sendgrid_gets_the_skeleton_once_and_values_as_substitutions(build: Build) -> None:
    provider = build("sendgrid")
    assert provider.limits.recipients_per_call == 1000
    document = json.loads(provider.encode(_greeting()).body)
    tags = list(document["personalizations"][0]["substitutions"])
    name, link = tags
    assert all(re.fullmatch(r"-[0-9a-f]{12}v[01]-", tag) for tag in tags)
    assert document["subject"] == f"Dear {name}"
    assert document["content"] == [
        {"type": "text/plain", "value": f"Dear {name}: {link}"},
        {
            "type": "text/html",
            "value": f"<p>Dear {name}, {name}</p><a href='{link}'>x</a><style>a{{b:c}}</style>",
        },
    ]
    assert document["personalizations"][1] == {
        "to": [{"email": "lead2@example.com"}],
        "custom_args": {"message_id": _MESSAGE_IDS[1]},
        "headers": {"List-Unsubscribe": "<https://e.org/2>", "X-Same": "same"},
        "substitutions": {name: "Ann 2", link: "https://e.org/2"},
    }


def test_sendgrids_tags_stand_in_no_text_of_the_call(build: Build) -> None:
    provider = build("sendgrid")
    call = _greeting(1)
    for _ in range(3):
        (name, *_rest) = json.loads(provider.encode(call).body)["personalizations"][0]["substitutions"]
        (one,) = call.recipients
        call = replace(call, recipients=(replace(one, values=(f"{one.values[0]} {name}", one.values[1])),))
        document = json.loads(provider.encode(call).body)
        assert name not in document["personalizations"][0]["substitutions"]


def test_sendgrid_without_a_template_sends_one_recipient_and_his_content(build: Build) -> None:
    provider = build("sendgrid")
    large = "x" * 10_000
    call = _call(_recipient(1, text=large), _recipient(2, text=large))
    assert provider.fit(call).count == 1
    with pytest.raises(InvalidTemplateError, match="call of its own"):
        provider.encode(call)
    document = json.loads(provider.encode(replace(call, recipients=call.recipients[:1])).body)
    assert document["content"] == [
        {"type": "text/plain", "value": large},
        {"type": "text/html", "value": "<p>{{html}} & 1</p>"},
    ]
    assert document["subject"] == "Subject 1"
    assert document["from"] == {"email": "news@example.org", "name": "News, Inc."}
    assert document["reply_to"] == {"email": "answers@example.org"}
    assert document["personalizations"] == [
        {
            "to": [{"email": "lead1@example.com"}],
            "custom_args": {"message_id": _MESSAGE_IDS[0]},
            "headers": {"List-Unsubscribe": "<https://example.org/u/1>"},
        }
    ]
    assert document["custom_args"] == {"team": "red", "campaign_id": "7", "call_id": _CALL_ID}


def test_sendgrid_with_a_template_sends_a_thousand_with_their_data(build: Build) -> None:
    provider = build("sendgrid", template_id="d-1")
    assert provider.limits.recipients_per_call == 1000
    large = "x" * 10_000
    call = _call(_recipient(1, text=large), _recipient(2))
    assert provider.fit(call).count == 2
    document = json.loads(provider.encode(call).body)
    assert document["template_id"] == "d-1"
    assert "content" not in document
    assert document["personalizations"][1]["dynamic_template_data"] == {
        "subject": "Subject 2",
        "html": "<p>{{html}} & 2</p>",
        "text": "text 2",
    }


def test_sendgrid_headers_are_encoded(build: Build) -> None:
    headers = {"X-Name": "Žluť"}
    (entry,) = json.loads(build("sendgrid").encode(_call(_recipient(1, headers=headers))).body)["personalizations"]
    assert entry["headers"]["X-Name"].isascii()
    assert str(make_header(decode_header(entry["headers"]["X-Name"]))) == "Žluť"


def test_sendgrid_tags_above_its_size_are_refused(build: Build) -> None:
    with pytest.raises(InvalidTemplateError, match="10,000"):
        build("sendgrid").encode(replace(_call(_recipient(1)), tags={"long": "v" * 10_000}))


def test_postmark_gets_an_array_of_messages_on_its_stream(build: Build) -> None:
    first, second = json.loads(build("postmark").encode(_call(_recipient(1), _recipient(2, text=""))).body)
    assert first == {
        "From": '"News, Inc." <news@example.org>',
        "To": "lead1@example.com",
        "ReplyTo": "answers@example.org",
        "Subject": "Subject 1",
        "HtmlBody": "<p>{{html}} & 1</p>",
        "TextBody": "text 1",
        "MessageStream": "broadcast",
        "Tag": "campaign-7",
        "Metadata": {
            "team": "red",
            "campaign_id": "7",
            "call_id": _CALL_ID,
            "message_id": _MESSAGE_IDS[0],
        },
        "Headers": [{"Name": "List-Unsubscribe", "Value": "<https://example.org/u/1>"}],
    }
    assert "TextBody" not in second


@pytest.mark.parametrize("tags", [{f"t{number}": "v" for number in range(8)}, {"n" * 21: "v"}, {"name": "v" * 81}])
def test_postmark_limits_of_metadata_are_enforced(build: Build, tags: dict[str, str]) -> None:
    with pytest.raises(InvalidTemplateError, match="postmark"):
        build("postmark").encode(replace(_call(), tags=tags))


def test_resend_gets_an_array_of_messages_with_tags(build: Build) -> None:
    first = json.loads(build("resend").encode(_call()).body)[0]
    assert first == {
        "from": "News Inc. <news@example.org>",
        "to": ["lead1@example.com"],
        "reply_to": ["answers@example.org"],
        "subject": "Subject 1",
        "html": "<p>{{html}} & 1</p>",
        "text": "text 1",
        "headers": {"List-Unsubscribe": "<https://example.org/u/1>"},
        "tags": [
            {"name": "call_id", "value": _CALL_ID},
            {"name": "campaign_id", "value": "7"},
            {"name": "message_id", "value": _MESSAGE_IDS[0]},
            {"name": "team", "value": "red"},
        ],
    }


def _compared() -> set[str]:
    """The providers of whose requests a test here compares a whole object or list."""
    compared = set()
    for function in ast.parse(Path(__file__).read_text(encoding="utf-8")).body:
        nodes = list(ast.walk(function))
        compares = any(
            isinstance(node, ast.Compare)
            and isinstance(node.ops[0], ast.Eq)
            and isinstance(node.comparators[0], ast.Dict | ast.List)
            for node in nodes
        )
        for node in nodes if compares else ():
            match node:
                case ast.Call(func=ast.Name(id="build"), args=[ast.Constant(value=str(name))]):
                    compared.add(name)
    return compared


def test_every_known_provider_s_exact_request_is_compared_here() -> None:
    assert _compared() == set(provider_names())


def _form(body: bytes) -> dict[str, list[str]]:
    """Read multipart/form-data as any server would."""
    boundary = body.split(b"\r\n", 1)[0][2:].decode()
    head = f"Content-Type: multipart/form-data; boundary={boundary}\r\n\r\n".encode()
    message = email.message_from_bytes(head + body, policy=email.policy.HTTP)
    fields: dict[str, list[str]] = {}
    for part in message.iter_parts():
        name = part.get_param("name", header="content-disposition")
        payload = part.get_payload(decode=True)
        assert isinstance(name, str)
        assert isinstance(payload, bytes)
        fields.setdefault(name, []).append(payload.decode())
    return fields


def test_mailgun_gets_variables_in_the_skeleton_and_every_recipients_values(build: Build) -> None:
    fields = _form(build("mailgun").encode(_greeting()).body)
    variables = json.loads(fields.pop("recipient-variables")[0])
    assert fields == {
        "from": ['"News, Inc." <news@example.org>'],
        "to": ["lead1@example.com", "lead2@example.com"],
        "subject": ["Dear %recipient.v0%"],
        "html": [
            "<p>Dear %recipient.v0%, %recipient.v0%</p><a href='%recipient.v1%'>x</a><style>a{b:c}</style>",
        ],
        "text": ["Dear %recipient.v0%: %recipient.v1%"],
        "h:Reply-To": ["answers@example.org"],
        "h:List-Unsubscribe": ["%recipient.header_0%"],
        "h:X-Same": ["%recipient.header_1%"],
        "v:team": ["red"],
        "v:campaign_id": ["7"],
        "v:call_id": [_CALL_ID],
        "v:message_id": ["%recipient.message_id%"],
        "o:tag": ["campaign-7"],
    }
    assert variables["lead2@example.com"] == {
        "v0": "Ann 2",
        "v1": "https://e.org/2",
        "header_0": "<https://e.org/2>",
        "header_1": "same",
        "message_id": _MESSAGE_IDS[1],
    }


def test_mailgun_refuses_what_one_call_cannot_express(build: Build) -> None:
    provider = build("mailgun")
    for recipients in (
        (_recipient(1), _recipient(2, text="")),
        (_recipient(1), _recipient(2, address="LEAD1@example.com")),
        (_recipient(1, html="Dear %recipient.name%"),),
    ):
        with pytest.raises(InvalidTemplateError, match="mailgun"):
            provider.encode(_call(*recipients))


def test_mailgun_finds_a_boundary_that_no_content_holds(build: Build) -> None:
    provider = build("mailgun")
    boundary = provider.encode(_call()).body.split(b"\r\n", 1)[0][2:].decode()
    quoting = provider.encode(_call(_recipient(1, html=f"--{boundary}\r\n")))
    variables = json.loads(_form(quoting.body)["recipient-variables"][0])
    assert variables["lead1@example.com"]["v1"] == f"--{boundary}\r\n"


@pytest.mark.parametrize(
    "name", ["", "Ann", "Lee, Ann", 'Ann "A" Lee', "Back\\slash", "Žluťoučký kůň", "日本語の差出人" * 12, "a: b; c@d"]
)
def test_a_display_name_survives_both_forms_of_a_mailbox(name: str) -> None:
    shown, address = parseaddr(unicode_mailbox(name, "a@example.org"))
    assert (shown, address) == (name, "a@example.org")
    encoded = encoded_mailbox(name, "a@example.org")
    assert encoded.isascii()
    shown, address = parseaddr(encoded)
    assert (str(make_header(decode_header(shown))), address) == (name, "a@example.org")
    assert all(len(word) <= 75 for word in encoded.split(" "))


def test_a_domain_becomes_punycode_and_a_local_part_stays() -> None:
    assert ascii_domain_address("ann@bücher.example") == "ann@xn--bcher-kva.example"
    assert ascii_domain_address("žluť@example.org") == "žluť@example.org"
    assert ascii_domain_address("no address") == "no address"
    assert ascii_domain_address("ann@ü" + "x" * 80) == "ann@ü" + "x" * 80
