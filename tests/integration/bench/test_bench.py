"""The benchmark runs to its end on tiny tables, its sides agree, and its report has every line. No time is asserted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.slow]

PROJECT = Path(__file__).parents[3]
QUESTIONS = (
    *("leads by campaign by user", "campaign totals, all campaigns", "totals of one campaign"),
    *("lead history", "bounces by domain", "address look-up"),
)
FROM_MARTS = (
    *("campaign totals, all campaigns (mart)", "totals of one campaign (mart)", "lead history (mart)"),
    *("address look-up (mart)", "bounces by domain (mart)", "a user's emails by day (mart)"),
    "leads by campaign by user (mart)",
)
WAYS = (
    *("old: single-row inserts", "old: inserts of 50", "old: COPY of 10,000"),
    *("engine: raw insert, objects of 10,000", "platform: loader, objects of 10,000"),
    *("engine: raw insert, objects of 50,000", "platform: loader, objects of 50,000"),
)


@pytest.mark.timeout(600)
def test_the_sides_answer_the_same_and_the_report_has_every_line(tmp_path: Path) -> None:
    figures, docs = tmp_path / "figures.json", tmp_path / "docs"
    command = [sys.executable, "-m", "bench.old_table_or_platform", "--scale", "tiny"]
    command += ["--results", str(figures), "--docs", str(docs)]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    results = json.loads(figures.read_text(encoding="utf-8"))
    assert results["reconciled at 20000"]["questions"] == len(QUESTIONS + FROM_MARTS)
    assert set(results["writes"]["rates"]) == set(WAYS)
    page = (docs / "benchmarks.md").read_text(encoding="utf-8")
    for rows, sides in (("20,000", {"old", "new"}), ("50,000", {"new"})):
        for load, name in (("at rest", "rest"), ("under writes", "writes")):
            stage = results[f"reports at {rows.replace(',', '')} {load}"]
            asked = QUESTIONS + FROM_MARTS if "old" in sides else QUESTIONS
            for question in asked:
                assert set(stage["ms"][question]) == sides
                assert f"| {rows} | {name} | {question} |" in page
    assert page.count("| met |") + page.count("| **missed** |") == 4, "every goal is judged"
    assert all(f"| {way} |" in page for way in WAYS)
    assert (docs / "images" / "benchmark.png").stat().st_size > 10_000
