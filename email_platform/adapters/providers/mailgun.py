"""Mailgun ``POST /v3/{domain}/messages`` with recipient variables ("Batch sending").

Invariant: every recipient gets a message of his own with his contents: ``recipient-variables`` is always present,
without which Mailgun would show all addresses to all.

A call has the skeleton once, with ``%recipient.v1%`` … in the places of the values, and each recipient's values in
``recipient-variables``, up to 1,000 recipients and 25 MB. Variables are keyed by address: addresses must differ. All
recipients of a call have the same parts. Nothing in the documentation says whether a value that holds a variable is
read again: a recipient with ``%recipient.`` in a value is not sent (`fit` says why), and in the static text its percent
sign is a value of its own. Other ``%…%`` names that Mailgun knows (``%unsubscribe_url%``) are replaced by it, as in any
mail.

The answer has one id for all: it is every recipient's provider id, and events are correlated by the user variable
``message_id``. One invalid address refuses the whole call with 400. Mailgun honours no idempotency key.

The form is encoded here with a boundary made from the call id: httpx's own boundary is random, and the same call
must give the same bytes.

Whose fault ("API response codes", "Messages"; the words of 400 and 403 are those that its users report):

| answer | whose | why |
| --- | --- | --- |
| 200 ``Queued. Thank you.`` | all accepted | |
| 200 "Mailgun Magnificent API" | account | the answer of a wrong address or domain; nothing was taken |
| 400 "'to' parameter is not a valid address" | a recipient | does not say which |
| 400 "Too many recipients"; 413 | size | |
| 400 and 403 with the words of the sender or the account (`_WORDS`) | sender or account | from, domain, probation |
| 400 otherwise | nobody knows | options of more than 16 kB, header names, tags |
| 401, 402, 403, 404 | account | key, plan, domain |
| 429 | the moment | ``Retry-After`` where given |
| 500, 502, 503, 504 | unknown | "retries are recommended", but no promise that nothing was queued |
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import quote

import httpx

from email_platform.adapters.providers.call_plan import CallPlan
from email_platform.adapters.providers.classification import ClassificationTable, Outcome
from email_platform.adapters.providers.http_provider import (
    HttpProvider,
    Refusal,
    answer_text,
    json_bytes,
    json_document,
    required_text,
)
from email_platform.adapters.providers.http_transport import (
    MAXIMUM_CONNECTIONS,
    CallTimeouts,
    HttpAnswer,
    open_transport,
)
from email_platform.adapters.providers.limits import MAILGUN_LIMITS, MAILGUN_OPTION_BYTES
from email_platform.adapters.providers.message_fields import (
    ascii_domain_address,
    call_tags,
    encoded_header_value,
    has_text,
    present,
    unicode_mailbox,
)
from email_platform.adapters.providers.placeholders import PlaceholderSyntax, templated
from email_platform.domain.message import joined
from email_platform.domain.ports import BulkCall, EncodedCall, ProviderLimits, Recipient, RecipientResult
from email_platform.errors import AccountRefusedError, InvalidTemplateError

MAILGUN_BASE_URL = "https://api.mailgun.net"
_VARIABLE = "%recipient."
# The percent sign alone becomes a value: what follows it is then no variable.
_SYNTAX = PlaceholderSyntax(_VARIABLE, "%", hazard=r"%(?=recipient\.)")
_WORDS = (
    ("'to' parameter is not a valid address", Outcome.RECIPIENT),
    ("too many recipients", Outcome.SIZE),
    ("'from' parameter", Outcome.ACCOUNT_REFUSED),
    ("from parameter is", Outcome.ACCOUNT_REFUSED),
    ("not allowed to send", Outcome.ACCOUNT_REFUSED),
    ("sandbox subdomains are for test purposes only", Outcome.ACCOUNT_REFUSED),
    ("free accounts are for test purposes only", Outcome.ACCOUNT_REFUSED),
    ("domain not found", Outcome.ACCOUNT_REFUSED),
    ("probation", Outcome.ACCOUNT_REFUSED),
)


class MailgunProvider(HttpProvider):
    """One Mailgun sending domain."""

    name = "mailgun"
    table = ClassificationTable(by_words={"": _WORDS})

    def __init__(
        self,
        *,
        api_key: str,
        domain: str,
        base_url: str = MAILGUN_BASE_URL,
        limits: ProviderLimits = MAILGUN_LIMITS,
        timeouts: CallTimeouts | None = None,
        max_connections: int = MAXIMUM_CONNECTIONS,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        timeouts = timeouts or CallTimeouts()
        super().__init__(
            url=f"{base_url.rstrip('/')}/v3/{quote(domain, safe='')}/messages",
            limits=limits,
            secret=api_key,
            timeouts=timeouts,
            transport=transport or open_transport(max_connections=max_connections),
        )

    def _plan(self, call: BulkCall) -> CallPlan:
        return _MailgunPlan(call)

    def _headers(self, call: EncodedCall) -> Mapping[str, str]:
        credentials = base64.b64encode(f"api:{self._secret}".encode()).decode()
        boundary = call.body.split(b"\r\n", 1)[0][2:].decode()
        return {
            "authorization": f"Basic {credentials}",
            "content-type": f"multipart/form-data; boundary={boundary}",
        }

    def _results(self, answer: HttpAnswer, recipient_count: int) -> list[RecipientResult]:
        if b"Mailgun Magnificent API" in answer.body[:200]:
            raise AccountRefusedError("mailgun: this address is not that of a sending domain; check it and base_url")
        identifier = required_text(json_document(answer.body).get("id"), "id")
        return [self.accepted(identifier)] * recipient_count

    def _refusal(self, answer: HttpAnswer) -> Refusal:
        return Refusal(code="", message=str(json_document(answer.body).get("message") or answer_text(answer)))


class _MailgunPlan(CallPlan):
    provider = "mailgun"
    tells_recipients_by_address = True

    def __init__(self, call: BulkCall) -> None:
        super().__init__(call)
        skeleton = call.skeleton
        self._template = templated(skeleton, _SYNTAX)
        self._header_names = sorted(skeleton.headers)
        self._before = [("from", unicode_mailbox(call.from_name, call.from_address))]
        self._after = [("subject", self._template.subject)]
        self._after += [
            (part, text)
            for part, pieces, text in (
                ("html", skeleton.html, self._template.html),
                ("text", skeleton.text, self._template.text),
            )
            if present(call, pieces)
        ]
        options = [] if not call.reply_to else [("h:Reply-To", call.reply_to)]
        options += [(f"h:{name}", f"%recipient.header_{index}%") for index, name in enumerate(self._header_names)]
        options += [(f"v:{name}", value) for name, value in sorted(call_tags(call).items())]
        options.append(("v:message_id", "%recipient.message_id%"))
        options.append(("o:tag", f"campaign-{call.campaign_id}"))
        option_bytes = sum(len(name.encode()) + len(value.encode()) for name, value in options)
        if option_bytes > MAILGUN_OPTION_BYTES:
            raise InvalidTemplateError(
                f"mailgun: headers and tags take {option_bytes} bytes; the limit is {MAILGUN_OPTION_BYTES}"
            )
        for what, value in (("from name", call.from_name), ("reply-to", call.reply_to or ""), *call.tags.items()):
            if _VARIABLE in value:
                raise InvalidTemplateError(f"mailgun: {what} holds {_VARIABLE!r}, which Mailgun replaces")
        self._after += options
        self.shared_bytes = len(self._form([], {}))

    def entry_bytes(self, recipient: Recipient) -> int:
        address = ascii_domain_address(recipient.address)
        field_bytes = len(self._form([address], {})) - self.shared_bytes
        return field_bytes + len(json_bytes({address: self._variables(recipient)})) - len("{}") + len(",")

    def _write(self) -> bytes:
        variables = {ascii_domain_address(one.address): self._variables(one) for one in self.call.recipients}
        return self._form(list(variables), variables)

    def problem(self, recipient: Recipient) -> str | None:
        if any(_VARIABLE in value for value in self._variables(recipient).values()):
            return f"mailgun: the content holds {_VARIABLE!r}, which Mailgun replaces"
        return None

    def conflict(self, first: Recipient, recipient: Recipient) -> str | None:
        for pieces in (self.call.skeleton.html, self.call.skeleton.text):
            if has_text(pieces, first.values) is not has_text(pieces, recipient.values):
                return "they differ in their bodies (HTML, text), and one call has one set"
        return None

    def _variables(self, recipient: Recipient) -> dict[str, str]:
        headers = self.call.skeleton.headers
        return {
            **self._template.data(recipient.values),
            "message_id": recipient.message_id,
            **{
                f"header_{index}": encoded_header_value(joined(headers[name], recipient.values))
                for index, name in enumerate(self._header_names)
            },
        }

    def _form(self, addresses: Sequence[str], variables: Mapping[str, Mapping[str, str]]) -> bytes:
        fields = [*self._before, *(("to", address) for address in addresses), *self._after]
        fields.append(("recipient-variables", json_bytes(variables).decode()))
        return form_bytes(fields, self.call.call_id.hex)


def form_bytes(fields: Iterable[tuple[str, str]], seed: str) -> bytes:
    """The fields as multipart/form-data (RFC 7578), with a boundary that depends on them and the seed alone.

    Raises:
        InvalidTemplateError: a value has no UTF-8 form.
    """
    try:
        encoded = [(name, value.encode()) for name, value in fields]
    except UnicodeEncodeError as unencodable:
        raise InvalidTemplateError(f"mailgun: the content cannot be encoded: {unencodable.reason}") from unencodable
    # A content that quotes an earlier call's body could hold its boundary; all have one length, so that sizes hold.
    boundary = next(
        candidate
        for number in range(10_000)
        if not any((candidate := f"call-{seed}-{number:04d}").encode() in value for _, value in encoded)
    )
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode() + value + b"\r\n"
        for name, value in encoded
    ]
    return b"".join(parts) + f"--{boundary}--\r\n".encode()
