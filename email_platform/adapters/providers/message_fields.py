"""Checks and formats of the header fields that every adapter sends.

Invariant: no value that becomes a message header carries a line break, so a lead's name can never add a
header (or a second recipient) to a message; what breaks this is refused before any byte leaves.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from email.header import Header
from email.utils import formataddr
from itertools import chain

from email_platform.domain.message import Piece, Skeleton, joined
from email_platform.domain.ports import BulkCall, ProviderLimits, Recipient
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


def check_shared(call: BulkCall) -> None:
    """Refuse what would be wrong for every recipient: the sender's fields, the tags, the skeleton.

    Raises:
        InvalidTemplateError: names the field.
    """
    check_one_address("from address", call.from_address)
    check_header_value("from name", call.from_name)
    check_header_value("reply-to", call.reply_to or "")
    for name, value in call.tags.items():
        if not _FIELD_NAME.fullmatch(name):
            raise InvalidTemplateError(f"{name!r} is not a tag name")
        check_header_value(f"tag {name!r}", value)
    skeleton = call.skeleton
    if not skeleton.html and not skeleton.text:
        raise InvalidTemplateError("neither an HTML nor a text body")
    for name, pieces in skeleton.headers.items():
        if not _FIELD_NAME.fullmatch(name):
            raise InvalidTemplateError(f"{name!r} is not a header name")
        if name.lower() in _RESERVED_NAMES:
            raise InvalidTemplateError(f"{name} may not be set as an extra header")
        check_header_value(f"header {name}", _static_text(pieces))
    check_header_value("subject", _static_text(skeleton.subject))
    if problem := _encoding_problem(_static_text((*skeleton.subject, *skeleton.html, *skeleton.text))):
        raise InvalidTemplateError(problem)


@dataclass(frozen=True, slots=True)
class SharedChecks:
    """What is known of all recipients from the skeleton alone, so that it is not looked at again for each.

    Attributes:
        in_headers: indexes of the values that stand in the subject or a header.
        has_body: some static text stands in a body, so that it is empty for nobody.
    """

    in_headers: tuple[int, ...]
    has_body: bool

    @classmethod
    def of(cls, skeleton: Skeleton) -> SharedChecks:
        """The checks of this skeleton, whose static text `check_shared` has passed."""
        headers = (skeleton.subject, *skeleton.headers.values())
        return cls(
            in_headers=tuple(sorted({piece for pieces in headers for piece in pieces if isinstance(piece, int)})),
            has_body=bool(_static_text(skeleton.html) or _static_text(skeleton.text)),
        )


def recipient_problem(skeleton: Skeleton, recipient: Recipient, checks: SharedChecks) -> str | None:
    """Why no provider can be given this recipient: a field names what is wrong, never a value.

    Args:
        skeleton: of the call.
        recipient: one of the call's.
        checks: of this skeleton.

    Raises:
        ValueError: the recipient has another number of values than the skeleton; the caller's bug.
    """
    values = recipient.values
    if len(values) != skeleton.value_count:
        raise ValueError(f"lead {recipient.lead_id} has {len(values)} values; the skeleton has {skeleton.value_count}")
    if (problem := one_address_problem("address", recipient.address)) is not None:
        return problem
    if any(_BREAKS.search(values[index]) for index in checks.in_headers):
        return _header_problem(skeleton, values)
    if not checks.has_body and not has_text(skeleton.html, values) and not has_text(skeleton.text, values):
        return "neither an HTML nor a text body"
    return _encoding_problem("".join((recipient.address, *values)))


def no_problem(skeleton: Skeleton, recipients: Sequence[Recipient], checks: SharedChecks) -> bool:
    """Whether `recipient_problem` finds nothing for any of these, by one look at all of them together.

    False does not say that it finds something; the recipients are looked at one by one then.
    """
    rows = [recipient.values for recipient in recipients]
    if not checks.has_body or {len(values) for values in rows} != {skeleton.value_count}:
        return False
    addresses = [recipient.address for recipient in recipients]
    together = " ".join(addresses)
    if not all(addresses) or _BREAKS.search(together) or _LIST_CHARACTERS.search(together):
        return False
    if _BREAKS.search(" ".join([values[index] for index in checks.in_headers for values in rows])):
        return False
    return _encoding_problem(together + "".join(chain.from_iterable(rows))) is None


def _header_problem(skeleton: Skeleton, values: Sequence[str]) -> str | None:
    """Which header the values break."""
    headers = (
        ("subject", skeleton.subject),
        *((f"header {name}", pieces) for name, pieces in skeleton.headers.items()),
    )
    for what, pieces in headers:
        if (problem := header_value_problem(what, joined(pieces, values))) is not None:
            return problem
    return None


def has_text(pieces: Sequence[Piece], values: Sequence[str]) -> bool:
    """Whether the part is not empty for the recipient with these values."""
    return any(piece if isinstance(piece, str) else values[piece] for piece in pieces)


def present(call: BulkCall, pieces: Sequence[Piece]) -> bool:
    """Whether the part is not empty for some recipient of the call."""
    return any(has_text(pieces, recipient.values) for recipient in call.recipients)


def _static_text(pieces: Sequence[Piece]) -> str:
    return "".join(piece for piece in pieces if isinstance(piece, str))


def _encoding_problem(text: str) -> str | None:
    try:
        text.encode()
    except UnicodeEncodeError as unencodable:
        return f"the content cannot be encoded: {unencodable.reason}"
    return None


def check_count(call: BulkCall, limits: ProviderLimits) -> None:
    """Refuse a call without recipients, or with more than the provider takes.

    Raises:
        InvalidTemplateError: says how many it takes.
    """
    count = len(call.recipients)
    if not 1 <= count <= limits.recipients_per_call:
        raise InvalidTemplateError(
            f"call {call.call_id} has {count} recipients; the provider takes 1 to {limits.recipients_per_call}"
        )


def check_header_value(what: str, value: str) -> None:
    """Refuse what `header_value_problem` finds.

    Raises:
        InvalidTemplateError: names the field and the character's position, not the value.
    """
    if (problem := header_value_problem(what, value)) is not None:
        raise InvalidTemplateError(problem)


def header_value_problem(what: str, value: str) -> str | None:
    """CR, LF and other control characters (tab excepted), which would add a header."""
    if found := _BREAKS.search(value):
        return (
            f"{what}: control character {found.group()!r} at position {found.start()}; header values must be one line"
        )
    return None


def check_one_address(what: str, address: str) -> None:
    """Refuse what `one_address_problem` finds.

    Raises:
        InvalidTemplateError: names the field, not the value.
    """
    if (problem := one_address_problem(what, address)) is not None:
        raise InvalidTemplateError(problem)


def one_address_problem(what: str, address: str) -> str | None:
    """What a provider could read as two addresses, or as none."""
    if (problem := header_value_problem(what, address)) is not None:
        return problem
    if not address or _LIST_CHARACTERS.search(address):
        return f"{what}: must be one bare address, without any of , ; < >"
    return None


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
        other = seen.setdefault(ascii_domain_address(recipient.address).lower(), recipient.lead_id)
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
