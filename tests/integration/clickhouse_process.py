"""The embedded ClickHouse endpoint as a process of its own, for tests that a shared one would not survive."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import clickhouse_connect
from clickhouse_connect.driver.client import Client

USER = "mailer"
PASSWORD = "p'w;\"é 😀 secret-of-this-test"
DATABASE = "mail"


@dataclass
class Endpoint:
    """A running process and its clients."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    def client(self, **options: Any) -> Client:
        options = {"username": USER, "password": PASSWORD, "database": DATABASE, **options}
        return clickhouse_connect.get_client(host="127.0.0.1", port=self.port, **options)

    def ask(
        self,
        method: str = "POST",
        path: str = "/",
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        **parameters: str,
    ) -> tuple[int, dict[str, str], bytes]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            if headers is None:
                headers = {"Authorization": "Basic " + b64encode(f"{USER}:{PASSWORD}".encode()).decode()}
            connection.request(method, f"{path}?{urlencode(parameters)}", body, headers)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()

    def peak_bytes(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert found
        return int(found.group(1)) * 1024

    def forget_peak(self) -> None:
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(60)


def command(data_folder: Path, port: int, *more: str) -> list[str]:
    module = "email_platform.local.clickhouse_endpoint"
    options = ["--data-folder", str(data_folder), "--port", str(port), "--user", USER, "--database", DATABASE]
    return [sys.executable, "-m", module, *options, *more]


def environment() -> dict[str, str]:
    return {**os.environ, "EMAIL_PLATFORM_CLICKHOUSE_PASSWORD": PASSWORD}


def start(data_folder: Path, *more: str) -> Endpoint:
    log = data_folder.with_name(f"{data_folder.name}-{time.monotonic_ns()}.log")
    with log.open("wb") as output:
        process = subprocess.Popen(command(data_folder, 0, *more), stderr=output, stdout=output, env=environment())
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = re.search(rb"listens on http://127\.0\.0\.1:(\d+)", log.read_bytes())
        if found:
            return Endpoint(process, int(found.group(1)), log)
        if process.poll() is not None:
            break
        time.sleep(0.02)
    process.kill()
    process.wait()
    raise AssertionError(log.read_text())


@contextmanager
def running(data_folder: Path, *more: str) -> Iterator[Endpoint]:
    endpoint = start(data_folder, *more)
    try:
        yield endpoint
    finally:
        if endpoint.process.poll() is None:
            endpoint.process.kill()
            endpoint.process.wait()
