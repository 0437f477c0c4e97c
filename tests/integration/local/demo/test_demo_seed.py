"""The demo's data: the same for the same seed, realistic, addressed to nobody, and made for its campaigns."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import count

import pytest
from sqlalchemy import Connection, Engine, distinct, func, make_url, or_, select, text, update

from email_platform.adapters.postgres.condition_sql import where_clause
from email_platform.adapters.postgres.engine import create_oltp_engine
from email_platform.adapters.postgres.migrate import upgrade_to_head
from email_platform.adapters.postgres.tables import app_user, campaign, lead, sender, suppression
from email_platform.audience.conditions import parse_condition
from email_platform.local.demo.campaigns import CAMPAIGN_PLANS
from email_platform.local.demo.leads import DemoSeed, seed_demo
from email_platform.settings import Settings

pytestmark = pytest.mark.integration

LEADS = 12_345
SEED = 7
RESERVED = r"@((.*\.)?example\.(com|org|net)|.*\.(example|test)|simulator\.amazonses\.com|localhost|webmail\.example)$"
_numbers = count()


@pytest.fixture
def empty_engine(settings: Settings) -> Iterator[Engine]:
    """A migrated database of the test's own."""
    url = settings.postgres_url.get_secret_value()
    name = f"test_demo_seed_{next(_numbers)}"
    server = create_oltp_engine(url)
    with server.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(f"drop database if exists {name} with (force)"))
        connection.execute(text(f"create database {name}"))
        own_url = make_url(url).set(database=name).render_as_string(False)
        upgrade_to_head(own_url)
        engine = create_oltp_engine(own_url)
        yield engine
        engine.dispose()
        connection.execute(text(f"drop database {name} with (force)"))
    server.dispose()


@pytest.fixture
def seeded(empty_engine: Engine) -> tuple[Engine, DemoSeed]:
    return empty_engine, seed_demo(empty_engine, LEADS, SEED)


def fingerprint(connection: Connection, first_leads: int = LEADS) -> str:
    columns = [column for column in lead.c if column.name != "id"]
    rows = select(*columns).order_by(lead.c.id).limit(first_leads).subquery()
    whole = select(func.md5(func.string_agg(text("r::text"), "\n"))).select_from(rows.alias("r"))
    return str(connection.execute(whole).scalar_one())


def rows_of(connection: Connection, *conditions: object) -> int:
    return connection.execute(select(func.count()).select_from(lead).where(*conditions)).scalar_one()  # type: ignore[arg-type]


def test_seeding_again_adds_nothing_and_returns_what_is_there(seeded: tuple[Engine, DemoSeed]) -> None:
    engine, first = seeded
    assert (first.leads, first.added_leads) == (LEADS, LEADS)
    again = seed_demo(engine, LEADS, SEED)
    fewer = seed_demo(engine, 10, SEED)
    assert (again.leads, again.added_leads, again.suppressed_addresses) == (LEADS, 0, 0)
    assert again.campaigns == fewer.campaigns == first.campaigns
    with engine.connect() as connection:
        assert rows_of(connection) == LEADS
        assert connection.execute(select(func.count()).select_from(campaign)).scalar_one() == 3
        assert connection.execute(select(func.count()).select_from(app_user)).scalar_one() == 3
        assert connection.execute(select(func.count()).select_from(sender)).scalar_one() == 3


def test_fresh_campaigns_are_queued_only_when_asked_for(seeded: tuple[Engine, DemoSeed]) -> None:
    engine, first = seeded
    interrupted = seed_demo(engine, LEADS, SEED, queue_campaigns=True)
    assert (interrupted.campaigns, interrupted.resumed) == (first.campaigns, True), "those under way go on"
    with engine.begin() as connection:
        for status in ("sending", "sent"):
            connection.execute(update(campaign).values(status=status))
    fresh = seed_demo(engine, LEADS, SEED, queue_campaigns=True)
    assert not fresh.resumed
    assert {one.campaign_id for one in fresh.campaigns}.isdisjoint(one.campaign_id for one in first.campaigns)
    assert seed_demo(engine, LEADS, SEED).campaigns == fresh.campaigns
    assert [(one.owner_id, one.sender_id) for one in fresh.campaigns] == [
        (one.owner_id, one.sender_id) for one in first.campaigns
    ]
    with engine.connect() as connection:
        statuses = connection.execute(
            select(campaign.c.status, campaign.c.queued_at.is_not(None)).order_by(campaign.c.id)
        ).all()
    assert [tuple(row) for row in statuses] == [("sent", True)] * 3 + [("queued", True)] * 3


def test_a_larger_demo_continues_a_smaller_one_with_the_leads_it_would_have_made_at_once(
    seeded: tuple[Engine, DemoSeed],
) -> None:
    engine, _ = seeded
    with engine.begin() as connection:
        at_once = fingerprint(connection)
        connection.execute(text("truncate lead restart identity"))
        connection.execute(suppression.delete())
    progress: list[int] = []
    seed_demo(engine, 4_321, SEED)
    topped_up = seed_demo(engine, LEADS, SEED, on_progress=progress.append)
    assert topped_up.added_leads == LEADS - 4_321 == progress[-1]
    with engine.connect() as connection:
        assert fingerprint(connection) == at_once


def test_another_seed_makes_other_leads_beside_them(seeded: tuple[Engine, DemoSeed]) -> None:
    engine, first = seeded
    other = seed_demo(engine, 500, SEED + 1)
    assert other.added_leads == 500
    assert {one.owner_id for one in other.campaigns}.isdisjoint(one.owner_id for one in first.campaigns)
    with engine.connect() as connection:
        assert rows_of(connection) == LEADS + 500


def test_a_failure_half_way_leaves_nothing_behind(empty_engine: Engine) -> None:
    def fail(made: int) -> None:
        if made > 10_000:
            raise RuntimeError("the demo was stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        seed_demo(empty_engine, LEADS, SEED, on_progress=fail)
    with empty_engine.connect() as connection:
        assert rows_of(connection) == 0
        assert connection.execute(select(func.count()).select_from(app_user)).scalar_one() == 0


def test_the_leads_are_as_varied_and_as_untidy_as_real_ones(seeded: tuple[Engine, DemoSeed]) -> None:
    engine, first = seeded
    folded = func.lower(func.trim(lead.c.email))
    with engine.connect() as connection:
        shares = {
            "invalid": rows_of(
                connection, or_(lead.c.email.is_(None), ~lead.c.email.regexp_match(r"^\s*[^@\s]+@[^@\s]+\s*$"))
            ),
            "duplicate": LEADS - connection.execute(select(func.count(distinct(folded)))).scalar_one(),
            "unsubscribed": rows_of(connection, lead.c.unsubscribed_at.is_not(None)),
            "suppressed": connection.execute(select(func.count()).select_from(suppression)).scalar_one(),
            "simulator": rows_of(connection, lead.c.email.like("%@simulator.amazonses.com")),
            "no first name": rows_of(connection, lead.c.first_name.is_(None)),
        }
        distinct_counts = connection.execute(
            select(*(func.count(distinct(lead.c[name])) for name in ("country", "language", "city", "plan")))
        ).one()
        mailboxes = set(
            connection.execute(
                select(func.split_part(lead.c.email, "+", 1)).where(lead.c.email.like("%@simulator.amazonses.com"))
            ).scalars()
        )
        names = "".join(
            connection.execute(select(lead.c.last_name).distinct().where(lead.c.last_name.is_not(None))).scalars()
        )
    percent = {name: 100 * rows / LEADS for name, rows in shares.items()}
    assert 0.6 < percent["invalid"] < 1.5
    assert 0.5 < percent["duplicate"] < 1.8
    assert 1.5 < percent["unsubscribed"] < 2.5
    assert 0.3 < percent["suppressed"] < 0.7
    assert 0.4 < percent["simulator"] < 1.0
    assert 2.0 < percent["no first name"] < 4.0
    assert shares["suppressed"] == first.suppressed_addresses
    assert distinct_counts[0] >= 15
    assert distinct_counts[1] >= 10
    assert distinct_counts[2] >= 80
    assert distinct_counts[3] == 4
    assert {"bounce", "complaint", "suppressionlist", "ooto", "success"} <= {name.lower() for name in mailboxes}
    assert all(character in names for character in "'üŁכح藤")


def test_no_address_can_belong_to_a_person(seeded: tuple[Engine, DemoSeed]) -> None:
    engine, _ = seeded
    with engine.connect() as connection:
        addresses = connection.execute(select(lead.c.email).where(lead.c.email.regexp_match(r"@\S"))).scalars().all()
    foreign = [address for address in addresses if not re.search(RESERVED, address.strip().lower())]
    assert len(addresses) > LEADS * 0.98
    assert foreign == []


def test_suppressed_addresses_are_folded_and_belong_to_leads(seeded: tuple[Engine, DemoSeed]) -> None:
    engine, _ = seeded
    folded = select(func.lower(func.trim(lead.c.email))).where(lead.c.email.is_not(None))
    with engine.connect() as connection:
        foreign = (
            connection.execute(select(suppression.c.address).where(suppression.c.address.not_in(folded)))
            .scalars()
            .all()
        )
        for_one_sender = connection.execute(select(func.count(suppression.c.sender_id))).scalar_one()
        unfolded = connection.execute(
            select(func.count()).where(suppression.c.address != func.lower(func.trim(suppression.c.address)))
        ).scalar_one()
    assert foreign == []
    assert unfolded == 0
    assert for_one_sender > 0


def test_the_campaigns_select_about_the_shares_they_are_meant_to(seeded: tuple[Engine, DemoSeed]) -> None:
    engine, first = seeded
    with engine.connect() as connection:
        for plan, queued in zip(CAMPAIGN_PLANS, first.campaigns, strict=True):
            stored = connection.execute(
                select(campaign.c.condition, campaign.c.owner_id).where(campaign.c.id == queued.campaign_id)
            ).one()
            share = rows_of(connection, where_clause(parse_condition(stored.condition), lead.c)) / LEADS
            assert 0.7 * plan.size < share < 1.3 * plan.size, plan.name
            assert stored.owner_id == queued.owner_id
    assert len({one.owner_id for one in first.campaigns}) == 3
    assert len({one.sender_id for one in first.campaigns}) == 3
