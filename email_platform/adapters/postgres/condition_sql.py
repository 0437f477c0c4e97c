"""A condition's tree as one SQLAlchemy Core expression over the columns of ``lead``.

Invariant: every value is a bound parameter and no stored value can make the expression raise: an attribute is
cast only behind a check of its JSON type. A comparison with a missing value counts as not met, and ``not``,
``ne`` and ``not_in`` are exact complements, so no lead falls between a condition and its negation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from sqlalchemy import (
    ARRAY,
    Boolean,
    ColumnElement,
    DateTime,
    Numeric,
    Text,
    and_,
    any_,
    case,
    cast,
    false,
    func,
    literal,
    or_,
    true,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.sql.base import ReadOnlyColumnCollection
from sqlalchemy.types import TypeEngine

from email_platform.audience.conditions.fields import TIMESTAMP_PATTERN, ValueType
from email_platform.audience.conditions.grammar import AllOf, AnyOf, Comparison, Condition, Not

LeadColumns: TypeAlias = ReadOnlyColumnCollection[str, Any] | Mapping[str, Any]

_ATTRIBUTE_TYPES: dict[ValueType, TypeEngine[Any]] = {
    "string": Text(),
    "number": Numeric(),
    "boolean": Boolean(),
    "timestamp": DateTime(timezone=True),
}


def where_clause(condition: Condition, columns: LeadColumns) -> ColumnElement[bool]:
    """An expression that is true for exactly the leads that meet the condition (null counts as false).

    Args:
        condition: from `parse_condition`.
        columns: the columns of ``lead``, or of an alias of it.
    """
    match condition:
        case AllOf(parts):
            # Null under `and`, `or` and `where` acts as false; it is made false only where `not` would keep it.
            return and_(true(), *(where_clause(part, columns) for part in parts))
        case AnyOf(parts):
            return or_(false(), *(where_clause(part, columns) for part in parts))
        case Not(part):
            return where_clause(part, columns).is_not(true())
        case Comparison():
            return _comparison(condition, columns)


def _comparison(comparison: Comparison, columns: LeadColumns) -> ColumnElement[bool]:
    operand = compared_value(comparison, columns)
    value: Any = comparison.value
    match comparison.op:
        case "is_null":
            return operand.is_(None) if value else operand.is_not(None)
        case "eq":
            return operand == _bound(value, operand)
        case "ne":
            return operand.is_distinct_from(_bound(value, operand))
        case "in":
            return operand == any_(_bound_list(value, operand))
        case "not_in":
            return (operand == any_(_bound_list(value, operand))).is_not(true())
        case "lt":
            return operand < _bound(value, operand)
        case "lte":
            return operand <= _bound(value, operand)
        case "gt":
            return operand > _bound(value, operand)
        case "gte":
            return operand >= _bound(value, operand)
        case "between":
            return operand.between(_bound(value[0], operand), _bound(value[1], operand))
        case "contains" if comparison.value_type == "list":
            element = attribute_json(comparison, columns)  # beside the type, not behind it, so that a GIN index serves
            return and_(func.jsonb_typeof(element) == "array", element.op("?", return_type=Boolean())(value))
        case "contains":
            return operand.contains(value, autoescape=True)  # escapes %, _ and the escape character
        case "starts_with":
            return operand.startswith(value, autoescape=True)


def compared_value(comparison: Comparison, columns: LeadColumns) -> ColumnElement[Any]:
    """The column, or the attribute as its type: null where it is missing or of another JSON type."""
    if not comparison.is_attribute:
        column: ColumnElement[Any] = columns[comparison.field]
        return column
    key = literal(comparison.field, Text)
    text: ColumnElement[Any] = columns["attributes"].op("->>", return_type=Text())(key)
    if comparison.value_type is None:
        return text
    json_type = func.jsonb_typeof(attribute_json(comparison, columns))
    match comparison.value_type:
        case "string":
            return case((json_type == "string", text))
        case "list":
            return case((json_type == "array", text))
        case "timestamp":
            # `case` evaluates in order, so the cast only ever sees a text that the pattern vouches for.
            is_timestamp = and_(json_type == "string", text.regexp_match(TIMESTAMP_PATTERN))
            return case((is_timestamp, cast(text, DateTime(timezone=True))))
        case other:
            return case((json_type == other, cast(text, _ATTRIBUTE_TYPES[other])))


def attribute_json(comparison: Comparison, columns: LeadColumns) -> ColumnElement[Any]:
    """The attribute as JSON; null where the key is missing."""
    attributes: ColumnElement[Any] = columns["attributes"]
    return attributes.op("->", return_type=JSONB())(literal(comparison.field, Text))


def other_type(comparison: Comparison, columns: LeadColumns) -> ColumnElement[Any]:
    """The JSON type of an attribute that has a value, but none of the comparison's type; null for all others."""
    found = func.jsonb_typeof(attribute_json(comparison, columns), type_=Text())
    return case((and_(found != "null", compared_value(comparison, columns).is_(None)), found))


def _bound(value: object, operand: ColumnElement[Any]) -> ColumnElement[Any]:
    return literal(value, operand.type)


def _bound_list(values: tuple[object, ...], operand: ColumnElement[Any]) -> ColumnElement[Any]:
    """One array parameter, so that the statement's text and its parameter count don't depend on the list."""
    return literal(list(values), ARRAY(operand.type))
