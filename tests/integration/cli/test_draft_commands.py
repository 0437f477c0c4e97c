"""`campaign edit` and `campaign clone` on the real database, and the time in a campaign's file."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import Engine, select, update
from typer.testing import CliRunner, Result

from email_platform.adapters.postgres.tables import campaign
from email_platform.cli.app import app
from tests.integration.campaign_rows import in_city, queue_campaign, row_of

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("environment")]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def file_of(engine: Engine, campaign_id: int, *more: str) -> Path:
    with engine.connect() as connection:
        sender_id = connection.execute(select(campaign.c.sender_id).where(campaign.c.id == campaign_id)).scalar_one()
    lines = ["name: Edited", f"sender: {sender_id}", "subject: New", "html: <p>New</p>", "condition: {all: []}", *more]
    path = Path("campaign.yaml")
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_of_two_people_who_edit_one_draft_the_second_is_refused_until_he_has_seen_the_first(
    oltp_engine: Engine,
) -> None:
    campaign_id = queue_campaign(oltp_engine, in_city("a"), status="draft", estimated_rows=7)
    file = file_of(oltp_engine, campaign_id, "version: 1", "scheduled_at: 2999-07-01 09:00 Europe/Berlin")
    Path("other.html").write_text("<p>Other</p>", encoding="utf-8")
    first = run("campaign", "edit", campaign_id, "--file", file, "--html", "other.html")
    assert first.exit_code == 0, first.output
    assert f"campaign {campaign_id} 'Edited': draft, version 2" in first.output
    row = row_of(oltp_engine, campaign_id)
    assert (row.name, row.subject_template, row.html_template, row.version) == ("Edited", "New", "<p>Other</p>", 2)
    assert (row.scheduled_at, row.condition) == (datetime(2999, 7, 1, 7, tzinfo=UTC), {"all": []})
    assert row.estimated_rows is None

    for options in (("--file", file), ("--file", file_of(oltp_engine, campaign_id))):
        second = run("campaign", "edit", campaign_id, *options)
        assert second.exit_code == 1, second.output
        assert f"campaign show {campaign_id}" in second.stderr
        assert "--version 2" in second.stderr
        assert row_of(oltp_engine, campaign_id) == row
    third = run("campaign", "edit", campaign_id, "--file", file, "--version", 2, "--json")
    assert json.loads(third.stdout)["version"] == 3
    assert row_of(oltp_engine, campaign_id).scheduled_at is None
    assert json.loads(run("campaign", "show", campaign_id, "--json").stdout)["version"] == 3


@pytest.mark.parametrize("status", ["queued", "sending", "paused", "sent", "cancelled", "failed"])
def test_only_a_draft_is_edited_and_the_mend_is_named(oltp_engine: Engine, status: str) -> None:
    campaign_id = queue_campaign(oltp_engine, in_city("a"), status=status)
    before = row_of(oltp_engine, campaign_id)
    refused = run("campaign", "edit", campaign_id, "--file", file_of(oltp_engine, campaign_id))
    assert refused.exit_code == 1
    assert f"is {status}, and only a draft can be edited" in refused.stderr
    assert f"campaign clone {campaign_id}" in refused.stderr
    assert (f"campaign cancel {campaign_id}" in refused.stderr) == (status not in ("sent", "cancelled"))
    assert row_of(oltp_engine, campaign_id) == before


def test_an_edit_does_not_hand_a_campaign_to_another_owners_sender(oltp_engine: Engine) -> None:
    mine, other = (queue_campaign(oltp_engine, in_city("a"), status="draft") for _ in range(2))
    refused = run("campaign", "edit", mine, "--file", file_of(oltp_engine, other))
    assert (refused.exit_code, "belongs to another user" in refused.stderr) == (1, True)
    nobody = run("campaign", "edit", 2**62, "--file", file_of(oltp_engine, mine))
    assert (nobody.exit_code, str(2**62) in nobody.stderr) == (1, True)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("scheduled_at: 2026-12-01 09:00", "line 6: scheduled_at: '2026-12-01 09:00' names no time zone"),
        ("scheduled_at: 2026-12-01 09:00:00", "names no time zone"),
        ("scheduled_at: 2026-12-01", "is no time; write it as"),
        ("scheduled_at: 2026-12-01 09:00 Europe/Berln", "'Europe/Berln' is no time zone"),
        ("scheduled_at: 7", "line 6: scheduled_at"),
        ("version: 0", "line 6: version"),
        ("version: two", "line 6: version"),
    ],
)
def test_a_wrong_time_or_version_is_named_with_its_line(oltp_engine: Engine, line: str, words: str) -> None:
    campaign_id = queue_campaign(oltp_engine, in_city("a"), status="draft")
    refused = run("campaign", "edit", campaign_id, "--file", file_of(oltp_engine, campaign_id, line))
    assert refused.exit_code == 1
    assert words in refused.stderr
    assert row_of(oltp_engine, campaign_id).version == 1


@pytest.mark.parametrize("written", ["2999-07-01 07:00 UTC", "2999-07-01T09:00:00+02:00", "'2999-07-01 09:00 +02:00'"])
def test_a_new_campaign_takes_its_time_from_the_file(oltp_engine: Engine, written: str) -> None:
    campaign_id = queue_campaign(oltp_engine, in_city("a"), status="draft")
    made = run("campaign", "create", "--file", file_of(oltp_engine, campaign_id, f"scheduled_at: {written}"), "--json")
    assert made.exit_code == 0, made.output
    new = row_of(oltp_engine, json.loads(made.stdout)["campaign_id"])
    assert new.scheduled_at == datetime(2999, 7, 1, 7, tzinfo=UTC)
    refused = run("campaign", "create", "--file", file_of(oltp_engine, campaign_id, "version: 1"))
    assert (refused.exit_code, "a new campaign has no version" in refused.stderr) == (1, True)


def test_a_clone_is_a_draft_that_says_the_same_without_the_time(oltp_engine: Engine) -> None:
    campaign_id = queue_campaign(
        oltp_engine, in_city("a"), status="sent", scheduled_at=datetime(2026, 1, 1, tzinfo=UTC), inline_css=True
    )
    with oltp_engine.begin() as connection:
        connection.execute(update(campaign).where(campaign.c.id == campaign_id).values(version=4, attempt=3))
    old = row_of(oltp_engine, campaign_id)
    new = row_of(oltp_engine, json.loads(run("campaign", "clone", campaign_id, "--json").stdout)["campaign_id"])
    assert new.name == f"Copy of {old.name}"
    assert (new.status, new.version, new.attempt, new.scheduled_at, new.queued_at) == ("draft", 1, 1, None, None)
    for name in ("owner_id", "sender_id", "subject_template", "html_template", "condition", "inline_css"):
        assert getattr(new, name) == getattr(old, name)
    named = run("campaign", "clone", campaign_id, "--name", "Again")
    assert "'Again': draft" in named.output
    assert run("campaign", "clone", campaign_id, "--name", " ").exit_code == 2
    nobody = run("campaign", "clone", 2**62)
    assert (nobody.exit_code, str(2**62) in nobody.stderr) == (1, True)
