"""The other side of `email_platform.content.apart`: renders what it is sent, within limits that the kernel keeps.

Invariant: it limits itself before it compiles anything of the campaign's, and answers JSON, one text a question.

    python -m email_platform.content.rendering_process DESCRIPTOR SECONDS MEGABYTES
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pyarrow as pa

from email_platform.content.check import SampleLinks
from email_platform.content.compile import CompiledContent, compile_content
from email_platform.content.layout import Layout, UnsubscribeLinks
from email_platform.content.problem import ContentProblem
from email_platform.content.render import render_rows
from email_platform.domain.manifest import Manifest
from email_platform.errors import InvalidTemplateError


class _Links:
    """Links that were made before: this process has no key to sign any."""

    def __init__(self, urls: Mapping[int, str]) -> None:
        self._urls = urls

    def url(self, campaign_id: int, lead_id: int, sender_id: int) -> str:
        return self._urls[lead_id]


def main(arguments: Sequence[str] | None = None) -> int:
    """Answer questions until the other side closes; returns the exit code."""
    descriptor, seconds, megabytes = sys.argv[1:] if arguments is None else arguments
    pipe = Connection(int(descriptor))
    _limit_memory(int(megabytes) * 1024 * 1024)
    # A signal to a whole service is for the process that asks, which ends this one.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    pipe.send_bytes(b"{}")
    try:
        content, content_limits, manifest = pipe.recv()
        _limit_time(float(seconds))
        try:
            compiled = compile_content(content, content_limits)
            Layout(compiled, manifest, SampleLinks())
        except InvalidTemplateError as error:
            _answer(pipe, error=str(error))
            return 0
        _answer(pipe, outcomes=[])
        while True:
            content_of_rows, urls = pipe.recv()
            rows = pa.ipc.open_stream(content_of_rows).read_all()
            _limit_time(float(seconds))
            try:
                _answer(pipe, outcomes=_outcomes(compiled, rows, manifest, urls))
            except InvalidTemplateError as error:
                _answer(pipe, error=str(error))
    except (EOFError, ConnectionError):
        return 0


def _outcomes(
    compiled: CompiledContent, rows: pa.Table, manifest: Manifest, urls: Mapping[int, str] | None
) -> list[Any]:
    links: UnsubscribeLinks = SampleLinks() if urls is None else _Links(urls)
    values = render_rows(compiled, rows, manifest, links, Layout(compiled, manifest, links)).values
    if urls is None:
        return [each.reason if isinstance(each, ContentProblem) else None for each in values]
    return [each.reason if isinstance(each, ContentProblem) else list(each) for each in values]


def _answer(pipe: Connection, **answer: Any) -> None:
    pipe.send_bytes(json.dumps(answer).encode())


def _limit_memory(more_bytes: int) -> None:
    """At most so much beyond what the process has now: then Python raises MemoryError, a library may abort.

    RLIMIT_DATA counts private writable memory, of mmap as well since Linux 4.7 (getrlimit(2)). Other systems count the
    heap alone; there the time limit is what remains.
    """
    has_bytes = 0
    status = Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text(encoding="ascii").splitlines() if ":" in line)
        has_bytes = int(lines["VmData"].split()[0]) * 1024
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = has_bytes + more_bytes
    resource.setrlimit(resource.RLIMIT_DATA, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


def _limit_time(seconds: float) -> None:
    """Processor time for the next answer: should the other side be gone, nothing goes on for ever."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = int(used.ru_utime + used.ru_stime + 2 * seconds) + 2
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


if __name__ == "__main__":
    raise SystemExit(main())
