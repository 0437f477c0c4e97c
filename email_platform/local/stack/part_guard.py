"""A small process between the supervisor and one part: it outlives neither and leaves nothing behind.

Invariant: when the supervisor ends, however it ends, the part and every process that the part ever started
end too; kill -9 of the supervisor is noticed through the standard input, whose other end it alone holds.

The guard is the *subreaper* of its descendants, so that a process which lost its parent (a PostgreSQL backend
of a killed postmaster, a run worker of a killed Dagster code server) is still found and ended. A pipe is used
for the supervisor's end rather than Linux's parent-death signal, which follows the parent's thread, not the
process. Between guard and part the signal is used as well: the guard has one thread only.

Run by the file's path with ``python -I``; the one argument is a `GuardOrder` as JSON.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import psutil

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_ON_LINUX = sys.platform.startswith("linux")


@dataclass(frozen=True, slots=True)
class GuardOrder:
    """What one guard runs.

    Attributes:
        command: the part's program and arguments; never a secret.
        stop_signal: asks the part to end cleanly.
        grace_seconds: how long it may take before it is killed; then the same time for the processes it left behind.
        user_id, group_id: run the part as these; None for the guard's own.
    """

    command: tuple[str, ...]
    stop_signal: int
    grace_seconds: float
    user_id: int | None = None
    group_id: int | None = None

    def to_json(self) -> str:
        """The order as the guard's argument."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> GuardOrder:
        """The order from the guard's argument."""
        values = json.loads(text)
        return cls(**{**values, "command": tuple(values["command"])})


def main(order: GuardOrder) -> int:
    """Run the part until it or the supervisor ends; return the part's exit code, 128 + n for signal n."""
    libc = ctypes.CDLL(None, use_errno=True) if _ON_LINUX else None
    if libc is not None:
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    asked: list[int] = []
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: asked.append(received))
    signal.signal(signal.SIGCHLD, lambda *_: None)

    part = subprocess.Popen(
        order.command,
        stdin=subprocess.DEVNULL,
        process_group=0,
        preexec_fn=_end_with_guard(libc, order.stop_signal, os.getpid()),  # safe: the guard has one thread
        user=order.user_id,
        group=order.group_id,
        extra_groups=None if order.user_id is None else [],
    )
    exit_code: int | None = None
    kill_at: float | None = None
    supervisor_input = [0]
    while exit_code is None:
        timeout = None if kill_at is None else max(0.0, kill_at - time.monotonic())
        readable, _, _ = select.select([wake_read, *supervisor_input], [], [], timeout)
        if wake_read in readable:
            os.read(wake_read, 4096)
        # Nothing is ever written to the standard input: readable means that the supervisor is gone.
        gone = 0 in readable
        if gone:
            supervisor_input = []
        exit_code = _reap(part.pid)
        if exit_code is None and (asked or gone) and kill_at is None:
            kill_at = time.monotonic() + order.grace_seconds
            os.kill(part.pid, order.stop_signal)
        elif exit_code is None and kill_at is not None and time.monotonic() >= kill_at:
            os.kill(part.pid, signal.SIGKILL)
            kill_at = time.monotonic() + order.grace_seconds
    part.returncode = exit_code
    _end_leftovers(order.grace_seconds)
    return exit_code


def _end_with_guard(libc: ctypes.CDLL | None, stop_signal: int, guard_id: int) -> Callable[[], None]:
    """Runs in the part's process before it becomes the part's program."""

    def before_exec() -> None:
        signal.set_wakeup_fd(-1)
        if libc is not None:
            libc.prctl(_PR_SET_PDEATHSIG, stop_signal, 0, 0, 0)
            if os.getppid() != guard_id:  # the guard died before the signal was asked for
                os._exit(70)

    return before_exec


def _reap(part_id: int) -> int | None:
    """Collect every child that ended; the part's exit code when it was among them."""
    exit_code = None
    with contextlib.suppress(ChildProcessError):
        while True:
            ended, status = os.waitpid(-1, os.WNOHANG)
            if ended == 0:
                break
            if ended == part_id:
                exit_code = os.waitstatus_to_exitcode(status)
                exit_code = 128 - exit_code if exit_code < 0 else exit_code
    return exit_code


def _end_leftovers(grace_seconds: float) -> None:
    """End the processes that the part started and did not end itself: ask first, kill later.

    They get as long as the part: a run worker of Dagster first sees its provider calls in flight to their end.
    """
    ask_until = time.monotonic() + grace_seconds
    asked: set[int] = set()
    while leftovers := psutil.Process().children(recursive=True):
        for process in leftovers:
            with contextlib.suppress(psutil.NoSuchProcess):
                if time.monotonic() >= ask_until:
                    process.kill()
                elif process.pid not in asked:
                    asked.add(process.pid)
                    process.terminate()
        _reap(0)
        time.sleep(0.02)


if __name__ == "__main__":
    sys.exit(main(GuardOrder.from_json(sys.argv[1])))
