"""A template that takes too much ends its own campaign's check, plan and preview, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sqlalchemy import Engine

from email_platform.adapters.assembly import open_parts, open_store
from email_platform.content.renderer import TemplateRenderer
from email_platform.errors import InvalidTemplateError
from email_platform.runs.freeze import freeze_audience
from email_platform.runs.preview import preview_campaign
from email_platform.settings import Settings
from tests.integration.campaign_rows import in_city, numbered, queue_campaign, row_of, seed_leads
from tests.unit.content.test_apart import ORDINARY, limits
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


def test_the_limits_are_the_settings(oltp_engine: Engine, settings: Settings) -> None:
    campaign_id = queue_campaign(oltp_engine, in_city(seed_leads(oltp_engine, numbered(1))), html_template=ORDINARY)
    with (
        open_parts(settings.model_copy(update={"render_seconds": 0.000001})) as parts,
        pytest.raises(InvalidTemplateError, match="1e-06 s"),
    ):
        preview_campaign(parts, campaign_id)
