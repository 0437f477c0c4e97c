"""Which campaigns to launch now, under which run key, and in which order.

Invariant: one run per campaign and attempt. The attempt is part of the key because Dagster never launches a key twice,
also not after the run has failed. An attempt counts only once a run of it is on record: a tick that dies between
asking and launching has used nothing up. One odd campaign never stops the others.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Literal, TypeVar

from email_platform.domain.campaigns import Campaign, CampaignStatus
from email_platform.domain.odd_rows import OddRow
from email_platform.errors import IllegalTransitionError, InvalidConditionError, PartUnavailableError
from email_platform.runs.parts import Parts
from email_platform.sending.ledger import CampaignTotals

SMALL_LAUNCHES_PER_TICK = 3
WAITING_LAUNCHES_PER_TICK = 1
"""One launch takes Dagster 50 to 100 ms, and a tick is to end within a second."""
LARGE_ROWS = 20_000
"""From so many recipients on a campaign is large: large ones never take the last place of the run queue."""
SIZED_PER_TICK = 50
SIZING_SECONDS = 0.1  # of estimates, in one tick
COUNTING_SECONDS = 0.1  # and of counts, all campaigns of one tick together
FRUITLESS_ATTEMPTS = 8  # with doubling pauses that is more than two hours at a silence of one minute

Size = Literal["small", "large"]
_T = TypeVar("_T")


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


def estimated_rows(parts: Parts, campaign: Campaign) -> int:
    """Recipients that the campaign has still to reach: what the ledger knows, or what the planner guesses."""
    manifest = parts.manifests.find(campaign.campaign_id) if campaign.attempt > 1 else None
    if manifest is not None:
        return manifest.eligible_rows - parts.ledger.totals(campaign.campaign_id).attempted
    try:
        return parts.audience.estimate_rows(campaign.condition)
    except InvalidConditionError:
        return 0  # it fails at once, with the reason, and should not wait for that


def counted_rows(parts: Parts, campaign: Campaign, estimated: int, counting_seconds: float) -> int:
    """The same for a campaign of a first attempt, with its leads counted up to `LARGE_ROWS` where time allows.

    The planner's estimates for JSON conditions are off by factors of ten to a thousand.
    """
    if campaign.attempt > 1 or counting_seconds <= 0:
        return estimated
    try:
        counted = parts.audience.count_rows(campaign.condition, LARGE_ROWS, counting_seconds)
    except InvalidConditionError:
        return 0
    if counted is None:
        return estimated
    return max(counted, estimated) if counted >= LARGE_ROWS else counted


def size_campaigns(parts: Parts, monotonic: Callable[[], float] = time.monotonic) -> tuple[int, list[OddRow]]:
    """Look up how many recipients campaigns have that nobody has sized yet, and keep it; bounded in rows and in time.

    The newest come first: a small campaign that was queued just now is known to be small at the next launch, however
    many wait unsized. Those keep their turn as the longest waiting.

    Returns:
        How many were sized, and those that could not be.
    """
    began_seconds = monotonic()
    rows: dict[int, int] = {}
    odd: list[OddRow] = []
    sized: list[Campaign] = []
    for campaign in parts.campaigns.unsized(SIZED_PER_TICK):
        if monotonic() - began_seconds >= SIZING_SECONDS:
            break
        estimated = one_of_many(campaign, partial(estimated_rows, parts, campaign), odd)
        rows[campaign.campaign_id] = estimated or 0
        sized.append(campaign)
    for campaign in sized:
        left_seconds = SIZING_SECONDS + COUNTING_SECONDS - (monotonic() - began_seconds)
        if left_seconds <= 0:
            break
        estimated = rows[campaign.campaign_id]
        counted = one_of_many(campaign, partial(counted_rows, parts, campaign, estimated, left_seconds), odd)
        rows[campaign.campaign_id] = estimated if counted is None else counted
    parts.campaigns.note_sizes(rows)
    return len(rows), odd


@dataclass(frozen=True, slots=True)
class Due:
    """What one look at the queue found.

    Attributes:
        odd: campaigns that cannot be launched; where their row allows it they are failed now, with the reason.
    """

    launches: tuple[Launch, ...]
    odd: tuple[OddRow, ...]


def due_launches(
    parts: Parts, asked_before: Collection[int] = (), monotonic: Callable[[], float] = time.monotonic
) -> Due:
    """The next queued campaigns whose time has come, as runs to ask for; asking twice starts nothing twice.

    Small ones go first; some of each tick are the longest waiting, whatever their size. Campaigns of which a run is
    on record are not looked at (`CampaignStore.note_launched`), so that those that wait behind them are seen.

    Args:
        parts: the outside world.
        asked_before: campaigns for which the last look asked in vain: the others have their turn before them.
        monotonic: gives the time that sizing takes, which is bounded for all campaigns together.
    """
    _, odd = size_campaigns(parts, monotonic)
    launches: list[Launch] = []
    for campaign in parts.campaigns.due(SMALL_LAUNCHES_PER_TICK, WAITING_LAUNCHES_PER_TICK, asked_before):
        if campaign.problem is None:
            rows = campaign.estimated_rows
            launches.append(
                Launch(campaign.campaign_id, campaign.name, campaign.attempt, LARGE_ROWS if rows is None else rows)
            )
        else:
            odd.append(OddRow("campaign", str(campaign.campaign_id), campaign.problem))
            one_of_many(campaign, partial(fail, parts, campaign), odd)
    return Due(tuple(launches), tuple(odd))


def fail(parts: Parts, campaign: Campaign) -> None:
    """Set a campaign that cannot be read to failed, with what is wrong and how to mend it as the reason."""
    with suppress(IllegalTransitionError):  # an operator was faster
        parts.campaigns.change_status(campaign.campaign_id, CampaignStatus.FAILED, campaign.problem)


def one_of_many(campaign: Campaign, do: Callable[[], _T], odd: list[OddRow]) -> _T | None:
    """Do it for one campaign of many; what it raises is noted as that campaign's oddity, and the others go on.

    Raises:
        PartUnavailableError: nothing is wrong with this campaign: the part is away for all of them.
    """
    try:
        return do()
    except PartUnavailableError:
        raise
    except Exception as error:
        odd.append(OddRow("campaign", str(campaign.campaign_id), f"{type(error).__name__} while it was looked at"))
        return None


@dataclass(frozen=True, slots=True)
class Relaunch:
    """A new attempt of a campaign that fell silent, before it is counted.

    Attributes:
        mark: how far the campaign is now; kept until a run of the attempt is on record.
    """

    launch: Launch
    mark: int


def relaunch(parts: Parts, campaign: Campaign, last_run: str) -> Relaunch | None:
    """The next attempt for a campaign that fell silent; counts nothing.

    A campaign of which attempt after attempt comes to nothing is paused instead, with the reason: something about
    it fails every run, and only an operator can say what.

    Args:
        parts: the outside world.
        campaign: as `CampaignStore.silent` gave it.
        last_run: where to look for what went wrong, for the reason.

    Returns:
        None where the campaign is paused, or failed because its row cannot be read.
    """
    if campaign.problem is not None and campaign.status is CampaignStatus.QUEUED:
        fail(parts, campaign)
        return None
    totals = parts.ledger.totals(campaign.campaign_id)
    mark = progress_mark(totals)
    fruitless = campaign.fruitless_attempts + 1 if mark == campaign.attempt_mark else 0
    if fruitless >= FRUITLESS_ATTEMPTS:
        reason = f"{fruitless} attempts in a row came to nothing; the last one: {last_run}"
        with suppress(IllegalTransitionError):  # an operator was faster
            parts.campaigns.change_status(campaign.campaign_id, CampaignStatus.PAUSED, reason)
        return None
    manifest = parts.manifests.find(campaign.campaign_id)
    rows = campaign.estimated_rows if manifest is None else manifest.eligible_rows - totals.attempted
    return Relaunch(
        Launch(campaign.campaign_id, campaign.name, campaign.attempt + 1, LARGE_ROWS if rows is None else rows), mark
    )


def progress_mark(totals: CampaignTotals) -> int:
    """Grows with every recipient that comes to an end and every chunk; the first step of all is the manifest."""
    return totals.chunks + totals.chunks_finished + totals.accepted + totals.rejected + totals.abandoned


def archivable_campaigns(parts: Parts, campaign_ids: Sequence[int], kept_days: float) -> Sequence[int]:
    """Campaigns that ended so long ago that nobody needs their partition at hand; those of unknown outcome stay.

    An archived campaign loses nothing but its key in Dagster's lists: ledger, objects and warehouse keep everything,
    and queueing it again adds the key again. Two statements, however many campaigns there are.
    """
    ended = parts.campaigns.ended_before(parts.clock() - timedelta(days=kept_days), campaign_ids)
    undecided = set(parts.ledger.campaigns_with_unknown()) if ended else set()
    return [campaign_id for campaign_id in ended if campaign_id not in undecided]
