"""Kills this process at a named point: around any operation on the ledger, the provider, the bucket, the warehouse.

No hook lives in the product: the parts of a campaign's run are wrapped, and the wrapper sends SIGKILL to its own
process before or after the n-th call of a method.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any

from email_platform.domain.campaigns import Sender
from email_platform.domain.ports import EmailProvider, EncodedCall, RecipientResult
from email_platform.errors import CallRejectedError
from email_platform.runs.parts import Parts

# Where a process may die, by part and operation. Each is a place before and a place after. A turn of the ledger is
# an `intent`, a `receipt`, or both; `provider.send` has a place during it too: the call is accepted, and the answer
# is under way.
CRASH_POINTS: dict[str, tuple[str, ...]] = {
    "campaigns": ("change_status", "note_progress"),
    "manifests": ("freeze",),
    "ledger": ("take_lease", "intent", "receipt", "finish_chunk", "release_lease", "decide_unknown"),
    "provider": ("send",),
    "store": ("put", "writer"),
    "register": ("record", "mark_all_loaded"),
    "warehouse": ("load_many",),
}


ON_THE_WIRE_SECONDS = 0.1  # after this a call whose answer is slow is accepted, and not answered yet


@dataclass(frozen=True)
class CrashPlan:
    """Die ``when`` (before, after or during) the ``nth`` call of ``part.operation``.

    Attributes:
        stop: stop the process like by SIGSTOP instead, so that it can go on as an orphan.
        slow_seconds: let the operation take so long instead.
    """

    part: str
    operation: str
    when: str
    nth: int
    stop: bool = False
    slow_seconds: float = 0.0

    @classmethod
    def parse(cls, text: str) -> CrashPlan:
        """The inverse of ``str``: ``kill after ledger.turn 3``."""
        verb, when, point, nth = text.split()
        part, operation = point.split(".")
        slow_seconds = float(verb.removeprefix("slow-")) if verb.startswith("slow-") else 0.0
        return cls(part, operation, when, int(nth), stop=verb == "stop", slow_seconds=slow_seconds)

    def __str__(self) -> str:
        verb = f"slow-{self.slow_seconds}" if self.slow_seconds else "stop" if self.stop else "kill"
        return f"{verb} {self.when} {self.part}.{self.operation} {self.nth}"


@dataclass
class Killer:
    """Counts operations over all threads of this process and strikes once."""

    plan: CrashPlan | None
    counts: Counter[str] = field(default_factory=Counter)
    lock: Lock = field(default_factory=Lock)

    def reach(self, when: str, part: str, operation: str) -> None:
        plan = self.plan
        if plan is None or (plan.part, plan.operation, plan.when) != (part, operation, when):
            return
        with self.lock:
            self.counts[when] += 1
            if self.counts[when] != plan.nth:
                return
        if plan.slow_seconds:
            time.sleep(plan.slow_seconds)
            return
        os.kill(os.getpid(), signal.SIGSTOP if plan.stop else signal.SIGKILL)


class Crashing:
    """A part whose listed operations may be this process's last."""

    def __init__(self, target: Any, part: str, killer: Killer) -> None:
        self._target, self._part, self._killer = target, part, killer

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._target, name)
        if name not in (*CRASH_POINTS[self._part], "turn"):
            return value

        def operation(*arguments: Any, **options: Any) -> Any:
            names = [name]
            if name == "turn":
                _, outcomes, intents = arguments
                names = [point for point, present in (("receipt", outcomes), ("intent", intents)) if present]
            for point in names:
                self._killer.reach("before", self._part, point)
            result = value(*arguments, **options)
            for point in names:
                self._killer.reach("after", self._part, point)
            return result

        return operation


@dataclass(frozen=True)
class Obstacles:
    """What makes the provider refuse whole calls, on top of what the simulator does by itself.

    Attributes:
        largest_call: a call of more recipients is answered 413.
        bad_domain: one address of it makes the whole call be refused, without a word whose.
    """

    largest_call: int | None = None
    bad_domain: str | None = None

    def refusal(self, call: EncodedCall) -> CallRejectedError | None:
        """Why the provider would refuse the call; it never reaches it then."""
        if self.largest_call is not None and call.recipient_count > self.largest_call:
            return CallRejectedError("HTTP 413: too large", "413", "size")
        if self.bad_domain is not None and f"@{self.bad_domain}".encode() in call.body:
            return CallRejectedError("HTTP 400: a recipient is not valid", "400", "recipient")
        return None


class CrashingProvider:
    """A provider client around which the process may die."""

    def __init__(self, target: EmailProvider, killer: Killer, obstacles: Obstacles) -> None:
        self._target, self._killer, self._obstacles = target, killer, obstacles

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)

    async def send(self, call: EncodedCall) -> tuple[RecipientResult, ...]:
        self._killer.reach("before", "provider", "send")
        if refusal := self._obstacles.refusal(call):
            raise refusal
        asyncio.get_running_loop().call_later(ON_THE_WIRE_SECONDS, self._killer.reach, "during", "provider", "send")
        results = await self._target.send(call)
        self._killer.reach("after", "provider", "send")
        return results


def crashing_parts(parts: Parts, killer: Killer, obstacles: Obstacles) -> Parts:
    """The same parts, each with its crash points."""

    def provider(sender: Sender) -> Any:
        return CrashingProvider(parts.provider(sender), killer, obstacles)

    return replace(
        parts,
        campaigns=Crashing(parts.campaigns, "campaigns", killer),
        manifests=Crashing(parts.manifests, "manifests", killer),
        ledger=Crashing(parts.ledger, "ledger", killer),
        store=Crashing(parts.store, "store", killer),
        register=Crashing(parts.register, "register", killer),
        provider=provider,
    )
