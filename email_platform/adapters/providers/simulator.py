"""The adapter of the embedded provider simulator (``email_platform.local.provider_simulator``).

Invariant: a repeated call carries the same Idempotency-Key and the same bytes, so the simulator accepts it once.

| answer | outcome | why |
| --- | --- | --- |
| 200 | per recipient | ``results`` in request order |
| 400, 413 | rejected | validated before anything is accepted |
| 401, 403, 404 | account refused | wrong key, suspended account, wrong base URL |
| 409 ``idempotency_in_flight`` | unknown | the first use of the key is still being answered and may be accepted |
| 409 other payload | unknown | the first use of the key was accepted: these recipients have their mail |
| 429 | throttled | nothing accepted; ``retry_after_seconds`` in the body, else ``Retry-After`` |
| 503 ``ServiceUnavailable`` | not accepted | outage switch or stopping: it answers before it accepts |
| other 5xx | unknown | its fault ``error_5xx_after`` answers so after it accepted |
"""

from __future__ import annotations

from collections.abc import Mapping

import httpx

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
    new_client,
    required_list,
    required_text,
)
from email_platform.adapters.providers.http_transport import MAXIMUM_CONNECTIONS, CallTimeouts, HttpAnswer
from email_platform.adapters.providers.message_fields import call_tags, rendered, unicode_mailbox
from email_platform.domain.ports import BulkCall, EncodedCall, ProviderLimits, RecipientResult

SIMULATOR_LIMITS = ProviderLimits(
    recipients_per_call=50,
    honours_idempotency_keys=True,
    idempotency_seconds=24 * 3600,
    body_bytes=10 * 1024 * 1024,
)


class SimulatorProvider(HttpProvider):
    """One account of the provider simulator."""

    name = "simulator"
    table = ClassificationTable(
        by_code={"ServiceUnavailable": Outcome.NOT_ACCEPTED},
        by_status={409: Outcome.UNKNOWN},
    )

    def __init__(
        self,
        *,
        base_url: str,
        api_key: str,
        limits: ProviderLimits = SIMULATOR_LIMITS,
        timeouts: CallTimeouts | None = None,
        max_connections: int = MAXIMUM_CONNECTIONS,
        client: httpx.AsyncClient | None = None,
    ) -> None:
        timeouts = timeouts or CallTimeouts()
        super().__init__(
            url=f"{base_url.rstrip('/')}/v1/bulk",
            limits=limits,
            secret=api_key,
            timeouts=timeouts,
            client=client or new_client(timeouts, max_connections),
        )

    def _body(self, call: BulkCall) -> bytes:
        return json_bytes(
            {
                "from": unicode_mailbox(call.from_name, call.from_address),
                "reply_to": call.reply_to,
                "tags": call_tags(call),
                "recipients": [
                    {
                        "to": recipient.address,
                        "message_id": str(recipient.message_id),
                        "subject": recipient.subject,
                        "html": recipient.html or None,
                        "text": recipient.text or None,
                        "headers": dict(recipient.headers),
                    }
                    for recipient in rendered(call)
                ],
            }
        )

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
