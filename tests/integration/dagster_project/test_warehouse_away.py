"""A warehouse that hangs delays reports and nothing else.

The embedded ClickHouse's process is stopped (SIGSTOP): it goes on taking connections and answers nothing, as a server
does that is overloaded or whose machine swaps.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import psutil
import pytest
from sqlalchemy import Engine
from typer.testing import CliRunner

from email_platform.adapters.assembly import open_parts, open_warehouse
from email_platform.cli.app import app
from email_platform.cli.failures import ExitCode
from email_platform.definitions import defs
from email_platform.errors import PartUnavailableError
from email_platform.runs.load import load_staged, prove
from email_platform.settings import Settings, variable_of
from tests.integration.campaign_rows import in_city, numbered, queue_campaign, row_of, seed_leads

SHORT_SECONDS = 1.0
DBT = Path(__file__).parents[3] / "dbt_reports"


@contextmanager
def stopped_clickhouse(settings: Settings) -> Iterator[None]:
    """The stack's ClickHouse process, stopped within the block."""
    folder = str(settings.state_folder)
    found = [
        process
        for process in psutil.process_iter(["cmdline", "environ"])
        if "email_platform.local.clickhouse_endpoint" in (process.info["cmdline"] or [])
        and folder in " ".join([*process.info["cmdline"], *(process.info["environ"] or {}).values()])
    ]
    assert found, "the embedded ClickHouse does not run"
    for process in found:
        process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in found:
            process.send_signal(signal.SIGCONT)


def test_a_campaign_is_sent_and_staged_while_the_warehouse_hangs_and_loaded_when_it_is_back(
    oltp_engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable_of("state_folder"), str(settings.state_folder))
    campaign_id = queue_campaign(oltp_engine, in_city(seed_leads(oltp_engine, numbered(120))))
    with stopped_clickhouse(settings), dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("campaign", [str(campaign_id)])
        run = defs.resolve_job_def("campaign_job").execute_in_process(partition_key=str(campaign_id), instance=instance)
        assert run.success
        assert row_of(oltp_engine, campaign_id).status == "sent"
        with pytest.raises(PartUnavailableError, match="does not answer"), open_warehouse(settings, SHORT_SECONDS):
            pass
    with open_parts(settings) as parts, open_warehouse(settings) as warehouse:
        load_staged(parts.register, warehouse)
        assert prove(parts, warehouse, campaign_id).holds
        assert warehouse.delivery_counts(campaign_id)["accepted"] == 120


def test_a_refresh_of_the_reports_gives_up_a_warehouse_without_a_sign_of_life(
    settings: Settings, tmp_path: Path
) -> None:
    def dbt(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "email_platform.adapters.dbt", *arguments]
        environment = {**os.environ, **settings.variables(), "EMAIL_PLATFORM_DBT_SILENCE_SECONDS": "2"}
        folders = ("--project-dir", str(DBT), "--profiles-dir", str(DBT), "--target-path", str(tmp_path))
        return subprocess.run(
            [*command, *folders, "--log-path", str(tmp_path)],
            env=environment,
            text=True,
            capture_output=True,
            check=False,
        )

    chosen = ("run", "--select", "stg_users")
    with stopped_clickhouse(settings):
        hung = dbt(*chosen)
    assert hung.returncode != 0, hung.stdout
    assert "timed out" in hung.stdout.lower(), hung.stdout
    back = dbt(*chosen)
    assert back.returncode == 0, back.stdout


def test_a_look_up_from_the_command_line_says_that_the_warehouse_hangs(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in settings.variables().items():
        monkeypatch.setenv(name, value)
    look_up = ["warehouse", "find", "--address", "somebody@example.org"]
    with stopped_clickhouse(settings):
        hung = CliRunner().invoke(app, look_up)
    assert (hung.exit_code, "does not answer" in hung.output) == (ExitCode.REFUSED, True), hung.output
    assert CliRunner().invoke(app, look_up).exit_code == 0


def test_a_reader_whose_statement_hangs_gets_an_error_and_the_next_one_is_served(settings: Settings) -> None:
    with open_warehouse(settings, SHORT_SECONDS) as warehouse:
        assert warehouse.query("select 1", {}) == [(1,)]
        with stopped_clickhouse(settings), pytest.raises(PartUnavailableError, match="does not answer"):
            warehouse.query("select 2", {})
        assert warehouse.query("select 3", {}) == [(3,)]
