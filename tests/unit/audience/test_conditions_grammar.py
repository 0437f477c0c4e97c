"""What the condition's grammar accepts and refuses, what it says then, and that the shipped JSON Schema agrees."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from email_platform.audience.conditions.fields import (
    LEAD_FIELDS,
    MAX_DEPTH,
    MAX_LIST_VALUES,
    MAX_NODES,
    MAX_STRING_CHARACTERS,
    MAX_VALUES,
    OPERATORS,
)
from email_platform.audience.conditions.grammar import AllOf, AnyOf, Comparison, Not, parse_condition
from email_platform.audience.conditions.schema import build_schema, shipped_schema
from email_platform.errors import InvalidConditionError

SCHEMA = Draft202012Validator(shipped_schema())
HUGE = 10**5000  # Python raises on making its decimal text
LARGE = 10**4000
EVERYBODY = {"all": []}


def compare(field: Any, op: Any, value: Any, **more: Any) -> dict[str, Any]:
    return {"field": field, "op": op, "value": value, **more}


GERMAN = compare("country", "eq", "DE")


def nested(levels: int) -> dict[str, Any]:
    condition: dict[str, Any] = GERMAN
    for _ in range(levels - 1):
        condition = {"not": condition}
    return condition


ACCEPTED: list[Any] = [
    EVERYBODY,
    GERMAN,
    {"all": [GERMAN]},
    {"any": [GERMAN, {"not": {"all": [GERMAN, compare("age", "gte", 18)]}}]},
    nested(MAX_DEPTH),
    {"any": [GERMAN] * (MAX_NODES - 1)},
    compare("id", "in", list(range(MAX_LIST_VALUES))),
    compare("id", "eq", (1 << 63) - 1),
    compare("age", "between", [18, 18]),
    compare("age", "eq", 30.0),
    compare("age", "is_null", False),
    compare("city", "contains", "100%_\\/"),
    compare("city", "eq", ""),
    compare("city", "starts_with", "x" * MAX_STRING_CHARACTERS),
    compare("city", "not_in", ["'; drop table lead; --", "😀"]),
    compare("created_at", "gt", "2026-03-01T09:00:00Z"),
    compare("created_at", "between", ["2024-02-29T23:59:59.999999+14:00", "2026-03-01T09:00:00-05:30"]),
    compare("unsubscribed_at", "is_null", True),
    compare("attributes.churn_risk", "gt", 0.8),
    compare("attributes.churn_risk", "in", [1, 2.5, -1e15]),
    compare("attributes.visits", "eq", 3, type="number"),
    compare("attributes.vip", "ne", True),
    compare("attributes.x-y_Z9", "eq", "2026-03-01T09:00:00Z"),
    compare("attributes.seen", "lt", "2026-03-01T09:00:00Z", type="timestamp"),
    compare("attributes.seen", "is_null", True),
    compare("attributes._", "contains", "a", type="string"),
    compare("attributes.tags", "contains", "vip", type="list"),
    compare("attributes.tags", "contains", "", type="list"),
]

# What is refused, and where and how the message says it.
REFUSED: list[tuple[Any, str, str]] = [
    (None, "$", "null"),
    ([], "$", "a list"),
    ("all", "$", "a string"),
    (True, "$", "true"),
    (7, "$", "a number"),
    ({}, "$", '{"all": []}'),
    ({"any": []}, "$.any", "at least one"),
    ({"all": [EVERYBODY]}, "$.all[0].all", "at least one"),
    ({"not": EVERYBODY}, "$.not.all", "at least one"),
    ({"all": {}}, "$.all", "must be a list"),
    ({"all": [GERMAN, 3]}, "$.all[1]", "must be an object"),
    ({"not": [GERMAN]}, "$.not", "must be an object, not a list"),
    ({"all": [GERMAN], "any": [GERMAN]}, "$", "only key"),
    ({"al": [GERMAN]}, "$", "did you mean 'all'?"),
    ({"AND": [GERMAN]}, "$", "unknown key 'AND'"),
    ({"field": "country", "op": "eq", "values": "DE"}, "$", "did you mean 'value'?"),
    ({"field": "country", "op": "eq"}, "$", "lacks the key 'value'"),
    ({"op": "eq", "value": 1}, "$", "lacks the key 'field'"),
    (compare("contry", "eq", "DE"), "$.field", "did you mean 'country'?"),
    (compare("Country", "eq", "DE"), "$.field", "did you mean 'country'?"),
    (compare("attributes", "eq", "DE"), "$.field", "attributes.<key>"),
    (compare("attributes.", "eq", "DE"), "$.field", "attributes.<key>"),
    (compare("attributes.a.b", "eq", "DE"), "$.field", "attributes.<key>"),
    (compare("attributes.a\n", "eq", "DE"), "$.field", "attributes.<key>"),
    (compare("attributes.é", "eq", "DE"), "$.field", "attributes.<key>"),
    (compare("attributes." + "k" * 65, "eq", "DE"), "$.field", "attributes.<key>"),
    (compare("id; drop table lead", "eq", 1), "$.field", "unknown field"),
    (compare("unsubscribe_token", "eq", 1), "$.field", "allowed: id, email"),
    (compare(None, "eq", 1), "$.field", "must be a field's name, not null"),
    (compare(["country"], "eq", 1), "$.field", "not a list"),
    (compare("\ud800\0" * 99, "eq", 1), "$.field", "unknown field"),
    (compare("country", "equals", "DE"), "$.op", "allowed: eq, ne"),
    (compare("country", "EQ", "DE"), "$.op", "did you mean 'eq'?"),
    (compare("country", {}, "DE"), "$.op", "not an object"),
    (compare("country", "lt", "DE"), "$.op", "the string 'country'; allowed: eq"),
    (compare("age", "contains", "3"), "$.op", "the integer 'age'"),
    (compare("attributes.vip", "gt", True), "$.op", "the boolean 'vip'; allowed: eq, ne, is_null"),
    (compare("attributes.vip", "in", [True]), "$.op", "the boolean"),
    (compare("attributes.tags", "eq", "vip", type="list"), "$.op", "the list 'tags'; allowed: contains"),
    (compare("attributes.tags", "contains", 7, type="list"), "$.value", "must be a string, not a number"),
    (compare("attributes.tags", "contains", ["vip"], type="list"), "$.value", "must be a string, not a list"),
    (compare("country", "eq", None), "$.value", "'is_null'"),
    (compare("country", "eq", 5), "$.value", "must be a string, not a number"),
    (compare("country", "eq", ["DE"]), "$.value", "must be a string, not a list"),
    (compare("country", "in", "DE"), "$.value", "must be a list"),
    (compare("country", "in", []), "$.value", "1 to 1,000"),
    (compare("country", "in", ["DE", None]), "$.value[1]", "'is_null'"),
    (compare("country", "in", ["DE"] * (MAX_LIST_VALUES + 1)), "$.value", "1 to 1,000"),
    (compare("country", "is_null", "yes"), "$.value", "true (has no value) or false"),
    (compare("country", "is_null", None), "$.value", "true (has no value) or false"),
    (compare("city", "eq", "a\0b"), "$.value", "NUL"),
    (compare("city", "eq", "\udc00"), "$.value", "surrogate"),
    (compare("city", "eq", "x" * (MAX_STRING_CHARACTERS + 1)), "$.value", "1,000 characters"),
    (compare("city", "contains", ""), "$.value", "must not be empty"),
    (compare("city", "eq", "x", type="string"), "$.type", "attributes only"),
    (compare("age", "eq", True), "$.value", "a whole number, not true"),
    (compare("age", "eq", "30"), "$.value", "a whole number, not a string"),
    (compare("age", "eq", 30.5), "$.value", "without a fraction"),
    (compare("age", "eq", 40_000), "$.value", "-32768 and 32767"),
    (compare("id", "eq", 1 << 63), "$.value", "9223372036854775807"),
    (compare("age", "between", [1]), "$.value", "[low, high]"),
    (compare("age", "between", [1, 2, 3]), "$.value", "[low, high]"),
    (compare("created_at", "gt", "2026-03-01"), "$.value", "with offset"),
    (compare("created_at", "gt", "2026-03-01T09:00:00"), "$.value", "with offset"),
    (compare("created_at", "gt", "2026-02-29T09:00:00Z"), "$.value", "ISO 8601"),
    (compare("created_at", "gt", "1900-02-29T09:00:00Z"), "$.value", "ISO 8601"),
    (compare("created_at", "gt", "2026-03-01T24:00:00Z"), "$.value", "ISO 8601"),
    (compare("created_at", "gt", "2026-03-01T09:00:00Z\n"), "$.value", "ISO 8601"),
    (compare("created_at", "gt", "٢٠٢٦-03-01T09:00:00Z"), "$.value", "ISO 8601"),
    (compare("created_at", "gt", "now()"), "$.value", "ISO 8601"),
    (compare("created_at", "gt", 1767225600), "$.value", "not a number"),
    (compare("attributes.x", "eq", None), "$.value", "must be a string, a number"),
    (compare("attributes.x", "eq", {}), "$.value", "not an object"),
    (compare("attributes.x", "in", []), "$.value", "a list"),
    (compare("attributes.x", "in", [1, "a"]), "$.value[1]", "must be a number, not a string"),
    (compare("attributes.x", "in", [1, True]), "$.value[1]", "must be a number, not true"),
    (compare("attributes.x", "eq", 1e300), "$.value", "must be between"),
    (compare("attributes.x", "eq", "1", type="number"), "$.value", "must be a number, not a string"),
    (compare("attributes.x", "eq", "1", type="integer"), "$.type", "string, number, boolean, timestamp"),
    (compare("attributes.x", "eq", "1", type=["string"]), "$.type", "string, number, boolean, timestamp"),
    (compare("attributes.x", "eq", "1", type=None), "$.type", "string, number, boolean, timestamp"),
    (compare("attributes.x", "is_null", True, type="string"), "$.type", "leave it out"),
    ({"not": {"all": [compare("age", "eq", "x")]}}, "$.not.all[0].value", "a whole number"),
]

# Refused by the parser alone: a JSON Schema cannot say it, or a JSON document cannot hold it.
REFUSED_BEYOND_THE_SCHEMA: list[tuple[Any, str, str]] = [
    (nested(MAX_DEPTH + 1), "$" + ".not" * MAX_DEPTH, "at most 8 levels"),
    (nested(900), "$" + ".not" * MAX_DEPTH, "at most 8 levels"),
    ({"all": [{"any": [GERMAN] * 150}, {"any": [GERMAN] * 60}]}, "$.all[1].any[47]", "at most 200"),
    (
        {"all": [compare("id", "in", list(range(1000)))] * (MAX_VALUES // 1000) + [GERMAN]},
        f"$.all[{MAX_VALUES // 1000}].value",
        "10,000 values",
    ),
    (compare("age", "between", [2, 1]), "$.value", "low not above high"),
    (compare("attributes.x", "eq", float("nan")), "$.value", "NaN"),
    (compare("attributes.x", "eq", float("inf")), "$.value", "infinite"),
    (compare("attributes.x", "eq", HUGE), "$.value", "must be between"),
    (compare("age", "eq", HUGE), "$.value", "-32768 and 32767"),
    ({1: 2}, "$", "unknown key"),
    ({"all": (GERMAN,)}, "$.all", "not a tuple"),
    (compare("city", "eq", b"x"), "$.value", "not a bytes"),
]


@pytest.mark.parametrize("raw", ACCEPTED, ids=range(len(ACCEPTED)))
def test_what_the_grammar_knows_is_accepted_by_parser_and_schema(raw: Any) -> None:
    parse_condition(raw)
    assert SCHEMA.is_valid(raw)
    assert SCHEMA.is_valid(json.loads(json.dumps(raw)))


@pytest.mark.parametrize(("raw", "path", "problem"), REFUSED, ids=range(len(REFUSED)))
def test_everything_else_is_refused_by_parser_and_schema_with_the_place(raw: Any, path: str, problem: str) -> None:
    with pytest.raises(InvalidConditionError) as caught:
        parse_condition(raw)
    assert caught.value.path == path
    assert problem in caught.value.problem
    assert str(caught.value).isprintable(), "the reason is stored with the campaign"
    assert not SCHEMA.is_valid(raw)


@pytest.mark.parametrize(
    ("raw", "path", "problem"), REFUSED_BEYOND_THE_SCHEMA, ids=range(len(REFUSED_BEYOND_THE_SCHEMA))
)
def test_limits_that_no_schema_can_say_are_refused_by_the_parser(raw: Any, path: str, problem: str) -> None:
    with pytest.raises(InvalidConditionError) as caught:
        parse_condition(raw)
    assert (caught.value.path, problem in caught.value.problem) == (path, True), caught.value


def test_the_shipped_schema_is_the_one_that_the_allow_list_makes() -> None:
    assert shipped_schema() == build_schema()
    Draft202012Validator.check_schema(shipped_schema())


def test_a_tree_holds_typed_values() -> None:
    assert parse_condition(
        {
            "any": [
                compare("age", "eq", 30.0),
                {"not": compare("attributes.risk", "in", [0.1, 2])},
                compare("created_at", "gte", "2026-03-01T09:00:00+02:00"),
                {"all": [compare("attributes.seen", "is_null", True)]},
            ]
        }
    ) == AnyOf(
        (
            Comparison("age", False, "integer", "eq", 30),
            Not(Comparison("risk", True, "number", "in", (Decimal("0.1"), 2))),
            Comparison("created_at", False, "timestamp", "gte", datetime(2026, 3, 1, 7, tzinfo=UTC)),
            AllOf((Comparison("seen", True, None, "is_null", True),)),
        )
    )


def test_the_document_is_not_altered() -> None:
    raw = {"all": [compare("id", "in", [1, 2]), {"not": GERMAN}]}
    before = json.dumps(raw)
    parse_condition(raw)
    assert json.dumps(raw) == before


words = st.sampled_from(
    [*LEAD_FIELDS, *OPERATORS, "all", "any", "not", "field", "op", "value", "type", "attributes.x", "string", "number"]
)
leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | words
    | st.sampled_from(["2026-03-01T09:00:00Z", "\0", "\ud800", LARGE, -LARGE])
)
any_json = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(words | st.text(max_size=5), inner, max_size=4)
        | st.fixed_dictionaries({"field": inner | words, "op": inner | words, "value": inner})
        | st.fixed_dictionaries({"not": inner})
        | st.fixed_dictionaries({"all": st.lists(inner, max_size=4)})
    ),
    max_leaves=20,
)


@given(any_json)
@settings(max_examples=500, deadline=None)
def test_any_json_either_parses_or_is_refused_with_a_printable_reason(raw: Any) -> None:
    try:
        parse_condition(raw)
        reason = "$"
    except InvalidConditionError as error:
        reason = error.path + str(error)
    assert reason.startswith("$")
    assert reason.isprintable()


@given(
    field=words | st.text(max_size=20),
    op=words,
    value=leaves | st.lists(leaves, max_size=3),
    more=st.fixed_dictionaries({}, optional={"type": words}),
)
@settings(max_examples=500, deadline=None)
def test_schema_and_parser_agree_on_generated_comparisons(
    field: str, op: str, value: Any, more: dict[str, Any]
) -> None:
    raw = compare(field, op, value, **more)
    try:
        parse_condition(raw)
        accepted = True
    except InvalidConditionError as error:
        if any(word in error.problem for word in ("low not above", "infinite or NaN")):
            return  # beyond the schema
        accepted = False
    assert SCHEMA.is_valid(raw) is accepted
