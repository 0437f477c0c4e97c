"""A campaign's message as a skeleton that all recipients of a call share, and the values of each recipient.

Invariant: `Skeleton.message` gives the same text that rendering the templates for that recipient gives, so it does
not matter whether the provider puts the message together or we do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Piece = str | int
"""Static text, or the index of a recipient's value that stands there."""


@dataclass(frozen=True, slots=True)
class Message:
    """One recipient's message, put together.

    Attributes:
        headers: extra message headers (List-Unsubscribe …); values carry no CR or LF.
    """

    subject: str
    html: str
    text: str
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Skeleton:
    """A message with holes, the same for every recipient of a call.

    Attributes:
        subject, html, text: static text and the indexes of values, in order. A value may stand in several places.
        headers: likewise, by header name.
        value_count: how many values each recipient has.
    """

    subject: tuple[Piece, ...]
    html: tuple[Piece, ...]
    text: tuple[Piece, ...]
    headers: Mapping[str, tuple[Piece, ...]]
    value_count: int

    def message(self, values: Sequence[str]) -> Message:
        """The message of the recipient with these values.

        Args:
            values: one text per index, escaped as the place where it stands needs it.
        """
        return Message(
            subject=joined(self.subject, values),
            html=joined(self.html, values),
            text=joined(self.text, values),
            headers={name: joined(pieces, values) for name, pieces in self.headers.items()},
        )


def joined(pieces: Sequence[Piece], values: Sequence[str]) -> str:
    """The pieces as one text, with the values in their places."""
    return "".join([piece if isinstance(piece, str) else values[piece] for piece in pieces])
