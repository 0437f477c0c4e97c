"""A step's watch over its ancestors: it stops an orphan, and it ends with the step."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable

import pytest

from email_platform.sending.orphan_watch import ending_with_ancestors, is_this_host


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


@pytest.mark.parametrize(
    ("addresses", "expected"),
    [
        (["127.0.0.1"], True),
        (["127.0.0.1", "192.0.2.1"], False),  # a name of two machines
        (["192.0.2.1"], False),
        ([], False),
    ],
)
def test_a_name_is_this_host_s_where_each_of_its_addresses_is(
    monkeypatch: pytest.MonkeyPatch, addresses: list[str], expected: bool
) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in addresses]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: found)
    assert is_this_host("code") is expected


def test_its_own_name_is_this_host_s_and_one_without_an_address_is_not() -> None:
    assert is_this_host("localhost")
    assert is_this_host(socket.gethostname())
    assert not is_this_host("")
    assert not is_this_host("no-such-host.invalid")
