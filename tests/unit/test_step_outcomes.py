"""Which errors end a step for good, and which are repeated within its run."""

from __future__ import annotations

from collections.abc import Iterator

import dagster as dg
import pytest

from assets.outcomes import LOST_STEP, only_outages_are_repeated
from email_platform.errors import (
    CampaignStoppedError,
    LeaseLostError,
    PartUnavailableError,
    SendingInterruptedError,
    TooManyRejectedError,
)


def times_run(error: Exception) -> int:
    times = []

    @dg.op(retry_policy=dg.RetryPolicy(max_retries=LOST_STEP.max_retries))
    def step() -> None:
        times.append(1)
        with only_outages_are_repeated():
            raise error

    @dg.job
    def job() -> None:
        step()

    assert not job.execute_in_process(raise_on_error=False).success
    return len(times)


@pytest.mark.parametrize("interruption", [dg.DagsterExecutionInterruptedError("asked"), KeyboardInterrupt()])
def test_an_interruption_ends_the_run_and_no_other_step_begins(interruption: BaseException) -> None:
    begun = []

    @dg.op(out=dg.DynamicOut(int))
    def split() -> Iterator[dg.DynamicOutput[int]]:
        yield from (dg.DynamicOutput(number, mapping_key=str(number)) for number in range(3))

    @dg.op(retry_policy=dg.RetryPolicy(max_retries=LOST_STEP.max_retries))
    def step(number: int) -> None:
        begun.append(number)
        with only_outages_are_repeated():
            raise interruption

    @dg.job
    def job() -> None:
        split().map(step)

    assert not job.execute_in_process(raise_on_error=False).success
    assert begun == [0]


@pytest.mark.parametrize(
    ("error", "times"),
    [
        (PartUnavailableError("away"), 1 + LOST_STEP.max_retries),
        (SendingInterruptedError("asked to end"), 1),
        (LeaseLostError("another has it"), 1),
        (TooManyRejectedError("paused"), 1),
        (CampaignStoppedError(1, "paused"), 1),
        (ZeroDivisionError("a fault of ours"), 1),
    ],
)
def test_only_an_outage_is_repeated_within_the_run(error: Exception, times: int) -> None:
    assert times_run(error) == times
