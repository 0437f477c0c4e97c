"""The composition root: what Dagster loads. Everything is declared elsewhere; here it is put together.

Loading it opens no connection and reads no setting but the first month of the old table (`assets.legacy_partitions`).
"""

from __future__ import annotations

from typing import Any

import dagster as dg

from assets.campaign_audience import campaign_audience
from assets.campaign_deliveries import campaign_deliveries
from assets.events import load_events_job, replay_events_job, warehouse_events
from assets.jobs import campaign_job, load_campaigns_job, load_staged_job, reports_job, resolve_unknown_calls_job
from assets.leads_in_step import (
    lead_changes,
    lead_changes_job,
    lead_changes_schedule,
    lead_slices_job,
    lead_slices_schedule,
    leads_in_step,
)
from assets.legacy_emails import legacy_emails, legacy_import_job
from assets.rebuild import rebuild_warehouse_job
from assets.reports import campaign_reports, dbt_project, dbt_report_models
from assets.retention import retention_job, retention_schedule
from assets.sources import external_assets
from assets.warehouse import warehouse_deliveries, warehouse_dimensions
from resources.alerts import AlertsResource
from resources.dbt import DbtOnWarehouse
from resources.events import EventsResource
from resources.lead_source import LeadSourceResource
from resources.legacy import LegacyImportResource
from resources.parts import PartsResource
from resources.retention import ErasureResource, RetentionResource
from resources.settings import SettingsResource
from resources.step_outputs import StepOutputs
from resources.warehouse import WarehouseResource
from sensors.dead_runs import dead_runs
from sensors.events_are_waiting import events_are_waiting
from sensors.old_campaign_partitions import old_campaign_partitions
from sensors.operator_needed import operator_needed
from sensors.queued_campaigns import queued_campaigns
from sensors.reports_are_stale import reports_are_stale
from sensors.silent_campaigns import silent_campaigns
from sensors.staged_objects_waiting import staged_objects_waiting

settings = SettingsResource()


def fixed(resource: dg.ConfigurableResource[Any] | dg.ConfigurableIOManagerFactory[Any]) -> dg.ResourceDefinition:
    """The resource with nothing to configure at launch.

    Otherwise every launchpad shows every resource's configuration, dagster-dbt's long one among them, and a value typed
    there would make a run that reads other settings than the rest of the platform.
    """
    return resource.get_resource_definition().configured({})


defs = dg.Definitions(
    assets=[
        *external_assets,
        campaign_audience,
        campaign_deliveries,
        warehouse_deliveries,
        warehouse_events,
        warehouse_dimensions,
        legacy_emails,
        leads_in_step,
        lead_changes,
        dbt_report_models,
        campaign_reports,
    ],
    jobs=[
        campaign_job,
        load_campaigns_job,
        reports_job,
        load_staged_job,
        load_events_job,
        replay_events_job,
        rebuild_warehouse_job,
        resolve_unknown_calls_job,
        legacy_import_job,
        lead_slices_job,
        lead_changes_job,
        retention_job,
    ],
    schedules=[retention_schedule, lead_changes_schedule, lead_slices_schedule],
    sensors=[
        queued_campaigns,
        silent_campaigns,
        dead_runs,
        staged_objects_waiting,
        events_are_waiting,
        reports_are_stale,
        old_campaign_partitions,
        operator_needed,
    ],
    resources={
        "settings": fixed(settings),
        "parts": fixed(PartsResource(settings=settings)),
        "events": fixed(EventsResource(settings=settings)),
        "alerts": fixed(AlertsResource(settings=settings)),
        "warehouse": fixed(WarehouseResource(settings=settings)),
        "erasures": fixed(ErasureResource(settings=settings)),
        "retention": fixed(RetentionResource(settings=settings)),
        "legacy": fixed(LegacyImportResource(settings=settings)),
        "lead_source": fixed(LeadSourceResource(settings=settings)),
        "dbt": dg.ResourceDefinition(lambda _: DbtOnWarehouse.of(dbt_project), config_schema={}),  # likewise
        "io_manager": fixed(StepOutputs(settings=settings)),
    },
)
