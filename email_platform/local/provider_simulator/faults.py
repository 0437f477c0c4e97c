"""Which fault, if any, a call meets.

The invariant: the decision depends on nothing but (seed, call ordinal, plan), so that a failed chaos run can
be repeated; and a call meets at most one fault, so that every count in the statistics has one meaning.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from hashlib import blake2b
from typing import Any

from email_platform.errors import ConfigurationError


class Fault(StrEnum):
    """What can go wrong with one call; the first group leaves nothing accepted, the second accepts first."""

    OUTAGE = "outage"
    REFUSE_ACCOUNT = "refuse_account"
    THROTTLE = "throttle"
    ERROR_5XX_BEFORE = "error_5xx_before"
    RESET_BEFORE = "reset_before"

    SLOW = "slow"
    ERROR_5XX_AFTER = "error_5xx_after"
    RESET_AFTER = "reset_after"
    SLOW_RESPONSE = "slow_response"
    DROP_RESPONSE = "drop_response"
    DUPLICATE_RESPONSE = "duplicate_response"


NOTHING_ACCEPTED: frozenset[Fault] = frozenset(
    {
        Fault.OUTAGE,
        Fault.REFUSE_ACCOUNT,
        Fault.THROTTLE,
        Fault.ERROR_5XX_BEFORE,
        Fault.RESET_BEFORE,
    }
)
"""Faults that certainly leave nothing accepted; a call with any other fault is accepted all the same."""

_SWITCHES = (Fault.OUTAGE, Fault.REFUSE_ACCOUNT)
_DURATIONS = (
    "slow_seconds",
    "slow_response_seconds",
    "throttle_retry_after_seconds",
    "drop_response_limit_seconds",
)
_FIELDS = frozenset({"seed", "probabilities", "script", *_SWITCHES, *_DURATIONS})


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """What faults to inject.

    Attributes:
        seed: the first half of every decision's input.
        probabilities: chance of each fault per call; together at most 1, since a call meets at most one.
        script: faults (None: no fault) of the next calls, in order, before the probabilities apply again.
        outage: every call is answered 503.
        refuse_account: every call is answered 403 AccountSuspended.
        slow_seconds: how long `slow` waits before it accepts.
        slow_response_seconds: how long `slow_response` waits after it accepted.
        throttle_retry_after_seconds: what a spurious 429 asks for.
        drop_response_limit_seconds: when `drop_response` resets the connection of a client that still waits.
    """

    seed: int = 0
    probabilities: Mapping[Fault, float] = field(default_factory=dict)
    script: tuple[Fault | None, ...] = ()
    outage: bool = False
    refuse_account: bool = False
    slow_seconds: float = 2.0
    slow_response_seconds: float = 2.0
    throttle_retry_after_seconds: float = 1.0
    drop_response_limit_seconds: float = 600.0

    def __post_init__(self) -> None:
        for fault, probability in self.probabilities.items():
            if not 0.0 <= probability <= 1.0:
                raise ConfigurationError(f"probabilities.{fault}: must be from 0 to 1, not {probability}")
        total = sum(self.probabilities.values())
        if total > 1.0 + 1e-9:
            raise ConfigurationError(f"probabilities: a call meets at most one fault, but they add to {total}")
        for name in _DURATIONS:
            if not 0.0 <= getattr(self, name) <= 86_400.0:
                raise ConfigurationError(f"{name}: must be from 0 to 86400 seconds")

    def changed_by(self, document: Any) -> FaultPlan:
        """Return this plan with the fields that ``document`` (parsed JSON) names replaced.

        ``probabilities`` is replaced as a whole: a fault that is not named has probability 0.

        Raises:
            ConfigurationError: a field is unknown or has a wrong value; the message names it.
        """
        if not isinstance(document, dict):
            raise ConfigurationError("faults: must be a JSON object")
        if unknown := sorted(set(document) - _FIELDS):
            raise ConfigurationError(f"{unknown[0]}: unknown field; allowed: {', '.join(sorted(_FIELDS))}")
        changes: dict[str, Any] = {}
        for name, value in document.items():
            if name == "probabilities":
                changes[name] = _parse_probabilities(value)
            elif name == "script":
                changes[name] = _parse_script(value)
            elif name in _SWITCHES:
                if not isinstance(value, bool):
                    raise ConfigurationError(f"{name}: must be true or false")
                changes[str(name)] = value
            elif name == "seed":
                if not isinstance(value, int) or isinstance(value, bool):
                    raise ConfigurationError("seed: must be an integer")
                changes[name] = value
            else:
                changes[name] = _parse_number(name, value)
        return replace(self, **changes)

    def as_document(self) -> dict[str, Any]:
        """Return the plan as the JSON object that `changed_by` takes."""
        return {
            "seed": self.seed,
            "probabilities": {str(fault): chance for fault, chance in self.probabilities.items()},
            "script": [None if fault is None else str(fault) for fault in self.script],
            "outage": self.outage,
            "refuse_account": self.refuse_account,
            **{name: getattr(self, name) for name in _DURATIONS},
        }


def _parse_number(path: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigurationError(f"{path}: must be a number")
    return float(value)


def _parse_fault(path: str, name: Any) -> Fault:
    try:
        return Fault(name)
    except ValueError as unknown:
        allowed = ", ".join(Fault)
        raise ConfigurationError(f"{path}: unknown fault {name!r}; allowed: {allowed}") from unknown


def _parse_probabilities(value: Any) -> dict[Fault, float]:
    if not isinstance(value, dict):
        raise ConfigurationError("probabilities: must be an object of fault and number")
    return {
        _parse_fault("probabilities", name): _parse_number(f"probabilities.{name}", chance)
        for name, chance in value.items()
    }


def _parse_script(value: Any) -> tuple[Fault | None, ...]:
    if not isinstance(value, list):
        raise ConfigurationError("script: must be a list of fault names or null")
    return tuple(None if name is None else _parse_fault(f"script[{index}]", name) for index, name in enumerate(value))


def unit_interval(*parts: object) -> float:
    """Return a number in [0, 1) that depends on ``parts`` alone, the same in every process."""
    text = "\x1f".join(map(str, parts)).encode()
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "big") / 2**64


def decide_fault(plan: FaultPlan, call_ordinal: int) -> Fault | None:
    """Return the fault of the call with this ordinal; a pure function of the plan without its script.

    The switches come first; then one draw is laid over the probabilities in the order of `Fault`, so each
    fault has exactly its probability.
    """
    if plan.refuse_account:
        return Fault.REFUSE_ACCOUNT
    if plan.outage:
        return Fault.OUTAGE
    if not plan.probabilities:
        return None
    draw = unit_interval(plan.seed, call_ordinal, "fault")
    upper = 0.0
    for fault in Fault:
        upper += plan.probabilities.get(fault, 0.0)
        if draw < upper:
            return fault
    return None


class FaultInjector:
    """Decides call by call, and counts what was really injected."""

    def __init__(self, plan: FaultPlan) -> None:
        self._plan = plan
        self._script = deque(plan.script)
        self._next_ordinal = 0
        self.injected: Counter[Fault] = Counter()

    @property
    def plan(self) -> FaultPlan:
        """The plan in force, with what is left of its script."""
        return replace(self._plan, script=tuple(self._script))

    def steer(self, plan: FaultPlan) -> None:
        """Put another plan in force for every call from now on; ordinals go on counting."""
        self._plan = plan
        self._script = deque(plan.script)

    def next_call(self) -> Fault | None:
        """Give the next call its ordinal and return its fault: from the script, else decided."""
        ordinal = self._next_ordinal
        self._next_ordinal += 1
        if self._script:
            return self._script.popleft()
        return decide_fault(self._plan, ordinal)
