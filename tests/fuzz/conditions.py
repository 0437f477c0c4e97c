"""The condition parser: a document becomes a condition that PostgreSQL's SQL can be written for, or a refusal."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st
from sqlalchemy.dialects import postgresql

from email_platform.adapters.postgres.condition_sql import where_clause
from email_platform.adapters.postgres.tables import lead
from email_platform.audience.conditions.fields import ATTRIBUTE_TYPES, LEAD_FIELDS, OPERATORS
from email_platform.audience.conditions.grammar import parse_condition
from email_platform.audience.conditions.segments import resolve_segments
from email_platform.domain.odd_rows import Unreadable
from email_platform.errors import InvalidConditionError
from tests.fuzz.mutation import JSON_VALUE, as_json, changed_bodies
from tests.fuzz.target import Target

SEEDS: list[Any] = [
    {"all": []},
    {"all": [{"segment": "others"}, {"not": {"segment": "german"}}]},
    {"segment": "itself"},
    {"any": [{"segment": "wide"}, {"segment": "wide"}]},
    {"field": "attributes.tags", "op": "contains", "type": "list", "value": "vip"},
    {"field": "country", "op": "eq", "value": "DE"},
    {"any": [{"field": "age", "op": "between", "value": [18, 30]}, {"not": {"field": "id", "op": "in", "value": [1]}}]},
    {
        "all": [
            {"field": "attributes.score", "op": "gte", "value": 1.5},
            {"field": "city", "op": "is_null", "value": True},
        ]
    },
    {"field": "attributes.seen", "op": "lt", "type": "timestamp", "value": "2026-06-01T00:00:00+02:00"},
    {
        "all": [
            {"field": "created_at", "op": "gt", "value": "2026-06-01T00:00:00Z"},
            {"field": "email", "op": "contains", "value": "%_"},
        ]
    },
]
SEGMENTS: dict[str, object] = {
    "german": {"field": "country", "op": "eq", "value": "DE"},
    "others": {"not": {"segment": "german"}},
    "itself": {"any": [{"segment": "german"}, {"segment": "itself"}]},
    "wide": {"all": [{"segment": "others"}] * 150},
}
FIELD = st.sampled_from([*LEAD_FIELDS, "attributes.a", "attributes.a-b", "attributes.", "attributes.a.b", "Country"])
VALUE = JSON_VALUE | st.lists(JSON_VALUE, max_size=3) | st.integers(-(2**70), 2**70) | st.sampled_from(["DE", True, 18])
COMPARISON = st.fixed_dictionaries(
    {"field": FIELD, "op": st.sampled_from([*OPERATORS, "=="]), "value": VALUE},
    optional={"type": st.sampled_from([*ATTRIBUTE_TYPES, None, "date"])},
)
SEGMENT = st.fixed_dictionaries({"segment": st.sampled_from([*SEGMENTS, "nobody", "a\n", 7, None])})
GENERATED = st.recursive(
    COMPARISON | SEGMENT,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map(lambda parts: {"all": parts}),
        st.lists(inner, max_size=4).map(lambda parts: {"any": parts}),
        inner.map(lambda part: {"not": part}),
    ),
    max_leaves=8,
)


def read(content: bytes) -> Any:
    """As `email_platform.adapters.postgres.lenient_reading` reads the column."""
    try:
        return json.loads(content)
    except RecursionError:
        return Unreadable("is nested too deeply to be read")
    except ValueError:
        return Unreadable("cannot be read")


def check(content: bytes) -> None:
    document = read(content)
    before = repr(document) if not isinstance(document, Unreadable) and len(content) < 5_000 else ""
    try:
        condition = parse_condition(resolve_segments(document, SEGMENTS))
    except InvalidConditionError as refusal:
        str(refusal).encode("utf-8", "surrogatepass")
        assert str(refusal).startswith("condition") or "$" in str(refusal), str(refusal)
        assert len(str(refusal)) < 2_000, "a refusal repeats no long value"
        return
    if before:
        assert repr(document) == before, "the document was altered"
    assert parse_condition(resolve_segments(read(content), SEGMENTS)) == condition
    text = str(where_clause(condition, lead.c).compile(dialect=postgresql.dialect()))
    assert "\0" not in text


def written(document: Any) -> bytes:
    try:
        return as_json(document)
    except (ValueError, RecursionError):
        return b'{"all": [' + b"9" * 5_000 + b"]}"


TARGETS = [Target("conditions", GENERATED.map(written) | changed_bodies(SEEDS), check, 300)]
