"""What an alert says: never an address or a credential, always what happened, what it means and what to do."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from email_platform.alerting.condition import MAXIMUM_CHARACTERS, Alert, Condition, Message, State, cleaned
from email_platform.alerting.rules import (
    BACKLOG_KINDS,
    DEAD_AFTER_SECONDS,
    KINDS,
    RETIRED_AFTER_SECONDS,
    Backlog,
    GuardedCampaign,
    Limits,
    StoppedCampaign,
    UnknownCalls,
    check_condition,
    conditions_of_backlog,
    events_condition,
    is_refusal_of_credential,
    notice_condition,
    part_condition,
    reports_condition,
    run_condition,
)

PROJECT = Path(__file__).parents[3]
NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
LIMITS = Limits()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("550 ann.lee+x@example.com unknown", "550 <address> unknown"),
        ("to <bob@example.org>, cy@x.de", "to <<address>>, <address>"),
        ("POST https://hooks.example/T0/B1/secret failed", "POST <https address> failed"),
        ("postgresql+psycopg://me:pw@db:5432/x is away", "<postgresql+psycopg address> is away"),
        ("API key re_1234567890 is invalid", "API key <hidden> is invalid"),
        ("token: 'abc123def456ghi' refused", "token: <hidden>' refused"),
        ("Authorization: Bearer 0a1b2c3d4e.f5.xyz", "Authorization: Bearer <hidden>"),
        ("key " + "Ab3" * 12 + " refused", "key <hidden> refused"),
        ("run 0b6f0c1e-3a52-4f0a-9b46-5d6c1f1e2a3b failed", "run 0b6f0c1e-3a52-4f0a-9b46-5d6c1f1e2a3b failed"),
        ("30 of 300 messages bounced hard (10.00%; the limit is 5.00%)",) * 2,
        ("two\nlines\tand \x0b blanks", "two lines and blanks"),
    ],
)
def test_a_text_shows_no_address_and_no_credential(text: str, shown: str) -> None:
    assert cleaned(text) == shown


def test_a_text_is_bounded() -> None:
    assert len(cleaned("word " * 1000)) == MAXIMUM_CHARACTERS


def test_every_text_of_a_condition_is_cleaned() -> None:
    one = Condition("test", "x", "ann@example.com", "https://host/secret", "password: hunter2hunter2")
    assert (one.happened, one.meaning, one.command) == ("<address>", "<https address>", "password: <hidden>")


EVERYTHING_WRONG = Backlog(
    stopped=[
        StoppedCampaign(1, "A", "paused", "the provider refused 20 calls in a row", 1),
        StoppedCampaign(2, "B", "failed", "condition at $.all: wrong", 1),
        StoppedCampaign(3, "C", "paused", "simulator: 401 the API key is wrong", 1),
    ],
    guarded=[GuardedCampaign(4, "paused", "campaign 4 'D' is paused: 30 of 300", "t", {"bounced": 30})],
    unknown=[UnknownCalls(5, 2, 100)],
    silent=[6],
    queued=3,
    has_moved=False,
    unloaded=1,
    quarantined=1,
    beats={"dagster": NOW - timedelta(hours=1), "receiver": NOW - timedelta(hours=1)},
)


def every_condition() -> list[Condition]:
    late = NOW - timedelta(hours=1)
    return [
        *conditions_of_backlog(EVERYTHING_WRONG, LIMITS, NOW),
        *events_condition(late, LIMITS, NOW),
        *reports_condition(late, LIMITS, NOW),
        part_condition("S3", "no answer", refused=False),
        part_condition("S3", "no", refused=True),
        run_condition("reports_job", "r1"),
        check_condition("a", "b"),
        notice_condition("under review"),
    ]


def test_every_kind_is_found_and_says_what_happened_what_it_means_and_what_to_do() -> None:
    found = every_condition()
    assert {one.kind for one in found} == set(KINDS) - {"test"}
    assert {one.kind for one in conditions_of_backlog(EVERYTHING_WRONG, LIMITS, NOW)} == BACKLOG_KINDS
    assert all(one.happened and one.meaning and one.command for one in found)
    assert not [one for one in found if "<" in one.command], "a command was cleaned away"


def test_nothing_is_found_where_nothing_is_wrong() -> None:
    fresh = NOW - timedelta(seconds=LIMITS.late_seconds)
    assert conditions_of_backlog(Backlog(queued=5, beats={"dagster": NOW}), LIMITS, NOW) == []
    assert [*events_condition(fresh, LIMITS, NOW), *events_condition(None, LIMITS, NOW)] == []
    assert [*reports_condition(fresh, LIMITS, NOW), *reports_condition(None, LIMITS, NOW)] == []


@pytest.mark.parametrize(
    ("seconds", "is_dead"),
    [
        (DEAD_AFTER_SECONDS, False),
        (DEAD_AFTER_SECONDS + 1, True),
        (RETIRED_AFTER_SECONDS - 1, True),
        (RETIRED_AFTER_SECONDS, False),
        (-60, False),  # another machine's clock is ahead
    ],
)
def test_a_host_is_dead_after_three_looks_missed_and_taken_away_after_a_week(seconds: float, is_dead: bool) -> None:
    beats = {"dagster": NOW - timedelta(seconds=seconds)}
    found = conditions_of_backlog(Backlog(beats=beats), LIMITS, NOW)
    assert [one.kind for one in found] == ["dagster_dead"] * is_dead


@pytest.mark.parametrize(
    ("reason", "is_refusal"),
    [
        ("simulator: HTTP 401: wrong key", True),
        ("ses: UnrecognizedClientException: The security token included in the request is invalid", True),
        ("sendgrid: 403 access forbidden", True),
        ("postmark 10: No Account or Server API tokens were supplied", True),
        ("mailgun: Domain sandbox is not allowed to send: 4010 messages", False),
        ("30 of 300 messages bounced hard", False),
        ("the account's daily quota is used up", False),
    ],
)
def test_a_refused_credential_is_known_by_its_words(reason: str, is_refusal: bool) -> None:
    assert is_refusal_of_credential(reason) == is_refusal


def message(state: State, **changed: str) -> Message:
    found = Condition("campaign_paused", "campaign 17", "it is paused", "they wait", "resume it", details={"n": 3})
    return Message(1, Alert(7, replace(found, **changed), NOW), "webhook", state)  # type: ignore[arg-type]


def test_beginning_and_end_have_one_id_and_one_title() -> None:
    begins, ends = message("raised"), message("resolved")
    assert begins.title == ends.title == "Email platform, alert 7: campaign paused"
    assert begins.text == "it is paused\nthey wait\nDo: resume it"
    assert ends.text == "OVER: it is paused"
    assert (begins.to_json()["id"], begins.to_json()["state"], begins.to_json()["n"]) == (7, "raised", 3)
    assert (ends.to_json()["id"], ends.to_json()["state"]) == (7, "resolved")


def test_the_runbook_has_a_section_with_three_answers_for_every_kind() -> None:
    text = (PROJECT / "docs" / "runbook.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^### (\w+)\n(.*?)(?=^##)", text, re.MULTILINE | re.DOTALL))
    assert sections.keys() == set(KINDS)
    for kind, section in sections.items():
        for answer in ("**Symptom**", "**Meaning**", "**Do**"):
            assert section.count(answer) == 1, (kind, answer)
