"""When calls start: after their pause, within the account's rate, and never more at once than allowed.

Invariant: a call that was booked with the rate limiter is started or given back; a booked call is spent.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field

from email_platform.sending.rate_limit import RateLimiter, Reservation, Unlimited
from email_platform.sending.runtime import Runtime


@dataclass(order=True, slots=True)
class Attempt:
    """A call to be made at ``start_at_seconds`` (monotonic); ordered by time, then call index.

    Attributes:
        number: 1 for the first attempt of the call in this step.
    """

    start_at_seconds: float
    call_index: int
    number: int = field(compare=False)


class CallQueue:
    """Calls that wait for their time (*waiting*), and those whose time is booked (*reserved*)."""

    def __init__(self, limiter: RateLimiter, runtime: Runtime) -> None:
        self._limiter = limiter
        self._runtime = runtime
        self._waiting: list[Attempt] = []
        self._reserved: list[Attempt] = []

    def __bool__(self) -> bool:
        return bool(self._waiting or self._reserved)

    @property
    def reserved(self) -> int:
        """How many calls are booked and have not started."""
        return len(self._reserved)

    def add(self, call_index: int, number: int = 1, delay_seconds: float = 0.0) -> None:
        """Have the call made, after so many seconds."""
        heapq.heappush(self._waiting, Attempt(self._runtime.monotonic() + delay_seconds, call_index, number))

    def waiting(self) -> list[int]:
        """Indexes of the calls that wait, in order."""
        return [attempt.call_index for attempt in sorted(self._waiting)]

    def next(self, at_most: int) -> list[int]:
        """Indexes of the first waiting calls."""
        return [attempt.call_index for attempt in heapq.nsmallest(at_most, self._waiting)]

    def take(self, call_index: int) -> None:
        """Let a waiting call go."""
        self._waiting = [attempt for attempt in self._waiting if attempt.call_index != call_index]
        heapq.heapify(self._waiting)

    async def reserve(
        self, slots: int, recipients: Callable[[int], int], may_start: Callable[[int], bool] | None = None
    ) -> None:
        """Book calls whose pause is over.

        Args:
            slots: how many more may be booked or in flight.
            recipients: of the call with this index.
            may_start: which calls may be booked now; None for all of them.
        """
        now_seconds = self._runtime.monotonic()
        due: list[Attempt] = []
        held: list[Attempt] = []
        while len(due) < slots and self._waiting and self._waiting[0].start_at_seconds <= now_seconds:
            attempt = heapq.heappop(self._waiting)
            (due if may_start is None or may_start(attempt.call_index) else held).append(attempt)
        for attempt in held:
            heapq.heappush(self._waiting, attempt)
        if not due:
            return
        sizes = [recipients(attempt.call_index) for attempt in due]
        reservation: Reservation = (
            self._limiter.reserve(sizes)
            if isinstance(self._limiter, Unlimited)
            else await self._runtime.blocking(self._limiter.reserve, sizes)
        )
        now_seconds = self._runtime.monotonic()
        booked = len(reservation.waits)
        for attempt, wait_seconds in zip(due[:booked], reservation.waits, strict=True):
            heapq.heappush(self._reserved, Attempt(now_seconds + wait_seconds, attempt.call_index, attempt.number))
        for attempt in due[booked:]:
            self.add(attempt.call_index, attempt.number, max(reservation.ask_again_seconds, 0.01))

    def due(self) -> list[Attempt]:
        """The booked calls whose time has come; the caller makes them."""
        due: list[Attempt] = []
        now_seconds = self._runtime.monotonic()
        while self._reserved and self._reserved[0].start_at_seconds <= now_seconds:
            due.append(heapq.heappop(self._reserved))
        return due

    def next_seconds(self, slots: int, may_start: Callable[[int], bool] | None = None) -> float | None:
        """When there is something to do next (monotonic); None where there is nothing."""
        times = [self._reserved[0].start_at_seconds] if self._reserved else []
        if self._waiting and slots > 0:
            first = self._waiting[:1]
            if may_start is not None:
                first = [attempt for attempt in self._waiting if may_start(attempt.call_index)]
            times += [attempt.start_at_seconds for attempt in first]
        return min(times, default=None)
