"""Proves that a webhook comes from the provider account that its path names.

Invariants: nothing is kept, parsed further or acknowledged before it is proved; secrets and digests are
compared in constant time; a refusal's reason names a header or a field, never a value; whatever is posted, a verifier
raises what `Verifier` names and nothing else. A replay inside the window is harmless too, since events are idempotent
by (provider, event_id).

The window is as long as the provider may retry the same signed request, where it does not document that it
signs again: refusing a late retry would lose an event that was never stored.

| provider | proof | source |
| --- | --- | --- |
| SES | RSA over a canonical string, certificate from SNS | Verifying the signatures of Amazon SNS messages |
| SendGrid | ECDSA P-256 / SHA-256 over timestamp + body | Getting Started with the Event Webhook Security Features |
| Postmark | HTTP basic authentication | Webhooks overview, "Protecting your webhook" |
| Resend, simulator | HMAC-SHA256 over id.timestamp.body (Svix, Standard Webhooks) | Verify Webhooks Requests |
| Mailgun | HMAC-SHA256 over timestamp + token, in the body | Securing Webhooks |
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from email_platform.errors import WebhookRefusedError


@dataclass(frozen=True, slots=True)
class Proof:
    """What a proved request came with.

    Attributes:
        webhook_id: the notification's id where the headers carry one, else empty.
        keep: False for a proved request that holds no event (a confirmed subscription).
    """

    webhook_id: str = ""
    keep: bool = True


class Verifier(Protocol):
    """Proves requests of one account."""

    async def verify(self, headers: Mapping[str, str], body: bytes) -> Proof:
        """Return where the request is proved to come from the account.

        Args:
            headers: with lower-case names.
            body: exactly as received.

        Raises:
            WebhookRefusedError: it is not, or it is a replay.
            MalformedEventError: the proof lies in the body, and the body cannot be read.
            PartUnavailableError: what the proof needs cannot be had now (SNS certificate); try again.
        """
        ...


@dataclass(frozen=True, slots=True)
class ReplayWindow:
    """How far a signed time may lie from ours.

    Attributes:
        past_seconds: the provider's longest documented retry of one signed request, and some.
        future_seconds: allowance for clocks that differ.
    """

    past_seconds: float
    future_seconds: float = 300.0

    def check(self, signed_at: datetime, now: datetime) -> None:
        """Return where the time lies in the window.

        Raises:
            WebhookRefusedError: it does not.
        """
        age = now - signed_at
        if age > timedelta(seconds=self.past_seconds):
            raise WebhookRefusedError("the signed time is too old")
        if -age > timedelta(seconds=self.future_seconds):
            raise WebhookRefusedError("the signed time lies in the future")


def decoded(value: str, what: str) -> bytes:
    """The bytes of a base64 text, or a refusal that names the field."""
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise WebhookRefusedError(f"{what} is not base64") from None


def header(headers: Mapping[str, str], name: str) -> str:
    """The header, or a refusal where it is missing."""
    value = headers.get(name, "")
    if not value:
        raise WebhookRefusedError(f"header {name} is missing")
    return value
