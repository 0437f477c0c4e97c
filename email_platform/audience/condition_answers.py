"""Why a lead does not meet a condition: which comparisons fail, in words.

Invariant: the words follow from the same comparisons that choose an audience; PostgreSQL answers each of them for the
lead (`LeadsNow`), and nothing here evaluates one again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from email_platform.audience.conditions import AllOf, AnyOf, Comparison, Condition, Not

_WORDS = {
    "eq": "is",
    "ne": "is not",
    "in": "is one of",
    "not_in": "is none of",
    "lt": "is less than",
    "lte": "is at most",
    "gt": "is more than",
    "gte": "is at least",
    "between": "is between",
    "contains": "contains",
    "starts_with": "starts with",
}
_LISTED_VALUES = 5
_VALUE_CHARACTERS = 80


@dataclass(frozen=True, slots=True)
class Answer:
    """What one comparison says of one lead.

    Attributes:
        holds: whether the lead meets it; a missing value does not.
        value: the lead's value as text, of the comparison's type; None where there is none of that type.
    """

    comparison: Comparison
    holds: bool
    value: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class LeadNow:
    """The lead's row as it is now.

    Attributes:
        address: as it is stored; None without one.
        created_at: when the row was made; None where that cannot be read.
        is_valid: whether the address can be mailed.
        unreadable: why the attributes cannot be read; None where they can.
        answers: of the comparisons that were asked, in their order.
    """

    lead_id: int
    address: str | None = field(repr=False)
    created_at: datetime | None
    unsubscribed_at: datetime | None
    is_valid: bool
    unreadable: str | None
    answers: tuple[Answer, ...] = ()


class LeadsNow(Protocol):
    """Leads as their rows are now."""

    def lead(self, lead_id: int, comparisons: Sequence[Comparison]) -> LeadNow | None:
        """The lead, with an answer to each comparison; None where there is no such row."""
        ...

    def with_address(self, address: str, limit: int) -> Sequence[LeadNow] | None:
        """Leads that have the address, lowest id first, without answers; None where finding them takes too long.

        Args:
            address: as `email_platform.domain.addresses.normalised_address` gives it.
            limit: at most so many.
        """
        ...


def comparisons_of(condition: Condition) -> Iterator[Comparison]:
    """Every comparison of a condition, from left to right."""
    match condition:
        case AllOf(parts) | AnyOf(parts):
            for part in parts:
                yield from comparisons_of(part)
        case Not(part):
            yield from comparisons_of(part)
        case Comparison():
            yield condition


def unmet(condition: Condition, answers: Sequence[Answer]) -> list[str]:
    """What keeps the lead out, one sentence a part that fails; empty where the lead meets the condition.

    Args:
        condition: of the campaign.
        answers: of its comparisons, in the order of `comparisons_of`.
    """
    return _Reader(answers).failures(condition)


class _Reader:
    """Takes the answers in the order in which the comparisons come."""

    def __init__(self, answers: Sequence[Answer]) -> None:
        self._answers = iter(answers)

    def failures(self, condition: Condition) -> list[str]:
        match condition:
            case AllOf(parts):
                return [failure for part in parts for failure in self.failures(part)]
            case AnyOf(parts):
                each = [self.failures(part) for part in parts]
                return ["none of these holds: " + "; or ".join(" and ".join(one) for one in each)] if all(each) else []
            case Not(part):
                asked = " and ".join(described(one) for one in comparisons_of(part))
                return [] if self.failures(part) else [f"this must not hold, and does: {asked}"]
            case Comparison():
                answer = next(self._answers)
                return [] if answer.holds else [f"{described(condition)}: {_of_the_lead(answer)}"]


def described(comparison: Comparison) -> str:
    """The comparison in words: ``country is one of 'AT', 'DE'``."""
    name = f"attributes.{comparison.field}" if comparison.is_attribute else comparison.field
    if comparison.op == "is_null":
        return f"{name} has no value" if comparison.value else f"{name} has a value"
    values = comparison.value if isinstance(comparison.value, tuple) else (comparison.value,)
    listed = [_shown(value) for value in values[:_LISTED_VALUES]]
    if len(values) > _LISTED_VALUES:
        listed.append(f"{len(values) - _LISTED_VALUES:,} more")
    return f"{name} {_WORDS[comparison.op]} {(' and ' if comparison.op == 'between' else ', ').join(listed)}"


def _of_the_lead(answer: Answer) -> str:
    if answer.value is not None:
        return f"the lead has {_shown(answer.value)}"
    wanted = answer.comparison.value_type
    return f"the lead has none of type {wanted}" if answer.comparison.is_attribute and wanted else "the lead has none"


def _shown(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    text = repr(value) if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= _VALUE_CHARACTERS else text[:_VALUE_CHARACTERS] + "…"
