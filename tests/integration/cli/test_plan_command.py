"""`campaign plan` on the real database and bucket."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import Engine
from typer.testing import CliRunner, Result

from email_platform.adapters.assembly import open_store
from email_platform.cli.app import app
from email_platform.settings import Settings
from tests.integration.campaign_rows import in_city, numbered, queue_campaign, row_of, seed_leads, unique

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("environment")]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_plan_counts_warns_estimates_writes_samples_and_changes_nothing(
    oltp_engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = unique("planned").replace("-", "_")
    monkeypatch.setenv(f"EMAIL_PLATFORM_SIMULATOR_{account.upper()}_RECIPIENTS_PER_SECOND", "2")
    rows = numbered(70)
    city = seed_leads(oltp_engine, [*rows, {"email": "no-at-sign"}])
    sender = {"provider_account": account}
    queue_campaign(
        oltp_engine, in_city(city), sender=sender, estimated_rows=20, queued_at=datetime(2026, 1, 1, tzinfo=UTC)
    )
    campaign_id = queue_campaign(
        oltp_engine,
        in_city(city),
        status="draft",
        sender=sender,
        html_template="<p>Hello {{ first_name }}</p><img src='https://example.com/a.png'><a href=''>shop</a>",
    )
    before = row_of(oltp_engine, campaign_id)
    kept = {found.key for found in open_store(settings).list("")}

    result = run("campaign", "plan", campaign_id, "--samples", "out", "--count", 2, "--json")

    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert (document["considered"], document["eligible"], document["calls"]) == (71, 70, 2)
    assert document["excluded_by_reason"]["invalid_address"] == 1
    assert (document["campaigns_before"], document["recipients_before"]) == (1, 20)
    assert (document["alone_seconds"], document["longest_seconds"]) == (35.0, 45.0)
    warnings = {found["warning"]: found["messages"] for found in document["warnings"]}
    assert set(warnings.values()) == {20}
    assert [words.split(":")[0] for words in sorted(warnings)] == [
        "1 images have no alt",
        "<a> has an empty href",
        "the html part has no unsubscribe link",
        "there is no text part",
    ]
    assert len(document["sample_files"]) == 4
    pages = [Path(name).read_text(encoding="utf-8") for name in document["sample_files"] if name.endswith(".html")]
    assert [page.startswith("<p>Hello Ada</p>") for page in pages] == [True, True]
    texts = [Path(name).read_text(encoding="utf-8") for name in document["sample_files"] if name.endswith(".txt")]
    assert [f"To: {row['email']}\nSubject: Hello Ada\n" in text for row, text in zip(rows, texts, strict=False)] == [
        True,
        True,
    ]
    assert row_of(oltp_engine, campaign_id) == before
    assert {found.key for found in open_store(settings).list("")} == kept

    shown = run("campaign", "plan", campaign_id)
    assert "time: about 0:35 at this rate; at most about 0:45 beside the campaigns before it" in shown.output
    assert "warning: <a> has an empty href: give it an address (20 of 20 messages)" in shown.output
    assert "left out, invalid address: 1" in shown.output


def test_preview_and_plan_say_which_leads_have_a_value_of_another_type(oltp_engine: Engine) -> None:
    key = unique("visits")[:60]
    city = seed_leads(
        oltp_engine,
        [{**row, "attributes": {key: value}} for row, value in zip(numbered(3), [7, "7", "x"], strict=True)],
    )
    compared = {"field": f"attributes.{key}", "op": "gt", "value": 5}
    campaign_id = queue_campaign(oltp_engine, {"all": [*in_city(city)["all"], compared]}, status="draft")
    for command in ("preview", "plan"):
        warning = f"attributes.{key}: 2 leads have a text where the condition compares a number"
        assert warning in " ".join(run("campaign", command, campaign_id).stdout.split())
    document = json.loads(run("campaign", "preview", campaign_id, "--json").stdout)
    assert document["other_types"] == [
        {"field": f"attributes.{key}", "compared": "number", "found": "string", "leads": 2}
    ]


def test_a_plan_says_where_it_cannot_know_the_time_and_what_would_fail(oltp_engine: Engine) -> None:
    city = seed_leads(oltp_engine, numbered(2))
    sender = {"provider_account": unique("free").replace("-", "_")}
    good = queue_campaign(
        oltp_engine,
        in_city(city),
        status="draft",
        sender=sender,
        text_template="Hello {{ unsubscribe_url }}",
    )
    shown = run("campaign", "plan", good)
    assert shown.exit_code == 0, shown.output
    assert "cannot be estimated, since no rate is set" in shown.output
    assert "no warnings for the 2 messages" in shown.output
    bad = queue_campaign(oltp_engine, in_city(city), status="draft", subject_template="{{ attributes.x }}")
    refused = run("campaign", "plan", bad)
    assert (refused.exit_code, "attributes.x" in refused.stderr) == (1, True)
    Path("file").write_text("", encoding="utf-8")
    assert run("campaign", "plan", good, "--samples", "file").exit_code == 2
