"""Addresses as somebody gives them: in a file of leads, over the API, as a sender or a user.

Invariant: what is taken here is valid everywhere else too (`email_platform.domain.addresses.is_valid_address`), and is
kept in the form that is mailed; a refusal says what is wrong.

Syntax is email-validator's (its README, "Syntax"), without a look-up in the DNS: a name server that is slow or away
must not decide who is a lead. It knows more than the platform's own pattern, which PostgreSQL shares: labels that IDNA
2008 forbids (RFC 5891, section 4.2.3.1), and names that can have no mail (``.invalid``, ``.local``, ``.test`` and
others of RFC 6761). Where it takes an address, both compare it in the same way; a property test holds them together.
What it would take and most providers do not (a local part that is not ASCII needs SMTPUTF8, RFC 6531) is refused with
that reason.
"""

from __future__ import annotations

from email_validator import EmailNotValidError, validate_email

from email_platform.domain.addresses import is_valid_address, mailable_address, trimmed_address

_REFUSED = "no address that can be mailed"


def address_problem(given: str) -> str | None:
    """Why the address cannot be kept, without quoting it; None where it can."""
    trimmed = trimmed_address(given)
    if not trimmed:
        return "is empty"
    try:
        validate_email(trimmed, check_deliverability=False, allow_smtputf8=False)
    except EmailNotValidError as refused:
        reason = str(refused).partition(" (")[0].rstrip(".")  # in brackets it quotes the label
        return f"{_REFUSED}: {reason}"
    return None if is_valid_address(mailable_address(trimmed)) else _REFUSED
