"""Our sender alone beside a bare loop over the same encoded bodies, in turns, in one run.

The sender is `email_platform.runs.send.send_chunk` in one process: frozen audience, ledger in PostgreSQL, staging in
S3, the adapter of the simulator; no Dagster and no rate limit. The bare loop is aiohttp without httpx over it, with as
many calls at once and a connection for each call, as the adapters have it. Both call a server that accepts everybody.

Measured for each: recipients a second, and processor time of the process a recipient (its threads included).
"""

from __future__ import annotations

import asyncio
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
from sqlalchemy import Engine

from bench.send.campaigns import queue, send_all
from email_platform.adapters.assembly import open_oltp, open_parts
from email_platform.domain.campaigns import Sender as CampaignSender
from email_platform.domain.ports import BulkCall, EmailProvider, EncodedCall
from email_platform.runs.freeze import freeze_audience
from email_platform.runs.parts import Parts
from email_platform.settings import Settings


@dataclass(frozen=True, slots=True)
class Turn:
    """One measured turn.

    Attributes:
        processor_seconds: user and system time of the process.
        body_bytes: of all requests together.
    """

    recipients: int
    calls: int
    seconds: float
    processor_seconds: float
    body_bytes: int = 0

    @property
    def recipients_per_second(self) -> float:
        """The rate."""
        return self.recipients / self.seconds

    @property
    def processor_microseconds(self) -> float:
        """Processor time a recipient."""
        return self.processor_seconds / self.recipients * 1e6


def processor_seconds() -> float:
    """User and system time of this process and all its threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


@contextmanager
def measured(into: list[tuple[float, float]]) -> Iterator[None]:
    """Appends seconds and processor seconds of the block."""
    began_seconds, began_processor = time.perf_counter(), processor_seconds()
    yield
    into.append((time.perf_counter() - began_seconds, processor_seconds() - began_processor))


class Recording:
    """The provider with every body kept: what the bare loop sends."""

    def __init__(self, provider: EmailProvider, bodies: list[tuple[bytes, Mapping[str, str]]]) -> None:
        self._provider, self._bodies = provider, bodies

    def __getattr__(self, name: str) -> Any:
        return getattr(self._provider, name)

    def encode(self, call: BulkCall) -> EncodedCall:
        """The provider's, kept."""
        encoded = self._provider.encode(call)
        self._bodies.append((encoded.body, self._provider._headers(encoded)))  # type: ignore[attr-defined]
        return encoded


async def _post_all(url: str, bodies: Sequence[tuple[bytes, Mapping[str, str]]], at_once: int) -> None:
    left = iter(bodies)

    async def caller(session: aiohttp.ClientSession) -> None:
        for body, headers in left:
            async with session.post(url, data=body, headers=headers) as answer:
                await answer.read()
                assert answer.status == 200

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=at_once, force_close=True)) as session:
        await asyncio.gather(*(caller(session) for _ in range(at_once)))


def turns(settings: Settings, url: str, html_bytes: int, city: str, rounds: int) -> Iterator[tuple[Turn, Turn]]:
    """Pairs of turns, the sender's and the bare loop's, each over a new campaign to the same leads.

    The first pair warms both up and is not given back.
    """
    with open_oltp(settings) as engine, open_parts(settings) as parts:
        for number in range(rounds + 1):
            campaign_id = queue(engine, city, html_bytes)
            manifest = freeze_audience(parts, campaign_id).manifest
            spent: list[tuple[float, float]] = []
            with measured(spent):
                accepted = send_all(parts, campaign_id, manifest.chunk_count)
            assert accepted == manifest.eligible_rows, (accepted, manifest.eligible_rows)
            bodies = bodies_of(parts, engine, city, html_bytes)
            with measured(spent):
                asyncio.run(_post_all(f"{url}/v1/bulk", bodies, parts.policy.connections))
            if number:
                ours, bare = spent
                size = sum(len(body) for body, _ in bodies)
                yield Turn(accepted, len(bodies), *ours, size), Turn(accepted, len(bodies), *bare, size)


_kept: dict[tuple[str, int], list[tuple[bytes, Mapping[str, str]]]] = {}


def bodies_of(parts: Parts, engine: Engine, city: str, html_bytes: int) -> list[tuple[bytes, Mapping[str, str]]]:
    """The encoded bodies of such a campaign's calls, made once, by sending it."""
    if (city, html_bytes) not in _kept:
        bodies: list[tuple[bytes, Mapping[str, str]]] = []

        def recording(its_sender: CampaignSender) -> EmailProvider:
            found: Any = Recording(parts.provider(its_sender), bodies)
            return found

        recorded = replace(parts, provider=recording)
        campaign_id = queue(engine, city, html_bytes)
        manifest = freeze_audience(recorded, campaign_id).manifest
        send_all(recorded, campaign_id, manifest.chunk_count)
        _kept[city, html_bytes] = bodies
    return _kept[city, html_bytes]


def main() -> None:
    """Run as a process of its own: a JSON line per pair, for the settings of the environment.

    Arguments: the server's address, the newsletter's bytes, the leads' city, the rounds.
    """
    url, html_bytes, city, rounds = sys.argv[1:]
    for ours, bare in turns(Settings.load(), url, int(html_bytes), city, int(rounds)):
        print(json.dumps([asdict(ours), asdict(bare)]), flush=True)


def in_a_process(
    environment: Mapping[str, str], url: str, html_bytes: int, city: str, rounds: int, say: Callable[[str], None]
) -> list[tuple[Turn, Turn]]:
    """The same in a fresh process, so that nothing else of this program is in its processor time."""
    command = [sys.executable, "-m", "bench.send.sender_alone", url, str(html_bytes), city, str(rounds)]
    found = []
    with subprocess.Popen(
        command, env=dict(environment), cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            ours, bare = json.loads(line)
            found.append((Turn(**ours), Turn(**bare)))
            rates = " against ".join(f"{turn.recipients_per_second:,.0f}" for turn in found[-1])
            say(f"  {html_bytes:,} bytes: {rates} recipients a second")
    if process.returncode:
        raise SystemExit(f"the sender's process ended with {process.returncode}")
    return found


if __name__ == "__main__":
    main()
