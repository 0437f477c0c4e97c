"""Users and senders of somebody else's: a campaign is sent with them, by a user who may only read them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine, make_url, text
from sqlalchemy.exc import IntegrityError
from typer.testing import CliRunner

from email_platform.adapters.assembly import open_parts
from email_platform.adapters.part_checks import check_parts
from email_platform.adapters.postgres.accounts import NewSender, PostgresAccounts
from email_platform.adapters.postgres.api_keys import PostgresApiKeys
from email_platform.adapters.postgres.dimensions import PostgresDimensionSource
from email_platform.adapters.postgres.events import PostgresSuppressions
from email_platform.adapters.postgres.migrate import unapplied, upgrade_to_head
from email_platform.adapters.postgres.pages import PostgresPages
from email_platform.adapters.postgres.people_relations import check_people
from email_platform.cli.app import app
from email_platform.domain.campaigns import CampaignStatus
from email_platform.errors import CampaignStoppedError, CommandRefusedError, ConfigurationError
from email_platform.events.suppression import SuppressionRequest
from email_platform.runs.finish import finish_sending
from email_platform.runs.freeze import freeze_audience
from email_platform.runs.launch import due_launches
from email_platform.runs.send import send_chunk
from email_platform.settings import Settings
from tests.integration.campaign_rows import numbered, seed_leads, unique
from tests.integration.own_databases import closing_engine, own_settings

pytestmark = pytest.mark.integration

THEIRS = """
create schema crm;
create table crm.staff (id integer primary key, email varchar(200), created_at timestamp, password text);
create table crm."From: %" (
    no integer, staff integer, address varchar(200), provider text, created_at timestamptz default now()
);
create view crm.senders as
    select no as id, staff as owner_id, address as from_address, provider, created_at from crm."From: %";
create table crm.wrong (id uuid, email text, created_at text);
insert into crm.staff values (7, 'ann@crm.example', '2026-01-01', 's'), (8, null, '2026-01-02', 's');
insert into crm."From: %" (no, staff, address, provider) values
    (70, 7, 'news@crm.example', 'simulator'), (70, 7, 'news@crm.example', 'simulator'), (null, 7, 'x', 'simulator'),
    (71, null, 'nobody@crm.example', 'simulator'), (72, 7, 'old@crm.example', 'pigeon'), (73, 8, null, null);
"""


@pytest.fixture
def theirs(stack: Settings) -> Iterator[tuple[Settings, Engine]]:
    """Settings whose user owns our tables and may only read theirs, and the owner of theirs."""
    settings = own_settings(stack, unique("people").replace("-", "_"))
    url = make_url(settings.postgres_url.get_secret_value())
    role = str(url.database)
    with closing_engine(url.render_as_string(False)) as owner:
        with owner.begin() as connection:
            connection.exec_driver_sql(THEIRS.replace("%", "%%"))
            connection.exec_driver_sql(
                f"create role {role} login password 'reader'; grant create, usage on schema public to {role};"
                f"grant usage on schema crm to {role}; grant select (id, email, created_at) on crm.staff to {role};"
                f"grant select on crm.senders, crm.wrong to {role};"
                f"grant all on all sequences in schema public to {role};"
                f"create role {role}_reports"
            )
            for (table,) in connection.execute(text("select tablename from pg_tables where schemaname = 'public'")):
                connection.exec_driver_sql(f"alter table public.{table} owner to {role}")
            connection.exec_driver_sql(f"grant select (id, name) on app_user to {role}_reports")
            connection.exec_driver_sql(f"grant select, insert on sender to {role}_reports")
        yield (
            settings.model_copy(
                update={
                    "postgres_url": SecretStr(url.set(username=role, password="reader").render_as_string(False)),
                    "user_relation": "crm.staff",
                    "sender_relation": "crm.senders",
                }
            ),
            owner,
        )
        with owner.begin() as connection:
            for name in (role, f"{role}_reports"):
                connection.exec_driver_sql(f"reassign owned by {name} to current_user; drop owned by {name}")
                connection.exec_driver_sql(f"drop role {name}")


def migrate(settings: Settings) -> None:
    upgrade_to_head(settings.postgres_url.get_secret_value(), settings)


def queue(owner: Engine, sender_id: int, city: str, owner_id: int = 7) -> int:
    with owner.begin() as connection:
        return int(
            connection.execute(
                text(
                    "insert into campaign (owner_id, sender_id, name, subject_template, html_template, condition,"
                    " status, queued_at) values (:owner, :sender, 'Spring', 'Hello', '<p>Hi</p>{{ unsubscribe_url }}',"
                    " jsonb_build_object('field', 'city', 'op', 'eq', 'value', cast(:city as text)), 'queued', now())"
                    " returning id"
                ),
                {"owner": owner_id, "sender": sender_id, "city": city},
            ).scalar_one()
        )


def test_a_campaign_is_sent_with_their_sender_and_odd_ones_fail_alone(theirs: tuple[Settings, Engine]) -> None:
    settings, owner = theirs
    migrate(settings)
    migrate(settings)  # again: nothing is changed
    city = seed_leads(owner, numbered(120))
    good = queue(owner, 70, city)
    missing = [queue(owner, sender_id, city) for sender_id in (71, 73, 999)]
    with owner.begin() as connection:
        connection.exec_driver_sql(
            "insert into crm.\"From: %%\" (no, staff, address, provider) values (74, 7, 'x@crm.example', 'simulator')"
        )
    going = queue(owner, 74, city)
    with open_parts(settings) as parts:
        launched = due_launches(parts)
        assert good in {one.campaign_id for one in launched.launches}
        rows = {one: parts.campaigns.get(one) for one in missing}
        assert {row.status for row in rows.values()} == {CampaignStatus.FAILED}
        assert [str(row.status_reason) for row in rows.values()] == [
            "its sender 71 is not there: add it, or give the campaign another one; then queue the campaign again",
            "its sender 73 has no address: give it one; then queue the campaign again",
            "its sender 999 is not there: add it, or give the campaign another one; then queue the campaign again",
        ]
        manifest = freeze_audience(parts, good).manifest
        assert (manifest.sender.from_address, manifest.sender.from_name) == ("news@crm.example", "news@crm.example")
        with owner.begin() as connection:  # what is frozen goes on
            connection.exec_driver_sql('delete from crm."From: %%"')
        with pytest.raises(CampaignStoppedError):  # launched, and not frozen yet
            freeze_audience(parts, going)
        assert str(parts.campaigns.get(going).status_reason).startswith("its sender 74 is not there")
        for chunk_index in range(manifest.chunk_count):
            send_chunk(parts, good, chunk_index, holder="test")
        assert finish_sending(parts, good).totals.accepted == 120
        assert parts.campaigns.get(good).status is CampaignStatus.SENT


def test_everything_that_lists_people_lists_theirs_and_adding_is_refused(theirs: tuple[Settings, Engine]) -> None:
    settings, _ = theirs
    migrate(settings)
    with closing_engine(settings.postgres_url.get_secret_value()) as engine:
        accounts = PostgresAccounts(engine)
        assert [(one.sender.sender_id, one.owner_email) for one in accounts.senders()] == [
            (70, "ann@crm.example"), (72, "ann@crm.example"), (73, ""),
        ]  # fmt: skip
        assert [(one.user_id, one.email, one.name) for one in accounts.users()] == [
            (7, "ann@crm.example", "ann@crm.example"), (8, "", ""),
        ]  # fmt: skip
        assert accounts.users()[0].created_at == datetime(2026, 1, 1, tzinfo=UTC)
        assert len(PostgresPages(engine).senders(10, 0, 7)) == 2
        assert PostgresApiKeys(engine).add("ann", "owner", "ann@crm.example").secret
        assert len(list(PostgresDimensionSource(engine).snapshot("app_user", datetime.now(UTC)).to_pylist())) == 2
        request = SuppressionRequest("a@crm.example", "manual", "test", everywhere=False, sender_id=70)
        unknown = SuppressionRequest("a@crm.example", "manual", "test", everywhere=False, sender_id=999)
        suppressions = PostgresSuppressions(engine, None)
        assert suppressions.add([request, unknown]) >= 1
        with pytest.raises(CommandRefusedError, match=r"users are in crm\.staff \(EMAIL_PLATFORM_USER_RELATION\)"):
            accounts.add_user("bob@crm.example", "Bob")
        with pytest.raises(CommandRefusedError, match=r"senders are in crm\.senders"):
            accounts.add_sender(NewSender("ann@crm.example", "b@crm.example", "B"))
    (shown,) = [one for one in check_parts(settings, {}) if one.part == "PostgreSQL"]
    assert 'senders in "crm"."senders", which is only read' in shown.says, shown


def test_adopt_check_shows_their_columns_before_anything_is_changed(
    theirs: tuple[Settings, Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, owner = theirs
    wrong = settings.model_copy(update={"user_relation": "crm.wrong"})
    for name, value in wrong.variables().items():
        monkeypatch.setenv(name, value)
    shown = CliRunner().invoke(app, ["adopt", "check", "--json"])
    document = json.loads(shown.output)
    assert (shown.exit_code, document["users"]["usable"], document["senders"]["usable"]) == (1, False, True)
    (provider,) = [one for one in document["senders"]["columns"] if one["name"] == "provider"]
    assert (provider["type"], provider["problem"]) == ("text", None)
    with owner.connect() as connection:
        assert connection.execute(text("select relkind from pg_class where relname = 'sender'")).scalar_one() == "r"


def test_rights_stay_as_they_were_and_nobody_writes_to_theirs(
    theirs: tuple[Settings, Engine],
) -> None:
    settings, owner = theirs
    migrate(settings)
    role = f"{owner.url.database}_reports"
    with owner.connect() as connection:
        for column, expected in {"id": True, "name": True, "email": False}.items():
            found = text("select has_column_privilege(:role, 'app_user', :column, 'select')")
            assert connection.execute(found, {"role": role, "column": column}).scalar_one() is expected
        for right in ("select", "insert"):
            assert connection.execute(text(f"select has_table_privilege('{role}', 'sender', '{right}')")).scalar_one()
    for statement in (
        "insert into sender (id, owner_id, from_address, provider) values (99, 7, 'a@crm.example', 'ses')",
        "update app_user set name = 'x'",
        "delete from sender",
    ):
        with pytest.raises(IntegrityError, match="which is only read"), owner.begin() as connection:
            connection.execute(text(statement))


def test_our_tables_come_back_with_their_rows_and_keys(theirs: tuple[Settings, Engine]) -> None:
    settings, owner = theirs
    ours = settings.model_copy(update={"user_relation": "", "sender_relation": ""})
    with closing_engine(settings.postgres_url.get_secret_value()) as engine:
        user = PostgresAccounts(engine).add_user("own@example.com", "Own")
        migrate(settings)
        campaign_id = queue(owner, 70, "nowhere")
        with pytest.raises(ConfigurationError, match="run `email-platform migrate`"):
            check_people(engine, ours)
        migrate(ours)
        assert PostgresAccounts(engine).users() == [user]
        with engine.connect() as connection:
            assert unapplied(connection) == 0
            keys = text("select count(*) from pg_constraint where contype = 'f' and not convalidated")
            assert connection.execute(keys).scalar_one() == 6
        with open_parts(ours) as parts:
            assert "sender 70 is not there" in str(parts.campaigns.get(campaign_id).problem)
        only_users = settings.model_copy(update={"sender_relation": ""})
        migrate(only_users)
        migrate(ours)


@pytest.mark.parametrize(
    ("relation", "problem"),
    [
        (
            "crm.wrong",
            "column id is uuid, not smallint or integer or bigint: cast it in a view; column created_at",
        ),
        ("crm.nothing", "there is no such table or view"),
        ("crm.senders", "column email is missing"),
        ("a.b.c.d", "PostgreSQL does not look it up"),
        ("; drop table campaign", "there is no such table or view"),
    ],
)
def test_a_relation_that_does_not_fit_is_refused_and_nothing_changes(
    theirs: tuple[Settings, Engine], relation: str, problem: str
) -> None:
    settings, owner = theirs
    with pytest.raises(ConfigurationError) as refused:
        migrate(settings.model_copy(update={"user_relation": relation}))
    assert problem in str(refused.value)
    with owner.connect() as connection:
        kinds = text("select string_agg(relkind::text, '') from pg_class where relname in ('app_user', 'sender')")
        assert connection.execute(kinds).scalar_one() == "rr"
