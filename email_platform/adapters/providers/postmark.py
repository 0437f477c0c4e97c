"""Postmark ``POST /email/batch``: up to 500 whole messages in one call.

Invariant: the answer is an array in request order with one ``ErrorCode`` per message, and every message ends as
accepted (0), refused, or deferred; none is left without a result.

Postmark's batch has no placeholders, so each message is put together here. It honours no idempotency key. Limits:
`limits`. Campaigns go through a broadcast stream (default id ``broadcast``); a List-Unsubscribe header of one's own on
a broadcast stream needs Postmark's custom unsubscribe handling, which their support switches on, else Postmark puts
its own in place.

Whose fault (Postmark API overview, "HTTP response codes" and "API error codes"):

| answer | whose | why |
| --- | --- | --- |
| 200 | per message | ``ErrorCode`` 0 accepted |
| code 406 | recipient | inactive: bounced, complained or suppressed |
| code 300 about the ``From`` address | sender or account | "not a verified sender signature" (support, \
"Troubleshooting 422 Unprocessable Entity Errors") |
| code 300 otherwise | unclear | "invalid email request": of ``To``, or an empty message |
| 413; code 410 | size | payload too large; too many batch messages |
| 401, 403, 404; codes 10, 400, 401 | sender or account | token; sender signature not found, not confirmed |
| codes 405, 412, 413, 1235 | account | credits, pending, may not send (code, not status), unknown stream |
| 429; code 429 | the moment | no Retry-After is documented |
| code 100 (with 503) | the moment | maintenance: the service says so itself, in place of taking the request |
| 415, 422; codes 402, 403, 409, 411 and others | nobody knows | JSON and fields of our own making |
| 500, other 502 to 504 | unknown | 500: "in most cases the message is lost": not in all |
"""

from __future__ import annotations

from collections.abc import Mapping

import httpx
import orjson

from email_platform.adapters.providers.call_plan import CallPlan
from email_platform.adapters.providers.classification import ClassificationTable, Outcome
from email_platform.adapters.providers.http_provider import (
    HttpProvider,
    Refusal,
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
from email_platform.adapters.providers.limits import (
    POSTMARK_BODY_BYTES,
    POSTMARK_LIMITS,
    POSTMARK_MESSAGE_BYTES,
    POSTMARK_METADATA_FIELDS,
    POSTMARK_METADATA_NAME_CHARACTERS,
    POSTMARK_METADATA_VALUE_CHARACTERS,
)
from email_platform.adapters.providers.message_fields import ascii_domain_address, unicode_mailbox
from email_platform.adapters.providers.sizes import base64_bytes
from email_platform.domain.message import Message
from email_platform.domain.ports import BulkCall, EncodedCall, ProviderLimits, Recipient, RecipientResult
from email_platform.errors import InvalidTemplateError

POSTMARK_BASE_URL = "https://api.postmarkapp.com"
DEFAULT_MESSAGE_STREAM = "broadcast"

_BY_ERROR_CODE: Mapping[str, Outcome] = {
    "100": Outcome.NOT_ACCEPTED,
    "300": Outcome.UNCLEAR,
    "406": Outcome.RECIPIENT,
    "410": Outcome.SIZE,
    "429": Outcome.THROTTLED,
    # Token; sender signature not found, not confirmed; no credits; pending; may not send; unknown stream.
    **dict.fromkeys(("10", "400", "401", "405", "412", "413", "1235"), Outcome.ACCOUNT_REFUSED),
}


class PostmarkProvider(HttpProvider):
    """One Postmark server (in Postmark's sense: a token and its streams)."""

    name = "postmark"
    table = ClassificationTable(
        by_words={"300": [("'from' address", Outcome.ACCOUNT_REFUSED), ("sender signature", Outcome.ACCOUNT_REFUSED)]},
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
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        timeouts = timeouts or CallTimeouts()
        self._message_stream = message_stream
        super().__init__(
            url=f"{base_url.rstrip('/')}/email/batch",
            limits=limits,
            secret=server_token,
            timeouts=timeouts,
            transport=transport or open_transport(max_connections=max_connections),
        )

    def _plan(self, call: BulkCall) -> CallPlan:
        return _PostmarkPlan(call, self._message_stream)

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


class _PostmarkPlan(JoinedPlan):
    provider = "postmark"

    def __init__(self, call: BulkCall, message_stream: str) -> None:
        super().__init__(call)
        _check_metadata(self.tags)
        self._shared: dict[str, object] = {
            "From": unicode_mailbox(call.from_name, call.from_address),
            "MessageStream": message_stream,
            "Tag": f"campaign-{call.campaign_id}",
        }
        if call.reply_to:
            self._shared["ReplyTo"] = call.reply_to

    def size_problem(self, recipient: Recipient) -> str | None:
        html_bytes, text_bytes = (part.utf8_bytes(recipient.values) for part in (self.html, self.text))
        if max(html_bytes, text_bytes) > POSTMARK_BODY_BYTES:
            return f"postmark: a body of {max(html_bytes, text_bytes)} bytes; the limit is {POSTMARK_BODY_BYTES}"
        encoded_bytes = base64_bytes(html_bytes) + base64_bytes(text_bytes)
        if encoded_bytes > POSTMARK_MESSAGE_BYTES:
            return f"postmark: a message of {encoded_bytes} bytes in base64; the limit is {POSTMARK_MESSAGE_BYTES}"
        return None

    def document(self, recipient: Recipient, message: Message) -> dict[str, object]:
        document = {
            **self._shared,
            "To": ascii_domain_address(recipient.address),
            "Subject": message.subject,
            "Metadata": {**self.tags, "message_id": recipient.message_id},
        }
        if message.html:
            document["HtmlBody"] = message.html
        if message.text:
            document["TextBody"] = message.text
        if message.headers:
            document["Headers"] = [{"Name": name, "Value": value} for name, value in sorted(message.headers.items())]
        return document


def _check_metadata(tags: Mapping[str, str]) -> None:
    if len(tags) + 1 > POSTMARK_METADATA_FIELDS:
        raise InvalidTemplateError(
            f"postmark: {len(tags)} tags; at most {POSTMARK_METADATA_FIELDS - 1} fit beside the message id"
        )
    for name, value in tags.items():
        if len(name) > POSTMARK_METADATA_NAME_CHARACTERS or len(value) > POSTMARK_METADATA_VALUE_CHARACTERS:
            raise InvalidTemplateError(
                f"postmark: tag {name!r}: names have at most {POSTMARK_METADATA_NAME_CHARACTERS} characters and "
                f"values at most {POSTMARK_METADATA_VALUE_CHARACTERS}"
            )
