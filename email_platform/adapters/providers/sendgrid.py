"""SendGrid v3 ``POST /v3/mail/send`` with personalizations.

Invariant: the contents that a recipient gets are the ones rendered for this recipient, or the call is not made.

A call has one ``content`` for all its personalizations. Legacy substitutions cannot carry a rendered mail: they are
limited to 50,000 bytes a personalization block ("Substitution tags"), and replaced wherever their text occurs. So:

- without a template id, one recipient per call, its content sent as it is;
- with ``template_id``, up to 1,000 recipients per call: a dynamic template, created once in the account with the
  subject ``{{{subject}}}``, the HTML ``{{{html}}}`` and the text ``{{{text}}}`` (three braces: not escaped).

A 202 has no per-recipient result: all recipients are accepted, with the call's ``X-Message-Id``, and events are
correlated by the custom argument ``message_id``. A refused recipient is known only from a "dropped" event, and an
invalid address refuses the whole call. SendGrid honours no idempotency key.

| answer | outcome | why (Mail Send reference, "Errors"; "How to use the v3 API") |
| --- | --- | --- |
| 202 | all accepted | "valid, and queued to be delivered" |
| 400, 406, 413 | rejected | validated before it is queued |
| 401, 403, 404, 405 | account refused | key, sender identity, temporary block after bad requests |
| 429 | throttled | rate limitation; ``X-RateLimit-Reset`` is a Unix time |
| 500, 502, 503, 504 | unknown | "an error occurred when SendGrid attempted to process it": no promise |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from email.utils import parseaddr

import httpx

from email_platform.adapters.providers.classification import ClassificationTable, seconds_until_epoch
from email_platform.adapters.providers.http_provider import (
    HttpProvider,
    Refusal,
    answer_text,
    json_bytes,
    json_document,
    new_client,
)
from email_platform.adapters.providers.http_transport import MAXIMUM_CONNECTIONS, CallTimeouts, HttpAnswer
from email_platform.adapters.providers.message_fields import (
    ascii_domain_address,
    call_tags,
    check_distinct_addresses,
    rendered,
)
from email_platform.domain.ports import BulkCall, EncodedCall, ProviderLimits, RecipientResult, RenderedRecipient
from email_platform.errors import InvalidTemplateError

SENDGRID_LIMITS = ProviderLimits(
    recipients_per_call=1000,
    honours_idempotency_keys=False,
    idempotency_seconds=0,
    body_bytes=30_000_000,
    accepts_whole_calls=True,
)
SENDGRID_LIMITS_WITHOUT_TEMPLATE = replace(SENDGRID_LIMITS, recipients_per_call=1)
SENDGRID_BASE_URL = "https://api.sendgrid.com"
MAXIMUM_CUSTOM_ARGUMENT_BYTES = 10_000


class SendGridProvider(HttpProvider):
    """One SendGrid account or subuser."""

    name = "sendgrid"
    success_statuses = frozenset({202})
    table = ClassificationTable()

    def __init__(
        self,
        *,
        api_key: str,
        template_id: str | None = None,
        base_url: str = SENDGRID_BASE_URL,
        limits: ProviderLimits | None = None,
        timeouts: CallTimeouts | None = None,
        max_connections: int = MAXIMUM_CONNECTIONS,
        client: httpx.AsyncClient | None = None,
    ) -> None:
        timeouts = timeouts or CallTimeouts()
        self._template_id = template_id
        super().__init__(
            url=f"{base_url.rstrip('/')}/v3/mail/send",
            limits=limits or (SENDGRID_LIMITS if template_id else SENDGRID_LIMITS_WITHOUT_TEMPLATE),
            secret=api_key,
            timeouts=timeouts,
            client=client or new_client(timeouts, max_connections),
        )

    def _body(self, call: BulkCall) -> bytes:
        check_distinct_addresses(call, self.name)
        document: dict[str, object] = {
            "from": _mailbox(call.from_name, call.from_address),
            "custom_args": call_tags(call),
            "personalizations": [self._personalization(recipient) for recipient in rendered(call)],
        }
        if call.reply_to:
            document["reply_to"] = _mailbox(*parseaddr(call.reply_to))
        if self._template_id:
            document["template_id"] = self._template_id
        else:
            if len(call.recipients) > 1:
                raise InvalidTemplateError(
                    "sendgrid: without a template id every recipient's content needs a call of its own"
                )
            (recipient,) = rendered(call)
            document["subject"] = recipient.subject
            # text/plain must come first (Mail Send reference, "content").
            document["content"] = [
                {"type": media_type, "value": value}
                for media_type, value in (("text/plain", recipient.text), ("text/html", recipient.html))
                if value
            ]
        arguments = json_bytes(document["custom_args"])
        if len(arguments) + 64 > MAXIMUM_CUSTOM_ARGUMENT_BYTES:
            raise InvalidTemplateError(f"sendgrid: the tags take {len(arguments)} bytes; the limit is 10,000")
        return json_bytes(document)

    def _personalization(self, recipient: RenderedRecipient) -> dict[str, object]:
        personalization: dict[str, object] = {
            "to": [{"email": ascii_domain_address(recipient.address)}],
            "custom_args": {"message_id": str(recipient.message_id)},
        }
        if recipient.headers:
            personalization["headers"] = dict(recipient.headers)
        if self._template_id:
            personalization["dynamic_template_data"] = {
                "subject": recipient.subject,
                "html": recipient.html,
                "text": recipient.text,
            }
        return personalization

    def _headers(self, call: EncodedCall) -> Mapping[str, str]:
        return {"authorization": f"Bearer {self._secret}", "content-type": "application/json"}

    def _results(self, answer: HttpAnswer, recipient_count: int) -> list[RecipientResult]:
        return [self.accepted(answer.headers.get("x-message-id", ""))] * recipient_count

    def _refusal(self, answer: HttpAnswer) -> Refusal:
        errors = json_document(answer.body).get("errors")
        entries = [entry for entry in errors if isinstance(entry, dict)] if isinstance(errors, list) else []
        words = "; ".join(
            f"{entry['field']}: {entry.get('message')}" if entry.get("field") else str(entry.get("message"))
            for entry in entries
        )
        return Refusal(
            code="",
            message=words or answer_text(answer),
            retry_after_seconds=seconds_until_epoch(answer.headers.get("x-ratelimit-reset", ""), answer.headers)
            if answer.status == 429
            else None,
        )


def _mailbox(name: str, address: str) -> dict[str, str]:
    mailbox = {"email": ascii_domain_address(address)}
    if name:
        mailbox["name"] = name
    return mailbox
