"""Every provider's documented bodies come out as events of one schema; broken ones say what is wrong."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from email_platform.events import EVENT_SCHEMA, ReceivedBody, event_table, normalise_body, status_rank
from email_platform.events.event import MAXIMUM_DETAILS_BYTES, bounded_details, bounded_event_id
from email_platform.events.normalising import FORMATS
from email_platform.events.received import from_parquet, to_parquet

RECEIVED_AT = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)
SAMPLES = Path(__file__).parent / "provider_events"


def received(provider: str, body: Any, webhook_id: str = "") -> ReceivedBody:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return ReceivedBody(provider, "acme", RECEIVED_AT, webhook_id, content)


def received_in_its_time(provider: str, case: dict[str, Any]) -> ReceivedBody:
    """The documented bodies are years old: received at the beginning of the year after their newest time."""
    text = json.dumps(case["body"])
    years = [int(year) for year in re.findall(r"(20\d\d)-\d\d-\d\dT", text)]
    years += [datetime.fromtimestamp(int(epoch), UTC).year for epoch in re.findall(r'timestamp": "?(\d{10})', text)]
    once = received(provider, case["body"], case["webhook_id"])
    return replace(once, received_at=datetime(max(years, default=2026) + 1, 1, 2, tzinfo=UTC))


def documented_cases() -> list[Any]:
    return [
        pytest.param(path.stem, case, id=f"{path.stem}: {case['name']}")
        for path in sorted(SAMPLES.glob("*.json"))
        for case in json.loads(path.read_text())["cases"]
    ]


@pytest.mark.parametrize(("provider", "case"), documented_cases())
def test_a_documented_body_becomes_the_events_that_it_tells_of(provider: str, case: dict[str, Any]) -> None:
    body = received_in_its_time(provider, case)
    normalised = normalise_body(body)
    assert normalised.problem == ""
    assert len(normalised.events) == len(case["expected"])
    for event, expected in zip(normalised.events, case["expected"], strict=True):
        assert (event.provider, event.account, event.received_at) == (provider, "acme", body.received_at)
        actual: dict[str, Any] = {
            **{name: getattr(event, name) for name in expected},
            **({"details": json.loads(event.details)} if "details" in expected else {}),
            **(
                {"occurred_at": event.occurred_at.replace(microsecond=event.occurred_at.microsecond // 1000 * 1000)}
                if "occurred_at" in expected
                else {}
            ),
        }
        if "occurred_at" in expected:
            expected = {**expected, "occurred_at": datetime.fromisoformat(expected["occurred_at"])}
        assert actual == expected
    identities = {(event.provider, event.event_id) for event in normalised.events}
    assert len(identities) == len(normalised.events)


@pytest.mark.parametrize(("provider", "case"), documented_cases())
def test_the_same_body_received_again_later_gives_the_same_identities(provider: str, case: dict[str, Any]) -> None:
    once = received_in_its_time(provider, case)
    again = replace(once, received_at=once.received_at + timedelta(days=3))
    assert [event.event_id for event in normalise_body(once).events] == [
        event.event_id for event in normalise_body(again).events
    ]


def test_every_provider_has_documented_samples() -> None:
    assert {path.stem for path in SAMPLES.glob("*.json")} == set(FORMATS)


@pytest.mark.parametrize("provider", sorted(FORMATS))
@pytest.mark.parametrize(
    "body", [b"", b"not json", b"\xff\xfe", b"null", b"17", b'"text"', b'{"events": 1}', b"{}", b"[1]", b"[[]]"]
)
def test_a_body_of_another_form_is_a_problem_and_no_exception(provider: str, body: bytes) -> None:
    normalised = normalise_body(received(provider, body))
    assert normalised.events == ()
    assert normalised.problem


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)  # a shared machine: only what is read counts, not how fast
@given(data=st.data(), provider=st.sampled_from(sorted(FORMATS)), value=json_values)
def test_a_documented_body_with_any_value_replaced_never_raises(data: st.DataObject, provider: str, value: Any) -> None:
    cases = json.loads((SAMPLES / f"{provider}.json").read_text())["cases"]
    body = data.draw(st.sampled_from(cases))["body"]
    inner = body
    if provider == "ses" and "Message" in body and body["Message"].startswith("{"):
        inner = json.loads(body["Message"])
    target: Any = inner
    while True:
        keys = list(target) if isinstance(target, dict) else list(range(len(target)))
        if not keys:
            break
        key = data.draw(st.sampled_from(keys))
        if isinstance(target[key], dict | list) and data.draw(st.booleans()):
            target = target[key]
            continue
        target[key] = value
        break
    if inner is not body:
        body = {**body, "Message": json.dumps(inner)}
    normalised = normalise_body(received(provider, body))
    event_table(normalised.events)


def test_one_bad_event_of_a_batch_withholds_none_of_the_good_ones() -> None:
    good = {"email": "a@example.com", "timestamp": 1780272000, "event": "delivered", "sg_event_id": "e1"}
    bad = {"email": "secret-address@example.com", "event": "delivered", "sg_event_id": "e2"}
    normalised = normalise_body(received("sendgrid", [good, bad, {**good, "sg_event_id": "e3"}]))
    assert [event.event_id for event in normalised.events] == ["e1", "e3"]
    assert normalised.problem == "event 1: timestamp must be seconds since 1970"


def test_a_problem_repeats_nothing_of_the_body() -> None:
    normalised = normalise_body(received("simulator", b'{"events": "secret-address@example.com'))
    assert "secret" not in normalised.problem


def test_an_event_outside_any_plausible_time_is_a_problem() -> None:
    for timestamp in (0, 32_503_680_000):
        body = [{"email": "a@example.com", "timestamp": timestamp, "event": "delivered", "sg_event_id": "e"}]
        assert "time lies" in normalise_body(received("sendgrid", body)).problem


def test_a_complaint_outranks_a_bounce_and_a_bounce_outranks_a_delivery() -> None:
    order = [
        ("accepted", ""),
        ("delayed", ""),
        ("bounced", "soft"),
        ("delivered", ""),
        ("blocked", ""),
        ("opened", ""),
        ("clicked", ""),
        ("unsubscribed", ""),
        ("rejected", ""),
        ("bounced", "hard"),
        ("complained", "abuse"),
    ]
    ranks = [status_rank(kind, subtype) for kind, subtype in order]  # type: ignore[arg-type]
    assert ranks == sorted(set(ranks))
    assert status_rank("other") == status_rank("resubscribed") == 0
    assert status_rank("auto_replied") == status_rank("complaint_withdrawn") == 0


def test_details_are_bounded_whatever_a_provider_sends() -> None:
    text = bounded_details({f"name {index}": "ä" * 100_000 for index in range(20)} | {"empty": ""})
    assert len(text.encode()) <= MAXIMUM_DETAILS_BYTES
    assert json.loads(text)["truncated"] == "true"
    assert bounded_details({"none": None, "reason": "lone \ud800 surrogate"}) == '{"reason":"lone \ufffd surrogate"}'


def test_an_unreasonably_long_id_is_hashed_to_the_same_id_each_time() -> None:
    assert bounded_event_id("x" * 5000) == bounded_event_id("x" * 5000)
    assert len(bounded_event_id("x" * 5000)) == 40
    assert bounded_event_id("short") == "short"


def test_a_table_holds_each_identity_once_and_in_the_schema() -> None:
    body = {"email": "a@example.com", "timestamp": 1780272000, "event": "bounce", "type": "bounce", "sg_event_id": "e"}
    events = normalise_body(received("sendgrid", [body, body])).events
    assert len(events) == 2
    table = event_table(events)
    assert table.schema == EVENT_SCHEMA
    assert table.column("status_rank").to_pylist() == [90]


def test_received_bodies_survive_parquet_byte_for_byte_and_show_nothing_in_a_repr() -> None:
    bodies = [received("ses", b"\x00\xff secret", "m1"), replace(received("sendgrid", b""), problem="why")]
    assert from_parquet(to_parquet(bodies)) == bodies
    assert to_parquet(bodies) == to_parquet(bodies)
    assert "secret" not in repr(bodies[0])
