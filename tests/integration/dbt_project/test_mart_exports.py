"""Marts as files: every row once, hostile texts as they are, in memory that does not grow with the mart."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from email_platform.adapters.clickhouse import reports_database
from email_platform.adapters.clickhouse.exports import MARTS as EXPORTED
from email_platform.adapters.clickhouse.exports import export_mart
from email_platform.cli.app import app
from email_platform.errors import CommandRefusedError
from tests.integration.dbt_project.test_dbt_reports import (
    HOSTILE,
    LONGEST_ADDRESS,
    MARTS,
    NOON,
    Reports,
    campaign,
    delivery,
    reports,
    user,
)

pytestmark = [pytest.mark.integration, pytest.mark.slow]

__all__ = ["reports"]

ODD = f'\r\n,""=cmd()|{HOSTILE}\x00'
# Its own process: what the test's has used before would hide the growth.
PEAK_OF_AN_EXPORT = """
import resource, sys
from pathlib import Path
from email_platform.adapters.assembly import open_warehouse
from email_platform.adapters.clickhouse.exports import export_mart
from email_platform.settings import Settings
with open_warehouse(Settings.load()) as warehouse:
    rows = export_mart(warehouse, "lead_history", Path(sys.argv[2]), sys.argv[1])
print(rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def comparable(rows: list[dict[str, Any]]) -> list[str]:
    """The rows as texts in one order; the two readers name the zone UTC differently."""
    return sorted(
        repr([(name, value.isoformat() if isinstance(value, datetime) else value) for name, value in row.items()])
        for row in rows
    )


def test_the_marts_that_can_be_exported_are_those_of_the_project() -> None:
    assert EXPORTED == MARTS


def test_every_mart_becomes_a_file_with_each_row_as_it_is(
    reports: Reports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in reports.settings.variables().items():
        monkeypatch.setenv(name, value)
    reports.load_deliveries(1, [
        delivery(1, 1, "accepted", NOON, email=LONGEST_ADDRESS),
        delivery(1, 2, "rejected", NOON + timedelta(milliseconds=1), error_code="550", error_message=ODD, email=ODD),
        delivery(1, 3, "unknown", NOON),
    ])  # fmt: skip
    reports.load_deliveries(2, [delivery(2, 1, "accepted", NOON)])
    both = [campaign(1, eligible=3), campaign(2, eligible=1)]
    reports.load_dimensions({"app_user": [user(1)], "campaign": both}, NOON + timedelta(days=1))
    reports.models()

    for mart in MARTS:
        kept: list[dict[str, Any]] = reports.rows(mart, "tuple(*)")
        parquet, text = tmp_path / f"{mart}.parquet", tmp_path / f"{mart}.csv"
        assert export_mart(reports.warehouse, mart, parquet, "parquet") == len(kept)
        assert export_mart(reports.warehouse, mart, text, "csv") == len(kept)
        assert comparable(pq.read_table(parquet).to_pylist()) == comparable(kept)
        with text.open(newline="", encoding="utf-8") as lines:
            read = list(csv.DictReader(lines))
        assert len(read) == len(kept)
        if kept:
            assert list(read[0]) == list(kept[0])
    with (tmp_path / "campaign_recipients.csv").open(newline="", encoding="utf-8") as lines:
        recipients = {row["lead_id"]: row for row in csv.DictReader(lines) if row["campaign_id"] == "1"}
    assert (recipients["1"]["email"], recipients["2"]["email"]) == (LONGEST_ADDRESS, ODD)
    assert recipients["2"]["error"] == f"550: {ODD}"
    assert recipients["2"]["occurred_at"] == "2026-03-28 12:00:00.001Z"
    without_rows = (tmp_path / "suppression_growth.csv").read_text()
    assert without_rows.startswith('"activity_date","reason"'), "a mart without rows has its columns"
    assert without_rows.count("\n") == 1

    one = tmp_path / "one.csv"
    one.write_text("older")
    words = ["report", "export", "campaign_recipients", "--campaign", "2", "--out", str(one)]
    result = CliRunner().invoke(app, words)
    assert (result.exit_code, "(1 rows)" in result.output) == (0, True), result.output
    assert len(one.read_text().splitlines()) == 2
    for mart, problem in (("raw.delivery", "there is no mart"), ("sender_activity", "no single campaign")):
        with pytest.raises(CommandRefusedError, match=problem):
            export_mart(reports.warehouse, mart, one, "csv", 2)
    assert len(one.read_text().splitlines()) == 2, "the file of before is left"
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_memory_does_not_grow_with_the_mart(reports: Reports, tmp_path: Path, form: str) -> None:
    """Ten times the rows, at most a third more memory; a file of them would be 10 times as large."""
    database = reports_database(reports.settings.clickhouse_url.get_secret_value())
    reports.warehouse.client.command(f"create database if not exists {database}")
    peaks = []
    for rows in (100_000, 1_000_000):
        reports.warehouse.client.command(
            f"create or replace view {database}.lead_history as select number as lead_id, "
            f"number % 7 as campaign_id, concat(toString(cityHash64(number)), '@example.org') as email "
            f"from numbers({rows})"
        )
        ended = subprocess.run(
            [sys.executable, "-c", PEAK_OF_AN_EXPORT, form, str(tmp_path / "out")],
            env={**os.environ, **reports.settings.variables()},
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert ended.returncode == 0, ended.stderr
        written, peak_mebibytes = map(int, ended.stdout.split())
        assert written == rows
        peaks.append(peak_mebibytes)
    assert peaks[1] < 1.33 * peaks[0], peaks
