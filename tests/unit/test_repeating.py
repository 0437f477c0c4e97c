"""What is repeated beside a block is repeated until the block ends, or until it has seen enough."""

from __future__ import annotations

import threading

import pytest

from email_platform.repeating import repeated_beside

PATIENCE_SECONDS = 60.0


def test_it_is_repeated_until_the_block_ends_and_no_longer() -> None:
    looks: list[int] = []
    third = threading.Event()

    def look() -> None:
        looks.append(len(looks))
        if len(looks) == 3:
            third.set()

    with repeated_beside(look, 0.001, name="test"):
        assert third.wait(PATIENCE_SECONDS)
    seen = len(looks)
    assert not [thread for thread in threading.enumerate() if thread.name == "test"]
    assert len(looks) == seen


def test_it_ends_where_it_has_seen_enough() -> None:
    looks: list[str] = []
    thread: list[threading.Thread] = []
    began = threading.Event()

    def look() -> bool:
        looks.append("one")
        thread.append(threading.current_thread())
        began.set()
        return True

    with repeated_beside(look, 0.001, name="enough"):
        assert began.wait(PATIENCE_SECONDS)
        thread[0].join(PATIENCE_SECONDS)
        assert not thread[0].is_alive()
    assert looks == ["one"]


@pytest.mark.parametrize("at_once", [True, False])
def test_the_first_look_waits_unless_it_is_asked_for_at_once(at_once: bool) -> None:
    looked = threading.Event()
    with repeated_beside(looked.set, 3600, name="first", at_once=at_once):
        if at_once:
            assert looked.wait(PATIENCE_SECONDS)
    assert looked.is_set() is at_once


def test_the_thread_ends_with_a_block_that_fails() -> None:
    with pytest.raises(ValueError, match="broken"), repeated_beside(lambda: None, 3600, name="failing"):
        raise ValueError("broken")
    assert not [thread for thread in threading.enumerate() if thread.name == "failing"]
