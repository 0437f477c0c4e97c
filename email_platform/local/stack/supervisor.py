"""Starts parts, waits until each serves, brings a dead one back, stops them in reverse order.

Invariant: after `stop`, or after the supervisor's own death from any cause, no process of any part is left.

Own code, after a look at what exists: circus and supervisor are daemons with configuration files and a control
protocol of their own, honcho neither waits for readiness nor restarts, and mirakuru (which does wait) kills by
process group, so that it loses what left the group and runs nothing once the test process is killed. What is
needed here is about 200 lines, and the hard half of it (nothing left after kill -9) is the `guard`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from email_platform.errors import PartUnavailableError
from email_platform.local.stack import part_guard as guard
from email_platform.local.stack.part import Part, require_free_port
from email_platform.local.stack.part_guard import GuardOrder
from email_platform.settings import variable_of

_POLL_SECONDS = 0.05
_FIRST_BACKOFF_SECONDS = 0.5
_LONGEST_BACKOFF_SECONDS = 30.0
_STEADY_SECONDS = 60.0
_LOG_LINES_SHOWN = 15
_LARGEST_LOG_BYTES = 20 * 1024 * 1024


@dataclass(slots=True)
class _Running:
    """A started part: changes as it dies and comes back."""

    part: Part
    guard: subprocess.Popen[bytes]
    started_at: float
    is_ready: bool = False
    backoff_seconds: float = _FIRST_BACKOFF_SECONDS
    start_again_at: float | None = None


@dataclass(frozen=True, slots=True)
class StartedPart:
    """The present state of a started part."""

    part: Part
    guard_id: int
    process_id: int | None


@dataclass(slots=True)
class Supervisor:
    """Runs parts in the order given.

    Attributes:
        start_timeout_seconds: for each part until it serves.
        say: shows the operator one line.
        changed: called after a part was started again, with all parts.
        clock, sleep: monotonic time.
    """

    start_timeout_seconds: float
    say: Callable[[str], None] = lambda _: None
    changed: Callable[[], None] = lambda: None
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    _running: list[_Running] = field(default_factory=list)
    _stopping: threading.Event = field(default_factory=threading.Event)

    def start(self, parts: Sequence[Part]) -> None:
        """Start these parts side by side and wait until each serves.

        Raises:
            PortTakenError: before anything of these was started.
            PartUnavailableError: a part died or did not answer in time; names it and the end of its log.
        """
        for part in parts:
            require_free_port(part)
        started = []
        for part in parts:
            running = _Running(part, _launch(part), self.clock())
            self._running.append(running)
            started.append(running)
        for running in started:
            self._wait(running)

    def started_parts(self) -> list[StartedPart]:
        """All parts with their present processes."""
        return [StartedPart(each.part, each.guard.pid, _process_of(each.guard.pid)) for each in self._running]

    def watch(self) -> None:
        """Bring dead parts back until `request_stop` is called."""
        while not self._stopping.is_set():
            self.check_once()
            self.sleep(_POLL_SECONDS * 4)

    def check_once(self) -> None:
        """Look at each part once; start a dead part again when its time has come."""
        for running in self._running:
            part = running.part
            if running.start_again_at is not None:
                if self.clock() >= running.start_again_at:
                    self._start_again(running)
            elif (exit_code := running.guard.poll()) is not None:
                if self.clock() - running.started_at > _STEADY_SECONDS:
                    running.backoff_seconds = _FIRST_BACKOFF_SECONDS
                running.start_again_at = self.clock() + running.backoff_seconds
                self.say(
                    f"{part.name} ended ({_exit_text(exit_code)}); starting it again in "
                    f"{running.backoff_seconds:g} s; log: {part.log_file}"
                )
                running.backoff_seconds = min(running.backoff_seconds * 2, _LONGEST_BACKOFF_SECONDS)
            elif not running.is_ready and part.is_ready():
                running.is_ready = True
                self.say(f"{part.name} serves again")
                self.changed()

    def request_stop(self) -> None:
        """Let `watch` return; safe from a signal handler and from other threads."""
        self._stopping.set()

    def stop(self) -> None:
        """Stop all parts, the last started first, and wait until each is gone; says which one it waits for."""
        self._stopping.set()
        began, count = self.clock(), len(self._running)
        while self._running:
            running = self._running.pop()
            part = running.part
            self.say(
                f"stopping {part.name} ({count - len(self._running)} of {count}; it may take {part.grace_seconds:g} s)"
            )
            _end(running.guard, part.grace_seconds)
        if count:
            self.say(f"all {count} parts have ended, after {self.clock() - began:.0f} s")

    def _start_again(self, running: _Running) -> None:
        _close(running.guard)
        running.start_again_at = None
        running.is_ready = False
        running.started_at = self.clock()
        running.guard = _launch(running.part)
        self.changed()

    def _wait(self, running: _Running) -> None:
        part = running.part
        deadline = running.started_at + self.start_timeout_seconds
        while not part.is_ready():
            exit_code = running.guard.poll()
            if exit_code is not None:
                raise PartUnavailableError(
                    f"{part.name} ended while starting ({_exit_text(exit_code)}); {_end_of_log(part.log_file)}"
                )
            if self._stopping.is_set():
                raise PartUnavailableError(f"{part.name} was stopped while starting")
            if self.clock() >= deadline:
                raise PartUnavailableError(
                    f"{part.name} did not answer at {part.address} in {self.start_timeout_seconds:g} s "
                    f"({variable_of('start_timeout_seconds')}); {_end_of_log(part.log_file)}"
                )
            self.sleep(_POLL_SECONDS)
        running.is_ready = True


def _launch(part: Part) -> subprocess.Popen[bytes]:
    """Start a part under its guard."""
    part.before_start()
    part.log_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        if part.log_file.stat().st_size > _LARGEST_LOG_BYTES:
            part.log_file.replace(part.log_file.with_name(f"{part.log_file.name}.1"))
    order = GuardOrder(part.command, part.stop_signal, part.grace_seconds, part.user_id, part.group_id)
    log = os.open(part.log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        return subprocess.Popen(
            [sys.executable, "-I", str(Path(guard.__file__)), order.to_json()],
            stdin=subprocess.PIPE,  # never written to: when it closes, the guard knows that we are gone
            stdout=log,
            stderr=log,
            cwd=part.working_folder,
            env=dict(part.environment),
            umask=0o077,  # whatever a part writes is its owner's, also what its own code opens without a mode
            start_new_session=True,  # Ctrl-C in the terminal is for the supervisor, which stops in order
        )
    finally:
        os.close(log)


def _end(process: subprocess.Popen[bytes], grace_seconds: float) -> None:
    """Ask the guard to end its part, and wait; the guard itself kills a part that takes too long."""
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(2 * grace_seconds + 15)  # for the part, then for what it left behind
    except subprocess.TimeoutExpired:
        for child in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        process.kill()
        process.wait()
    _close(process)


def _close(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        process.stdin.close()


def _process_of(guard_id: int) -> int | None:
    try:
        children = psutil.Process(guard_id).children()
    except psutil.NoSuchProcess:
        return None
    return min((child.pid for child in children), default=None)


def _exit_text(exit_code: int) -> str:
    if exit_code < 0:
        return f"its guard got signal {-exit_code}"
    return f"signal {exit_code - 128}" if exit_code > 128 else f"exit code {exit_code}"


def _end_of_log(log_file: Path) -> str:
    try:
        lines = log_file.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_LINES_SHOWN:]
    except FileNotFoundError:
        lines = []
    return f"the end of {log_file}:\n" + ("\n".join(lines) or "(empty)")
