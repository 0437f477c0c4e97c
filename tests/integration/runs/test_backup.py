"""What a backup of PostgreSQL brings back, and what the bucket adds: docs/production.md, "Backup and restore"."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine, make_url, select, text

from email_platform.adapters.assembly import open_oltp, open_parts, open_warehouse
from email_platform.adapters.postgres.migrate import upgrade_to_head
from email_platform.adapters.postgres.tables import send_call
from email_platform.local.provider_simulator import AcceptedLog
from email_platform.local.stack.postgres import prepare_server
from email_platform.runs.finish import finish_sending
from email_platform.runs.freeze import freeze_audience
from email_platform.runs.load import account, load_staged
from email_platform.runs.parts import Parts
from email_platform.runs.rebuild import rebuild_warehouse
from email_platform.runs.send import send_chunk
from email_platform.settings import Settings
from email_platform.staging.accounting import require_all
from tests.integration.campaign_rows import in_city, numbered, queue_campaign, row_of, seed_leads
from tests.integration.own_databases import own_settings, own_warehouse

pytestmark = [pytest.mark.integration, pytest.mark.slow]


@pytest.fixture(scope="module")
def before(stack: Settings) -> Settings:
    return own_settings(stack, "backup")


def tool(settings: Settings, program: str, database: str, *arguments: str) -> None:
    """Run a program of PostgreSQL's against a database of the stack's server."""
    url = make_url(settings.postgres_url.get_secret_value())
    binaries = prepare_server(settings.state_folder).binaries
    where = ["--host", str(url.host), "--port", str(url.port), "--username", str(url.username), "--dbname", database]
    environment = {**os.environ, "PGPASSWORD": str(url.password)}
    subprocess.run([str(binaries / program), *where, *arguments], env=environment, check=True, capture_output=True)


def send(parts: Parts, campaign_id: int) -> int:
    """Freeze, send and finish; returns the calls that were made now."""
    manifest = freeze_audience(parts, campaign_id).manifest
    reports = [send_chunk(parts, campaign_id, index, holder="backup") for index in range(manifest.chunk_count)]
    finish_sending(parts, campaign_id)
    return sum(report.progress.sent_calls for report in reports)


def ledger(engine: Engine, campaign_id: int) -> list[Any]:
    with engine.connect() as connection:
        of_campaign = select(send_call).where(send_call.c.campaign_id == campaign_id).order_by(send_call.c.call_index)
        return [tuple(row) for row in connection.execute(of_campaign.order_by(send_call.c.chunk_index))]


@pytest.fixture(scope="module")
def restored(before: Settings, tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, int, int]:
    """One campaign was sent before the backup, one after it; then the database and the warehouse were lost."""
    dump = Path(tmp_path_factory.mktemp("backup")) / "backup.dump"
    database = str(make_url(before.postgres_url.get_secret_value()).database)
    with open_parts(before) as parts, open_oltp(before) as engine, open_warehouse(before) as warehouse:
        early, late = (queue_campaign(engine, in_city(seed_leads(engine, numbered(150)))) for _ in range(2))
        assert send(parts, early) == 3
        tool(before, "pg_dump", database, "--format=custom", f"--file={dump}")
        assert send(parts, late) == 3
        load_staged(parts.register, warehouse)
        known = ledger(engine, early)
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text(f"create database {database}_restored"))
    tool(before, "pg_restore", f"{database}_restored", "--no-owner", "--exit-on-error", str(dump))
    url = make_url(before.postgres_url.get_secret_value()).set(database=f"{database}_restored")
    after = own_warehouse(before, "test_backup_restored").model_copy(
        update={"postgres_url": SecretStr(url.render_as_string(hide_password=False))}
    )
    upgrade_to_head(url.render_as_string(hide_password=False))
    with open_oltp(after) as engine:
        assert ledger(engine, early) == known, "the ledger of what was sent before is the same, row by row"
        assert not ledger(engine, late), "of what was sent after the backup, PostgreSQL knows nothing"
        assert row_of(engine, late).status == "queued"
    return after, early, late


def test_the_bucket_fills_warehouse_and_register_with_what_was_sent_before_and_after_the_backup(
    restored: tuple[Settings, int, int],
) -> None:
    settings, early, late = restored
    with open_parts(settings) as parts, open_warehouse(settings) as warehouse:
        rebuild_warehouse(parts.store, parts.register, parts.manifests, warehouse)
        for campaign_id in (early, late):
            assert warehouse.delivery_counts(campaign_id)["accepted"] == 150
            assert parts.register.staged_rows(campaign_id)["delivery"] == (150, 150)
        require_all(account(parts, warehouse, early))


def test_sending_again_what_the_backup_does_not_know_mails_nobody_twice_where_keys_are_honoured(
    restored: tuple[Settings, int, int],
) -> None:
    settings, early, late = restored
    with open_parts(settings) as parts, open_oltp(settings) as engine:
        assert send(parts, early) == 0, "its ledger came back"
        assert send(parts, late) == 3
        assert row_of(engine, late).status == "sent"
    mailed = AcceptedLog(Path(settings.state_folder) / "provider").summary(str(late))
    assert (mailed.accepted_rows, mailed.distinct_message_ids) == (150, 150)
