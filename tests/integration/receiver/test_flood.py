"""The short form of `make flood`: every fault at least once, and every count equal."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.flood.flood import FloodPlan, run_flood

pytestmark = [pytest.mark.integration, pytest.mark.slow]


def test_a_flood_with_faults_is_acknowledged_and_stored_to_the_last_event_and_nothing_else(tmp_path: Path) -> None:
    reported: list[str] = []
    lines = run_flood(tmp_path, FloodPlan(events=20_000, seconds=60.0, seed=7), report=reported.append)
    assert [line for line in lines if not line.holds] == [], reported
    assert any("is killed" in line for line in reported)
