"""How fast a provider account may be used, shared by every process that uses it.

Invariant: what is booked is spent. A process books calls only as slots free up, so each process has at most
`connections` bookings ahead of it, and a small campaign that comes late waits for that many, not for a million.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class AccountRate:
    """What a provider account allows.

    Attributes:
        recipients_per_second, calls_per_second: None for no limit of this kind.
        burst_seconds: how much of a rate unused before may be used at once.
        least_share: throttling never slows down below this share of the rate.
        slowdown: what each throttled second leaves of the share.
        recovery_per_second: share of the rate regained per second without throttling.
    """

    recipients_per_second: float | None = None
    calls_per_second: float | None = None
    burst_seconds: float = 1.0
    least_share: float = 0.1
    slowdown: float = 0.7
    recovery_per_second: float = 0.02

    @property
    def is_limited(self) -> bool:
        """Whether there is anything to hold to."""
        return self.recipients_per_second is not None or self.calls_per_second is not None


class RateLimiter(Protocol):
    """Hands out start times for calls of one provider account, shared by all processes that use it."""

    def reserve(self, recipients_per_call: Sequence[int]) -> Sequence[float]:
        """Book the calls; returns for each how many seconds from now it may start. Booked is spent."""
        ...

    def throttled(self, retry_after_seconds: float | None) -> None:
        """The provider asked for less: slow down for everybody who uses the account."""
        ...


class Unlimited:
    """A limiter for accounts without a rate."""

    def reserve(self, recipients_per_call: Sequence[int]) -> Sequence[float]:
        """Every call may start now."""
        return [0.0] * len(recipients_per_call)

    def throttled(self, retry_after_seconds: float | None) -> None:
        """Nothing to slow down: the call's own backoff honours Retry-After."""
