"""Times as people write them, with the time zone's name.

Invariant: a time that a zone does not have, or has twice, because its clocks are changed that day, is never guessed.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

_WRITTEN = re.compile(r"(?P<moment>\d{4}-\d\d-\d\d[ T]\d\d:\d\d(?::\d\d)?)(?: ?(?P<zone>\S+))?")
_FORM = "write it as '2026-12-01 09:00 Europe/Berlin', or with an offset: '2026-12-01 09:00 +01:00'"
_FIRST_YEAR = 2000


def scheduled_time(written: str) -> datetime:
    """The moment in UTC.

    Args:
        written: date, time, and a time zone's name (IANA), ``UTC``, ``Z`` or an offset.

    Raises:
        ValueError: it is no such time; says what is wrong and how to write it.
    """
    found = _WRITTEN.fullmatch(written.strip())
    if found is None:
        raise ValueError(f"{written!r} is no time; {_FORM}")
    moment, zone = found["moment"], found["zone"]
    if zone is None:
        raise ValueError(f"{written!r} names no time zone; {_FORM}")
    try:
        local = datetime.fromisoformat(moment)
    except ValueError:
        raise ValueError(f"{written!r} is no time of the calendar; {_FORM}") from None
    if local.year < _FIRST_YEAR:
        raise ValueError(f"{written!r} is before the year {_FIRST_YEAR}")
    if zone.upper() in ("UTC", "Z"):
        return local.replace(tzinfo=UTC)
    if re.fullmatch(r"[+-]\d\d:?\d\d", zone):
        try:
            return datetime.fromisoformat(f"{moment}{zone}").astimezone(UTC)
        except ValueError:
            raise ValueError(f"{zone!r} is no offset from UTC; {_FORM}") from None
    try:
        rules = ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"{zone!r} is no time zone; {_FORM}") from None
    first, second = (local.replace(tzinfo=rules, fold=fold).astimezone(UTC) for fold in (0, 1))
    if first == second:
        return first
    if first.astimezone(rules).replace(tzinfo=None) != local:
        # The clocks are put forward over it: the two readings lie on either side of the gap.
        raise ValueError(f"{moment} does not exist in {zone}: the clocks are put forward over it that day")
    offsets = " or ".join(_with_offset(one.astimezone(rules)) for one in (first, second))
    raise ValueError(f"{moment} comes twice in {zone}, since the clocks are put back that day; say which: {offsets}")


def _with_offset(moment: datetime) -> str:
    offset = moment.utcoffset() or timedelta()
    minutes = int(offset.total_seconds()) // 60
    return f"'{moment:%Y-%m-%d %H:%M} {'-' if minutes < 0 else '+'}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}'"
