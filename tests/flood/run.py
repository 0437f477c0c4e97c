"""`make flood`: a bounded flood of webhooks on loopback, with faults; exit code 1 where two counts differ.

python -m tests.flood.run --events 200000 --seconds 240 --seed 1 --clients 24 [--without-faults]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.flood.flood import FloodPlan, run_flood


def main() -> int:
    console = Console(highlight=False, soft_wrap=True)
    options = argparse.ArgumentParser(description=__doc__)
    plan = FloodPlan()
    options.add_argument("--events", type=int, default=plan.events)
    options.add_argument("--seconds", type=float, default=plan.seconds)
    options.add_argument("--seed", type=int, default=plan.seed)
    options.add_argument("--clients", type=int, default=plan.clients, help="bodies on their way at the same time")
    options.add_argument("--without-faults", action="store_true")
    chosen = options.parse_args()
    plan = FloodPlan(events=chosen.events, seconds=chosen.seconds, seed=chosen.seed, clients=chosen.clients)
    with tempfile.TemporaryDirectory(prefix="flood-") as folder:
        lines = run_flood(Path(folder), plan, faults=not chosen.without_faults, report=console.print)
    table = Table("what must be equal", "one count", "", "other count", "", "", box=None, pad_edge=False)
    for line in lines:
        table.add_row(
            line.name,
            line.left[0],
            f"{line.left[1]:,}",
            line.right[0],
            f"{line.right[1]:,}",
            "OK" if line.holds else "NOT EQUAL",
        )
    console.print(table)
    return 0 if all(line.holds for line in lines) else 1


if __name__ == "__main__":
    sys.exit(main())
