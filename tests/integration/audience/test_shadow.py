"""The old system's campaign beside ours: who differs, and why, from real rows in PostgreSQL and ClickHouse."""

from __future__ import annotations

import csv
import json
from datetime import date
from pathlib import Path

import pytest
from sqlalchemy import insert, text
from typer.testing import CliRunner

from email_platform.adapters.old_systems import import_legacy_month
from email_platform.adapters.postgres.erased import erasure_key
from email_platform.adapters.postgres.tables import erasure
from email_platform.cli.app import app
from email_platform.local.demo.legacy_emails import LegacyTable, generate_legacy_emails
from email_platform.runs.legacy_table import Month
from email_platform.settings import Settings
from tests.integration.own_databases import closing_engine, own_settings

pytestmark = pytest.mark.integration

OLD = {
    "same@example.com": "sent", "Bounced@Example.com": "bounced", "suppressed@example.com": "sent",
    "out@example.com": "sent", "moved@example.com": "sent", "gone@example.com": "sent", "failed@example.com": "failed",
    "queued@example.com": "queued", "broken": "sent", "erased@example.com": "sent",
}  # fmt: skip


@pytest.fixture
def settings(stack: Settings) -> Settings:
    settings = own_settings(stack, "shadow")
    with closing_engine(settings.legacy_url.get_secret_value()) as engine:
        generate_legacy_emails(engine, LegacyTable(1, date(2025, 1, 1), 1))
        with engine.begin() as connection:
            connection.execute(text("delete from email"))
            for number, (email, status) in enumerate([*OLD.items(), ("same@example.com", "queued")]):
                connection.execute(
                    text("insert into email (campaign_id, user_id, lead_id, email, subject, status, created_at) "
                         "values (7, 1, :lead, :email, 's', :status, '2025-01-03')"),
                    {"lead": number, "email": email, "status": status},
                )  # fmt: skip
    import_legacy_month(settings, Month(2025, 1))
    key = erasure_key(settings)
    assert key is not None
    with closing_engine(settings.postgres_url.get_secret_value()) as engine, engine.begin() as connection:
        connection.execute(text("insert into app_user (email, name) values ('a@example.com', 'Ada')"))
        connection.execute(text("insert into sender (owner_id, from_address, from_name) values (1, 'a@e.com', 'Ada')"))
        for email, country in [*((email, "DE") for email in OLD if email not in ("gone@example.com",)),
                               ("new@example.com", "DE"), ("SAME@example.com", "DE")]:  # fmt: skip
            country = "FR" if email == "moved@example.com" else country
            connection.execute(text("insert into lead (email, country) values (:e, :c)"), {"e": email, "c": country})
        connection.execute(text("update lead set unsubscribed_at = now() where email = 'out@example.com'"))
        connection.execute(
            text("insert into suppression (address, reason, source) values ('suppressed@example.com', 'manual', 't')")
        )
        # Erased, and imported again from the old system since.
        pseudonym = key.pseudonym("erased@example.com")
        connection.execute(insert(erasure).values(pseudonym=pseudonym, key_id=key.key_id))
    return settings


def test_everybody_is_in_one_group_with_the_reason(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in settings.variables().items():
        monkeypatch.setenv(name, value)
    condition, out = tmp_path / "audience.json", tmp_path / "who.csv"
    condition.write_text(json.dumps({"field": "country", "op": "eq", "value": "DE"}))
    arguments = [
        "adopt",
        "shadow",
        "--campaign",
        "7",
        "--condition",
        str(condition),
        "--sender",
        "1",
        "--out",
        str(out),
    ]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1, result.output
    with out.open(encoding="utf-8", newline="") as file:
        found = {row["address"]: (row["group"], row["why"]) for row in csv.DictReader(file)}
    assert found == {
        "same@example.com": ("both", "both"),
        "bounced@example.com": ("both", "both"),
        "suppressed@example.com": ("old_only", "suppressed"),
        "out@example.com": ("old_only", "unsubscribed"),
        "broken": ("old_only", "invalid_address"),
        "erased@example.com": ("old_only", "suppressed"),
        "moved@example.com": ("old_only", "condition"),
        "gone@example.com": ("old_only", "no_lead"),
        "new@example.com": ("ours_only", "no_row"),
        "failed@example.com": ("ours_only", "failed"),
        "queued@example.com": ("ours_only", "queued"),
    }
    assert "2 addresses on both sides, 6 only there, 3 only here" in result.output
    missing = CliRunner().invoke(app, [*arguments[:3], "8", *arguments[4:]])
    assert missing.exit_code == 1
    assert "import its month first" in missing.output
