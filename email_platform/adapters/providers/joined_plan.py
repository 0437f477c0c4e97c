"""Calls of providers without placeholders: an array of messages, each put together here.

Invariant: each recipient's message is `Skeleton.message` of his values, and is joined once, when the call is encoded.
"""

from __future__ import annotations

from abc import abstractmethod

from email_platform.adapters.providers.call_plan import CallPlan
from email_platform.adapters.providers.http_provider import json_bytes
from email_platform.adapters.providers.message_fields import call_tags
from email_platform.adapters.providers.sizes import PartSize
from email_platform.domain.message import Message, joined
from email_platform.domain.ports import BulkCall, Recipient

_SHORTEST_BODY = "-"


class JoinedPlan(CallPlan):
    """A JSON array with one whole message a recipient.

    Attributes:
        tags: the call's, with its ids.
        html, text: sizes of the bodies.
    """

    shared_bytes = len("[]")
    multiplies_content = True

    def __init__(self, call: BulkCall) -> None:
        super().__init__(call)
        self.tags = call_tags(call)
        self.html = PartSize(call.skeleton.html)
        self.text = PartSize(call.skeleton.text)

    def entry_bytes(self, recipient: Recipient) -> int:
        """The message without its bodies, and the bodies' sizes; too much by the two characters that stand for them."""
        values, skeleton = recipient.values, self.call.skeleton
        message = Message(
            subject=joined(skeleton.subject, values),
            html=_SHORTEST_BODY,
            text=_SHORTEST_BODY,
            headers={name: joined(pieces, values) for name, pieces in skeleton.headers.items()},
        )
        frame_bytes = len(json_bytes(self.document(recipient, message))) + len(",")
        return frame_bytes + self.html.json_bytes(values) + self.text.json_bytes(values)

    def _write(self) -> bytes:
        """The array."""
        skeleton = self.call.skeleton
        return json_bytes(
            [self.document(recipient, skeleton.message(recipient.values)) for recipient in self.call.recipients]
        )

    @abstractmethod
    def document(self, recipient: Recipient, message: Message) -> dict[str, object]:
        """One message as the provider wants it; empty bodies are left out."""
