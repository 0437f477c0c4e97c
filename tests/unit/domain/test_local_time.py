"""Times with a zone's name: what the clocks do on one day of the year is never guessed."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from email_platform.domain.local_time import scheduled_time


@pytest.mark.parametrize(
    ("written", "moment"),
    [
        ("2026-12-01 09:00 Europe/Berlin", datetime(2026, 12, 1, 8, tzinfo=UTC)),
        ("2026-07-01T09:00:30 Europe/Berlin", datetime(2026, 7, 1, 7, 0, 30, tzinfo=UTC)),
        (" 2026-12-01 09:00 UTC ", datetime(2026, 12, 1, 9, tzinfo=UTC)),
        ("2026-12-01T09:00Z", datetime(2026, 12, 1, 9, tzinfo=UTC)),
        ("2026-12-01 09:00 -05:30", datetime(2026, 12, 1, 14, 30, tzinfo=UTC)),
        ("2026-12-01 09:00+0100", datetime(2026, 12, 1, 8, tzinfo=UTC)),
        ("2026-10-25 02:30 +02:00", datetime(2026, 10, 25, 0, 30, tzinfo=UTC)),
        ("2026-10-25 03:00 Europe/Berlin", datetime(2026, 10, 25, 2, tzinfo=UTC)),
        ("2026-03-29 03:00 Europe/Berlin", datetime(2026, 3, 29, 1, tzinfo=UTC)),
    ],
)
def test_a_time_is_read_in_its_zone(written: str, moment: datetime) -> None:
    assert scheduled_time(written) == moment


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("tomorrow", "is no time; write it as '2026-12-01 09:00 Europe/Berlin'"),
        ("2026-12-01 09:00", "names no time zone"),
        ("2026-13-01 09:00 UTC", "is no time of the calendar"),
        ("2026-12-01 09:00 Europe/Berlim", "'Europe/Berlim' is no time zone"),
        ("2026-12-01 09:00 ../../etc/passwd", "is no time zone"),
        ("2026-12-01 09:00 +25:00", "is no offset"),
        ("0026-12-01 09:00 UTC", "before the year 2000"),
        ("2026-03-29 02:30 Europe/Berlin", "does not exist in Europe/Berlin"),
        (
            "2026-10-25 02:30 Europe/Berlin",
            "comes twice in Europe/Berlin.*'2026-10-25 02:30 \\+02:00' or '2026-10-25 02:30 \\+01:00'",
        ),
        ("2026-11-01 01:30 America/New_York", "'2026-11-01 01:30 -04:00' or '2026-11-01 01:30 -05:00'"),
    ],
)
def test_what_is_no_time_or_not_one_time_is_refused_with_the_mend(written: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        scheduled_time(written)
