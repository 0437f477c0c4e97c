"""A campaign's run on the real engines, step by step: what is sent, what is known, and what a second run does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine, delete, insert, select, update

from email_platform.accounting import require_all
from email_platform.adapters.assembly import open_oltp, open_parts, open_warehouse
from email_platform.adapters.clickhouse.warehouse import ClickHouseWarehouse
from email_platform.adapters.postgres.tables import app_user, campaign, lead, sender, suppression
from email_platform.campaign_run import Parts, account, finish_sending, freeze_audience, load_staged, send_chunk
from email_platform.campaigns import CampaignStatus
from email_platform.embedded.provider_simulator import AcceptedLog
from email_platform.errors import (
    AccountingError,
    AccountRefusedError,
    CampaignNotFoundError,
    CampaignStoppedError,
    ConfigurationError,
    InvalidConditionError,
    InvalidTemplateError,
)
from email_platform.settings import Settings

pytestmark = pytest.mark.integration

_numbers = count(1)


@pytest.fixture
def small(settings: Settings) -> Settings:
    return settings.model_copy(update={"chunk_rows": 100, "provider_connections": 4})


@pytest.fixture
def parts(small: Settings) -> Iterator[Parts]:
    with open_parts(small) as opened:
        yield opened


@pytest.fixture
def engine(small: Settings) -> Iterator[Engine]:
    with open_oltp(small) as opened:
        yield opened


@pytest.fixture
def warehouse(small: Settings) -> Iterator[ClickHouseWarehouse]:
    with open_warehouse(small) as opened:
        yield opened


@pytest.fixture
def accepted(small: Settings) -> AcceptedLog:
    return AcceptedLog(Path(small.state_folder) / "provider")


def seed_leads(engine: Engine, rows: list[dict[str, Any]]) -> str:
    """Leads under a city of their own, so that each test's condition finds only its own; returns the city."""
    city = f"city-{next(_numbers)}-{id(engine)}"
    with engine.begin() as connection:
        connection.execute(insert(lead), [{"city": city, "first_name": "Ada", **row} for row in rows])
    return city


def numbered(how_many: int, city_tag: str) -> list[dict[str, Any]]:
    return [{"email": f"lead-{number}-{city_tag}@example.com"} for number in range(how_many)]


def queue_campaign(engine: Engine, condition: object, **values: Any) -> int:
    number = next(_numbers)
    with engine.begin() as connection:
        owner = connection.execute(
            insert(app_user).values(email=f"user-{number}-{id(engine)}@example.com", name="U").returning(app_user.c.id)
        ).scalar_one()
        sender_id = connection.execute(
            insert(sender)
            .values(owner_id=owner, from_address="news@example.com", from_name="News", **values.pop("sender", {}))
            .returning(sender.c.id)
        ).scalar_one()
        return connection.execute(
            insert(campaign)
            .values(
                {
                    "owner_id": owner,
                    "sender_id": sender_id,
                    "name": f"Campaign {number}",
                    "subject_template": "Hello {{ first_name }}",
                    "html_template": "<p>Hello {{ first_name }}</p><a href='{{ unsubscribe_url }}'>unsubscribe</a>",
                    "condition": condition,
                    "status": "queued",
                    **values,
                }
            )
            .returning(campaign.c.id)
        ).scalar_one()


def in_city(city: str) -> dict[str, Any]:
    return {"all": [{"field": "city", "op": "eq", "value": city}]}


def send_all(parts: Parts, campaign_id: int) -> int:
    """Freeze and send every chunk; returns the calls made now."""
    manifest = freeze_audience(parts, campaign_id).manifest
    reports = [
        send_chunk(parts, campaign_id, index, holder=f"test-{next(_numbers)}") for index in range(manifest.chunk_count)
    ]
    return sum(report.progress.sent_calls for report in reports)


def row_of(engine: Engine, campaign_id: int) -> Any:
    with engine.connect() as connection:
        return connection.execute(select(campaign).where(campaign.c.id == campaign_id)).one()


def test_a_campaign_goes_from_queued_to_the_warehouse_and_every_count_agrees(
    parts: Parts, engine: Engine, warehouse: ClickHouseWarehouse, accepted: AcceptedLog
) -> None:
    tag = f"t{next(_numbers)}"
    rows = numbered(230, tag)
    rows += [
        {"email": "no-at-sign"},
        {"email": None},
        {"email": f"LEAD-0-{tag}@Example.com"},
        {"email": f"gone-{tag}@example.com", "unsubscribed_at": "2026-01-01T00:00:00Z"},
        {"email": f"suppressed-{tag}@example.com"},
    ]
    city = seed_leads(engine, [{"unsubscribed_at": None, **row} for row in rows])
    with engine.begin() as connection:
        connection.execute(
            insert(suppression).values(address=f"suppressed-{tag}@example.com", reason="manual", source="test")
        )
    campaign_id = queue_campaign(engine, in_city(city))

    assert send_all(parts, campaign_id) == 5  # 230 recipients in chunks of 100 and calls of at most 50
    summary = finish_sending(parts, campaign_id)
    assert summary.manifest.excluded_by_reason == {
        "suppressed": 1,
        "unsubscribed": 1,
        "invalid_address": 2,
        "duplicate_address": 1,
    }
    assert summary.totals.accepted == 230
    assert row_of(engine, campaign_id).status == "sent"

    report = load_staged(parts.register, warehouse, campaign_id)
    assert (report.objects, report.quarantined) == (4, {})  # three chunks and the exclusions
    require_all(account(parts, warehouse, campaign_id))
    log = accepted.summary(str(campaign_id))
    assert (log.accepted_rows, log.distinct_message_ids) == (230, 230)


def test_a_second_run_of_a_sent_campaign_sends_nothing_and_changes_nothing(
    parts: Parts, engine: Engine, warehouse: ClickHouseWarehouse, accepted: AcceptedLog
) -> None:
    city = seed_leads(engine, numbered(120, f"again{next(_numbers)}"))
    campaign_id = queue_campaign(engine, in_city(city))
    send_all(parts, campaign_id)
    finish_sending(parts, campaign_id)
    load_staged(parts.register, warehouse, campaign_id)
    before = row_of(engine, campaign_id)
    seed = [{"email": "late@example.com", "city": city}]
    with engine.begin() as connection:
        connection.execute(insert(lead), seed)  # a lead who comes late is not in the frozen audience

    assert send_all(parts, campaign_id) == 0
    finish_sending(parts, campaign_id)
    assert load_staged(parts.register, warehouse, campaign_id).objects == 0
    assert row_of(engine, campaign_id).finished_at == before.finished_at
    assert accepted.summary(str(campaign_id)).accepted_rows == 120
    require_all(account(parts, warehouse, campaign_id))


def test_a_refused_recipient_is_recorded_with_the_provider_s_code(
    parts: Parts, engine: Engine, warehouse: ClickHouseWarehouse
) -> None:
    tag = f"bad{next(_numbers)}"
    city = seed_leads(engine, [*numbered(3, tag), {"email": f"somebody-{tag}@blocked.example"}])
    campaign_id = queue_campaign(engine, in_city(city))
    send_all(parts, campaign_id)
    totals = finish_sending(parts, campaign_id).totals
    assert (totals.accepted, totals.rejected) == (3, 1)
    load_staged(parts.register, warehouse, campaign_id)
    assert warehouse.delivery_counts(campaign_id)["rejected"] == 1
    require_all(account(parts, warehouse, campaign_id))


def test_an_empty_audience_ends_sent_and_says_so(parts: Parts, engine: Engine, warehouse: ClickHouseWarehouse) -> None:
    campaign_id = queue_campaign(engine, in_city("nowhere at all"))
    assert send_all(parts, campaign_id) == 0
    finish_sending(parts, campaign_id)
    row = row_of(engine, campaign_id)
    assert row.status == "sent"
    assert "nobody to send to: 0 leads considered" in row.status_reason
    load_staged(parts.register, warehouse, campaign_id)
    require_all(account(parts, warehouse, campaign_id))


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ({"all": [{"field": "contry", "op": "eq", "value": "DE"}]}, "country"),
        ({"all": [{"field": "age", "op": "like", "value": 3}]}, "op"),
        ("everybody", r"\$"),
    ],
)
def test_an_invalid_condition_fails_the_campaign_with_path_and_mend(
    parts: Parts, engine: Engine, condition: object, said: str
) -> None:
    campaign_id = queue_campaign(engine, condition)
    with pytest.raises(InvalidConditionError, match=said):
        freeze_audience(parts, campaign_id)
    row = row_of(engine, campaign_id)
    assert row.status == "failed"
    assert "condition at $" in row.status_reason


def test_a_variable_that_some_leads_lack_fails_the_campaign_before_anything_is_sent(
    parts: Parts, engine: Engine, accepted: AcceptedLog
) -> None:
    tag = f"lack{next(_numbers)}"
    city = seed_leads(engine, [*numbered(2, tag), {"email": f"x-{tag}@example.com", "first_name": None}])
    campaign_id = queue_campaign(engine, in_city(city))
    with pytest.raises(InvalidTemplateError, match="first_name is missing for 1"):
        freeze_audience(parts, campaign_id)
    assert row_of(engine, campaign_id).status == "failed"
    assert accepted.summary(str(campaign_id)).accepted_rows == 0


def test_a_campaign_deleted_in_flight_stops_and_keeps_what_was_sent(
    parts: Parts, engine: Engine, warehouse: ClickHouseWarehouse, accepted: AcceptedLog
) -> None:
    city = seed_leads(engine, numbered(150, f"deleted{next(_numbers)}"))
    campaign_id = queue_campaign(engine, in_city(city))
    freeze_audience(parts, campaign_id)
    send_chunk(parts, campaign_id, 0, holder="first")
    with engine.begin() as connection:
        connection.execute(delete(campaign).where(campaign.c.id == campaign_id))
    with pytest.raises(CampaignStoppedError, match="deleted"):
        send_chunk(parts, campaign_id, 1, holder="second")
    with pytest.raises(CampaignNotFoundError):
        finish_sending(parts, campaign_id)
    load_staged(parts.register, warehouse, campaign_id)
    assert warehouse.delivery_counts(campaign_id)["accepted"] == 100 == accepted.summary(str(campaign_id)).accepted_rows


def test_a_paused_campaign_stops_between_calls_and_goes_on_when_resumed(
    parts: Parts, engine: Engine, accepted: AcceptedLog
) -> None:
    city = seed_leads(engine, numbered(150, f"paused{next(_numbers)}"))
    campaign_id = queue_campaign(engine, in_city(city))
    freeze_audience(parts, campaign_id)
    send_chunk(parts, campaign_id, 0, holder="first")
    parts.campaigns.change_status(campaign_id, CampaignStatus.PAUSED, "lunch")
    with pytest.raises(CampaignStoppedError, match="paused"):
        send_chunk(parts, campaign_id, 1, holder="second")
    with pytest.raises(CampaignStoppedError, match="paused"):
        finish_sending(parts, campaign_id)
    assert parts.campaigns.change_status(campaign_id, CampaignStatus.QUEUED).attempt == 2
    assert send_all(parts, campaign_id) == 1
    assert finish_sending(parts, campaign_id).campaign.status is CampaignStatus.SENT
    assert accepted.summary(str(campaign_id)).accepted_rows == 150


def test_a_campaign_with_unsent_chunks_does_not_become_sent(parts: Parts, engine: Engine) -> None:
    city = seed_leads(engine, numbered(150, f"incomplete{next(_numbers)}"))
    campaign_id = queue_campaign(engine, in_city(city))
    freeze_audience(parts, campaign_id)
    send_chunk(parts, campaign_id, 0, holder="first")
    with pytest.raises(AccountingError, match="every eligible lead came to an end"):
        finish_sending(parts, campaign_id)
    assert row_of(engine, campaign_id).status == "sending"


def test_wrong_provider_credentials_pause_the_campaign_with_the_reason(small: Settings, engine: Engine) -> None:
    city = seed_leads(engine, numbered(10, f"refused{next(_numbers)}"))
    campaign_id = queue_campaign(engine, in_city(city))
    wrong = small.model_copy(update={"provider_api_key": SecretStr("not the key")})
    with open_parts(wrong, {}) as parts:
        freeze_audience(parts, campaign_id)
        with pytest.raises(AccountRefusedError):
            send_chunk(parts, campaign_id, 0, holder="first")
        totals = parts.ledger.totals(campaign_id)
    assert (totals.accepted, totals.unknown, totals.planned) == (0, 0, 10)
    row = row_of(engine, campaign_id)
    assert row.status == "paused"
    assert row.status_reason
    assert "not the key" not in row.status_reason


def test_an_unknown_provider_fails_the_campaign_and_names_the_known_ones(parts: Parts, engine: Engine) -> None:
    city = seed_leads(engine, numbered(1, f"pigeon{next(_numbers)}"))
    campaign_id = queue_campaign(engine, in_city(city), sender={"provider": "pigeon"})
    with pytest.raises(ConfigurationError, match="simulator"):
        freeze_audience(parts, campaign_id)
    assert row_of(engine, campaign_id).status == "failed"


def test_an_edit_of_the_campaign_after_the_freeze_changes_no_message(parts: Parts, engine: Engine) -> None:
    city = seed_leads(engine, numbered(60, f"edited{next(_numbers)}"))
    campaign_id = queue_campaign(engine, in_city(city))
    manifest = freeze_audience(parts, campaign_id).manifest
    with engine.begin() as connection:
        connection.execute(
            update(campaign).where(campaign.c.id == campaign_id).values(subject_template="Something else")
        )
    again = freeze_audience(parts, campaign_id)
    assert not again.frozen_now
    assert again.manifest == manifest
    assert replace(manifest.content) == again.manifest.content
