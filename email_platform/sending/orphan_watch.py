"""Ends a process's work with the processes that asked for it, and checks whether a process is still there.

Invariant: a step whose run worker died starts no further call. Measured trap: Dagster's step processes
outlive a killed run worker, and with multiprocessing's fork server even the step's parent (the server)
lives on, since every child holds its pipe open; so the server's own parent is watched as well.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import uuid4

import psutil

_PR_SET_PDEATHSIG = 1
CHECK_SECONDS = 0.5
CLOCK_SECONDS = 2.0  # a process's beginning is known as exactly as the machine's own


def process_name(run_id: str) -> str:
    """A name for this process as holder of leases: unique, and telling an operator where to look."""
    return f"{run_id}@{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}"


def is_alive_since(process_id: int, moment: float) -> bool:
    """Whether the process that had this id at the moment (seconds since 1970) is still there.

    A process that began later has only been given the same id, as happens soon where a container starts again.
    """
    try:
        process = psutil.Process(process_id)
        return bool(process.status() != psutil.STATUS_ZOMBIE and process.create_time() <= moment + CLOCK_SECONDS)
    except psutil.NoSuchProcess:
        return False


def is_this_host(name: str) -> bool:
    """Whether the name means this machine and no other: a name of several machines, or of a proxy, does not."""
    if not name:
        return False
    if name in ("localhost", socket.gethostname()):
        return True
    try:
        meant = {str(found[4][0]) for found in socket.getaddrinfo(name, None)}
    except OSError:  # it has no address now, so nobody can say
        return False
    own = {address.address.partition("%")[0] for each in psutil.net_if_addrs().values() for address in each}
    return bool(meant) and meant <= own


def ancestors() -> tuple[int, ...]:
    """The ids of the processes that this one works for: its parent, and a fork server's parent too.

    Compare two results: a process that died is replaced by its reaper's id.
    """
    parent = os.getppid()
    try:
        process = psutil.Process(parent)
        if any("multiprocessing.forkserver" in part for part in process.cmdline()):
            return parent, process.ppid()
    except psutil.Error:  # the parent died between the two look-ups: the next comparison shows it
        pass
    return (parent,)


@contextmanager
def ending_with_ancestors(
    stop: Callable[[], None],
    *,
    grace_seconds: float = 90.0,
    look: Callable[[], tuple[int, ...]] = ancestors,
    end: Callable[[], None] = lambda: os._exit(70),
) -> Iterator[None]:
    """Within the `with`, call `stop` soon after an ancestor died, and end the process if it outlives the grace.

    The watch ends with the block, so that a worker process that runs one step after the other keeps no thread of a
    step that is over. An orphan is watched to its end: it has nobody left who would end it.

    Args:
        stop: asks the work to end between two calls.
        grace_seconds: for the calls in flight; longer than the provider's read timeout.
        look: reads the ancestors' ids.
        end: ends the process at once.
    """
    original = look()
    is_over = threading.Event()
    is_orphan = threading.Event()

    def watch() -> None:
        while look() == original:
            if is_over.wait(CHECK_SECONDS):
                return
        is_orphan.set()
        stop()
        time.sleep(grace_seconds)
        end()

    thread = threading.Thread(target=watch, name="ancestor-watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        while thread.is_alive() and not is_orphan.is_set():
            thread.join(timeout=0.05)


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
            sleep(CHECK_SECONDS)
        stop()

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
