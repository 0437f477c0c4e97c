"""Lays a compiled content out for one campaign: the skeleton that all recipients share, and which value stands where.

Invariant: the skeleton depends on the content and the manifest alone, never on a recipient.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Protocol

from markupsafe import escape

from email_platform.content.budget import Budget
from email_platform.content.compile import CompiledContent, Part
from email_platform.content.pieces import Computed, Constant, Direct
from email_platform.content.problem import reason_of
from email_platform.domain.manifest import Manifest
from email_platform.domain.message import Piece, Skeleton
from email_platform.errors import InvalidTemplateError

# Everything that a mail server or a header parser may take for the end of a line, and all other controls.
_CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_URL = Direct("unsubscribe_url", (), None, False, False)

Key = Direct | tuple[str, int]
"""What a value is: a variable, or the output of a part's program at an index."""


class UnsubscribeLinks(Protocol):
    """Makes the signed link of one recipient of one campaign; deterministic."""

    def url(self, campaign_id: int, lead_id: int, sender_id: int) -> str:
        """An absolute URL without control characters; links of a campaign differ in letters, digits, - and _ only."""
        ...


def header_text(value: str, maximum_characters: int = 998) -> str:
    """The value fit for a message header: control characters and line ends become one space, length bounded."""
    if not value.isprintable():  # a fast C scan; only few values need the substitution
        value = _CONTROL_CHARACTERS.sub(" ", value)
    return value.strip()[:maximum_characters]


class Layout:
    """Where each value of a campaign's recipients stands.

    Attributes:
        skeleton: the message with its holes.
        subject: the pieces of the subject, or None where it is the same for everybody. The skeleton has the whole
            subject as one value, its last one, since the subject is cleaned and cut as a whole.
        keys: what each value is, those of the bodies first, then those that only the subject needs.
        body_values: how many the bodies and headers need; the first one is the unsubscribe link.
        campaign: the template variables that are the same for everybody.
    """

    def __init__(self, compiled: CompiledContent, manifest: Manifest, unsubscribe: UnsubscribeLinks) -> None:
        """Compute what depends on the campaign alone.

        Raises:
            InvalidTemplateError: that fails; nobody could be sent this.
        """
        self.campaign = {"campaign": _campaign_values(manifest)}
        sample = unsubscribe.url(manifest.campaign_id, 0, manifest.sender.sender_id)
        self._url_needs_no_escape = str(escape(sample)) == sample
        self._indexes: dict[Key, int] = {_URL: 0}
        html = self._pieces(compiled, compiled.html)
        text = self._pieces(compiled, compiled.text)
        self.body_values = len(self._indexes)
        subject = self._pieces(compiled, compiled.subject)
        self.keys: tuple[Key, ...] = tuple(self._indexes)
        varies = any(isinstance(piece, int) for piece in subject)
        self.subject: tuple[Piece, ...] | None = subject if varies else None
        whole = "".join(piece for piece in subject if isinstance(piece, str))
        self.skeleton = Skeleton(
            subject=(self.body_values if varies else header_text(whole, compiled.limits.subject_characters),),
            html=html,
            text=text,
            headers={
                "List-Unsubscribe": ("<", 0, ">"),
                "List-Unsubscribe-Post": ("List-Unsubscribe=One-Click",),
            },
            value_count=self.body_values + varies,
        )

    def _pieces(self, compiled: CompiledContent, part: Part) -> tuple[Piece, ...]:
        constants = self._constants(compiled, part)
        pieces: list[Piece] = []
        for slot in part.pieces.slots:
            if isinstance(slot, str | Constant):
                text = slot if isinstance(slot, str) else constants[slot.index]
                last = pieces[-1] if pieces else None
                if isinstance(last, str):
                    pieces[-1] = last + text
                elif text:
                    pieces.append(text)
                continue
            key: Key = (part.name, slot.index) if isinstance(slot, Computed) else self._canonical(slot)
            pieces.append(self._indexes.setdefault(key, len(self._indexes)))
        return tuple(pieces)

    def _canonical(self, slot: Direct) -> Direct:
        """The link in the body and the one in the header are one value where html does not change it."""
        return _URL if slot.root == _URL.root and (self._url_needs_no_escape or not slot.escaped) else slot

    def _constants(self, compiled: CompiledContent, part: Part) -> Sequence[str]:
        program = part.pieces.constants
        if program is None:
            return ()
        budget = Budget()
        budget.begin_part(compiled.maximum_bytes(part.name))
        try:
            return program.run(self.campaign, budget)
        except Exception as error:  # whatever a template may raise is the template's fault
            raise InvalidTemplateError(
                f"{reason_of(error, part.name, program.template)}; the same for every recipient"
            ) from error


def _campaign_values(manifest: Manifest) -> dict[str, Any]:
    return {
        "id": manifest.campaign_id,
        "from_name": manifest.sender.from_name,
        "from_address": manifest.sender.from_address,
        "date": manifest.frozen_at.date().isoformat(),
        "year": manifest.frozen_at.year,
    }
