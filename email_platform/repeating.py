"""Something that is done again and again beside a block, in a thread that ends with it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def repeated_beside(
    look: Callable[[], bool | None], every_seconds: float, *, name: str, at_once: bool = False
) -> Iterator[None]:
    """Call `look` every so many seconds until the block is left; then wait for the call that is being made.

    Args:
        look: must not raise; True ends the calls before the block ends.
        every_seconds: between the end of a call and the next one.
        name: of the thread.
        at_once: the first call does not wait.
    """
    is_over = threading.Event()

    def repeat() -> None:
        if at_once and look():
            return
        while not is_over.wait(every_seconds):
            if look():
                return

    thread = threading.Thread(target=repeat, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
