"""Hosts of the test's own on one machine: namespaces of Linux, each with its own network, process ids, name and disk.

A host reaches the given ports of the first machine through a relay, and nothing else. It can be killed at one moment,
frozen, and cut from the network. It needs root, unshare (util-linux) and ip (iproute2). What it has of the first
machine's disk is the code; where the state folder would be is an empty one.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

RELAY = Path(__file__).with_name("relay.py")
PATIENCE_SECONDS = 180.0
# The relay inside comes first; the pipe ends when it is there.
_INSIDE = """
set -eu
hostname "$1"; shift
ip link set lo up
mount -t tmpfs tmpfs "$STATE"
"$PYTHON" -I "$RELAY" $PAIRS > "$STATE/relay" &
until grep -q ready "$STATE/relay"; do sleep 0.05; done
exec "$@"
"""


def why_no_hosts() -> str | None:
    """What a host of its own lacks here; None where there can be some."""
    if os.geteuid() != 0:
        return "a host of its own needs root, for namespaces of Linux"
    missing = [program for program in ("unshare", "ip", "hostname") if shutil.which(program) is None]
    if missing:
        return f"a host of its own needs {', '.join(missing)}"
    tried = subprocess.run(
        ["unshare", "--net", "--uts", "--pid", "--ipc", "--mount", "--fork", "--mount-proc", "true"],
        capture_output=True, text=True,
    )  # fmt: skip
    return f"namespaces cannot be had here: {tried.stderr.strip()}" if tried.returncode else None


@dataclass
class Host:
    """One host, with one command.

    Attributes:
        name: its host name.
        command: what runs on it; must end no process of its own accord.
        environment: of the command.
        state_folder: empty on the host, and its own.
        ports: of the first machine, which the host has as its own.
        folder: for sockets and the log, on the first machine.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(repr=False)
    state_folder: Path
    ports: Sequence[int]
    folder: Path
    _outside: subprocess.Popen[str] | None = field(default=None, repr=False)
    _inside: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    _is_frozen: bool = False
    _is_cut: bool = False

    def start(self) -> None:
        """Start the network, then the host."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._start_outside()
        pairs = " ".join(f"{port}={self._socket(port)}" for port in self.ports)
        with (self.folder / "host.log").open("ab") as log:
            self._inside = subprocess.Popen(
                [
                    *("unshare", "--net", "--uts", "--pid", "--ipc", "--mount", "--fork", "--kill-child=KILL"),
                    *("--mount-proc", "bash", "-c", _INSIDE, "host", self.name, *self.command),
                ],
                env={
                    **self.environment,
                    "STATE": str(self.state_folder),
                    "PYTHON": sys.executable,
                    "RELAY": str(RELAY),
                    "PAIRS": pairs,
                },
                stdout=log,
                stderr=log,
                cwd=Path(__file__).parents[2],
            )

    @property
    def is_alive(self) -> bool:
        """Whether it was started, and neither killed nor at its end."""
        return self._inside is not None and self._inside.poll() is None

    @property
    def is_well(self) -> bool:
        """Whether it is alive, goes on, and has its network."""
        return self.is_alive and not self._is_frozen and not self._is_cut

    def processes(self) -> list[psutil.Process]:
        """All of its processes, as the first machine sees them."""
        if self._inside is None:
            return []
        with suppress(psutil.NoSuchProcess):
            return psutil.Process(self._inside.pid).children(recursive=True)
        return []

    def kill(self) -> None:
        """End the whole machine at one moment."""
        if self._inside is not None:
            self._inside.kill()
            self._inside.wait()
        self._inside, self._is_frozen = None, False
        self._end_outside()

    def freeze(self) -> None:
        """Stop all of its processes; its connections stay open."""
        self._is_frozen = True
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let them go on."""
        self._signal(signal.SIGCONT)
        self._is_frozen = False

    def cut(self, *, silently: bool) -> None:
        """Take its network away: nothing arrives any more, or everything is reset and refused."""
        self._is_cut = True
        if silently and self._outside is not None:
            self._outside.send_signal(signal.SIGSTOP)
        else:
            self._end_outside()

    def mend(self) -> None:
        """Give its network back."""
        if self._outside is not None:
            self._outside.send_signal(signal.SIGCONT)
        else:
            self._start_outside()
        self._is_cut = False

    def _socket(self, port: int) -> Path:
        return self.folder / f"{port}.sock"

    def _start_outside(self) -> None:
        pairs = [f"{self._socket(port)}={port}" for port in self.ports]
        self._outside = subprocess.Popen(
            [sys.executable, "-I", str(RELAY), *pairs], stdout=subprocess.PIPE, text=True
        )  # fmt: skip
        assert self._outside.stdout is not None
        if self._outside.stdout.readline().strip() != "ready":
            raise RuntimeError(f"the relay of {self.name} did not start")
        self._is_cut = False

    def _end_outside(self) -> None:
        if self._outside is not None:
            self._outside.kill()
            self._outside.wait()
            assert self._outside.stdout is not None
            self._outside.stdout.close()
        self._outside = None

    def _signal(self, number: int) -> None:
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)


def wait_until(is_there: object, what: str, host: Host) -> None:
    """Wait for something of the host's.

    Raises:
        RuntimeError: it ended, or it took too long; with the end of its log.
    """
    assert callable(is_there)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_there():
        if not host.is_alive or time.monotonic() > deadline:
            log = (host.folder / "host.log").read_text(encoding="utf-8", errors="replace")[-3000:]
            raise RuntimeError(f"{host.name}: waited for {what}; the end of its log:\n{log}")
        time.sleep(0.1)
