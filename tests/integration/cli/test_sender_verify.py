"""`sender verify` as an operator types it."""

from __future__ import annotations

import json

import pytest
from sqlalchemy import Engine, select
from typer.testing import CliRunner, Result

from email_platform.adapters.postgres.tables import campaign
from email_platform.cli.app import app
from tests.integration.campaign_rows import in_city, queue_campaign, unique

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("environment")]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def sender_of(engine: Engine, **values: str) -> int:
    campaign_id = queue_campaign(engine, in_city("nowhere"), status="draft", sender=values)
    with engine.connect() as connection:
        return connection.execute(select(campaign.c.sender_id).where(campaign.c.id == campaign_id)).scalar_one()


def test_it_says_that_it_cannot_know_and_ends_with_1(oltp_engine: Engine) -> None:
    result = run("sender", "verify", sender_of(oltp_engine))
    assert result.exit_code == 1
    assert "news@example.com: not known; the simulator takes every sender" in result.output


def test_it_asks_the_senders_own_account(oltp_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    account = unique("verify").replace("-", "_")
    sender_id = sender_of(oltp_engine, provider="resend", provider_account=account)
    missing = run("sender", "verify", sender_id)
    assert (missing.exit_code, f"EMAIL_PLATFORM_RESEND_{account.upper()}_API_KEY" in missing.stderr) == (2, True)
    monkeypatch.setenv(f"EMAIL_PLATFORM_RESEND_{account.upper()}_API_KEY", "sekret")
    monkeypatch.setenv(f"EMAIL_PLATFORM_RESEND_{account.upper()}_BASE_URL", "http://127.0.0.1:9")
    away = run("sender", "verify", sender_id, "--json")
    document = json.loads(away.stdout)
    assert (away.exit_code, document["verdict"], "sekret" in away.output) == (1, "unknown", False)
    assert "ConnectError" in document["says"]
    nobody = run("sender", "verify", 2**62)
    assert (nobody.exit_code, "sender list" in nobody.stderr) == (1, True)
