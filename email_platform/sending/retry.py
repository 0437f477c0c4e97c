"""When a call is made again: exponential backoff with full jitter, bounded, and never sooner than asked."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Bounds of the retries of one call within one step.

    Attributes:
        attempts: the most attempts of one call within a step; later steps count from 1 again.
        base_seconds, ceiling_seconds: the jitter's upper bound doubles from the base up to the ceiling.
    """

    attempts: int = 8
    base_seconds: float = 0.2
    ceiling_seconds: float = 20.0

    def delay_seconds(self, attempt: int, random: Random, retry_after_seconds: float | None = None) -> float:
        """How long to wait after the given attempt (1 for the first): full jitter on top of Retry-After."""
        jitter = random.uniform(0, min(self.ceiling_seconds, self.base_seconds * 2 ** (attempt - 1)))
        return jitter + (retry_after_seconds or 0.0)
