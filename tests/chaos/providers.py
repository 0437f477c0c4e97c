"""The providers of the chaos suites: the stack's own simulator, which honours keys, and a second one that does not."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from email_platform.local.provider_simulator import AcceptedLog
from email_platform.local.stack.part import free_port
from email_platform.settings.provider_accounts import account_variable

PATIENCE_SECONDS = 120.0
KEYS, NO_KEYS = "keys", "nokeys"  # names of provider accounts
BAD_DOMAIN = "bad.example"  # one of its addresses makes a whole call be refused
BLOCKED_DOMAIN = "blocked.example"  # its addresses are refused one by one
_NO_KEYS_API_KEY = "the-key-of-the-provider-without-keys"


@dataclass(frozen=True)
class Simulator:
    """A provider simulator, steered from outside.

    Attributes:
        data_folder: where it keeps its own log of what it accepted.
        honours_keys: whether a repeated call with the same key is accepted once.
    """

    account: str
    address: str
    api_key: str
    data_folder: Path
    honours_keys: bool

    @property
    def log(self) -> AcceptedLog:
        """What it accepted, by its own account."""
        return AcceptedLog(self.data_folder)

    def variables(self, recipients_per_call: int) -> dict[str, str]:
        """The environment that makes its account known to the platform."""
        settings = {
            "base_url": self.address,
            "api_key": self.api_key,
            "recipients_per_call": str(recipients_per_call),
            **({} if self.honours_keys else {"idempotency": "off"}),
        }
        return {account_variable("simulator", self.account, name): value for name, value in settings.items()}

    def set_faults(self, **plan: Any) -> None:
        """Put this plan of faults in force, and nothing of an earlier one."""
        self.no_faults()
        self._ask("PUT", "faults", plan)

    def no_faults(self) -> None:
        """Let it be a good provider again."""
        self._ask("DELETE", "faults")

    def fault_counts(self) -> Counter[str]:
        """How often it injected each fault since it started."""
        return Counter({str(kind): int(times) for kind, times in self._ask("GET", "statistics")["faults"].items()})

    def _ask(self, method: str, path: str, document: Any = None) -> Any:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                answer = httpx.request(
                    method,
                    f"{self.address}/admin/{path}",
                    json=document,
                    headers={"Authorization": f"Bearer {self.api_key}"},
                )
                answer.raise_for_status()
                return answer.json()
            except httpx.TransportError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)  # it was killed and comes back


@contextmanager
def provider_without_keys(folder: Path) -> Iterator[Simulator]:
    """A simulator of its own that accepts a repeated call once more; it ends with this process."""
    data_folder = folder / "provider-without-keys"
    port = free_port()
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "email_platform.local.provider_simulator", "--data-folder", str(data_folder)),
            *("--port", str(port), "--idempotency", "off", "--exit-with-parent", "--blocked-domain", BLOCKED_DOMAIN),
        ],
        env={
            **os.environ,
            "EMAIL_PLATFORM_PROVIDER_API_KEY": _NO_KEYS_API_KEY,
            "EMAIL_PLATFORM_PROVIDER_WEBHOOK_SECRET": "not used by this provider",
        },
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + PATIENCE_SECONDS
    try:
        while True:
            with suppress(httpx.TransportError):
                if httpx.get(f"{address}/health").status_code == 200:
                    break
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the provider without keys did not start")
            time.sleep(0.05)
        yield Simulator(NO_KEYS, address, _NO_KEYS_API_KEY, data_folder, honours_keys=False)
    finally:
        process.terminate()
        process.wait()
