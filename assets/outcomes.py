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
