"""Adapters of `email_platform.domain.ports.EmailProvider`, one module a provider.

Invariant: each adapter makes exactly one call per `send`, never repeats it, and classifies its outcome once.

No provider's own SDK is used: `sendgrid`, `postmarker`, `resend` and `mailgun` are synchronous (or build the
body themselves from objects), some retry by themselves, and none keeps a refused connection apart from a lost
answer; the ledger needs exact bytes, one call and that difference. SES is the exception: boto3 signs the
request, with its retries switched off.
"""

from email_platform.adapters.providers.http_transport import CallTimeouts
from email_platform.adapters.providers.registry import (
    ProviderAccount,
    account_from_variables,
    account_problem,
    build_provider,
    check_sender,
    provider_limits,
    provider_names,
)
from email_platform.adapters.providers.sender_check import SenderCheck

__all__ = [
    "CallTimeouts",
    "ProviderAccount",
    "SenderCheck",
    "account_from_variables",
    "account_problem",
    "build_provider",
    "check_sender",
    "provider_limits",
    "provider_names",
]
