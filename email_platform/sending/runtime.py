"""What a delivery needs of the process it runs in: time, chance and threads, all of them replaceable.

Invariant: no other module of a delivery looks at a clock, draws a number or starts a thread.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random
from typing import Any

from email_platform.domain.ports import Clock


@dataclass(frozen=True, slots=True)
class Runtime:
    """Time, chance and threads.

    Attributes:
        clock: the present time, for a key's age.
        monotonic: seconds that only grow, for leases and pauses.
        random: for the jitter of pauses.
        blocking: runs a blocking function and awaits its result.
    """

    clock: Clock = lambda: datetime.now(UTC)
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    random: Random = field(default_factory=Random)
    blocking: Callable[..., Awaitable[Any]] = asyncio.to_thread
