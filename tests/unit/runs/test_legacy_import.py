"""The old table's import without engines: months, ranges, the throttle, what is read as different."""

from __future__ import annotations

import io
import itertools
from datetime import UTC, date, datetime
from typing import Any

import dagster as dg
import pytest

from assets.legacy_emails import _covered, _reconciled
from assets.legacy_partitions import first_month, month_of
from email_platform.errors import ConfigurationError
from email_platform.local.demo.legacy_emails import practice_database
from email_platform.runs.legacy_import import ImportReport, Throttle, _Measured
from email_platform.runs.legacy_table import Fingerprint, Month, SourceDescription, differing_ranges


@pytest.mark.parametrize(("key", "days"), [("2024-02", 29), ("2025-02", 28), ("2025-12", 31)])
def test_a_month_is_its_days_without_gap_or_overlap(key: str, days: int) -> None:
    month = month_of(key)
    spans = list(month.days())
    assert len(spans) == days
    assert (spans[0][0], spans[-1][1]) == (month.start, month.end)
    assert all(before[1] == after[0] for before, after in itertools.pairwise(spans))
    assert str(month) == key
    assert Month.of(date(2025, 12, 31)).end == datetime(2026, 1, 1, tzinfo=UTC)


def test_ranges_differ_by_count_by_checksum_and_where_one_side_has_none() -> None:
    source = {0: Fingerprint(2, 10), 1: Fingerprint(2, 10), 2: Fingerprint(1, 5), 4: Fingerprint(0, 0)}
    warehouse = {0: Fingerprint(2, 10), 1: Fingerprint(2, 11), 3: Fingerprint(1, 5)}
    assert differing_ranges(source, warehouse) == (1, 2, 3)


def test_a_count_without_checksum_is_never_equal_to_one_with() -> None:
    assert differing_ranges({0: Fingerprint(2, None)}, {0: Fingerprint(2, 0)}) == (0,)
    assert Fingerprint(1, None) + Fingerprint(2, 7) == Fingerprint(3, None)


class FakeTime:
    def __init__(self) -> None:
        self.now = 100.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_the_source_is_never_read_faster_than_the_limit_on_average() -> None:
    fake = FakeTime()
    throttle = Throttle(1000.0, lambda: fake.now, fake.sleep)
    began, rows = fake.now, 0
    for batch, reading_seconds in [(5000, 0.2), (100, 3.0), (0, 0.0), (2000, 0.1), (7000, 1.0)]:
        fake.now += reading_seconds
        throttle.took(batch)
        rows += batch
        assert rows <= 1000.0 * (fake.now - began) + 1000.0, "more than one second's allowance ahead"
    assert throttle.paused_seconds > 0


def test_a_slow_source_is_not_paused() -> None:
    fake = FakeTime()
    throttle = Throttle(1000.0, lambda: fake.now, fake.sleep)
    for _ in range(5):
        fake.now += 10.0
        throttle.took(500)
    assert throttle.paused_seconds == 0.0


def test_what_passes_to_the_store_is_counted_and_hashed() -> None:
    target = io.BytesIO()
    measured = _Measured(target)
    assert measured.write(b"abc") + measured.write(memoryview(b"de")) == 5
    assert (target.getvalue(), measured.tell()) == (b"abcde", 5)
    assert measured.sha256 == "36bbe50ed96841d10443bcb670d6554f0a34b761be67ec9c4a8ad2c0c44ca42c"


@pytest.mark.parametrize("text", ["2024", "2024-13", "2024-1", "1024-01", "x"])
def test_a_first_month_that_is_none_is_refused_with_the_variable_s_name(text: str) -> None:
    with pytest.raises(ConfigurationError, match="EMAIL_PLATFORM_LEGACY_FIRST_MONTH"):
        first_month({"EMAIL_PLATFORM_LEGACY_FIRST_MONTH": text})
    assert first_month({"EMAIL_PLATFORM_LEGACY_FIRST_MONTH": "2019-07"}) == Month(2019, 7)


def report(**values: Any) -> ImportReport:
    return ImportReport(**{
        "month": Month(2024, 1), "description": SourceDescription("h:1/d", "email", False, None),
        "source": {}, "warehouse": {}, "copied_ranges": 0, "copied_rows": 0, "moved_rows": 0, "removed_rows": 0,
        "erased_rows": 0, "copied_bytes": 0, "seconds": 0.0, "paused_seconds": 0.0, **values,
    })  # fmt: skip


def test_the_check_fails_on_any_difference_and_names_the_ids() -> None:
    equal = {0: Fingerprint(3, 30)}
    assert _reconciled(report(source=equal, warehouse=equal)).passed
    for warehouse in ({}, {0: Fingerprint(3, 31)}, {0: Fingerprint(2, 30)}, {**equal, 7: Fingerprint(1, 1)}):
        assert not _reconciled(report(source=equal, warehouse=warehouse)).passed
    failed = _reconciled(report(source=equal, warehouse={**equal, 7: Fingerprint(1, 1)}))
    assert "ids from 700,000" in str(failed.metadata["differing ranges"].value)


def test_rows_before_the_first_partition_are_warned_about() -> None:
    early = SourceDescription("h:1/d", "email", False, datetime(2001, 1, 1, tzinfo=UTC))
    check = _covered(report(description=early))
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert _covered(report()).passed


@pytest.mark.parametrize("variable", ["EMAIL_PLATFORM_POSTGRES_URL", "EMAIL_PLATFORM_LEGACY_POSTGRES_URL"])
def test_nothing_is_generated_in_a_database_that_the_environment_names(variable: str) -> None:
    with (
        pytest.raises(ConfigurationError, match="embedded server only"),
        practice_database(object(), {variable: "postgresql://u@h/d"}),  # type: ignore[arg-type]
    ):
        pass
