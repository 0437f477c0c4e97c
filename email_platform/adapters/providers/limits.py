"""The documented limits of every provider, in one place.

Invariant: an adapter knows no limit but these, so what `fit` cuts by and what `encode` refuses are the same numbers.
Where two pages of a provider differ, the lower number stands here. A megabyte is a million bytes: no page says 2^20.

- SES v2: 50 entries; 1 MB of input JSON with an inline template (Developer Guide, "Using templates to send personalized
  email"). 262,144 characters of ReplacementTemplateData; 15 headers, 995 characters a value, 996 with its name (API
  reference, "ReplacementTemplate", "MessageHeader").
- SendGrid: 1,000 personalizations; 30 MB ("Mail Send", limitations). Of one personalization 10,000 bytes of
  substitutions and 10,000 of custom arguments ("Mail Send", body; the page "Substitution tags" says 50,000).
- Postmark: 500 messages and 50 MB a batch ("Send batch emails"). 5 MB an HTML or text body, 10 MB a message counted in
  base64 (support, "What are the attachment and email size limits?"). Ten metadata fields, names of 20 and values of 80
  characters ("Custom metadata").
- Resend: 100 messages ("Send batch emails"); no size of a batch is documented. 40 MB a message in base64
  ("Attachments").
- Mailgun: 1,000 recipients ("Batch sending"), 25 MB ("Messages"); 16 kB of ``o:``, ``h:`` and ``v:`` together (the
  words of its 400).
- The simulator: 50 recipients and 10 MiB unless it is started with others (``--maximum-recipients``,
  ``--maximum-body-bytes``).
"""

from __future__ import annotations

from email_platform.domain.ports import ProviderLimits

_DAY_SECONDS = 24 * 3600

SES_LIMITS = ProviderLimits(
    recipients_per_call=50, honours_idempotency_keys=False, idempotency_seconds=0, body_bytes=1_000_000
)
SES_DATA_CHARACTERS = 262_144
SES_HEADERS = 15
SES_HEADER_VALUE_CHARACTERS = 995
SES_HEADER_CHARACTERS = 996

SENDGRID_LIMITS = ProviderLimits(
    recipients_per_call=1000,
    honours_idempotency_keys=False,
    idempotency_seconds=0,
    body_bytes=30_000_000,
    accepts_whole_calls=True,
)
SENDGRID_SUBSTITUTION_BYTES = 10_000
SENDGRID_CUSTOM_ARGUMENT_BYTES = 10_000

POSTMARK_LIMITS = ProviderLimits(
    recipients_per_call=500, honours_idempotency_keys=False, idempotency_seconds=0, body_bytes=50_000_000
)
POSTMARK_BODY_BYTES = 5_000_000
POSTMARK_MESSAGE_BYTES = 10_000_000
POSTMARK_METADATA_FIELDS = 10
POSTMARK_METADATA_NAME_CHARACTERS = 20
POSTMARK_METADATA_VALUE_CHARACTERS = 80

RESEND_LIMITS = ProviderLimits(
    recipients_per_call=100, honours_idempotency_keys=True, idempotency_seconds=_DAY_SECONDS, body_bytes=None
)
RESEND_MESSAGE_BYTES = 40_000_000

MAILGUN_LIMITS = ProviderLimits(
    recipients_per_call=1000,
    honours_idempotency_keys=False,
    idempotency_seconds=0,
    body_bytes=25_000_000,
    accepts_whole_calls=True,
)
MAILGUN_OPTION_BYTES = 16_000

SIMULATOR_LIMITS = ProviderLimits(
    recipients_per_call=50,
    honours_idempotency_keys=True,
    idempotency_seconds=_DAY_SECONDS,
    body_bytes=10 * 1024 * 1024,
)
