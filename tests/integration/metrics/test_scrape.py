"""A scrape on the real PostgreSQL, bucket and Dagster storage: every figure is exactly right, and it always answers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.remote_origin import InProcessCodeLocationOrigin, RemoteInstigatorOrigin, RemoteRepositoryOrigin
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    InstigatorType,
    SensorInstigatorData,
    TickData,
    TickStatus,
)
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster_shared.error import SerializableErrorInfo
from pydantic import SecretStr
from sqlalchemy import Engine, event, text

from email_platform.adapters.object_store import S3ObjectStore
from email_platform.adapters.postgres.engine import create_oltp_engine
from email_platform.adapters.postgres.metrics import PostgresFigures
from email_platform.adapters.postgres.rate_limit import PostgresRateLimiter
from email_platform.metrics.collector import PlatformCollector, account_label
from email_platform.metrics.dagster_times import DagsterTimes, read_dagster_times
from email_platform.sending.rate_limit import AccountRate
from email_platform.settings import Settings
from tests.integration.own_databases import closing_engine

pytestmark = pytest.mark.integration

Samples = dict[tuple[str, tuple[str, ...]], float]
VARIABLES = {"EMAIL_PLATFORM_SES_MAIN_RECIPIENTS_PER_SECOND": "200", "EMAIL_PLATFORM_SES_ODD_CALLS_PER_SECOND": "no"}


@pytest.fixture
def engine(own: Settings) -> Iterator[Engine]:
    with closing_engine(own.postgres_url.get_secret_value()) as engine:
        with engine.begin() as connection:
            connection.execute(
                text(
                    "truncate campaign, campaign_guard, campaign_manifest, chunk, send_call, staged_object,"
                    " provider_rate, provider_rate_flow, suppression, sender, app_user cascade"
                )
            )
            connection.execute(
                text("insert into app_user (id, email, name) overriding system value values (1, 'o', 'O')")
            )
            connection.execute(
                text(
                    "insert into sender (id, owner_id, from_address, from_name) overriding system value"
                    " values (1, 1, 'secret@example.com', 'N')"
                )
            )
        yield engine


def add(engine: Engine, statement: str, **values: object) -> None:
    with engine.begin() as connection:
        connection.execute(text(statement), values)


def add_campaigns(engine: Engine, how_many: int, status: str, age_seconds: float = 0) -> None:
    add(
        engine,
        "insert into campaign (owner_id, sender_id, name, subject_template, html_template, condition, status,"
        " queued_at, started_at, progress_at, finished_at) select 1, 1, 'c', 's', 'h', '{}', :status, at, at, at, at"
        " from (select now() - make_interval(secs => :age_seconds) as at from generate_series(1, :how_many)) as times",
        status=status,
        how_many=how_many,
        age_seconds=age_seconds,
    )


def collector(engine: Engine, settings: Settings, dagster: Any = None) -> PlatformCollector:
    store = S3ObjectStore.from_settings(settings)
    return PlatformCollector(PostgresFigures(engine), store, dagster, VARIABLES, lambda: datetime.now(UTC))


def scrape(one: PlatformCollector) -> Samples:
    return {
        (sample.name.removeprefix("email_platform_"), tuple(sample.labels.values())): sample.value
        for metric in one.collect()
        for sample in metric.samples
    }


@contextmanager
def counted(engine: Engine) -> Iterator[list[str]]:
    seen: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        seen.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    yield seen
    event.remove(engine, "before_cursor_execute", note)


def test_campaigns_are_counted_by_status_with_the_oldest_ages(engine: Engine, own: Settings) -> None:
    add_campaigns(engine, 3, "queued", age_seconds=100)
    add_campaigns(engine, 1, "queued", age_seconds=5000)
    add_campaigns(engine, 2, "sending", age_seconds=700)
    add_campaigns(engine, 4, "paused")
    add_campaigns(engine, 5, "draft")
    add_campaigns(engine, 50, "sent", age_seconds=90_000)
    found = scrape(collector(engine, own))
    statuses = {labels[0]: value for (name, labels), value in found.items() if name == "campaigns"}
    assert statuses == {"queued": 4, "sending": 2, "paused": 4, "draft": 5}
    assert 5000 <= found["oldest_queued_seconds", ()] < 5060
    assert 700 <= found["longest_silence_seconds", ()] < 760
    assert found["up", ()] == 1
    assert not any(value for (name, _), value in found.items() if name == "scrape_failed")


def test_nothing_at_all_shows_as_zero(engine: Engine, own: Settings) -> None:
    found = scrape(collector(engine, own))
    for name in (
        *("oldest_queued_seconds", "longest_silence_seconds", "calls_open", "calls_unknown", "alerts_waiting"),
        *("staged_objects_waiting", "staged_objects_quarantined", "oldest_staged_seconds", "inbox_objects"),
        "oldest_inbox_seconds",
    ):
        assert found[name, ()] == 0, name


def test_a_campaign_with_an_odd_time_is_counted_and_stops_no_figure(engine: Engine, own: Settings) -> None:
    """Rows written before the refusals came hold such times."""
    add_campaigns(engine, 1, "queued", age_seconds=60)
    with engine.begin() as connection:
        connection.execute(text("alter table campaign disable trigger user"))
        for odd in ("infinity", "-infinity", "4000-01-01 BC", "20000-01-01"):
            connection.execute(
                text(
                    "insert into campaign (owner_id, sender_id, name, subject_template, html_template, condition,"
                    " status, queued_at, started_at, progress_at) values (1, 1, 'c', 's', 'h', '{}', 'queued', :odd,"
                    " :odd, :odd), (1, 1, 'c', 's', 'h', '{}', 'sending', :odd, :odd, :odd)"
                ),
                {"odd": odd},
            )
        connection.execute(text("alter table campaign enable trigger user"))
    found = scrape(collector(engine, own))
    assert found["campaigns", ("queued",)] == 5
    assert found["campaigns", ("sending",)] == 4
    assert 60 <= found["oldest_queued_seconds", ()] < 120
    assert found["longest_silence_seconds", ()] == 0
    assert not any(value for (name, _), value in found.items() if name == "scrape_failed")


def test_accounts_show_what_the_rate_limiter_wrote(engine: Engine, own: Settings) -> None:
    rate = AccountRate(recipients_per_second=200, recovery_per_second=0.0001)
    first, second = (PostgresRateLimiter(engine, "ses/main", rate, campaign_id) for campaign_id in (1, 2))
    first.reserve([50, 50, 50, 50, 50, 50, 50, 50])
    second.reserve([50])
    first.throttled(30)
    first.throttled(None)
    found = scrape(collector(engine, own))
    assert found["account_throttles_total", ("ses/main",)] == 2
    assert found["account_active_campaigns", ("ses/main",)] == 2
    assert found["account_limit_per_second", ("ses/main", "recipients")] == 200
    share = found["account_share", ("ses/main",)]
    assert 0.7 <= share <= 1  # the collector knows the default recovery only
    assert found["account_rate_per_second", ("ses/main", "recipients")] == pytest.approx(200 * share)
    assert 0 < found["account_blocked_seconds", ("ses/main",)] <= 30
    assert 0 < found["account_booked_ahead_seconds", ("ses/main",)] <= 3
    assert found["account_rate_unreadable", ("ses/main",)] == 0


def test_a_wrong_rate_of_one_account_hides_no_other_account(engine: Engine, own: Settings) -> None:
    for account in ("ses/odd", "ses/main"):
        PostgresRateLimiter(engine, account, AccountRate(100), 1).reserve([1])
    found = scrape(collector(engine, own))
    assert found["account_rate_unreadable", ("ses/odd",)] == 1
    assert ("account_limit_per_second", ("ses/odd", "calls")) not in found
    assert found["account_limit_per_second", ("ses/main", "recipients")] == 200


def test_no_label_holds_an_address(engine: Engine, own: Settings) -> None:
    PostgresRateLimiter(engine, "ses/billing@customer.example", AccountRate(100), 1).reserve([1])
    found = scrape(collector(engine, own))
    assert ("account_share", (account_label("ses/billing@customer.example"),)) in found
    assert not any("@" in label or "customer" in label for _, labels in found for label in labels)


def test_calls_are_told_apart_by_who_waits_for_them(engine: Engine, own: Settings) -> None:
    add(
        engine,
        "insert into chunk (campaign_id, chunk_index, lease_holder, lease_expires_at) values"
        " (1, 0, 'p', now() + interval '1 hour'), (2, 0, 'p', now() - interval '1 hour'), (3, 0, null, null)",
    )
    add(
        engine,
        "insert into send_call (campaign_id, chunk_index, call_index, call_id, state, first_position, recipient_count,"
        " body_sha256, lease_epoch, intent_at) select campaign, 0, n, gen_random_uuid(), state, 0, 50, '', 1, now()"
        " from (values (1, 'intent', 3), (1, 'accepted', 9), (2, 'intent', 2), (3, 'unknown', 4), (3, 'planned', 7),"
        " (3, 'abandoned', 1)) as wanted (campaign, state, calls),"
        " lateral generate_series(calls * 100, calls * 101 - 1) as n",
    )
    found = scrape(collector(engine, own))
    assert found["calls_open", ()] == 3
    assert found["calls_unknown", ()] == 6


def test_staging_shows_what_waits_and_what_was_set_aside(engine: Engine, own: Settings) -> None:
    add(
        engine,
        "insert into staged_object (key, kind, campaign_id, rows, content_sha256, staged_at, loaded_sha256,"
        " quarantined_reason) values ('a', 'delivery', 1, 1, 'x', now() - interval '200 s', null, null),"
        " ('b', 'delivery', 1, 1, 'x', now() - interval '900 s', null, 'broken'),"
        " ('c', 'delivery', 1, 1, 'x', now() - interval '300 s', 'older', null),"
        " ('d', 'delivery', 1, 1, 'x', now() - interval '999 s', 'x', null)",
    )
    add(
        engine,
        "insert into campaign_guard (campaign_id, accepted, bounced, complained, reason, stopped_at, alerted_at)"
        " values (1, 1, 1, 1, 'r', now(), null), (2, 1, 1, 1, 'r', now(), now())",
    )
    found = scrape(collector(engine, own))
    assert (found["staged_objects_waiting", ()], found["staged_objects_quarantined", ()]) == (2, 1)
    assert 300 <= found["oldest_staged_seconds", ()] < 360
    assert found["alerts_waiting", ()] == 1


def test_the_inbox_is_counted(engine: Engine, own: Settings) -> None:
    store = S3ObjectStore.from_settings(own)
    keys = [f"events/inbox/2026-01-0{day}/r-{day}.parquet" for day in (1, 2)]
    for key in keys:
        store.put(key, b"x")
    later = datetime.now(UTC) + timedelta(seconds=500)
    one = PlatformCollector(PostgresFigures(engine), store, None, {}, lambda: later)
    try:
        found = scrape(one)
    finally:
        for key in keys:
            store.delete(key)
    assert found["inbox_objects", ()] == 2
    assert 490 <= found["oldest_inbox_seconds", ()] < 560


def test_the_statements_of_a_scrape_do_not_grow_with_campaigns_or_accounts(engine: Engine, own: Settings) -> None:
    one = collector(engine, own)
    statements = []
    for size in (1, 1000):
        add_campaigns(engine, size, "queued")
        add_campaigns(engine, size, "sent")
        add(
            engine,
            "insert into provider_rate select 'ses/' || n, now(), now(), now(), 1, now() from generate_series(1, :size)"
            " n on conflict do nothing",
            size=size,
        )
        with counted(engine) as seen:
            scrape(one)
        statements.append(seen)
    assert statements[0] == statements[1]
    assert len(statements[0]) == 10  # five questions, each with its time limit


def test_no_statement_reads_past_campaigns(engine: Engine, own: Settings) -> None:
    """Judged by the plan: at this size PostgreSQL would read the whole table where no index held the open ones."""
    add_campaigns(engine, 20_000, "sent")
    add_campaigns(engine, 10, "queued")
    add(
        engine,
        "insert into staged_object (key, kind, rows, content_sha256, staged_at, loaded_sha256)"
        " select n::text, 'delivery', 1, 'x', now(), 'x' from generate_series(1, 20000) n",
    )
    add(
        engine,
        "insert into send_call (campaign_id, chunk_index, call_index, call_id, state, first_position, recipient_count,"
        " body_sha256, lease_epoch, intent_at) select n, 0, 0, gen_random_uuid(), 'accepted', 0, 50, '', 1, now()"
        " from generate_series(1, 20000) n",
    )
    add(
        engine,
        "insert into campaign_guard (campaign_id, accepted, bounced, complained, reason, stopped_at, alerted_at)"
        " select n, 1, 1, 1, 'r', now(), now() from generate_series(1, 20000) n",
    )
    add(engine, "analyze")
    before = read_rows(engine)
    scrape(collector(engine, own))
    after = read_rows(engine)
    assert {table: after[table] - before[table] for table in after} == dict.fromkeys(after, 0)


def read_rows(engine: Engine) -> dict[str, int]:
    """Rows that were read by scans of whole tables, so far."""
    with engine.begin() as connection:
        connection.execute(text("select pg_stat_force_next_flush()"))
    with engine.begin() as connection:
        rows = connection.execute(
            text(
                "select relname, seq_tup_read from pg_stat_user_tables"
                " where relname in ('campaign', 'staged_object', 'send_call', 'campaign_guard')"
            )
        )
        return {row.relname: row.seq_tup_read for row in rows}


def test_a_database_that_is_away_shows_as_down_and_the_rest_is_there(own: Settings) -> None:
    away = create_oltp_engine("postgresql+psycopg://nobody:hidden@127.0.0.1:1/none")
    found = scrape(collector(away, own))
    assert found["up", ()] == 0
    assert found["part_up", ("postgres",)] == 0
    assert found["part_up", ("s3",)] == 1
    assert found["scrape_failed", ("campaigns",)] == 1
    assert found["inbox_objects", ()] == 0
    assert "oldest_queued_seconds" not in {name for name, _ in found}


def test_a_bucket_that_is_away_takes_only_the_inbox_with_it(engine: Engine, own: Settings) -> None:
    elsewhere = own.model_copy(
        update={"s3_bucket": "no-such-bucket", "s3_secret_access_key": SecretStr("wrong-secret")}
    )
    found = scrape(collector(engine, elsewhere))
    assert (found["up", ()], found["scrape_failed", ("inbox",)]) == (1, 1)
    assert ("inbox_objects", ()) not in found


def test_a_missing_table_is_one_group_s_failure_and_names_no_row(
    engine: Engine, own: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    add(engine, "alter table campaign_guard rename to elsewhere")
    try:
        found = scrape(collector(engine, own))
    finally:
        add(engine, "alter table elsewhere rename to campaign_guard")
    assert found["scrape_failed", ("alerts",)] == 1
    assert (found["up", ()], found["scrape_failed", ("campaigns",)]) == (1, 0)
    assert "the figures of alerts could not be read: ProgrammingError" in caplog.text


@dg.op
def do_nothing() -> None: ...


@dg.job
def reports_job() -> None:
    do_nothing()


@dg.op
def fail() -> None:
    raise dg.Failure("as wanted")


@dg.job
def load_events_job() -> None:
    fail()


def test_jobs_show_their_last_success_and_no_failure(engine: Engine, own: Settings, tmp_path: Path) -> None:
    with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:
        began = datetime.now(UTC).timestamp()
        reports_job.execute_in_process(instance=instance)
        load_events_job.execute_in_process(instance=instance, raise_on_error=False)
        found = scrape(collector(engine, own, lambda: read_dagster_times(instance)))
    assert found["part_up", ("dagster",)] == 1
    assert found["job_last_success_timestamp_seconds", ("reports_job",)] >= began
    assert ("job_last_success_timestamp_seconds", ("load_events_job",)) not in found
    assert 0 <= found["reports_age_seconds", ()] < 60


def test_dagster_away_leaves_the_others(engine: Engine, own: Settings) -> None:
    def away() -> DagsterTimes:
        raise OSError("no storage")

    found = scrape(collector(engine, own, away))
    assert (found["part_up", ("dagster",)], found["up", ()]) == (0, 1)


def test_the_jobs_are_those_of_the_definitions() -> None:
    from email_platform.definitions import defs
    from email_platform.metrics.dagster_times import JOB_NAMES

    assert sorted(JOB_NAMES) == sorted(job.name for job in defs.jobs or ())


def test_a_sensor_s_last_success_is_its_newest_tick_without_an_error(tmp_path: Path) -> None:
    location = InProcessCodeLocationOrigin(LoadableTargetOrigin(executable_path="python"))
    origin = RemoteInstigatorOrigin(RemoteRepositoryOrigin(location, "repository"), "queued_campaigns")
    sensor = InstigatorState(origin, InstigatorType.SENSOR, InstigatorStatus.RUNNING, SensorInstigatorData())
    error = SerializableErrorInfo("as wanted", [], None)
    ticks = ((TickStatus.SUCCESS, 100.0), (TickStatus.SKIPPED, 200.0), (TickStatus.FAILURE, 300.0))
    with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:
        instance.add_instigator_state(sensor)
        for status, moment in ticks:
            instance.create_tick(
                TickData(
                    instigator_origin_id=origin.get_id(),
                    instigator_name="queued_campaigns",
                    instigator_type=InstigatorType.SENSOR,
                    status=status,
                    timestamp=moment,
                    selector_id=sensor.selector_id,
                    run_ids=[] if status is TickStatus.SUCCESS else None,
                    error=error if status is TickStatus.FAILURE else None,
                    skip_reason="nothing" if status is TickStatus.SKIPPED else None,
                )
            )
        assert read_dagster_times(instance).sensors == {"queued_campaigns": 200.0}
