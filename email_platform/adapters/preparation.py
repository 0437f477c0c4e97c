"""What must be there before anything uses the parts: the bucket, and the schemas of both databases.

Invariant: preparing twice is the same as preparing once, so every start does it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from email_platform.adapters.assembly import open_store
from email_platform.adapters.clickhouse.grants import apply_grants
from email_platform.adapters.clickhouse.migrate import upgrade_to_head as upgrade_warehouse
from email_platform.adapters.clickhouse.production_form import production_form
from email_platform.adapters.postgres.migrate import upgrade_to_head as upgrade_oltp
from email_platform.settings import PART_NAMES, PartName, Settings


def prepare(settings: Settings, parts: Collection[PartName] = PART_NAMES) -> None:
    """Make the bucket and bring the schemas up to date.

    Args:
        settings: the validated settings.
        parts: what answers now; the others are left alone.
    """
    if "s3" in parts and settings.s3_endpoint_url is not None:  # on AWS itself the bucket is the operator's
        open_store(settings).create_bucket()
    if "postgres" in parts:
        upgrade_oltp(settings.postgres_url.get_secret_value(), settings)
    if "clickhouse" in parts:
        upgrade_warehouse(settings.clickhouse_url.get_secret_value(), production_form(settings))


def give_clickhouse_rights(settings: Settings) -> Sequence[str]:
    """Make ClickHouse's roles with the rights of deploy/grants/clickhouse.sql; returns them.

    Raises:
        ConfigurationError: the user of the settings may not make roles, or there are none (the embedded part).
    """
    return apply_grants(settings.clickhouse_url.get_secret_value(), production_form(settings))
