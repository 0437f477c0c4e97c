"""How a step ends: cancelled where somebody stopped the campaign, failed with two lines and the cure otherwise.

Run retries are for processes that died or parts that were away. A campaign that was paused, cancelled, failed
or deleted ends its run with the reason as the failure's description, at once.

Dagster has no call by which a step ends its run as cancelled. A run of which the instance knows that it is being
cancelled ends as cancelled when its steps fail (`job_execution_iterator` of dagster 1.13), so the step says that first.
Nobody acts on a cancelled run: Dagster does not retry it, `operator_needed` does not ring, and a resumed campaign is
launched by its next attempt.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from email_platform.domain.campaigns import Campaign
from email_platform.errors import (
    AccountRefusedError,
    CampaignNotFoundError,
    CampaignStoppedError,
    ConfigurationError,
    EmailPlatformError,
    InvalidConditionError,
    InvalidTemplateError,
    LegacySourceError,
    PartUnavailableError,
    ProviderDownError,
)
from email_platform.runs.ending import Ending, ending_of, ending_of_stop
from email_platform.runs.parts import Parts
from resources.parts import PartsResource

FINAL_ERRORS: tuple[type[EmailPlatformError], ...] = (
    AccountRefusedError,
    CampaignNotFoundError,
    CampaignStoppedError,
    ConfigurationError,
    InvalidConditionError,
    InvalidTemplateError,
    LegacySourceError,
    ProviderDownError,
)


@contextmanager
def final_errors_end_the_run(campaign_id: int | None = None) -> Iterator[None]:
    """Turn every error into a Failure that says what happened, what it means and what to do, before any trace.

    Errors that no retry can mend end the step without its retries; the others leave it its retry policy.

    Args:
        campaign_id: whose run it is, for the commands.
    """
    try:
        yield
    except (dg.Failure, dg.RetryRequested, dg.DagsterError):
        raise
    except Exception as error:
        description = str(ending_of(error, campaign_id))
        raise dg.Failure(description, allow_retries=not isinstance(error, FINAL_ERRORS)) from error


@contextmanager
def campaign_parts(
    context: dg.AssetExecutionContext | dg.OpExecutionContext, parts: PartsResource, campaign_id: int
) -> Iterator[Parts]:
    """The parts for a step of a campaign's run; a campaign that somebody stopped ends the run as cancelled.

    Raises:
        dagster.Failure: as `final_errors_end_the_run`; also where the campaign was stopped, after the run was marked.
    """
    with final_errors_end_the_run(campaign_id), parts.open() as opened:
        try:
            yield opened
        except CampaignStoppedError as error:
            stopped = who_stopped(opened, error)
            if stopped is None:
                raise
            end_as_cancelled(context, *stopped)


def who_stopped(opened: Parts, error: CampaignStoppedError) -> tuple[Campaign, Ending] | None:
    """The campaign as it is now and how its run ends; None where nobody stopped it: it failed, or is archived."""
    if type(error) is not CampaignStoppedError:
        return None
    campaign = opened.campaigns.get(error.campaign_id)
    ending = ending_of_stop(campaign)
    return None if ending is None else (campaign, ending)


def end_as_cancelled(
    context: dg.AssetExecutionContext | dg.OpExecutionContext, campaign: Campaign, ending: Ending
) -> None:
    """Mark the run as being cancelled, with the reason, and end the step.

    Raises:
        dagster.Failure: always.
    """
    context.instance.report_run_canceling(context.run, str(ending))
    raise dg.Failure(
        str(ending),
        metadata={
            "campaign": campaign.name,
            "status": campaign.status.value,
            "status reason": campaign.status_reason or "",
        },
        allow_retries=False,
    ) from None


LOST_STEP = dg.RetryPolicy(max_retries=3, delay=2, backoff=dg.Backoff.EXPONENTIAL)
"""For a step whose process was lost (killed, out of memory) or that found a part away: it is repeated within its run.

Only for steps that skip what the ledger shows as done. The repeat waits until the lost process's lease has ended.
"""


class StepInterruptedError(dg.DagsterError, dg.DagsterExecutionInterruptedError):
    """An interruption that ends the run, also of a step with a retry policy.

    Dagster repeats an interrupted step that has one (`op_execution_error_boundary` of dagster 1.13: "respect retry
    policy when interrupts occur"): a run in one process that an operator ends would send on. Its own errors it never
    repeats, and an interruption ends the run: this is both.
    """


@contextmanager
def only_outages_are_repeated(campaign_id: int | None = None) -> Iterator[None]:
    """Under `LOST_STEP`: end the step, without a repeat, at every error but a part that is away.

    A process that was asked to end, or that lost its chunk to another, must not begin again; neither must a campaign
    that was just paused. A process that dies raises nothing, and Dagster repeats its step.
    """
    try:
        yield
    except (dg.Failure, dg.DagsterError):
        raise
    except (KeyboardInterrupt, dg.DagsterExecutionInterruptedError) as interruption:
        raise StepInterruptedError("the step was asked to end") from interruption
    except Exception as error:
        description = str(ending_of(error, campaign_id))
        raise dg.Failure(description, allow_retries=isinstance(error, PartUnavailableError)) from error
