"""The body of ``POST /v1/bulk``, parsed strictly.

The invariant: a call is refused as a whole (400, with the path of the field) before anything is accepted, or
every recipient gets exactly one result, in request order.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import orjson

from email_platform.local.provider_simulator.outcomes import is_valid_address

_CALL_FIELDS = frozenset({"from", "reply_to", "subject", "tags", "template", "recipients"})
_TEMPLATE_FIELDS = frozenset({"subject", "html", "text"})
_RECIPIENT_FIELDS = frozenset({"to", "message_id", "subject", "html", "text", "headers", "substitutions"})
_MESSAGE_ID = re.compile(r"[!-~]{1,128}")
_HEADER_NAME = re.compile(r"[!-9;-~]{1,76}")
_PLACEHOLDER = re.compile(r"\{\{\s*([A-Za-z_][A-Za-z0-9_]*)\s*\}\}")
_MAXIMUM_TAGS = 50
_MAXIMUM_SUBJECT_CHARACTERS = 998


class InvalidBulkRequestError(Exception):
    """The whole call is refused with 400.

    Not part of the platform's error tree: it never leaves the simulator's process.

    Attributes:
        code: the value by which a client distinguishes errors.
        path: the field, as ``recipients[3].to``; empty for the body itself.
    """

    def __init__(self, path: str, message: str, code: str = "ValidationError") -> None:
        super().__init__(message)
        self.path = path
        self.code = code


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why one recipient of an otherwise good call is refused."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class BulkCall:
    """A well-formed call.

    Attributes:
        campaign: tag ``campaign_id``, or empty.
        call_id: tag ``call_id``, or empty.
        sender: the bare address of ``from``.
        recipients: (address, message id, rejection or None) in request order.
        document: the parsed body, for the window of recent messages.
    """

    campaign: str
    call_id: str
    sender: str
    recipients: list[tuple[str, str, Rejection | None]]
    document: dict[str, Any]


def parse_bulk_call(body: bytes, *, maximum_recipients: int, blocked_domains: frozenset[str] = frozenset()) -> BulkCall:
    """Return the call.

    Raises:
        InvalidBulkRequestError: the body is not JSON or breaks the shape; nothing may be accepted.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as broken:
        raise InvalidBulkRequestError("", f"the body is not JSON: {broken}") from broken
    if not isinstance(document, dict):
        raise InvalidBulkRequestError("", "must be a JSON object")
    _refuse_unknown("", document, _CALL_FIELDS)
    sender = _require_mailbox("from", document.get("from"))
    if document.get("reply_to") is not None:
        _require_mailbox("reply_to", document["reply_to"])
    if document.get("subject") is not None:
        _require_subject("subject", document["subject"])
    tags = _parse_tags(document.get("tags"))
    recipients = document.get("recipients")
    if not isinstance(recipients, list) or not recipients:
        raise InvalidBulkRequestError("recipients", "must be a list of at least one recipient")
    if len(recipients) > maximum_recipients:
        raise InvalidBulkRequestError(
            "recipients",
            f"{len(recipients)} recipients; at most {maximum_recipients} a call",
            "TooManyRecipients",
        )
    template = document.get("template")
    placeholders = None if template is None else _parse_template(template, document.get("subject"))
    default_subject = document.get("subject") is not None
    parsed = [
        _parse_recipient(index, recipient, placeholders, default_subject, blocked_domains)
        for index, recipient in enumerate(recipients)
    ]
    return BulkCall(tags.get("campaign_id", ""), tags.get("call_id", ""), sender, parsed, document)


def put_together(document: dict[str, Any], recipient: dict[str, Any]) -> dict[str, str]:
    """One recipient's subject, html and text: the template's placeholders replaced once, or his own contents.

    Args:
        document: the call's body, parsed strictly before.
        recipient: an entry of its ``recipients``, with a value for every placeholder.
    """
    template = document.get("template")
    if template is None:
        own = {name: recipient.get(name) or "" for name in ("subject", "html", "text")}
        return {**own, "subject": own["subject"] or document["subject"]}
    values = recipient.get("substitutions", {})
    parts = {**template, "subject": template.get("subject") or document.get("subject")}
    return {
        name: _PLACEHOLDER.sub(lambda found: values[found.group(1)], parts.get(name) or "")
        for name in ("subject", "html", "text")
    }


def _parse_recipient(
    index: int,
    recipient: Any,
    placeholders: frozenset[str] | None,
    default_subject: bool,
    blocked_domains: frozenset[str],
) -> tuple[str, str, Rejection | None]:
    if not isinstance(recipient, dict):
        raise InvalidBulkRequestError(f"recipients[{index}]", "must be an object")
    if not recipient.keys() <= _RECIPIENT_FIELDS:
        _refuse_unknown(f"recipients[{index}].", recipient, _RECIPIENT_FIELDS)
    address = recipient.get("to")
    if not isinstance(address, str) or not address:
        raise InvalidBulkRequestError(f"recipients[{index}].to", "must be an address")
    message_id = recipient.get("message_id")
    if not isinstance(message_id, str) or not _MESSAGE_ID.fullmatch(message_id):
        raise InvalidBulkRequestError(
            f"recipients[{index}].message_id", "must be 1 to 128 printable ASCII characters without spaces"
        )
    headers = recipient.get("headers")
    if headers is not None:
        _require_headers(f"recipients[{index}].headers", headers)
    rejection: Rejection | None = None
    if placeholders is None:
        _require_own_content(index, recipient, default_subject)
    else:
        missing = placeholders - _substitution_names(index, recipient)
        if missing:
            rejection = Rejection("RenderingFailure", f"no substitution for {', '.join(sorted(missing))}")
    if not is_valid_address(address):
        rejection = Rejection("InvalidAddress", "the address is not a mailbox that can be delivered to")
    elif blocked_domains and address.rpartition("@")[2].lower() in blocked_domains:
        rejection = Rejection("BlockedDomain", "this account may not send to the recipient's domain")
    return address, message_id, rejection


def _require_own_content(index: int, recipient: dict[str, Any], default_subject: bool) -> None:
    subject = recipient.get("subject")
    # The ordinary subject is checked in place: a call of 50 has one microsecond a field.
    if subject is not None:
        if type(subject) is not str or not subject or len(subject) > 200 or not subject.isprintable():
            _require_subject(f"recipients[{index}].subject", subject)
    elif not default_subject:
        raise InvalidBulkRequestError(
            f"recipients[{index}].subject", "required where the call has neither a subject nor a template"
        )
    if "substitutions" in recipient:
        raise InvalidBulkRequestError(f"recipients[{index}].substitutions", "only with a call-level template")
    html = recipient.get("html")
    text = recipient.get("text")
    if html is not None and (type(html) is not str or not html):
        raise InvalidBulkRequestError(f"recipients[{index}].html", "must be a non-empty string")
    if text is not None and (type(text) is not str or not text):
        raise InvalidBulkRequestError(f"recipients[{index}].text", "must be a non-empty string")
    if html is None and text is None:
        raise InvalidBulkRequestError(f"recipients[{index}].html", "html or text is required")


def _substitution_names(index: int, recipient: dict[str, Any]) -> frozenset[str]:
    for name in ("subject", "html", "text"):
        if name in recipient:
            raise InvalidBulkRequestError(f"recipients[{index}].{name}", "not together with a call-level template")
    substitutions = recipient.get("substitutions", {})
    if not isinstance(substitutions, dict):
        raise InvalidBulkRequestError(f"recipients[{index}].substitutions", "must be an object of strings")
    for name, value in substitutions.items():
        if not isinstance(value, str):
            raise InvalidBulkRequestError(f"recipients[{index}].substitutions.{name}", "must be a string")
    return frozenset(substitutions)


def _parse_template(template: Any, call_subject: Any) -> frozenset[str]:
    """Return the names that the template needs."""
    if not isinstance(template, dict):
        raise InvalidBulkRequestError("template", "must be an object")
    _refuse_unknown("template.", template, _TEMPLATE_FIELDS)
    parts: list[str] = []
    if template.get("subject") is not None:
        _require_subject("template.subject", template["subject"])
        parts.append(template["subject"])
    elif call_subject is None:
        raise InvalidBulkRequestError("template.subject", "required where the call has no subject")
    for name in ("html", "text"):
        part = template.get(name)
        if part is None:
            continue
        if not isinstance(part, str) or not part:
            raise InvalidBulkRequestError(f"template.{name}", "must be a non-empty string")
        parts.append(part)
    if template.get("html") is None and template.get("text") is None:
        raise InvalidBulkRequestError("template.html", "html or text is required")
    return frozenset(name for part in parts for name in _PLACEHOLDER.findall(part))


def _parse_tags(tags: Any) -> dict[str, str]:
    if tags is None:
        return {}
    if not isinstance(tags, dict) or len(tags) > _MAXIMUM_TAGS:
        raise InvalidBulkRequestError("tags", f"must be an object of at most {_MAXIMUM_TAGS} strings")
    parsed: dict[str, str] = {}
    for name, value in tags.items():
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise InvalidBulkRequestError(f"tags.{name}", "must be a string or an integer")
        text = str(value)
        if len(text) > 256 or not text.isprintable():
            raise InvalidBulkRequestError(f"tags.{name}", "at most 256 printable characters")
        parsed[name] = text
    return parsed


def _require_mailbox(path: str, value: Any) -> str:
    """Check ``a@x`` or ``Name <a@x>`` on one line (a line break would add a header); returns the bare address."""
    if not isinstance(value, str) or not value.isprintable() or len(value) > 512:
        raise InvalidBulkRequestError(path, "must be an address or 'Name <address>' on one line")
    address = value[value.rindex("<") + 1 : -1] if value.endswith(">") and "<" in value else value
    if not is_valid_address(address):
        raise InvalidBulkRequestError(path, "must be an address or 'Name <address>' on one line")
    return address


def _require_subject(path: str, value: Any) -> None:
    if not isinstance(value, str) or not value.strip() or len(value) > _MAXIMUM_SUBJECT_CHARACTERS:
        raise InvalidBulkRequestError(path, f"must be a string of 1 to {_MAXIMUM_SUBJECT_CHARACTERS} characters")
    if "\r" in value or "\n" in value or "\x00" in value:
        raise InvalidBulkRequestError(path, "must be one line")


def _require_headers(path: str, headers: Any) -> None:
    if not isinstance(headers, dict):
        raise InvalidBulkRequestError(path, "must be an object of strings")
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name):
            raise InvalidBulkRequestError(f"{path}.{name}", "is not a header name")
        if type(value) is not str or "\r" in value or "\n" in value or "\x00" in value:
            raise InvalidBulkRequestError(f"{path}.{name}", "must be a string of one line")


def _refuse_unknown(prefix: str, value: dict[str, Any], allowed: frozenset[str]) -> None:
    if unknown := sorted(value.keys() - allowed):
        raise InvalidBulkRequestError(f"{prefix}{unknown[0]}", f"unknown field; allowed: {', '.join(sorted(allowed))}")
