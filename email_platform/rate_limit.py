"""The seam between sending and the provider account's rate; see `adapters.postgres` for the shared limiter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


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
