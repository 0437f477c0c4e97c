"""The JSON Schema of conditions, for editors and for the system that writes campaigns.

Invariant: the shipped `condition.schema.json` is exactly what `build_schema` makes of the tables in `fields`,
so it cannot drift from the parser. Depth, number of parts, number of values over the whole condition and the
order of ``between``'s ends are beyond what a schema can say; the parser alone checks them.
"""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

from email_platform.audience.conditions.fields import (
    ATTRIBUTE_FIELD_PATTERN,
    ATTRIBUTE_TYPES,
    LEAD_FIELDS,
    MAX_DEPTH,
    MAX_LIST_VALUES,
    MAX_NODES,
    MAX_STRING_CHARACTERS,
    MAX_VALUES,
    NUMBER_RANGE,
    OPERATORS_OF,
    SEGMENT_NAME_PATTERN,
    STRING_PATTERN,
    TIMESTAMP_PATTERN,
    AttributeType,
    LeadField,
    Operator,
    ValueType,
)

SCHEMA_FILE_NAME = "condition.schema.json"


def shipped_schema() -> dict[str, Any]:
    """The schema as it is in the package."""
    text = files("email_platform.audience.conditions").joinpath(SCHEMA_FILE_NAME).read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def build_schema() -> dict[str, Any]:
    """The schema made from the allow-list; a JSON document of draft 2020-12."""
    comparisons: list[dict[str, Any]] = []
    for field in LEAD_FIELDS.values():
        comparisons.extend(_comparisons({"const": field.name}, field.value_type, _value_of_field(field), None))
    attribute = {"type": "string", "pattern": ATTRIBUTE_FIELD_PATTERN}
    for attribute_type in ATTRIBUTE_TYPES:
        comparisons.extend(_comparisons(attribute, attribute_type, _VALUES[attribute_type], attribute_type))
    comparisons.append(_comparison(attribute, ("is_null",), {"type": "boolean"}, None))
    parts = {"type": "array", "minItems": 1, "maxItems": MAX_NODES, "items": {"$ref": "#/$defs/condition"}}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Audience condition",
        "description": (
            f"Which leads a campaign addresses. Checked beyond this schema: at most {MAX_DEPTH} levels, "
            f"{MAX_NODES} groups and comparisons and {MAX_VALUES} values in all; between's low is not above its high."
        ),
        "anyOf": [
            {"description": "everybody", "const": {"all": []}},
            {"$ref": "#/$defs/condition"},
        ],
        "$defs": {
            "condition": {
                "anyOf": [
                    _object({"all": parts}),
                    _object({"any": parts}),
                    _object({"not": {"$ref": "#/$defs/condition"}}),
                    _object({"segment": {"type": "string", "pattern": SEGMENT_NAME_PATTERN}}),
                    {"$ref": "#/$defs/comparison"},
                ]
            },
            "comparison": {"anyOf": comparisons},
        },
    }


def schema_text() -> str:
    """What `condition.schema.json` must hold; write it after a change of `fields`."""
    return json.dumps(build_schema(), indent=2) + "\n"


_VALUES: dict[ValueType, dict[str, Any]] = {
    "string": {"type": "string", "maxLength": MAX_STRING_CHARACTERS, "pattern": STRING_PATTERN},
    "number": {"type": "number", "minimum": NUMBER_RANGE[0], "maximum": NUMBER_RANGE[1]},
    "boolean": {"type": "boolean"},
    "timestamp": {"type": "string", "pattern": TIMESTAMP_PATTERN},
    "list": {"type": "string", "maxLength": MAX_STRING_CHARACTERS, "pattern": STRING_PATTERN},
}


def _value_of_field(field: LeadField) -> dict[str, Any]:
    if field.value_type != "integer":
        return _VALUES[field.value_type]
    least, greatest = field.integer_range
    return {"type": "integer", "minimum": least, "maximum": greatest}


def _comparisons(
    field: dict[str, Any], value_type: ValueType, value: dict[str, Any], attribute_type: AttributeType | None
) -> list[dict[str, Any]]:
    """One schema per shape of the value; operators of the same shape share it."""
    operators = OPERATORS_OF[value_type]

    def those(*wanted: Operator) -> tuple[Operator, ...]:
        return tuple(operator for operator in wanted if operator in operators)

    shapes: list[tuple[tuple[Operator, ...], dict[str, Any]]] = [
        (those("eq", "ne", "lt", "lte", "gt", "gte"), value),
        (those("in", "not_in"), {"type": "array", "items": value, "minItems": 1, "maxItems": MAX_LIST_VALUES}),
        (those("between"), {"type": "array", "items": value, "minItems": 2, "maxItems": 2}),
        (those("contains", "starts_with"), value if value_type == "list" else {**value, "minLength": 1}),
    ]
    if attribute_type is None:
        shapes.append((("is_null",), {"type": "boolean"}))
    return [_comparison(field, allowed, shape, attribute_type) for allowed, shape in shapes if allowed]


def _comparison(
    field: dict[str, Any],
    operators: tuple[Operator, ...],
    value: dict[str, Any],
    attribute_type: AttributeType | None,
) -> dict[str, Any]:
    properties = {"field": field, "op": {"enum": list(operators)}, "value": value}
    if attribute_type is None:
        return _object(properties)
    schema = _object({**properties, "type": {"const": attribute_type}})
    if attribute_type not in ("timestamp", "list"):
        schema["required"] = ["field", "op", "value"]  # the value shows the type; these two must be named
    return schema


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
