"""Looks taken beside the work that is measured."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def sampled(look: Callable[[], None], every_seconds: float) -> Iterator[None]:
    """Look again and again in a thread of its own within the block, first at once.

    Args:
        look: must not raise; it keeps what it sees itself.
        every_seconds: between two looks.
    """
    is_over = threading.Event()

    def look_on() -> None:
        look()
        while not is_over.wait(every_seconds):
            look()

    thread = threading.Thread(target=look_on, name="sampling", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
