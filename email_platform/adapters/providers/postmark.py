"""Postmark ``POST /email/batch``: up to 500 whole messages in one call.

Invariant: the answer is an array in request order with one ``ErrorCode`` per message, and every message ends as
accepted (0), refused, or deferred; none is left without a result.

Postmark honours no idempotency key. Limits ("Send batch emails", "Sending a single email"): 500 messages and
50 MB per call; ten metadata fields, names of 20 and values of 80 characters. Campaigns go through a broadcast
stream (default id ``broadcast``); a List-Unsubscribe header of one's own on a broadcast stream needs Postmark's
custom unsubscribe handling, which their support switches on, else Postmark puts its own in place.

| answer | outcome | why (Postmark API overview, "HTTP response codes" and "API error codes") |
| --- | --- | --- |
| 200 | per message | ``ErrorCode`` 0 accepted; 300 and 406 (inactive recipient) refuse that message |
| 413, 415, 422 | rejected | the whole request is refused; by ``ErrorCode`` where it concerns the account |
| 401, 403, 404; codes 10, 400, 401, 405, 412, 413, 1235 | account refused | token, sender signature, credits, stream |
| 429; code 429 | throttled | no Retry-After is documented |
| code 100 (with 503) | not accepted | maintenance: the service says so itself, in place of taking the request |
| 500, other 502 to 504 | unknown | 500: "in most cases the message is lost": not in all |
"""

from __future__ import annotations

from collections.abc import Mapping

import httpx
import orjson

from email_platform.adapters.providers.classification import ClassificationTable, Outcome
from email_platform.adapters.providers.http_provider import (
    HttpProvider,
    Refusal,
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
    call_tags,
    rendered,
    unicode_mailbox,
)
from email_platform.domain.ports import BulkCall, EncodedCall, ProviderLimits, RecipientResult, RenderedRecipient
from email_platform.errors import InvalidTemplateError

POSTMARK_LIMITS = ProviderLimits(
    recipients_per_call=500, honours_idempotency_keys=False, idempotency_seconds=0, body_bytes=50_000_000
)
POSTMARK_BASE_URL = "https://api.postmarkapp.com"
DEFAULT_MESSAGE_STREAM = "broadcast"
MAXIMUM_METADATA_FIELDS = 10
MAXIMUM_METADATA_NAME_CHARACTERS = 20
MAXIMUM_METADATA_VALUE_CHARACTERS = 80

_BY_ERROR_CODE: Mapping[str, Outcome] = {
    "100": Outcome.NOT_ACCEPTED,
    "429": Outcome.THROTTLED,
    # Token; sender signature not found, not confirmed; no credits; pending; may not send; unknown stream.
    **dict.fromkeys(("10", "400", "401", "405", "412", "413", "1235"), Outcome.ACCOUNT_REFUSED),
}


class PostmarkProvider(HttpProvider):
    """One Postmark server (in Postmark's sense: a token and its streams)."""

    name = "postmark"
    table = ClassificationTable(
        by_code=_BY_ERROR_CODE,
        by_recipient_code=_BY_ERROR_CODE,
    )

    def __init__(
        self,
        *,
        server_token: str,
        message_stream: str = DEFAULT_MESSAGE_STREAM,
        base_url: str = POSTMARK_BASE_URL,
        limits: ProviderLimits = POSTMARK_LIMITS,
        timeouts: CallTimeouts | None = None,
        max_connections: int = MAXIMUM_CONNECTIONS,
        client: httpx.AsyncClient | None = None,
    ) -> None:
        timeouts = timeouts or CallTimeouts()
        self._message_stream = message_stream
        super().__init__(
            url=f"{base_url.rstrip('/')}/email/batch",
            limits=limits,
            secret=server_token,
            timeouts=timeouts,
            client=client or new_client(timeouts, max_connections),
        )

    def _body(self, call: BulkCall) -> bytes:
        tags = call_tags(call)
        _check_metadata(tags)
        sender = unicode_mailbox(call.from_name, call.from_address)
        return json_bytes([self._message(call, recipient, sender, tags) for recipient in rendered(call)])

    def _message(
        self, call: BulkCall, recipient: RenderedRecipient, sender: str, tags: Mapping[str, str]
    ) -> dict[str, object]:
        message: dict[str, object] = {
            "From": sender,
            "To": ascii_domain_address(recipient.address),
            "Subject": recipient.subject,
            "MessageStream": self._message_stream,
            "Tag": f"campaign-{call.campaign_id}",
            "Metadata": {**tags, "message_id": str(recipient.message_id)},
        }
        if recipient.html:
            message["HtmlBody"] = recipient.html
        if recipient.text:
            message["TextBody"] = recipient.text
        if call.reply_to:
            message["ReplyTo"] = call.reply_to
        if recipient.headers:
            message["Headers"] = [{"Name": name, "Value": value} for name, value in sorted(recipient.headers.items())]
        return message

    def _headers(self, call: EncodedCall) -> Mapping[str, str]:
        return {"x-postmark-server-token": self._secret, "content-type": "application/json"}

    def _results(self, answer: HttpAnswer, recipient_count: int) -> list[RecipientResult]:
        results = []
        for entry in required_list(orjson.loads(answer.body), recipient_count, "messages"):
            code = entry["ErrorCode"]
            if code == 0:
                results.append(self.accepted(required_text(entry["MessageID"], "MessageID")))
            else:
                results.append(self.rejected(str(int(code)), str(entry.get("Message", ""))))
        return results

    def _refusal(self, answer: HttpAnswer) -> Refusal:
        document = json_document(answer.body)
        return Refusal(
            code=str(document.get("ErrorCode") or ""),
            message=str(document.get("Message") or answer_text(answer)),
        )


def _check_metadata(tags: Mapping[str, str]) -> None:
    if len(tags) + 1 > MAXIMUM_METADATA_FIELDS:
        raise InvalidTemplateError(
            f"postmark: {len(tags)} tags; at most {MAXIMUM_METADATA_FIELDS - 1} fit beside the message id"
        )
    for name, value in tags.items():
        if len(name) > MAXIMUM_METADATA_NAME_CHARACTERS or len(value) > MAXIMUM_METADATA_VALUE_CHARACTERS:
            raise InvalidTemplateError(
                f"postmark: tag {name!r}: names have at most {MAXIMUM_METADATA_NAME_CHARACTERS} characters and "
                f"values at most {MAXIMUM_METADATA_VALUE_CHARACTERS}"
            )
