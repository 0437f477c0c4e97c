"""Words of others that are kept to be read."""

from __future__ import annotations

import unicodedata
from typing import overload


@overload
def without_nul(text: str) -> str: ...
@overload
def without_nul(text: None) -> None: ...
def without_nul(text: str | None) -> str | None:
    """The text without NUL characters, which PostgreSQL's text and jsonb refuse.

    For words that are kept to be read (a provider's error, a reason). Never for a text that is looked up, such as an
    address: two different ones would become the same.
    """
    return None if text is None else text.replace("\0", "")


def visible(text: str) -> str:
    r"""The text on one line; characters that act on a terminal or on the text beside them as ``\x1b`` or ``\u202e``."""
    return "".join(one if one == " " or not _acts(one) else _escaped(one) for one in text)


def _acts(character: str) -> bool:
    """Control, format, surrogate, private and unassigned characters, and Unicode's own line separators."""
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
