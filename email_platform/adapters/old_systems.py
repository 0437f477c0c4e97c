"""Puts together what reads an application's old systems: old emails, leads at their source, old campaigns.

The rest is put together in `email_platform.adapters.assembly`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import timedelta

from email_platform.adapters.assembly import open_oltp, open_store, open_warehouse
from email_platform.adapters.clickhouse.legacy import ClickHouseLegacyEmails
from email_platform.adapters.postgres.audience import PostgresAudienceSource
from email_platform.adapters.postgres.erased import ErasedAddresses, erasure_key
from email_platform.adapters.postgres.lead_addresses import PostgresLeadAddresses
from email_platform.adapters.postgres.lead_relation import LeadRelation
from email_platform.adapters.postgres.staging import PostgresStagingRegister
from email_platform.adapters.postgres.work_lease import OLD_ROWS_WORK, hold_work_lease
from email_platform.audience.conditions import parse_condition
from email_platform.runs.lead_sync import (
    ChangesReport,
    LeadMirror,
    LeadSource,
    SliceReport,
    sync_changes,
    sync_slice,
)
from email_platform.runs.legacy_import import ImportReport, Throttle, import_month
from email_platform.runs.legacy_table import Month, SourceDescription
from email_platform.runs.shadow import ShadowReport, compare_with_old
from email_platform.settings import Settings


def import_legacy_month(
    settings: Settings, month: Month, on_range: Callable[[int, int, int], None] = lambda _done, _of, _rows: None
) -> ImportReport:
    """`email_platform.runs.legacy_import.import_month` between the parts of the settings.

    Raises:
        ConfigurationError: no old database is set, a part refuses us, or people were erased under another key.
        LegacySourceError: the old table is not as the import knows it.
        PartUnavailableError: a part went away; run again.
    """
    # Drivers of their own, which no other process than the import's should need to start.
    from email_platform.adapters.legacy_sources import legacy_source

    with (
        closing(legacy_source(settings)) as source,
        closing(ClickHouseLegacyEmails.from_settings(settings)) as legacy,
        open_oltp(settings) as engine,
        # Dagster's pool keeps others in the queue, but knows its limit only after the pool's first run (seen: three
        # months at once at the start of a backfill). The limit of rows a second is for all of them together.
        hold_work_lease(engine, OLD_ROWS_WORK),
        open_warehouse(settings) as warehouse,
    ):
        return import_month(
            source,
            open_store(settings),
            PostgresStagingRegister(engine),
            warehouse,
            legacy,
            month,
            Throttle(settings.legacy_rows_per_second, time.monotonic, time.sleep),
            ErasedAddresses(engine, erasure_key(settings)),
            on_range,
        )


def describe_old_table(settings: Settings) -> SourceDescription:
    """What the old table says of itself, once its columns, types and indexes are found to be those that are imported.

    Raises:
        ConfigurationError: no old database is set, or it refuses us.
        LegacySourceError: the table is not as the import knows it; says how.
        PartUnavailableError: it does not answer.
    """
    from email_platform.adapters.legacy_sources import legacy_source

    with closing(legacy_source(settings)) as source:
        return source.describe()


def take_over_lead_changes(settings: Settings) -> ChangesReport:
    """`email_platform.runs.lead_sync.sync_changes` between the parts of the settings.

    Raises:
        ConfigurationError: no source is set, it cannot be used, or leads are in a relation of somebody else.
        PartUnavailableError: a part went away; run again.
    """
    overlap = timedelta(seconds=settings.lead_source_overlap_seconds)
    with _lead_sync(settings) as (source, mirror, throttle):
        return sync_changes(source, mirror, overlap, throttle)


def sync_lead_slice(
    settings: Settings, slice_index: int, on_range: Callable[[int, int], None] = lambda _range, _rows: None
) -> SliceReport:
    """`email_platform.runs.lead_sync.sync_slice` between the same parts; raises as `take_over_lead_changes`."""
    with _lead_sync(settings) as (source, mirror, throttle):
        return sync_slice(source, mirror, slice_index, throttle, on_range)


@contextmanager
def _lead_sync(settings: Settings) -> Iterator[tuple[LeadSource, LeadMirror, Throttle]]:
    from email_platform.adapters.mysql.lead_source import MysqlLeadSource
    from email_platform.adapters.postgres.lead_mirror import PostgresLeadMirror

    LeadRelation.from_settings(settings).require_ours()
    source = MysqlLeadSource.from_settings(settings)
    # One at a time: the limit of rows a second is for all, and a slice never undoes what a look for changes did.
    with open_oltp(settings) as engine, hold_work_lease(engine, "leads from their source"):
        throttle = Throttle(settings.lead_source_rows_per_second, time.monotonic, time.sleep)
        erased = ErasedAddresses(engine, erasure_key(settings))
        yield source, PostgresLeadMirror(engine, source.fields, erased), throttle


def compare_with_old_campaign(settings: Settings, campaign_id: int, condition: object, sender_id: int) -> ShadowReport:
    """`email_platform.runs.shadow.compare_with_old` between the parts of the settings.

    Raises:
        InvalidConditionError: the condition breaks the grammar.
        CommandRefusedError: nothing of the campaign was imported.
        PartUnavailableError: a part is away.
    """
    leads = LeadRelation.from_settings(settings)
    with open_oltp(settings) as engine, closing(ClickHouseLegacyEmails.from_settings(settings)) as legacy:
        key = erasure_key(settings)
        audience = PostgresAudienceSource(engine, key, leads)
        return compare_with_old(
            legacy,
            PostgresLeadAddresses(engine, leads),
            audience,
            campaign_id,
            parse_condition(audience.resolved(condition)),
            sender_id,
            key.pseudonym if key is not None else lambda address: address,
        )
