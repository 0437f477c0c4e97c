"""The old design against this platform's, side by side in one run: writes, reports, disk, growth, refresh.

Two real engines on one machine, the embedded PostgreSQL with the over-indexed table ``email`` of
docs/old_email_table.md, and the embedded ClickHouse with the raw table ``delivery`` behind the real loader. Both
hold the same emails, made by the same arithmetic inside each engine. The sides are measured in turns, so that the
noise of the machine hits both; ratios are the result, absolute figures hold for this machine at this moment.

    python -m bench.old_table_or_platform --scale small      # about 2 minutes
    python -m bench.old_table_or_platform --scale full       # 1 M and 10 M rows on both, 50 M on ClickHouse

Writes results as JSON after every stage, and from them the table, the plot and docs/benchmarks.md; ``--report-only``
makes those from the JSON of an earlier run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import psycopg

from bench.old_table_questions import (
    CAMPAIGN_ROWS,
    SCALES,
    Query,
    lead_of,
    values_of,
)
from bench.old_table_sides import Writers, console
from email_platform.adapters.clickhouse import dbt_environment
from email_platform.adapters.clickhouse.lookups import find_emails
from email_platform.adapters.clickhouse.warehouse import ClickHouseWarehouse
from email_platform.adapters.object_store import S3ObjectStore
from email_platform.local.stack import postgres
from email_platform.local.stack.stack import clean_environment, running_stack

Answer = list[tuple[Any, ...]]

PROJECT = Path(__file__).parents[1]
UNTIL_SAFE_SECONDS = 6  # loads of the last five seconds are left to the next fill

# As RDS gives a machine of this memory; durability as RDS has it (fsync and synchronous_commit on).
POSTGRES_TUNING = """
shared_buffers = '{shared_buffers}'
effective_cache_size = '{effective_cache_size}'
work_mem = '64MB'
maintenance_work_mem = '1GB'
max_wal_size = '8GB'
checkpoint_timeout = '15min'
random_page_cost = 1.1
"""


@dataclass(slots=True)
class Asked(Writers):
    """The two sides and the questions of the reports."""

    def reports(self, rows: int, *, old: bool) -> None:
        """Times of every report question on both sides in turns, first at rest, then under the same write load."""
        self.rows = rows
        for at in ("at rest", "under writes"):
            self._reports(at, old=old)

    def right_after_the_fill(self, rows: int) -> None:
        """The same of the new side's raw tables while their parts are being merged; keys come with the next refresh."""
        self.rows = rows
        self.has_marts, self.has_keys = False, False
        self._reports("under merges", old=False)

    def _reports(self, at: str, *, old: bool) -> None:
        times: dict[str, dict[str, list[float]]] = {}
        written: dict[str, float] = {}
        loaded = at == "under writes"
        for side in ("old", "new") if old else ("new",):
            for query in self.questions:
                times.setdefault(query.name, {})[side] = []
        with self.connect() as connection:
            connection.autocommit = True
            turns = self.scale.rounds
            for turn in range(turns):
                if old:
                    with self.old_writer(loaded) as count:
                        self._ask(times, "old", lambda query, values: self.ask_old(connection, query, values), turn)
                    written["old"] = written.get("old", 0.0) + count() / turns
                rate = written.get("old", 3_000.0 * (turn + 1)) * turns / (turn + 1)
                with self.new_writer(loaded, rate) as count:
                    self._ask(times, "new", self.ask_new, turn)
                written["new"] = written.get("new", 0.0) + count() / turns
        self.keep(
            f"reports at {self.rows} {at}",
            {
                "rows": self.rows,
                "at": at,
                "rows_written_per_second": written,
                "ms": {name: {s: [t * 1000 for t in ts] for s, ts in sides.items()} for name, sides in times.items()},
            },
        )

    def _ask(
        self,
        times: dict[str, dict[str, list[float]]],
        side: str,
        ask: Callable[[Query, Mapping[str, Any]], object],
        turn: int,
    ) -> None:
        for query in self.questions:
            began = time.perf_counter()
            for repetition in range(1_000):
                values = values_of((turn * 7_919 + repetition * 104_729) * 15_485_863 % self.rows)
                started = time.perf_counter()
                ask(query, values)
                ended = time.perf_counter()
                times[query.name][side].append(ended - started)
                # Enough for a 95th percentile over the turns, or as many as the time allows.
                if repetition >= 2 and (repetition >= 30 or ended - began > self.scale.query_seconds):
                    break

    def ask_old(self, connection: psycopg.Connection[Any], query: Query, values: Mapping[str, Any]) -> Answer:
        """The old side's answer."""
        return [tuple(row) for row in connection.execute(query.old.format(**values)).fetchall()]

    def ask_new(self, query: Query, values: Mapping[str, Any]) -> Answer:
        """The new side's answer, from its tables or by the platform's own look-up."""
        asked = query.new.format(**values, reports=self.reports_database)
        if query.by is None:
            return [tuple(row) for row in self.warehouse.client.query(asked).result_rows]
        found = find_emails(self.warehouse, query.by, int(asked) if query.by == "lead" else asked, 100)
        return sorted(
            (one.campaign_id, "sent" if one.status == "accepted" else one.error.partition(":")[0]) for one in found
        )


@dataclass(slots=True)
class Bench(Asked):
    """The two sides and what was measured so far."""

    def reconcile(self, rows: int) -> None:
        """Both sides must answer the same before times mean anything."""
        self.rows = rows
        with self.connect() as connection:
            for query in self.questions:
                for number in (
                    7 % rows,
                    185 % rows,
                    199 % rows,
                ):  # one that was sent, one that failed, one that bounced
                    old = self.ask_old(connection, query, values_of(number))
                    new = self.ask_new(query, values_of(number))
                    if old != new or not old:
                        raise SystemExit(f"{query.name}: the sides differ: {old[:3]} against {new[:3]}")
        self.keep(f"reconciled at {rows}", {"rows": rows, "questions": len(self.questions)})

    def sizes(self, rows: int, *, old: bool) -> None:
        """Bytes on disk, merged to the state that the engine reaches by itself when it rests."""
        self.warehouse.client.command("optimize table delivery final")
        new = self.warehouse.client.query(
            "select sum(bytes_on_disk) from system.parts "
            "where active and database = currentDatabase() and table = 'delivery'"
        ).result_rows[0][0]
        values: dict[str, float] = {"rows": rows, "new": float(new)}
        if old:
            with self.connect() as connection:
                row = connection.execute("select pg_total_relation_size('email'), pg_table_size('email')").fetchone()
                assert row is not None
                values |= {"old": float(row[0]), "old_without_indexes": float(row[1])}
        self.keep(f"size at {rows}", values)

    def build(self, rows: int) -> None:
        """A full build by dbt, and the table of keys, as a refresh fills it."""
        self.rows = rows
        self.keep(f"full build at {rows}", {"rows": rows, "seconds": self._dbt("--full-refresh")})
        self.has_marts = self.has_keys = True
        time.sleep(UNTIL_SAFE_SECONDS)
        began = time.perf_counter()
        self.keep(f"keys at {rows}", {"rows": self.warehouse.fill_keys(), "seconds": time.perf_counter() - began})
        # The views take a fill when it is half a minute old (the macro `emails_by_key`).
        a_minute_ago = "now64(3, 'UTC') - toIntervalSecond(60), max(filled_to) from email_key_filled"
        self.warehouse.command(f"insert into email_key_filled select {a_minute_ago}", {})

    def refresh(self, rows: int) -> None:
        """dbt: what was written meanwhile is taken in, then builds after 1 % new rows."""
        self._dbt()
        objects, after = max(1, rows // 100 // 10_000), []
        for _ in range(min(2, self.scale.rounds)):
            for staged in self.stage(10_000, objects):
                self.warehouse.load(staged)
            after.append(self._dbt())
        self.keep(f"refresh at {rows}", {"rows": rows, "new_rows": objects * 10_000, "after": after})

    def _dbt(self, *arguments: str) -> float:
        # One folder for all builds: what dbt parsed once it knows the next time.
        folder = self.settings.state_folder / "dbt"
        command = [str(Path(sys.executable).with_name("dbt")), "run", *arguments, "--target-path", str(folder)]
        command += ["--log-path", str(folder), "--project-dir", str(PROJECT / "dbt_reports")]
        command += ["--profiles-dir", str(PROJECT / "dbt_reports"), "--quiet"]
        url = self.settings.clickhouse_url.get_secret_value()
        environment = {**os.environ, **dbt_environment(url), "DBT_SEND_ANONYMOUS_USAGE_STATS": "false"}
        subprocess.run(command, env=environment, check=True)
        results = json.loads((folder / "run_results.json").read_text())["results"]
        return float(sum(result["execution_time"] for result in results))

    def single_rows(self) -> None:
        """What PostgreSQL is better at: one row by key, one row changed."""
        times: dict[str, list[float]] = {}

        def timed(name: str, run: Callable[[str], object], sql: str) -> None:
            began = time.perf_counter()
            run(sql)
            times.setdefault(name, []).append((time.perf_counter() - began) * 1000)

        client = self.warehouse.client
        with self.connect() as connection:
            connection.autocommit = True
            for n in range(40):
                number = n * 1_237 % self.rows
                key = f"campaign_id = {number // CAMPAIGN_ROWS} and lead_id = {lead_of(number)}"
                by_id = f"select * from email where id = {n + 1}"
                change = f"update email set status = status, updated_at = now() where id = {n + 1}"
                by_key = f"select * from delivery final where {key}"
                timed("old: one row by id", lambda sql: connection.execute(sql).fetchall(), by_id)
                timed("old: one row changed", connection.execute, change)
                timed("new: one row by campaign and lead", lambda sql: client.query(sql).result_rows, by_key)
        self.keep("single rows", times)


def measure(scale_name: str, sink: Path) -> dict[str, Any]:
    """Start the engines on a folder of their own, measure everything, and leave nothing behind."""
    memory_mb = psutil.virtual_memory().total >> 20
    postgres._CONFIGURATION += POSTGRES_TUNING.format(
        shared_buffers=f"{memory_mb // 4}MB", effective_cache_size=f"{memory_mb * 3 // 4}MB"
    )
    folder = Path(tempfile.mkdtemp(prefix="email-platform-bench-"))
    folder.chmod(0o755)
    try:
        with running_stack(
            folder / "state", parts=("postgres", "s3", "clickhouse"), environ=clean_environment()
        ) as settings:
            warehouse = ClickHouseWarehouse.from_settings(settings)
            bench = Bench(scale_name, settings, warehouse, S3ObjectStore.from_settings(settings), sink)
            bench.keep("machine", machine(bench))
            for step, rows in enumerate(bench.scale.both):
                old, new = bench.fill_old(rows), bench.fill_new(rows)
                bench.keep(f"filled to {rows}", {"old_seconds": old, "new_seconds": new})
                bench.sizes(rows, old=True)
                bench.build(rows)
                bench.reconcile(rows)
                bench.reports(rows, old=True)
                if step == len(bench.scale.both) - 1:
                    bench.single_rows()
                    bench.writes()
                bench.refresh(rows)
            rows = bench.scale.clickhouse_only
            bench.keep(f"filled to {rows}", {"new_seconds": bench.fill_new(rows)})
            bench.right_after_the_fill(rows)
            bench.sizes(rows, old=False)
            bench.build(rows)
            bench.reports(rows, old=False)
            bench.refresh(rows)
            warehouse.close()
            bench.keep("finished", {"at": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"})
            return bench.results
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def machine(bench: Bench) -> dict[str, Any]:
    """What the figures hold for."""
    with bench.connect() as connection:
        row = connection.execute(
            "select current_setting('server_version'), current_setting('shared_buffers')"
        ).fetchone()
    assert row is not None
    return {
        "scale": bench.scale_name,
        "cores": psutil.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "postgres": row[0],
        "shared_buffers": row[1],
        "clickhouse": bench.warehouse.client.server_version,
        "chdb": version("chdb-core"),
        "load_at_start": os.getloadavg()[0],
    }


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    from bench.old_table_report import write_report

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--scale", choices=sorted(SCALES), default="full")
    parser.add_argument("--results", type=Path, default=None, help="where the figures are kept as JSON")
    parser.add_argument(
        "--docs", type=Path, default=None, help="folder for benchmarks.md and images/; none: print only"
    )
    parser.add_argument("--report-only", action="store_true", help="make the report from the kept figures")
    options = parser.parse_args()
    results_file = options.results or Path(tempfile.gettempdir()) / f"email-platform-bench-{options.scale}.json"
    began_at = time.monotonic()
    found = (
        json.loads(results_file.read_text(encoding="utf-8"))
        if options.report_only
        else measure(options.scale, results_file)
    )
    write_report(found, options.docs, console)
    console.print(f"{time.monotonic() - began_at:.0f} s; figures in {results_file}", highlight=False)
