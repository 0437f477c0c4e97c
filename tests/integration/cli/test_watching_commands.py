"""`campaign show` and `campaign watch` on the real database, while a campaign goes from a draft to its end."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from sqlalchemy import Engine, text, update
from typer.testing import CliRunner, Result

from email_platform.adapters.assembly import open_parts
from email_platform.adapters.postgres.tables import campaign
from email_platform.cli.app import app
from email_platform.domain.campaigns import CampaignStatus
from email_platform.runs.finish import finish_sending
from email_platform.runs.freeze import freeze_audience
from email_platform.runs.send import send_chunk
from email_platform.settings import Settings
from tests.integration.campaign_rows import in_city, numbered, queue_campaign, seed_leads, unique

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("environment")]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_show_gives_everything_of_a_campaign_before_and_after_it_was_sent(
    oltp_engine: Engine, settings: Settings
) -> None:
    city = seed_leads(oltp_engine, [*numbered(3), {"email": "no-at-sign"}])
    campaign_id = queue_campaign(oltp_engine, in_city(city), status="draft", name="Spring [b]\x1b[31m")
    draft = json.loads(run("campaign", "show", campaign_id, "--json").stdout)
    assert (draft["status"], draft["version"], draft["eligible"], draft["waits_for"]) == ("draft", 1, None, "operator")
    assert f"campaign queue {campaign_id}" in draft["to_do"]
    assert draft["condition"] == in_city(city)
    assert draft["account"] == "simulator/default"
    assert draft["owner"].endswith("@example.com")
    shown = run("campaign", "show", campaign_id)
    assert "Spring [b]\\x1b[31m" in shown.output
    assert "the audience is not frozen yet" in shown.output

    with open_parts(settings) as parts:
        parts.campaigns.change_status(campaign_id, CampaignStatus.QUEUED)
        freeze_audience(parts, campaign_id)
        send_chunk(parts, campaign_id, 0, holder=unique("run"))
        finish_sending(parts, campaign_id)
    sent = json.loads(run("campaign", "show", campaign_id, "--json").stdout)
    assert (sent["status"], sent["eligible"], sent["accepted"], sent["calls"]) == ("sent", 3, 3, 1)
    assert {reason: leads for reason, leads in sent["excluded_by_reason"].items() if leads} == {"invalid_address": 1}
    assert (sent["waits_for"], sent["chunks_finished"]) == (None, 1)
    shown = run("campaign", "show", campaign_id)
    assert "left out, invalid address: 1" in shown.output
    assert "left out, suppressed" not in shown.output

    nobody = run("campaign", "show", 2**62)
    assert (nobody.exit_code, str(2**62) in nobody.stderr) == (1, True)


def test_show_says_what_a_queued_campaign_waits_for(oltp_engine: Engine) -> None:
    account = unique("account")
    first, second = (
        queue_campaign(
            oltp_engine,
            in_city("nowhere"),
            sender={"provider_account": account},
            queued_at=datetime(2026, 1, 1, hour, tzinfo=UTC),
            estimated_rows=500,
        )
        for hour in (1, 2)
    )
    documents = [json.loads(run("campaign", "show", one, "--json").stdout) for one in (first, second)]
    assert [document["campaigns_before"] for document in documents] == [0, 1]
    assert [document["waits_for"] for document in documents] == ["launch", "launch"]
    with oltp_engine.begin() as connection:
        connection.execute(update(campaign).where(campaign.c.id == first).values(launched_attempt=1))
    assert json.loads(run("campaign", "show", first, "--json").stdout)["waits_for"] == "run_slot"
    with oltp_engine.begin() as connection:
        connection.execute(
            update(campaign).where(campaign.c.id == first).values(scheduled_at=datetime(2999, 1, 1, tzinfo=UTC))
        )
    assert json.loads(run("campaign", "show", second, "--json").stdout)["campaigns_before"] == 0, "it comes later"
    shown = run("campaign", "show", first)
    assert "waits for its time, 2999-01-01 00:00:00 UTC" in shown.output


def test_show_says_that_a_sending_campaign_waits_for_the_accounts_rate(
    oltp_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = unique("slow").replace("-", "_")
    monkeypatch.setenv(f"EMAIL_PLATFORM_SIMULATOR_{account.upper()}_RECIPIENTS_PER_SECOND", "20")
    campaign_id = queue_campaign(
        oltp_engine, in_city("nowhere"), status="sending", sender={"provider_account": account},
        progress_at=datetime.now(UTC),
    )  # fmt: skip
    assert json.loads(run("campaign", "show", campaign_id, "--json").stdout)["waits_for"] is None
    with oltp_engine.begin() as connection:
        connection.execute(
            text(
                "insert into provider_rate (account, recipients_due_at, calls_due_at, blocked_until, share, share_at)"
                " values (:account, now() + interval '1 hour', now(), now(), 1, now())"
            ),
            {"account": f"simulator/{account}"},
        )
    document = json.loads(run("campaign", "show", campaign_id, "--json").stdout)
    assert document["waits_for"] == "rate"
    assert "20 recipients a second" in document["waits_because"]
    with oltp_engine.begin() as connection:
        connection.execute(
            text("update provider_rate set blocked_until = now() + interval '1 hour' where account = :account"),
            {"account": f"simulator/{account}"},
        )
    assert "asked for a pause" in run("campaign", "show", campaign_id).output


def test_watch_prints_a_line_for_each_change_until_the_campaign_is_sent(
    oltp_engine: Engine, settings: Settings
) -> None:
    city = seed_leads(oltp_engine, numbered(3))
    campaign_id = queue_campaign(oltp_engine, in_city(city), status="draft")
    looks: list[str] = []

    def work() -> None:
        with open_parts(settings) as parts:
            parts.campaigns.change_status(campaign_id, CampaignStatus.QUEUED)
            freeze_audience(parts, campaign_id)
            send_chunk(parts, campaign_id, 0, holder=unique("run"))
            finish_sending(parts, campaign_id)

    def pause(seconds: float) -> None:
        looks.append("look")
        if len(looks) == 3:
            work()
        assert len(looks) < 10, "it should have ended"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("email_platform.cli.campaign_watch.time.sleep", pause)
        result = run("campaign", "watch", campaign_id)
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert [line.split(": ")[1].split()[0] for line in lines if line.startswith("campaign ") and "|" in line] == [
        "draft",
        "sent",
    ]
    assert f"it is a draft. To do: see it: email-platform campaign plan {campaign_id}" in result.output
    assert "3 accepted, 0 rejected, 0 unknown of 3" in result.output
    assert lines[-1] == f"campaign {campaign_id} is sent"
    assert "\x1b" not in result.output


def test_watch_ends_with_1_and_the_reason_where_the_campaign_failed(oltp_engine: Engine) -> None:
    campaign_id = queue_campaign(oltp_engine, {"all": []}, status="failed", status_reason="the [b]template")
    result = run("campaign", "watch", campaign_id)
    assert result.exit_code == 1
    assert f"campaign {campaign_id} is failed: the [b]template" in result.output
    assert f"mend that, then email-platform campaign queue {campaign_id}" in result.output


def test_watch_draws_a_table_on_a_terminal(oltp_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes the output for a terminal
    monkeypatch.setenv("TERM", "xterm")
    campaign_id = queue_campaign(oltp_engine, {"all": []}, status="sent", name="Spring [b]\x1b[2J")
    result = run("campaign", "watch", campaign_id)
    assert result.exit_code == 0, result.output
    assert "eligible" in result.output
    assert "Spring [b]\\x1b[2J" in result.output
    assert "\x1b[2J" not in result.output
