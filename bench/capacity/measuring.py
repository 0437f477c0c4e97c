"""Sends, stages and loads campaigns of several shapes on the embedded engines, and counts what each cost.

What is counted does not depend on what else the machine does: processor seconds of each part, bytes and rows that
PostgreSQL wrote, objects, parts, event-log rows and memory. No elapsed time is among them, but in `reservations`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import dagster as dg
import psutil
from sqlalchemy import Engine, text

from bench.send.campaigns import queue, seed_leads, send_here
from email_platform.adapters.assembly import open_oltp, open_parts, open_store, open_warehouse
from email_platform.adapters.clickhouse.warehouse import ClickHouseWarehouse
from email_platform.adapters.postgres.rate_limit import PostgresRateLimiter
from email_platform.repeating import repeated_beside
from email_platform.runs.load import load_staged
from email_platform.sending.rate_limit import AccountRate
from email_platform.settings import Settings

CALL_ROWS_VARIABLE = "EMAIL_PLATFORM_SIMULATOR_RECIPIENTS_PER_CALL"
TABLES = ("send_call", "chunk", "campaign_manifest", "staged_object", "campaign")
_QUIET = {"loggers": {"console": {"config": {"log_level": "ERROR"}}}}
RUN_CHUNK_ROWS = 50


@dataclass(frozen=True, slots=True)
class Shape:
    """Campaigns of one shape.

    Attributes:
        recipients_each: of one campaign.
        chunk_rows, call_rows: recipients of one chunk, and of one call.
    """

    campaigns: int
    recipients_each: int
    chunk_rows: int = 10_000
    call_rows: int = 50

    @property
    def units(self) -> dict[str, float]:
        """How many of everything that may cost something; all that was sent is loaded at once."""
        full, rest = divmod(self.recipients_each, self.chunk_rows)
        calls_each = full * -(-self.chunk_rows // self.call_rows) + -(-rest // self.call_rows)
        chunks_each = full + (rest > 0)
        return {
            "recipients": self.campaigns * self.recipients_each,
            "calls": self.campaigns * calls_each,
            "chunks": self.campaigns * chunks_each,
            "campaigns": self.campaigns,
            "loads": 1,
        }


@dataclass(frozen=True, slots=True)
class Measured:
    """What one shape cost, by the names in `model.COSTS`."""

    shape: Shape
    costs: Mapping[str, float]


@contextmanager
def memory_watched() -> Iterator[list[float]]:
    """Appends this process's proportional share of memory (PSS), in bytes, ten times a second."""
    seen: list[float] = []
    own = psutil.Process()

    def look() -> None:
        seen.append(float(own.memory_full_info().pss))

    with repeated_beside(look, 0.1, name="memory-watch", at_once=True):
        yield seen


def processor_seconds(mark: str) -> float:
    """User and system time of the stack's processes whose command line has the mark, with children that ended."""
    seconds = 0.0
    for process in psutil.Process().children(recursive=True):
        try:
            if mark in " ".join(process.cmdline()) or mark in process.name():
                used = process.cpu_times()
                seconds += used.user + used.system
                if mark == "postgres":  # its server waits for backends that end, and counts them
                    seconds += used.children_user + used.children_system
        except psutil.Error:
            continue
    return seconds


class Counters:
    """Everything that is counted, as it stands now."""

    def __init__(self, settings: Settings, engine: Engine, warehouse: ClickHouseWarehouse) -> None:
        self._settings, self._engine, self._warehouse = settings, engine, warehouse

    def read(self) -> dict[str, float]:
        """Each counter; differences of two readings are costs."""
        with self._engine.begin() as connection:
            connection.execute(text("select pg_stat_force_next_flush()"))
        with self._engine.connect() as connection:
            wal = connection.execute(
                text(
                    "select wal_records, pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0') as wal_bytes "
                    "from pg_stat_wal"
                )
            ).one()
            commits = connection.execute(
                text("select xact_commit from pg_stat_database where datname = current_database()")
            ).scalar_one()
            rows = connection.execute(
                text("select coalesce(sum(n_tup_ins + n_tup_upd + n_tup_del), 0) from pg_stat_user_tables")
            ).scalar_one()
            sizes = connection.execute(
                text("select sum(pg_total_relation_size(name::regclass)) from unnest(cast(:names as text[])) as name"),
                {"names": list(TABLES)},
            ).scalar_one()
        objects = list(open_store(self._settings).list(""))
        # A block a part that was ever inserted, merged since or not; the tables have one partition.
        blocks, stored_bytes = self._warehouse.query(
            "select sum(blocks), sum(stored_bytes) from (select max(max_block_number) as blocks, "
            "sum(bytes_on_disk) as stored_bytes from system.parts "
            "where database = currentDatabase() and active and table in ('delivery', 'exclusion') group by table)",
            {},
        )[0]
        return {
            "sender_cpu_seconds": time.process_time(),
            "postgres_cpu_seconds": processor_seconds("postgres"),
            "clickhouse_cpu_seconds": processor_seconds("clickhouse"),
            "postgres_commits": float(commits),
            "postgres_row_writes": float(rows),
            "postgres_wal_records": float(wal.wal_records),
            "postgres_wal_bytes": float(wal.wal_bytes),
            "postgres_bytes": float(sizes),
            "s3_objects": float(len(objects)),
            "s3_bytes": float(sum(each.size_bytes for each in objects)),
            "clickhouse_parts": float(blocks),
            "clickhouse_bytes": float(stored_bytes),
        }


class Campaigns:
    """Sends campaigns of a shape, and says what they cost."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._cities: set[str] = set()

    def measure(self, shape: Shape) -> Measured:
        """Queue, freeze, send, finish and load; everything in this process, as a step's process does it.

        Leads and queued campaigns are made before the first reading.
        """
        settings = self._settings.model_copy(update={"chunk_rows": shape.chunk_rows})
        variables = {CALL_ROWS_VARIABLE: str(shape.call_rows)}
        with open_oltp(settings) as engine, open_warehouse(settings) as warehouse:
            city = self._city(engine, shape.recipients_each)
            ids = [queue(engine, city) for _ in range(shape.campaigns)]
            with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                # Else the first who reads the leads writes their pages into the log, for hints, and autovacuum later.
                connection.execute(text("vacuum (analyze) lead"))
                connection.execute(text("checkpoint"))
            counters = Counters(settings, engine, warehouse)
            before = counters.read()
            with memory_watched() as pss_bytes, open_parts(settings, variables) as parts:
                for campaign_id in ids:
                    accepted = send_here(parts, campaign_id)
                    assert accepted == shape.recipients_each, (accepted, shape.recipients_each)
                report = load_staged(parts.register, warehouse)
            _wait_for_statistics(engine)
            after = counters.read()
        assert not report.quarantined, report.quarantined
        costs = {name: after[name] - before[name] for name in before}
        return Measured(shape, {**costs, "step_pss_bytes": max(pss_bytes)})

    def _city(self, engine: Engine, leads: int) -> str:
        city = f"capacity{leads}"
        if city not in self._cities:
            seed_leads(engine, city, leads)
            self._cities.add(city)
        return city


def _wait_for_statistics(engine: Engine) -> None:
    """A session hands its statistics over at its end at the latest: wait until the sender's are gone."""
    others = text(
        "select count(*) from pg_stat_activity where application_name = 'email-platform' and pid <> pg_backend_pid()"
    )
    while True:
        with engine.connect() as connection:
            if not connection.execute(others).scalar_one():
                return
        time.sleep(0.05)


def set_full_pages(engine: Engine, *, are_written: bool) -> None:
    """Whether PostgreSQL writes a page whole into its log when it is first changed after a checkpoint.

    How many that are depends on the size of the tables and the time between checkpoints, not on what is sent.
    """
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(f"alter system set full_page_writes = {'on' if are_written else 'off'}"))
        connection.execute(text("select pg_reload_conf()"))
        shown = "on" if are_written else "off"
        while connection.execute(text("show full_page_writes")).scalar_one() != shown:
            time.sleep(0.05)


def measure_runs(settings: Settings, chunk_counts: tuple[int, ...]) -> list[Measured]:
    """Event-log rows and bytes, and processor time, of Dagster's runs of campaigns with so many chunks.

    Each step runs in this process; one of its own adds its start, which is not counted here. The settings come from the
    environment, with chunks of `RUN_CHUNK_ROWS`.
    """
    from email_platform.definitions import defs  # slow to import, and needed here alone

    found = []
    for chunks in chunk_counts:
        shape = Shape(1, chunks * RUN_CHUNK_ROWS, chunk_rows=RUN_CHUNK_ROWS)
        with open_oltp(settings) as engine, dg.DagsterInstance.ephemeral() as instance:
            seed_leads(engine, f"runs{chunks}", shape.recipients_each)
            key = str(queue(engine, f"runs{chunks}"))
            instance.add_dynamic_partitions("campaign", [key])
            began = time.process_time()
            result = defs.resolve_job_def("campaign_job").execute_in_process(
                partition_key=key, instance=instance, run_config=_QUIET
            )
            used = time.process_time() - began
            assert result.success
            logged = instance.all_logs(result.run_id)
            sizes = [len(dg.serialize_value(entry)) for entry in logged]
        costs = {"event_log_rows": float(len(sizes)), "event_log_bytes": float(sum(sizes)), "run_cpu_seconds": used}
        found.append(Measured(shape, costs))
    return found


def reservations_per_second(settings: Settings, transactions: int, processes: int = 4) -> float:
    """Transactions a second in which calls of one account are booked, by several at once; by the clock.

    All of them lock the account's one row, so this is what the account's lock allows.
    """
    rate = AccountRate(1e9, None)
    with open_oltp(settings) as engine:

        def book(campaign_id: int) -> None:
            limiter = PostgresRateLimiter(engine, "simulator/capacity", rate, campaign_id)
            for _ in range(transactions // processes):
                limiter.reserve([50])

        threads = [threading.Thread(target=book, args=(number,)) for number in range(1, processes + 1)]
        began = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return transactions / (time.perf_counter() - began)
