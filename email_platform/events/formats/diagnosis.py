"""What a receiving server's answer says about the address: dead, full or slow, or nothing, since the sender is refused.

Invariant: nobody is suppressed for a refusal that was about the sender, the content or a policy. A provider's own
word decides; the server's enhanced status code corrects it only where the code says clearly that the address is good.

Enhanced status codes: RFC 3463, section 3 (subject and detail), RFC 7372 (5.7.20 to 5.7.25, authentication), RFC 7505
(5.1.10, null MX), and IANA's registry "SMTP Enhanced Status Codes".

| code | what it says | read as |
| --- | --- | --- |
| x.1.1, x.1.2, x.1.3, x.1.6, x.1.10 | no such mailbox, host or address; moved away; takes no mail | dead |
| x.1.7, x.1.8 | the sender's address is refused | blocked |
| x.2.2, x.2.1, x.3.1 | mailbox full, disabled for now, system full | mailbox |
| x.2.3, x.3.4 | the message is too large | mailbox |
| x.6.x | the content cannot be taken or converted | blocked |
| x.7.x | security or policy: reputation, authentication, content | blocked |
| anything else | | unclear |
"""

from __future__ import annotations

import re
from typing import Literal

from email_platform.events.event import EventType

Diagnosis = Literal["dead", "mailbox", "blocked", "unclear"]
Verdict = tuple[EventType, str]
"""Type and subtype of an event."""

HARD: Verdict = ("bounced", "hard")
SOFT: Verdict = ("bounced", "soft")

_DEAD_DETAILS = frozenset({"1.1", "1.2", "1.3", "1.6", "1.10"})
_BLOCKED_DETAILS = frozenset({"1.7", "1.8"})
_MAILBOX_DETAILS = frozenset({"2.1", "2.2", "2.3", "3.1", "3.4"})
# Not a part of an IP address or of a version: no digit and no dot with a digit beside it.
_ENHANCED = re.compile(r"(?<![\d.])[45]\.(\d)\.(\d{1,3})(?!\.?\d)", re.ASCII)


def diagnose(*answers: str) -> Diagnosis:
    """What the first enhanced status code in these texts says; the texts by precedence."""
    for answer in answers:
        if found := _ENHANCED.search(answer):
            subject, detail = found.groups()
            code = f"{subject}.{int(detail)}"
            if code in _DEAD_DETAILS:
                return "dead"
            if code in _MAILBOX_DETAILS:
                return "mailbox"
            return "blocked" if subject in "67" or code in _BLOCKED_DETAILS else "unclear"
    return "unclear"


def verdict_on_failure(*answers: str, otherwise: Verdict, word: str = "") -> Verdict:
    """The reading of a failure that the provider calls permanent, or does not explain.

    Args:
        answers: texts that may hold a status code, by precedence.
        otherwise: the provider's word, which holds unless the code says that the address is good.
        word: the provider's name of the failure, the subtype of a block.
    """
    match diagnose(*answers):
        case "blocked":
            return "blocked", word or "policy"
        case "mailbox":
            return SOFT
        case _:
            return otherwise


# SES's words, which Resend, built on SES, passes on under the same names.
SES_BLOCKED_SUBTYPES = frozenset({"ContentRejected", "AttachmentRejected"})
SES_SUPPRESSED_SUBTYPES = frozenset(
    {"Suppressed", "OnAccountSuppressionList", "UnsubscribedRecipient", "EmailValidationSuppressed"}
)


def ses_bounce(bounce_type: str, bounce_subtype: str, *answers: str) -> Verdict:
    """The reading of a bounce in SES's words; the table stands in `email_platform.events.formats.ses`."""
    if bounce_subtype in SES_SUPPRESSED_SUBTYPES:
        return "rejected", bounce_subtype
    if bounce_subtype in SES_BLOCKED_SUBTYPES:
        return "blocked", bounce_subtype
    if bounce_type != "Permanent":
        return verdict_on_failure(*answers, otherwise=SOFT, word=bounce_subtype)
    if bounce_subtype == "NoEmail":
        return HARD
    return verdict_on_failure(*answers, otherwise=HARD, word=bounce_subtype)
