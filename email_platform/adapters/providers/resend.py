"""Resend ``POST /emails/batch``: up to 100 whole messages in one call, with an Idempotency-Key.

Invariant: a repeated call carries the same key and the same bytes, so within 24 hours Resend accepts it once.

The batch is sent with ``x-batch-validation: permissive``: valid messages are queued, and the invalid ones come
back in ``errors`` with their index; in the default strict mode one bad address would refuse a hundred people.
``data`` holds the ids of the accepted messages in request order ("Batch validation modes", "Send batch emails").
Keys have at most 256 characters and are kept for 24 hours ("Idempotency keys").

The display name of ``from``: Resend refuses quoted and RFC 2047-encoded names there, so it is sent in clear text,
with the characters that would need quotes replaced by spaces (seen by users of its API; not documented).

| answer | outcome | why ("Errors") |
| --- | --- | --- |
| 200 | per message | ``data`` and ``errors`` |
| 400, 422, 451 | rejected | validation, security check |
| 401, 403, 404, 405; invalid_from_address | account refused | key, domain not verified |
| daily_quota_exceeded, monthly_quota_exceeded | account refused | although 429: waiting a second does not help |
| 429 | throttled | ``Retry-After`` |
| 409 concurrent_idempotent_requests | unknown | the first use of the key is under way |
| 409 invalid_idempotent_request | unknown | the first use of the key, with another payload, may be accepted |
| 500, 502, 503, 504 | unknown | no promise; the repeated key settles it |
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import httpx

from email_platform.adapters.providers.classification import ClassificationTable, Outcome
from email_platform.adapters.providers.http_provider import (
    HttpProvider,
    Refusal,
    UnreadableAnswerError,
    answer_text,
    json_bytes,
    json_document,
    new_client,
    required_list,
    required_text,
)
from email_platform.adapters.providers.http_transport import MAXIMUM_CONNECTIONS, CallTimeouts, HttpAnswer
from email_platform.adapters.providers.message_fields import (
    ascii_domain_address,
    ascii_token,
    call_tags,
    rendered,
)
from email_platform.domain.ports import BulkCall, EncodedCall, ProviderLimits, RecipientResult, RenderedRecipient

RESEND_LIMITS = ProviderLimits(recipients_per_call=100, honours_idempotency_keys=True, idempotency_seconds=24 * 3600)
RESEND_BASE_URL = "https://api.resend.com"
_NEEDS_QUOTES = re.compile(r'[",;:<>@()\[\]\\]+')


class ResendProvider(HttpProvider):
    """One Resend team."""

    name = "resend"
    table = ClassificationTable(
        by_code={
            "rate_limit_exceeded": Outcome.THROTTLED,
            **dict.fromkeys(
                ("daily_quota_exceeded", "monthly_quota_exceeded", "invalid_from_address"),
                Outcome.ACCOUNT_REFUSED,
            ),
        },
        by_status={409: Outcome.UNKNOWN},
    )

    def __init__(
        self,
        *,
        api_key: str,
        base_url: str = RESEND_BASE_URL,
        limits: ProviderLimits = RESEND_LIMITS,
        timeouts: CallTimeouts | None = None,
        max_connections: int = MAXIMUM_CONNECTIONS,
        client: httpx.AsyncClient | None = None,
    ) -> None:
        timeouts = timeouts or CallTimeouts()
        super().__init__(
            url=f"{base_url.rstrip('/')}/emails/batch",
            limits=limits,
            secret=api_key,
            timeouts=timeouts,
            client=client or new_client(timeouts, max_connections),
        )

    def _body(self, call: BulkCall) -> bytes:
        tags = call_tags(call)
        sender = _sender(call.from_name, call.from_address)
        return json_bytes([_message(call, recipient, sender, tags) for recipient in rendered(call)])

    def _headers(self, call: EncodedCall) -> Mapping[str, str]:
        return {
            "authorization": f"Bearer {self._secret}",
            "content-type": "application/json",
            "idempotency-key": str(call.call_id),
            "x-batch-validation": "permissive",
        }

    def _results(self, answer: HttpAnswer, recipient_count: int) -> list[RecipientResult]:
        document = json_document(answer.body)
        refused = {int(error["index"]): str(error.get("message", "")) for error in document.get("errors") or ()}
        if not refused.keys() <= set(range(recipient_count)):
            raise UnreadableAnswerError("errors: an index outside the call")
        ids = iter(required_list(document.get("data"), recipient_count - len(refused), "data"))
        return [
            self.rejected("validation_error", refused[index])
            if index in refused
            else self.accepted(required_text(next(ids)["id"], "id"))
            for index in range(recipient_count)
        ]

    def _refusal(self, answer: HttpAnswer) -> Refusal:
        document = json_document(answer.body)
        return Refusal(
            code=str(document.get("name") or ""), message=str(document.get("message") or answer_text(answer))
        )


def _message(call: BulkCall, recipient: RenderedRecipient, sender: str, tags: Mapping[str, str]) -> dict[str, object]:
    message: dict[str, object] = {
        "from": sender,
        "to": [ascii_domain_address(recipient.address)],
        "subject": recipient.subject,
        "tags": [
            {"name": ascii_token(name), "value": ascii_token(value)}
            for name, value in sorted({**tags, "message_id": str(recipient.message_id)}.items())
        ],
    }
    if recipient.html:
        message["html"] = recipient.html
    if recipient.text:
        message["text"] = recipient.text
    if call.reply_to:
        message["reply_to"] = [call.reply_to]
    if recipient.headers:
        message["headers"] = dict(recipient.headers)
    return message


def _sender(name: str, address: str) -> str:
    address = ascii_domain_address(address)
    plain = " ".join(_NEEDS_QUOTES.sub(" ", name).split())
    return f"{plain} <{address}>" if plain else address
