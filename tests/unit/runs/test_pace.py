"""Rate and expected end of a campaign, from looks at its ledger that are a minute apart."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from email_platform.runs.pace import PaceMeter
from email_platform.sending.ledger import CampaignTotals

NOON = datetime(2026, 11, 28, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def test_the_rate_is_that_since_the_look_before_and_the_end_follows_from_it() -> None:
    meter = PaceMeter(100_000, CampaignTotals(accepted=10_000), NOON)  # 10,000 of an earlier attempt
    pace = meter.look(CampaignTotals(accepted=15_000, rejected=900, unknown=100), NOON + MINUTE)
    assert (pace.done, pace.recipients_per_second) == (16_000, 100.0)
    assert pace.ends_at == NOON + MINUTE + timedelta(seconds=840)
    assert str(pace) == "16,000 of 100,000 recipients (16%), 100 a second, done about 12:15 UTC"
    faster = meter.look(CampaignTotals(accepted=28_000), NOON + 2 * MINUTE)
    assert faster.recipients_per_second == 200.0


def test_a_campaign_that_stands_still_has_no_end_in_sight() -> None:
    meter = PaceMeter(100, CampaignTotals(accepted=50), NOON)
    pace = meter.look(CampaignTotals(accepted=50), NOON + MINUTE)
    assert (pace.recipients_per_second, pace.ends_at) == (0.0, None)
    assert "nobody since the last look" in str(pace)


def test_a_clock_that_was_set_back_and_a_count_that_fell_give_no_rate() -> None:
    meter = PaceMeter(100, CampaignTotals(accepted=50), NOON)
    assert meter.look(CampaignTotals(accepted=60), NOON - MINUTE).recipients_per_second == 0.0
    assert meter.look(CampaignTotals(accepted=40), NOON).recipients_per_second == 0.0
