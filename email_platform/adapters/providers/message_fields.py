"""Checks and formats of the header fields that every adapter sends.

Invariant: no value that becomes a message header carries a line break, so a lead's name can never add a
header (or a second recipient) to a message; what breaks this is refused before any byte leaves.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from email.header import Header
from email.utils import formataddr

from email_platform.domain.ports import BulkCall, EncodedCall, Fit, ProviderLimits, RenderedRecipient
from email_platform.errors import InvalidTemplateError

# RFC 9110's token: RFC 5322 would allow quotes too, but Mailgun's form names are quoted. 76: the simulator's limit.
_FIELD_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,76}")
# The provider or the call's own fields set these; as an extra header they would add recipients or break the MIME.
_RESERVED_NAMES = frozenset(
    {
        *("bcc", "cc", "content-transfer-encoding", "content-type", "dkim-signature", "from", "mime-version"),
        *("received", "reply-to", "return-path", "sender", "subject", "to"),
    }
)
# In Postmark's, Mailgun's, Resend's and SES's address fields these would make a list or a display name.
_LIST_CHARACTERS = re.compile(r"[,;<>]")
_NOT_TOKEN = re.compile(r"[^A-Za-z0-9_-]")
_BREAKS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\x85\u2028\u2029]")


def check_call(call: BulkCall, limits: ProviderLimits) -> None:
    """Refuse a call that must not be encoded: too many recipients, or a line break in any header value.

    Raises:
        InvalidTemplateError: names the field, and the lead by id (never by address).
    """
    count = len(call.recipients)
    if not 1 <= count <= limits.recipients_per_call:
        raise InvalidTemplateError(
            f"call {call.call_id} has {count} recipients; the provider takes 1 to {limits.recipients_per_call}"
        )
    check_one_address("from address", call.from_address)
    check_header_value("from name", call.from_name)
    check_header_value("reply-to", call.reply_to or "")
    for name, value in call.tags.items():
        if not _FIELD_NAME.fullmatch(name):
            raise InvalidTemplateError(f"{name!r} is not a tag name")
        check_header_value(f"tag {name!r}", value)
    for recipient in rendered(call):
        lead = f"lead {recipient.lead_id}"
        check_one_address(f"address of {lead}", recipient.address)
        check_header_value(f"subject for {lead}", recipient.subject)
        if not recipient.html and not recipient.text:
            raise InvalidTemplateError(f"neither an HTML nor a text body for {lead}")
        for name, value in recipient.headers.items():
            if not _FIELD_NAME.fullmatch(name):
                raise InvalidTemplateError(f"{name!r} is not a header name ({lead})")
            if name.lower() in _RESERVED_NAMES:
                raise InvalidTemplateError(f"{name} may not be set as an extra header ({lead})")
            check_header_value(f"header {name} for {lead}", value)


def rendered(call: BulkCall) -> tuple[RenderedRecipient, ...]:
    """Each recipient with his message put together."""
    whole = []
    for one in call.recipients:
        message = call.skeleton.message(one.values)
        whole.append(
            RenderedRecipient(
                one.lead_id, one.message_id, one.address, message.subject, message.html, message.text, message.headers
            )
        )
    return tuple(whole)


def fit_by_encoding(encode: Callable[[BulkCall], EncodedCall], call: BulkCall, limits: ProviderLimits) -> Fit:
    """The call's first recipients that `encode` takes, found by halving."""
    count = min(len(call.recipients), limits.recipients_per_call)
    while True:
        try:
            encode(replace(call, recipients=call.recipients[:count]))
        except InvalidTemplateError as error:
            if count == 1:
                return Fit(0, str(error))
            count //= 2
        else:
            return Fit(count)


def check_header_value(what: str, value: str) -> None:
    """Refuse CR, LF and other control characters (tab excepted).

    Raises:
        InvalidTemplateError: names the field and the character's position, not the value.
    """
    if found := _BREAKS.search(value):
        raise InvalidTemplateError(
            f"{what}: control character {found.group()!r} at position {found.start()}; header values must be one line"
        )


def check_one_address(what: str, address: str) -> None:
    """Refuse what a provider could read as two addresses, or as none.

    Raises:
        InvalidTemplateError: names the field, not the value.
    """
    check_header_value(what, address)
    if not address or _LIST_CHARACTERS.search(address):
        raise InvalidTemplateError(f"{what}: must be one bare address, without any of , ; < >")


def check_body_size(call: BulkCall, body: bytes, limits: ProviderLimits, provider: str) -> None:
    """Refuse a body above the provider's documented limit.

    Raises:
        InvalidTemplateError: says how many recipients of this size would fit.
    """
    if limits.body_bytes is not None and len(body) > limits.body_bytes:
        count = len(call.recipients)
        fitting = max(1, count * limits.body_bytes // len(body))
        raise InvalidTemplateError(
            f"{provider}: call {call.call_id} encodes {count} recipients to {len(body)} bytes; the limit is "
            f"{limits.body_bytes}. Lower the account's recipients_per_call to about {fitting} or shorten the content"
        )


def ascii_domain_address(address: str) -> str:
    """The address with its domain in Punycode, as the providers without SMTPUTF8 ask for.

    A non-ASCII local part has no ASCII form; it stays, and the provider refuses that one recipient.
    """
    local_part, at, domain = address.rpartition("@")
    if not at or domain.isascii():
        return address
    try:
        return f"{local_part}@{domain.encode('idna').decode('ascii')}"
    except UnicodeError:
        return address


def encoded_mailbox(name: str, address: str) -> str:
    """``name <address>`` in ASCII: quoted where RFC 5322 asks for it, RFC 2047 encoded words where not ASCII."""
    address = ascii_domain_address(address)
    if not name:
        return address
    if not name.isascii():
        # Header splits into encoded words of at most 75 characters, which formataddr does not (RFC 2047, 2).
        return f"{encoded_header_value(name)} <{address}>"
    return formataddr((name, address)) if address.isascii() else unicode_mailbox(name, address)


def unicode_mailbox(name: str, address: str) -> str:
    """``"name" <address>`` with the name in clear text, for JSON APIs that encode it themselves."""
    address = ascii_domain_address(address)
    if not name:
        return address
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}" <{address}>'


def encoded_header_value(value: str) -> str:
    """The value as ASCII on one line: unchanged, or as RFC 2047 encoded words."""
    if value.isascii():
        return value
    # Words are joined by one space instead of a folded line: the provider folds, and CR LF is refused above.
    return Header(value, "utf-8").encode(linesep="", maxlinelen=75).replace("\n", "")


def check_distinct_addresses(call: BulkCall, provider: str) -> None:
    """Refuse two recipients with one address, for providers that tell recipients apart by it.

    Raises:
        InvalidTemplateError: names both leads.
    """
    seen: dict[str, int] = {}
    for recipient in call.recipients:
        other = seen.setdefault(recipient.address.lower(), recipient.lead_id)
        if other != recipient.lead_id:
            raise InvalidTemplateError(
                f"{provider}: leads {other} and {recipient.lead_id} of call {call.call_id} have the same address; "
                "the provider tells recipients of a call apart by their address"
            )


def call_tags(call: BulkCall) -> dict[str, str]:
    """The call's tags with ``campaign_id`` and ``call_id``, by which events are correlated."""
    return {**call.tags, "campaign_id": str(call.campaign_id), "call_id": str(call.call_id)}


def ascii_token(value: str) -> str:
    """The value as SES and Resend allow it in a tag: letters, digits, ``_`` and ``-``; others become ``_``."""
    return _NOT_TOKEN.sub("_", value)[:256]
