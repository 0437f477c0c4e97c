"""docs/sql_contract.md, by SQL alone: what an application writes is complete, or refused with the reason."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module
from itertools import product
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import IntegrityError, ProgrammingError

from email_platform.adapters.postgres.campaigns import PostgresCampaignStore
from email_platform.adapters.providers import provider_names
from email_platform.domain.campaigns import LEGAL_TRANSITIONS, CampaignStatus
from tests.integration.campaign_rows import queue_campaign, row_of, unique

pytestmark = pytest.mark.integration

MIGRATION = "email_platform.adapters.postgres.migrations.versions.0017_campaign_contract"
PAGE = Path(__file__).parents[4] / "docs" / "sql_contract.md"
REFUSED = "23514"  # check_violation


@pytest.fixture
def connection(oltp_engine: Engine) -> Iterator[Connection]:
    """Nothing is kept."""
    with oltp_engine.connect() as connection:
        yield connection
        connection.rollback()


def draft(connection: Connection) -> int:
    statement = """
        with owner as (insert into app_user (email, name) values (:email, 'Ada') returning id),
        from_whom as (
            insert into sender (owner_id, from_address, from_name) select id, 'news@example.com', 'News' from owner
            returning id, owner_id
        )
        insert into campaign (owner_id, sender_id, name, subject_template, html_template, condition)
        select owner_id, id, 'March', 'Hello', '<p>Hello</p>', '{"all": []}' from from_whom
        returning id
    """
    return connection.execute(text(statement), {"email": f"{unique('owner')}@example.com"}).scalar_one()


def change(connection: Connection, campaign_id: int, values: str) -> None:
    connection.execute(text(f"update campaign set {values} where id = :id"), {"id": campaign_id})


def test_the_database_allows_exactly_what_the_state_machine_allows(connection: Connection) -> None:
    transitions = import_module(MIGRATION).TRANSITIONS
    assert {one: set(wanted) for one, wanted in transitions.items()} == {
        one.value: {each.value for each in wanted} for one, wanted in LEGAL_TRANSITIONS.items()
    }
    campaign_id = draft(connection)
    for current, wanted in product(CampaignStatus, CampaignStatus):
        with connection.begin_nested() as nested:
            # A row that is there with this status, whatever way it took.
            connection.execute(text("alter table campaign disable trigger keep_campaign_contract"))
            change(connection, campaign_id, f"status = '{current}'")
            connection.execute(text("alter table campaign enable trigger keep_campaign_contract"))
            if wanted is current or wanted in LEGAL_TRANSITIONS[current]:
                change(connection, campaign_id, f"status = '{wanted}'")
            else:
                with pytest.raises(IntegrityError) as refused, connection.begin_nested():
                    change(connection, campaign_id, f"status = '{wanted}'")
                assert refused.value.orig.sqlstate == REFUSED
                assert f"cannot go from {current} to {wanted}" in str(refused.value.orig)
                hint = refused.value.orig.diag.message_hint
                assert all(one in hint for one in LEGAL_TRANSITIONS[current]) or "final" in hint
            nested.rollback()


@pytest.mark.parametrize("status", ["'sendign'", "null", "''"])
def test_a_status_that_is_none_is_refused_with_what_is_allowed(connection: Connection, status: str) -> None:
    campaign_id = draft(connection)
    with pytest.raises(IntegrityError) as refused:
        change(connection, campaign_id, f"status = {status}")
    assert "From draft it may go to: queued, cancelled." in str(refused.value.orig.diag.message_hint)


def test_a_campaign_is_created_scheduled_paused_resumed_and_cancelled_by_sql(oltp_engine: Engine) -> None:
    store = PostgresCampaignStore(oltp_engine)
    with oltp_engine.begin() as connection:
        campaign_id = draft(connection)
        change(connection, campaign_id, "status = 'queued', scheduled_at = '2999-01-01'")
    row = row_of(oltp_engine, campaign_id)
    assert (row.status, row.attempt, row.queued_at is not None) == ("queued", 1, True)
    assert campaign_id not in [one.campaign_id for one in store.due(10_000, 10_000)]
    with oltp_engine.begin() as connection:
        change(connection, campaign_id, "scheduled_at = null")
    assert campaign_id in [one.campaign_id for one in store.due(10_000, 10_000)]
    store.note_launched({campaign_id: 1})
    store.change_status(campaign_id, CampaignStatus.SENDING)
    with oltp_engine.begin() as connection:
        change(connection, campaign_id, "status = 'paused', status_reason = 'wrong link'")
    assert store.get(campaign_id).status_reason == "wrong link"
    with oltp_engine.begin() as connection:
        change(connection, campaign_id, "status = 'queued'")
    resumed = row_of(oltp_engine, campaign_id)
    # A new attempt, or the sensor would believe that its run is there already.
    assert (resumed.attempt, resumed.launched_attempt, resumed.status_reason) == (2, 1, None)
    assert campaign_id in [one.campaign_id for one in store.due(10_000, 10_000)]
    with oltp_engine.begin() as connection:
        change(connection, campaign_id, "status = 'cancelled'")
    assert row_of(oltp_engine, campaign_id).finished_at is not None


def test_the_platform_s_own_changes_are_counted_once(oltp_engine: Engine) -> None:
    store = PostgresCampaignStore(oltp_engine)
    campaign_id = queue_campaign(oltp_engine, {"all": []})
    for status in (CampaignStatus.SENDING, CampaignStatus.PAUSED, CampaignStatus.QUEUED, CampaignStatus.CANCELLED):
        store.change_status(campaign_id, status, f"because {status}")
    row = row_of(oltp_engine, campaign_id)
    assert (row.attempt, row.status_reason, row.status) == (2, "because cancelled", "cancelled")


@pytest.mark.parametrize("values", ["attempt = attempt - 1", "version = version - 1"])
def test_attempt_and_version_never_fall(connection: Connection, values: str) -> None:
    campaign_id = draft(connection)
    with pytest.raises(IntegrityError, match="never fall"):
        change(connection, campaign_id, values)


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("update campaign set on_unknown = 'maybe' where id = :id", "on_unknown_known"),
        ("update campaign set sender_id = -1 where id = :id", "fk_campaign_sender_id"),
        ("update campaign set condition = null where id = :id", '"condition"'),
        ("update campaign set scheduled_at = 'infinity' where id = :id", "campaign.scheduled_at is infinite"),
        ("delete from sender where id = (select sender_id from campaign where id = :id)", "fk_campaign_sender_id"),
        ("insert into segment (name, condition) values (' x', '{}') returning :id", "name_known"),
        ("insert into suppression (address, reason, source) values ('a@b.c', 'x', 'y') returning :id", "reason_known"),
    ],
)
def test_a_wrong_row_is_impossible_and_its_reason_is_named(connection: Connection, statement: str, words: str) -> None:
    campaign_id = draft(connection)
    with pytest.raises(IntegrityError) as refused:
        connection.execute(text(statement), {"id": campaign_id})
    assert words in str(refused.value.orig)


def test_the_database_knows_the_providers_that_the_platform_has() -> None:
    migration = import_module("email_platform.adapters.postgres.migrations.versions.0024_rows_by_sql")
    assert sorted(migration.PROVIDERS) == sorted(provider_names())


def test_the_page_s_grants_are_enough_for_an_application_and_give_no_more(connection: Connection) -> None:
    role = unique("app").replace("-", "_")
    connection.execute(text(f"create role {role}"))
    grants = re.findall(r"^grant [^;]+;", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(grants) == 7
    for grant in grants:
        connection.execute(text(re.sub(r" to app;$", f" to {role}", grant)))
    connection.execute(text(f"set local role {role}"))
    campaign_id = draft(connection)
    change(connection, campaign_id, "status = 'queued', scheduled_at = '2999-01-01'")
    change(connection, campaign_id, "status = 'paused', status_reason = 'wrong link'")
    change(connection, campaign_id, "status = 'queued'")
    connection.execute(text("insert into lead (email) values ('a@example.com')"))
    for status in ("sending", "sent", "failed", "paused", "cancelled"):
        with pytest.raises(IntegrityError, match=f"a new campaign cannot be {status}"), connection.begin_nested():
            connection.execute(
                text(
                    "insert into campaign"
                    " (owner_id, sender_id, name, subject_template, html_template, condition, status)"
                    " select owner_id, sender_id, name, subject_template, html_template, condition, :status"
                    " from campaign where id = :id"
                ),
                {"id": campaign_id, "status": status},
            )
    for wrong, words in (
        ("update campaign set condition = '[1]'", "condition is JSON of the kind array"),
        ("update sender set provider = 'pigeon'", "is no provider that is known"),
        ("update sender set from_address = ' '", "from_address is empty"),
    ):
        with pytest.raises(IntegrityError, match=words), connection.begin_nested():
            connection.execute(text(wrong))
    # Whatever form an application gives it, the suppression meets the address.
    mixed = "insert into suppression (address, reason, source) values (:address, 'manual', 'app')"
    connection.execute(text(mixed), {"address": " Ada.Contract@Example.COM\u00a0"})
    stored = text("select count(*) from suppression where address = 'ada.contract@example.com'")
    assert connection.execute(stored).scalar_one() == 1
    with pytest.raises(IntegrityError, match=r"suppression\.address is empty"), connection.begin_nested():
        connection.execute(text(mixed), {"address": " "})
    for statement in (
        "update campaign set attempt = 9",
        "update campaign_manifest set eligible_rows = 0",
        "delete from suppression",
        "delete from campaign",
    ):
        with pytest.raises(ProgrammingError, match="permission denied"), connection.begin_nested():
            connection.execute(text(statement))
