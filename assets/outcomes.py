"""How a domain error ends a step: a stop that an operator wanted is not retried, an outage is.

Run retries are for processes that died or parts that were away. A campaign that was paused, cancelled, failed
or deleted ends its run with the reason as the failure's description, at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

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
def final_errors_end_the_run() -> Iterator[None]:
    """Turn errors that no retry can mend into a Failure with the reason and without retries."""
    try:
        yield
    except FINAL_ERRORS as error:
        raise dg.Failure(description=str(error), allow_retries=False) from error


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
def only_outages_are_repeated() -> Iterator[None]:
    """Under `LOST_STEP`: end the step, without a repeat, at every error but a part that is away.

    A process that was asked to end, or that lost its chunk to another, must not begin again; neither must a campaign
    that was just paused. A process that dies raises nothing, and Dagster repeats its step.
    """
    try:
        with final_errors_end_the_run():
            yield
    except (dg.Failure, PartUnavailableError):
        raise
    except (KeyboardInterrupt, dg.DagsterExecutionInterruptedError) as interruption:
        raise StepInterruptedError("the step was asked to end") from interruption
    except Exception as error:
        raise dg.Failure(description=f"{type(error).__name__}: {error}", allow_retries=False) from error
