"""docs/api.md is true: its lines, run as they stand there by a shell with curl, send a campaign from end to end.

The whole platform runs beside them: Dagster's daemon starts the campaign's run, loads what it staged and refreshes the
reports.
"""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from email_platform.local.provider_simulator import AcceptedLog
from email_platform.local.stack.stack import ALL_PART_NAMES, clean_environment, running_stack
from email_platform.settings import variable_of

pytestmark = [pytest.mark.integration, pytest.mark.slow]

PAGE = Path(__file__).parents[3] / "docs" / "api.md"
PARTS = set(ALL_PART_NAMES) - {"metrics"}  # the daemon's health is asked of the webserver


@pytest.mark.timeout(600)
def test_the_lines_of_the_page_send_a_campaign_from_its_leads_to_its_report(tmp_path: Path) -> None:
    lines = "\n".join(re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL))
    environ = {**clean_environment(), variable_of("reports_interval_seconds"): "1"}
    with running_stack(tmp_path / "state", environ=environ, parts=PARTS) as settings:
        environment = {
            **clean_environment(),
            **settings.variables(),
            "API": f"http://127.0.0.1:{settings.api_port}",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
        ended = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", lines], env=environment, capture_output=True, text=True, timeout=500
        )
        log = AcceptedLog(tmp_path / "state" / "provider")
        accepted = log.summary("1").accepted_rows, log.summary("1").distinct_message_ids, log.summary("2").accepted_rows
    assert ended.returncode == 0, ended.stdout + ended.stderr
    shown = ended.stdout
    assert '"added":1' in shown
    assert '"subject":"[Test] Hello Ada"' in shown
    assert '"status":"draft","version":2' in shown
    assert '"waits_for":"time"' in shown
    assert '"status_reason":"by an operator: the price is wrong"' in shown
    assert '"status":"sent"' in shown, "as the watch saw it"
    assert "event: end" in shown
    assert accepted == (1, 1, 0), "the campaign went to its lead once, and its copy to nobody"
    assert '"status_reason":"by an operator: the sale is off"' in shown
    assert '"verdict":"accepted"' in shown
    exported = next(csv.DictReader(shown[shown.index("lead_id,email,status") :].splitlines()))
    assert (exported["email"], exported["outcome"]) == ("ada@shop.example", "accepted")
    assert '"reason":"complaint"' in shown
    assert '"path":"/v1/suppressions","status":201' in shown
