"""For all tests: what is long begins first, and nothing is skipped where that is asked for.

Invariant: with EMAIL_PLATFORM_FAIL_ON_SKIP=1, as CI sets it, a test that did not run is a test that failed; and no test
of hypothesis fails because the machine is busy.
"""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest
from hypothesis import HealthCheck, settings

# How fast examples are made and run says nothing of what is tested. A test with checks of its own to leave out names
# this one as well.
settings.register_profile("on a busy machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("on a busy machine")

_FAILS_ON_SKIP = os.environ.get("EMAIL_PLATFORM_FAIL_ON_SKIP", "") == "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put slow modules first, so that the last module of two workers is a short one; the order within stays."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail a test that skips, in its set-up or in itself; an expected failure is no skip."""
    report = yield
    if _FAILS_ON_SKIP and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which EMAIL_PLATFORM_FAIL_ON_SKIP=1 forbids: {_reason(report.longrepr)}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Fail a module that skips itself as a whole."""
    report = yield
    if _FAILS_ON_SKIP and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"skipped, which EMAIL_PLATFORM_FAIL_ON_SKIP=1 forbids: {_reason(report.longrepr)}"
    return report


def _reason(longrepr: object) -> object:
    return longrepr[2] if isinstance(longrepr, tuple) else longrepr
