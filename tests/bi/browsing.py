"""A dashboard of Superset in a browser, and what each of its charts got from the warehouse.

The queries are those that the browser sends (`POST /api/v1/chart/data`), with the dashboard's filters: Superset's API
answers each with its rows or its error, https://superset.apache.org/docs/api.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from PIL import Image

from tests.bi.superset import RunningSuperset

WAIT_SECONDS = 240.0
# Tall enough for a whole dashboard: Superset draws a chart when it comes into view.
_VIEW = {"width": 1500, "height": 2600}


@dataclass
class Dashboard:
    """A dashboard that is open.

    Attributes:
        page: Playwright's.
        answers: what each chart's last query got, by the chart's id: Superset's answer, or an error.
    """

    page: Any
    answers: dict[int, Mapping[str, Any]] = field(default_factory=dict)

    def heard(self, response: Any) -> None:
        """Keep the answer to a chart's query."""
        parts = urlsplit(response.url)
        if parts.path != "/api/v1/chart/data" or response.request.method != "POST":
            return
        [asked] = parse_qs(parts.query).get("form_data", ["{}"])
        chart = json.loads(asked).get("slice_id")
        if chart is not None:
            self.answers[int(chart)] = (
                response.json() if response.ok else {"error": f"{response.status}: {response.text()[:300]}"}
            )

    def until(self, is_so: Callable[[], bool], what: str) -> None:
        """Wait for something of the page.

        Raises:
            TimeoutError: it did not come about.
        """
        deadline = time.monotonic() + WAIT_SECONDS
        while not is_so():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what}: not after {WAIT_SECONDS:.0f} s on {self.page.url}")
            self.page.wait_for_timeout(250)

    def settle(self) -> None:
        """Wait until nothing loads and charts have ended their movement."""
        loading = self.page.locator('[data-test="loading-indicator"], .loading')
        self.until(lambda: loading.count() == 0, "charts still load")
        self.page.wait_for_timeout(2_500)

    def choose(self, filter_id: str, value: str) -> None:
        """Choose one value of a filter in the bar on the left, and apply it; then only answers to that are kept."""
        box = self.page.get_by_role("combobox", name=filter_id, exact=True)
        box.click(force=True)
        box.fill(value)
        self.page.locator(".ant-select-item-option", has_text=value).first.click()
        self.page.wait_for_timeout(1_000)
        self.settle()
        self.answers.clear()
        self.page.locator('[data-test="filter-bar__apply-button"]').click()

    def picture(self, file: Path) -> None:
        """The whole dashboard as PNG of 256 colours."""
        bottom = self.page.evaluate(
            "Math.max(...[...document.querySelectorAll('.dashboard-component-chart-holder')]"
            ".map(one => one.getBoundingClientRect().bottom))"
        )
        self.page.set_viewport_size({"width": _VIEW["width"], "height": int(bottom) + 24})
        self.settle()
        self.page.screenshot(path=file)
        with Image.open(file) as taken:
            taken.convert("RGB").quantize(256).save(file, format="png", optimize=True)


@contextmanager
def opened_dashboard(browser: Any, superset: RunningSuperset, slug: str) -> Iterator[Dashboard]:
    """Log in and open a dashboard by its slug."""
    context = browser.new_context(base_url=superset.url, viewport=_VIEW)
    context.set_default_timeout(WAIT_SECONDS * 1000)
    page = context.new_page()
    dashboard = Dashboard(page)
    try:
        page.goto("/login/", wait_until="domcontentloaded")
        page.locator("input#username, input[name=username]").first.fill(superset.user)
        page.locator("input#password, input[name=password]").first.fill(superset.password)
        page.locator("button[type=submit], input[type=submit]").first.click()
        # Not its load event: what it would fetch from elsewhere may never come.
        page.wait_for_url("**/superset/welcome/", wait_until="commit")
        page.on("response", dashboard.heard)
        page.goto(f"/superset/dashboard/{slug}/", wait_until="domcontentloaded")
        yield dashboard
    finally:
        context.close()
