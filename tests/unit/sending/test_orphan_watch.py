"""A step's watch over its ancestors: it stops an orphan, and it ends with the step."""

from __future__ import annotations

import threading
from collections.abc import Callable

from email_platform.sending.orphan_watch import ending_with_ancestors


def watches() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "ancestor-watch"]


def dying_after(looks: int) -> Callable[[], tuple[int, ...]]:
    """Ancestors of which one is replaced after so many looks."""
    left = [looks]

    def look() -> tuple[int, ...]:
        left[0] -= 1
        return (10, 20) if left[0] >= 0 else (1, 20)

    return look


def test_a_step_whose_ancestors_live_is_not_stopped_and_leaves_no_thread_behind() -> None:
    stopped = threading.Event()
    for _ in range(50):
        with ending_with_ancestors(stopped.set, look=lambda: (10, 20)):
            assert len(watches()) == 1
    assert not stopped.is_set()
    assert watches() == []


def test_an_orphan_is_asked_to_stop_and_ended_when_it_outlives_the_grace() -> None:
    stopped, ended = threading.Event(), threading.Event()
    with ending_with_ancestors(stopped.set, grace_seconds=0.0, look=dying_after(1), end=ended.set):
        assert stopped.wait(10)
    assert ended.wait(10)


def test_an_orphan_that_ends_its_step_is_watched_to_its_end() -> None:
    stopped, ended = threading.Event(), threading.Event()
    with ending_with_ancestors(stopped.set, grace_seconds=0.2, look=dying_after(1), end=ended.set):
        assert stopped.wait(10)
    assert ended.wait(10), "a process that nobody else would end must end itself"
