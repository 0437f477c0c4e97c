"""Which campaigns to launch now, under which run key, and in which order.

Invariant: one run per campaign and attempt. The attempt is part of the key because Dagster never launches a
key twice, also not after the run has failed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from email_platform.campaign_run import Parts
from email_platform.campaigns import Campaign
from email_platform.errors import InvalidConditionError

LAUNCHES_PER_TICK = 100  # Dagster takes at most so many run requests from one evaluation of a sensor


@dataclass(frozen=True, slots=True)
class Launch:
    """One run to ask for.

    Attributes:
        priority: higher goes first in the run queue; a small campaign must not wait behind a large one.
    """

    campaign_id: int
    name: str
    attempt: int
    priority: int

    @property
    def run_key(self) -> str:
        """Unique per campaign and attempt."""
        return f"campaign-{self.campaign_id}-attempt-{self.attempt}"


def priority_of(estimated_rows: int) -> int:
    """0 for up to ten leads, one less for each factor of ten: -5 for a million."""
    return 1 - max(1, math.ceil(math.log10(max(estimated_rows, 1))))


def launch_of(parts: Parts, campaign: Campaign) -> Launch:
    """The run for the campaign's present attempt, with a priority from the planner's estimate of its size."""
    try:
        priority = priority_of(parts.audience.estimate_rows(campaign.condition))
    except InvalidConditionError:
        priority = 0  # it fails at once, with the reason, and should not wait for that
    return Launch(campaign.campaign_id, campaign.name, campaign.attempt, priority)


def due_launches(parts: Parts) -> Sequence[Launch]:
    """The queued campaigns whose time has come, as runs to ask for; asking twice starts nothing twice."""
    return [launch_of(parts, campaign) for campaign in parts.campaigns.due(LAUNCHES_PER_TICK)]


def relaunch(parts: Parts, campaign: Campaign) -> Launch | None:
    """A new attempt for a campaign that fell silent, or None where somebody else has counted it already."""
    if not parts.campaigns.begin_attempt(campaign.campaign_id, campaign.attempt + 1):
        return None
    return launch_of(parts, parts.campaigns.get(campaign.campaign_id))


def archivable_campaigns(parts: Parts, campaign_ids: Sequence[int], kept_days: float) -> Sequence[int]:
    """Campaigns that ended so long ago that nobody needs their partition at hand; those of unknown outcome stay.

    An archived campaign loses nothing but its key in Dagster's lists: ledger, objects and warehouse keep everything,
    and queueing it again adds the key again.
    """
    ended = parts.campaigns.ended_before(parts.clock() - timedelta(days=kept_days), campaign_ids)
    return [campaign_id for campaign_id in ended if not parts.ledger.unknown_calls(campaign_id)]
