"""Resend ``POST /emails/batch``: up to 100 whole messages in one call, with an Idempotency-Key.

Invariant: a repeated call carries the same key and the same bytes, so within 24 hours Resend accepts it once.

The batch is sent with ``x-batch-validation: permissive``: valid messages are queued, and the invalid ones come
back in ``errors`` with their index; in the default strict mode one bad address would refuse a hundred people.
``data`` holds the ids of the accepted messages in request order ("Batch validation modes", "Send batch emails").
Keys have at most 256 characters and are kept for 24 hours ("Idempotency keys").

The display name of ``from``: Resend refuses quoted and RFC 2047-encoded names there, so it is sent in clear text,
with the characters that would need quotes replaced by spaces (seen by users of its API; not documented).

Resend's batch has no placeholders, so each message is put together here. No size of a batch is documented; a message
has at most 40 MB (`limits`).

Whose fault ("Errors"; the words of ``Invalid `to` field`` are those that users of the API report):

| answer | whose | why |
| --- | --- | --- |
| 200 | per message | ``data`` and ``errors``; an error has words only and is judged as ``validation_error`` |
| validation_error "Invalid `to` field" | recipient | |
| validation_error with the words of sender or account (`_WORDS`) | sender or account | testing only, domain, key |
| validation_error otherwise | unclear | "one or more fields in the request" |
| missing_required_field, security_error, other 400, 422, 451 | nobody knows | |
| 413 | size | |
| 401, 403, 404, 405; invalid_from_address | sender or account | key, domain not verified |
| daily_quota_exceeded, monthly_quota_exceeded | account | although 429: waiting a second does not help |
| 429 | the moment | ``Retry-After`` |
| 409 concurrent_idempotent_requests | unknown | the first use of the key is under way |
| 409 invalid_idempotent_request | unknown | the first use of the key, with another payload, may be accepted |
| 500, 502, 503, 504 | unknown | no promise; the repeated key settles it |
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import httpx

from email_platform.adapters.providers.call_plan import CallPlan
from email_platform.adapters.providers.classification import ClassificationTable, Outcome
from email_platform.adapters.providers.http_provider import (
    HttpProvider,
    Refusal,
    UnreadableAnswerError,
    answer_text,
    json_document,
    required_list,
    required_text,
)
from email_platform.adapters.providers.http_transport import (
    MAXIMUM_CONNECTIONS,
    CallTimeouts,
    HttpAnswer,
    open_transport,
)
from email_platform.adapters.providers.joined_plan import JoinedPlan
from email_platform.adapters.providers.limits import RESEND_LIMITS, RESEND_MESSAGE_BYTES
from email_platform.adapters.providers.message_fields import ascii_domain_address, ascii_token
from email_platform.adapters.providers.sizes import base64_bytes
from email_platform.domain.message import Message
from email_platform.domain.ports import BulkCall, EncodedCall, ProviderLimits, Recipient, RecipientResult

RESEND_BASE_URL = "https://api.resend.com"
# One name stands for faults of the sender, the account and the recipient; the message tells them apart.
_WORDS = (
    ("testing email", Outcome.ACCOUNT_REFUSED),
    ("domain is not verified", Outcome.ACCOUNT_REFUSED),
    ("api key is invalid", Outcome.ACCOUNT_REFUSED),
    ("invalid `from` field", Outcome.ACCOUNT_REFUSED),
    ("invalid `reply_to` field", Outcome.ACCOUNT_REFUSED),
    ("invalid `to` field", Outcome.RECIPIENT),
)
_NEEDS_QUOTES = re.compile(r'[",;:<>@()\[\]\\]+')


class ResendProvider(HttpProvider):
    """One Resend team."""

    name = "resend"
    table = ClassificationTable(
        by_words={"validation_error": _WORDS, "invalid_to_address": _WORDS},
        by_code={
            "rate_limit_exceeded": Outcome.THROTTLED,
            **dict.fromkeys(
                (
                    *("missing_api_key", "restricted_api_key", "invalid_api_key", "invalid_access"),
                    *("daily_quota_exceeded", "monthly_quota_exceeded", "invalid_from_address"),
                ),
                Outcome.ACCOUNT_REFUSED,
            ),
        },
        by_status={409: Outcome.UNKNOWN},
        by_recipient_code={"validation_error": Outcome.UNCLEAR},
    )

    def __init__(
        self,
        *,
        api_key: str,
        base_url: str = RESEND_BASE_URL,
        limits: ProviderLimits = RESEND_LIMITS,
        timeouts: CallTimeouts | None = None,
        max_connections: int = MAXIMUM_CONNECTIONS,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        timeouts = timeouts or CallTimeouts()
        super().__init__(
            url=f"{base_url.rstrip('/')}/emails/batch",
            limits=limits,
            secret=api_key,
            timeouts=timeouts,
            transport=transport or open_transport(max_connections=max_connections),
        )

    def _plan(self, call: BulkCall) -> CallPlan:
        return _ResendPlan(call)

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


class _ResendPlan(JoinedPlan):
    provider = "resend"

    def __init__(self, call: BulkCall) -> None:
        super().__init__(call)
        self._shared: dict[str, object] = {"from": _sender(call.from_name, call.from_address)}
        if call.reply_to:
            self._shared["reply_to"] = [call.reply_to]

    def size_problem(self, recipient: Recipient) -> str | None:
        encoded_bytes = sum(base64_bytes(part.utf8_bytes(recipient.values)) for part in (self.html, self.text))
        if encoded_bytes > RESEND_MESSAGE_BYTES:
            return f"resend: a message of {encoded_bytes} bytes in base64; the limit is {RESEND_MESSAGE_BYTES}"
        return None

    def document(self, recipient: Recipient, message: Message) -> dict[str, object]:
        document: dict[str, object] = {
            **self._shared,
            "to": [ascii_domain_address(recipient.address)],
            "subject": message.subject,
            "tags": [
                {"name": ascii_token(name), "value": ascii_token(value)}
                for name, value in sorted({**self.tags, "message_id": recipient.message_id}.items())
            ],
        }
        if message.html:
            document["html"] = message.html
        if message.text:
            document["text"] = message.text
        if message.headers:
            document["headers"] = dict(message.headers)
        return document


def _sender(name: str, address: str) -> str:
    address = ascii_domain_address(address)
    plain = " ".join(_NEEDS_QUOTES.sub(" ", name).split())
    return f"{plain} <{address}>" if plain else address
