"""This machine: its clock beside the others', and its disk.

Invariant: looking changes nothing, and takes a bounded time however many files there are.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from email_platform.adapters.assembly import open_oltp, open_store
from email_platform.adapters.health.asking import Found, Question
from email_platform.adapters.postgres.engine import check_connection
from email_platform.domain.figures import bytes_words
from email_platform.settings import Settings

CLOCK_SECONDS = 5.0
"""A clock that is further away is wrong. Providers' signatures hold for 300 s (Standard Webhooks' reference
implementation), S3 refuses requests that are 15 minutes away (RequestTimeTooSkewed), and well before that a campaign
starts at another time than it was planned for."""
LEAST_FREE_BYTES = 2 << 30
LEAST_FREE_SHARE = 0.03
_COUNT_WITHIN_SECONDS = 4.0
_MEND_CLOCK = "let every machine keep its clock by NTP (`timedatectl` shows whether this one does)"


def machine_questions(settings: Settings) -> list[Question]:
    """Its clock beside PostgreSQL's and S3's, and its disk."""
    return [
        Question("clock beside PostgreSQL's", lambda: clock(_postgres_time(settings)), "see PostgreSQL", "machine"),
        Question("clock beside S3's", lambda: clock(_store_time(settings)), "see S3", "machine"),
        Question("disk", lambda: disk(settings.state_folder), group="machine"),
    ]


@dataclass(frozen=True, slots=True)
class Reading:
    """A clock elsewhere.

    Attributes:
        there: the time that it showed.
        coarse_seconds: its smallest step.
        before, after: our own clock when it was asked and when it answered, in seconds since 1970.
    """

    there: datetime
    coarse_seconds: float
    before: float
    after: float


def clock(reading: Reading | None) -> Found:
    """Compare; None for a server that says no time."""
    if reading is None:
        return Found("its answers have no time")
    before, after, coarse_seconds = reading.before, reading.after, reading.coarse_seconds
    there = reading.there
    ahead = (before + after) / 2 - (there.timestamp() + coarse_seconds / 2)
    uncertain = (after - before + coarse_seconds) / 2
    says = f"{ahead:+.2f} s, give or take {uncertain:.2f} s"
    return Found(says, _MEND_CLOCK if abs(ahead) - uncertain > CLOCK_SECONDS else "")


def _postgres_time(settings: Settings) -> Reading:
    with open_oltp(settings) as engine:
        check_connection(engine)  # opens the connection, which is not part of the answer's time
        with engine.connect() as connection:
            before = time.time()
            there: datetime = connection.exec_driver_sql("select clock_timestamp()").scalar_one()
            return Reading(there, 0.0, before, time.time())


def _store_time(settings: Settings) -> Reading | None:
    with closing(open_store(settings)) as store:
        before = time.time()
        there = store.server_time()
        # HTTP's Date has whole seconds (RFC 9110, 5.6.7).
        return None if there is None else Reading(there, 1.0, before, time.time())


def disk(state_folder: Path) -> Found:
    """What is free where the embedded parts and temporary files are, and what of the state folder is large."""
    says: list[str] = []
    full: list[str] = []
    seen: set[int] = set()
    for folder in (state_folder, Path(tempfile.gettempdir())):
        if not folder.is_dir() or (device := folder.stat().st_dev) in seen:
            continue
        seen.add(device)
        usage = shutil.disk_usage(folder)
        says.append(f"{bytes_words(usage.free)} of {bytes_words(usage.total)} free at {folder}")
        if usage.free < max(LEAST_FREE_BYTES, min(LEAST_FREE_SHARE * usage.total, 20 * (1 << 30))):
            full.append(str(folder))
    if state_folder.is_dir():
        says.append(_large(state_folder))
    do = f"make room at {' and '.join(full)}: `email-platform retention run` removes what is old" if full else ""
    return Found("; ".join(one for one in says if one), do)


def _large(state_folder: Path) -> str:
    """The largest entries of the state folder; counted for `_COUNT_WITHIN_SECONDS`, then "at least"."""
    until = time.monotonic() + _COUNT_WITHIN_SECONDS
    sizes = {entry.name: _bytes_of(entry, until) for entry in state_folder.iterdir()}
    largest = sorted(sizes.items(), key=lambda one: -one[1])[:3]
    at_least = "at least " if time.monotonic() >= until else ""
    return ", ".join(f"{name} {at_least}{bytes_words(size)}" for name, size in largest if size)


def _bytes_of(path: Path, until: float) -> int:
    """As the disk counts: blocks, so that a sparse file is not larger than what it takes."""
    total = _blocks(path)
    for folder, _, files in os.walk(path):
        total += sum(_blocks(Path(folder, name)) for name in files)
        if time.monotonic() >= until:
            break
    return total


def _blocks(path: Path) -> int:
    try:
        return path.lstat().st_blocks * 512
    except OSError:  # gone since it was listed, or not ours to see
        return 0
