"""What production runs, on the real parts, in an interpreter without the extra and without `email_platform.local`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import httpx
import pytest
from sqlalchemy import Engine

from email_platform.local.stack.part import free_port
from email_platform.settings import Settings
from tests.integration.campaign_rows import in_city, queue_campaign
from tests.without_the_extra import PROJECT_FOLDER, command_without_the_extra, run_without_the_extra

pytestmark = [pytest.mark.integration, pytest.mark.slow]


@pytest.fixture
def environment(settings: Settings) -> dict[str, str]:
    return {**settings.variables(), "PATH": os.environ["PATH"], "COLUMNS": "200"}


def test_the_schemas_are_made_and_every_part_is_asked(environment: dict[str, str], tmp_path: Path) -> None:
    migrated = run_without_the_extra(["migrate"], environment, tmp_path)
    assert migrated.returncode == 0, migrated.stderr
    asked = run_without_the_extra(["doctor", "--json"], environment, tmp_path)
    checks = {check["part"]: check for check in json.loads(asked.stdout) if check["group"] == "part"}
    assert len(checks) == 10, asked.stderr
    wrong = [check for part, check in checks.items() if not check["fits"] and part != "provider accounts"]
    assert wrong == []


def test_campaigns_are_listed_and_previewed(environment: dict[str, str], tmp_path: Path, oltp_engine: Engine) -> None:
    campaign_id = queue_campaign(oltp_engine, in_city("nowhere"), status="draft")
    listed = run_without_the_extra(["campaign", "list", "--json", "--limit", "1"], environment, tmp_path)
    assert listed.returncode == 0, listed.stderr
    assert [row["campaign_id"] for row in json.loads(listed.stdout)] == [campaign_id]
    previewed = run_without_the_extra(["campaign", "preview", str(campaign_id)], environment, tmp_path)
    assert previewed.returncode == 0, previewed.stderr


def test_the_definitions_of_dagster_load(environment: dict[str, str], tmp_path: Path) -> None:
    loaded = run_without_the_extra([], environment, tmp_path, program="import email_platform.definitions")
    assert loaded.returncode == 0, loaded.stderr


def test_events_are_received_until_the_process_is_asked_to_end(environment: dict[str, str], tmp_path: Path) -> None:
    port = free_port()
    process = subprocess.Popen(
        command_without_the_extra(["events", "--port", str(port)]),
        env={**environment, "PYTHONPATH": str(PROJECT_FOLDER)}, cwd=tmp_path, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stderr is not None
        line = next(line for line in process.stderr if "receiving events on" in line)
        address = line.split()[-1]
        assert httpx.get(f"{address}/health").status_code == 200
        health = httpx.get(f"{address}/healthz")
        assert (health.status_code, health.json()["status"]) == (200, "ok")
        environment |= {"EMAIL_PLATFORM_RECEIVER_URL": address}
        asked = run_without_the_extra(["doctor", "--json"], environment, tmp_path)
        receiver = next(check for check in json.loads(asked.stdout) if check["part"] == "receiver")
        assert (receiver["fits"], f"serves at {address}" in receiver["says"]) == (True, True)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        process.stderr.close()
