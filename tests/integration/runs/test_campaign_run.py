"""A campaign's run on the real engines, step by step: what is sent, what is known, and what a second run does."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy import Engine, delete, insert, update

from email_platform.adapters.assembly import open_oltp, open_parts, open_warehouse
from email_platform.adapters.clickhouse.warehouse import ClickHouseWarehouse
from email_platform.adapters.postgres.tables import campaign, chunk, lead, send_call, suppression
from email_platform.domain.campaigns import CampaignStatus
from email_platform.domain.ports import EmailProvider
from email_platform.errors import (
    AccountingError,
    AccountRefusedError,
    CampaignNotFoundError,
    CampaignStoppedError,
    ConfigurationError,
    ContentHeldError,
    InvalidConditionError,
    InvalidTemplateError,
    LeaseLostError,
    ProviderDownError,
)
from email_platform.local.provider_simulator import AcceptedLog
from email_platform.runs.finish import finish_sending
from email_platform.runs.freeze import freeze_audience
from email_platform.runs.load import account, load_staged
from email_platform.runs.parts import ContentErrorLimits, Parts
from email_platform.runs.preview import preview_campaign
from email_platform.runs.retry import retry_rejected
from email_platform.runs.send import send_chunk
from email_platform.runs.unknown import resolve_unknown_by_evidence, unknown_messages
from email_platform.sending.ledger import CallOutcome, CampaignTotals, Lease
from email_platform.settings import Settings
from email_platform.staging.accounting import require_all
from tests.integration.campaign_rows import in_city, numbered, queue_campaign, row_of, seed_leads

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


def send_all(parts: Parts, campaign_id: int) -> int:
    """Freeze and send every chunk; returns the calls made now."""
    manifest = freeze_audience(parts, campaign_id).manifest
    reports = [
        send_chunk(parts, campaign_id, index, holder=f"test-{next(_numbers)}") for index in range(manifest.chunk_count)
    ]
    return sum(report.progress.sent_calls for report in reports)


def test_a_campaign_goes_from_queued_to_the_warehouse_and_every_count_agrees(
    parts: Parts, engine: Engine, warehouse: ClickHouseWarehouse, accepted: AcceptedLog
) -> None:
    tag = f"t{next(_numbers)}"
    rows = numbered(230)
    first = str(rows[0]["email"])
    rows += [
        {"email": "no-at-sign"},
        {"email": None},
        {"email": first.upper()},
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
        "unreadable": 0,
    }
    assert summary.totals.accepted == 230
    assert row_of(engine, campaign_id).status == "sent"

    report = load_staged(parts.register, warehouse, campaign_id)
    assert (report.objects, report.quarantined) == (4, {})  # three chunks and the exclusions
    require_all(account(parts, warehouse, campaign_id))
    log = accepted.summary(str(campaign_id))
    assert (log.accepted_rows, log.distinct_message_ids) == (230, 230)


def test_a_provider_that_does_not_answer_within_the_setting_is_given_up(small: Settings, engine: Engine) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:  # takes connections and never answers
        port = silent.getsockname()[1]
        impatient = {"provider_answer_seconds": 0.2, "provider_url": f"http://127.0.0.1:{port}"}
        with open_parts(small.model_copy(update=impatient)) as parts:
            once = replace(parts, policy=replace(parts.policy, retry=replace(parts.policy.retry, attempts=1)))
            campaign_id = queue_campaign(engine, in_city(seed_leads(engine, numbered(3))))
            with pytest.raises(ProviderDownError, match="Timeout on reading"):
                send_all(once, campaign_id)
    assert row_of(engine, campaign_id).status == "paused"


def test_a_second_run_of_a_sent_campaign_sends_nothing_and_changes_nothing(
    parts: Parts, engine: Engine, warehouse: ClickHouseWarehouse, accepted: AcceptedLog
) -> None:
    city = seed_leads(engine, numbered(120))
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
    city = seed_leads(engine, [*numbered(3), {"email": f"somebody-{tag}@blocked.example"}])
    campaign_id = queue_campaign(engine, in_city(city))
    send_all(parts, campaign_id)
    totals = finish_sending(parts, campaign_id).totals
    assert (totals.accepted, totals.rejected) == (3, 1)
    load_staged(parts.register, warehouse, campaign_id)
    assert warehouse.delivery_counts(campaign_id)["rejected"] == 1
    require_all(account(parts, warehouse, campaign_id))


def test_recipients_suppressed_after_the_freeze_get_nothing_and_are_reported_with_the_reason(
    parts: Parts, engine: Engine, warehouse: ClickHouseWarehouse, accepted: AcceptedLog
) -> None:
    rows = numbered(120)
    rows[1]["email"] = str(rows[1]["email"]).upper()
    city = seed_leads(engine, rows)
    campaign_id = queue_campaign(engine, in_city(city))
    freeze_audience(parts, campaign_id)
    addresses = [str(row["email"]).lower() for row in rows]
    own = row_of(engine, campaign_id).sender_id
    other = row_of(engine, queue_campaign(engine, in_city(city), status="draft")).sender_id
    with engine.begin() as connection:
        connection.execute(
            insert(suppression),
            [
                {"address": addresses[0], "reason": "hard_bounce", "source": "t", "sender_id": None},
                {"address": addresses[1], "reason": "complaint", "source": "t", "sender_id": None},
                {"address": addresses[2], "reason": "unsubscribe", "source": "t", "sender_id": own},
                {"address": addresses[3], "reason": "unsubscribe", "source": "t", "sender_id": other},
                *(
                    {"address": one, "reason": "manual", "source": "t", "sender_id": None}
                    for one in addresses[100:]  # the whole third call
                ),
            ],
        )
        connection.execute(
            update(lead).where(lead.c.email == rows[4]["email"]).values(unsubscribed_at="2026-01-01T00:00:00Z")
        )

    assert send_all(parts, campaign_id) == 2  # and no third one: nobody of its recipients may be mailed
    totals = finish_sending(parts, campaign_id).totals
    assert (totals.accepted, totals.rejected) == (96, 24)
    assert accepted.summary(str(campaign_id)).accepted_rows == 96
    load_staged(parts.register, warehouse, campaign_id)
    require_all(account(parts, warehouse, campaign_id))
    rejections = warehouse.client.query(
        "select email, error_message from delivery final where campaign_id = {id:Int64} and error_code = 'suppressed'",
        parameters={"id": campaign_id},
    ).result_rows
    reasons = {address: message.split(":")[0] for address, message in rejections}
    expected = ["hard_bounce", "complaint", "unsubscribe", None, "unsubscribe", *[None] * 95, *["manual"] * 20]
    assert reasons == {row["email"]: reason for row, reason in zip(rows, expected, strict=True) if reason}


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
    ("condition", "message"),
    [
        ({"all": [{"field": "contry", "op": "eq", "value": "DE"}]}, "country"),
        ({"all": [{"field": "age", "op": "like", "value": 3}]}, "op"),
        ("everybody", r"\$"),
    ],
)
def test_an_invalid_condition_fails_the_campaign_with_path_and_mend(
    parts: Parts, engine: Engine, condition: object, message: str
) -> None:
    campaign_id = queue_campaign(engine, condition)
    with pytest.raises(InvalidConditionError, match=message):
        freeze_audience(parts, campaign_id)
    row = row_of(engine, campaign_id)
    assert row.status == "failed"
    assert "condition at $" in row.status_reason


def test_a_variable_that_everybody_lacks_fails_the_campaign_before_anything_is_sent(
    parts: Parts, engine: Engine, accepted: AcceptedLog
) -> None:
    tag = f"lack{next(_numbers)}"
    city = seed_leads(engine, [{"email": f"x-{tag}@example.com", "first_name": None}])
    campaign_id = queue_campaign(engine, in_city(city))
    with pytest.raises(InvalidTemplateError, match="first_name is missing for 1"):
        freeze_audience(parts, campaign_id)
    assert row_of(engine, campaign_id).status == "failed"
    assert accepted.summary(str(campaign_id)).accepted_rows == 0


def test_a_lead_without_a_required_variable_ends_with_the_reason_and_everybody_else_is_mailed(
    parts: Parts, engine: Engine, accepted: AcceptedLog
) -> None:
    tag = f"lack{next(_numbers)}"
    city = seed_leads(engine, [*numbered(2), {"email": f"x-{tag}@example.com", "first_name": None}])
    campaign_id = queue_campaign(engine, in_city(city))
    found = preview_campaign(parts, campaign_id).check
    assert (found.rows, found.problem_rows, found.is_complete) == (3, 1, True)
    assert "first_name is missing for 1 recipient" in str(found)
    freeze_audience(parts, campaign_id)
    progress = send_chunk(parts, campaign_id, 0, holder="first").progress
    assert (progress.accepted, progress.rejected) == (2, 1)
    assert accepted.summary(str(campaign_id)).accepted_rows == 2
    results = [result for call in parts.ledger.calls(campaign_id, 0) if call.receipt for result in call.receipt.results]
    assert [(result.error_code, result.error_message) for result in results if result.status == "rejected"] == [
        ("content_error", "first_name is missing")
    ]


def test_too_many_content_errors_pause_the_campaign_before_anything_is_sent(
    parts: Parts, engine: Engine, accepted: AcceptedLog
) -> None:
    tag = f"lack{next(_numbers)}"
    city = seed_leads(engine, [*numbered(2), {"email": f"x-{tag}@example.com", "first_name": None}])
    campaign_id = queue_campaign(engine, in_city(city))
    strict = replace(parts, content_errors=ContentErrorLimits(share=0.3, minimum=1))
    with pytest.raises(ContentHeldError, match="first_name is missing for 1 recipient"):
        freeze_audience(strict, campaign_id)
    row = row_of(engine, campaign_id)
    assert row.status == "paused"
    assert "first_name is missing for 1 recipient (lead " in row.status_reason
    assert parts.manifests.find(campaign_id) is None
    assert accepted.summary(str(campaign_id)).accepted_rows == 0


def test_a_campaign_deleted_in_flight_stops_and_keeps_what_was_sent(
    parts: Parts, engine: Engine, warehouse: ClickHouseWarehouse, accepted: AcceptedLog
) -> None:
    city = seed_leads(engine, numbered(150))
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
    city = seed_leads(engine, numbered(150))
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
    city = seed_leads(engine, numbered(150))
    campaign_id = queue_campaign(engine, in_city(city))
    freeze_audience(parts, campaign_id)
    send_chunk(parts, campaign_id, 0, holder="first")
    with pytest.raises(AccountingError, match="every eligible lead came to an end"):
        finish_sending(parts, campaign_id)
    assert row_of(engine, campaign_id).status == "sending"


def test_a_call_that_an_orphan_never_made_keeps_the_campaign_from_becoming_sent_at_the_last_moment(
    parts: Parts, engine: Engine
) -> None:
    campaign_id = queue_campaign(engine, in_city(seed_leads(engine, numbered(120))))
    orphan = Lease(campaign_id, 0, 1, "orphan")

    class LateOrphan:
        """The ledger of which an orphan's last words come right after the look at the totals."""

        def __getattr__(self, name: str) -> Any:
            return getattr(parts.ledger, name)

        def totals(self, campaign_id: int) -> CampaignTotals:
            totals = parts.ledger.totals(campaign_id)
            with pytest.raises(LeaseLostError):
                parts.ledger.turn(orphan, [CallOutcome(0, "planned", error="never made")], [])
            return totals

    send_all(parts, campaign_id)
    with engine.begin() as connection:  # as the successor of the orphan left it: held, and the chunk finished
        own = send_call.c.campaign_id == campaign_id, send_call.c.chunk_index == 0, send_call.c.call_index == 0
        connection.execute(update(send_call).where(*own).values(state="unknown", receipt=None, receipt_at=None))
        chunks = update(chunk).where(chunk.c.campaign_id == campaign_id, chunk.c.chunk_index == 0)
        connection.execute(chunks.values(lease_epoch=2))
    with pytest.raises(AccountingError, match="1 of its chunks"):
        finish_sending(replace(parts, ledger=LateOrphan()), campaign_id)
    assert row_of(engine, campaign_id).status == "sending"
    send_all(parts, campaign_id)
    assert finish_sending(parts, campaign_id).totals.accepted == 120


def test_wrong_provider_credentials_pause_the_campaign_with_the_reason(small: Settings, engine: Engine) -> None:
    city = seed_leads(engine, numbered(10))
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


def test_a_provider_that_this_worker_cannot_build_pauses_the_campaign_instead_of_ending_run_after_run(
    parts: Parts, engine: Engine
) -> None:
    campaign_id = queue_campaign(engine, in_city(seed_leads(engine, numbered(10))))
    freeze_audience(parts, campaign_id)

    def unbuildable(sender: object) -> EmailProvider:
        raise ConfigurationError("EMAIL_PLATFORM_SIMULATOR_API_KEY is not set")

    with pytest.raises(ConfigurationError):
        send_chunk(replace(parts, provider=unbuildable), campaign_id, 0, holder="first")
    row = row_of(engine, campaign_id)
    assert (row.status, row.status_reason) == ("paused", "EMAIL_PLATFORM_SIMULATOR_API_KEY is not set")


def test_events_settle_what_a_lost_answer_left_unknown_and_the_warehouse_follows(
    small: Settings, engine: Engine, warehouse: ClickHouseWarehouse, accepted: AcceptedLog
) -> None:
    campaign_id = queue_campaign(engine, in_city(seed_leads(engine, numbered(120))))
    assert small.provider_api_key is not None
    simulator = httpx.Client(
        base_url=small.provider_url or "",
        headers={"authorization": f"Bearer {small.provider_api_key.get_secret_value()}"},
        trust_env=False,
    )
    with simulator, open_parts(small, {"EMAIL_PLATFORM_SIMULATOR_IDEMPOTENCY": "off"}) as parts:
        simulator.put("/admin/faults", json={"script": ["reset_after", None, None]}).raise_for_status()
        send_all(parts, campaign_id)
        summary = finish_sending(parts, campaign_id)
        assert (summary.totals.unknown, dict(summary.unknown_by_chunk)) == (50, {0: 50})
        assert "50 recipients in 1 calls have no answer" in row_of(engine, campaign_id).status_reason
        assert campaign_id in parts.ledger.campaigns_with_unknown()
        load_staged(parts.register, warehouse, campaign_id)
        assert warehouse.delivery_counts(campaign_id)["unknown"] == 50

        wanted = unknown_messages(parts, campaign_id)
        evidence = {UUID(row.message_id): row.provider_message_id for row in accepted.rows(str(campaign_id))}
        assert len(wanted) == 50
        assert wanted <= evidence.keys()
        some = dict([(message, evidence[message]) for message in sorted(wanted)][:20])
        applied = resolve_unknown_by_evidence(parts, campaign_id, some)
        assert (applied.calls_resolved, applied.recipients_proved, applied.recipients_unknown) == (0, 20, 30)
        assert resolve_unknown_by_evidence(parts, campaign_id, some).recipients_proved == 0, "twice changes nothing"
        applied = resolve_unknown_by_evidence(parts, campaign_id, evidence)
        assert (applied.calls_resolved, applied.recipients_proved, applied.recipients_unknown) == (1, 30, 0)
        assert row_of(engine, campaign_id).status_reason is None
        load_staged(parts.register, warehouse, campaign_id)
        assert warehouse.delivery_counts(campaign_id)["accepted"] == 120
        require_all(account(parts, warehouse, campaign_id))


def test_an_unknown_provider_fails_the_campaign_and_names_the_known_ones(parts: Parts, engine: Engine) -> None:
    city = seed_leads(engine, numbered(1))
    campaign_id = queue_campaign(engine, in_city(city), sender={"provider": "pigeon"})
    with pytest.raises(ConfigurationError, match="simulator"):
        freeze_audience(parts, campaign_id)
    assert row_of(engine, campaign_id).status == "failed"


def test_an_edit_of_the_campaign_after_the_freeze_changes_no_message(parts: Parts, engine: Engine) -> None:
    city = seed_leads(engine, numbered(60))
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


def test_recipients_refused_for_certain_are_sent_to_again_and_every_count_still_agrees(
    parts: Parts, engine: Engine, warehouse: ClickHouseWarehouse, accepted: AcceptedLog
) -> None:
    tag = f"retry{next(_numbers)}"
    city = seed_leads(engine, [*numbered(60), {"email": f"somebody-{tag}@blocked.example"}])
    campaign_id = queue_campaign(engine, in_city(city))
    send_all(parts, campaign_id)
    assert finish_sending(parts, campaign_id).totals.rejected == 1
    load_staged(parts.register, warehouse, campaign_id)
    assert retry_rejected(parts, campaign_id, "another code").recipients == 0
    put_back = retry_rejected(parts, campaign_id, "BlockedDomain")
    assert (put_back.recipients, put_back.campaign.status) == (1, CampaignStatus.QUEUED)
    assert send_all(parts, campaign_id) == 1, "a follow-up call of the one alone"
    totals = finish_sending(parts, campaign_id).totals
    assert (totals.accepted, totals.rejected) == (60, 1), "the provider still refuses"
    load_staged(parts.register, warehouse, campaign_id)
    require_all(account(parts, warehouse, campaign_id))
    assert accepted.summary(str(campaign_id)).accepted_rows == 60


def test_a_limit_that_was_lowered_after_the_freeze_makes_smaller_calls_and_no_error(
    small: Settings, parts: Parts, engine: Engine, accepted: AcceptedLog
) -> None:
    campaign_id = queue_campaign(engine, in_city(seed_leads(engine, numbered(60))))
    freeze_audience(parts, campaign_id)
    with open_parts(small, {"EMAIL_PLATFORM_SIMULATOR_RECIPIENTS_PER_CALL": "7"}) as lowered:
        assert send_all(lowered, campaign_id) == 9
    assert finish_sending(parts, campaign_id).totals.accepted == 60
    assert accepted.summary(str(campaign_id)).accepted_rows == 60
