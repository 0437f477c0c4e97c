"""The bulk loader against the engine's raw insert of the same objects and the old design's inserts of 50, in turns.

    python -m bench.loader --objects 20 --rounds 5 --table-rows 1000000

The platform's side is `load_staged`, as its assets call it: the register in PostgreSQL names what waits, the loader
takes it in groups, the register learns what is loaded. The raw insert has the same table definition with all indexes,
the same columns named in s3(), two threads to read, and no hash, token or proof. It has three forms: an INSERT per
object; all objects in one INSERT with one thread that writes, as one group of the loader has; and with two, as its two
groups have that run side by side.

What the loader does is shown in seconds of its threads: the parts of groups that run side by side add up to more than
the time that passes. Ratios of one run are the result. Engines on a folder of their own, removed at the end.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.old_table_or_platform import Bench
from bench.old_table_questions import OBJECT_ROWS
from bench.old_table_report import ratio
from email_platform.adapters.assembly import open_oltp
from email_platform.adapters.clickhouse.staging_location import StagingLocation
from email_platform.adapters.clickhouse.warehouse import ClickHouseWarehouse
from email_platform.adapters.object_store import S3ObjectStore
from email_platform.adapters.postgres.staging import PostgresStagingRegister
from email_platform.domain.ports import StagedObject
from email_platform.local.stack.stack import clean_environment, running_stack
from email_platform.runs.load import load_staged
from email_platform.settings import Settings

console = Console(width=120)


class Timed:
    """Passes every call on and adds up the seconds of those that have a name in `parts`."""

    def __init__(self, inner: Any, parts: Callable[[str, str], str | None], seconds: dict[str, float]) -> None:
        self._inner, self._parts, self._seconds = inner, parts, seconds

    def __getattr__(self, method: str) -> Any:
        call = getattr(self._inner, method)

        def timed(*arguments: Any, **named: Any) -> Any:
            part = self._parts(method, str(arguments[0]) if arguments else "")
            began = time.perf_counter()
            try:
                return call(*arguments, **named)
            finally:
                if part is not None:
                    self._seconds[part] += time.perf_counter() - began

        return timed


def part_of_statement(method: str, statement: str) -> str | None:
    """Which part of a load a statement of the loader is."""
    if method == "command":
        return "insert"
    if method != "query":
        return None
    return "hash" if "SHA256(content)" in statement else "proof"


class LoaderBench:
    """Both engines, and the seconds of every round by way and by part."""

    def __init__(self, settings: Settings, register: PostgresStagingRegister, sink: Path) -> None:
        self.parts: dict[str, float] = defaultdict(float)
        self.warehouse = ClickHouseWarehouse.from_settings(settings)
        self.bench = Bench("small", settings, self.warehouse, S3ObjectStore.from_settings(settings), sink)
        self.register = register
        self.timed = ClickHouseWarehouse(
            Timed(self.warehouse.client, part_of_statement, self.parts),
            StagingLocation.from_settings(settings),
            address="the embedded one",
        )
        self.timed_register: Any = Timed(
            register, lambda method, _: "register" if method in ("unloaded", "mark_all_loaded") else None, self.parts
        )

    def prepare(self, rows: int) -> None:
        """Fill both tables to so many rows, and make the raw insert's."""
        self.bench.fill_old(rows)
        self.bench.fill_new(rows)
        self.bench.make_raw_table()

    def by_loader(self, objects: list[StagedObject]) -> None:
        """As the platform does it."""
        for staged in objects:
            self.register.record(staged, None)
        began = time.perf_counter()
        report = load_staged(self.timed_register, self.timed)
        self.parts["all"] += time.perf_counter() - began
        if report.objects != len(objects) or report.quarantined:
            raise SystemExit(f"{report.objects} of {len(objects)} objects were loaded: {report.quarantined}")

    def rested(self) -> None:
        """Wait until no merge of what was written before takes a core."""
        while self.warehouse.client.query("select count() from system.merges").result_rows[0][0]:
            time.sleep(0.1)

    def measure(self, rows: int, objects: int, rounds: int) -> None:
        """Print the rates of all ways for objects of so many rows, and the parts of the loader."""
        self.parts.clear()
        rates: dict[str, list[float]] = {}
        ways: dict[str, Callable[[list[StagedObject]], object]] = {
            "platform: loader with register": self.by_loader,
            "engine: an INSERT per object": lambda some: self.bench.raw_insert(some, at_once=1),
            "engine: one INSERT, one writing thread": self.bench.raw_insert,
            "engine: one INSERT, two writing threads": lambda some: self.bench.raw_insert(some, writers=2),
        }
        for round_ in range(rounds):
            staged = self.bench.stage(rows, objects)
            rates.setdefault("old: inserts of 50", []).append(self.bench.old_inserts(50))
            turn = list(ways.items())
            for name, write in turn[round_ % len(turn) :] + turn[: round_ % len(turn)]:
                self.rested()
                began = time.perf_counter()
                write(staged)
                rates.setdefault(name, []).append(rows * objects / (time.perf_counter() - began))
        self.show(rows, objects, {name: statistics.median(values) for name, values in rates.items()}, rates)

    def show(self, rows: int, objects: int, medians: dict[str, float], rates: dict[str, list[float]]) -> None:
        """Print one size of objects."""
        ours, old = medians["platform: loader with register"], medians["old: inserts of 50"]
        table = Table("way", "rows/s (median)", "rounds", "against inserts of 50", "loader against it")
        for name, rate in medians.items():
            spread = f"{min(rates[name]):,.0f} to {max(rates[name]):,.0f}"
            table.add_row(name, f"{rate:,.0f}", spread, ratio(rate / old), f"{ours / rate:.0%}")
        console.print(f"\n{objects} objects of {rows:,} rows", highlight=False)
        console.print(table)
        whole = self.parts.pop("all")
        shares = ", ".join(f"{part} {seconds / whole:.0%}" for part, seconds in sorted(self.parts.items()))
        console.print(f"of the time that passes, in threads that run side by side: {shares}", highlight=False)


def main() -> None:
    """Start the engines, measure, print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--objects", type=int, default=20, help="that wait when the loader is called")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--table-rows", type=int, default=1_000_000, help="in both tables before")
    given = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="email-platform-bench-") as folder:
        Path(folder).chmod(0o755)
        state = Path(folder) / "state"
        with (
            running_stack(state, parts=("postgres", "s3", "clickhouse"), environ=clean_environment()) as settings,
            open_oltp(settings) as engine,
        ):
            bench = LoaderBench(settings, PostgresStagingRegister(engine), Path(folder) / "figures.json")
            bench.prepare(given.table_rows)
            for rows in OBJECT_ROWS:
                bench.measure(rows, given.objects, given.rounds)


if __name__ == "__main__":
    main()
