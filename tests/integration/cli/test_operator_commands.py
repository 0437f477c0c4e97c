"""What an operator types: each command on the real database, and what it says when it may not."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from sqlalchemy import Engine
from typer.testing import CliRunner, Result

from email_platform.adapters.assembly import open_parts, open_store
from email_platform.cli.app import app
from email_platform.runs.finish import finish_sending
from email_platform.runs.freeze import freeze_audience
from email_platform.runs.send import send_chunk
from email_platform.settings import Settings
from tests.integration.campaign_rows import in_city, numbered, queue_campaign, row_of, seed_leads, unique

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("environment")]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_preview_counts_and_renders_and_leaves_nothing_behind(oltp_engine: Engine, settings: Settings) -> None:
    rows = numbered(70)
    city = seed_leads(oltp_engine, [*rows, {"email": "no-at-sign"}])
    campaign_id = queue_campaign(oltp_engine, in_city(city), status="draft")
    before = row_of(oltp_engine, campaign_id)
    kept = {found.key for found in open_store(settings).list("")}

    result = run("campaign", "preview", campaign_id, "--samples", 2)

    assert result.exit_code == 0, result.output
    assert "71 leads meet the condition; 70 would be mailed" in result.output
    assert "left out, invalid address: 1" in result.output
    assert "2 calls of at most 50" in result.output
    assert f"To: {rows[0]['email']}" in result.output
    assert f"To: {rows[1]['email']}" in result.output
    assert result.output.count("Subject: Hello Ada") == 2
    assert "List-Unsubscribe-Post: List-Unsubscribe=One-Click" in result.output
    assert row_of(oltp_engine, campaign_id) == before
    assert {found.key for found in open_store(settings).list("")} == kept


def test_a_preview_says_what_would_fail_the_campaign_and_leaves_it_a_draft(oltp_engine: Engine) -> None:
    wrong_condition = queue_campaign(oltp_engine, {"field": "contry", "op": "eq", "value": "DE"}, status="draft")
    result = run("campaign", "preview", wrong_condition)
    assert result.exit_code == 1
    assert "$.field: unknown field 'contry' (did you mean 'country'?)" in result.output

    city = seed_leads(oltp_engine, numbered(3))
    wrong_template = queue_campaign(oltp_engine, in_city(city), status="draft", subject_template="{{ attributes.x }}")
    result = run("campaign", "preview", wrong_template)
    assert result.exit_code == 1
    assert "attributes.x" in result.output
    assert row_of(oltp_engine, wrong_template).status == "draft"


def test_an_operator_queues_pauses_resumes_and_cancels(oltp_engine: Engine) -> None:
    campaign_id = queue_campaign(oltp_engine, {"all": []}, status="draft")
    for words, status in (
        (("queue", campaign_id), "queued"),
        (("pause", campaign_id, "--reason", "wrong [b]subject"), "paused"),
        (("resume", campaign_id), "queued"),
        (("cancel", campaign_id), "cancelled"),
    ):
        result = run("campaign", *words)
        assert result.exit_code == 0, result.output
        assert row_of(oltp_engine, campaign_id).status == status
        assert status in result.output
    refused = run("campaign", "resume", campaign_id)
    assert refused.exit_code == 1
    assert "cannot go from cancelled to queued" in refused.output
    assert "Traceback" not in refused.output


def test_a_campaign_is_queued_for_a_time_in_a_zone(oltp_engine: Engine) -> None:
    campaign_id = queue_campaign(oltp_engine, in_city("nowhere"), status="draft")
    result = run("campaign", "queue", campaign_id, "--at", "2999-07-01 09:00 Europe/Berlin")
    assert result.exit_code == 0, result.output
    assert "not before 2999-07-01 07:00:00 UTC" in result.output
    row = row_of(oltp_engine, campaign_id)
    assert (row.status, row.scheduled_at) == ("queued", datetime(2999, 7, 1, 7, tzinfo=UTC))

    wrong = run("campaign", "queue", campaign_id, "--at", "2999-07-01 09:00")
    assert (wrong.exit_code, "names no time zone" in wrong.stderr) == (2, True)
    sent = queue_campaign(oltp_engine, in_city("nowhere"), status="sent")
    refused = run("campaign", "queue", sent, "--at", "2999-07-01 09:00 UTC")
    assert (refused.exit_code, "is sent: it cannot be scheduled" in refused.stderr) == (1, True)
    assert run("campaign", "queue", 2**62, "--at", "2999-07-01 09:00 UTC").exit_code == 1


def test_the_list_is_narrowed_by_status_and_owner(oltp_engine: Engine) -> None:
    email = f"{unique('owner')}@example.com"
    mine = queue_campaign(oltp_engine, in_city("nowhere"), status="draft", owner={"email": email})
    other = queue_campaign(oltp_engine, in_city("nowhere"), status="draft")
    listed = json.loads(run("campaign", "list", "--owner", email, "--status", "draft", "--json").stdout)
    assert [one["campaign_id"] for one in listed] == [mine]
    drafts = json.loads(run("campaign", "list", "--status", "draft", "--json").stdout)
    assert {mine, other} <= {one["campaign_id"] for one in drafts}
    nobody = run("campaign", "list", "--owner", "nobody@example.com")
    assert (nobody.exit_code, "there is no such campaign" in nobody.output) == (0, True)
    assert run("campaign", "list", "--status", "lost").exit_code == 2


def test_the_list_shows_the_newest_campaigns_with_the_reason_of_their_status(oltp_engine: Engine) -> None:
    campaign_id = queue_campaign(oltp_engine, {"all": []})
    assert run("campaign", "pause", campaign_id, "--reason", "wait for the lawyers").exit_code == 0
    result = run("campaign", "list", "--limit", 1)
    assert str(campaign_id) in result.output
    assert "wait for the lawyers" in result.output


def test_the_list_as_json_has_every_field_under_its_own_name(oltp_engine: Engine) -> None:
    campaign_id = queue_campaign(oltp_engine, {"all": []}, scheduled_at="2999-01-02T03:04:05+02:00")
    result = run("campaign", "list", "--limit", 1, "--json")
    [row] = json.loads(result.stdout)
    assert row["campaign_id"] == campaign_id
    assert row["scheduled_at"] == "2999-01-02T01:04:05+00:00"
    assert datetime.fromisoformat(row["created_at"]).utcoffset() == datetime.now(UTC).utcoffset()
    assert {"name", "status", "status_reason", "finished_at", "eligible", "accepted", "rejected", "unknown", "chunks",
            "chunks_finished"} <= set(row)  # fmt: skip
    assert row["eligible"] is None


HOSTILE = "Sale [/b] \x1b[31m\r\n99999  spoofed  sent \u202e"


@pytest.mark.parametrize("columns", ["80", "160"])
def test_a_hostile_name_and_reason_break_and_spoof_no_listing(
    oltp_engine: Engine, monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    city = seed_leads(oltp_engine, [{**numbered(1)[0], "first_name": "Eve\x1b[2J\nTo: spoof@example.com"}])
    campaign_id = queue_campaign(oltp_engine, in_city(city), name=HOSTILE)
    paused = run("campaign", "pause", campaign_id, "--reason", HOSTILE)
    listed = run("campaign", "list", "--limit", 1)
    previewed = run("campaign", "preview", campaign_id)
    for result in (paused, listed, previewed):
        assert result.exit_code == 0, result.output
        assert not set(result.output) & set("\x1b\r\u202e")
        assert "[/b]" in result.output
        assert not any(line.startswith(("99999", "To: spoof")) for line in result.output.splitlines())
    assert f"campaign {campaign_id} 'Sale [/b] \\x1b[31m\\r\\n99999  spoofed  sent \\u202e'" in previewed.output
    assert [row["name"] for row in json.loads(run("campaign", "list", "--limit", 1, "--json").stdout)] == [HOSTILE]


def test_a_preview_as_json_is_one_document_with_the_same_counts(oltp_engine: Engine) -> None:
    rows = numbered(70)
    city = seed_leads(oltp_engine, [*rows, {"email": "no-at-sign"}])
    campaign_id = queue_campaign(oltp_engine, in_city(city), status="draft")
    document = json.loads(run("campaign", "preview", campaign_id, "--samples", 2, "--json").stdout)
    assert (document["considered"], document["eligible"], document["calls"]) == (71, 70, 2)
    assert document["excluded_by_reason"]["invalid_address"] == 1
    assert [sample["address"] for sample in document["samples"]] == [rows[0]["email"], rows[1]["email"]]
    assert "List-Unsubscribe" in document["samples"][0]["headers"]


def test_an_empty_listing_of_unknown_calls_is_an_empty_array(oltp_engine: Engine) -> None:
    campaign_id = queue_campaign(oltp_engine, {"all": []}, status="draft")
    assert json.loads(run("campaign", "unknown", campaign_id, "--json").stdout) == []


def test_the_doctor_s_answers_as_json_name_each_part() -> None:
    checks = json.loads(run("doctor", "--json").stdout)
    assert {"part", "group", "fits", "says", "do", "took_seconds"} == set(checks[0])
    assert {"PostgreSQL", "S3", "ClickHouse", "ClickHouse reads S3"} <= {check["part"] for check in checks}


def test_a_campaign_that_does_not_exist_is_named_in_one_line() -> None:
    for words in (("preview",), ("pause",), ("cancel",), ("queue",)):
        result = run("campaign", *words, 987654321)
        assert result.exit_code == 1, words
        assert "campaign 987654321 does not exist" in result.output
        assert "deleted" not in result.output, "nobody knows"


def test_refused_recipients_are_sent_to_again_only_where_the_refusal_is_certain_and_the_code_fits(
    oltp_engine: Engine, settings: Settings
) -> None:
    rows = [*numbered(3), {"email": f"somebody-{unique('lead')}@blocked.example"}]
    campaign_id = queue_campaign(oltp_engine, in_city(seed_leads(oltp_engine, rows)))
    with open_parts(settings) as parts:
        freeze_audience(parts, campaign_id)
        send_chunk(parts, campaign_id, 0, holder=unique("test"))
        finish_sending(parts, campaign_id)

    result = run("campaign", "retry-rejected", campaign_id, "--code", "another")
    assert (result.exit_code, row_of(oltp_engine, campaign_id).status) == (0, "sent")
    assert "0 recipients are sent to again" in result.output

    result = run("campaign", "retry-rejected", campaign_id, "--code", "BlockedDomain")
    assert result.exit_code == 0, result.output
    assert "1 recipients are sent to again" in result.output
    assert row_of(oltp_engine, campaign_id).status == "queued"
    assert "0 recipients" in run("campaign", "retry-rejected", campaign_id).output, "asking twice changes nothing"

    draft = queue_campaign(oltp_engine, in_city("nowhere"), status="draft")
    for nobody, words in ((2**62, "campaign 4611686018427387904"), (draft, "without a frozen audience")):
        result = run("campaign", "retry-rejected", nobody)
        assert result.exit_code == 1
        assert words in result.stderr


def test_a_campaign_without_unknown_calls_says_so(oltp_engine: Engine) -> None:
    campaign_id = queue_campaign(oltp_engine, {"all": []}, status="draft")
    assert "has no call of unknown outcome" in run("campaign", "unknown", campaign_id).output


def test_migrating_again_changes_nothing_and_the_doctor_finds_every_part_fit() -> None:
    assert run("migrate").exit_code == 0
    result = run("doctor")
    assert "ClickHouse reads S3" in result.output
    for part in ("PostgreSQL", "Dagster's storage", "S3", "ClickHouse", "ClickHouse reads S3"):
        line = next(line for line in result.output.splitlines() if line.startswith(part + "  "))
        assert " fits " in line
