"""A fuzz target: where its inputs come from, and what must hold for each of them.

Invariant: an input is bytes, so that whatever is found can be kept in `tests/fuzz/corpus/<target>/` and is tried again
first, each time.
"""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hypothesis import strategies as st

CORPUS = Path(__file__).parent / "corpus"
MOST_CPU_SECONDS = 20.0
"""Of one input: no time of a clock, so a busy machine changes nothing; the slowest honest one takes below a tenth."""


class TooMuchWorkError(AssertionError):
    """One input took more than `MOST_CPU_SECONDS` of the processor."""


@dataclass(frozen=True, slots=True)
class Target:
    """What is fuzzed.

    Attributes:
        name: also its folder in the corpus.
        inputs: new inputs.
        check: raises, whatever it is, where an input is handled wrongly.
        bounded_inputs: how many a bounded run tries: one to six seconds' worth.
    """

    name: str
    inputs: st.SearchStrategy[bytes]
    check: Callable[[bytes], None]
    bounded_inputs: int

    @property
    def corpus(self) -> list[Path]:
        """The kept inputs."""
        return sorted(path for path in (CORPUS / self.name).glob("*") if path.is_file())

    def run(self, content: bytes) -> None:
        """Check one input, and that it takes no more of the processor than any input may."""
        with bounded_work():
            self.check(content)

    def keep(self, content: bytes) -> Path:
        """Write an input into the corpus, under a name that follows from its content."""
        path = CORPUS / self.name / hashlib.sha256(content).hexdigest()[:16]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path


@contextmanager
def bounded_work() -> Iterator[None]:
    """Interrupt what takes more than `MOST_CPU_SECONDS` of the processor; in the main thread only."""

    def give_up(_signal: int, _frame: object) -> None:
        raise TooMuchWorkError(f"one input took more than {MOST_CPU_SECONDS:.0f} s of the processor")

    before = signal.signal(signal.SIGPROF, give_up)
    signal.setitimer(signal.ITIMER_PROF, MOST_CPU_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
