"""A series of seeded schedules on one system: each is run, held against the invariant, and becomes a row of a table."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from rich.console import Console

from email_platform.sending.ledger import CampaignTotals
from email_platform.settings import Settings
from tests.chaos.invariant import InvariantBrokenError, OnUnknown, Promise, hold
from tests.chaos.providers import Simulator

console = Console(highlight=False, soft_wrap=True, markup=False)


class SeededSchedule(Protocol):
    """What happens to one campaign; the same seed always gives the same schedule."""

    @property
    def seed(self) -> int: ...

    @property
    def honours_keys(self) -> bool: ...

    @property
    def on_unknown(self) -> OnUnknown: ...

    @property
    def leads(self) -> int: ...


def keys_of(schedule: SeededSchedule) -> str:
    """Whether the provider honours idempotency keys, and what is done about unknown calls where it does not."""
    return "keys" if schedule.honours_keys else f"no keys, {schedule.on_unknown}"


@dataclass(frozen=True)
class Recovered:
    """How the system came back.

    Attributes:
        struck: what was done to it, before the campaign was sent.
        unknown: recipients, in the end.
        runs: of the campaign, by their last status.
        resumed: how often a sensor began a new attempt; other runs were Dagster's own retries.
        sent_seconds: from the last thing done to what sends the campaign until it was sent.
    """

    schedule: SeededSchedule
    struck: Sequence[object]
    accepted: int
    unknown: int
    runs: Counter[str]
    resumed: int
    sent_seconds: float

    def row(self) -> str:
        """A line of the table."""
        runs = ", ".join(f"{count} {status.lower()}" for status, count in sorted(self.runs.items()))
        return (
            f"| {self.schedule.seed} | {'; '.join(map(str, self.struck))} | {keys_of(self.schedule)} "
            f"| {self.accepted:,} | {self.unknown} | {runs} | {self.resumed} | {self.sent_seconds:.0f} |"
        )


_Schedule = TypeVar("_Schedule", bound=SeededSchedule)


def hold_schedule(
    schedule: SeededSchedule,
    settings: Settings,
    variables: Mapping[str, str],
    simulator: Simulator,
    campaign_id: int,
    most_unknown: int,
) -> CampaignTotals:
    """Hold the invariant of a campaign that has come to its end; see `hold`.

    Raises:
        InvariantBrokenError: it does not hold; names the schedule.
    """
    promise = Promise(
        leads=schedule.leads,
        honours_keys=schedule.honours_keys,
        on_unknown=schedule.on_unknown,
        answers_lost=True,
        most_unknown=most_unknown,
    )
    try:
        return hold(promise, settings, variables, simulator.log, campaign_id)
    except InvariantBrokenError as error:
        raise InvariantBrokenError(f"{schedule}\n{error}") from error


def series_options(description: str | None, schedules: int) -> argparse.ArgumentParser:
    """The options of a series; so many schedules by default."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--schedules", type=int, default=schedules)
    options.add_argument("--report", type=Path, help="write the table as Markdown")
    return options


def run_series(
    chosen: argparse.Namespace,
    target: str,
    schedule_of: Callable[[int], _Schedule],
    run: Callable[[_Schedule], Recovered],
    table: Callable[[Sequence[Recovered]], Sequence[str]],
) -> int:
    """Run the schedules one after the other; the exit code: 1 at the first where the invariant does not hold.

    Args:
        chosen: of `series_options`.
        target: of make, which replays a seed.
        table: the report's lines. They are written after each schedule: a series may be ended early.
    """
    recovered: list[Recovered] = []
    for number, seed in enumerate(range(chosen.seed, chosen.seed + chosen.schedules), start=1):
        schedule = schedule_of(seed)
        console.print(f"{number}/{chosen.schedules} {schedule}")
        try:
            recovered.append(run(schedule))
        except InvariantBrokenError as error:
            console.print(f"BROKEN {error}\nreplay: make {target} SEED={seed} N=1")
            return 1
        console.print(f"  {recovered[-1].row()}")
        if chosen.report is not None:
            chosen.report.write_text("\n".join(table(recovered)), encoding="utf-8")
    console.print("\n".join(table(recovered)))
    return 0


def counted(title: str, did: Counter[str]) -> list[str]:
    """How often what was done, as a table."""
    return [
        f"| {title} | times |",
        "| --- | ---: |",
        *(f"| {name} | {times} |" for name, times in sorted(did.items())),
        "",
    ]
