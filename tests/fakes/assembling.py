"""Providers' servers as their documentation describes them: from a request's body to each recipient's message.

Nothing here imports an adapter; what a provider does with placeholders is written from its documentation alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from email_platform.domain.message import Message

Assembled = list[tuple[str, Message]]
"""(address, message) in the request's order."""


def put_together(name: str, body: bytes) -> Assembled:
    """What this provider would send for this request."""
    return _ASSEMBLERS[name](body)


def handlebars(template: str, data: Mapping[str, str]) -> str:
    r"""Simple substitutions as Handlebars' grammar has them, each once.

    A backslash before a tag keeps it as text, of two or more one is left out; three braces are a tag too. A tag
    that names nothing known fails, as SES's "rendering failure" does.
    """
    output: list[str] = []
    position = 0
    for tag in re.finditer(r"(\\*)(\{\{\{?)\s*([^{}]*?)\s*(\}\}\}?)", template):
        output.append(template[position : tag.start()])
        position = tag.end()
        backslashes, opening, name, closing = tag.groups()
        if len(opening) != len(closing):
            raise ValueError(f"parse error at {tag.group()!r}")
        if len(backslashes) == 1:
            output.append(f"{opening}{name}{closing}")
            continue
        output.append(backslashes[:-1])
        output.append(data[name])
    rest = template[position:]
    if "{{" in rest:
        raise ValueError(f"parse error at {rest[:20]!r}")
    output.append(rest)
    return "".join(output)


def _message(parts: Sequence[str], headers: Mapping[str, str]) -> Message:
    subject, html, text = parts
    return Message(subject, html, text, headers)


def _ses(body: bytes) -> Assembled:
    document = json.loads(body)
    template = document["DefaultContent"]["Template"]["TemplateContent"]
    assembled = []
    for entry in document["BulkEmailEntries"]:
        data = json.loads(entry["ReplacementEmailContent"]["ReplacementTemplate"]["ReplacementTemplateData"])
        (address,) = entry["Destination"]["ToAddresses"]
        headers = {header["Name"]: header["Value"] for header in entry.get("ReplacementHeaders", [])}
        parts = [handlebars(template.get(part, ""), data) for part in ("Subject", "Html", "Text")]
        assembled.append((address, _message(parts, headers)))
    return assembled


def _simulator(body: bytes) -> Assembled:
    document = json.loads(body)
    assembled = []
    for entry in document["recipients"]:
        parts = [
            handlebars(document["template"][part] or "", entry["substitutions"]) for part in ("subject", "html", "text")
        ]
        assembled.append((entry["to"], _message(parts, entry["headers"])))
    return assembled


def _sendgrid(body: bytes) -> Assembled:
    """Tags are replaced one after the other wherever they occur, so a value that holds a later tag is read again."""
    document = json.loads(body)
    contents = {content["type"]: content["value"] for content in document.get("content", [])}
    assembled = []
    for entry in document["personalizations"]:
        parts = [document.get("subject", ""), contents.get("text/html", ""), contents.get("text/plain", "")]
        if data := entry.get("dynamic_template_data"):
            parts = [data["subject"], data["html"], data["text"]]
        for tag, value in entry.get("substitutions", {}).items():
            parts = [part.replace(tag, value) for part in parts]
        (to,) = entry["to"]
        assembled.append((to["email"], _message(parts, entry.get("headers", {}))))
    return assembled


def _postmark(body: bytes) -> Assembled:
    return [
        (
            entry["To"],
            Message(
                entry["Subject"],
                entry.get("HtmlBody", ""),
                entry.get("TextBody", ""),
                {header["Name"]: header["Value"] for header in entry.get("Headers", [])},
            ),
        )
        for entry in json.loads(body)
    ]


def _resend(body: bytes) -> Assembled:
    assembled = []
    for entry in json.loads(body):
        (address,) = entry["to"]
        parts = [entry["subject"], entry.get("html", ""), entry.get("text", "")]
        assembled.append((address, _message(parts, entry.get("headers", {}))))
    return assembled


def form_fields(body: bytes) -> list[tuple[str, str]]:
    """The fields of multipart/form-data (RFC 7578), in order."""
    delimiter = body.split(b"\r\n", 1)[0]
    assert body.endswith(b"\r\n" + delimiter + b"--\r\n")
    fields = []
    for part in (b"\r\n" + body).split(b"\r\n" + delimiter)[1:-1]:
        head, _, value = part.partition(b"\r\n\r\n")
        name = re.search(rb'name="([^"]*)"', head)
        assert name is not None
        fields.append((name.group(1).decode(), value.decode()))
    return fields


def _mailgun(body: bytes) -> Assembled:
    """Each variable once, from left to right; one that the recipient has not stays as it is."""
    fields = form_fields(body)
    single = dict(fields)
    variables: dict[str, Any] = json.loads(single["recipient-variables"])
    assembled = []
    for address in (value for name, value in fields if name == "to"):
        own = variables[address]

        def filled(text: str, own: Mapping[str, Any] = own) -> str:
            return re.sub(r"%recipient\.(\w+)%", lambda found: str(own.get(str(found.group(1)), found.group())), text)

        headers = {
            name.removeprefix("h:"): filled(value)
            for name, value in fields
            if name.startswith("h:") and name != "h:Reply-To"
        }
        parts = [filled(single.get(part, "")) for part in ("subject", "html", "text")]
        assembled.append((address, _message(parts, headers)))
    return assembled


_ASSEMBLERS: Mapping[str, Callable[[bytes], Assembled]] = {
    "ses": _ses,
    "simulator": _simulator,
    "sendgrid": _sendgrid,
    "postmark": _postmark,
    "resend": _resend,
    "mailgun": _mailgun,
}
