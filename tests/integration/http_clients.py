"""HTTP clients for tests that call from many threads."""

from __future__ import annotations

import threading
from typing import Any

import httpx


class ClientsByThread:
    """An httpx client for each thread that asks.

    Threads that share one client are closed under each other's requests (encode/httpcore, issue 1110): a thread's
    pass over the pool closes an idle connection that another one was just given, and that one's request fails with
    EBADF or waits out its read timeout.
    """

    def __init__(self, **options: Any) -> None:
        self._options = options
        self._local = threading.local()
        self._all: list[httpx.Client] = []

    @property
    def mine(self) -> httpx.Client:
        """The calling thread's client."""
        if not hasattr(self._local, "client"):
            self._local.client = httpx.Client(**self._options)
            self._all.append(self._local.client)
        client: httpx.Client = self._local.client
        return client

    def close(self) -> None:
        """Close the clients of all threads."""
        for client in self._all:
            client.close()
