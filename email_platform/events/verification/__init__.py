"""Proves that a webhook comes from the provider account that its path names: one module for each provider.

The code that they share, and the invariants, are in `email_platform.events.verification.proof`.
"""

from email_platform.events.verification.mailgun import MailgunVerifier
from email_platform.events.verification.postmark import BasicAuthVerifier
from email_platform.events.verification.proof import Proof, ReplayWindow, Verifier
from email_platform.events.verification.sendgrid import (
    SENDGRID_SIGNATURE_HEADER,
    SENDGRID_TIMESTAMP_HEADER,
    SendGridVerifier,
)
from email_platform.events.verification.several import AnyOfVerifier
from email_platform.events.verification.sns import Fetch, SnsVerifier, sns_canonical_string
from email_platform.events.verification.standard_webhooks import StandardWebhooksVerifier

__all__ = [
    "SENDGRID_SIGNATURE_HEADER",
    "SENDGRID_TIMESTAMP_HEADER",
    "AnyOfVerifier",
    "BasicAuthVerifier",
    "Fetch",
    "MailgunVerifier",
    "Proof",
    "ReplayWindow",
    "SendGridVerifier",
    "SnsVerifier",
    "StandardWebhooksVerifier",
    "Verifier",
    "sns_canonical_string",
]
