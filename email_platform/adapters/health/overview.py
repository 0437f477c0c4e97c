"""What `email-platform status` and `doctor` ask, put together.

Invariant: both ask the same questions about processes, work and machine; `doctor` asks every part whether it fits, and
`status`, which somebody may leave open, only whether the three that everything needs are there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from email_platform.adapters.assembly import utc_now
from email_platform.adapters.health.asking import PartCheck, Shared, ask_side_by_side
from email_platform.adapters.health.machine import machine_questions
from email_platform.adapters.health.processes import dagster_question, process_questions
from email_platform.adapters.health.work import read_work, work_questions
from email_platform.adapters.part_checks import overview_questions, part_questions
from email_platform.settings import Settings


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where this machine reaches processes that may run elsewhere; None: it is not set, and nothing is asked."""

    receiver_url: str | None = None
    api_url: str | None = None


@dataclass(frozen=True, slots=True)
class Overview:
    """What was found at one moment."""

    at: datetime
    checks: Sequence[PartCheck]

    @property
    def wrong(self) -> Sequence[PartCheck]:
        """Parts, processes and this machine, where they are not as they must be."""
        return [one for one in self.checks if not one.fits and one.group != "work"]

    @property
    def needs(self) -> Sequence[PartCheck]:
        """Work that waits for an operator, or for what is wrong."""
        return [one for one in self.checks if not one.fits and one.group == "work"]


def diagnosis(settings: Settings, variables: Mapping[str, str], addresses: Addresses) -> Overview:
    """Everything that `doctor` asks; at most `asking.ANSWER_WITHIN_SECONDS`.

    Args:
        settings: the validated settings.
        variables: where provider accounts are read from.
        addresses: of receiver and API.
    """
    reading = Shared(lambda: read_work(settings))
    questions = [
        *part_questions(settings, variables),
        *process_questions(reading, addresses.receiver_url, addresses.api_url),
        dagster_question(settings),
        *work_questions(settings, reading),
        *machine_questions(settings),
    ]
    return Overview(utc_now(), list(ask_side_by_side(questions)))


def overview(settings: Settings, variables: Mapping[str, str], addresses: Addresses) -> Overview:
    """Everything that `status` asks; arguments as for `diagnosis`."""
    reading = Shared(lambda: read_work(settings))
    questions = [
        *overview_questions(settings, variables),
        *process_questions(reading, addresses.receiver_url, addresses.api_url),
        *work_questions(settings, reading),
        *machine_questions(settings),
    ]
    return Overview(utc_now(), list(ask_side_by_side(questions)))
