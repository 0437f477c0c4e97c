"""Mailgun ``POST /v3/{domain}/messages`` with recipient variables ("Batch sending").

Invariant: every recipient gets a message of his own with his contents: ``recipient-variables`` is always present,
without which Mailgun would show all addresses to all.

A call has one body, so subject, bodies and headers are single variables (``%recipient.html%`` …) and each
recipient's contents their values, up to 1,000 recipients and 25 MB. Variables are keyed by address: addresses
must differ, all recipients of a call must have the same parts and headers, and contents must not hold
``%recipient.`` themselves. Other ``%…%`` names that Mailgun knows (``%unsubscribe_url%``) are replaced by it.

The answer has one id for all: it is every recipient's provider id, and events are correlated by the user variable
``message_id``. One invalid address refuses the whole call with 400. Mailgun honours no idempotency key.

The form is encoded here with a boundary made from the call id: httpx's own boundary is random, and the same call
must give the same bytes.

| answer | outcome | why ("API response codes", "Messages") |
| --- | --- | --- |
| 200 ``Queued. Thank you.`` | all accepted | |
| 200 "Mailgun Magnificent API" | account refused | the answer of a wrong address or domain; nothing was taken |
| 400, 413 | rejected | parameters, size |
| 401, 402, 403, 404 | account refused | key, plan, domain |
| 429 | throttled | ``Retry-After`` where given |
| 500, 502, 503, 504 | unknown | "retries are recommended", but no promise that nothing was queued |
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from urllib.parse import quote

import httpx

from email_platform.adapters.providers.classification import ClassificationTable
from email_platform.adapters.providers.http_provider import (
    HttpProvider,
    Refusal,
    answer_text,
    json_bytes,
    json_document,
    new_client,
    required_text,
)
from email_platform.adapters.providers.http_transport import MAXIMUM_CONNECTIONS, CallTimeouts, HttpAnswer
from email_platform.adapters.providers.message_fields import (
    ascii_domain_address,
    call_tags,
    check_distinct_addresses,
    encoded_header_value,
    rendered,
    unicode_mailbox,
)
from email_platform.domain.ports import BulkCall, EncodedCall, ProviderLimits, RecipientResult
from email_platform.errors import AccountRefusedError, InvalidTemplateError

MAILGUN_LIMITS = ProviderLimits(
    recipients_per_call=1000,
    honours_idempotency_keys=False,
    idempotency_seconds=0,
    body_bytes=25_000_000,
    accepts_whole_calls=True,
)
MAILGUN_BASE_URL = "https://api.mailgun.net"
_VARIABLE = "%recipient."


class MailgunProvider(HttpProvider):
    """One Mailgun sending domain."""

    name = "mailgun"
    table = ClassificationTable()

    def __init__(
        self,
        *,
        api_key: str,
        domain: str,
        base_url: str = MAILGUN_BASE_URL,
        limits: ProviderLimits = MAILGUN_LIMITS,
        timeouts: CallTimeouts | None = None,
        max_connections: int = MAXIMUM_CONNECTIONS,
        client: httpx.AsyncClient | None = None,
    ) -> None:
        timeouts = timeouts or CallTimeouts()
        super().__init__(
            url=f"{base_url.rstrip('/')}/v3/{quote(domain, safe='')}/messages",
            limits=limits,
            secret=api_key,
            timeouts=timeouts,
            client=client or new_client(timeouts, max_connections),
        )

    def _body(self, call: BulkCall) -> bytes:
        check_distinct_addresses(call, self.name)
        _check_uniform(call)
        first = rendered(call)[0]
        variables: dict[str, dict[str, str]] = {}
        header_names = sorted(first.headers)
        for recipient in rendered(call):
            values = {
                "message_id": str(recipient.message_id),
                "subject": recipient.subject,
                "html": recipient.html,
                "text": recipient.text,
                **{
                    f"header_{index}": encoded_header_value(recipient.headers[name])
                    for index, name in enumerate(header_names)
                },
            }
            if any(_VARIABLE in value for value in values.values()):
                raise InvalidTemplateError(
                    f"mailgun: the content for lead {recipient.lead_id} holds {_VARIABLE!r}, which Mailgun replaces"
                )
            variables[ascii_domain_address(recipient.address)] = {
                name: value for name, value in values.items() if value
            }
        fields = [("from", unicode_mailbox(call.from_name, call.from_address))]
        fields += [("to", address) for address in variables]
        fields.append(("subject", "%recipient.subject%"))
        fields += [(part, f"%recipient.{part}%") for part in ("html", "text") if getattr(first, part)]
        if call.reply_to:
            fields.append(("h:Reply-To", call.reply_to))
        fields += [(f"h:{name}", f"%recipient.header_{index}%") for index, name in enumerate(header_names)]
        fields += [(f"v:{name}", value) for name, value in sorted(call_tags(call).items())]
        fields.append(("v:message_id", "%recipient.message_id%"))
        fields.append(("o:tag", f"campaign-{call.campaign_id}"))
        fields.append(("recipient-variables", json_bytes(variables).decode()))
        return form_bytes(fields, call.call_id.hex)

    def _headers(self, call: EncodedCall) -> Mapping[str, str]:
        credentials = base64.b64encode(f"api:{self._secret}".encode()).decode()
        boundary = call.body.split(b"\r\n", 1)[0][2:].decode()
        return {
            "authorization": f"Basic {credentials}",
            "content-type": f"multipart/form-data; boundary={boundary}",
        }

    def _results(self, answer: HttpAnswer, recipient_count: int) -> list[RecipientResult]:
        if b"Mailgun Magnificent API" in answer.body[:200]:
            raise AccountRefusedError("mailgun: this address is not that of a sending domain; check it and base_url")
        identifier = required_text(json_document(answer.body).get("id"), "id")
        return [self.accepted(identifier)] * recipient_count

    def _refusal(self, answer: HttpAnswer) -> Refusal:
        return Refusal(code="", message=str(json_document(answer.body).get("message") or answer_text(answer)))


def form_bytes(fields: Iterable[tuple[str, str]], seed: str) -> bytes:
    """The fields as multipart/form-data (RFC 7578), with a boundary that depends on them and the seed alone.

    Raises:
        InvalidTemplateError: a value has no UTF-8 form.
    """
    try:
        encoded = [(name, value.encode()) for name, value in fields]
    except UnicodeEncodeError as unencodable:
        raise InvalidTemplateError(f"mailgun: the content cannot be encoded: {unencodable.reason}") from unencodable
    boundary = f"call-{seed}"
    # A content that quotes an earlier call's body could hold its boundary.
    while any(boundary.encode() in value for _, value in encoded):
        boundary += "-"
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode() + value + b"\r\n"
        for name, value in encoded
    ]
    return b"".join(parts) + f"--{boundary}--\r\n".encode()


def _check_uniform(call: BulkCall) -> None:
    shapes = {
        (bool(recipient.html), bool(recipient.text), tuple(sorted(recipient.headers))) for recipient in rendered(call)
    }
    if len(shapes) > 1:
        raise InvalidTemplateError(
            f"mailgun: the recipients of call {call.call_id} differ in their bodies (HTML, text) or header names; "
            "one call has one set of both"
        )
