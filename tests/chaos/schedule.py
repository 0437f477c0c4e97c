"""A seeded schedule of deaths and faults; the same seed always gives the same schedule."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Literal

from tests.chaos.crashing import CRASH_POINTS, CrashPlan

Part = Literal["postgres", "s3", "clickhouse", "provider"]
PARTS: tuple[Part, ...] = ("postgres", "s3", "clickhouse", "provider")
FAULTS = (
    *("error_5xx_before", "error_5xx_after", "reset_before", "reset_after", "slow", "slow_response"),
    *("drop_response", "throttle", "outage", "duplicate_response"),
)
# Every named point in turn, so that a run of many schedules dies at each of them several times.
POINTS: tuple[tuple[str, str, str], ...] = (
    *(
        (when, part, operation)
        for part, operations in CRASH_POINTS.items()
        for operation in operations
        for when in ("before", "after")
    ),
    ("during", "provider", "send"),
)
OFTEN = {("ledger", "intent"), ("ledger", "receipt"), ("provider", "send")}


@dataclass(frozen=True)
class Disturbance:
    """One thing that goes wrong while a life works on the campaign.

    Attributes:
        kind: crash (at a point), kill (at a moment), part (a part is killed), orphan (stopped, taken over, goes on).
        crash: the point of a crash, or where the orphan is stopped.
        successor: where the life that takes over from an orphan dies, if it does.
        part: which part is killed.
        delay_seconds: when, after the life began.
    """

    kind: Literal["crash", "kill", "part", "orphan"]
    crash: CrashPlan | None = None
    successor: CrashPlan | None = None
    part: Part | None = None
    delay_seconds: float = 0.0

    def __str__(self) -> str:
        match self.kind:
            case "crash":
                return str(self.crash)
            case "kill":
                return f"kill the process after {self.delay_seconds:.2f} s"
            case "part":
                return f"kill {self.part} after {self.delay_seconds:.2f} s"
            case "orphan":
                return f"{self.crash}, taken over, then goes on" + (
                    f"; successor: {self.successor}" if self.successor else ""
                )


@dataclass(frozen=True)
class Schedule:
    """What happens to one campaign.

    Attributes:
        honours_keys: whether the campaign's provider honours idempotency keys.
        faults: probability of each provider fault while the lives go on.
    """

    seed: int
    honours_keys: bool
    on_unknown: Literal["hold", "resend"]
    leads: int
    faults: dict[str, float]
    disturbances: tuple[Disturbance, ...]

    @classmethod
    def of(cls, seed: int) -> Schedule:
        """The schedule of a seed."""
        random = Random(seed)
        honours_keys = random.random() < 0.6
        on_unknown: Literal["hold", "resend"] = "resend" if not honours_keys and random.random() < 0.33 else "hold"
        kinds = random.sample(FAULTS, random.randint(0, 4))
        faults = {kind: random.choice((0.02, 0.05, 0.1)) for kind in kinds}
        disturbances = (
            Disturbance("crash", crash=_crash(random, *POINTS[seed % len(POINTS)])),
            *(_disturbance(random) for _ in range(random.randint(0, 3))),
        )
        return cls(seed, honours_keys, on_unknown, random.randint(150, 600), faults, disturbances)

    def __str__(self) -> str:
        keys = "keys" if self.honours_keys else f"no keys, {self.on_unknown}"
        faults = ", ".join(f"{kind} {probability}" for kind, probability in self.faults.items()) or "none"
        return f"seed {self.seed}: {self.leads} leads, {keys}; faults: {faults}; " + " | ".join(
            map(str, self.disturbances)
        )


def _disturbance(random: Random) -> Disturbance:
    kind = random.choices(("crash", "kill", "part", "orphan"), weights=(6, 2, 2, 2))[0]
    if kind == "crash":
        return Disturbance("crash", crash=_crash(random, *random.choice(POINTS)))
    if kind == "kill":
        return Disturbance("kill", delay_seconds=random.uniform(0.05, 1.5))
    if kind == "part":
        return Disturbance("part", part=random.choice(PARTS), delay_seconds=random.uniform(0.05, 1.0))
    operation = random.choice(sorted(OFTEN))
    stop = CrashPlan(*operation, random.choice(("before", "after")), random.randint(1, 12), stop=True)
    return Disturbance(
        "orphan", crash=stop, successor=_crash(random, *random.choice(POINTS)) if random.random() < 0.5 else None
    )


def _crash(random: Random, when: str, part: str, operation: str) -> CrashPlan:
    return CrashPlan(part, operation, when, random.randint(1, 12 if (part, operation) in OFTEN else 2))
