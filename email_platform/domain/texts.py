"""Words of others that are kept to be read."""

from __future__ import annotations

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
