"""`make chaos`: N seeded schedules in a row; a failing one prints its seed, which replays it with N=1.

python -m tests.chaos.run --seed 1 --schedules 200 [--report docs/reliability-chaos.md]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.chaos.invariant import InvariantBrokenError
from tests.chaos.schedule import Schedule
from tests.chaos.world import ChaosWorld, chaos_world

console = Console(highlight=False, soft_wrap=True)


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--schedules", type=int, default=25)
    options.add_argument("--report", type=Path, help="write the table as Markdown")
    chosen = options.parse_args()
    seeds = range(chosen.seed, chosen.seed + chosen.schedules)
    began_seconds = time.monotonic()
    totals: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder, chaos_world(Path(folder)) as world:
        for number, seed in enumerate(seeds, start=1):
            schedule = Schedule.of(seed)
            try:
                counts = world.run(schedule)
            except InvariantBrokenError as error:
                console.print(f"BROKEN {error}\nreplay: make chaos SEED={seed} N=1", style="red", markup=False)
                return 1
            totals.update(counts)
            console.print(f"{number}/{len(seeds)} {schedule} -> {counts}", markup=False)
        _report(world, totals, seeds, time.monotonic() - began_seconds, chosen.report)
    return 0


def _report(world: ChaosWorld, totals: Counter[str], seeds: range, seconds: float, path: Path | None) -> None:
    table = Table("what happened", "times", title=f"{len(seeds)} schedules, seeds {seeds.start} to {seeds.stop - 1}")
    for name, times in sorted(world.did.items()):
        table.add_row(name, f"{times:,}")
    console.print(table)
    console.print(f"the invariant held in all {len(seeds)} schedules: {dict(totals)}", markup=False)
    if path is None:
        return
    lines = [
        f"`make chaos SEED={seeds.start} N={len(seeds)}`: the invariant held in all {len(seeds)} schedules "
        f"({seconds / 60:.0f} minutes).",
        "",
        "| recipients | count |",
        "| --- | ---: |",
        *(f"| {name} | {count:,} |" for name, count in totals.items() if name != "deaths"),
        "",
        "| what happened | times |",
        "| --- | ---: |",
        *(f"| {name} | {times:,} |" for name, times in sorted(world.did.items()) if times),
        "",
    ]
    path.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
