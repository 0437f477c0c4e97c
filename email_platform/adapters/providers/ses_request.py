"""A call of ``SendBulkEmail`` as SES wants it.

Invariant: `SesPlan.body` is as long as what boto3 puts on the wire.

A call carries the skeleton once, as an inline template with ``{{v1}}`` …, and each entry its values as
ReplacementTemplateData. Inline templates know simple substitutions only (the API's model, "EmailTemplateContent"),
and SES does not escape HTML (Developer Guide, "Advanced email personalization"): values are escaped already. The syntax
is Handlebars': a value is put in once and never read again, and text with braces or backslashes that could be read as a
tag is given as a value of its own (`placeholders`). Where some recipients of a call have no HTML or no text, those get
that part empty; a part that nobody has is left out.
"""

from __future__ import annotations

import json

from email_platform.adapters.providers.call_plan import CallPlan
from email_platform.adapters.providers.http_provider import json_bytes
from email_platform.adapters.providers.limits import (
    SES_DATA_CHARACTERS,
    SES_HEADER_CHARACTERS,
    SES_HEADER_VALUE_CHARACTERS,
    SES_HEADERS,
)
from email_platform.adapters.providers.message_fields import (
    ascii_domain_address,
    ascii_token,
    call_tags,
    encoded_header_value,
    encoded_mailbox,
    present,
)
from email_platform.adapters.providers.placeholders import HANDLEBARS, templated
from email_platform.domain.message import joined
from email_platform.domain.ports import BulkCall, Recipient
from email_platform.errors import InvalidTemplateError


class SesPlan(CallPlan):
    """The parameters of ``SendBulkEmail``."""

    provider = "ses"

    def __init__(self, call: BulkCall, configuration_set: str | None) -> None:
        super().__init__(call)
        skeleton = call.skeleton
        if len(skeleton.headers) > SES_HEADERS:
            raise InvalidTemplateError(f"ses: {len(skeleton.headers)} headers; the limit is {SES_HEADERS}")
        self._template = templated(skeleton, HANDLEBARS)
        self._tags = call_tags(call)
        content = {"Subject": self._template.subject}
        if present(call, skeleton.html):
            content["Html"] = self._template.html
        if present(call, skeleton.text):
            content["Text"] = self._template.text
        self._document: dict[str, object] = {
            "FromEmailAddress": encoded_mailbox(call.from_name, call.from_address),
            "DefaultContent": {"Template": {"TemplateContent": content, "TemplateData": "{}"}},
            "BulkEmailEntries": [],
        }
        if call.reply_to:
            self._document["ReplyToAddresses"] = [ascii_domain_address(call.reply_to)]
        if configuration_set:
            self._document["ConfigurationSetName"] = configuration_set
        self.shared_bytes = len(_wire_json(self._document))

    def entry_bytes(self, recipient: Recipient) -> int:
        """The entry and the comma before it."""
        return len(_wire_json(self._entry(recipient))) + len(", ")

    def _write(self) -> bytes:
        """The parameters as JSON."""
        entries = [self._entry(recipient) for recipient in self.call.recipients]
        return _wire_json({**self._document, "BulkEmailEntries": entries})

    def size_problem(self, recipient: Recipient) -> str | None:
        """Whether the data are within their limit."""
        characters = len(self._data(recipient))
        if characters > SES_DATA_CHARACTERS:
            return f"ses: the values take {characters} characters; the limit is {SES_DATA_CHARACTERS}"
        return None

    def problem(self, recipient: Recipient) -> str | None:
        """Whether the headers are within theirs."""
        for header in self._headers(recipient):
            name, value = header["Name"], header["Value"]
            if not 1 <= len(value) <= min(SES_HEADER_VALUE_CHARACTERS, SES_HEADER_CHARACTERS - len(name)):
                return f"ses: header {name} is empty or longer than {SES_HEADER_CHARACTERS} characters with its name"
        return None

    def _entry(self, recipient: Recipient) -> dict[str, object]:
        entry: dict[str, object] = {
            "Destination": {"ToAddresses": [ascii_domain_address(recipient.address)]},
            "ReplacementEmailContent": {
                "ReplacementTemplate": {"ReplacementTemplateData": self._data(recipient)},
            },
            # All tags on every entry: the documentation does not say whether defaults are added to replacements.
            "ReplacementTags": [
                {"Name": ascii_token(name), "Value": ascii_token(value)}
                for name, value in sorted({**self._tags, "message_id": recipient.message_id}.items())
            ],
        }
        if headers := self._headers(recipient):
            entry["ReplacementHeaders"] = headers
        return entry

    def _data(self, recipient: Recipient) -> str:
        return json_bytes(self._template.data(recipient.values)).decode()

    def _headers(self, recipient: Recipient) -> list[dict[str, str]]:
        return [
            {"Name": name, "Value": encoded_header_value(joined(pieces, recipient.values))}
            for name, pieces in sorted(self.call.skeleton.headers.items())
        ]


def _wire_json(document: object) -> bytes:
    """The document as long as boto3 writes it: with spaces, and every character beyond ASCII as an escape of six.

    In UTF-8 a Japanese newsletter would seem half its size, and the limit is of what SES gets.
    """
    return json.dumps(document, sort_keys=True).encode()
