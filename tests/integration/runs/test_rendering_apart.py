"""A template that takes too much ends its own campaign's check, plan and preview, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sqlalchemy import Engine

from email_platform.adapters.assembly import limits_while_sending, open_parts, open_store
from email_platform.content.renderer import TemplateRenderer
from email_platform.errors import InvalidTemplateError
from email_platform.runs.freeze import freeze_audience
from email_platform.runs.parts import find_manifest
from email_platform.runs.preview import preview_campaign
from email_platform.runs.send import send_chunk
from email_platform.sending.progress import progress_of
from email_platform.settings import Settings
from tests.integration.campaign_rows import in_city, numbered, queue_campaign, row_of, seed_leads, unique
from tests.unit.content.test_apart import FOR_BOB, ORDINARY, limits
from tests.unit.content.test_budget import BOMBS
from tests.unit.content.test_pieces import SIGNER

pytestmark = pytest.mark.integration


def test_a_bomb_that_the_budget_misses_fails_its_campaign_with_a_sentence_and_the_next_one_goes_on(
    oltp_engine: Engine, settings: Settings
) -> None:
    city = seed_leads(oltp_engine, numbered(3))
    bomb = queue_campaign(oltp_engine, in_city(city), html_template=BOMBS["two loops with a long body"])
    good = queue_campaign(oltp_engine, in_city(city), html_template=ORDINARY)
    before = {found.key for found in open_store(settings).list("")}
    with open_parts(settings) as opened:
        tight = limits(seconds=1.5)
        parts = replace(opened, renderer=lambda of: TemplateRenderer(of, SIGNER, apart=tight))
        with pytest.raises(InvalidTemplateError, match="takes more than"):
            preview_campaign(parts, bomb)
        assert {found.key for found in open_store(settings).list("")} == before
        with pytest.raises(InvalidTemplateError, match="takes more than"):
            freeze_audience(parts, bomb)
        assert freeze_audience(parts, good).manifest.eligible_rows == 3
    row = row_of(oltp_engine, bomb)
    assert row.status == "failed"
    assert "takes more than 1.5 s" in row.status_reason


def test_a_bomb_that_first_goes_off_while_sending_fails_the_campaign_and_uses_nobody_up(
    oltp_engine: Engine, settings: Settings
) -> None:
    rows = numbered(60)
    rows[55]["first_name"] = "Bob"
    campaign_id = queue_campaign(oltp_engine, in_city(seed_leads(oltp_engine, rows)), html_template=FOR_BOB)
    with open_parts(settings) as opened:
        # The check has a budget, which books the bomb on one recipient; the process that sends has none.
        parts = replace(
            opened,
            renderer=lambda of: TemplateRenderer(of, SIGNER, sending_apart=limits(seconds=1.5)),
            policy=replace(opened.policy, connections=1),
        )
        freeze_audience(parts, campaign_id)
        with pytest.raises(InvalidTemplateError, match=r"takes more than 1\.5 s"):
            send_chunk(parts, campaign_id, 0, holder=unique("test"))
        calls = parts.ledger.calls(campaign_id, 0)
        progress = progress_of(find_manifest(parts, campaign_id), 0, calls)
    assert [call.state for call in calls] == ["accepted"], "no call is left open"
    assert (progress.accepted, progress.rejected, progress.unknown) == (50, 0, 0)
    row = row_of(oltp_engine, campaign_id)
    assert row.status == "failed"
    assert "make the template do less" in row.status_reason


def test_while_sending_the_limit_is_well_below_the_lease(settings: Settings) -> None:
    limits = limits_while_sending(settings.model_copy(update={"render_seconds": 60.0, "lease_seconds": 20.0}))
    assert (limits.seconds, limits.seconds_setting) == (10.0, "EMAIL_PLATFORM_LEASE_SECONDS")
    limits = limits_while_sending(settings.model_copy(update={"render_seconds": 5.0, "lease_seconds": 20.0}))
    assert (limits.seconds, limits.seconds_setting) == (5.0, "EMAIL_PLATFORM_RENDER_SECONDS")
    assert limits.memory_megabytes == settings.render_memory_megabytes


def test_the_limits_are_the_settings(oltp_engine: Engine, settings: Settings) -> None:
    campaign_id = queue_campaign(oltp_engine, in_city(seed_leads(oltp_engine, numbered(1))), html_template=ORDINARY)
    with (
        open_parts(settings.model_copy(update={"render_seconds": 0.000001})) as parts,
        pytest.raises(InvalidTemplateError, match="1e-06 s"),
    ):
        preview_campaign(parts, campaign_id)
