"""The adapter of the embedded provider simulator (``email_platform.local.provider_simulator``).

Invariant: a repeated call carries the same Idempotency-Key and the same bytes, so the simulator accepts it once.

A call carries the skeleton once, as a template with ``{{v1}}`` …, and each recipient's values as ``substitutions``, as
with SES.

| answer | whose | why |
| --- | --- | --- |
| 200 | per recipient | ``results`` in request order |
| 400 ``InvalidRecipient`` | a recipient | does not say which |
| 400 ``TooManyRecipients``, 413 | size | |
| 400 ``SenderNotVerified`` | sender | |
| 400 with another code | nobody knows | the body's shape; validated before anything is accepted |
| 401, 403, 404 | account | wrong key, suspended account, wrong base URL |
| 409 ``idempotency_in_flight`` | unknown | the first use of the key is still being answered and may be accepted |
| 409 other payload | unknown | the first use of the key was accepted: these recipients have their mail |
| 429 | the moment | nothing accepted; ``retry_after_seconds`` in the body, else ``Retry-After`` |
| 503 ``ServiceUnavailable`` | the moment | outage switch or stopping: it answers before it accepts |
| other 5xx | unknown | its fault ``error_5xx_after`` answers so after it accepted |

| result's code | whose |
| --- | --- |
| ``InvalidAddress``, ``BlockedDomain`` | the recipient |
| ``AccountPaused`` | account |
| others | nobody knows |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import httpx

from email_platform.adapters.providers.call_plan import CallPlan
from email_platform.adapters.providers.classification import (
    ClassificationTable,
    Outcome,
    non_negative_number,
)
from email_platform.adapters.providers.http_provider import (
    HttpProvider,
    Refusal,
    UnreadableAnswerError,
    answer_text,
    json_bytes,
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
from email_platform.adapters.providers.limits import SIMULATOR_LIMITS
from email_platform.adapters.providers.message_fields import call_tags, present, unicode_mailbox
from email_platform.adapters.providers.placeholders import HANDLEBARS, templated
from email_platform.domain.message import Piece, joined
from email_platform.domain.ports import BulkCall, EncodedCall, ProviderLimits, Recipient, RecipientResult


class SimulatorProvider(HttpProvider):
    """One account of the provider simulator."""

    name = "simulator"
    table = ClassificationTable(
        by_code={
            "ServiceUnavailable": Outcome.NOT_ACCEPTED,
            "TooManyRecipients": Outcome.SIZE,
            "InvalidRecipient": Outcome.RECIPIENT,
            "SenderNotVerified": Outcome.ACCOUNT_REFUSED,
        },
        by_status={409: Outcome.UNKNOWN},
        by_recipient_code={
            **dict.fromkeys(("InvalidAddress", "BlockedDomain"), Outcome.RECIPIENT),
            "AccountPaused": Outcome.ACCOUNT_REFUSED,
        },
    )

    def __init__(
        self,
        *,
        base_url: str,
        api_key: str,
        limits: ProviderLimits = SIMULATOR_LIMITS,
        timeouts: CallTimeouts | None = None,
        max_connections: int = MAXIMUM_CONNECTIONS,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        timeouts = timeouts or CallTimeouts()
        super().__init__(
            url=f"{base_url.rstrip('/')}/v1/bulk",
            limits=limits,
            secret=api_key,
            timeouts=timeouts,
            transport=transport or open_transport(max_connections=max_connections),
        )

    def _plan(self, call: BulkCall) -> CallPlan:
        return _SimulatorPlan(call)

    def _headers(self, call: EncodedCall) -> Mapping[str, str]:
        # The secret is written here and nowhere else; it never reaches the encoded call, which is stored.
        return {
            "authorization": f"Bearer {self._secret}",
            "content-type": "application/json",
            "idempotency-key": str(call.call_id),
        }

    def _results(self, answer: HttpAnswer, recipient_count: int) -> list[RecipientResult]:
        document = json_document(answer.body)
        results = []
        for entry in required_list(document.get("results"), recipient_count, "results"):
            if entry["status"] == "accepted":
                results.append(self.accepted(required_text(entry["provider_message_id"], "provider_message_id")))
            elif entry["status"] == "rejected":
                results.append(self.rejected(required_text(entry["code"], "code"), str(entry.get("message", ""))))
            else:
                raise UnreadableAnswerError(f"unknown status {entry['status']!r}")
        return results

    def _refusal(self, answer: HttpAnswer) -> Refusal:
        document = json_document(answer.body)
        error = document.get("error")
        inner = error if isinstance(error, dict) else document
        return Refusal(
            code=str(inner.get("code") or ""),
            message=str(inner.get("message") or answer_text(answer)),
            retry_after_seconds=non_negative_number(
                document.get("retry_after_seconds", inner.get("retry_after_seconds"))
            ),
        )


class _SimulatorPlan(CallPlan):
    provider = "simulator"

    def __init__(self, call: BulkCall) -> None:
        super().__init__(call)
        skeleton = call.skeleton
        self._template = templated(skeleton, HANDLEBARS)
        self._shared: dict[str, object] = {
            "from": unicode_mailbox(call.from_name, call.from_address),
            "reply_to": call.reply_to,
            "tags": call_tags(call),
            "template": {
                "subject": self._template.subject,
                "html": self._template.html if present(call, skeleton.html) else None,
                "text": self._template.text if present(call, skeleton.text) else None,
            },
            "recipients": [],
        }
        headers = {name: joined(pieces, ()) for name, pieces in skeleton.headers.items() if not _varies(pieces)}
        self._same_headers = headers
        self._own_headers = [(name, pieces) for name, pieces in skeleton.headers.items() if _varies(pieces)]
        self.shared_bytes = len(json_bytes(self._shared))

    def entry_bytes(self, recipient: Recipient) -> int:
        return len(json_bytes(self._entry(recipient))) + len(",")

    def _write(self) -> bytes:
        return json_bytes({**self._shared, "recipients": [self._entry(one) for one in self.call.recipients]})

    def _entry(self, recipient: Recipient) -> dict[str, object]:
        values = recipient.values
        return {
            "to": recipient.address,
            "message_id": recipient.message_id,
            "headers": {**self._same_headers, **{name: joined(pieces, values) for name, pieces in self._own_headers}},
            "substitutions": self._template.data(values),
        }


def _varies(pieces: Sequence[Piece]) -> bool:
    return any(isinstance(piece, int) for piece in pieces)
