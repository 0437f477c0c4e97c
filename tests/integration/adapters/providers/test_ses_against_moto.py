"""The SES adapter against moto, an emulation of AWS that is not ours.

moto 5.2.5 has SES v2's SendEmail and no SendBulkEmail. The operation that is lent to it here takes a bulk call apart
and goes the way of moto's own SendEmail for each entry: that the identity is verified, whether the address is valid,
what the templates become, the errors on the wire and the list of what was sent are moto's.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import pytest
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.server import ThreadedMotoServer
from moto.ses.exceptions import InvalidParameterValue
from moto.ses.models import Message, ses_backends
from moto.ses.template import parse_template
from moto.sesv2 import urls
from moto.sesv2.responses import SESV2Response
from pydantic import SecretStr

from email_platform.adapters.providers import ProviderAccount, build_provider
from email_platform.adapters.providers.ses import open_ses_client
from email_platform.domain.identity import call_id, message_id
from email_platform.domain.ports import BulkCall, EmailProvider, RecipientResult
from email_platform.errors import AccountRefusedError
from tests.fakes.whole_messages import WholeMessage, call_of

pytestmark = pytest.mark.integration

_REGION = "eu-central-1"
_FROM = "news@example.org"


def _send_bulk_email(self: SESV2Response) -> str:
    asked = json.loads(self.body)
    template = asked["DefaultContent"]["Template"]["TemplateContent"]
    results = []
    for entry in asked["BulkEmailEntries"]:
        data = json.loads(entry["ReplacementEmailContent"]["ReplacementTemplate"]["ReplacementTemplateData"])
        try:
            message = self.sesv2_backend.send_email(
                source=asked["FromEmailAddress"],
                destinations=entry["Destination"],
                subject=parse_template(template["Subject"], data),
                body=parse_template(template["Html"], data),
            )
        except InvalidParameterValue as invalid:
            results.append({"Status": "INVALID_PARAMETER", "Error": invalid.message})
        else:
            results.append({"Status": "SUCCESS", "MessageId": message.id})
    return json.dumps({"BulkEmailEntryResults": results})


@pytest.fixture
def moto_url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(SESV2Response, "send_bulk_email", _send_bulk_email, raising=False)
    monkeypatch.setitem(urls.url_paths, "{0}/v2/email/outbound-bulk-emails$", urls.response.dispatch)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()
    ses_backends[DEFAULT_ACCOUNT_ID][_REGION].reset()


def _provider(url: str) -> EmailProvider:
    return build_provider(
        "ses",
        ProviderAccount(
            access_key_id=SecretStr("id-of-the-key"),
            secret_access_key=SecretStr("secret-of-the-account"),
            region=_REGION,
            base_url=url,
        ),
        max_connections=2,
    )


def _verify(url: str, identity: str) -> None:
    client = open_ses_client(region=_REGION, access_key_id="id", secret_access_key="secret", endpoint_url=url)
    client.create_email_identity(EmailIdentity=identity)
    client.close()


def _sent() -> list[Message]:
    return list(ses_backends[DEFAULT_ACCOUNT_ID][_REGION].sent_messages)


def _call(*addresses: str) -> BulkCall:
    return call_of(
        *(
            WholeMessage(
                lead_id=lead_id,
                message_id=message_id(7, lead_id),
                address=address,
                subject=f"Dear {lead_id} ✓ {{{{html}}}}",
                html=f'<p>"Hello" {lead_id} & 😀</p>',
                text="Hello",
                headers={"List-Unsubscribe": f"<https://example.org/u/{lead_id}>"},
            )
            for lead_id, address in enumerate(addresses, start=1)
        ),
        call_id=call_id(7, 3, 0),
        campaign_id=7,
        from_address=_FROM,
        from_name="News, Žluť",
        reply_to="answers@example.org",
        tags={},
    )


def _send(url: str, call: BulkCall) -> tuple[RecipientResult, ...]:
    async def run() -> tuple[RecipientResult, ...]:
        provider = _provider(url)
        try:
            return await provider.send(provider.encode(call))
        finally:
            await provider.aclose()

    return asyncio.run(run())


def test_a_full_call_gives_fifty_messages_in_order_with_their_own_contents(moto_url: str) -> None:
    _verify(moto_url, "example.org")
    results = _send(moto_url, _call(*(f"lead-{number}@example.com" for number in range(50))))
    assert [result.status for result in results] == ["accepted"] * 50
    sent = _sent()
    assert [result.provider_message_id for result in results] == [message.id for message in sent]
    assert [message.destinations["ToAddresses"] for message in sent] == [
        [f"lead-{number}@example.com"] for number in range(50)
    ]
    # A value is put in once: what looks like a variable in a lead's own text stays text.
    assert [message.subject for message in sent] == [f"Dear {number} ✓ {{{{html}}}}" for number in range(1, 51)]
    assert [message.body for message in sent] == [f'<p>"Hello" {number} & 😀</p>' for number in range(1, 51)]


def test_a_sender_that_is_not_verified_refuses_the_account_and_nobody_of_the_call(moto_url: str) -> None:
    with pytest.raises(AccountRefusedError) as refused:
        _send(moto_url, _call("ann@example.com", "bob@example.com"))
    assert "MessageRejected" in str(refused.value)
    assert "not verified" in str(refused.value)
    assert "secret-of-the-account" not in str(refused.value)
    assert _sent() == []


def test_an_address_that_is_refused_leaves_the_others_accepted(moto_url: str) -> None:
    _verify(moto_url, _FROM)
    # A quoted local part with an at sign is a valid address; moto counts the signs and refuses it.
    results = _send(moto_url, _call("ann@example.com", '"bob@home"@example.com', "cid@example.com"))
    assert [(result.status, result.error_code) for result in results] == [
        ("accepted", ""),
        ("rejected", "INVALID_PARAMETER"),
        ("accepted", ""),
    ]
    assert [message.destinations["ToAddresses"] for message in _sent()] == [["ann@example.com"], ["cid@example.com"]]
