"""How many calls and recipients an account may send per second.

The invariant: over any interval, no more is let through than burst + rate * interval (plus one call that is
larger than the burst itself), and a refused call takes nothing from any bucket.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from email_platform.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class RateLimit:
    """Limits of one account; None is unlimited.

    Attributes:
        calls_per_second: calls, whatever they hold.
        recipients_per_second: recipients, as SES counts.
        burst_seconds: how many seconds' worth of allowance an idle account saves up.
    """

    calls_per_second: float | None = None
    recipients_per_second: float | None = None
    burst_seconds: float = 1.0

    def __post_init__(self) -> None:
        for name in ("calls_per_second", "recipients_per_second", "burst_seconds"):
            value = getattr(self, name)
            if value is not None and not (0.0 < value < math.inf):
                raise ConfigurationError(f"{name}: must be above 0")


class TokenBucket:
    """A bucket that fills at a rate; the caller passes the time, in seconds of any monotonic clock."""

    def __init__(self, rate_per_second: float, burst: float, now_seconds: float) -> None:
        self._rate_per_second = rate_per_second
        self._burst = max(burst, 1.0)
        self._tokens = self._burst
        self._filled_at_seconds = now_seconds

    def wait_seconds(self, count: int, now_seconds: float) -> float:
        """Return how long until ``count`` could be taken: 0 now. Takes nothing."""
        elapsed_seconds = max(0.0, now_seconds - self._filled_at_seconds)
        self._tokens = min(self._burst, self._tokens + elapsed_seconds * self._rate_per_second)
        self._filled_at_seconds = now_seconds
        # A call larger than the burst passes when the bucket is full and leaves a debt: else it could never.
        missing = min(float(count), self._burst) - self._tokens
        return 0.0 if missing <= 1e-9 else missing / self._rate_per_second

    def take(self, count: int) -> None:
        """Take ``count``; the caller asked `wait_seconds` first."""
        self._tokens -= count


class AccountRateLimiter:
    """Both buckets of one account, taken together or not at all."""

    def __init__(self, limit: RateLimit, now_seconds: float) -> None:
        self.limit = limit
        self._calls = _bucket(limit.calls_per_second, limit.burst_seconds, now_seconds)
        self._recipients = _bucket(limit.recipients_per_second, limit.burst_seconds, now_seconds)

    def admit(self, recipients: int, now_seconds: float) -> float:
        """Let one call through and return 0, or return the seconds to wait and take nothing."""
        wanted = ((self._calls, 1), (self._recipients, recipients))
        wait_seconds = max((bucket.wait_seconds(count, now_seconds) for bucket, count in wanted if bucket), default=0.0)
        if wait_seconds == 0.0:
            for bucket, count in wanted:
                if bucket:
                    bucket.take(count)
        return wait_seconds


def _bucket(rate_per_second: float | None, burst_seconds: float, now_seconds: float) -> TokenBucket | None:
    if rate_per_second is None:
        return None
    return TokenBucket(rate_per_second, rate_per_second * burst_seconds, now_seconds)
