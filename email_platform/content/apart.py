"""Renders messages in a process of their own, with a limit of memory and time: the guard behind the budget.

Invariant: whatever a template does, the process that asks goes on. A rendering that takes more than its limits, or ends
its process, is an `InvalidTemplateError`; the other process is given no secret and no
connection, and what it answers is read as JSON, never unpickled.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

import pyarrow as pa

import email_platform
from email_platform.content.compile import CompiledContent, ContentLimits
from email_platform.content.problem import ContentProblem
from email_platform.domain.campaigns import CampaignContent
from email_platform.domain.manifest import Manifest
from email_platform.errors import InvalidTemplateError, PartUnavailableError, RenderingEndedError

ROWS_AT_ONCE = 10
"""So many messages are rendered between two answers; the time limit is theirs."""
_START_SECONDS = 120.0  # imports alone, on a machine that is busy


@dataclass(frozen=True, slots=True)
class RenderingLimits:
    """What rendering in a process of its own may take.

    Attributes:
        seconds: for `ROWS_AT_ONCE` messages, and for what all of them share.
        seconds_setting: the variable that `seconds` come from, for the sentence that names it.
        memory_megabytes: beyond what the process has when it begins; of 1,048,576 bytes.
        program: the interpreter's arguments that start the other process.
    """

    seconds: float = 60.0
    seconds_setting: str = "EMAIL_PLATFORM_RENDER_SECONDS"
    memory_megabytes: int = 512
    program: tuple[str, ...] = ("-m", "email_platform.content.rendering_process")


def has_programs(compiled: CompiledContent) -> bool:
    """Whether anything in it is more than a look-up of variables, which cannot take more than the message has."""
    return any(part.pieces.program is not None or part.pieces.constants is not None for part in compiled.parts)


class RenderingApart:
    """A process that renders one campaign's messages; use it in a ``with``."""

    def __init__(
        self, content: CampaignContent, content_limits: ContentLimits, manifest: Manifest, limits: RenderingLimits
    ) -> None:
        self._job = (content, content_limits, manifest)
        self._limits = limits

    def __enter__(self) -> Self:
        ours, theirs = Pipe()
        arguments = (str(theirs.fileno()), str(self._limits.seconds), str(self._limits.memory_megabytes))
        try:
            self._process = subprocess.Popen(
                [sys.executable, *self._limits.program, *arguments],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=_environment(),
                start_new_session=True,  # Ctrl-C is for the process that asks, which ends this one
            )
        finally:
            theirs.close()
        self._pipe: Connection = ours
        try:
            if not self._pipe.poll(_START_SECONDS):
                raise PartUnavailableError(f"the process that renders did not start in {_START_SECONDS:g} s")
            self._pipe.recv_bytes()
            self._ask(self._job, "what all recipients share")
        except EOFError as ended:
            self.__exit__()
            raise PartUnavailableError("the process that renders ended while it started") from ended
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.close()
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()

    def problems(self, rows: pa.Table) -> Sequence[str | None]:
        """Why each row has no message; None where it has one. At most `ROWS_AT_ONCE` rows.

        Raises:
            InvalidTemplateError: rendering them took more than the limits.
        """
        answer: list[str | None] = self._ask((_in_bytes(rows), None), _of_leads(rows))
        return answer

    def values(self, rows: pa.Table, urls: Mapping[int, str]) -> list[tuple[str, ...] | ContentProblem]:
        """Each row's values, or why it has no message; see `email_platform.content.render.render_rows`.

        Args:
            rows: any number.
            urls: the unsubscribe link by lead id; of lead 0, too.

        Raises:
            InvalidTemplateError: rendering them took more than the limits.
            RenderingEndedError: the process ended meanwhile, by its limit of memory or by chance.
        """
        found: list[tuple[str, ...] | ContentProblem] = []
        for first in range(0, rows.num_rows, ROWS_AT_ONCE):
            part = rows.slice(first, ROWS_AT_ONCE)
            theirs = {lead: urls[lead] for lead in (0, *part.column("lead_id").to_pylist())}
            answers: list[str | list[str]] = self._ask((_in_bytes(part), theirs), _of_leads(part))
            found += [ContentProblem(each) if isinstance(each, str) else tuple(each) for each in answers]
        return found

    def _ask(self, question: object, about: str) -> Any:
        try:
            self._pipe.send(question)
            if not self._pipe.poll(self._limits.seconds):
                raise InvalidTemplateError(
                    f"rendering {about} takes more than {self._limits.seconds:g} s: make the template do less, "
                    f"or raise {self._limits.seconds_setting}"
                )
            answer = json.loads(self._pipe.recv_bytes())
        except (EOFError, ConnectionError):
            raise RenderingEndedError(
                f"rendering {about} ended its process ({_end_of(self._process)}): make the template do less, or raise "
                "EMAIL_PLATFORM_RENDER_MEMORY_MEGABYTES"
            ) from None
        if "error" in answer:
            raise InvalidTemplateError(str(answer["error"]))
        return answer["outcomes"]


def _in_bytes(rows: pa.Table) -> bytes:
    """These rows alone: pickled, a slice takes along the whole table that it was cut from."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as stream:
        stream.write_table(rows)
    return bytes(sink.getvalue())


def _of_leads(rows: pa.Table) -> str:
    ids = rows.column("lead_id").to_pylist()
    return f"the message of lead {ids[0]}" if len(ids) == 1 else f"the messages of leads {ids[0]} to {ids[-1]}"


def _environment() -> dict[str, str]:
    """What the interpreter needs to find the packages: no setting, no secret."""
    project = str(Path(email_platform.__file__).resolve().parent.parent)
    path = [project, *(each for each in sys.path if each)]
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH") if name in os.environ}
    # One thread is enough for a few rows, and its arenas count against the limit.
    return {**kept, "PYTHONPATH": os.pathsep.join(path), "OMP_NUM_THREADS": "1", "ARROW_DEFAULT_MEMORY_POOL": "system"}


def _end_of(process: subprocess.Popen[bytes]) -> str:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(10.0)
    code = process.returncode
    return "no end is known" if code is None else f"signal {-code}" if code < 0 else f"exit code {code}"
