"""Texts from outside, in a form that PostgreSQL can store."""

from __future__ import annotations

from typing import overload


@overload
def storable(text: str) -> str: ...
@overload
def storable(text: None) -> None: ...
def storable(text: str | None) -> str | None:
    """The text without NUL characters, which PostgreSQL's text and jsonb refuse.

    For texts that are kept for people to read (a provider's error, a reason). Never for values that are compared, such
    as an address: two different ones would become the same.
    """
    return None if text is None else text.replace("\0", "")
