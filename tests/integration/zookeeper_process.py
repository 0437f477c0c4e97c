"""Debian's ZooKeeper (`zookeeper`) as the keeper of replicated tables."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from email_platform.local.stack.part import LOOPBACK, free_port
from tests.integration.server_start import PATIENCE_SECONDS, wait_for_server

_PROGRAM = Path("/usr/share/java/zookeeper.jar")
_LOGGING = Path("/etc/zookeeper/conf_example")
_JAVA = ("java", "-Xmx128m", "-Dzookeeper.root.logger=WARN,CONSOLE", "-cp", f"{_LOGGING}:{_PROGRAM}")


@contextmanager
def running_zookeeper(folder: Path) -> Iterator[int]:
    """Start one on a free port, which is given, and kill it on leaving; skips where the package is missing."""
    if not _PROGRAM.exists():
        pytest.skip("zookeeper (Debian's package) is not installed")
    port = free_port()
    folder.mkdir(parents=True)
    configuration = folder / "zoo.cfg"
    configuration.write_text(
        f"dataDir={folder}\nclientPort={port}\nclientPortAddress={LOOPBACK}\nadmin.enableServer=false\n"
        "4lw.commands.whitelist=srvr\n",
        encoding="utf-8",
    )
    command = [*_JAVA, "org.apache.zookeeper.server.ZooKeeperServerMain", str(configuration)]
    log = folder / "output.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        wait_for_server("ZooKeeper", process, lambda: _answers(port), log)
        yield port
    finally:
        process.kill()
        process.wait()


def _answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection((LOOPBACK, port), timeout=1) as connection:
        connection.sendall(b"srvr")  # it says ruok before it takes sessions
        return b"Mode: standalone" in connection.makefile("rb").read()
    return False


def nodes(port: int, below: str) -> set[str]:
    """The paths of the nodes below one, as ZooKeeper's own client lists them."""
    command = [*_JAVA, "org.apache.zookeeper.ZooKeeperMain", "-server", f"{LOOPBACK}:{port}", "ls", "-R", below]
    listed = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=True)
    return {line for line in listed.stdout.splitlines() if line.startswith(below)}
