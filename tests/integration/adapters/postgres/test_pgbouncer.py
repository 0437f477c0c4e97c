"""The platform behind a real PgBouncer in transaction mode, and what breaks there without the setting.

PgBouncer, "Feature list for pooling modes"; psycopg, "Prepared statements". The server's few connections are shared by
many clients, so whatever is left on one of them meets somebody else.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from psycopg.errors import DuplicatePreparedStatement
from pydantic import SecretStr
from sqlalchemy import Engine, insert, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ProgrammingError

from email_platform.adapters.assembly import open_oltp, open_parts, open_warehouse
from email_platform.adapters.postgres.engine import check_connection, create_oltp_engine
from email_platform.adapters.postgres.ledger import PostgresCallLedger
from email_platform.adapters.postgres.migrate import unapplied, upgrade_to_head
from email_platform.adapters.postgres.tables import chunk
from email_platform.adapters.postgres.transactions import oltp_transaction
from email_platform.errors import ConfigurationError, PartUnavailableError
from email_platform.local.provider_simulator import AcceptedLog
from email_platform.runs.finish import finish_sending
from email_platform.runs.freeze import freeze_audience
from email_platform.runs.load import account, load_staged
from email_platform.runs.parts import Parts
from email_platform.runs.send import send_chunk
from email_platform.sending.ledger import CampaignTotals, Lease
from email_platform.settings import Settings
from email_platform.staging.accounting import require_all
from tests.integration.campaign_rows import in_city, numbered, queue_campaign, row_of, seed_leads
from tests.integration.own_databases import own_settings
from tests.integration.pgbouncer_process import PgBouncer, running_pgbouncer

pytestmark = pytest.mark.integration

# While an audience is read in one transaction, its progress is written in others: two campaigns need three.
SERVER_CONNECTIONS = 3
_LIMIT = "select current_setting('idle_in_transaction_session_timeout')"


@pytest.fixture(scope="module")
def own(stack: Settings) -> Settings:
    """A database whose name is not ``pgbouncer``: that one is the pooler's console."""
    return own_settings(stack, "pooled")


@pytest.fixture(scope="module")
def shared(own: Settings) -> Iterator[PgBouncer]:
    with running_pgbouncer(own.postgres_url.get_secret_value(), server_connections=SERVER_CONNECTIONS) as bouncer:
        yield bouncer


@pytest.fixture
def single(own: Settings) -> Iterator[PgBouncer]:
    """All clients have the same connection to the server, one after the other; a second's wait is too long."""
    with running_pgbouncer(own.postgres_url.get_secret_value(), server_connections=1, wait_seconds=1) as bouncer:
        yield bouncer


def behind(bouncer: PgBouncer, settings: Settings) -> Settings:
    """The same database through the pooler, with the setting for it."""
    url = SecretStr(bouncer.url(settings.postgres_url.get_secret_value()))
    return settings.model_copy(update={"postgres_url": url, "postgres_pooler": "transaction"})


@pytest.fixture
def engine(shared: PgBouncer, own: Settings) -> Iterator[Engine]:
    with open_oltp(behind(shared, own)) as opened:
        yield opened


@pytest.fixture
def two(single: PgBouncer, own: Settings, request: pytest.FixtureRequest) -> Iterator[tuple[Engine, Engine]]:
    """Two clients with limits of 30 and 7 s on idle transactions; the parameter is their setting."""
    url, pooler = single.url(own.postgres_url.get_secret_value()), request.param
    engines = create_oltp_engine(url, 30.0, pooler), create_oltp_engine(url, 7.0, pooler)
    yield engines
    for engine in engines:
        engine.dispose()


def ask(engine: Engine, sql: str) -> object:
    """The answer of one statement in a transaction of its own."""
    with engine.begin() as connection:
        return connection.execute(text(sql)).scalar_one()


def send(parts: Parts, campaign_id: int) -> CampaignTotals:
    """Freeze, send every chunk, and finish."""
    manifest = freeze_audience(parts, campaign_id).manifest
    for index in range(manifest.chunk_count):
        send_chunk(parts, campaign_id, index, holder=f"test-{campaign_id}")
    return finish_sending(parts, campaign_id).totals


def test_two_campaigns_at_once_mail_everybody_once_over_shared_connections(
    shared: PgBouncer, own: Settings, engine: Engine
) -> None:
    settings = behind(shared, own)
    recipients = (250, 330)  # in chunks of 100 and calls of at most 50
    campaigns = [queue_campaign(engine, in_city(seed_leads(engine, numbered(rows)))) for rows in recipients]
    with ExitStack() as opened, ThreadPoolExecutor(len(campaigns)) as threads:
        apart = [opened.enter_context(open_parts(settings)) for _ in campaigns]  # as two processes have them
        totals = list(threads.map(send, apart, campaigns))
        assert [one.accepted for one in totals] == list(recipients)
        clients, servers = shared.show("clients"), shared.show("servers")
    assert {row_of(engine, campaign_id).status for campaign_id in campaigns} == {"sent"}
    log = AcceptedLog(Path(settings.state_folder) / "provider")
    for campaign_id, rows in zip(campaigns, recipients, strict=True):
        accepted = log.summary(str(campaign_id))
        assert (accepted.accepted_rows, accepted.distinct_message_ids) == (rows, rows)
    with open_parts(settings) as parts, open_warehouse(settings) as warehouse:
        for campaign_id in campaigns:
            load_staged(parts.register, warehouse, campaign_id)
            require_all(account(parts, warehouse, campaign_id))
    ours = make_url(settings.postgres_url.get_secret_value()).database
    counts = [sum(row["database"] == ours for row in rows) for rows in (clients, servers)]
    assert counts[0] > counts[1] <= SERVER_CONNECTIONS, "no connection was shared"


def test_a_schema_is_made_through_it(own: Settings) -> None:
    assert own.legacy_url is not None
    empty = own.model_copy(update={"postgres_url": own.legacy_url})
    with running_pgbouncer(own.legacy_url.get_secret_value(), server_connections=1) as bouncer:
        settings = behind(bouncer, empty)
        for _ in range(2):
            upgrade_to_head(settings.postgres_url.get_secret_value(), settings)
        with open_oltp(settings) as engine, engine.connect() as connection:
            assert unapplied(connection) == 0


def test_of_many_claimants_exactly_one_takes_the_lease(engine: Engine) -> None:
    campaign_id = queue_campaign(engine, {"all": []}, status="sending")
    with engine.begin() as connection:
        connection.execute(insert(chunk).values(campaign_id=campaign_id, chunk_index=0))
    ledger = PostgresCallLedger(engine, lease_seconds=60)
    start = threading.Barrier(8)

    def claim(number: int) -> Lease | None:
        start.wait()
        return ledger.take_lease(campaign_id, 0, f"holder-{number}")

    with ThreadPoolExecutor(8) as threads:
        assert sum(lease is not None for lease in threads.map(claim, range(8))) == 1


def test_the_server_ends_the_transaction_of_a_holder_that_is_stopped(
    shared: PgBouncer, own: Settings, engine: Engine
) -> None:
    campaign_id = queue_campaign(engine, {"all": []}, status="sending")
    with engine.begin() as connection:
        connection.execute(insert(chunk).values(campaign_id=campaign_id, chunk_index=0))
    settings = behind(shared, own)
    orphans = create_oltp_engine(settings.postgres_url.get_secret_value(), 0.5, settings.postgres_pooler)
    successor = PostgresCallLedger(engine, lease_seconds=60)

    def be_stopped_in_a_turn() -> None:
        with ThreadPoolExecutor(1) as waiting, oltp_transaction(orphans) as connection:
            connection.execute(select(chunk).where(chunk.c.campaign_id == campaign_id).with_for_update())
            taking = waiting.submit(successor.take_lease, campaign_id, 0, "successor")
            assert taking.result(timeout=60) is not None, "the row is still locked"
            connection.execute(text("select 1"))  # the orphan goes on

    with pytest.raises(PartUnavailableError):
        be_stopped_in_a_turn()
    orphans.dispose()


@pytest.mark.parametrize(
    ("two", "limits"),
    [("transaction", ["30s", "7s", "30s"]), ("none", ["30s", "7s", "7s"])],
    indirect=["two"],
)
def test_the_limit_of_a_session_meets_the_next_client_and_that_of_a_transaction_does_not(
    two: tuple[Engine, Engine], limits: list[str]
) -> None:
    first, second = two
    assert [ask(engine, _LIMIT) for engine in (first, second, first)] == limits


def prepared_twice(two: tuple[Engine, Engine]) -> None:
    for name, engine in zip(("first", "second"), two, strict=True):
        for _ in range(7):  # psycopg prepares what was executed five times
            assert ask(engine, f"select '{name}'") == name


@pytest.mark.parametrize("two", ["transaction"], indirect=True)
def test_with_the_setting_nothing_is_prepared(two: tuple[Engine, Engine]) -> None:
    prepared_twice(two)
    assert ask(two[0], "select count(*) from pg_prepared_statements") == 0


@pytest.mark.parametrize("two", ["none"], indirect=True)
def test_without_it_the_second_client_prepares_under_the_first_one_s_name(two: tuple[Engine, Engine]) -> None:
    with pytest.raises(ProgrammingError) as raised:
        prepared_twice(two)
    assert isinstance(raised.value.orig, DuplicatePreparedStatement)


def test_an_audience_is_not_frozen_over_one_connection(single: PgBouncer, own: Settings, engine: Engine) -> None:
    # More than the 100 of a chunk: progress is noted after each one, while the leads are still being read.
    campaign_id = queue_campaign(engine, in_city(seed_leads(engine, numbered(250))))
    with open_parts(behind(single, own)) as parts, pytest.raises(PartUnavailableError):
        send(parts, campaign_id)
    assert row_of(engine, campaign_id).status == "sending"  # nothing was sent; a run may try again
    with open_oltp(own) as direct:
        assert ask(direct, f"select count(*) from chunk where campaign_id = {campaign_id}") == 0


@pytest.mark.parametrize("two", ["transaction"], indirect=True)
def test_that_it_takes_a_connection_is_no_answer_of_the_database(two: tuple[Engine, Engine]) -> None:
    busy, waiting = two
    check_connection(waiting)
    waiting.dispose()  # it connects again, and asks nothing by doing so
    with busy.begin() as connection:
        connection.execute(text("select 1"))  # has the only connection to the server
        with pytest.raises(PartUnavailableError, match="does not answer"):
            check_connection(waiting)


@pytest.mark.parametrize(
    "wrong", [{"password": "elsewhere"}, {"database": "elsewhere"}], ids=lambda one: next(iter(one))
)
def test_what_it_refuses_is_a_wrong_setting(
    shared: PgBouncer, own: Settings, engine: Engine, wrong: dict[str, Any]
) -> None:
    check_connection(engine)
    url = make_url(behind(shared, own).postgres_url.get_secret_value()).set(**wrong)
    refused = create_oltp_engine(url.render_as_string(hide_password=False), pooler="transaction")
    with pytest.raises(ConfigurationError, match="EMAIL_PLATFORM_POSTGRES_URL"):
        check_connection(refused)
    refused.dispose()
