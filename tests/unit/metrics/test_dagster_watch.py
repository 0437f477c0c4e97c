"""A scrape never waits for Dagster's storage, and never takes an old answer for a new one."""

from __future__ import annotations

import threading

import pytest

from email_platform.errors import PartUnavailableError
from email_platform.metrics.dagster_times import DagsterTimes, DagsterWatch

TIMES = DagsterTimes({}, {}, {}, None)


def test_before_the_first_reading_there_is_no_answer() -> None:
    with pytest.raises(PartUnavailableError, match="not read yet"):
        DagsterWatch(lambda: TIMES).latest()


def test_a_failed_reading_is_named_by_its_kind_and_the_next_one_counts() -> None:
    answers: list[object] = [OSError("postgresql://user:secret@host"), TIMES]

    def read() -> DagsterTimes:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, DagsterTimes)
        return answer

    watch = DagsterWatch(read)
    watch.read_once()
    with pytest.raises(PartUnavailableError, match="OSError") as refused:
        watch.latest()
    assert "secret" not in str(refused.value)
    watch.read_once()
    assert watch.latest() is TIMES


def test_a_storage_that_hangs_becomes_no_answer_instead_of_an_old_one() -> None:
    now = [0.0]
    watch = DagsterWatch(lambda: TIMES, stale_seconds=120, monotonic=lambda: now[0])
    watch.read_once()
    now[0] = 120.0
    assert watch.latest() is TIMES
    now[0] = 120.1
    with pytest.raises(PartUnavailableError, match="does not answer"):
        watch.latest()


def test_the_thread_reads_again_and_ends_when_asked() -> None:
    twice = threading.Event()
    readings: list[int] = []

    def read() -> DagsterTimes:
        readings.append(1)
        if len(readings) >= 2:
            twice.set()
        return TIMES

    watch = DagsterWatch(read, every_seconds=0.01)
    watch.start()
    assert twice.wait(30)
    watch.stop()
    assert not [thread for thread in threading.enumerate() if thread.name == "dagster-times"]
