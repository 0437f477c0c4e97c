"""The benchmark runs to its end on tiny tables, its sides agree, and its report has every line. No time is asserted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.old_table_questions import QUERIES
from bench.old_table_report import GOALS

pytestmark = [pytest.mark.integration, pytest.mark.slow]

PROJECT = Path(__file__).parents[3]
ALL = {query.name for query in QUERIES}
OF_RAW_ROWS = {query.name for query in QUERIES if not query.from_marts and query.by is None}
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
    assert results["reconciled at 20000"]["questions"] == len(ALL)
    assert set(results["writes"]["rates"]) == set(WAYS)
    page = (docs / "benchmarks.md").read_text(encoding="utf-8")
    for rows, at, sides, asked in (
        ("20,000", "at rest", {"old", "new"}, ALL),
        ("20,000", "under writes", {"old", "new"}, ALL),
        ("50,000", "under merges", {"new"}, OF_RAW_ROWS),
        ("50,000", "at rest", {"new"}, ALL),
        ("50,000", "under writes", {"new"}, ALL),
    ):
        stage = results[f"reports at {rows.replace(',', '')} {at}"]
        assert set(stage["ms"]) == asked
        for question in asked:
            assert set(stage["ms"][question]) == sides
            assert f"| {rows} | {at.split()[1]} | {question} |" in page
    assert page.count("| met |") + page.count("| **missed** |") == len(GOALS), "every goal is judged"
    assert "not measured" not in page
    assert all(f"| {way} |" in page for way in WAYS)
    assert (docs / "images" / "benchmark.png").stat().st_size > 10_000
