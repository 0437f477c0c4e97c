"""What a provider call costs over each transport that httpx's API can have, with and without TLS.

One server process on loopback answers calls of 50 kB; the client's side is measured in turns: httpx's own pool, the
aiohttp transport with kept connections, and `post_once` as the adapters use it, a connection of its own for every
call. The ratios are the result.

    python -m bench.provider_transport --calls 600 --rounds 3
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import ipaddress
import multiprocessing
import os
import socket
import ssl
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import orjson
import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from httpx_aiohttp import AiohttpTransport
from rich.console import Console
from rich.table import Table

from email_platform.adapters.providers.http_transport import (
    MAXIMUM_CONNECTIONS,
    CallTimeouts,
    open_transport,
    post_once,
)
from tests.fakes.certificates import self_signed

_BODY = orjson.dumps({"recipients": [{"to": f"lead{number}@example.com", "html": "x" * 940} for number in range(50)]})
_ANSWER = orjson.dumps({"results": [{"status": "accepted", "id": f"{number:032x}"} for number in range(50)]})
_TIMEOUTS = CallTimeouts()

Post = Callable[[Any, str], Awaitable[object]]


async def _app(scope: dict[str, object], receive: Callable[[], Awaitable[dict[str, object]]], send: object) -> None:
    while (await receive()).get("more_body"):
        pass
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(_ANSWER)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})  # type: ignore[operator]
    await send({"type": "http.response.body", "body": _ANSWER})  # type: ignore[operator]


def _serve(port: int, tls_folder: str | None) -> None:
    files: dict[str, Any] = {}
    if tls_folder:
        files = {"ssl_certfile": f"{tls_folder}/cert.pem", "ssl_keyfile": f"{tls_folder}/key.pem"}
    uvicorn.run(_app, port=port, http="httptools", lifespan="off", log_level="error", timeout_keep_alive=75, **files)


def _certificate(folder: Path) -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False),
        (x509.BasicConstraints(ca=True, path_length=0), True),
    ]
    certificate = self_signed(key, "127.0.0.1", datetime.datetime.now(datetime.UTC), extensions)
    (folder / "cert.pem").write_bytes(certificate)
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return ssl.create_default_context(cafile=str(folder / "cert.pem"))


async def _plain_post(client: httpx.AsyncClient, url: str) -> object:
    response = await client.post(url, content=_BODY)
    return response.raise_for_status()


async def _adapters_post(transport: httpx.AsyncBaseTransport, url: str) -> object:
    answer = await post_once(transport, url, body=_BODY, headers={}, provider="bench", timeouts=_TIMEOUTS)
    assert answer.status == 200, answer
    return answer


def _own_pool(verify: ssl.SSLContext) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=MAXIMUM_CONNECTIONS, max_keepalive_connections=MAXIMUM_CONNECTIONS)
    return httpx.AsyncClient(verify=verify, limits=limits, timeout=60, trust_env=False)


def _kept(verify: ssl.SSLContext) -> httpx.AsyncClient:
    def session() -> aiohttp.ClientSession:
        return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=MAXIMUM_CONNECTIONS, ssl=verify))

    return httpx.AsyncClient(transport=AiohttpTransport(client=session), timeout=60, trust_env=False)


def _adapters(verify: ssl.SSLContext) -> httpx.AsyncBaseTransport:
    return open_transport(verify=verify)


TRANSPORTS: dict[str, tuple[Callable[[ssl.SSLContext], httpx.AsyncClient | httpx.AsyncBaseTransport], Post]] = {
    "httpx's own pool": (_own_pool, _plain_post),
    "aiohttp, connections kept": (_kept, _plain_post),
    "post_once, one call each": (_adapters, _adapters_post),
}


async def _calls_per_second(url: str, verify: ssl.SSLContext, transport: str, calls: int, at_once: int) -> float:
    opened, post = TRANSPORTS[transport]
    left = iter(range(calls))

    async with opened(verify) as client:

        async def caller() -> None:
            for _ in left:
                await post(client, url)

        started = time.perf_counter()
        await asyncio.gather(*(caller() for _ in range(at_once)))
        return calls / (time.perf_counter() - started)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(port: int) -> None:
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise SystemExit("the server did not start")


def main() -> None:
    """Measure and print the rates and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--calls", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    table = Table("wire", "calls at once", *TRANSPORTS, "one call each / own pool")
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        verify = _certificate(Path(folder))
        for wire in ("http", "https"):
            port = _free_port()
            server = context.Process(target=_serve, args=(port, folder if wire == "https" else None), daemon=True)
            server.start()
            _wait_for(port)
            for at_once in (4, 16, 50):
                rates: dict[str, list[float]] = {name: [] for name in TRANSPORTS}
                for _ in range(options.rounds):
                    for name in TRANSPORTS:
                        url = f"{wire}://127.0.0.1:{port}/"
                        rates[name].append(asyncio.run(_calls_per_second(url, verify, name, options.calls, at_once)))
                middle = {name: statistics.median(found) for name, found in rates.items()}
                ratio = middle["post_once, one call each"] / middle["httpx's own pool"]
                table.add_row(wire, str(at_once), *(f"{middle[name]:,.0f}/s" for name in TRANSPORTS), f"{ratio:.2f}")
            server.terminate()
            server.join()
    Console(width=120).print(table)
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
