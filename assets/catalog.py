"""Where an asset stands in Dagster's catalogue: its group, who answers for it, and what personal data it holds.

Invariant: whatever holds addresses of recipients or users is tagged `pii`; a test compares the tag with the columns.
"""

from __future__ import annotations

from collections.abc import Sequence

PII = {"pii": ""}
"""The tag of what holds a person's address, or a provider's text, which may quote one. dbt models have it as a tag."""

# Groups, in the order in which data passes through them. Those of dbt models follow the project's folders.
SOURCES = "sources"
CAMPAIGN = "campaign"
WAREHOUSE = "warehouse"
LEGACY = "legacy"
REPORTS = "reports"

DELIVERY_OWNERS: Sequence[str] = ["team:email-delivery"]
REPORTING_OWNERS: Sequence[str] = ["team:reporting"]


def dbt_group(folders: Sequence[str]) -> str:
    """The group of a dbt model: `reports_staging`, `reports_intermediate` or `reports_marts`.

    Args:
        folders: the model's ``fqn``: project, folders, name.
    """
    return f"{REPORTS}_{folders[1]}" if len(folders) > 2 else REPORTS
