"""Fetching from SNS holds up no other request."""

from __future__ import annotations

import asyncio
import ssl
import threading
from typing import Any

import httpx
import pytest

from email_platform.adapters import sns_fetch
from email_platform.errors import PartUnavailableError


def test_the_tls_context_is_built_once_and_never_on_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    built_on: list[threading.Thread] = []
    real = httpx.create_ssl_context

    def watched(**options: Any) -> ssl.SSLContext:
        built_on.append(threading.current_thread())
        return real(**options)

    monkeypatch.setattr(httpx, "create_ssl_context", watched)
    sns_fetch._tls_context.cache_clear()
    for _ in range(2):
        with pytest.raises(PartUnavailableError, match="ConnectError"):
            asyncio.run(sns_fetch.fetch_from_sns("https://127.0.0.1:1/certificate.pem"))
    assert len(built_on) == 1
    assert built_on[0] is not threading.main_thread()
