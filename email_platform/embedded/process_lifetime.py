"""Ends this process with its parent.

The invariant: with ``--exit-with-parent`` no embedded part outlives the process that started it, however that one
ended; an orphan would go on accepting what nobody accounts for.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1
_CHECK_SECONDS = 0.5


def exit_with_parent(
    original_parent: int,
    stop: Callable[[], None],
    sleep: Callable[[float], None] = time.sleep,
    parent: Callable[[], int] = os.getppid,
) -> None:
    """Call ``stop`` soon after the parent is gone.

    Linux sends SIGTERM at once (PDEATHSIG); a check of the parent's id covers other systems and a parent that
    died before the signal was asked for. PDEATHSIG follows the parent's *thread*: start this process from a
    thread that lives as long as the process should.

    Args:
        original_parent: the parent's id as read at the very start of the process.
        stop: asks this process to end; called from a thread.
        sleep: pauses the check.
        parent: reads the parent's present id.
    """
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

    def watch() -> None:
        while parent() == original_parent:
            sleep(_CHECK_SECONDS)
        stop()

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
