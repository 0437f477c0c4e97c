"""A skeleton written in a provider's placeholder syntax.

Invariant: putting each recipient's values in the places of the placeholders, once, gives what `Skeleton.message` gives.
Static text that the provider could read as a placeholder never stands in the template: it becomes a constant value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import groupby

from email_platform.domain.message import Piece, Skeleton


@dataclass(frozen=True)
class PlaceholderSyntax:
    """How a provider marks the place of a value.

    Attributes:
        opening, closing: stand around the name.
        hazard: static text that must not stand in a template, as a regular expression that matches whole runs.
        edge: likewise, for text that touches a placeholder.
    """

    opening: str
    closing: str
    hazard: str | None = None
    edge: str | None = None

    def placeholder(self, name: str) -> str:
        """What stands in the template for the value of this name."""
        return f"{self.opening}{name}{self.closing}"

    @cached_property
    def _hazards(self) -> Mapping[tuple[bool, bool], re.Pattern[str] | None]:
        """By whether a placeholder stands before and after the text."""
        patterns: dict[tuple[bool, bool], re.Pattern[str] | None] = {}
        for before in (False, True):
            for after in (False, True):
                alternatives = [] if self.hazard is None else [self.hazard]
                if self.edge is not None:
                    alternatives = [
                        *([rf"\A{self.edge}"] if before else []),
                        *alternatives,
                        *([rf"{self.edge}\Z"] if after else []),
                    ]
                patterns[before, after] = re.compile("|".join(alternatives)) if alternatives else None
        return patterns

    def divided(self, text: str, *, before: bool, after: bool) -> Iterable[tuple[str, bool]]:
        """The static text in pieces, each with whether it must become a value.

        Args:
            text: between two placeholders, or a placeholder and an end.
            before, after: whether a placeholder touches the text there.
        """
        pattern = self._hazards[before, after]
        position = 0
        for found in pattern.finditer(text) if pattern else ():
            if position < found.start():
                yield text[position : found.start()], False
            yield found.group(), True
            position = found.end()
        if position < len(text):
            yield text[position:], False


# A run of braces or backslashes, and a single one beside a placeholder: Handlebars reads ``{{{`` and ``\{{`` in ways of
# its own, so that ``{`` + ``{{v1}}`` would be another tag.
HANDLEBARS = PlaceholderSyntax("{{", "}}", hazard=r"[\\{}]{2,}", edge=r"[\\{}]+")


@dataclass(frozen=True, slots=True)
class Template:
    """The message of a call as the provider gets it once.

    Attributes:
        subject, html, text: with placeholders; empty where the skeleton has no such part.
        names: of the values that stand in them, by index; those of headers alone are left out.
        constants: values that are the same for every recipient, by name.
    """

    subject: str
    html: str
    text: str
    names: Mapping[int, str]
    constants: Mapping[str, str]

    def data(self, values: Sequence[str]) -> dict[str, str]:
        """What one recipient gets put in, by name."""
        return {**self.constants, **{name: values[index] for index, name in self.names.items()}}


def templated(skeleton: Skeleton, syntax: PlaceholderSyntax) -> Template:
    """The skeleton's subject and bodies in the provider's syntax; all calls of a campaign have one skeleton."""
    return _templated((skeleton.subject, skeleton.html, skeleton.text), syntax)


@lru_cache(maxsize=16)
def _templated(parts: tuple[tuple[Piece, ...], ...], syntax: PlaceholderSyntax) -> Template:
    constants: dict[str, str] = {}

    def constant(text: str) -> str:
        return syntax.placeholder(constants.setdefault(text, f"c{len(constants)}"))

    subject, html, text = (_written(pieces, syntax, constant) for pieces in parts)
    used = sorted({piece for pieces in parts for piece in pieces if isinstance(piece, int)})
    return Template(
        subject,
        html,
        text,
        names={index: f"v{index}" for index in used},
        constants={name: text for text, name in constants.items()},
    )


def _written(pieces: Sequence[Piece], syntax: PlaceholderSyntax, constant: Callable[[str], str]) -> str:
    merged: list[Piece] = []
    # Neighbouring texts are one text: a placeholder's beginning may end one and begin the next.
    for is_text, group in groupby(pieces, key=lambda piece: isinstance(piece, str)):
        if is_text:
            text = "".join(map(str, group))
            merged += [text] if text else []
        else:
            merged += group
    written: list[str] = []
    for position, piece in enumerate(merged):
        if isinstance(piece, int):
            written.append(syntax.placeholder(f"v{piece}"))
            continue
        for text, is_hazard in syntax.divided(piece, before=position > 0, after=position < len(merged) - 1):
            written.append(constant(text) if is_hazard else text)
    return "".join(written)
