"""Where an asset stands in Dagster's catalogue: its group, who answers for it, and what personal data it holds.

Invariant: whatever holds addresses of recipients or users is tagged `pii`; a test compares the tag with the columns.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

PII = {"pii": ""}
"""The tag of what holds a person's address, or a provider's text, which may quote one. dbt models have it as a tag."""

_OF_A_PERSON = re.compile(r"(.*_)?(email|address|recipient|error|error_message|event_reason|details|example_reason)")

# Groups, in the order in which data passes through them. Those of dbt models follow the project's folders.
SOURCES = "sources"
LEADS = "leads"
CAMPAIGN = "campaign"
WAREHOUSE = "warehouse"
LEGACY = "legacy"
REPORTS = "reports"

DELIVERY_OWNERS: Sequence[str] = ["team:email-delivery"]
REPORTING_OWNERS: Sequence[str] = ["team:reporting"]


def holds_addresses(columns: Iterable[str]) -> bool:
    """Whether one of the columns has a name that this platform gives to addresses and to providers' texts."""
    return any(_OF_A_PERSON.fullmatch(column) for column in columns)


def dbt_group(folders: Sequence[str]) -> str:
    """The group of a dbt model: `reports_staging`, `reports_intermediate` or `reports_marts`.

    Args:
        folders: the model's ``fqn``: project, folders, name.
    """
    return f"{REPORTS}_{folders[1]}" if len(folders) > 2 else REPORTS
