"""The allow-list: which fields of a lead a condition may name, of which type, and with which operators.

Invariant: a field that is not described here cannot reach SQL, and no value reaches SQL with a type other
than its field's. The grammar, the JSON Schema and the SQL are all driven by these tables.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

ValueType = Literal["string", "integer", "number", "boolean", "timestamp", "list"]

AttributeType = Literal["string", "number", "boolean", "timestamp", "list"]
ATTRIBUTE_TYPES: tuple[AttributeType, ...] = get_args(AttributeType)

Operator = Literal[
    "eq", "ne", "in", "not_in", "lt", "lte", "gt", "gte", "between", "contains", "starts_with", "is_null"
]
OPERATORS: tuple[Operator, ...] = get_args(Operator)

_ORDERED: tuple[Operator, ...] = ("eq", "ne", "in", "not_in", "lt", "lte", "gt", "gte", "between", "is_null")

# Strings have no order here: it would depend on the database's collation.
OPERATORS_OF: Mapping[ValueType, tuple[Operator, ...]] = {
    "string": ("eq", "ne", "in", "not_in", "contains", "starts_with", "is_null"),
    "integer": _ORDERED,
    "number": _ORDERED,
    "boolean": ("eq", "ne", "is_null"),
    "timestamp": _ORDERED,
    "list": ("contains",),  # of texts; the value is one of them
}

MAX_DEPTH = 8
MAX_NODES = 200
MAX_LIST_VALUES = 1_000
MAX_VALUES = 10_000  # over the whole condition
MAX_STRING_CHARACTERS = 1_000

# NUL and lone surrogates cannot be stored by PostgreSQL, so no lead has them.
STRING_PATTERN = r"^[^\u0000\ud800-\udfff]*$"

# ISO 8601 with an offset, in the years 1900 to 2199. The calendar is part of the pattern, so that a text that
# matches can be cast by PostgreSQL without ever raising; Python's and PostgreSQL's regular expressions agree on
# every construct in it. `(?!\n)` because Python's `$` also matches before a last line feed.
_YEAR = "(?:19|20|21)[0-9]{2}"
_LEAP_YEAR = "(?:(?:19|20|21)(?:0[48]|[2468][048]|[13579][26])|2000)"
_DATE = (
    f"(?:{_YEAR}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])"
    "|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    f"|02-(?:0[1-9]|1[0-9]|2[0-8]))|{_LEAP_YEAR}-02-29)"
)
_TIME = "(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:[.][0-9]{1,6})?"
_OFFSET = "(?:Z|[+-](?:0[0-9]|1[0-4]):[0-5][0-9])"
TIMESTAMP_PATTERN = rf"^{_DATE}T{_TIME}{_OFFSET}$(?!\n)"
TIMESTAMP_TEXT = re.compile(TIMESTAMP_PATTERN)

SEGMENT_NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9 _.-]{0,63}$(?!\n)"

ATTRIBUTE_PREFIX = "attributes."
ATTRIBUTE_FIELD_PATTERN = r"^attributes[.][A-Za-z_][A-Za-z0-9_-]{0,63}$(?!\n)"
ATTRIBUTE_FIELD = re.compile(ATTRIBUTE_FIELD_PATTERN)

SMALLINT = (-(1 << 15), (1 << 15) - 1)
BIGINT = (-(1 << 63), (1 << 63) - 1)
NUMBER_RANGE = BIGINT  # of an attribute's number, with or without a fraction


@dataclass(frozen=True, slots=True)
class LeadField:
    """One column of ``lead`` that a condition may name.

    Attributes:
        integer_range: least and greatest value of an integer column, both inclusive.
    """

    name: str
    value_type: ValueType
    integer_range: tuple[int, int] = BIGINT


LEAD_FIELDS: Mapping[str, LeadField] = {
    field.name: field
    for field in (
        LeadField("id", "integer", BIGINT),
        LeadField("email", "string"),
        LeadField("first_name", "string"),
        LeadField("last_name", "string"),
        LeadField("country", "string"),
        LeadField("city", "string"),
        LeadField("plan", "string"),
        LeadField("language", "string"),
        LeadField("age", "integer", SMALLINT),
        LeadField("created_at", "timestamp"),
        LeadField("unsubscribed_at", "timestamp"),
    )
}
