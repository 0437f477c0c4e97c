"""The old design against this platform's, side by side in one run: writes, reports, disk, growth, refresh.

Two real engines on one machine, the embedded PostgreSQL with the over-indexed table ``email`` of
docs/old_email_table.md, and the embedded ClickHouse with the raw table ``delivery`` behind the real loader. Both
hold the same emails, made by the same arithmetic inside each engine. The sides are measured in turns, so that the
noise of the machine hits both; ratios are the result, absolute figures hold for this machine at this moment.

    python bench/old_table_or_platform.py --scale small      # about 2 minutes
    python bench/old_table_or_platform.py --scale full       # 1 M and 10 M rows on both, 50 M on ClickHouse

Writes results as JSON after every stage, and from them the table, the plot and docs/benchmarks.md; ``--report-only``
makes those from the JSON of an earlier run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import psycopg
from rich.console import Console

from email_platform.adapters.clickhouse import dbt_environment, reports_database
from email_platform.adapters.clickhouse.lookups import CONDITIONS, LookupBy
from email_platform.adapters.clickhouse.targets import TARGETS
from email_platform.adapters.clickhouse.warehouse import ClickHouseWarehouse, StagingLocation
from email_platform.adapters.object_store import S3ObjectStore
from email_platform.domain.ports import StagedObject
from email_platform.domain.storage_layout import deliveries_key
from email_platform.local.demo.legacy_emails import CREATE_TABLE, INDEXES
from email_platform.local.stack import postgres
from email_platform.local.stack.stack import clean_environment, running_stack
from email_platform.settings import Settings
from email_platform.staging.delivery_rows import DELIVERY_SCHEMA

PROJECT = Path(__file__).parents[1]
CAMPAIGN_ROWS = 20_000
OBJECT_ROWS = (10_000, 50_000)  # the default chunk, and a larger one
FIRST_STAGED_CAMPAIGN = 1_000_000
console = Console(width=120)

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


@dataclass(frozen=True, slots=True)
class Scale:
    """How large and how long.

    Attributes:
        both: rows at which both sides are measured, rising.
        clickhouse_only: one more step, where filling PostgreSQL would take longer than the whole rest.
        seconds: for one side of one round of a write measurement.
        rounds: turns of each measurement.
    """

    both: tuple[int, ...]
    clickhouse_only: int
    seconds: float
    rounds: int
    query_seconds: float
    objects: int


SCALES = {
    "tiny": Scale((20_000,), 50_000, 0.3, 1, 0.1, 2),  # for the bench's own test
    "small": Scale((100_000, 1_000_000), 2_000_000, 1.0, 3, 0.6, 6),
    "medium": Scale((5_000_000,), 10_000_000, 2.0, 2, 0.8, 6),
    "full": Scale((1_000_000, 10_000_000), 50_000_000, 2.0, 3, 1.0, 10),
}

# The same email n in both dialects. Statuses by n % 200: 185 sent, 6 failed, 9 bounced.
_DOMAINS = ("gmail.com", "outlook.com", "yahoo.com", "icloud.com", "gmx.de", "web.de", "proton.me")
_PG_ROWS = f"""
insert into email (campaign_id, user_id, lead_id, email, subject, status, provider_message_id, error, sent_at,
    created_at, updated_at)
select
    n / {CAMPAIGN_ROWS}, n / {CAMPAIGN_ROWS} %% 40, n * 7368787 %% 1000003,
    'first.last' || n * 7368787 %% 1000003 || '@' || (array{list(_DOMAINS)})[n * 7368787 %% 1000003 %% 7 + 1],
    'News for you', case when n %% 200 < 185 then 'sent' when n %% 200 < 191 then 'failed' else 'bounced' end,
    '0100018f-' || md5(n::text), case when n %% 200 >= 185 then '550 5.1.1 user unknown' end,
    timestamptz '2025-01-01 00:00+00' + n * interval '0.5 second',
    timestamptz '2025-01-01 00:00+00' + n * interval '0.5 second',
    timestamptz '2025-01-01 00:00+00' + n * interval '0.5 second'
from generate_series(%(first)s::bigint, %(last)s::bigint - 1) as n
"""


def clickhouse_rows(first: int, rows: int, campaign: str = f"intDiv(n, {CAMPAIGN_ROWS})") -> str:
    """A select of `DELIVERY_SCHEMA` for emails `first` and following."""
    domains = ", ".join(f"'{name}'" for name in _DOMAINS)
    return f"""
        with number + {first} as n, n * 7368787 % 1000003 as lead
        select
            toInt64({campaign}) as campaign_id, toInt64(lead) as lead_id,
            toString(reinterpretAsUUID(MD5(toString(n)))) as message_id, toInt64({campaign} % 40) as owner_id,
            toInt64(1) as sender_id, concat('first.last', toString(lead), '@', [{domains}][lead % 7 + 1]) as email,
            'ses' as provider, concat('0100018f-', lower(hex(MD5(toString(n))))) as provider_message_id,
            if(n % 200 < 185, 'accepted', 'rejected') as status,
            multiIf(n % 200 < 185, '', n % 200 < 191, 'failed', 'bounced') as error_code,
            if(n % 200 < 185, '', '550 5.1.1 user unknown') as error_message,
            toInt32(0) as chunk_index, toInt32(number / 50) as call_index,
            toString(reinterpretAsUUID(MD5(toString(intDiv(n, 50))))) as call_id,
            toDateTime64('2025-01-01 00:00:00', 3, 'UTC') + toIntervalMillisecond(n * 500) as occurred_at,
            toUInt64(4) * 281474976710656 + n as version
        from numbers({rows})
    """


@dataclass(frozen=True, slots=True)
class Query:
    """One report question in both dialects; `{campaign}`, `{user}`, `{lead}`, `{address}` are filled in.

    Attributes:
        from_marts: the new side reads what dbt built, `{reports}`; asked only where that is built.
    """

    name: str
    old: str
    new: str
    from_marts: bool = False


def look_up(by: LookupBy, wanted: str) -> str:
    """The condition of `email-platform warehouse find` with the text in place of its bound parameter."""
    return re.sub(r"\{wanted:\w+\}", wanted, CONDITIONS[by])


_OF_LEAD, _OF_ADDRESS = look_up("lead", "{lead}"), look_up("address", "'{address}'")
# What a mart tells apart; here a bounce is a rejected delivery in the raw rows, as there are no events.
_OLD_TOTALS = "count(*) filter (where status = 'sent'), count(*) filter (where status in ('failed', 'bounced'))"
_OLD_STATUS = "case when status = 'sent' then 'sent' else 'rejected' end"

QUERIES = (
    Query(
        "leads by campaign by user",
        "select count(*), count(distinct lead_id) from email where user_id = {user} and campaign_id = {campaign}",
        "select count(), uniqExact(lead_id) from delivery final where campaign_id = {campaign} and owner_id = {user}",
    ),
    Query(
        "campaign totals, all campaigns",
        "select campaign_id, count(*) filter (where status = 'sent'), count(*) filter (where status = 'failed'), "
        "count(*) filter (where status = 'bounced') from email group by campaign_id order by campaign_id",
        "select campaign_id, countIf(status = 'accepted'), countIf(error_code = 'failed'), "
        "countIf(error_code = 'bounced') from delivery final group by campaign_id order by campaign_id",
    ),
    Query(
        "totals of one campaign",
        "select count(*) filter (where status = 'sent'), count(*) filter (where status = 'failed'), "
        "count(*) filter (where status = 'bounced') from email where campaign_id = {campaign}",
        "select countIf(status = 'accepted'), countIf(error_code = 'failed'), countIf(error_code = 'bounced') "
        "from delivery final where campaign_id = {campaign}",
    ),
    Query(
        "lead history",
        "select campaign_id, status from email where lead_id = {lead} order by created_at",
        "select campaign_id, multiIf(status = 'accepted', 'sent', toString(error_code)) from delivery final "
        f"where {_OF_LEAD} order by occurred_at",
    ),
    Query(
        "bounces by domain",
        "select split_part(email, '@', 2) as domain, count(*), count(*) filter (where status = 'bounced') from email "
        "group by domain order by domain",
        "select splitByChar('@', email)[2] as domain, count(), countIf(error_code = 'bounced') from delivery final "
        "group by domain order by domain",
    ),
    Query(
        "address look-up",
        "select campaign_id, status from email where lower(email) = '{address}' order by created_at",
        "select campaign_id, multiIf(status = 'accepted', 'sent', toString(error_code)) from delivery final "
        f"where {_OF_ADDRESS} order by occurred_at",
    ),
    Query(
        "campaign totals, all campaigns (mart)",
        f"select campaign_id, {_OLD_TOTALS} from email group by campaign_id order by campaign_id",
        "select campaign_id, accepted, rejected from {reports}.int_campaign_outcomes order by campaign_id",
        from_marts=True,
    ),
    Query(
        "totals of one campaign (mart)",
        f"select {_OLD_TOTALS} from email where campaign_id = {{campaign}}",
        "select accepted, rejected from {reports}.int_campaign_outcomes where campaign_id = {campaign}",
        from_marts=True,
    ),
    Query(
        "lead history (mart)",
        f"select campaign_id, {_OLD_STATUS} from email where lead_id = {{lead}} order by created_at",
        "select campaign_id, toString(status) from {reports}.lead_history where lead_id = {lead} order by occurred_at",
        from_marts=True,
    ),
    Query(
        "address look-up (mart)",
        f"select campaign_id, {_OLD_STATUS} from email where lower(email) = '{{address}}' order by created_at",
        f"select campaign_id, toString(status) from {{reports}}.lead_history where {_OF_ADDRESS} order by occurred_at",
        from_marts=True,
    ),
    Query(
        "bounces by domain (mart)",
        f"select split_part(email, '@', 2) as domain, {_OLD_TOTALS} from email group by domain order by domain",
        "select recipient_domain, sum(accepted), sum(rejected) from {reports}.domain_deliverability "
        "group by recipient_domain order by recipient_domain",
        from_marts=True,
    ),
    Query(
        "a user's emails by day (mart)",
        "select sent_at::date as day, count(*) from email where user_id = {user} group by day order by day",
        "select activity_date, accepted + rejected from {reports}.sender_activity "
        "where user_id = {user} order by activity_date",
        from_marts=True,
    ),
    Query(
        "leads by campaign by user (mart)",
        f"select lead_id, email, {_OLD_STATUS} from email where user_id = {{user}} and campaign_id = {{campaign}} "
        "order by lead_id limit 100",
        "select lead_id, email, toString(status) from {reports}.campaign_recipients "
        "where campaign_id = {campaign} and user_id = {user} order by lead_id limit 100",
        from_marts=True,
    ),
)


@dataclass(slots=True)
class Bench:
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

    @property
    def scale(self) -> Scale:
        """How large and how long."""
        return SCALES[self.scale_name]

    @property
    def questions(self) -> list[Query]:
        """Those that can be asked now."""
        return [query for query in QUERIES if self.has_marts or not query.from_marts]

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
            connection.execute(_PG_ROWS, {"first": self.rows, "last": rows})
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

    # --- writes --------------------------------------------------------------------------------------------------

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

    # --- reports -------------------------------------------------------------------------------------------------

    def reports(self, rows: int, *, old: bool) -> None:
        """Times of every report question on both sides in turns, first at rest, then under the same write load."""
        self.rows = rows
        with self.connect() as connection:
            connection.autocommit = True
            for loaded in (False, True):
                times: dict[str, dict[str, list[float]]] = {}
                written: dict[str, float] = {}
                for side in ("old", "new") if old else ("new",):
                    for query in self.questions:
                        times.setdefault(query.name, {})[side] = []
                for turn in range(3):
                    if old:
                        with self.old_writer(loaded) as count:
                            self._ask(times, "old", lambda sql: connection.execute(sql).fetchall(), turn)
                        written["old"] = written.get("old", 0.0) + count() / 3
                    with self.new_writer(loaded, written.get("old", 3_000.0 * (turn + 1)) * 3 / (turn + 1)) as count:
                        self._ask(times, "new", lambda sql: self.warehouse.client.query(sql).result_rows, turn)
                    written["new"] = written.get("new", 0.0) + count() / 3
                self.keep(
                    f"reports at {rows} {'under writes' if loaded else 'at rest'}",
                    {
                        "rows": rows,
                        "loaded": loaded,
                        "rows_written_per_second": written,
                        "ms": {
                            name: {s: [t * 1000 for t in ts] for s, ts in sides.items()}
                            for name, sides in times.items()
                        },
                    },
                )

    def _ask(self, times: dict[str, dict[str, list[float]]], side: str, run: Callable[[str], Any], turn: int) -> None:
        campaigns = self.rows // CAMPAIGN_ROWS or 1
        for query in self.questions:
            began = time.perf_counter()
            for repetition in range(1_000):
                campaign = (turn * 7919 + repetition * 104_729) % campaigns
                lead = (campaign * CAMPAIGN_ROWS + repetition) * 7_368_787 % 1_000_003
                sql = (query.old if side == "old" else query.new).format(
                    campaign=campaign,
                    user=campaign % 40,
                    lead=lead,
                    address=f"first.last{lead}@{_DOMAINS[lead % 7]}",
                    reports=self.reports_database,
                )
                started = time.perf_counter()
                run(sql)
                ended = time.perf_counter()
                times[query.name][side].append(ended - started)
                # Enough for a 95th percentile over the three turns, or as many as the time allows.
                if repetition >= 2 and (repetition >= 15 or ended - began > self.scale.query_seconds):
                    break

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

    # --- correctness, size, refresh --------------------------------------------------------------------------------

    def reconcile(self, rows: int) -> None:
        """Both sides must answer the same before times mean anything."""
        self.rows = rows
        with self.connect() as connection:
            for query in self.questions:
                values = {"campaign": 1 % (rows // CAMPAIGN_ROWS or 1), "lead": 7_368_787 % 1_000_003}
                values |= {"user": values["campaign"] % 40, "reports": self.reports_database}
                address = f"first.last{values['lead']}@{_DOMAINS[values['lead'] % 7]}"
                old = [tuple(row) for row in connection.execute(query.old.format(**values, address=address)).fetchall()]
                new = [
                    tuple(row)
                    for row in self.warehouse.client.query(query.new.format(**values, address=address)).result_rows
                ]
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
        """dbt: a full build; seconds of the models, without dbt's own start."""
        self.keep("full build", {"rows": rows, "seconds": self._dbt("--full-refresh")})
        self.has_marts = True

    def refresh(self, rows: int) -> None:
        """dbt: what was written meanwhile is taken in, then builds after 1 % new rows."""
        self._dbt()
        objects, after = max(1, rows // 100 // 10_000), []
        for _ in range(2):
            for staged in self.stage(10_000, objects):
                self.warehouse.load(staged)
            after.append(self._dbt())
        self.keep("refresh", {"rows": rows, "new_rows": objects * 10_000, "after": after})

    def _dbt(self, *arguments: str) -> float:
        with tempfile.TemporaryDirectory() as folder:
            command = [str(Path(sys.executable).with_name("dbt")), "run", *arguments, "--target-path", folder]
            command += ["--log-path", folder, "--project-dir", str(PROJECT / "dbt_reports")]
            command += ["--profiles-dir", str(PROJECT / "dbt_reports"), "--quiet"]
            url = self.settings.clickhouse_url.get_secret_value()
            environment = {**os.environ, **dbt_environment(url), "DBT_SEND_ANONYMOUS_USAGE_STATS": "false"}
            subprocess.run(command, env=environment, check=True)
            results = json.loads((Path(folder) / "run_results.json").read_text())["results"]
            return float(sum(result["execution_time"] for result in results))

    def single_rows(self) -> None:
        """What PostgreSQL is better at: one row by key, one row changed."""
        times: dict[str, list[float]] = {}

        def timed(name: str, run: Callable[[], object]) -> None:
            began = time.perf_counter()
            run()
            times.setdefault(name, []).append((time.perf_counter() - began) * 1000)

        client = self.warehouse.client
        with self.connect() as connection:
            connection.autocommit = True
            for n in range(40):
                number = n * 1_237 % self.rows
                key = f"campaign_id = {number // CAMPAIGN_ROWS} and lead_id = {number * 7_368_787 % 1_000_003}"
                by_id = f"select * from email where id = {n + 1}"
                change = f"update email set status = status, updated_at = now() where id = {n + 1}"
                by_key = f"select * from delivery final where {key}"
                timed("old: one row by id", lambda sql=by_id: connection.execute(sql).fetchall())
                timed("old: one row changed", lambda sql=change: connection.execute(sql))
                timed("new: one row by campaign and lead", lambda sql=by_key: client.query(sql).result_rows)
        self.keep("single rows", times)


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


OLD_COLUMNS = (
    "campaign_id, user_id, lead_id, email, subject, status, provider_message_id, error, sent_at, created_at, updated_at"
)


def old_values(number: int) -> tuple[Any, ...]:
    """One row for the old table."""
    lead = number % 1_000_003
    now = "2026-01-01 00:00:00+00"
    return (
        *(900_000 + number % 50, number % 40, lead, f"first.last{lead}@{_DOMAINS[lead % 7]}", "News for you", "sent"),
        *(f"0100018f-{number:032x}", "", now, now, now),
    )


def old_insert(rows: int, ids: Iterator[int]) -> tuple[str, list[Any]]:
    """One insert of so many rows, and its parameters."""
    one = f"({', '.join(['%s'] * 11)})"
    values: list[Any] = []
    for _ in range(rows):
        values += old_values(next(ids))
    return f"insert into email ({OLD_COLUMNS}) values {', '.join([one] * rows)}", values


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
                is_last = step == len(bench.scale.both) - 1
                if is_last:
                    bench.build(rows)
                bench.reconcile(rows)  # once, what dbt built included where it did
                bench.reports(rows, old=True)
                if is_last:
                    bench.single_rows()
                    bench.writes()
                    bench.refresh(rows)
            bench.has_marts = False
            rows = bench.scale.clickhouse_only
            bench.keep(f"filled to {rows}", {"new_seconds": bench.fill_new(rows)})
            bench.reports(rows, old=False)
            bench.sizes(rows, old=False)
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
        "chdb": version("chdb"),
        "load_at_start": os.getloadavg()[0],
    }


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    from old_table_report import write_report

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
