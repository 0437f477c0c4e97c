"""Leads in somebody else's table or view: read by a user who may only read, in every place that reads leads."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pytest
from pydantic import SecretStr
from sqlalchemy import Connection, Engine, event, make_url, text
from typer.testing import CliRunner, Result

from email_platform.adapters.assembly import open_explain, open_parts
from email_platform.adapters.part_checks import check_parts
from email_platform.adapters.postgres.audience import PostgresAudienceSource
from email_platform.adapters.postgres.engine import create_oltp_engine
from email_platform.adapters.postgres.events import PostgresSuppressions
from email_platform.adapters.postgres.lead_relation import LeadRelation
from email_platform.adapters.postgres.leads_now import PostgresLeadsNow
from email_platform.adapters.postgres.migrate import upgrade_to_head
from email_platform.audience.conditions import parse_condition
from email_platform.cli.app import app
from email_platform.domain.manifest import CANDIDATE_SCHEMA
from email_platform.errors import ConfigurationError, PartUnavailableError
from email_platform.events.suppression import SuppressionRequest
from email_platform.local.provider_simulator import AcceptedLog
from email_platform.runs.explain import explain
from email_platform.runs.finish import finish_sending
from email_platform.runs.freeze import freeze_audience
from email_platform.runs.preview import preview_campaign
from email_platform.runs.send import send_chunk
from email_platform.settings import Settings
from tests.integration.campaign_rows import queue_campaign

pytestmark = pytest.mark.integration

EVERYBODY = {"all": []}
ODD = 'crm."Kunden: 100%"'

_THEIR_TABLES = f"""
create schema crm;
create domain crm.plan_name as varchar(20);
create type crm.tongue as enum ('de', 'fr');
create table {ODD} (
    id integer primary key,
    email varchar(200),
    first_name char(10),
    "plan" crm.plan_name,
    language crm.tongue,
    age integer,
    unsubscribed_at timestamp,
    created_at date,
    "Score: 1" numeric,
    last_order date,
    seen_at timestamp,
    tags text[],
    profile jsonb,
    secret text
);
insert into {ODD} values
    (1, 'ann@crm.example', 'Ann', 'pro', 'de', 40, null, '2026-01-01', 1.5, '2026-03-01', '2026-03-01 09:00', '{{a,b}}',
     '{{"churn": 0.9}}', 's'),
    (2, 'bob@crm.example', null, null, null, null, null, null, null, null, null, null, null, 's'),
    (3, 'out@crm.example', 'Out', 'free', 'fr', 20, '2026-02-01', 'infinity', 'NaN', 'infinity', null, '{{}}', '[]',
     's'),
    (4, 'OUT@crm.example', 'Same', 'free', 'fr', 20, null, null, 2, null, null, null, null, 's'),
    (5, null, 'Nobody', null, null, null, null, null, null, null, null, null, null, 's');
create view crm.people as
    select id::bigint as id, email::text as email, first_name, "plan"::text as "plan" from {ODD} where id < 3;
create view crm.doubled as select people.id, people.email from crm.people, generate_series(1, 2);
create table crm.wrong (id uuid, email integer, age bigint, attributes json, created_at text);
create table crm.large (
    id bigint primary key, email text, city varchar(40), unsubscribed_at timestamptz, attributes jsonb
);
insert into crm.large select n, 'l' || n || '@crm.example', 'city ' || n % 5000, null,
    jsonb_build_object('code', 'c' || n, 'score', n, 'tags', array['t' || n % 500]) from generate_series(1, 20000) as n;
analyze crm.large;
"""


@pytest.fixture(scope="module")
def their(stack: Settings) -> Iterator[Settings]:
    """A database with their tables, where our user may write our tables and read theirs, but for one column."""
    name = f"test_adopt_{uuid4().hex[:8]}"
    url = make_url(stack.postgres_url.get_secret_value())
    server = create_oltp_engine(url.render_as_string(False))
    with server.connect().execution_options(isolation_level="AUTOCOMMIT") as admin:
        admin.execute(text(f"create database {name}"))
        owned = url.set(database=name)
        upgrade_to_head(owned.render_as_string(False))
        owner = create_oltp_engine(owned.render_as_string(False))
        try:
            with owner.begin() as connection:
                connection.exec_driver_sql(_THEIR_TABLES.replace("%", "%%"))
                columns = 'id, email, first_name, "plan", language, age, unsubscribed_at, created_at, "Score: 1"'
                for statement in (
                    f"create role {name} login password 'reader'",
                    f"grant all on all tables in schema public to {name}",
                    f"grant all on all sequences in schema public to {name}",
                    f"grant usage on schema crm to {name}",
                    f"grant select on crm.people, crm.doubled, crm.wrong, crm.large to {name}",
                    f"grant select ({columns}, last_order, seen_at, tags, profile) on {ODD} to {name}",
                ):
                    connection.exec_driver_sql(statement.replace("%", "%%"))
            ours = owned.set(username=name, password="reader").render_as_string(False)
            yield stack.model_copy(update={"postgres_url": SecretStr(ours)})
        finally:
            owner.dispose()
            admin.execute(text(f"drop database {name} with (force)"))
            admin.execute(text(f"drop role {name}"))
    server.dispose()


@pytest.fixture(scope="module")
def engine(their: Settings) -> Iterator[Engine]:
    engine = create_oltp_engine(their.postgres_url.get_secret_value())
    yield engine
    engine.dispose()


@pytest.fixture(scope="module")
def owner(their: Settings, stack: Settings) -> Iterator[Engine]:
    """Of their tables."""
    url = make_url(stack.postgres_url.get_secret_value())
    engine = create_oltp_engine(
        url.set(database=make_url(their.postgres_url.get_secret_value()).database).render_as_string(False)
    )
    yield engine
    engine.dispose()


def rows_of(engine: Engine, leads: LeadRelation, raw: object = EVERYBODY) -> list[dict[str, Any]]:
    with PostgresAudienceSource(engine, None, leads).stream(parse_condition(raw), 1, 2) as batches:
        return pa.Table.from_batches(batches, schema=CANDIDATE_SCHEMA).to_pylist()


def ids(engine: Engine, leads: LeadRelation, raw: object) -> list[int]:
    return [row["lead_id"] for row in rows_of(engine, leads, raw)]


ODD_LEADS = LeadRelation(ODD, ["Score: 1", "last_order", "seen_at", "tags", "profile.*"])


def test_a_table_with_odd_columns_is_read_by_a_user_who_may_only_read(engine: Engine) -> None:
    rows = rows_of(engine, ODD_LEADS)
    assert [(row["lead_id"], row["reason"]) for row in rows] == [
        (1, None),
        (2, None),
        (3, "unsubscribed"),
        (4, "unsubscribed"),
        (5, "invalid_address"),
    ]
    ann, bob = rows[0], rows[1]
    assert {name: ann[name] for name in ("email", "first_name", "plan", "language", "age", "country", "city")} == {
        "email": "ann@crm.example",
        "first_name": "Ann",
        "plan": "pro",
        "language": "de",
        "age": 40,
        "country": None,
        "city": None,
    }
    assert json.loads(ann["attributes"]) == {
        "churn": 0.9,
        "Score: 1": 1.5,
        "last_order": "2026-03-01T00:00:00+00:00",
        "seen_at": "2026-03-01T09:00:00+00:00",
        "tags": ["a", "b"],
    }
    assert json.loads(bob["attributes"])["tags"] is None
    with pytest.raises(Exception, match="permission denied"), engine.begin() as connection:
        connection.exec_driver_sql("update crm.large set city = 'x'")


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ({"field": "plan", "op": "starts_with", "value": "pr"}, [1]),
        ({"field": "language", "op": "in", "value": ["fr"]}, [3, 4]),
        ({"field": "age", "op": "gt", "value": 30}, [1]),
        ({"field": "country", "op": "is_null", "value": True}, [1, 2, 3, 4, 5]),
        ({"field": "created_at", "op": "lt", "value": "2026-01-01T00:00:01Z"}, [1]),
        ({"field": "unsubscribed_at", "op": "is_null", "value": False}, [3]),
        ({"field": "attributes.churn", "op": "gte", "value": 0.9}, [1]),
        ({"field": "attributes.tags", "type": "list", "op": "contains", "value": "b"}, [1]),
        ({"not": {"field": "attributes.tags", "type": "list", "op": "contains", "value": "b"}}, [2, 3, 4, 5]),
        (
            {"field": "attributes.last_order", "type": "timestamp", "op": "gte", "value": "2026-03-01T00:00:00Z"},
            [1],
        ),
    ],
)
def test_conditions_choose_among_their_rows(engine: Engine, condition: object, expected: list[int]) -> None:
    assert ids(engine, ODD_LEADS, {"all": [condition]}) == expected
    source = PostgresAudienceSource(engine, None, ODD_LEADS)
    assert source.count_rows({"all": [condition]}, 100, 10) == len(expected)
    assert source.estimate_rows({"all": [condition]}) >= 0


def test_opt_outs_and_addresses_come_from_their_rows(engine: Engine) -> None:
    suppressions = PostgresSuppressions(engine, None, ODD_LEADS)
    assert dict(suppressions.suppressed(1, [1, 3, 4], ["ann@crm.example", "x@crm.example", "out@CRM.example"])) == {
        3: "unsubscribe",
        4: "unsubscribe",
    }
    assert suppressions.present_addresses([1, 5, 99]) == {1: "ann@crm.example"}
    assert suppressions.add([SuppressionRequest("", "complaint", "test", lead_id=2, everywhere=True)]) == 1
    assert [one.reason for one in suppressions.of_address("bob@crm.example")] == ["complaint"]
    assert suppressions.remove("bob@crm.example", None)
    # A view without `unsubscribed_at`: nobody opted out there.
    assert not PostgresSuppressions(engine, None, LeadRelation("crm.people")).suppressed(1, [1], ["ann@crm.example"])


def test_one_lead_is_asked_and_found_by_address(engine: Engine) -> None:
    leads = PostgresLeadsNow(engine, ODD_LEADS)
    condition = parse_condition({"any": [{"field": "attributes.churn", "op": "lt", "value": 0.5}]})
    found = leads.lead(1, [condition.parts[0]])  # type: ignore[union-attr, list-item]
    assert (found.address, found.answers[0].holds, found.answers[0].value) == ("ann@crm.example", False, "0.9")
    assert found.created_at == datetime(2026, 1, 1, tzinfo=UTC)
    assert leads.lead(3, []).created_at is None  # infinity
    assert [one.lead_id for one in leads.with_address("out@crm.example", 5)] == [3, 4]
    assert leads.mailable_row(2).to_pylist()[0]["email"] == "bob@crm.example"


def test_preview_and_explain_read_the_view_that_the_settings_name(their: Settings, engine: Engine) -> None:
    settings = their.model_copy(update={"lead_relation": "crm.people"})
    campaign_id = queue_campaign(engine, {"all": [{"field": "plan", "op": "eq", "value": "pro"}]})
    with open_parts(settings) as parts:
        preview = preview_campaign(parts, campaign_id)
    assert (preview.manifest.eligible_rows, preview.samples[0].lead_id) == (1, 1)
    with open_explain(settings) as parts:
        assert "ann@crm.example" not in explain(parts, campaign_id, 1).summary
        left_out = explain(parts, campaign_id, 2)
        assert "plan is 'pro'" in " ".join([left_out.summary, *(fact.text for fact in left_out.facts)])


def test_a_campaign_is_sent_to_their_leads_and_an_opt_out_in_their_table_counts_until_the_call(
    their: Settings, engine: Engine, owner: Engine
) -> None:
    settings = their.model_copy(update={"lead_relation": "crm.large"})
    with owner.begin() as connection:  # an id that no other test's campaign has at the shared provider
        connection.execute(text("alter table campaign alter column id restart with 900000001"))
    campaign_id = queue_campaign(
        engine,
        {"all": [{"field": "city", "op": "eq", "value": "city 42"}]},
        subject_template="Hello",
        html_template="<p>{{ attributes.code }}</p><a href='{{ unsubscribe_url }}'>unsubscribe</a>",
    )
    with open_parts(settings) as parts:
        manifest = freeze_audience(parts, campaign_id).manifest
        assert (manifest.eligible_rows, manifest.chunk_count) == (4, 1)
        with owner.begin() as connection:
            connection.execute(text("update crm.large set unsubscribed_at = now() where id = 5042"))
        send_chunk(parts, campaign_id, 0, holder="test")
        totals = finish_sending(parts, campaign_id).totals
    assert (totals.accepted, totals.rejected) == (3, 1)
    accepted = AcceptedLog(Path(settings.state_folder) / "provider").summary(str(campaign_id))
    assert (accepted.accepted_rows, accepted.distinct_message_ids) == (3, 3)
    with open_explain(settings) as parts:
        assert "suppressed" in explain(parts, campaign_id, 5042).summary
        assert explain(parts, campaign_id, 42).verdict == "accepted"


def test_a_connection_that_is_dropped_while_looking_says_nothing_about_the_relation(
    engine: Engine, owner: Engine
) -> None:
    dropped = create_oltp_engine(engine.url.render_as_string(hide_password=False))

    @event.listens_for(dropped, "before_cursor_execute")
    def drop(connection: Connection, cursor: Any, statement: str, *_: object) -> None:
        if "to_regclass" in statement:
            with owner.begin() as other:
                pid = connection.connection.driver_connection.info.backend_pid  # type: ignore[union-attr]
                assert other.execute(text("select pg_terminate_backend(:pid, 5000)"), {"pid": pid}).scalar_one()

    with pytest.raises(PartUnavailableError, match="did not answer"):
        LeadRelation("crm.people").look_up(dropped)
    dropped.dispose()


def test_a_view_with_an_id_twice_is_refused_before_anybody_is_mailed(engine: Engine) -> None:
    with pytest.raises(ConfigurationError, match="has lead 1 more than once"):
        rows_of(engine, LeadRelation("crm.doubled"))


@pytest.mark.parametrize(
    ("relation", "attributes", "problem"),
    [
        ("crm.nothing", [], "there is no such table or view"),
        ("a b c", [], "there is no such table or view"),
        ("pg_toast.x.y.z", [], "does not look it up"),
        ("crm.wrong", [], "column id is uuid, not smallint or integer or bigint"),
        ("crm.wrong", [], "column email is integer, not text"),
        ("crm.wrong", [], "column age is bigint, not smallint or integer"),
        ("crm.wrong", [], "column attributes is json, not jsonb"),
        ("crm.wrong", [], "column created_at is text, not timestamp with time zone or timestamp or date"),
        ("public.staged_object", [], "column id is missing"),
        ("crm.people", ["x"], "column x, named in EMAIL_PLATFORM_LEAD_ATTRIBUTES, is missing"),
        ("crm.people", ["plan.*"], "column plan is text, not jsonb"),
        (ODD, ["secret"], "column secret may not be read: grant select"),
    ],
)
def test_what_is_wrong_is_named(engine: Engine, relation: str, attributes: list[str], problem: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        rows_of(engine, LeadRelation(relation, attributes))
    assert problem in str(refused.value)


# The command.


@pytest.fixture
def variables(their: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in their.variables().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.usefixtures("variables")
def test_the_check_names_columns_ids_and_audience(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert "set EMAIL_PLATFORM_LEAD_RELATION" in run("adopt", "check").stderr
    monkeypatch.setenv("EMAIL_PLATFORM_LEAD_RELATION", "crm.wrong")
    wrong = run("adopt", "check")
    assert wrong.exit_code == 1
    assert "column age is bigint" in wrong.stdout
    monkeypatch.setenv("EMAIL_PLATFORM_LEAD_RELATION", "crm.doubled")
    doubled = json.loads(run("adopt", "check", "--json").stdout)
    assert (doubled["usable"], doubled["rows_with_an_id_of_another"], doubled["rows_without_id"]) == (False, 2, 0)
    monkeypatch.setenv("EMAIL_PLATFORM_LEAD_RELATION", ODD)
    monkeypatch.setenv("EMAIL_PLATFORM_LEAD_ATTRIBUTES", "tags, last_order")
    condition = tmp_path / "condition.json"
    condition.write_text(json.dumps({"all": [{"field": "age", "op": "gt", "value": 30}]}))
    found = json.loads(run("adopt", "check", "--condition", condition, "--json").stdout)
    assert (found["usable"], found["counted_rows"]) == (True, 1)
    assert {one["name"]: one["used_for"] for one in found["columns"]}["tags"] == "attributes.tags"
    shown = run("adopt", "check", "--condition", condition)
    assert (shown.exit_code, "not there, not needed" in shown.stdout, "counted: 1" in shown.stdout) == (0, True, True)
    refused = run("lead", "import", condition)
    assert "is only read" in refused.stderr


@pytest.mark.usefixtures("variables")
def test_the_index_that_is_proposed_is_one_that_postgresql_then_uses(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, owner: Engine
) -> None:
    monkeypatch.setenv("EMAIL_PLATFORM_LEAD_RELATION", "crm.large")
    condition = tmp_path / "condition.json"

    def asked(*comparisons: object) -> list[dict[str, Any]]:
        condition.write_text(json.dumps({"all": list(comparisons)}))
        return json.loads(run("adopt", "check", "--condition", condition, "--json").stdout)["indexes"]

    comparisons: list[dict[str, Any]] = [
        {"field": "city", "op": "eq", "value": "city 7"},
        {"field": "city", "op": "starts_with", "value": "city 77"},
        {"field": "attributes.code", "op": "in", "value": ["c1", "c2"]},
        {"field": "attributes.score", "op": "eq", "value": 3},
        {"field": "attributes.tags", "type": "list", "op": "contains", "value": "t7"},
    ]
    for one in comparisons:
        by_id, opted_out, advice = asked(one)
        assert by_id["served"]
        assert not advice["served"]
        with owner.begin() as connection:
            connection.exec_driver_sql(advice["proposal"].replace(" concurrently on", " advised on").replace("%", "%%"))
            connection.exec_driver_sql("analyze crm.large")
        assert asked(one)[2]["served"], advice["proposal"]
        with owner.begin() as connection:
            if not opted_out["served"]:
                connection.exec_driver_sql(opted_out["proposal"].replace(" concurrently", ""))
            connection.exec_driver_sql("drop index crm.advised")
    assert asked(comparisons[0])[1]["served"]
    # One that nearly everybody meets, and one that no ordinary index helps.
    assert asked({"field": "attributes.score", "op": "gt", "value": 1})[2]["proposal"] is None
    assert asked({"field": "city", "op": "contains", "value": "7"})[2]["proposal"] is None


def test_doctor_says_where_leads_are(their: Settings) -> None:
    def leads_check(**changes: str) -> tuple[bool, str]:
        checks = check_parts(their.model_copy(update=changes), {})
        return next((one.fits, one.says) for one in checks if one.part == "leads")

    fits, says = leads_check(lead_relation="crm.people")
    assert fits
    assert '"crm"."people"' in says
    assert leads_check(lead_relation="crm.wrong")[0] is False
