"""One campaign from the queue to the reports on a whole stack: where the time goes, and what each process holds.

Everything goes through the sensors, the run queue, run workers, step processes, loads and the reports' refresh. The
moments are read from the platform's own tables, the memory from the operating system.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psutil
from sqlalchemy import Engine, text

from email_platform.adapters.assembly import open_warehouse
from email_platform.adapters.clickhouse.address import reports_database
from email_platform.repeating import repeated_beside
from email_platform.settings import Settings

POLL_SECONDS = 0.2
PATIENCE_SECONDS = 3600.0
STAGES = ("waits for its run", "audience", "first call", "sending", "until sent", "load", "reports")


@dataclass(frozen=True, slots=True)
class Path:
    """The seconds of each stage of one campaign, and what it sent.

    Attributes:
        seconds: by name in `STAGES`, one after the other.
        wal_bytes, row_writes: of PostgreSQL, from the queue to the reports.
    """

    leads: int
    accepted: int
    seconds: Mapping[str, float]
    wal_bytes: int
    row_writes: int

    @property
    def total_seconds(self) -> float:
        """From queued to reported."""
        return sum(self.seconds.values())

    @property
    def sent_seconds(self) -> float:
        """From queued to sent."""
        return sum(self.seconds[name] for name in STAGES[:5])


@dataclass(slots=True)
class Memory:
    """The largest resident size seen of each kind of process, in MB."""

    peak_mb: dict[str, float] = field(default_factory=dict)


def kind_of(command: list[str]) -> str | None:
    """Which of our processes this command line is; None for others."""
    line = " ".join(command)
    for mark, kind in (
        ("dagster._daemon", "daemon"),
        ("dagster_webserver", "webserver"),
        ("assets.code_server", "code server"),
        ("forkserver", "run worker or step"),
        ("email_platform.receiver", "receiver"),
    ):
        if mark in line:
            return kind
    return None


@contextmanager
def memory_watched() -> Iterator[Memory]:
    """Samples the resident memory of this stack's processes within the block, twice a second."""
    seen, own = Memory(), psutil.Process()

    def look() -> None:
        for process in own.children(recursive=True):
            try:
                kind = kind_of(process.cmdline())
                if kind is not None:
                    size = process.memory_info().rss / 1e6
                    seen.peak_mb[kind] = max(seen.peak_mb.get(kind, 0.0), size)
            except psutil.Error:
                continue

    with repeated_beside(look, 0.5, name="memory-watch", at_once=True):
        yield seen


def write_counters(engine: Engine) -> tuple[int, int]:
    """PostgreSQL's position in its log in bytes, and the rows that were ever written in this database."""
    with engine.connect() as connection:
        wal = connection.execute(
            text("select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint")
        ).scalar_one()
        rows = connection.execute(
            text("select coalesce(sum(n_tup_ins + n_tup_upd + n_tup_del), 0)::bigint from pg_stat_user_tables")
        ).scalar_one()
    return int(wal), int(rows)


def follow(settings: Settings, engine: Engine, queue: Callable[[], int]) -> Path:
    """Queue a campaign and wait until the reports show it as sent, with everybody."""
    wal_before, rows_before = write_counters(engine)
    campaign_id = queue()
    _until(lambda: _column(engine, campaign_id, "status") == "sent")
    with engine.connect() as connection:
        moments = connection.execute(
            text(
                """
                select c.queued_at, c.started_at, m.frozen_at, m.eligible_rows, c.finished_at,
                       (select min(intent_at) from send_call where campaign_id = c.id) as first_call_at,
                       (select max(receipt_at) from send_call where campaign_id = c.id) as last_call_at
                from campaign c join campaign_manifest m on m.campaign_id = c.id where c.id = :id
                """
            ),
            {"id": campaign_id},
        ).one()
    _until(lambda: not _unloaded(engine, campaign_id))
    with engine.connect() as connection:
        loaded_at = connection.execute(
            text("select max(loaded_at) from staged_object where campaign_id = :id"), {"id": campaign_id}
        ).scalar_one()
    reports = reports_database(settings.clickhouse_url.get_secret_value())
    with open_warehouse(settings) as warehouse:

        def reported() -> bool:
            exists = warehouse.query(
                "select count() from system.tables where database = {db:String} and name = 'campaign_summary'",
                {"db": reports},
            )[0][0]
            if not exists:
                return False
            rows = warehouse.query(
                f"select accepted from {reports}.campaign_summary where campaign_id = {{id:Int64}} and status = 'sent'",
                {"id": campaign_id},
            )
            return bool(rows) and int(rows[0][0]) == _accepted(engine, campaign_id)

        _until(reported)
        with engine.connect() as connection:
            reported_at = connection.execute(text("select clock_timestamp()")).scalar_one()
    wal_after, rows_after = write_counters(engine)
    points = [
        moments.queued_at,
        moments.started_at,
        moments.frozen_at,
        moments.first_call_at,
        moments.last_call_at,
        moments.finished_at,
        max(loaded_at, moments.finished_at),
        reported_at,
    ]
    seconds = {
        name: max(0.0, (later - earlier).total_seconds())
        for name, earlier, later in zip(STAGES, points, points[1:], strict=False)
    }
    return Path(
        int(moments.eligible_rows),
        _accepted(engine, campaign_id),
        seconds,
        wal_after - wal_before,
        rows_after - rows_before,
    )


def _accepted(engine: Engine, campaign_id: int) -> int:
    with engine.connect() as connection:
        return int(
            connection.execute(
                text(
                    "select coalesce(sum(recipient_count), 0) from send_call "
                    "where campaign_id = :id and state = 'accepted'"
                ),
                {"id": campaign_id},
            ).scalar_one()
        )


def _column(engine: Engine, campaign_id: int, name: str) -> Any:
    with engine.connect() as connection:
        row = connection.execute(
            text("select status, status_reason from campaign where id = :id"), {"id": campaign_id}
        ).one()
    if row.status in ("failed", "paused", "cancelled"):
        raise SystemExit(f"campaign {campaign_id} is {row.status}: {row.status_reason}")
    return getattr(row, name)


def _unloaded(engine: Engine, campaign_id: int) -> int:
    with engine.connect() as connection:
        return int(
            connection.execute(
                text(
                    "select count(*) from staged_object "
                    "where campaign_id = :id and loaded_sha256 is distinct from content_sha256"
                ),
                {"id": campaign_id},
            ).scalar_one()
        )


def until_accepted(engine: Engine, campaign_id: int) -> None:
    """Wait until somebody of the campaign is accepted."""
    _until(lambda: _accepted(engine, campaign_id) > 0)


def _until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        if time.monotonic() > deadline:
            raise SystemExit("waited too long; see the logs in the state folder")
        time.sleep(POLL_SECONDS)


def import_size_mb() -> float:
    """Resident memory of a process that has only imported the definitions."""
    program = "import email_platform.definitions, psutil; print(psutil.Process().memory_info().rss / 1e6)"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=True)
    return float(done.stdout.strip().splitlines()[-1])
