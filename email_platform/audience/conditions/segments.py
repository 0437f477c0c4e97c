"""Conditions with a name: ``{"segment": "name"}`` stands for the stored condition of that name.

Invariant: what the parser gets has no segment left in it, and resolving always ends: a segment that contains itself is
refused, and so is a condition that grows beyond the parser's limits.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any

from email_platform.audience.conditions.fields import MAX_DEPTH, MAX_NODES, SEGMENT_NAME_PATTERN
from email_platform.audience.conditions.grammar import parse_condition
from email_platform.errors import InvalidConditionError

SEGMENT_NAME = re.compile(SEGMENT_NAME_PATTERN)
_ANY_CONDITION = {"field": "id", "op": "is_null", "value": False}


def resolve_segments(raw: object, segments: Mapping[str, object]) -> object:
    """The condition with each segment's own condition in its place; what has none is returned as it is.

    Args:
        raw: what a JSON parser returned; never altered.
        segments: the stored conditions, by name.

    Raises:
        InvalidConditionError: a segment is not known, contains itself, or makes the condition too large.
    """
    return _Resolver(segments).resolved(raw, "$", 1, ())


def check_without_segments(raw: object) -> None:
    """Check a condition where the stored segments are not at hand: they count as conditions that are in order.

    Raises:
        InvalidConditionError: the condition breaks the grammar.
    """
    parse_condition(resolve_segments(raw, _Everything()))


class _Everything(dict[str, Any]):
    def __missing__(self, _name: str) -> object:
        return _ANY_CONDITION

    def __contains__(self, _name: object) -> bool:
        return True


class _Resolver:
    """Counts parts over one condition."""

    def __init__(self, segments: Mapping[str, object]) -> None:
        self._segments = segments
        self._parts = 0

    def resolved(self, raw: object, path: str, depth: int, within: tuple[str, ...]) -> object:
        # Whatever is not well formed, or nested too deeply, is left for the parser to refuse.
        if not isinstance(raw, dict) or depth > MAX_DEPTH:
            return raw
        self._parts += 1
        if self._parts > 2 * MAX_NODES:
            raise InvalidConditionError(path, f"has too many parts: at most {MAX_NODES} groups and comparisons in all")
        if "segment" in raw:
            return self._segment(raw, path, depth, within)
        if len(raw) != 1:
            return raw
        key, value = next(iter(raw.items()))
        if key == "not":
            return {key: self.resolved(value, f"{path}.not", depth + 1, within)}
        if key in ("all", "any") and isinstance(value, list) and len(value) <= MAX_NODES:
            return {
                key: [self.resolved(part, f"{path}.{key}[{at}]", depth + 1, within) for at, part in enumerate(value)]
            }
        return raw

    def _segment(self, raw: dict[str, object], path: str, depth: int, within: tuple[str, ...]) -> object:
        name = raw["segment"]
        if len(raw) > 1:
            raise InvalidConditionError(path, "'segment' must be the only key of its object")
        if not isinstance(name, str) or not SEGMENT_NAME.search(name):
            raise InvalidConditionError(f"{path}.segment", "must be a segment's name: letters, digits, spaces, _ . -")
        if name in within:
            chain = " > ".join([*within, name])
            raise InvalidConditionError(f"{path}.segment", f"segment {name!r} contains itself: {chain}")
        if name not in self._segments:
            close = difflib.get_close_matches(name, list(self._segments), n=1)
            meant = f" (did you mean {close[0]!r}?)" if close else ""
            raise InvalidConditionError(
                f"{path}.segment", f"there is no segment {name!r}{meant}; see: email-platform segment list"
            )
        return self.resolved(self._segments[name], path, depth, (*within, name))
