"""A server that takes the simulator's bulk calls and accepts everybody, as cheaply as Python can.

It keeps nothing and checks nothing, so that what is measured beside it is the client. It runs in a process of its own.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import httptools
import uvloop

RECIPIENT_MARK = b'"message_id":'


class _Call(asyncio.Protocol):
    """One connection: reads a request whole, answers, and goes on; closes when the client does."""

    _numbers = count(1)

    def __init__(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._recipients = 0
        self._tail = b""
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self._recipients, self._tail = 0, b""

    def on_body(self, body: bytes) -> None:
        joined = self._tail + body
        self._recipients += joined.count(RECIPIENT_MARK)
        self._tail = joined[-(len(RECIPIENT_MARK) - 1) :]

    def on_message_complete(self) -> None:
        numbers = self._numbers
        results = ",".join(
            f'{{"status":"accepted","provider_message_id":"{next(numbers):032x}"}}' for _ in range(self._recipients)
        )
        body = f'{{"results":[{results}]}}'.encode()
        head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode()
        self._transport.write(head + body)
        if not self._parser.should_keep_alive():
            self._transport.close()


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(_Call, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


def _run(port: int) -> None:
    uvloop.run(_serve(port))


@contextmanager
def answering_server() -> Iterator[str]:
    """The address of a running server; the process is ended on leaving."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    process = multiprocessing.get_context("spawn").Process(target=_run, args=(port,), daemon=True)
    process.start()
    try:
        for _ in range(400):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        else:
            raise SystemExit("the answering server did not start")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.join()
