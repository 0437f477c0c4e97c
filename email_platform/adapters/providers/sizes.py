"""How large a joined text would be, without joining it.

Invariant: `PartSize.json_bytes` is exactly the size of the joined text as a JSON string without its quotes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import orjson

from email_platform.domain.message import Piece

_LINE_BYTES = 57
_ENCODED_LINE_CHARACTERS = 78


def json_text_bytes(text: str) -> int:
    """Size of the text inside a JSON string, in UTF-8."""
    return len(orjson.dumps(text)) - 2


def base64_bytes(size_bytes: int) -> int:
    """Size in base64 with its line ends (RFC 2045: lines of 76 characters)."""
    return math.ceil(size_bytes / _LINE_BYTES) * _ENCODED_LINE_CHARACTERS


class PartSize:
    """Sizes of one part of a skeleton; measured once a call, then added up for each recipient."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        static = "".join(piece for piece in pieces if isinstance(piece, str))
        self._static_json_bytes = json_text_bytes(static)
        self._static_bytes = len(static.encode())
        self._times = Counter(piece for piece in pieces if isinstance(piece, int))

    def json_bytes(self, values: Sequence[str]) -> int:
        """Of the joined text inside a JSON string."""
        return self._static_json_bytes + sum(
            times * json_text_bytes(values[index]) for index, times in self._times.items()
        )

    def utf8_bytes(self, values: Sequence[str]) -> int:
        """Of the joined text itself."""
        return self._static_bytes + sum(times * len(values[index].encode()) for index, times in self._times.items())
