"""A seeded schedule of deaths and faults; the same seed always gives the same schedule."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Literal

from tests.chaos.crashing import CRASH_POINTS, CrashPlan, Obstacles
from tests.chaos.providers import BAD_DOMAIN

SLOW_COMMIT_SECONDS = 2.5  # longer than the lease

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
        if operation != "decide_unknown"  # an operator's, and no life's
        for when in ("before", "after")
    ),
    ("during", "provider", "send"),
)
OFTEN = {("ledger", "intent"), ("ledger", "receipt"), ("provider", "send")}


@dataclass(frozen=True)
class Disturbance:
    """One thing that goes wrong while a life works on the campaign.

    Attributes:
        kind: crash (at a point), kill (at a moment), part (a part is killed), orphan (stopped, taken over, goes on),
            limit (lowered for a life that dies), refused sender (for a life, then mended).
        crash: the point of a crash, or where the orphan is stopped.
        successor: where the life that takes over from an orphan dies, if it does.
        part: which part is killed.
        delay_seconds: when, after the life began.
        rows: the lowered limit.
    """

    kind: Literal["crash", "kill", "part", "orphan", "limit", "refused sender"]
    crash: CrashPlan | None = None
    successor: CrashPlan | None = None
    part: Part | None = None
    delay_seconds: float = 0.0
    rows: int = 0

    def __str__(self) -> str:
        match self.kind:
            case "crash":
                return str(self.crash)
            case "kill":
                return f"kill the process after {self.delay_seconds:.2f} s"
            case "part":
                return f"kill {self.part} after {self.delay_seconds:.2f} s"
            case "limit":
                return f"{self.rows} recipients a call, and {self.crash}"
            case "refused sender":
                return f"the sender is refused after {self.delay_seconds:.2f} s"
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
        obstacles: what the provider refuses whole calls for.
        abandon_dies: where the operator dies who abandons what is unknown in the end.
    """

    seed: int
    honours_keys: bool
    on_unknown: Literal["hold", "resend"]
    leads: int
    faults: dict[str, float]
    disturbances: tuple[Disturbance, ...]
    obstacles: Obstacles
    abandon_dies: CrashPlan

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
        leads = random.randint(150, 600)
        # What came later has a source of its own, so that the seeds of old failures still replay them.
        later = Random(f"{seed} later")
        obstacles = Obstacles(
            largest_call=later.choice((None, None, 3, 7)), bad_domain=later.choice((None, BAD_DOMAIN))
        )
        more = [kind for kind in ("slow", "limit", "refused sender") if later.random() < 0.4]
        return cls(
            seed,
            honours_keys,
            on_unknown,
            leads,
            faults,
            (*disturbances, *(_later_disturbance(later, kind) for kind in more)),
            obstacles,
            CrashPlan(
                *later.choice((("ledger", "decide_unknown"), ("store", "put"), ("register", "record"))), "after", 1
            ),
        )

    def __str__(self) -> str:
        keys = "keys" if self.honours_keys else f"no keys, {self.on_unknown}"
        faults = ", ".join(f"{kind} {probability}" for kind, probability in self.faults.items()) or "none"
        return f"seed {self.seed}: {self.leads} leads, {keys}; faults: {faults}; {self.obstacles}; " + " | ".join(
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


def _later_disturbance(random: Random, kind: str) -> Disturbance:
    if kind == "refused sender":
        return Disturbance("refused sender", delay_seconds=random.uniform(0.0, 0.6))
    if kind == "limit":
        crash = _crash(random, random.choice(("before", "after")), "ledger", random.choice(("intent", "receipt")))
        return Disturbance("limit", crash=crash, rows=random.randint(1, 6))
    operation, when = random.choice(("intent", "receipt")), random.choice(("before", "after"))
    return Disturbance(
        "crash", crash=CrashPlan("ledger", operation, when, random.randint(1, 8), slow_seconds=SLOW_COMMIT_SECONDS)
    )


def _crash(random: Random, when: str, part: str, operation: str) -> CrashPlan:
    return CrashPlan(part, operation, when, random.randint(1, 12 if (part, operation) in OFTEN else 2))
