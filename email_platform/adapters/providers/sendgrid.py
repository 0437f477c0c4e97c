"""SendGrid v3 ``POST /v3/mail/send`` with personalizations.

Invariant: the contents that a recipient gets are the ones rendered for this recipient, or the call is not made.

A call has one ``content`` for all its personalizations. In this order, the first form that carries a recipient's
message is used, and a call has one form:

- the skeleton as ``content`` with substitution tags, and each recipient's values as ``substitutions``, up to 1,000
  recipients. Tags are replaced wherever their text occurs in subject and bodies ("Substitution tags"); nothing says
  whether a value is read again. So the tags of a call have a name that stands in none of its texts (`_unused_nonce`):
  no lead's ``-name-`` is ever taken for one. The values of a recipient may take 10,000 bytes;
- with ``template_id``, whole contents as data of a dynamic template, created once in the account with the subject
  ``{{{subject}}}``, the HTML ``{{{html}}}`` and the text ``{{{text}}}`` (three braces: not escaped);
- one recipient per call, his content as it is.

A 202 has no per-recipient result: all recipients are accepted, with the call's ``X-Message-Id``, and events are
correlated by the custom argument ``message_id``, in which no substitution is made. SendGrid honours no idempotency key.

Whose fault (Mail Send, "Errors": each names the field; "How to use the v3 API", status codes):

| answer | whose | why |
| --- | --- | --- |
| 202 | all accepted | "valid, and queued to be delivered" |
| 400 about ``personalizations.N.to`` alone | a recipient | validated before anything is queued |
| 400 about ``personalizations``, "limited to 1000"; 413 | size | |
| 400 about ``from``, ``reply_to``, ``template_id``, ``asm``, … (`_BY_FIELD`) | sender or account | also beside others |
| 400 about other fields or none; 406 and others | nobody knows | content, subject, headers, substitutions |
| 401, 403, 404, 405, 451 | sender or account | key, sender identity not verified, credits, temporary block, \
data residency |
| 429 | the moment | rate limitation; ``X-RateLimit-Reset`` is a Unix time |
| 500, 502, 503, 504 | unknown | "an error occurred when SendGrid attempted to process it": no promise |

``N`` is a recipient's position: the error names it in `culprits`. It is not made the result of one recipient with the
others deferred: that all wrong addresses are listed at once is documented nowhere, and recipients who wait for one
wrong address after the other would use up their tries.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from email.utils import parseaddr
from hashlib import sha256

import httpx

from email_platform.adapters.providers.call_plan import CallPlan, fit_plan
from email_platform.adapters.providers.classification import ClassificationTable, Outcome, seconds_until_epoch
from email_platform.adapters.providers.http_provider import (
    HttpProvider,
    Refusal,
    answer_text,
    json_bytes,
    json_document,
)
from email_platform.adapters.providers.http_transport import (
    MAXIMUM_CONNECTIONS,
    CallTimeouts,
    HttpAnswer,
    open_transport,
)
from email_platform.adapters.providers.limits import (
    SENDGRID_CUSTOM_ARGUMENT_BYTES,
    SENDGRID_LIMITS,
    SENDGRID_SUBSTITUTION_BYTES,
)
from email_platform.adapters.providers.message_fields import (
    ascii_domain_address,
    call_tags,
    encoded_header_value,
    present,
    recipient_problem,
)
from email_platform.adapters.providers.placeholders import PlaceholderSyntax, templated
from email_platform.adapters.providers.sizes import PartSize, json_text_bytes
from email_platform.domain.message import Message, joined
from email_platform.domain.ports import BulkCall, EncodedCall, Fit, ProviderLimits, Recipient, RecipientResult
from email_platform.errors import InvalidTemplateError

SENDGRID_BASE_URL = "https://api.sendgrid.com"
_NONCE_CHARACTERS = 12
_POSITION = re.compile(r"\.\d+(?=\.|\Z)")
_RECIPIENT_FIELD = re.compile(r"personalizations\.(\d+)\.to(?:\.|\Z)")
_BY_FIELD: Mapping[str, Outcome] = {
    **dict.fromkeys(("personalizations.to", "personalizations.to.email"), Outcome.RECIPIENT),
    **dict.fromkeys(
        (
            *("from", "from.email", "from.name", "reply_to", "reply_to.email", "reply_to.name"),
            *("template_id", "asm", "asm.group_id", "ip_pool_name"),
        ),
        Outcome.ACCOUNT_REFUSED,
    ),
}


class SendGridProvider(HttpProvider):
    """One SendGrid account or subuser."""

    name = "sendgrid"
    success_statuses = frozenset({202})
    table = ClassificationTable(
        by_words={
            "personalizations": [("limited to 1000", Outcome.SIZE), ("limit of 1000 total", Outcome.SIZE)],
        },
        by_code=_BY_FIELD,
        by_status={451: Outcome.ACCOUNT_REFUSED},
    )

    def __init__(
        self,
        *,
        api_key: str,
        template_id: str | None = None,
        base_url: str = SENDGRID_BASE_URL,
        limits: ProviderLimits = SENDGRID_LIMITS,
        timeouts: CallTimeouts | None = None,
        max_connections: int = MAXIMUM_CONNECTIONS,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        timeouts = timeouts or CallTimeouts()
        self._template_id = template_id
        super().__init__(
            url=f"{base_url.rstrip('/')}/v3/mail/send",
            limits=limits,
            secret=api_key,
            timeouts=timeouts,
            transport=transport or open_transport(max_connections=max_connections),
        )

    def fit(self, call: BulkCall) -> Fit:
        """How many of the call's first recipients fit one request; see `fit_plan`.

        Raises:
            InvalidTemplateError: nobody could be sent this.
        """
        return fit_plan(self._plan_for(call, call.recipients[:1]), self._limits)

    def _plan(self, call: BulkCall) -> CallPlan:
        return self._plan_for(call, call.recipients)

    def _plan_for(self, call: BulkCall, judged: Sequence[Recipient]) -> CallPlan:
        """The first form that carries the judged recipients."""
        substituted = _SubstitutedPlan(call)
        # A recipient who cannot be sent to at all has no influence on the form.
        sendable = (one for one in judged if recipient_problem(call.skeleton, one, substituted.checks) is None)
        if all(substituted.substitution_problem(recipient) is None for recipient in sendable):
            return substituted
        return _DynamicTemplatePlan(call, self._template_id) if self._template_id else _SinglePlan(call)

    def _headers(self, call: EncodedCall) -> Mapping[str, str]:
        return {"authorization": f"Bearer {self._secret}", "content-type": "application/json"}

    def _results(self, answer: HttpAnswer, recipient_count: int) -> list[RecipientResult]:
        return [self.accepted(answer.headers.get("x-message-id", ""))] * recipient_count

    def _refusal(self, answer: HttpAnswer) -> Refusal:
        errors = json_document(answer.body).get("errors")
        entries = [entry for entry in errors if isinstance(entry, dict)] if isinstance(errors, list) else []
        words = "; ".join(
            f"{entry['field']}: {entry.get('message')}" if entry.get("field") else str(entry.get("message"))
            for entry in entries
        )
        fields = [str(entry.get("field") or "") for entry in entries] if answer.status == 400 else []
        return Refusal(
            code=_gravest([_POSITION.sub("", field) for field in fields]),
            message=words or answer_text(answer),
            retry_after_seconds=seconds_until_epoch(answer.headers.get("x-ratelimit-reset", ""), answer.headers)
            if answer.status == 429
            else None,
            culprits=frozenset(int(found.group(1)) for field in fields if (found := _RECIPIENT_FIELD.match(field))),
        )


def _gravest(fields: Sequence[str]) -> str:
    """Of the fields that an answer complains about, the one whose fault is the farthest from a recipient's."""
    order = [Outcome.ACCOUNT_REFUSED, Outcome.SIZE, Outcome.UNLISTED, Outcome.RECIPIENT]
    return min(fields, key=lambda name: order.index(_BY_FIELD.get(name, Outcome.UNLISTED)), default="")


class _SendGridPlan(CallPlan):
    """What the three forms of a call have in common."""

    provider = "sendgrid"
    tells_recipients_by_address = True

    def __init__(self, call: BulkCall) -> None:
        super().__init__(call)
        self.shared: dict[str, object] = {
            "from": _mailbox(call.from_name, call.from_address),
            "custom_args": call_tags(call),
            "personalizations": [],
        }
        if call.reply_to:
            self.shared["reply_to"] = _mailbox(*parseaddr(call.reply_to))
        arguments = json_bytes(self.shared["custom_args"])
        if len(arguments) + 64 > SENDGRID_CUSTOM_ARGUMENT_BYTES:
            raise InvalidTemplateError(f"sendgrid: the tags take {len(arguments)} bytes; the limit is 10,000")

    def personalization(self, recipient: Recipient) -> dict[str, object]:
        """The recipient's own part, without his contents."""
        personalization: dict[str, object] = {
            "to": [{"email": ascii_domain_address(recipient.address)}],
            "custom_args": {"message_id": recipient.message_id},
        }
        if headers := self.call.skeleton.headers:
            # "You must ensure these are properly encoded if they contain unicode characters" (Mail Send).
            personalization["headers"] = {
                name: encoded_header_value(joined(pieces, recipient.values)) for name, pieces in headers.items()
            }
        return personalization


class _SubstitutedPlan(_SendGridPlan):
    """The skeleton once, and each recipient's values as substitutions."""

    def __init__(self, call: BulkCall) -> None:
        super().__init__(call)
        # Of the length of a real one, so that sizes are right before it is chosen.
        self._use("0" * _NONCE_CHARACTERS)

    def _use(self, nonce: str) -> None:
        skeleton = self.call.skeleton
        self._syntax = PlaceholderSyntax(f"-{nonce}", "-")
        self._template = templated(skeleton, self._syntax)
        self._written = {
            **self.shared,
            "subject": self._template.subject,
            # text/plain must come first (Mail Send reference, "content").
            "content": _content(
                self._template.text if present(self.call, skeleton.text) else "",
                self._template.html if present(self.call, skeleton.html) else "",
            ),
        }
        self.shared_bytes = len(json_bytes(self._written))

    def entry_bytes(self, recipient: Recipient) -> int:
        return len(json_bytes(self._entry(recipient))) + len(",")

    def _write(self) -> bytes:
        self._use(_unused_nonce(self.call))
        return json_bytes({**self._written, "personalizations": [self._entry(one) for one in self.call.recipients]})

    def conflict(self, first: Recipient, recipient: Recipient) -> str | None:
        return self.substitution_problem(recipient)

    def substitution_problem(self, recipient: Recipient) -> str | None:
        """Why the values cannot be substitutions."""
        size_bytes = len(json_bytes(self._substitutions(recipient)))
        if size_bytes > SENDGRID_SUBSTITUTION_BYTES:
            return f"substitutions of {size_bytes} bytes; the limit is {SENDGRID_SUBSTITUTION_BYTES}"
        return None

    def _substitutions(self, recipient: Recipient) -> dict[str, str]:
        data = self._template.data(recipient.values)
        return {self._syntax.placeholder(name): value for name, value in data.items()}

    def _entry(self, recipient: Recipient) -> dict[str, object]:
        return {**self.personalization(recipient), "substitutions": self._substitutions(recipient)}


class _DynamicTemplatePlan(_SendGridPlan):
    """Whole contents as the data of a dynamic template."""

    multiplies_content = True

    def __init__(self, call: BulkCall, template_id: str) -> None:
        super().__init__(call)
        self.shared["template_id"] = template_id
        self.shared_bytes = len(json_bytes(self.shared))
        self._html, self._text = PartSize(call.skeleton.html), PartSize(call.skeleton.text)

    def entry_bytes(self, recipient: Recipient) -> int:
        message = Message(joined(self.call.skeleton.subject, recipient.values), "", "", {})
        frame_bytes = len(json_bytes(self._entry(recipient, message))) + len(",")
        return frame_bytes + self._html.json_bytes(recipient.values) + self._text.json_bytes(recipient.values)

    def _write(self) -> bytes:
        entries = [self._entry(one, self.call.skeleton.message(one.values)) for one in self.call.recipients]
        return json_bytes({**self.shared, "personalizations": entries})

    def _entry(self, recipient: Recipient, message: Message) -> dict[str, object]:
        data = {"subject": message.subject, "html": message.html, "text": message.text}
        return {**self.personalization(recipient), "dynamic_template_data": data}


class _SinglePlan(_SendGridPlan):
    """One recipient and his contents as they are."""

    multiplies_content = True

    def __init__(self, call: BulkCall) -> None:
        super().__init__(call)
        self.shared_bytes = len(json_bytes({**self.shared, "subject": "", "content": _content("-", "-")}))
        self._html, self._text = PartSize(call.skeleton.html), PartSize(call.skeleton.text)

    def entry_bytes(self, recipient: Recipient) -> int:
        subject_bytes = json_text_bytes(joined(self.call.skeleton.subject, recipient.values))
        bodies_bytes = self._html.json_bytes(recipient.values) + self._text.json_bytes(recipient.values)
        return len(json_bytes(self.personalization(recipient))) + subject_bytes + bodies_bytes

    def _write(self) -> bytes:
        (recipient,) = self.call.recipients
        message = self.call.skeleton.message(recipient.values)
        return json_bytes(
            {
                **self.shared,
                "subject": message.subject,
                "content": _content(message.text, message.html),
                "personalizations": [self.personalization(recipient)],
            }
        )

    def conflict(self, first: Recipient, recipient: Recipient) -> str | None:
        return "without a template id every recipient's content of this size needs a call of its own"


def _content(text: str, html: str) -> list[dict[str, str]]:
    return [
        {"type": media_type, "value": value}
        for media_type, value in (("text/plain", text), ("text/html", html))
        if value
    ]


def _unused_nonce(call: BulkCall) -> str:
    """A part of the tags' names that stands in no text of the call, so that a tag is found nowhere but in its places.

    It depends on the whole call, so that no value can have been made to hold it.
    """
    skeleton = call.skeleton
    texts = [
        "".join(piece for piece in part if isinstance(piece, str))
        for part in (skeleton.subject, skeleton.html, skeleton.text)
    ]
    texts += ["\0".join(recipient.values) for recipient in call.recipients]
    everything = "\0".join(texts)
    digest = sha256(call.call_id.bytes + everything.encode())
    while True:
        nonce = digest.hexdigest()[:_NONCE_CHARACTERS]
        if nonce not in everything:
            return nonce
        digest.update(b"again")


def _mailbox(name: str, address: str) -> dict[str, str]:
    mailbox = {"email": ascii_domain_address(address)}
    if name:
        mailbox["name"] = name
    return mailbox
