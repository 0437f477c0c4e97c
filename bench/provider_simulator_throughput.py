"""How much of a bare HTTP endpoint's call rate the provider simulator keeps, although it logs durably.

Runs two processes in turns, under the same bounded generator: the simulator, and a bare Starlette endpoint
that reads the same body and answers the same bytes without looking or logging. The ratio is the result; the
absolute rates hold for this machine at this moment only.

    python bench/provider_simulator_throughput.py --calls 1500 --rounds 3
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from email_platform.local.provider_simulator import AcceptedLog

_RECIPIENTS = 50
_API_KEY = "bench-key"


def bare_app() -> Starlette:
    """Return the endpoint to compare with."""
    answer = orjson.dumps(
        {
            "results": [
                {"status": "accepted", "provider_message_id": f"{'0' * 24}-{position:04d}"}
                for position in range(_RECIPIENTS)
            ]
        }
    )

    async def bulk(request: Request) -> Response:
        await request.body()
        return Response(answer, media_type="application/json")

    return Starlette(routes=[Route("/v1/bulk", bulk, methods=["POST"])])


def bulk_body(call_ordinal: int) -> bytes:
    """Return the JSON of one call with 50 small recipients."""
    return orjson.dumps(
        {
            "from": "Sender <sender@example.com>",
            "reply_to": "reply@example.com",
            "tags": {"campaign_id": "bench", "call_id": str(uuid.uuid4())},
            "recipients": [
                {
                    "to": f"lead{call_ordinal * _RECIPIENTS + position}@example.com",
                    "message_id": str(uuid.uuid4()),
                    "subject": "News for you",
                    "html": "<p>Hello, this is a small message.</p>",
                    "text": "Hello, this is a small message.",
                    "headers": {"List-Unsubscribe": "<https://example.com/u/1>"},
                }
                for position in range(_RECIPIENTS)
            ],
        }
    )


async def drive(port: int, bodies: list[bytes], connections: int) -> float:
    """Send every body once over kept-alive connections; return calls per second."""
    pending = iter(bodies)

    async def worker() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for body in pending:
            writer.write(
                b"POST /v1/bulk HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer %b\r\n"
                b"idempotency-key: %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
                % (_API_KEY.encode(), uuid.uuid4().hex.encode(), len(body))
            )
            writer.write(body)
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200"):
                raise SystemExit(f"unexpected answer: {head!r}")
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
        writer.close()
        await writer.wait_closed()

    started = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(connections)))
    return len(bodies) / (time.perf_counter() - started)


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def server(arguments: list[str], port: int) -> Iterator[None]:
    """Run a server process until the block ends."""
    environment = {
        **os.environ,
        "EMAIL_PLATFORM_PROVIDER_API_KEY": _API_KEY,
        "EMAIL_PLATFORM_PROVIDER_WEBHOOK_SECRET": "bench-secret",
    }
    process = subprocess.Popen([sys.executable, *arguments], env=environment)
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if time.monotonic() > deadline or process.poll() is not None:
                    raise
                time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(timeout=20)


def main() -> None:
    """Measure and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--calls", type=int, default=1500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--serve-bare", type=int, metavar="PORT", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve_bare:
        uvicorn.run(bare_app(), port=options.serve_bare, http="httptools", access_log=False, log_level="warning")
        return
    simulator_port, bare_port = free_port(), free_port()
    with tempfile.TemporaryDirectory() as data_folder:
        simulator = [
            "-m",
            "email_platform.local.provider_simulator",
            "--data-folder",
            data_folder,
            "--port",
            str(simulator_port),
        ]
        with server(simulator, simulator_port), server([__file__, "--serve-bare", str(bare_port)], bare_port):
            ratios: list[float] = []
            for round_ordinal in range(options.rounds):
                bodies = [bulk_body(round_ordinal * options.calls + call) for call in range(options.calls)]
                bare = asyncio.run(drive(bare_port, bodies, options.connections))
                simulated = asyncio.run(drive(simulator_port, bodies, options.connections))
                ratios.append(simulated / bare)
                print(
                    f"round {round_ordinal + 1}: bare {bare:.0f} calls/s, simulator {simulated:.0f} calls/s "
                    f"({simulated * _RECIPIENTS:.0f} recipients/s), ratio {ratios[-1]:.2f}"
                )
        summary = AcceptedLog(data_folder).summary("bench")
        assert summary.accepted_rows == options.calls * options.rounds * _RECIPIENTS, summary
    print(f"median ratio {statistics.median(ratios):.2f} over {options.rounds} rounds; every row is in the log")


if __name__ == "__main__":
    main()
