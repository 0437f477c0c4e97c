"""What so many emails a day need by the fitted model, and which resource is full first."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from bench.capacity.model import Fit

DAY_SECONDS = 86_400.0


@dataclass(frozen=True, slots=True)
class Assumptions:
    """What is assumed and not measured.

    Attributes:
        campaign_recipients, chunk_rows, call_rows: the shape of the campaigns.
        peak_factor: the rate of the busiest hour over the day's mean.
        busy_share: how busy a core may be planned to be.
        postgres_cores, clickhouse_cores: of the largest server that is planned with; both are one server.
        ledger_days: for which the ledger's rows stay in PostgreSQL (EMAIL_PLATFORM_KEEP_LEDGER_DAYS).
        run_days: for which Dagster's runs stay (EMAIL_PLATFORM_KEEP_RUN_DAYS).
        accounts: provider accounts that share the mail evenly.
        wal_bytes_per_second: of PostgreSQL's log that one server's disk is planned to take.
        load_seconds: from one load of what is staged to the next.
    """

    campaign_recipients: int = 100_000
    chunk_rows: int = 10_000
    call_rows: int = 50
    peak_factor: float = 3.0
    busy_share: float = 0.6
    postgres_cores: int = 16
    clickhouse_cores: int = 16
    ledger_days: int = 180
    run_days: int = 60
    accounts: int = 1
    wal_bytes_per_second: float = 100e6
    load_seconds: float = 60.0

    def units(self, emails: float, seconds: float) -> dict[str, float]:
        """How many of everything so many emails are that are sent in so many seconds; fractions count."""
        campaigns = emails / self.campaign_recipients
        chunks = math.ceil(self.campaign_recipients / self.chunk_rows)
        calls = math.ceil(self.campaign_recipients / self.call_rows)
        return {
            "recipients": emails,
            "calls": campaigns * calls,
            "chunks": campaigns * chunks,
            "campaigns": campaigns,
            "loads": seconds / self.load_seconds,
        }


@dataclass(frozen=True, slots=True)
class Needs:
    """Of one volume; a second is one of the busiest hour."""

    emails_per_day: float
    emails_per_second: float
    calls_per_second: float
    sender_cores: float
    step_processes: int
    step_memory_bytes: float
    postgres_cores: float
    postgres_commits_per_second: float
    wal_bytes_per_second: float
    wal_bytes_per_day: float
    ledger_rows_per_day: float
    ledger_bytes_kept: float
    reservations_per_second: float
    s3_objects_per_day: float
    s3_bytes_per_day: float
    clickhouse_cores: float
    clickhouse_bytes_per_day: float
    event_log_rows_per_day: float
    event_log_bytes_kept: float
    dagster_cores: float

    def figures(self) -> dict[str, float]:
        """By name."""
        return {name: float(value) for name, value in asdict(self).items()}


def needs(
    emails_per_day: float, fits: Mapping[str, Fit], step_pss_bytes: float, assumed: Assumptions = Assumptions()
) -> Needs:
    """What a day of so many emails needs.

    A call's reservation is counted as a transaction of its own, which is the most that it can be: the sender books
    those that may start together in one.
    """
    day = assumed.units(emails_per_day, DAY_SECONDS)
    emails_per_second = emails_per_day / DAY_SECONDS * assumed.peak_factor
    second = assumed.units(emails_per_second, 1.0)

    def of_day(name: str) -> float:
        return fits[name].predict(day)

    def of_second(name: str) -> float:
        return fits[name].predict(second)

    sender_cores = of_second("sender_cpu_seconds") / assumed.busy_share
    step_processes = max(1, math.ceil(sender_cores))
    return Needs(
        emails_per_day=emails_per_day,
        emails_per_second=emails_per_second,
        calls_per_second=second["calls"],
        sender_cores=sender_cores,
        step_processes=step_processes,
        step_memory_bytes=step_processes * step_pss_bytes,
        postgres_cores=of_second("postgres_cpu_seconds") / assumed.busy_share,
        postgres_commits_per_second=of_second("postgres_commits"),
        wal_bytes_per_second=of_second("postgres_wal_bytes"),
        wal_bytes_per_day=of_day("postgres_wal_bytes"),
        ledger_rows_per_day=day["calls"],
        ledger_bytes_kept=of_day("postgres_bytes") * assumed.ledger_days,
        reservations_per_second=second["calls"] / assumed.accounts,
        s3_objects_per_day=of_day("s3_objects"),
        s3_bytes_per_day=of_day("s3_bytes"),
        clickhouse_cores=of_second("clickhouse_cpu_seconds") / assumed.busy_share,
        clickhouse_bytes_per_day=of_day("clickhouse_bytes"),
        event_log_rows_per_day=of_day("event_log_rows"),
        event_log_bytes_kept=of_day("event_log_bytes") * assumed.run_days,
        dagster_cores=of_second("run_cpu_seconds") / assumed.busy_share,
    )


def full_at(
    fits: Mapping[str, Fit], step_pss_bytes: float, reservations_ceiling: float, assumed: Assumptions = Assumptions()
) -> dict[str, float]:
    """At how many emails a day each thing of which there is only one is full, the first to be full first."""
    ceilings: Mapping[str, tuple[str, float]] = {
        "the row of one provider account in the limiter": ("reservations_per_second", reservations_ceiling),
        f"PostgreSQL's processor ({assumed.postgres_cores} cores)": ("postgres_cores", assumed.postgres_cores),
        f"PostgreSQL's log ({assumed.wal_bytes_per_second / 1e6:.0f} MB/s)": (
            "wal_bytes_per_second", assumed.wal_bytes_per_second,
        ),
        f"ClickHouse's processor for loads ({assumed.clickhouse_cores} cores)": (
            "clickhouse_cores", assumed.clickhouse_cores,
        ),
    }  # fmt: skip
    nothing, much = (needs(emails, fits, step_pss_bytes, assumed).figures() for emails in (0.0, 1e9))
    found = {
        name: (ceiling - nothing[need]) / (much[need] - nothing[need]) * 1e9
        for name, (need, ceiling) in ceilings.items()
    }
    return dict(sorted(found.items(), key=lambda one: one[1]))
