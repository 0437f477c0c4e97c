"""`make bi`: the dashboards as Superset imports, asks and draws them, on a real warehouse and in a real browser."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.bi.browsing import opened_dashboard
from tests.bi.superset import ENVIRONMENT, EXPORT, RunningSuperset, running_superset
from tests.bi.warehouse import CAMPAIGNS, small_warehouse

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install .[dev]")

CHROMIUM = shutil.which("chromium")
PICTURES = os.environ.get("EMAIL_PLATFORM_BI_PICTURES")

pytestmark = [
    pytest.mark.bi,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: apt-get install chromium"),
    pytest.mark.skipif(
        not (ENVIRONMENT / "superset").exists(), reason="Superset is not installed: make bi installs it"
    ),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bi")


@pytest.fixture(scope="module")
def superset(home: Path) -> Iterator[RunningSuperset]:
    with small_warehouse(home) as reports:
        url = reports.settings.clickhouse_url.get_secret_value()
        with running_superset(home / "superset", url) as started:
            yield started


@pytest.fixture(scope="module")
def browser(superset: RunningSuperset) -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


def charts_of(dashboard: str) -> set[str]:
    position = yaml.safe_load((EXPORT / "dashboards" / f"{dashboard}.yaml").read_text(encoding="utf-8"))["position"]
    return {one["meta"]["sliceName"] for one in position.values() if isinstance(one, dict) and one["type"] == "CHART"}


@pytest.mark.parametrize(("dashboard", "slug"), [("campaign_report", "campaign-report"), ("overview", "overview")])
def test_every_chart_of_a_dashboard_gets_rows_and_is_drawn(
    dashboard: str, slug: str, superset: RunningSuperset, browser: Any, home: Path
) -> None:
    expected = charts_of(dashboard)
    with opened_dashboard(browser, superset, slug) as opened:
        opened.until(lambda: len(opened.answers) >= len(expected), "every chart asked the warehouse")
        opened.settle()
        for chart, answer in opened.answers.items():
            assert "error" not in answer, (chart, answer)
            for result in answer["result"]:
                assert result["error"] is None, (chart, result["error"])
                assert result["rowcount"] > 0, (chart, result["query"])
        assert len(opened.answers) == len(expected)
        shown = {" ".join(one.split()) for one in opened.page.locator('[data-test="editable-title"]').all_inner_texts()}
        assert expected <= shown
        opened.picture(Path(PICTURES or home) / f"{slug}.png")


def test_a_campaign_is_chosen_by_its_name_and_every_chart_follows(superset: RunningSuperset, browser: Any) -> None:
    with opened_dashboard(browser, superset, "campaign-report") as opened:
        opened.until(
            lambda: len(opened.answers) >= len(charts_of("campaign_report")), "every chart asked the warehouse"
        )
        opened.settle()
        newest = {row["name"] for answer in opened.answers.values() for row in rows_of(answer) if "name" in row}
        assert newest == {CAMPAIGNS[-1]}
        opened.choose("NATIVE_FILTER-name", CAMPAIGNS[1])
        opened.settle()
        named = {row["name"] for answer in opened.answers.values() for row in rows_of(answer) if "name" in row}
        assert named == {CAMPAIGNS[1]}
        filtered = [query for answer in opened.answers.values() for query in queries_of(answer)]
        assert all("`campaign_id` IN (2)" in query or "campaign_id IN (2)" in query for query in filtered), filtered


def rows_of(answer: Any) -> list[dict[str, Any]]:
    return [row for result in answer["result"] for row in result["data"]]


def queries_of(answer: Any) -> list[str]:
    return [result["query"] for result in answer["result"]]
