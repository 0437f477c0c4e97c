"""Segments in a condition are replaced by their own conditions, and resolving them always ends."""

from __future__ import annotations

from typing import Any

import pytest

from email_platform.audience.conditions import parse_condition
from email_platform.audience.conditions.fields import MAX_NODES
from email_platform.audience.conditions.segments import check_without_segments, resolve_segments
from email_platform.errors import InvalidConditionError

GERMAN = {"field": "country", "op": "eq", "value": "DE"}
ADULT = {"field": "age", "op": "gte", "value": 18}
SEGMENTS: dict[str, object] = {
    "german": GERMAN,
    "adult": ADULT,
    "both": {"all": [{"segment": "german"}, {"segment": "adult"}]},
    "itself": {"not": {"segment": "itself"}},
    "one": {"any": [{"segment": "two"}]},
    "two": {"segment": "one"},
}


@pytest.mark.parametrize(
    ("raw", "resolved"),
    [
        (GERMAN, GERMAN),
        ({"all": []}, {"all": []}),
        ({"segment": "german"}, GERMAN),
        ({"not": {"segment": "both"}}, {"not": {"all": [GERMAN, ADULT]}}),
        (
            {"any": [{"segment": "both"}, {"segment": "german"}, ADULT]},
            {"any": [{"all": [GERMAN, ADULT]}, GERMAN, ADULT]},
        ),
        # What is no condition is left for the parser.
        ("all", "all"),
        ({"all": {"segment": "german"}}, {"all": {"segment": "german"}}),
    ],
)
def test_a_segment_stands_for_its_condition(raw: object, resolved: object) -> None:
    before = repr(raw)
    assert resolve_segments(raw, SEGMENTS) == resolved
    assert repr(raw) == before


@pytest.mark.parametrize(
    ("raw", "path", "problem"),
    [
        ({"segment": "germans"}, "$.segment", "there is no segment 'germans' (did you mean 'german'?)"),
        ({"all": [GERMAN, {"segment": "itself"}]}, "$.all[1].not.segment", "contains itself: itself > itself"),
        ({"segment": "one"}, "$.any[0].segment", "contains itself: one > two > one"),
        ({"segment": "german", "field": "age"}, "$", "must be the only key"),
        ({"segment": 7}, "$.segment", "must be a segment's name"),
        ({"segment": ["german"]}, "$.segment", "must be a segment's name"),
        ({"segment": "a\n"}, "$.segment", "must be a segment's name"),
    ],
)
def test_what_cannot_be_resolved_is_refused_with_its_place(raw: object, path: str, problem: str) -> None:
    with pytest.raises(InvalidConditionError) as refused:
        resolve_segments(raw, SEGMENTS)
    assert refused.value.path == path
    assert problem in refused.value.problem


def test_segments_that_multiply_are_refused_before_they_fill_the_memory() -> None:
    doubling: dict[str, object] = {
        f"s{level}": {"all": [{"segment": f"s{level + 1}"}] * MAX_NODES} for level in range(6)
    }
    with pytest.raises(InvalidConditionError, match="too many parts"):
        resolve_segments({"segment": "s0"}, {**doubling, "s6": GERMAN})
    chain: dict[str, object] = {f"c{at}": {"segment": f"c{at + 1}"} for at in range(5_000)}
    with pytest.raises(InvalidConditionError, match="too many parts"):
        resolve_segments({"segment": "c0"}, {**chain, "c5000": GERMAN})


def test_a_condition_with_an_unresolved_segment_is_no_condition() -> None:
    with pytest.raises(InvalidConditionError, match="must be resolved first"):
        parse_condition({"all": [{"segment": "german"}]})


@pytest.mark.parametrize("raw", [{"segment": "anything"}, {"all": [GERMAN, {"not": {"segment": "x"}}]}])
def test_a_file_s_condition_may_name_segments_that_nobody_can_look_up(raw: Any) -> None:
    check_without_segments(raw)
    with pytest.raises(InvalidConditionError):
        check_without_segments({"all": [raw, {"field": "age", "op": "eq", "value": "x"}]})
