"""Look-ups of single emails by key, as a client sees them over HTTP, beside `select 1`, at one size after another.

Fills the raw tables inside ClickHouse, fills `email_key`, loads another object
whose keys are not in there yet, and asks for leads, addresses and ids in random order. One run, one machine: how many
times longer than `select 1`, and from size to size, is the result.

    python -m bench.look_ups --rows 10000000 50000000

Engines on a folder of their own, removed at the end.
"""

from __future__ import annotations

import argparse
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bench.old_table_or_platform import UNTIL_SAFE_SECONDS
from bench.refresh_of_the_reports import OBJECT_ROWS, engine_cpu_seconds, fill, tell
from email_platform.adapters.clickhouse.key_index import KEYS, KeyKind
from email_platform.adapters.clickhouse.lookups import ClickHouseEmailLookup, find_emails
from email_platform.adapters.clickhouse.warehouse import ClickHouseWarehouse
from email_platform.local.stack.stack import clean_environment, running_stack

_SETTLED_SECONDS = 300.0


def settle(warehouse: ClickHouseWarehouse) -> None:
    """Wait until no part is being merged, at most five minutes."""
    until = time.monotonic() + _SETTLED_SECONDS
    while time.monotonic() < until and warehouse.query("select count() from system.merges", {}) != [(0,)]:
        time.sleep(1)


def wanted(warehouse: ClickHouseWarehouse, kind: KeyKind, rows: int, count: int) -> list[int | str]:
    """Keys of emails all over the table."""
    text = KEYS["delivery"][kind]
    found = warehouse.query(
        f"select {text} from delivery where cityHash64(message_id) % {max(rows // (count * 4), 1)} = 0 "
        f"and {text} != '' limit {count * 2}",
        {},
    )
    keys = [int(key) if kind == "lead" else key for (key,) in found]
    random.Random(7).shuffle(keys)
    return keys[:count]


def timed(ask: Callable[[int | str], object], keys: Sequence[int | str]) -> tuple[float, float, float]:
    """Milliseconds at p50 and p95, and of the engine's processor a question."""
    for key in keys[: len(keys) // 10]:
        ask(key)
    engine, taken = engine_cpu_seconds(), []
    for key in keys:
        began = time.perf_counter()
        ask(key)
        taken.append((time.perf_counter() - began) * 1000)
    cpu = (engine_cpu_seconds() - engine) * 1000 / len(keys)
    cuts = statistics.quantiles(taken, n=20)
    return cuts[9], cuts[18], cpu


def measure(warehouse: ClickHouseWarehouse, rows: int, count: int) -> dict[str, tuple[float, float, float]]:
    """Each question, by its name."""
    function = ClickHouseEmailLookup(warehouse)
    questions: dict[str, tuple[float, float, float]] = {}
    questions["`select 1`"] = timed(lambda key: warehouse.query("select 1", {}), list(range(count)))
    for kind in KEYS["delivery"]:
        keys = wanted(warehouse, kind, rows, count)
        questions[f"by {kind.replace('_', ' ')}"] = timed(
            lambda key, by=kind: find_emails(warehouse, by, key, 50),  # type: ignore[misc]
            keys,
        )
    keys = wanted(warehouse, "address", rows, count)
    questions["by address, as the API asks"] = timed(lambda key: function.of_address(str(key), 50), keys)
    return questions


def main() -> None:
    """Fill, ask, print."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rows", type=int, nargs="+", default=[10_000_000, 50_000_000])
    arguments.add_argument("--questions", type=int, default=400)
    given = arguments.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="email-platform-look-ups-"))
    folder.chmod(0o755)
    sizes: dict[int, dict[str, tuple[float, float, float]]] = {}
    try:
        with running_stack(folder / "state", parts=("clickhouse",), environ=clean_environment()) as settings:
            warehouse = ClickHouseWarehouse.from_settings(settings)
            there = 0
            for rows in given.rows:
                fill(warehouse, there, rows - there)
                tell(warehouse, "delivered", str(rows), rank=40, later_seconds=2, every=20, offset=0)
                there = rows
                settle(warehouse)
                time.sleep(UNTIL_SAFE_SECONDS)
                warehouse.fill_keys()
                settle(warehouse)
                fill(warehouse, there, OBJECT_ROWS)
                there += OBJECT_ROWS
                sizes[rows] = measure(warehouse, rows, given.questions)
                print(rows, sizes[rows], flush=True)
            warehouse.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    show(sizes)


def show(sizes: Mapping[int, Mapping[str, tuple[float, float, float]]]) -> None:
    """As Markdown."""
    smallest = next(iter(sizes.values()))
    print("| rows | question | p50 ms | p95 ms | engine's processor ms | p95 / p95 at the smallest size |")
    print("| ---: | --- | ---: | ---: | ---: | ---: |")
    for rows, questions in sizes.items():
        for name, (p50, p95, cpu) in questions.items():
            print(f"| {rows:,} | {name} | {p50:.1f} | {p95:.1f} | {cpu:.1f} | {p95 / smallest[name][1]:.2f}x |")


if __name__ == "__main__":
    main()
