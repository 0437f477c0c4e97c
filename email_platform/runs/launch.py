"""Which campaigns to launch now, under which run key, and in which order.

Invariant: one run per campaign and attempt. The attempt is part of the key because Dagster never launches a
key twice, also not after the run has failed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Literal

from email_platform.domain.campaigns import Campaign, CampaignStatus
from email_platform.errors import IllegalTransitionError, InvalidConditionError
from email_platform.runs.parts import Parts

LAUNCHES_PER_TICK = 100  # Dagster takes at most so many run requests from one evaluation of a sensor
LARGE_ROWS = 20_000
"""From so many recipients on a campaign is large: large ones never take the last place of the run queue."""
COUNTING_SECONDS = 3.0  # for one campaign
COUNTING_SECONDS_PER_TICK = 20.0  # Dagster ends an evaluation after 60
FRUITLESS_ATTEMPTS = 8  # with doubling pauses that is more than two hours at a silence of one minute

Size = Literal["small", "large"]


@dataclass(frozen=True, slots=True)
class Launch:
    """One run to ask for.

    Attributes:
        rows: recipients still to be reached: counted where they are few, else the planner's estimate.
    """

    campaign_id: int
    name: str
    attempt: int
    rows: int

    @property
    def run_key(self) -> str:
        """Unique per campaign and attempt."""
        return f"campaign-{self.campaign_id}-attempt-{self.attempt}"

    @property
    def priority(self) -> int:
        """Higher goes first in the run queue: 0 for up to ten recipients, one less for each factor of ten."""
        return 1 - max(1, math.ceil(math.log10(max(self.rows, 1))))

    @property
    def size(self) -> Size:
        """The class that the run queue's limit for large campaigns goes by."""
        return "large" if self.rows >= LARGE_ROWS else "small"


def rows_to_send(parts: Parts, campaign: Campaign, counting_seconds: float = COUNTING_SECONDS) -> int:
    """Recipients that the campaign has still to reach.

    Of a frozen audience the ledger knows it. Before, the leads are counted up to `LARGE_ROWS`, since the planner's
    estimates for JSON conditions are off by factors of ten to a thousand; beyond that, or where counting takes too
    long, the estimate decides.
    """
    manifest = parts.manifests.find(campaign.campaign_id)
    if manifest is not None:
        return manifest.eligible_rows - parts.ledger.totals(campaign.campaign_id).attempted
    try:
        estimated = parts.audience.estimate_rows(campaign.condition)
        if counting_seconds <= 0:
            return estimated
        counted = parts.audience.count_rows(campaign.condition, LARGE_ROWS, counting_seconds)
    except InvalidConditionError:
        return 0  # it fails at once, with the reason, and should not wait for that
    if counted is None:
        return estimated
    return max(counted, estimated) if counted >= LARGE_ROWS else counted


def launch_of(parts: Parts, campaign: Campaign, rows: int | None = None) -> Launch:
    """The run for the campaign's present attempt."""
    rows = rows_to_send(parts, campaign) if rows is None else rows
    return Launch(campaign.campaign_id, campaign.name, campaign.attempt, rows)


def due_launches(
    parts: Parts,
    counted_before: Mapping[str, int],
    monotonic: Callable[[], float] = time.monotonic,
) -> Sequence[Launch]:
    """The queued campaigns whose time has come, as runs to ask for; asking twice starts nothing twice.

    Args:
        parts: the outside world.
        counted_before: recipients by run key, as an earlier evaluation found them: a campaign that waits in the
            run queue is not counted again and again.
        monotonic: gives the time that counting takes, which is bounded for all of them together.
    """
    began_seconds = monotonic()
    launches: list[Launch] = []
    for campaign in parts.campaigns.due(LAUNCHES_PER_TICK):
        launch = launch_of(parts, campaign, rows=0)
        rows = counted_before.get(launch.run_key)
        if rows is None:
            left_seconds = COUNTING_SECONDS_PER_TICK - (monotonic() - began_seconds)
            rows = rows_to_send(parts, campaign, min(COUNTING_SECONDS, left_seconds))
        launches.append(replace(launch, rows=rows))
    return launches


def relaunch(parts: Parts, campaign: Campaign, last_run: str) -> Launch | None:
    """A new attempt for a campaign that fell silent.

    A campaign of which attempt after attempt comes to nothing is paused instead, with the reason: something about
    it fails every run, and only an operator can say what.

    Args:
        parts: the outside world.
        campaign: as `CampaignStore.silent` gave it.
        last_run: where to look for what went wrong, for the reason.

    Returns:
        None where somebody else has counted the attempt already, or the campaign is paused.
    """
    totals = parts.ledger.totals(campaign.campaign_id)
    # Grows with every recipient that comes to an end and every chunk; the first step of all is the manifest.
    mark = totals.chunks + totals.chunks_finished + totals.accepted + totals.rejected + totals.abandoned
    if not parts.campaigns.begin_attempt(campaign.campaign_id, campaign.attempt + 1, mark):
        return None
    campaign = parts.campaigns.get(campaign.campaign_id)
    if campaign.fruitless_attempts >= FRUITLESS_ATTEMPTS:
        reason = f"{campaign.fruitless_attempts} attempts in a row came to nothing; the last one: {last_run}"
        with suppress(IllegalTransitionError):  # an operator was faster
            parts.campaigns.change_status(campaign.campaign_id, CampaignStatus.PAUSED, reason)
        return None
    return launch_of(parts, campaign)


def archivable_campaigns(parts: Parts, campaign_ids: Sequence[int], kept_days: float) -> Sequence[int]:
    """Campaigns that ended so long ago that nobody needs their partition at hand; those of unknown outcome stay.

    An archived campaign loses nothing but its key in Dagster's lists: ledger, objects and warehouse keep everything,
    and queueing it again adds the key again.
    """
    ended = parts.campaigns.ended_before(parts.clock() - timedelta(days=kept_days), campaign_ids)
    return [campaign_id for campaign_id in ended if not parts.ledger.unknown_calls(campaign_id)]
