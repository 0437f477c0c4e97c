"""One row that Python or the reports cannot hold, of each kind, beside an ordinary one: everything else goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any, cast

import pyarrow as pa
import pytest
from alembic import command
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import IntegrityError

from email_platform.adapters.assembly import open_oltp, open_parts
from email_platform.adapters.object_store import S3ObjectStore
from email_platform.adapters.postgres.accounts import PostgresAccounts
from email_platform.adapters.postgres.alert_book import PostgresAlertBook
from email_platform.adapters.postgres.alert_facts import PlatformAlertFacts
from email_platform.adapters.postgres.api_keys import PostgresApiKeys
from email_platform.adapters.postgres.api_requests import PostgresApiRequests
from email_platform.adapters.postgres.dimensions import PostgresDimensionSource
from email_platform.adapters.postgres.events import PostgresEventIntake, PostgresSuppressions
from email_platform.adapters.postgres.guard import PostgresGuardRegister
from email_platform.adapters.postgres.ledger_archive import PostgresLedgerArchive
from email_platform.adapters.postgres.leftovers import PostgresLeftovers
from email_platform.adapters.postgres.metrics import PostgresFigures
from email_platform.adapters.postgres.migrate import migration_config, upgrade_to_head
from email_platform.adapters.postgres.pages import PostgresPages
from email_platform.adapters.postgres.segments import PostgresSegments
from email_platform.alerting.rules import Limits
from email_platform.audience.conditions import parse_condition
from email_platform.domain.campaigns import CampaignStatus
from email_platform.domain.manifest import CANDIDATE_SCHEMA
from email_platform.domain.odd_rows import EARLIEST, LATEST, MAX_ATTRIBUTES_BYTES, Unreadable
from email_platform.errors import ConfigurationError, InvalidConditionError
from email_platform.runs.freeze import freeze_audience
from email_platform.runs.launch import due_launches
from email_platform.runs.parts import Parts
from email_platform.settings import Settings
from email_platform.staging.dimensions import DIMENSION_SCHEMAS
from tests.integration.campaign_rows import in_city, numbered, queue_campaign, row_of, seed_leads
from tests.integration.own_databases import closing_engine, own_settings

pytestmark = pytest.mark.integration

TIMES = ("infinity", "-infinity", "20000-01-01T00:00:00Z", "0044-03-15T00:00:00Z BC", "10000-01-01T00:00:00Z")
CAMPAIGN_TIMES = ("scheduled_at", "queued_at", "started_at", "finished_at", "progress_at", "created_at")


def deep(levels: int) -> str:
    """A condition of so many levels; PostgreSQL stores about 6,000 of them."""
    return '{"not": ' * levels + '{"all": []}' + "}" * levels


def many_digits(digits: int) -> str:
    return f'{{"field": "age", "op": "eq", "value": {"9" * digits}}}'


DOCUMENTS = {
    "1,500 levels": deep(1_500),
    "5,000 levels": deep(5_000),
    "65 levels": deep(65),
    "4,301 digits": many_digits(4_301),
    "100,000 digits": many_digits(100_000),
    "an exponent": '{"field": "age", "op": "eq", "value": 1e5000}',
    "a negative one": '{"field": "age", "op": "eq", "value": -1e5000}',
}
PYTHON_REFUSES = [name for name in DOCUMENTS if name != "65 levels"]


@pytest.fixture(scope="module")
def own(settings_of_module: Settings) -> Settings:
    return own_settings(settings_of_module, "odd_rows")


@pytest.fixture(scope="module")
def settings_of_module(stack: Settings) -> Settings:
    return stack


@pytest.fixture(scope="module")
def engine(own: Settings) -> Iterator[Engine]:
    with open_oltp(own) as opened:
        yield opened


@pytest.fixture(scope="module")
def opened_parts(own: Settings) -> Iterator[Parts]:
    with open_parts(own) as opened:
        yield opened


@pytest.fixture
def parts(opened_parts: Parts, engine: Engine) -> Parts:
    with engine.begin() as connection:
        connection.execute(
            text(
                "truncate campaign_guard, lead, suppression, campaign, campaign_manifest, chunk, sender, app_user"
                " cascade"
            )
        )
    return opened_parts


@contextmanager
def without_refusals(engine: Engine) -> Iterator[Connection]:
    """A transaction as before the revision that refuses odd values: the rows that are there from then."""
    with engine.begin() as connection:
        connection.execute(text("set local session_replication_role = replica"))
        yield connection


def spoil(engine: Engine, table: str, column: str, value: str, where: str) -> None:
    with without_refusals(engine) as connection:
        kind = "jsonb" if column in ("condition", "attributes") else "timestamptz"
        connection.execute(
            text(f"update {table} set {column} = cast(:value as {kind}) where {where}"), {"value": value}
        )


# --- campaigns ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("document", PYTHON_REFUSES)
def test_a_campaign_whose_condition_nobody_can_read_is_failed_with_the_reason_and_the_others_are_launched(
    parts: Parts, engine: Engine, document: str
) -> None:
    condition = in_city(seed_leads(engine, numbered(1)))
    first, odd, last = (queue_campaign(engine, condition) for _ in range(3))
    spoil(engine, "campaign", "condition", DOCUMENTS[document], f"id = {odd}")
    due = due_launches(parts)
    assert sorted(launch.campaign_id for launch in due.launches) == [first, last]
    assert [one.row_id for one in due.odd] == [str(odd)]
    row = row_of_unread(engine, odd)
    assert row.status == "failed"
    assert "its condition" in row.status_reason
    assert "then queue the campaign again" in row.status_reason
    assert [launch.campaign_id for launch in due_launches(parts).launches] == [first, last], "it is not looked at again"


@pytest.mark.parametrize("moment", TIMES)
def test_a_campaign_of_a_time_that_nobody_can_have_meant_is_failed_with_the_reason_and_the_others_are_launched(
    parts: Parts, engine: Engine, moment: str
) -> None:
    condition = in_city(seed_leads(engine, numbered(1)))
    first, odd, last = (queue_campaign(engine, condition) for _ in range(3))
    spoil(engine, "campaign", "scheduled_at", moment, f"id = {odd}")
    due = due_launches(parts)
    assert sorted(launch.campaign_id for launch in due.launches) == [first, last]
    row = row_of(engine, odd)
    assert row.status == "failed"
    assert "its scheduled_at is infinite or outside the years 1 to 9999" in row.status_reason
    with engine.begin() as connection:  # the mend that the reason names
        connection.execute(text("update campaign set scheduled_at = null where id = :id"), {"id": odd})
    parts.campaigns.change_status(odd, CampaignStatus.QUEUED)
    assert odd in {launch.campaign_id for launch in due_launches(parts).launches}


def row_of_unread(engine: Engine, campaign_id: int) -> Any:
    with engine.connect() as connection:
        statement = text("select status, status_reason from campaign where id = :id")
        return connection.execute(statement, {"id": campaign_id}).one()


def test_a_condition_that_python_reads_and_the_grammar_refuses_fails_its_own_run_only(
    parts: Parts, engine: Engine
) -> None:
    odd, other = (queue_campaign(engine, in_city("nowhere")) for _ in range(2))
    spoil(engine, "campaign", "condition", DOCUMENTS["65 levels"], f"id = {odd}")
    assert len(due_launches(parts).launches) == 2
    with pytest.raises(InvalidConditionError, match="nested too deeply"):
        freeze_audience(parts, odd)
    freeze_audience(parts, other)
    assert (row_of(engine, odd).status, row_of(engine, other).status) == ("failed", "sending")


def test_a_json_null_as_condition_and_a_provider_that_nobody_knows_fail_their_own_run_only(
    parts: Parts, engine: Engine
) -> None:
    null, nobody_knows = (queue_campaign(engine, in_city("nowhere")) for _ in range(2))
    other = queue_campaign(engine, in_city("nowhere"))
    with engine.begin() as connection:
        connection.execute(text("update campaign set condition = 'null' where id = :id"), {"id": null})
        connection.execute(
            text("update sender set provider = 'pigeon' where id = (select sender_id from campaign where id = :id)"),
            {"id": nobody_knows},
        )
    assert len(due_launches(parts).launches) == 3
    with pytest.raises(InvalidConditionError, match="not null"):
        freeze_audience(parts, null)
    with pytest.raises(ConfigurationError, match="pigeon"):
        freeze_audience(parts, nobody_knows)
    freeze_audience(parts, other)
    assert [row_of(engine, one).status for one in (null, nobody_knows, other)] == ["failed", "failed", "sending"]
    assert "pigeon" in row_of(engine, nobody_knows).status_reason


@pytest.mark.parametrize("moment", TIMES)
def test_a_silent_campaign_is_found_whatever_its_times_are(parts: Parts, engine: Engine, moment: str) -> None:
    for column in CAMPAIGN_TIMES:
        for status in ("sending", "queued"):
            odd = queue_campaign(
                engine,
                in_city("nowhere"),
                status=status,
                launched_attempt=1,
                **dict.fromkeys(CAMPAIGN_TIMES, "2020-01-01"),
            )
            spoil(engine, "campaign", column, moment, f"id = {odd}")
            found = {one.campaign_id: one for one in parts.campaigns.silent(1.0, odd - 1, 10)}
            assert odd in found, (column, status)
            assert (found[odd].problem is None) == (column != "scheduled_at")


# --- every statement that reads many owners' rows -----------------------------------------------------------


def readers(parts: Parts, engine: Engine) -> dict[str, Callable[[], Any]]:
    now = datetime(2026, 3, 1, tzinfo=UTC)
    source, guard = PostgresDimensionSource(engine), PostgresGuardRegister(engine)
    every = [one.campaign_id for one in parts.campaigns.newest(1_000)]
    facts = PlatformAlertFacts(engine, cast(S3ObjectStore, parts.store))
    figures, pages, suppressions = PostgresFigures(engine), PostgresPages(engine), PostgresSuppressions(engine, None)
    segments, archive = PostgresSegments(engine), PostgresLedgerArchive(engine, parts.store)
    return {
        "figures of campaigns": figures.campaigns,
        "figures of accounts": figures.accounts,
        "figures of staging": figures.staging,
        "figures of calls": figures.calls,
        "alerts_waiting": figures.alerts_waiting,
        "page of campaigns": lambda: pages.campaigns(100, None, None, None),
        "page of senders": lambda: pages.senders(100, 0, None),
        "page of users": lambda: pages.users(100, 0, None),
        "page of suppressions": lambda: pages.suppressions(100, None, None, None),
        "users": PostgresAccounts(engine).users,
        "senders": PostgresAccounts(engine).senders,
        "suppressions": lambda: list(suppressions.all()),
        "newest suppressions": lambda: suppressions.newest(100),
        "suppressions of an address": lambda: suppressions.of_address("a@example.com"),
        "suppressed": lambda: suppressions.suppressed(1, [1], ["a@example.com"]),
        "present addresses": lambda: suppressions.present_addresses([1, 2]),
        "segments": segments.all,
        "conditions of segments": segments.conditions,
        "API keys": PostgresApiKeys(engine).all,
        "audit log": lambda: PostgresApiRequests(engine).audit(None, 100),
        "alerts": lambda: PostgresAlertBook(engine).listed(100, with_resolved=True),
        "ledgers to archive": lambda: archive.due(now, 0, 100),
        "ledgers half removed": lambda: archive.half_removed(100),
        "leftovers": lambda: PostgresLeftovers(engine).leftover_rows(now, False),
        "unloaded": parts.register.unloaded,
        "known objects": parts.register.known,
        "quarantined": PostgresEventIntake(engine, None).quarantined,
        "newest": lambda: parts.campaigns.newest(1_000),
        "due": lambda: parts.campaigns.due(100, 100),
        "unsized": lambda: parts.campaigns.unsized(100),
        "silent": lambda: parts.campaigns.silent(1.0, 0, 100),
        "ended_before": lambda: parts.campaigns.ended_before(now, every),
        "last_change_at": parts.register.last_change_at,
        "waiting_objects": lambda: parts.register.waiting_objects(60.0),
        "objects_due": lambda: parts.register.objects_due(60.0),
        "campaigns_with_unknown": parts.ledger.campaigns_with_unknown,
        "watched": guard.watched,
        "unsent_alerts": guard.unsent_alerts,
        "alerts' backlog": lambda: facts.backlog(Limits(), datetime.now(UTC)),
        "oldest_change_after": lambda: facts.oldest_change_after(now),
        "odd_rows": source.odd_rows,
        **{f"snapshot of {name}": partial(source.snapshot, name, now) for name in DIMENSION_SCHEMAS},
    }


OF_OTHER_TABLES = (
    *(("campaign_manifest", "archived_at"), ("campaign_manifest", "ledger_removed_at"), ("segment", "changed_at")),
    *(("staged_object", "staged_at"), ("chunk", "lease_expires_at"), ("chunk", "finished_at")),
    *(("send_call", "intent_at"), ("send_call", "receipt_at"), ("campaign_guard", "alerted_at")),
    *(("provider_rate", "blocked_until"), ("provider_rate", "share_at"), ("provider_rate", "calls_due_at")),
    *(("provider_rate_flow", "due_at"), ("provider_rate_flow", "seen_at"), ("lead_import", "progress_at")),
    *(("api_key", "created_at"), ("api_key", "last_used_at"), ("api_key", "revoked_at"), ("api_audit", "at")),
    *(("alert", "raised_at"), ("alert", "seen_at"), ("alert", "resolved_at"), ("alert_delivery", "due_at")),
)
SPOILED = [
    *(("campaign", column, moment) for column in CAMPAIGN_TIMES for moment in TIMES),
    *(("campaign", "condition", DOCUMENTS[name]) for name in DOCUMENTS),
    *((table, "created_at", moment) for table in ("app_user", "sender", "suppression", "lead") for moment in TIMES),
    *(("lead", "unsubscribed_at", moment) for moment in TIMES),
    *(("lead", "attributes", DOCUMENTS[name]) for name in DOCUMENTS),
    *(("segment", "condition", DOCUMENTS[name]) for name in DOCUMENTS),
    *((table, column, moment) for table, column in OF_OTHER_TABLES for moment in TIMES[:2]),
    *(("campaign_manifest", "frozen_at", moment) for moment in TIMES),
    *(("staged_object", "loaded_at", moment) for moment in TIMES),
    *(("campaign_guard", "stopped_at", moment) for moment in TIMES),
]


def test_no_odd_value_of_any_column_stops_a_statement_that_reads_many_rows(parts: Parts, engine: Engine) -> None:
    tables = {table for table, _, _ in SPOILED}
    with engine.begin() as connection:
        connection.execute(text("truncate staged_object"))
    queued = queue_campaign(engine, in_city("nowhere"))
    sent = queue_campaign(engine, in_city("nowhere"), status="sent", finished_at="2026-01-01", started_at="2026-01-01")
    sending = queue_campaign(engine, in_city("nowhere"), status="sending", progress_at="2020-01-01")
    seed_leads(engine, numbered(2))
    with engine.begin() as connection:
        for statement in (
            "insert into suppression (address, reason, source) values ('a@example.com', 'manual', 'test')",
            "insert into campaign_manifest values"
            f" ({sent}, gen_random_uuid(), 'p', 1, '{{}}', 1, 1, '{{}}', '{{}}', 'hold', now())",
            "insert into staged_object (key, kind, rows, content_sha256, staged_at, loaded_sha256, loaded_at)"
            " values ('k', 'delivery', 1, 'x', now(), 'x', '2026-01-02')",
            f"insert into campaign_guard values ({sent}, 1, 1, 1, 'reason', now(), null)",
            "insert into segment (name, condition) values ('everybody', '{\"all\": []}') on conflict do nothing",
            f"insert into chunk (campaign_id, chunk_index, lease_expires_at) values ({sent}, 0, now())",
            "insert into send_call (campaign_id, chunk_index, call_index, call_id, state, first_position,"
            f" recipient_count, body_sha256, lease_epoch, intent_at)"
            f" values ({sent}, 0, 0, gen_random_uuid(), 'unknown', 0, 1, '', 1, now())",
            "insert into provider_rate values ('p/a', now(), now(), now(), 1, now()) on conflict do nothing",
            f"insert into provider_rate_flow values ('p/a', {sent}, now(), now()) on conflict do nothing",
            "insert into lead_import values ('f', 1, 1, 1) on conflict do nothing",
            "insert into api_key (name, prefix, key_sha256, role) values ('k', 'p', 'x', 'operator')"
            " on conflict do nothing",
            "insert into api_audit (key_id, method, path) select min(id), 'GET', '/' from api_key",
            "insert into alert (kind, subject, occasion, happened, meaning, command, details, raised_at, seen_at)"
            " values ('k', 's', 'o', 'h', 'm', 'c', '{}', now(), now()) on conflict do nothing",
            "insert into alert_delivery (alert_id, target, state, due_at)"
            " select min(id), 't', 'raised', now() from alert on conflict do nothing",
        ):
            connection.execute(text(statement))
    everything = (queued, sent, sending)
    for table, column, value in SPOILED:
        with engine.begin() as connection:
            kept = connection.execute(text(f"select ctid, {column}::text as kept from {table}")).all()
        assert kept, tables
        spoil(engine, table, column, value, "true")
        for name, read in readers(parts, engine).items():
            try:
                found = read()
            except Exception as error:
                raise AssertionError(f"{name} with {table}.{column} = {value[:40]}") from error
            if name == "newest":
                assert sorted(one.campaign_id for one in found) == sorted(everything)
            if name == "snapshot of campaign":
                assert found.column("id").to_pylist() == sorted(everything)
            if name == "last_change_at" and column not in ("loaded_at", "started_at", "finished_at"):
                assert found is not None
                assert found < LATEST
        with without_refusals(engine) as connection:
            kind = "jsonb" if column in ("condition", "attributes") else "timestamptz"
            connection.execute(text(f"update {table} set {column} = cast(:kept as {kind})"), {"kept": kept[0].kept})


def test_a_snapshot_maps_what_the_warehouse_cannot_hold_and_the_rows_are_named(parts: Parts, engine: Engine) -> None:
    campaign_id = queue_campaign(engine, in_city("nowhere"), scheduled_at="1850-01-01T00:00:00Z")
    with engine.begin() as connection:
        connection.execute(
            text("insert into suppression (address, reason, source) values ('a@b.example', 'manual', 't')")
        )
    spoil(engine, "app_user", "created_at", "-infinity", "true")
    spoil(engine, "suppression", "created_at", "infinity", "true")
    source = PostgresDimensionSource(engine)
    at = datetime(2026, 3, 1, tzinfo=UTC)
    (user,) = source.snapshot("app_user", at).to_pylist()
    assert user["created_at"] == datetime(1970, 1, 1, tzinfo=UTC)
    (of_campaign,) = source.snapshot("campaign", at).to_pylist()
    assert (of_campaign["id"], of_campaign["scheduled_at"]) == (campaign_id, None)
    (of_day,) = source.snapshot("suppression", at).to_pylist()
    assert of_day["created_on"] == datetime(1970, 1, 1, tzinfo=UTC).date()
    named = {one.table: one.reason for one in source.odd_rows()}
    assert named.keys() == {"campaign", "app_user", "suppression"}
    assert named["campaign"].startswith("scheduled_at is not within")


def test_a_text_that_no_block_of_csv_holds_is_cut_in_the_snapshot(parts: Parts, engine: Engine) -> None:
    queue_campaign(engine, in_city("nowhere"))
    with engine.begin() as connection:
        connection.execute(text("update campaign set name = repeat('\"', 40000000)"))
    (row,) = PostgresDimensionSource(engine).snapshot("campaign", datetime(2026, 3, 1, tzinfo=UTC)).to_pylist()
    assert set(row["name"]) == {'"'}


# --- leads --------------------------------------------------------------------------------------------------


def test_a_lead_whose_attributes_nobody_can_read_is_excluded_with_that_reason_and_the_others_are_mailed(
    parts: Parts, engine: Engine
) -> None:
    city = seed_leads(engine, numbered(len(DOCUMENTS) + 3))
    with engine.connect() as connection:
        ids = list(connection.execute(text("select id from lead order by id")).scalars())
    big = json.dumps({"note": "x" * MAX_ATTRIBUTES_BYTES})
    for lead_id, document in zip(ids, [*DOCUMENTS.values(), big], strict=False):
        spoil(engine, "lead", "attributes", document, f"id = {lead_id}")
    odd = len(DOCUMENTS) + 1
    with parts.audience.stream(parse_condition(in_city(city)), 1, 3) as batches:
        found = pa.Table.from_batches(batches, schema=CANDIDATE_SCHEMA)
    assert found.column("lead_id").to_pylist() == ids
    assert found.column("reason").to_pylist() == ["unreadable"] * odd + [None, None]
    assert set(found.column("attributes").to_pylist()) == {"{}"}
    campaign_id = queue_campaign(engine, in_city(city), html_template="{{ attributes.note | default('') }}")
    manifest = freeze_audience(parts, campaign_id).manifest
    assert (manifest.eligible_rows, manifest.excluded_by_reason["unreadable"]) == (2, odd)


def test_what_is_read_of_ordinary_values_is_what_was_written(parts: Parts, engine: Engine) -> None:
    at = datetime(2026, 3, 1, 9, 30, 15, 123456, tzinfo=UTC)
    condition = {"all": [{"field": "attributes.ä", "op": "in", "value": [1.5, 10**15]}]}
    found = parts.campaigns.get(queue_campaign(engine, condition, scheduled_at=at))
    assert (found.scheduled_at, found.condition, found.problem) == (at, condition, None)


def test_odd_values_are_read_as_the_nearer_end_and_as_unreadable(engine: Engine) -> None:
    with engine.connect() as connection:
        read = [connection.execute(text(f"select timestamptz '{moment}'")).scalar_one() for moment in TIMES]
        document = connection.execute(text(f"select '{DOCUMENTS['1,500 levels']}'::jsonb")).scalar_one()
    assert read == [LATEST, EARLIEST, LATEST, EARLIEST, LATEST]
    assert isinstance(document, Unreadable)
    assert json.loads(json.dumps(document)) == {"unreadable": document.reason}


# --- on the way in ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("update campaign set scheduled_at = 'infinity'", "campaign.scheduled_at is infinite"),
        ("update app_user set created_at = '-infinity'", "app_user.created_at is infinite"),
        ("update sender set created_at = '20000-01-01'", "sender.created_at is infinite or outside"),
        ("insert into lead (email, created_at) values ('a@b.example', '0044-03-15 BC')", "lead.created_at"),
        ("update lead set unsubscribed_at = 'infinity'", "lead.unsubscribed_at"),
        (
            "insert into suppression (address, reason, source, created_at) values ('a', 'manual', 't', 'infinity')",
            "suppression.created_at",
        ),
        (f"update campaign set condition = '{DOCUMENTS['1,500 levels']}'", "is nested more than 64 levels deep"),
        (f"update lead set attributes = '{DOCUMENTS['4,301 digits']}'", "lead.attributes has a number beyond 1e308"),
        ("update lead set attributes = jsonb_build_object('a', repeat('x', 300000))", "has more than 262144 bytes"),
    ],
)
def test_an_odd_value_is_refused_on_the_way_in_and_the_message_says_which(
    parts: Parts, engine: Engine, statement: str, problem: str
) -> None:
    seed_leads(engine, numbered(1))
    queue_campaign(engine, in_city("nowhere"))
    with pytest.raises(IntegrityError) as caught, engine.begin() as connection:
        connection.exec_driver_sql(statement.replace("%", "%%"))
    assert problem in str(caught.value.orig)


def test_the_deepest_condition_of_the_grammar_is_stored(parts: Parts, engine: Engine) -> None:
    condition: dict[str, Any] = {"field": "city", "op": "in", "value": ["x" * 1_000] * 1_000}
    for _ in range(7):
        condition = {"all": [condition]}
    parse_condition(condition)
    assert parts.campaigns.get(queue_campaign(engine, condition)).condition == condition


def test_an_odd_row_from_before_can_be_stopped_and_opted_out(parts: Parts, engine: Engine) -> None:
    # What a check constraint that is not valid yet would refuse: it looks at the whole new row.
    campaign_id = queue_campaign(engine, in_city("nowhere"), status="sending")
    seed_leads(engine, numbered(1))
    spoil(engine, "campaign", "started_at", "-infinity", "true")
    spoil(engine, "campaign", "condition", DOCUMENTS["1,500 levels"], "true")
    spoil(engine, "lead", "attributes", DOCUMENTS["1,500 levels"], "true")
    parts.campaigns.change_status(campaign_id, CampaignStatus.PAUSED, "by an operator")
    parts.campaigns.change_status(campaign_id, CampaignStatus.QUEUED)
    parts.campaigns.change_status(campaign_id, CampaignStatus.SENDING)
    with engine.begin() as connection:
        connection.execute(text("update lead set unsubscribed_at = now()"))


def test_another_condition_makes_the_estimate_unknown_again(parts: Parts, engine: Engine) -> None:
    campaign_id = queue_campaign(engine, in_city("nowhere"))
    parts.campaigns.note_sizes({campaign_id: 7})
    assert row_of(engine, campaign_id).estimated_rows == 7
    with engine.begin() as connection:
        connection.execute(text("update campaign set name = 'other' where id = :id"), {"id": campaign_id})
    assert row_of(engine, campaign_id).estimated_rows == 7
    with engine.begin() as connection:
        connection.execute(text("update campaign set condition = '{\"all\": []}' where id = :id"), {"id": campaign_id})
    assert row_of(engine, campaign_id).estimated_rows is None


def test_the_migration_goes_over_tables_that_hold_odd_rows_already(stack: Settings) -> None:
    server = stack.postgres_url.get_secret_value()
    with closing_engine(server) as admin, admin.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT")
        connection.execute(text("drop database if exists test_odd_before with (force)"))
        connection.execute(text("create database test_odd_before"))
        url = admin.url.set(database="test_odd_before").render_as_string(hide_password=False)
        with closing_engine(url) as engine:
            with engine.begin() as old:
                command.upgrade(migration_config(old), "0005")
                for statement in (
                    "insert into app_user (email, name, created_at) values ('a@b.example', 'A', '-infinity')",
                    "insert into sender (owner_id, from_address, from_name) values (1, 'a@b.example', 'A')",
                    f"insert into lead (email, attributes) values ('a@b.example', '{DOCUMENTS['1,500 levels']}')",
                    "insert into campaign (owner_id, sender_id, name, subject_template, html_template, condition,"
                    " status, scheduled_at) values"
                    f" (1, 1, 'n', 's', 'h', '{DOCUMENTS['4,301 digits']}', 'queued', 'infinity')",
                ):
                    old.exec_driver_sql(statement)
            upgrade_to_head(url)
            with engine.begin() as new:
                new.execute(text("update campaign set status = 'failed'"))
                new.execute(text("update lead set unsubscribed_at = now()"))
        connection.execute(text("drop database test_odd_before with (force)"))
