"""How fast a provider account may be used, shared by every process that uses it.

Invariant: a booked call is spent. Calls are booked a second ahead at most, and the campaigns that use an account
share its rate evenly, however many processes each of them has: a small campaign that comes late waits for a second
of the others' calls and then has its share, whether the others have a thousand or a million recipients left.
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


@dataclass(frozen=True, slots=True)
class Reservation:
    """What was booked of the calls that were asked for, in their order.

    Attributes:
        waits: for each of the first so many calls, how many seconds from now it may start.
        ask_again_seconds: when to ask for the rest.
    """

    waits: tuple[float, ...]
    ask_again_seconds: float = 0.0


class RateLimiter(Protocol):
    """Hands out start times for a campaign's calls to one provider account, shared by all processes that use it."""

    def reserve(self, recipients_per_call: Sequence[int]) -> Reservation:
        """Book the calls that may start soon. Booked is spent."""
        ...

    def throttled(self, retry_after_seconds: float | None) -> None:
        """The provider asked for less: slow down for everybody who uses the account."""
        ...


class Unlimited:
    """A limiter for accounts without a rate."""

    def reserve(self, recipients_per_call: Sequence[int]) -> Reservation:
        """Every call may start now."""
        return Reservation((0.0,) * len(recipients_per_call))

    def throttled(self, retry_after_seconds: float | None) -> None:
        """Nothing to slow down: the call's own backoff honours Retry-After."""
