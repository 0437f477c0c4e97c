"""The roles of deploy/roles on the real PostgreSQL: each does its process's work, and is refused everything else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest
from pydantic import SecretStr
from sqlalchemy import Engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ProgrammingError
from typer.testing import CliRunner

from email_platform.adapters.assembly import open_alerts, open_oltp, open_parts, open_store, open_warehouse
from email_platform.adapters.part_checks import check_parts
from email_platform.adapters.postgres.events import PostgresSuppressions
from email_platform.adapters.postgres.manifests import PostgresManifestStore
from email_platform.adapters.postgres.metrics import PostgresFigures
from email_platform.adapters.postgres.roles import ROLES_FOLDER, apply_roles, check_roles, role_files
from email_platform.adapters.postgres.tables import metadata
from email_platform.alerting.watch import look
from email_platform.cli.app import app
from email_platform.domain.storage_layout import event_inbox_key
from email_platform.errors import ConfigurationError
from email_platform.events.received import ReceivedBody, to_parquet
from email_platform.events.suppression import SuppressionRequest
from email_platform.runs.finish import finish_sending
from email_platform.runs.freeze import freeze_audience
from email_platform.runs.load import account, load_staged
from email_platform.runs.send import send_chunk
from email_platform.settings import Settings
from resources.parts import PartsResource
from resources.settings import SettingsResource
from sensors.old_campaign_partitions import old_campaign_partitions
from sensors.queued_campaigns import queued_campaigns
from sensors.silent_campaigns import silent_campaigns
from tests.integration.campaign_rows import in_city, numbered, queue_campaign, seed_leads
from tests.integration.own_databases import own_settings

pytestmark = pytest.mark.integration

PASSWORD = "only-for-this-test"
ROLES = ("application", "lead_reader", "loader", "metrics", "receiver", "reports")


@pytest.fixture(scope="module")
def mine(stack: Settings) -> Iterator[Settings]:
    """A database of its own with the roles in it, and a user for each."""
    settings = own_settings(stack, "roles_apart")
    with open_oltp(settings) as engine:
        assert list(apply_roles(engine)) == [f"email_platform_{role}" for role in ROLES]
        apply_roles(engine)  # safe to repeat
        with engine.begin() as connection:
            for role in ROLES:
                connection.execute(text(f"create user my_{role} password '{PASSWORD}' in role email_platform_{role}"))
        yield settings
        with engine.begin() as connection:  # roles are the server's, which other tests use
            for role in ROLES:
                connection.execute(text(f"drop owned by my_{role}, email_platform_{role}"))
                connection.execute(text(f"drop role my_{role}, email_platform_{role}"))


@pytest.fixture
def owner(mine: Settings) -> Iterator[Engine]:
    with open_oltp(mine) as engine:
        yield engine


def as_user(settings: Settings, role: str) -> Settings:
    url = make_url(settings.postgres_url.get_secret_value()).set(username=f"my_{role}", password=PASSWORD)
    return settings.model_copy(update={"postgres_url": SecretStr(url.render_as_string(hide_password=False))})


@contextmanager
def engine_of(settings: Settings, role: str) -> Iterator[Engine]:
    with open_oltp(as_user(settings, role)) as engine:
        yield engine


def refused(engine: Engine, statement: str) -> bool:
    try:
        with engine.connect() as connection:
            connection.execute(text(statement))
    except ProgrammingError as error:
        return "InsufficientPrivilege" in type(error.orig).__name__
    return False


def test_the_application_sends_and_finishes_a_campaign_and_the_loader_loads_it(mine: Settings, owner: Engine) -> None:
    campaign_id = queue_campaign(owner, in_city(seed_leads(owner, numbered(120))))
    with open_parts(as_user(mine, "application")) as parts:
        manifest = freeze_audience(parts, campaign_id).manifest
        for index in range(manifest.chunk_count):
            send_chunk(parts, campaign_id, index, holder="roles")
        finish_sending(parts, campaign_id)
    loader = as_user(mine, "loader")
    with open_parts(loader) as parts, open_warehouse(loader) as warehouse:
        load_staged(parts.register, warehouse)
        assert all(line.holds for line in account(parts, warehouse, campaign_id))
        assert parts.ledger.totals(campaign_id).accepted == 120


def test_the_receiver_unsubscribes_whoever_a_link_names(mine: Settings, owner: Engine) -> None:
    campaign_id = queue_campaign(owner, in_city(seed_leads(owner, numbered(1))))
    with owner.connect() as connection:
        newest = connection.execute(text("select id, email from lead order by id desc limit 1")).one()
        lead_id, address = int(newest.id), str(newest.email)
        sender_id = connection.scalar(text(f"select sender_id from campaign where id = {campaign_id}"))
    with engine_of(mine, "receiver") as engine:
        request = SuppressionRequest(
            address="", reason="unsubscribe", source="page", everywhere=False, lead_id=lead_id, campaign_id=campaign_id
        )
        assert PostgresSuppressions(engine, None).add([request]) == 1
        assert PostgresManifestStore(engine).find(campaign_id) is None
    with owner.connect() as connection:
        found = connection.execute(text("select sender_id, reason from suppression where address = :a"), {"a": address})
        assert found.all() == [(sender_id, "unsubscribe")]


def test_the_receiver_looks_for_alerts_with_its_own_role(mine: Settings, owner: Engine) -> None:
    campaign_id = queue_campaign(owner, in_city("nowhere"), status="failed", status_reason="the receiver's look")
    with open_alerts(as_user(mine, "receiver")) as parts:
        look(parts, "receiver")
    with owner.connect() as connection:
        rung = connection.execute(text("select subject from alert where resolved_at is null")).scalars().all()
    assert any(str(campaign_id) in subject for subject in rung), rung


def test_the_metrics_are_read_with_their_own_role(mine: Settings) -> None:
    with engine_of(mine, "metrics") as engine:
        figures = PostgresFigures(engine)
        assert figures.campaigns() is not None
        assert figures.staging().quarantined == 0
        assert (figures.alerts_waiting(), figures.calls().unknown) == (0, 0)
        figures.accounts()


def test_a_campaign_goes_on_under_a_second_user_while_the_first_one_is_taken_away(
    mine: Settings, owner: Engine
) -> None:
    """How the database's secret is replaced without a pause: two users with the same role for a time."""
    campaign_id = queue_campaign(owner, in_city(seed_leads(owner, numbered(120))))
    with owner.begin() as connection:
        connection.execute(text(f"create user my_old password '{PASSWORD}' in role email_platform_application"))
    with open_parts(as_user(mine, "old")) as parts:
        freeze_audience(parts, campaign_id)
        send_chunk(parts, campaign_id, 0, holder="old")
        with open_parts(as_user(mine, "application")) as newer:
            send_chunk(newer, campaign_id, 1, holder="new")
    with owner.begin() as connection:
        connection.execute(text("drop role my_old"))
    with open_parts(as_user(mine, "application")) as parts:
        finish_sending(parts, campaign_id)
        assert parts.ledger.totals(campaign_id).accepted == 120


def command(*words: object) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "denied" not in result.output, result.output
    assert result.exit_code == 0, (words, result.output)
    return result.output


def test_dagster_s_jobs_and_sensors_and_the_command_line_work_under_the_application_s_role(
    mine: Settings, owner: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The same code as in production, by settings that name the role's user."""
    from email_platform.definitions import defs

    for name, value in as_user(mine, "application").variables().items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    Path("leads.csv").write_text("email,first_name\nimported@example.com,Ida\n", encoding="utf-8")
    command("lead", "import", "leads.csv")
    command("user", "add", "boss@example.com", "--name", "Boss")
    command("sender", "add", "boss-news@example.com", "--name", "News", "--owner", "boss@example.com")
    sender_id = json.loads(command("sender", "list", "--json"))[-1]["sender_id"]
    content = f"name: A\nsender: {sender_id}\nsubject: Hello\nhtml: <p>Hello</p>\ncondition: {{all: []}}\n"
    Path("it.yaml").write_text(content, encoding="utf-8")
    made = json.loads(command("campaign", "create", "--file", "it.yaml", "--json"))["campaign_id"]
    command("campaign", "edit", made, "--file", "it.yaml", "--version", 1)
    command("campaign", "clone", made)
    for verb in ("plan", "preview", "show", "queue", "pause", "cancel"):
        command("campaign", verb, made)

    campaign_id = queue_campaign(owner, in_city(seed_leads(owner, numbered(60))))
    with owner.connect() as connection:
        find = text("select id, email from lead order by id desc limit 1")
        lead_id, address = connection.execute(find).one()
    with dg.DagsterInstance.ephemeral() as instance:
        settings = SettingsResource()
        resources = {"settings": settings, "parts": PartsResource(settings=settings)}
        for sensor in (queued_campaigns, silent_campaigns, old_campaign_partitions):
            wanted = {name: resources[name] for name in sensor.required_resource_keys}
            with dg.build_sensor_context(instance=instance, resources=wanted, definitions=defs) as context:
                sensor(context)
        instance.add_dynamic_partitions("campaign", [str(campaign_id)])
        sent = defs.resolve_job_def("campaign_job").execute_in_process(
            partition_key=str(campaign_id), instance=instance
        )
        assert sent.success
        now = datetime.now(UTC)
        event = {"event_id": "r", "type": "complained", "recipient": address, "occurred_at": now.isoformat()}
        body = ReceivedBody("simulator", "roles", now, "", json.dumps({"events": [event]}).encode())
        open_store(mine).put(event_inbox_key(now.date(), "roles", 1), to_parquet([body]))
        for job in ("load_events_job", "load_staged_job"):
            assert defs.resolve_job_def(job).execute_in_process(instance=instance).success, job
    with owner.connect() as connection:
        reasons = connection.execute(text("select reason from suppression where address = :a"), {"a": address})
        assert reasons.scalars().all() == ["complaint"]
    assert json.loads(command("campaign", "show", campaign_id, "--json"))["accepted"] == 60
    command("explain", "--campaign", campaign_id, "--lead", lead_id)
    command("explain", "--address", address)
    command("campaign", "list")
    command("campaign", "unknown", campaign_id)
    command("campaign", "retry-rejected", campaign_id)
    command("suppression", "add", "x@example.com")
    command("suppression", "list")
    command("suppression", "remove", "x@example.com")


READS = {
    "application": (
        "select remove_archived_ledger(0, 1)",
        "select remove_leads_of_source('{}')",
        "delete from lead_import where false",
    ),
    "lead_reader": ("select count(*), max(email) from lead", "select * from suppression"),
    "reports": (
        "select id, name, status, estimated_rows from campaign",
        "select campaign_id, eligible_rows, excluded_by_reason from campaign_manifest",
        "select id, name from app_user",
    ),
}
TOO_MUCH = {
    "application": (
        *(f"truncate {table}" for table in metadata.tables),
        *("create table mine (a int)", "drop table lead", "alter table lead add column a int"),
        *("delete from send_call", "delete from lead", "delete from campaign_manifest", "delete from campaign"),
        "update email_platform_alembic_version set version_num = ''",
    ),
    "receiver": (
        "select remove_archived_ledger(1, 1)",
        "select remove_leads_of_source('{1}')",
        *("select attributes from lead", "select first_name from lead", "select html_template from campaign"),
        *("delete from suppression", "update suppression set reason = 'manual'", "select * from send_call"),
        *("update campaign set status = 'queued'", "insert into lead (email) values ('x')", "select * from app_user"),
    ),
    "loader": (
        *("select email from lead", "select address from suppression", "update send_call set state = 'planned'"),
        *("delete from staged_object", "update campaign set status = 'queued'", "insert into suppression select"),
    ),
    "reports": (
        *("select email from lead", "select email from app_user", "select html_template from campaign"),
        *("select condition from campaign", "select content from campaign_manifest", "select * from send_call"),
        *("update campaign set name = 'x'", "delete from staged_object"),
    ),
    "metrics": (
        *("select * from lead", "select name from campaign", "select subject_template from campaign"),
        *("select receipt from send_call", "select * from suppression", "update campaign set status = 'queued'"),
        "delete from provider_rate",
    ),
    "lead_reader": (
        "update lead set email = 'x'",
        "delete from lead",
        "select name from campaign",
        "select * from sender",
    ),
}


@pytest.mark.parametrize("role", ROLES)
def test_a_role_is_refused_what_is_not_its_work(mine: Settings, role: str) -> None:
    with engine_of(mine, role) as engine:
        assert [statement for statement in TOO_MUCH[role] if not refused(engine, statement)] == []
        for statement in READS.get(role, ()):
            assert not refused(engine, statement)


@pytest.mark.parametrize(
    ("table", "columns", "call"),
    [
        ("erasure", "'x' as pseudonym, pg_temp.mine() as address", "erase_leads('x')"),
        ("lead_source_row", "1::bigint as source_key, pg_temp.mine() as problem", "remove_leads_of_source('{1}')"),
        (
            "campaign_manifest",
            "1::bigint as campaign_id, now() as archived_at, pg_temp.mine() as who",
            "remove_archived_ledger(1, 1)",
        ),
    ],
)
def test_a_temporary_view_is_not_taken_for_a_table_by_a_function_with_its_owner_s_rights(
    mine: Settings, table: str, columns: str, call: str
) -> None:
    raises = "begin raise exception ''by %'', current_user; end"
    function = f"create function pg_temp.mine() returns text language plpgsql as '{raises}'"
    view = f"create temporary view {table} as select {columns}"
    with engine_of(mine, "application") as engine, engine.begin() as connection:
        connection.execute(text(function))
        connection.execute(text(view))
        connection.execute(text(f"select {call}"))


def test_every_function_with_its_owner_s_rights_looks_among_temporary_tables_last(owner: Engine) -> None:
    with owner.connect() as connection:
        paths = connection.execute(
            text(
                "select proname, array_to_string(proconfig, ';') from pg_proc "
                "where prosecdef and pronamespace = to_regnamespace(current_schema())"
            )
        ).all()
    assert len(paths) >= 3
    assert [name for name, path in paths if not str(path).endswith(", pg_temp")] == []


def test_doctor_says_which_right_is_missing_and_which_is_too_much(mine: Settings, owner: Engine) -> None:
    def verdict() -> tuple[bool, str]:
        (check,) = [each for each in check_parts(mine, {}) if each.part == "PostgreSQL's roles"]
        return check.fits, check.says

    assert verdict() == (True, "6 of 6 are there, each with the rights of its file")
    with owner.begin() as connection:
        connection.execute(text("revoke insert on suppression from email_platform_receiver"))
        connection.execute(text("grant delete, select on lead to email_platform_reports"))
    fits, says = verdict()
    assert not fits
    assert "email_platform_receiver lacks insert on suppression.address" in says
    assert "email_platform_reports has delete on lead beyond its file" in says
    assert "run `email-platform roles`" in says
    apply_roles(owner)
    assert verdict()[0]
    with owner.begin() as connection:
        connection.execute(text("grant create on schema public to public"))
    fits, says = verdict()
    assert not fits
    assert 'email_platform_loader may create tables: revoke create on schema "public" from public' in says
    apply_roles(owner)  # it can be repeated, but this right is everybody's and no file's
    assert not verdict()[0]
    with owner.begin() as connection:
        connection.execute(text("revoke create on schema public from public"))
    assert verdict()[0]


def test_a_user_who_may_not_grant_gets_a_sentence_where_postgresql_only_warns(mine: Settings, owner: Engine) -> None:
    with owner.begin() as connection:
        connection.execute(text("revoke insert on suppression from email_platform_receiver"))
    with engine_of(mine, "application") as engine, pytest.raises(ConfigurationError, match="owns the tables"):
        apply_roles(engine)
    apply_roles(owner)


def test_every_table_is_named_by_the_application_s_file() -> None:
    (application,) = [file for file in role_files() if file.role == "email_platform_application"]
    assert set(metadata.tables) <= {table for table, _, _ in application.grants}


def test_a_file_with_a_grant_that_cannot_be_checked_is_refused(tmp_path: Path) -> None:
    good = (ROLES_FOLDER / "receiver.sql").read_text()
    for bad in (
        "grant all on lead to email_platform_receiver, x;",
        "grant select on lead\n to email_platform_receiver;",
    ):
        (tmp_path / "a.sql").write_text(f"{good}{bad}\n")
        with pytest.raises(ConfigurationError, match="a line of its own"):
            role_files(tmp_path)


def test_a_system_without_roles_is_none_the_worse(settings: Settings, tmp_path: Path) -> None:
    with open_oltp(settings) as engine, engine.connect() as connection:
        assert check_roles(connection, role_files(tmp_path)) == ([], [])
