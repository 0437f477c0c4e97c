"""Debian's Redis (`redis-server`) as the broker of Celery's workers, which a test can kill and start again."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from email_platform.local.stack.part import LOOPBACK, free_port
from tests.integration.server_start import wait_for_server


@dataclass
class Redis:
    """A broker on the loopback interface.

    Attributes:
        keeps_its_data: whether what it holds is there again after a kill.
    """

    folder: Path
    port: int
    keeps_its_data: bool
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        return f"redis://{LOOPBACK}:{self.port}/0"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        always = ("--appendonly", "yes", "--appendfsync", "always") if self.keeps_its_data else ()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.process = subprocess.Popen(
            ["redis-server", "--bind", LOOPBACK, "--port", str(self.port), "--dir", str(self.folder),
             "--save", "", "--daemonize", "no", *always],
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        wait_for_server("Redis", self.process, self._answers)

    def kill(self) -> None:
        """SIGKILL."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def _answers(self) -> bool:
        with suppress(OSError), socket.create_connection((LOOPBACK, self.port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
        return False


@contextmanager
def running_redis(folder: Path, *, keeps_its_data: bool) -> Iterator[Redis]:
    """Start one on a free port, and kill it on leaving; skips where the package is missing."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server (Debian's package) is not installed")
    port = free_port()
    redis = Redis(folder, port, keeps_its_data)
    redis.start()
    try:
        yield redis
    finally:
        redis.kill()
