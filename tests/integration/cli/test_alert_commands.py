"""`email-platform alert list` and `alert test` on the real outbox and a real HTTP server."""

from __future__ import annotations

import json

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine, delete
from typer.testing import CliRunner, Result

from email_platform.adapters.assembly import open_alerts
from email_platform.adapters.postgres.tables import alert
from email_platform.alerting.condition import Condition
from email_platform.alerting.watch import Finding, ring
from email_platform.cli.app import app
from email_platform.settings import Settings, variable_of
from tests.integration.alert_server import alert_server
from tests.integration.campaign_rows import in_city, queue_campaign, row_of, unique

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("environment")]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_alerts_are_listed_with_the_command_that_mends_them_and_what_was_not_sent(
    settings: Settings, oltp_engine: Engine
) -> None:
    found = Condition("test", unique("subject"), "it broke", "they wait", "mend it")
    with alert_server(lambda: 500) as (address, _):
        target = settings.model_copy(update={"alert_webhook_url": SecretStr(address)})
        with open_alerts(target) as parts, pytest.raises(Exception, match="did not take"):
            ring(parts, found)
    try:
        listed = run("alert", "list")
        assert listed.exit_code == 0, listed.output
        for text in ("it broke", "they wait", "mend it", "1 messages", "answered 500"):
            assert text in listed.output
        (row,) = [one for one in json.loads(run("alert", "list", "--json").stdout) if one["subject"] == found.subject]
        assert (row["kind"], row["command"], row["resolved_at"]) == ("test", "mend it", None)
        with open_alerts(settings) as parts:
            parts.book.reconcile(Finding(["test"], subjects=[found.subject]), (), parts.clock())
        assert found.subject not in run("alert", "list", "--json").stdout
        assert found.subject in run("alert", "list", "--all", "--json").stdout
    finally:
        with oltp_engine.begin() as connection:
            connection.execute(delete(alert).where(alert.c.subject == found.subject))


def test_a_test_says_of_each_target_whether_it_took_both_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    no_target = run("alert", "test")
    assert no_target.exit_code == 1
    assert "EMAIL_PLATFORM_ALERT_URLS" in no_target.output
    answers = iter([200, 200, 200, 403])
    with alert_server(lambda: next(answers)) as (address, heard):
        monkeypatch.setenv(variable_of("alert_webhook_url"), address)
        assert run("alert", "test").exit_code == 0
        assert [one["state"] for one in heard] == ["raised", "resolved"]
        refused = run("alert", "test", "--json")
    assert refused.exit_code == 1
    assert json.loads(refused.stdout) == [
        {"target": "webhook", "taken": False, "problem": "the alert's webhook did not take it: answered 403"}
    ]


def test_a_pause_with_words_of_its_own_is_still_the_operators(oltp_engine: Engine) -> None:
    campaign_id = queue_campaign(oltp_engine, in_city("nowhere"))
    assert run("campaign", "pause", campaign_id, "--reason", "wait for the lawyers").exit_code == 0
    assert row_of(oltp_engine, campaign_id).status_reason == "by an operator: wait for the lawyers"
