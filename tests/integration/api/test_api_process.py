"""The API as a process: of its own, and as a part of the stack."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from email_platform.local.stack.part import free_port
from email_platform.local.stack.stack import clean_environment, running_stack
from email_platform.settings import Settings

pytestmark = pytest.mark.integration


def test_sigterm_ends_the_process_cleanly_and_its_log_holds_no_address(settings: Settings, tmp_path: Path) -> None:
    port = free_port()
    log = tmp_path / "log"
    with log.open("wb") as written:
        process = subprocess.Popen(
            [sys.executable, "-m", "email_platform.cli.app", "api", "--port", str(port)],
            env={**clean_environment(), **settings.variables(), "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=written,
            stderr=written,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until_it_answers(url, process)
        asked = httpx.get(f"{url}/v1/addresses/history", params={"address": "secret.person@example.com"})
        assert asked.status_code == 401
        health = httpx.get(f"{url}/healthz")
        assert health.status_code == 200
        assert health.json()["parts"] == {"PostgreSQL": "answers", "S3": "answers", "ClickHouse": "answers"}
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
        process.wait()
    assert "serving the API" in log.read_text()
    assert "secret.person" not in log.read_text()


def wait_until_it_answers(url: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        assert process.poll() is None
        try:
            assert httpx.get(f"{url}/health").json() == {"status": "serves"}
        except httpx.TransportError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError("it does not answer")


@pytest.mark.slow
def test_the_stack_has_it_as_a_part(tmp_path: Path) -> None:
    with running_stack(tmp_path / "state", environ=clean_environment(), parts=("postgres", "api")) as settings:
        url = f"http://127.0.0.1:{settings.api_port}"
        assert httpx.get(f"{url}/v1/campaigns").status_code == 401
        assert httpx.get(f"{url}/openapi.json").json()["openapi"].startswith("3.")
