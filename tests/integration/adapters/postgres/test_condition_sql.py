"""Conditions on real PostgreSQL choose exactly the leads that a small evaluator in Python chooses."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, MetaData, insert, literal, select, text
from sqlalchemy.dialects import postgresql

from email_platform.adapters.postgres.condition_sql import where_clause
from email_platform.adapters.postgres.tables import lead as lead_table
from email_platform.audience.conditions import AllOf, AnyOf, Comparison, Condition, Not, parse_condition
from email_platform.audience.conditions.fields import (
    ATTRIBUTE_TYPES,
    LEAD_FIELDS,
    OPERATORS_OF,
    TIMESTAMP_PATTERN,
    TIMESTAMP_TEXT,
    ValueType,
)

pytestmark = pytest.mark.integration

# Leads and conditions draw from the same few values, so that comparisons are met now and then.
TEXTS = ["", "a", "A", "ab", "a%b", "a_b", "a\\b", "a/b", "ä", "%", "1", "true", "null", "'; drop table lead; --", "$1"]
INTEGERS = [-32768, -1, 0, 1, 2, 30, 32767]
NUMBERS: list[Any] = [-1, 0, 1, 0.1, 0.30000000000000004, 2.5, 1e15, -0.0, 5e-324]
INSTANTS = [
    datetime(2026, 3, 1, 9, tzinfo=UTC),
    datetime(2026, 3, 1, 9, 0, 0, 1, tzinfo=UTC),
    datetime(2024, 2, 29, 23, 59, 59, tzinfo=timezone(timedelta(hours=2))),
    datetime(1999, 12, 31, tzinfo=UTC),
]
TIMES = [*(instant.isoformat() for instant in INSTANTS), "2026-03-01T10:00:00+01:00", "2026-03-01T09:00:00Z"]
NOT_QUITE_TIMES = [
    "2026-02-30T00:00:00Z",
    "2026-03-01",
    "2026-03-01T09:00:00",
    "infinity",
    "now",
    "9999-99-99T99:99:99Z",
]
KEYS = ["k", "K", "k-1"]
ABSENT = object()

attribute_values = (
    st.sampled_from([None, True, False, [], ["a"], {}, {"k": 1}, 10**25, *NOT_QUITE_TIMES])
    | st.sampled_from(TEXTS)
    | st.sampled_from(NUMBERS)
    | st.sampled_from(TIMES)
    | st.lists(st.sampled_from([*TEXTS, 1, True, None, ["a"], {"a": 1}]), max_size=3)
)
LEAD_VALUES: dict[ValueType, list[Any]] = {"string": TEXTS, "integer": INTEGERS, "timestamp": INSTANTS}
leads = st.lists(
    st.fixed_dictionaries(
        {
            **{
                name: st.none() | st.sampled_from(LEAD_VALUES[field.value_type])
                for name, field in LEAD_FIELDS.items()
                if name not in ("id", "created_at")
            },
            "created_at": st.sampled_from(INSTANTS),
            "attributes": st.dictionaries(st.sampled_from(KEYS), attribute_values, max_size=3),
        }
    ),
    min_size=1,
    max_size=8,
)
VALUES: dict[ValueType, list[Any]] = {
    "string": TEXTS,
    "integer": INTEGERS,
    "number": NUMBERS,
    "boolean": [True, False],
    "timestamp": TIMES,
    "list": TEXTS,
}


@st.composite
def comparisons(draw: st.DrawFn) -> dict[str, Any]:
    raw: dict[str, Any] = {}
    value_type: ValueType
    if draw(st.booleans()):
        raw["field"] = draw(st.sampled_from(list(LEAD_FIELDS)))
        value_type = LEAD_FIELDS[raw["field"]].value_type
    else:
        raw["field"] = f"attributes.{draw(st.sampled_from(KEYS))}"
        value_type = draw(st.sampled_from(ATTRIBUTE_TYPES))
    raw["op"] = draw(st.sampled_from(OPERATORS_OF[value_type]))
    if raw["op"] == "is_null":
        return {**raw, "value": draw(st.booleans())}
    if raw["field"].startswith("attributes."):
        raw["type"] = value_type
    one = st.sampled_from(VALUES[value_type])
    if raw["op"] in ("in", "not_in"):
        return {**raw, "value": draw(st.lists(one, min_size=1, max_size=4))}
    if raw["op"] == "between":
        ends = [draw(one), draw(one)]
        return {**raw, "value": sorted(ends, key=instant_of if value_type == "timestamp" else None)}
    if raw["op"] in ("contains", "starts_with"):
        return {**raw, "value": draw(one if value_type == "list" else one.filter(bool))}
    return {**raw, "value": draw(one)}


def instant_of(value: str) -> datetime:
    return datetime.fromisoformat(value)


conditions = st.recursive(
    comparisons(),
    lambda inner: (
        st.builds(lambda parts: {"all": parts}, st.lists(inner, min_size=1, max_size=3))
        | st.builds(lambda parts: {"any": parts}, st.lists(inner, min_size=1, max_size=3))
        | st.builds(lambda part: {"not": part}, inner)
    ),
    max_leaves=6,
).map(lambda raw: {"any": [raw]})


def meets(condition: Condition, lead: dict[str, Any]) -> bool:
    """The meaning of a condition, in Python."""
    match condition:
        case AllOf(parts):
            return all(meets(part, lead) for part in parts)
        case AnyOf(parts):
            return any(meets(part, lead) for part in parts)
        case Not(part):
            return not meets(part, lead)
        case Comparison():
            return compares(condition, lead)


def compares(comparison: Comparison, lead: dict[str, Any]) -> bool:
    found = stored(comparison, lead)
    value: Any = comparison.value
    negative = {"ne": "eq", "not_in": "in"}.get(comparison.op)
    if negative:
        return not compares(
            Comparison(comparison.field, comparison.is_attribute, comparison.value_type, negative, value),  # type: ignore[arg-type]
            lead,
        )
    if comparison.op == "is_null":
        return (found is ABSENT) is value
    if found is ABSENT:
        return False
    checks: dict[str, Any] = {
        "eq": lambda: found == value,
        "in": lambda: found in value,
        "lt": lambda: found < value,
        "lte": lambda: found <= value,
        "gt": lambda: found > value,
        "gte": lambda: found >= value,
        "between": lambda: value[0] <= found <= value[1],
        "contains": lambda: value in found,
        "starts_with": lambda: found.startswith(value),
    }
    return bool(checks[comparison.op]())


def stored(comparison: Comparison, lead: dict[str, Any]) -> Any:
    """The lead's value of the comparison's type, or ABSENT."""
    if not comparison.is_attribute:
        value = lead[comparison.field]
        return ABSENT if value is None else value
    value = lead["attributes"].get(comparison.field)
    match comparison.value_type:
        case None:
            return ABSENT if value is None else value
        case "boolean" if isinstance(value, bool):
            return value
        case "string" if isinstance(value, str):
            return value
        case "list" if isinstance(value, list):
            return value
        case "number" if isinstance(value, int | float) and not isinstance(value, bool):
            return Decimal(repr(value))
        case "timestamp" if isinstance(value, str) and TIMESTAMP_TEXT.search(value):
            return datetime.fromisoformat(value)
        case _:
            return ABSENT


TEMPORARY = lead_table.to_metadata(MetaData(), name="lead_of_the_test")
TEMPORARY._prefixes = ["temporary"]


@pytest.fixture(scope="module")
def connection(oltp_engine: Engine) -> Iterator[Connection]:
    with oltp_engine.connect() as connection:
        TEMPORARY.create(connection)
        yield connection
        connection.rollback()


def chosen(connection: Connection, condition: Condition, rows: list[dict[str, Any]]) -> list[int]:
    with connection.begin_nested() as nested:
        connection.execute(insert(TEMPORARY), rows)
        statement = select(TEMPORARY.c.id).where(where_clause(condition, TEMPORARY.c)).order_by(TEMPORARY.c.id)
        ids = list(connection.execute(statement).scalars())
        nested.rollback()
    return ids


@given(raw=conditions, rows=leads)
@example(raw={"all": []}, rows=[{"created_at": INSTANTS[0], "attributes": {}}])
@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_postgres_and_python_choose_the_same_leads(
    connection: Connection, raw: dict[str, Any], rows: list[dict[str, Any]]
) -> None:
    condition = parse_condition(raw)
    rows = [{**row, "id": number} for number, row in enumerate(rows)]
    assert chosen(connection, condition, rows) == [row["id"] for row in rows if meets(condition, row)]


ATTRIBUTES_OF_EVERY_KIND: list[Any] = [
    *(None, True, False, 0, 1.5, 10**400, "", "1", "true", [], [1], {}, {"k": 1}, "2026-02-30T00:00:00Z", "infinity"),
    "2026-03-01T09:00:00Z",
    "x" * 5000,
]


@pytest.mark.parametrize("attribute_type", ATTRIBUTE_TYPES)
def test_no_stored_attribute_makes_a_typed_comparison_raise(connection: Connection, attribute_type: ValueType) -> None:
    rows = [
        {"id": number, "created_at": INSTANTS[0], "attributes": {"k": value}}
        for number, value in enumerate(ATTRIBUTES_OF_EVERY_KIND)
    ]
    rows += [
        {"id": 1000 + number, "created_at": INSTANTS[0], "attributes": value}
        for number, value in enumerate([[], ["k"], "k", 1])
    ]
    for op in OPERATORS_OF[attribute_type]:
        value = VALUES[attribute_type][1]
        shaped: Any = {"in": [value], "not_in": [value], "between": [value, value], "is_null": True}.get(op, value)
        raw = {"field": "attributes.k", "op": op, "value": shaped}
        if op != "is_null":
            raw["type"] = attribute_type
        ids = chosen(connection, parse_condition(raw), rows)
        others = chosen(connection, parse_condition({"not": raw}), rows)
        assert sorted(ids + others) == [row["id"] for row in rows], "a lead falls between a condition and its not"


@pytest.mark.parametrize(
    ("raw", "ids"),
    [
        ({"field": "country", "op": "eq", "value": "DE"}, [1]),
        ({"field": "country", "op": "ne", "value": "DE"}, [2, 3]),
        ({"field": "country", "op": "not_in", "value": ["DE", "FR"]}, [3]),
        ({"not": {"field": "age", "op": "lt", "value": 30}}, [2, 3]),
        ({"field": "age", "op": "gte", "value": 30}, [2]),
        ({"not": {"not": {"field": "age", "op": "gte", "value": 30}}}, [2]),
        ({"field": "attributes.risk", "op": "ne", "value": 0.5}, [2, 3]),
        ({"field": "attributes.risk", "op": "is_null", "value": True}, [3]),
        ({"not": {"field": "city", "op": "contains", "value": "er"}}, [2, 3]),
    ],
)
def test_a_missing_value_meets_only_the_negative_comparisons(
    connection: Connection, raw: dict[str, Any], ids: list[int]
) -> None:
    rows: list[dict[str, Any]] = [
        {"id": 1, "country": "DE", "age": 20, "city": "Berlin", "attributes": {"risk": 0.5}},
        {"id": 2, "country": "FR", "age": 40, "city": "Paris", "attributes": {"risk": "high"}},
        {"id": 3, "country": None, "age": None, "city": None, "attributes": {"risk": None}},
    ]
    assert chosen(connection, parse_condition(raw), rows) == ids


INJECTIONS = [
    "'; drop table lead; --",
    "%(param_1)s",
    ":param_1",
    "$1",
    "\\",
    "%s",
    "a' or '1'='1",
    "{}",
    "%",
    "\n\r\t",
]


@pytest.mark.parametrize("value", INJECTIONS)
@pytest.mark.parametrize("op", ["eq", "in", "contains", "starts_with"])
@pytest.mark.parametrize("field", ["city", "attributes.k"])
def test_values_are_bound_and_never_part_of_the_statement(
    connection: Connection, field: str, op: str, value: str
) -> None:
    raw = {"field": field, "op": op, "value": [value] if op == "in" else value}
    condition = parse_condition(raw)
    harmless = parse_condition({**raw, "value": ["zzz"] if op == "in" else "zzz"})
    dialect = postgresql.psycopg.dialect()
    statements = {str(where_clause(each, TEMPORARY.c).compile(dialect=dialect)) for each in (condition, harmless)}
    assert len(statements) == 1, "the statement's text depends on the value"
    rows = [
        {"id": 1, "city": value, "attributes": {"k": value}},
        {"id": 2, "city": "zzz", "attributes": {"k": "zzz"}},
    ]
    assert chosen(connection, condition, rows) == [1]


def test_an_attributes_key_is_bound_too(connection: Connection) -> None:
    sql = str(where_clause(parse_condition({"field": "attributes.secret_key", "op": "eq", "value": 1}), TEMPORARY.c))
    assert "secret_key" not in sql


def test_the_largest_condition_runs(connection: Connection) -> None:
    thousand = {"field": "city", "op": "in", "value": [f"{'x' * 100}{number}" for number in range(1000)]}
    small = {"field": "attributes.k", "op": "not_in", "value": ["a"]}
    raw = {"all": [{"not": thousand}] * 9 + [small] * 180}
    rows = [{"id": 1, "city": "x", "attributes": {"k": 5}}]
    assert chosen(connection, parse_condition(raw), rows) == [1]


almost_times = st.from_regex(re.compile(TIMESTAMP_PATTERN.replace("(?!\\n)", "")), fullmatch=True) | st.builds(
    lambda base, at, what: base[:at] + what + base[at + 1 :],
    st.sampled_from(TIMES),
    st.integers(0, 25),
    st.sampled_from([*"0123456789-+:TZ. ", "", "\n", "٣"]),
)


@given(st.lists(almost_times, min_size=1, max_size=50))
@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_postgres_and_python_tell_timestamps_alike_and_both_can_read_them(
    connection: Connection, texts: list[str]
) -> None:
    statement = text("select value, value ~ :pattern from unnest(cast(:texts as text[])) as value")
    answers: Sequence[Any] = connection.execute(statement, {"pattern": TIMESTAMP_PATTERN, "texts": texts}).all()
    for value, is_timestamp in answers:
        assert is_timestamp is bool(TIMESTAMP_TEXT.search(value)), value
        if is_timestamp:
            read = connection.execute(select(literal(value).op("::")(text("timestamptz")))).scalar_one()
            assert read == datetime.fromisoformat(value)
