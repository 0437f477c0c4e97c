"""One partition per month of the old table's created_at, in UTC; its key is YYYY-MM.

The first month is the one setting that is read when Dagster loads the definitions, because partitions are part of
them: EMAIL_PLATFORM_LEGACY_FIRST_MONTH. Rows before it are never imported; each run's check says whether there are any.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

import dagster as dg

from email_platform.errors import ConfigurationError
from email_platform.runs.legacy_table import Month
from email_platform.settings import DEFAULT_LEGACY_FIRST_MONTH, MONTH_PATTERN, variable_of

FIRST_MONTH_VARIABLE = variable_of("legacy_first_month")


def first_month(variables: Mapping[str, str]) -> Month:
    """The first partition.

    Raises:
        ConfigurationError: the variable is no month.
    """
    text = variables.get(FIRST_MONTH_VARIABLE, "").strip() or DEFAULT_LEGACY_FIRST_MONTH
    if not re.fullmatch(MONTH_PATTERN, text):
        raise ConfigurationError(f"{FIRST_MONTH_VARIABLE} must be a month such as 2020-01, not {text!r}")
    return month_of(text)


def month_of(key: str) -> Month:
    """The month of a partition key."""
    year, _, month = key.partition("-")
    return Month(int(year), int(month))


# The current month is a partition too: an old system that still writes is imported again and again until it stops.
legacy_months = dg.MonthlyPartitionsDefinition(str(first_month(os.environ)), fmt="%Y-%m", end_offset=1)
