"""The condition's syntax tree and the only way to get one: `parse_condition`.

Invariant: a tree holds known fields, operators that suit them and values of exactly their type, within the
limits of `fields`; parsing anything else raises InvalidConditionError with the place and what is allowed there.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Never, TypeAlias, cast

from email_platform.audience.conditions.fields import (
    ATTRIBUTE_FIELD,
    ATTRIBUTE_PREFIX,
    ATTRIBUTE_TYPES,
    LEAD_FIELDS,
    MAX_DEPTH,
    MAX_LIST_VALUES,
    MAX_NODES,
    MAX_STRING_CHARACTERS,
    MAX_VALUES,
    NUMBER_RANGE,
    OPERATORS,
    OPERATORS_OF,
    TIMESTAMP_TEXT,
    AttributeType,
    Operator,
    ValueType,
)
from email_platform.domain.odd_rows import Unreadable
from email_platform.errors import InvalidConditionError

Scalar: TypeAlias = str | bool | int | Decimal | datetime


@dataclass(frozen=True, slots=True)
class Comparison:
    """One field against a value.

    Attributes:
        field: a column's name, or an attribute's key.
        is_attribute: whether `field` is a key of ``lead.attributes``.
        value_type: the type of the values; None only for ``is_null`` on an attribute, which looks at no value.
        value: one scalar; a tuple for ``in``, ``not_in`` and ``between`` (low, high); a bool for ``is_null``.
    """

    field: str
    is_attribute: bool
    value_type: ValueType | None
    op: Operator
    value: Scalar | tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class AllOf:
    """Every part holds; without parts it is everybody."""

    parts: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    """At least one part holds."""

    parts: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """Exactly those leads for which the part does not hold, missing values included."""

    part: Condition


Condition: TypeAlias = Comparison | AllOf | AnyOf | Not

_GROUP_KEYS = ("all", "any", "not")
_COMPARISON_KEYS = ("field", "op", "value", "type")
_SHAPES = 'one of {"all": [...]}, {"any": [...]}, {"not": {...}} or {"field": ..., "op": ..., "value": ...}'


def parse_condition(raw: object) -> Condition:
    """The tree of a parsed JSON document; ``{"all": []}`` is everybody and allowed as the whole condition only.

    Args:
        raw: what a JSON parser returned; never altered.

    Raises:
        InvalidConditionError: the place as a JSONPath, and what is allowed there.
    """
    if isinstance(raw, Unreadable):
        _refuse("$", raw.reason)
    if isinstance(raw, dict) and list(raw) == ["all"] and raw["all"] == [] and isinstance(raw["all"], list):
        return AllOf(())
    return _Parser().node(raw, "$", depth=1)


class _Parser:
    """Counts nodes and values over one condition."""

    def __init__(self) -> None:
        self._nodes = self._values = 0

    def node(self, raw: object, path: str, depth: int) -> Condition:
        if not isinstance(raw, dict):
            _refuse(path, f"must be an object, not {_kind(raw)}: {_SHAPES}")
        if depth > MAX_DEPTH:
            _refuse(path, f"is nested too deeply: at most {MAX_DEPTH} levels")
        self._nodes += 1
        if self._nodes > MAX_NODES:
            _refuse(path, f"has too many parts: at most {MAX_NODES} groups and comparisons in all")
        groups = [key for key in raw if key in _GROUP_KEYS]
        if groups:
            if len(raw) > 1:
                others = _listed(key for key in raw if key != groups[0])
                _refuse(path, f"{groups[0]!r} must be the only key of its object; move {others} into an object beside")
            return self._group(groups[0], raw[groups[0]], f"{path}.{groups[0]}", depth)
        if "segment" in raw:
            _refuse(path, "names a segment, which must be resolved first; only a campaign's own condition may have one")
        if not raw:
            _refuse(path, f'is empty; write {{"all": []}} as the whole condition for everybody, or {_SHAPES}')
        for key in raw:
            if key not in _COMPARISON_KEYS:
                allowed = _COMPARISON_KEYS if any(known in raw for known in _COMPARISON_KEYS) else _GROUP_KEYS
                _refuse(path, f"has the unknown key {_quoted(key)}{_meant(key, allowed)}; expected {_SHAPES}")
        return self._comparison(raw, path)

    def _group(self, key: str, raw: object, path: str, depth: int) -> Condition:
        if key == "not":
            return Not(self.node(raw, path, depth + 1))
        if not isinstance(raw, list):
            _refuse(path, f"must be a list of conditions, not {_kind(raw)}")
        if not raw:
            _refuse(path, 'must have at least one condition (only a whole condition may be {"all": []}, everybody)')
        if len(raw) > MAX_NODES:
            _refuse(path, f"has too many parts: at most {MAX_NODES} groups and comparisons in all")
        parts = tuple(self.node(part, f"{path}[{index}]", depth + 1) for index, part in enumerate(raw))
        return AllOf(parts) if key == "all" else AnyOf(parts)

    def _comparison(self, raw: dict[str, object], path: str) -> Comparison:
        for key in ("field", "op", "value"):
            if key not in raw:
                _refuse(path, f"lacks the key {key!r}; a comparison has 'field', 'op' and 'value'")
        name, is_attribute = _field(raw["field"], f"{path}.field")
        op = _operator(raw["op"], f"{path}.op")
        value_type: ValueType | None
        if is_attribute:
            value_type = _attribute_type(raw, op, path)
        elif "type" in raw:
            _refuse(f"{path}.type", f"belongs to attributes only; {name!r} is a {LEAD_FIELDS[name].value_type}")
        else:
            value_type = LEAD_FIELDS[name].value_type
        if value_type is not None and op not in OPERATORS_OF[value_type]:
            allowed = ", ".join(OPERATORS_OF[value_type])
            _refuse(f"{path}.op", f"{op!r} does not suit the {value_type} {name!r}; allowed: {allowed}")
        allowed_range = NUMBER_RANGE if is_attribute else LEAD_FIELDS[name].integer_range
        value = self._operand(raw["value"], op, value_type, allowed_range, f"{path}.value")
        return Comparison(name, is_attribute, value_type, op, value)

    def _operand(
        self, raw: object, op: Operator, value_type: ValueType | None, allowed_range: tuple[int, int], path: str
    ) -> Scalar | tuple[Scalar, ...]:
        if op == "is_null" or value_type is None:
            if not isinstance(raw, bool):
                _refuse(path, f"must be true (has no value) or false (has one) for 'is_null', not {_kind(raw)}")
            return raw
        if op not in ("in", "not_in", "between"):
            self._count(1, path)
            value = _scalar(raw, value_type, allowed_range, path)
            if op in ("contains", "starts_with") and value == "" and value_type != "list":
                _refuse(path, f"must not be empty: every text would match {op!r}")
            return value
        if not isinstance(raw, list):
            _refuse(path, f"must be a list for {op!r}, not {_kind(raw)}")
        if op == "between" and len(raw) != 2:
            _refuse(path, f"must be [low, high] for 'between', not a list of {len(raw)}")
        if not 1 <= len(raw) <= MAX_LIST_VALUES:
            _refuse(path, f"must have 1 to {MAX_LIST_VALUES:,} values, not {len(raw):,}")
        self._count(len(raw), path)
        values = tuple(_scalar(item, value_type, allowed_range, f"{path}[{index}]") for index, item in enumerate(raw))
        if op == "between" and values[0] > values[1]:  # type: ignore[operator]  # one type, checked above
            _refuse(path, "must be [low, high] with low not above high: both ends belong to the range")
        return values

    def _count(self, values: int, path: str) -> None:
        self._values += values
        if self._values > MAX_VALUES:
            _refuse(path, f"makes more than {MAX_VALUES:,} values in the whole condition")


def _field(raw: object, path: str) -> tuple[str, bool]:
    if not isinstance(raw, str):
        _refuse(path, f"must be a field's name, not {_kind(raw)}")
    if raw in LEAD_FIELDS:
        return raw, False
    if ATTRIBUTE_FIELD.search(raw):
        return raw.removeprefix(ATTRIBUTE_PREFIX), True
    if raw.startswith("attributes"):
        _refuse(
            path,
            f"{_quoted(raw)} is not an attribute: write 'attributes.<key>', the key a letter or _ and then up to "
            "63 letters, digits, _ or -",
        )
    allowed = ", ".join([*LEAD_FIELDS, "attributes.<key>"])
    _refuse(path, f"unknown field {_quoted(raw)}{_meant(raw, LEAD_FIELDS)}; allowed: {allowed}")


def _operator(raw: object, path: str) -> Operator:
    if not isinstance(raw, str):
        _refuse(path, f"must be an operator's name, not {_kind(raw)}; allowed: {', '.join(OPERATORS)}")
    if raw not in OPERATORS:
        _refuse(path, f"unknown operator {_quoted(raw)}{_meant(raw, OPERATORS)}; allowed: {', '.join(OPERATORS)}")
    return cast(Operator, raw)


def _attribute_type(raw: dict[str, object], op: Operator, path: str) -> AttributeType | None:
    """The type that is given, or the one that the value shows; a timestamp or a list's text looks like a string."""
    given = raw.get("type")
    if op == "is_null":
        if "type" in raw:
            _refuse(f"{path}.type", "has no meaning for 'is_null', which is about any value; leave it out")
        return None
    if "type" in raw:
        if given not in ATTRIBUTE_TYPES or not isinstance(given, str):
            _refuse(f"{path}.type", f"must be one of {', '.join(ATTRIBUTE_TYPES)}")
        return cast(AttributeType, given)
    value = raw["value"]
    sample = value[0] if isinstance(value, list) and value else value
    if isinstance(sample, bool):
        return "boolean"
    if isinstance(sample, str):
        return "string"
    if isinstance(sample, int | float):
        return "number"
    _refuse(f"{path}.value", f"must be a string, a number, true or false, or a list of one of them, not {_kind(value)}")


def _scalar(raw: object, value_type: ValueType, allowed_range: tuple[int, int], path: str) -> Scalar:
    match value_type:
        case "string" | "list":
            return _string(raw, path)
        case "boolean":
            if not isinstance(raw, bool):
                _refuse(path, f"must be true or false, not {_kind(raw)}")
            return raw
        case "timestamp":
            return _timestamp(raw, path)
        case "integer" | "number":
            return _number(raw, value_type, allowed_range, path)


def _string(raw: object, path: str) -> str:
    if not isinstance(raw, str):
        hint = "; use the operator 'is_null'" if raw is None else ""
        _refuse(path, f"must be a string, not {_kind(raw)}{hint}")
    if len(raw) > MAX_STRING_CHARACTERS:
        _refuse(path, f"must have at most {MAX_STRING_CHARACTERS:,} characters, not {len(raw):,}")
    if any(character == "\0" or "\ud800" <= character <= "\udfff" for character in raw):
        _refuse(path, "must not contain NUL or half of a surrogate pair: no stored text has them")
    return raw


def _number(raw: object, value_type: ValueType, allowed_range: tuple[int, int], path: str) -> int | Decimal:
    wanted = "a whole number" if value_type == "integer" else "a number"
    if isinstance(raw, bool) or not isinstance(raw, int | float):
        hint = "; use the operator 'is_null'" if raw is None else ""
        _refuse(path, f"must be {wanted}, not {_kind(raw)}{hint}")
    least, greatest = allowed_range
    if isinstance(raw, float):
        if not math.isfinite(raw):
            _refuse(path, f"must be {wanted}, not infinite or NaN")
        if value_type == "integer" and not raw.is_integer():
            _refuse(path, f"must be {wanted}, without a fraction")
    if not least <= raw <= greatest:
        _refuse(path, f"must be between {least} and {greatest}")
    # 0.1 is meant as written, and PostgreSQL's numeric keeps it so; one type, since psycopg dumps no mixed lists.
    return Decimal(repr(raw)) if value_type == "number" else int(raw)


def _timestamp(raw: object, path: str) -> datetime:
    shape = "an ISO 8601 time with offset such as '2026-03-01T09:00:00Z', in the years 1900 to 2199"
    if not isinstance(raw, str) or not TIMESTAMP_TEXT.search(raw):
        _refuse(path, f"must be {shape}" + ("" if isinstance(raw, str) else f", not {_kind(raw)}"))
    return datetime.fromisoformat(raw).astimezone(UTC)


def _refuse(path: str, problem: str) -> Never:
    raise InvalidConditionError(path, problem)


def _kind(raw: object) -> str:
    """What the value is, in JSON's words; never the value itself, which may be huge."""
    match raw:
        case None:
            return "null"
        case bool():
            return "true" if raw else "false"
        case str():
            return "a string"
        case int() | float():
            return "a number"
        case list():
            return "a list"
        case dict():
            return "an object"
        case _:
            return f"a {type(raw).__name__}"


def _quoted(raw: object) -> str:
    """A name from the document, escaped and cut short."""
    if not isinstance(raw, str):
        return f"({_kind(raw)})"
    return ascii(raw if len(raw) <= 60 else raw[:57] + "...")


def _listed(keys: Iterable[object]) -> str:
    quoted = [_quoted(key) for key in keys]
    return ", ".join(quoted[:5]) + (" and others" if len(quoted) > 5 else "")


def _meant(raw: object, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(raw[:60].lower(), list(known), n=1) if isinstance(raw, str) else []
    return f" (did you mean {close[0]!r}?)" if close else ""
