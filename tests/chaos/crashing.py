"""Kills this process at a named point: around any operation on the ledger, the provider, the bucket, the warehouse.

No hook lives in the product: the parts of a campaign's run are wrapped, and the wrapper sends SIGKILL to its own
process before or after the n-th call of a method.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any

from email_platform.domain.campaigns import Sender
from email_platform.domain.ports import EmailProvider, EncodedCall, RecipientResult
from email_platform.runs.parts import Parts

# Where a process may die, by part and operation. Each is a place before and a place after. A turn of the ledger is
# an `intent`, a `receipt`, or both; `provider.send` has a place during it too: the call is accepted, and the answer
# is under way.
CRASH_POINTS: dict[str, tuple[str, ...]] = {
    "campaigns": ("change_status", "note_progress"),
    "manifests": ("freeze",),
    "ledger": ("take_lease", "intent", "receipt", "finish_chunk", "release_lease"),
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
    """

    part: str
    operation: str
    when: str
    nth: int
    stop: bool = False

    @classmethod
    def parse(cls, text: str) -> CrashPlan:
        """The inverse of ``str``: ``kill after ledger.turn 3``."""
        verb, when, point, nth = text.split()
        part, operation = point.split(".")
        return cls(part, operation, when, int(nth), stop=verb == "stop")

    def __str__(self) -> str:
        return f"{'stop' if self.stop else 'kill'} {self.when} {self.part}.{self.operation} {self.nth}"


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


class CrashingProvider:
    """A provider client around which the process may die."""

    def __init__(self, target: EmailProvider, killer: Killer) -> None:
        self._target, self._killer = target, killer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)

    async def send(self, call: EncodedCall) -> tuple[RecipientResult, ...]:
        self._killer.reach("before", "provider", "send")
        asyncio.get_running_loop().call_later(ON_THE_WIRE_SECONDS, self._killer.reach, "during", "provider", "send")
        results = await self._target.send(call)
        self._killer.reach("after", "provider", "send")
        return results


def crashing_parts(parts: Parts, killer: Killer) -> Parts:
    """The same parts, each with its crash points."""

    def provider(sender: Sender) -> Any:
        return CrashingProvider(parts.provider(sender), killer)

    return replace(
        parts,
        campaigns=Crashing(parts.campaigns, "campaigns", killer),
        manifests=Crashing(parts.manifests, "manifests", killer),
        ledger=Crashing(parts.ledger, "ledger", killer),
        store=Crashing(parts.store, "store", killer),
        register=Crashing(parts.register, "register", killer),
        provider=provider,
    )
