"""The two sides of the benchmark: filled with the same rows, written to by each way, and written to beside reports.

Invariant: what is written while measuring lies beyond the rows that are asked for, and is removed before the next step.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import psycopg
from rich.console import Console

from bench.old_table_questions import (
    FIRST_STAGED_CAMPAIGN,
    OBJECT_ROWS,
    OLD_COLUMNS,
    PG_ROWS,
    QUERIES,
    SCALES,
    Query,
    Scale,
    clickhouse_rows,
    old_insert,
    old_values,
)
from email_platform.adapters.clickhouse import reports_database
from email_platform.adapters.clickhouse.staging_location import StagingLocation
from email_platform.adapters.clickhouse.targets import TARGETS
from email_platform.adapters.clickhouse.warehouse import ClickHouseWarehouse
from email_platform.adapters.object_store import S3ObjectStore
from email_platform.domain.ports import StagedObject
from email_platform.domain.storage_layout import deliveries_key
from email_platform.local.demo.legacy_emails import CREATE_TABLE, INDEXES
from email_platform.settings import Settings
from email_platform.staging.delivery_rows import DELIVERY_SCHEMA

console = Console(width=120)


@dataclass(slots=True)
class Sides:
    """The two sides and what was measured so far."""

    scale_name: str
    settings: Settings
    warehouse: ClickHouseWarehouse
    store: S3ObjectStore
    sink: Path
    results: dict[str, Any] = field(default_factory=dict)
    rows: int = 0
    staged: list[StagedObject] = field(default_factory=list)
    next_campaign: int = FIRST_STAGED_CAMPAIGN
    has_marts: bool = False
    has_keys: bool = False

    @property
    def scale(self) -> Scale:
        """How large and how long."""
        return SCALES[self.scale_name]

    @property
    def questions(self) -> list[Query]:
        """Those that can be asked now."""
        return [
            query
            for query in QUERIES
            if (self.has_marts or not query.from_marts) and (self.has_keys or query.by is None)
        ]

    @property
    def reports_database(self) -> str:
        """Where dbt builds."""
        return reports_database(self.settings.clickhouse_url.get_secret_value())

    def connect(self) -> psycopg.Connection[Any]:
        """The old database."""
        return psycopg.connect(self.settings.postgres_url.get_secret_value().replace("+psycopg", ""))

    def keep(self, stage: str, values: Any) -> None:
        """Remember a stage's results, durably."""
        self.results[stage] = values
        self.sink.write_text(json.dumps(self.results, indent=1), encoding="utf-8")
        console.print(f"[dim]{datetime.now(UTC):%H:%M:%S}[/dim] {stage}", highlight=False)

    # --- data ----------------------------------------------------------------------------------------------------

    def fill_old(self, rows: int) -> float:
        """Grow the old table to so many rows: without its indexes, which are made again afterwards."""
        began = time.perf_counter()
        with self.connect() as connection:
            connection.execute(CREATE_TABLE)
            connection.execute("delete from email where campaign_id >= 900000")  # written while measuring
            for (index,) in connection.execute(
                "select indexname from pg_indexes where tablename = 'email' and indexname != 'email_pkey'"
            ).fetchall():
                connection.execute(f"drop index {index}")
            connection.execute(PG_ROWS, {"first": self.rows, "last": rows})
            connection.commit()
            for statement in INDEXES:
                connection.execute(statement)
            connection.commit()
            connection.autocommit = True
            connection.execute("vacuum analyze email")
            connection.execute("checkpoint")
        return time.perf_counter() - began

    def fill_new(self, rows: int) -> float:
        """Grow the table of deliveries to so many rows, inside the engine."""
        began = time.perf_counter()
        columns = ", ".join(DELIVERY_SCHEMA.names)
        self.warehouse.client.command(  # written while measuring
            f"alter table delivery delete where campaign_id >= {FIRST_STAGED_CAMPAIGN}",
            settings={"mutations_sync": 2},
        )
        for first in range(self.rows, rows, 5_000_000):
            count = min(5_000_000, rows - first)
            self.warehouse.client.command(
                f"insert into delivery ({columns}, source_object, loaded_at) "
                f"select *, 'filled', now64(3, 'UTC') from ({clickhouse_rows(first, count)})"
            )
        return time.perf_counter() - began

    def stage(self, rows: int, count: int) -> list[StagedObject]:
        """Staged objects as the platform makes them: one campaign's chunk each, written to S3 and hashed."""
        staged = []
        structure = "Parquet"
        for _ in range(count):
            campaign, self.next_campaign = self.next_campaign, self.next_campaign + 1
            key = deliveries_key(campaign, 0)
            target = StagingLocation.from_settings(self.settings)
            function = target.table_function(key, structure, "auto").replace(", 'auto')", ")")
            first = 2_000_000_000 + (campaign - FIRST_STAGED_CAMPAIGN) * 100_000
            self.warehouse.client.command(
                f"insert into function {function} {clickhouse_rows(first, rows, str(campaign))}",
                settings={"s3_truncate_on_insert": 1, "output_format_parquet_row_group_size": rows},
            )
            body = self.store.get(key)
            staged.append(StagedObject(key, "delivery", rows, sha256(body).hexdigest()))
        return staged


@dataclass(slots=True)
class Writers(Sides):
    """The sides under writes: one after the other, and beside other questions."""

    def writes(self) -> None:
        """Rows a second of each way to write, in turns."""
        rates: dict[str, list[float]] = {}
        self.make_raw_table()
        for round_ in range(self.scale.rounds):
            for name, write in (
                ("old: single-row inserts", lambda: self.old_inserts(1)),
                ("old: inserts of 50", lambda: self.old_inserts(50)),
                ("old: COPY of 10,000", self._old_copy),
            ):
                rates.setdefault(name, []).append(write())
            for rows in OBJECT_ROWS:
                objects = self.stage(rows, self.scale.objects)
                ways = [
                    (f"engine: raw insert, objects of {rows:,}", lambda o=objects: self.raw_insert(o)),
                    (f"platform: loader, objects of {rows:,}", lambda o=objects: self._load(o)),
                ]
                for name, load in ways if round_ % 2 else ways[::-1]:
                    rates.setdefault(name, []).append(load())
        self.warehouse.client.command("drop table delivery_raw_insert")
        self.keep("writes", {"rows_in_table": self.rows, "rates": rates})

    def make_raw_table(self) -> None:
        """The table that `raw_insert` fills, empty."""
        self.warehouse.client.command("drop table if exists delivery_raw_insert")
        self.warehouse.client.command("create table delivery_raw_insert as delivery")

    def old_inserts(self, rows: int) -> float:
        """Rows a second of inserts of so many rows, each with its own commit."""
        done, began = 0, time.perf_counter()
        with self.connect() as connection, connection.cursor() as cursor:
            while time.perf_counter() - began < self.scale.seconds:
                cursor.execute(*old_insert(rows, self.old_ids()))
                connection.commit()
                done += rows
        return done / (time.perf_counter() - began)

    def old_ids(self) -> Iterator[int]:
        """Numbers of emails that no table has yet, spread as real leads and provider ids are."""
        while True:
            yield int.from_bytes(os.urandom(6)) + 10**12

    def _old_copy(self) -> float:
        ids = self.old_ids()
        lines = ["\t".join(str(v) for v in old_values(next(ids))) for _ in range(10_000)]
        text = "\n".join(lines) + "\n"
        began = time.perf_counter()
        with self.connect() as connection, connection.cursor() as cursor:
            with cursor.copy(f"copy email ({OLD_COLUMNS}) from stdin") as copy:
                copy.write(text)
            connection.commit()
        return 10_000 / (time.perf_counter() - began)

    def _load(self, objects: list[StagedObject]) -> float:
        """As the platform does: whatever waits is loaded in groups."""
        began = time.perf_counter()
        rows = sum(outcome.rows for group in self.warehouse.load_many(objects) for outcome in group)
        return rows / (time.perf_counter() - began)

    def raw_insert(self, objects: list[StagedObject], *, at_once: int = 1000, writers: int = 1) -> float:
        """What the engine itself does with the same objects: no hash, no token, no proof.

        Args:
            objects: to insert; into a table of the same definition as `delivery`, with all its indexes.
            at_once: so many in one INSERT.
            writers: threads that write; two read, as for the loader.
        """
        target, location = TARGETS["delivery"], StagingLocation.from_settings(self.settings)
        began = time.perf_counter()
        for first in range(0, len(objects), at_once):
            keys = [staged.key for staged in objects[first : first + at_once]]
            source = location.table_function(keys, "Parquet", target.structure())
            self.warehouse.client.command(
                f"insert into delivery_raw_insert ({target.columns}, source_object, loaded_at) "
                f"select {target.columns}, _path, now64(3, 'UTC') from {source}",
                settings={"max_threads": 2, "max_insert_threads": writers, "use_hive_partitioning": 0},
            )
        return sum(staged.rows for staged in objects) / (time.perf_counter() - began)

    @contextmanager
    def old_writer(self, active: bool) -> Iterator[Callable[[], float]]:
        """One session that inserts 50 rows at a time, as fast as it can; yields its rows a second."""
        with background(self._write_old if active else None) as rate:
            yield rate

    @contextmanager
    def new_writer(self, active: bool, rows_per_second: float) -> Iterator[Callable[[], float]]:
        """The loader, kept to at least the rate that the old side managed; yields its rows a second."""
        if active:
            self.staged = self.stage(10_000, 12)
        with background((lambda stop: self._write_new(stop, rows_per_second)) if active else None) as rate:
            yield rate

    def _write_old(self, stop: threading.Event) -> Iterator[int]:
        with self.connect() as connection, connection.cursor() as cursor:
            ids = self.old_ids()
            while not stop.is_set():
                cursor.execute(*old_insert(50, ids))
                connection.commit()
                yield 50

    def _write_new(self, stop: threading.Event, rows_per_second: float) -> Iterator[int]:
        loader = ClickHouseWarehouse.from_settings(self.settings)
        began, done = time.perf_counter(), 0
        try:
            for index in range(1_000_000):
                if stop.is_set():
                    return
                staged = self.staged[index % len(self.staged)]
                if index >= len(self.staged):  # all are loaded: stage more of them, outside the measured loader
                    (staged,) = self.stage(10_000, 1)
                loader.load(staged)
                done += staged.rows
                yield staged.rows
                stop.wait(max(0.0, began + done / rows_per_second - time.perf_counter()))
        finally:
            loader.close()


@contextmanager
def background(work: Callable[[threading.Event], Iterator[int]] | None) -> Iterator[Callable[[], float]]:
    """Run a writer beside the block; yields a function that gives its rows a second after the block."""
    stop, done, began = threading.Event(), [0], time.perf_counter()
    failed: list[BaseException] = []
    ended = [0.0]

    def run() -> None:
        try:
            for rows in work(stop) if work else ():
                done[0] += rows
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield lambda: done[0] / max(ended[0] - began, 1e-9)
    finally:
        ended[0] = time.perf_counter()
        stop.set()
        thread.join()
    if failed:
        raise failed[0]
