"""What both engines' tests of the old table's import ask: somebody is erased while the old system keeps them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from email_platform.adapters.assembly import open_erasure
from email_platform.adapters.old_systems import import_legacy_month
from email_platform.runs.erase import erase, look_only
from email_platform.runs.legacy_import import ImportReport
from email_platform.runs.legacy_table import Month
from email_platform.settings import Settings

PERSON = "Zaphod+old@Beeblebrox.example"
JANUARY, FEBRUARY, MARCH = Month(2025, 1), Month(2025, 2), Month(2025, 3)
Rows = Sequence[tuple[Any, ...]]


def check_that_nobody_comes_back(
    settings: Settings, execute: Callable[[str], object], old_rows: Callable[[], Rows], new_rows: Callable[[], Rows]
) -> None:
    """Import, erase, import again in every way; afterwards nothing that the platform keeps names the person.

    Args:
        settings: 3 months of old rows, none imported yet, with a database, bucket and warehouse of the test's own.
        execute: a statement at the source.
        old_rows, new_rows: every column of every row, the fifth the address and the ninth the error.
    """

    def run(month: Month) -> ImportReport:
        report = import_legacy_month(settings, month)
        assert report.differences() == []
        assert report.source_total.rows == report.warehouse_total.rows
        return report

    first, second, moved, named, late = _some_ids(old_rows())
    execute(f"update email set email = '{PERSON}' where id in ({first}, {moved})")
    execute(f"update email set email = '{PERSON.lower()}' where id in ({second}, {late})")
    execute(f"update email set error = '550 <{PERSON}> is unknown' where id = {named}")
    assert run(JANUARY).erased_rows == 0
    with open_erasure(settings) as parts:
        pseudonym = erase(parts, PERSON).pseudonym
    before = _without(old_rows(), pseudonym)

    again = run(JANUARY)
    assert (again.copied_ranges, again.erased_rows) == (0, 4), "what differs by the pseudonym alone is not copied"
    assert run(FEBRUARY).erased_rows == 1
    run(MARCH)
    assert new_rows() == before

    execute(f"update email set status = 'bounced' where id = {second}")
    execute(f"update email set created_at = '2025-03-15 00:00:00' where id = {moved}")
    changed = run(JANUARY)
    assert (changed.moved_rows, changed.removed_rows) == (1, 0)
    assert changed.copied_ranges >= 1
    run(MARCH)
    execute(f"delete from email where id = {first}")
    assert run(JANUARY).removed_rows == 1
    assert new_rows() == _without(old_rows(), pseudonym)
    assert [run(month).copied_ranges for month in (JANUARY, FEBRUARY, MARCH)] == [0, 0, 0]
    with open_erasure(settings) as parts:
        assert look_only(parts, PERSON).found == {}


def _some_ids(rows: Rows) -> tuple[int, int, int, int, int]:
    """Old ids of January, the last one of February."""
    january = [int(row[0]) for row in rows if str(row[10]).startswith("2025-01")]
    february = [int(row[0]) for row in rows if str(row[10]).startswith("2025-02")]
    return january[10], january[20], january[-30], january[40], february[10]


def _without(rows: Rows, pseudonym: str) -> list[tuple[Any, ...]]:
    return [
        (*row[:4], pseudonym if str(row[4]).lower() == PERSON.lower() else row[4], *row[5:8],
         str(row[8]).replace(PERSON, pseudonym) if row[8] else row[8], *row[9:])
        for row in rows
    ]  # fmt: skip
