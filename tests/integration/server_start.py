"""Waiting for a server that a test has started."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

PATIENCE_SECONDS = 60.0


def wait_for_server(
    name: str,
    process: subprocess.Popen[bytes],
    answers: Callable[[], bool],
    log: Path | None = None,
    patience_seconds: float = PATIENCE_SECONDS,
) -> None:
    """Return once it answers.

    Raises:
        RuntimeError: its process has ended, or it took too long; with the end of its log.
    """
    deadline = time.monotonic() + patience_seconds
    while not answers():
        if process.poll() is not None or time.monotonic() > deadline:
            end_of_log = log.read_text(encoding="utf-8", errors="replace")[-2_000:] if log and log.exists() else ""
            raise RuntimeError(f"{name} did not start: {end_of_log}")
        time.sleep(0.05)
