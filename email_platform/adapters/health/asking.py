"""Questions that are asked side by side, each with an answer or a word that there was none in time.

Invariant: one question's trouble hides no other's, and all of them together take no longer than the time of one. A
part that is stopped (SIGSTOP, a frozen machine, a lost network) accepts connections and never answers; what waits for
it is left behind in a daemon thread, which ends with its own time-out or with the process.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

from email_platform.errors import ConfigurationError, EmailPlatformError

ANSWER_WITHIN_SECONDS = 10.0
Group = Literal["part", "process", "work", "machine"]
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class PartCheck:
    """One line of `email-platform doctor` and `status`.

    Attributes:
        part: what was asked.
        fits: whether it is as it must be.
        says: what was found, or what is wrong; without secrets.
        do: what mends it; empty where nothing is wrong, or where `says` has it.
        group: a ``part`` of the outside world, a ``process`` of ours, the ``work`` that waits, this ``machine``.
        took_seconds: until the answer.
    """

    part: str
    fits: bool
    says: str
    do: str = ""
    group: Group = "part"
    took_seconds: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True)
class Found:
    """An answer that is more than a sentence.

    Attributes:
        do: what mends it; where given, something is wrong.
    """

    says: str
    do: str = ""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of one part.

    Attributes:
        ask: says what was found; `EmailPlatformError` where something is wrong.
        do: what mends it where there is no answer, or one that does not say how.
    """

    part: str
    ask: Callable[[], str | Found]
    do: str = ""
    group: Group = "part"


class Shared(Generic[_T]):
    """A reading that several questions use: made once, by whoever asks first; the others wait for it.

    Args:
        read: makes it; what it raises is raised to all.
    """

    def __init__(self, read: Callable[[], _T]) -> None:
        self._read = read
        self._lock = threading.Lock()
        self._made: list[_T] = []
        self._failure: Exception | None = None

    def get(self) -> _T:
        """The reading."""
        with self._lock:
            if self._failure is not None:
                raise self._failure
            if not self._made:
                try:
                    self._made.append(self._read())
                except Exception as failure:
                    self._failure = failure
                    raise
            return self._made[0]


def ask_side_by_side(
    questions: Iterable[Question], within_seconds: float = ANSWER_WITHIN_SECONDS
) -> Iterator[PartCheck]:
    """Ask all at once; the answers come in the order of the questions.

    Args:
        questions: each is asked in a thread of its own.
        within_seconds: from the beginning; who has not answered by then counts as not answering.
    """
    began = time.monotonic()
    asked = [_Asked(question, began) for question in questions]
    for one in asked:
        yield one.answer(max(0.0, began + within_seconds - time.monotonic()), within_seconds)


class _Asked:
    """One question under way."""

    def __init__(self, question: Question, began: float) -> None:
        self._question = question
        self._began = began
        self._answer: PartCheck | None = None
        self._thread = threading.Thread(target=self._ask, name=f"ask {question.part}", daemon=True)
        self._thread.start()

    def answer(self, wait_seconds: float, within_seconds: float) -> PartCheck:
        self._thread.join(wait_seconds)
        question = self._question
        return self._answer or PartCheck(
            question.part,
            False,
            f"did not answer within {within_seconds:g} s",
            question.do,
            question.group,
            time.monotonic() - self._began,
        )

    def _ask(self) -> None:
        question = self._question
        try:
            found = question.ask()
            if isinstance(found, str):
                found = Found(found)
            fits, says, do = not found.do, found.says, found.do
        except ConfigurationError as problem:  # its words name what to change
            fits, says, do = False, str(problem), ""
        except EmailPlatformError as problem:
            fits, says, do = False, str(problem), question.do
        except Exception as fault:  # of ours or of a driver; its words may hold an address or a credential
            fits, says, do = False, f"the question itself failed: {type(fault).__name__}", question.do
        self._answer = PartCheck(question.part, fits, says, do, question.group, time.monotonic() - self._began)
