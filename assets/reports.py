"""The dbt project `dbt_reports/` as assets: the reports that consumers read."""

import json
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
from dagster_dbt import (
    DagsterDbtTranslator,
    DagsterDbtTranslatorSettings,
    DbtProject,
    dbt_assets,
)

from assets.partitions import campaign_id_of, campaign_partitions
from email_platform.adapters.dbt import PROJECT_FOLDER
from email_platform.errors import ConfigurationError
from resources.dbt import DbtOnWarehouse
from resources.warehouse import WarehouseResource

# The reports are refreshed after changes, and once a day without any (sensors/reports_are_stale.py): where they are
# older, the daemon is down or builds fail.
DAILY = dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=48), warn_window=timedelta(hours=26))

MOST_PAGES = 200
"""Report pages of one run of `campaign_reports`: each takes a second or two."""

dbt_project = DbtProject(project_dir=PROJECT_FOLDER)


def _manifest_path() -> Path:
    path = Path(dbt_project.manifest_path)
    if not path.exists():
        raise ConfigurationError(f"{path.name} of the dbt project is missing: run `make dbt-manifest`")
    return path


class ReportsTranslator(DagsterDbtTranslator):
    """Names and groups of the dbt models in Dagster; raw tables are the assets that load them."""

    SOURCES: Mapping[str, str] = {
        "delivery": "warehouse_deliveries",
        "exclusion": "warehouse_deliveries",
        "event": "warehouse_events",
        "campaign": "warehouse_dimensions",
        "app_user": "warehouse_dimensions",
        "legacy_email": "legacy_emails",
        "suppression": "warehouse_dimensions",
    }

    def get_asset_key(self, dbt_resource_props: Mapping[str, Any]) -> dg.AssetKey:
        """A source is the asset that fills its table; a model keeps its own name."""
        if dbt_resource_props["resource_type"] == "source":
            return dg.AssetKey(self.SOURCES[dbt_resource_props["name"]])
        return dg.AssetKey(dbt_resource_props["name"])

    def get_asset_spec(self, manifest: Mapping[str, Any], unique_id: str, project: DbtProject | None) -> dg.AssetSpec:
        """A mart is overdue where no build succeeded for longer than the sensor lets pass between two."""
        spec = super().get_asset_spec(manifest, unique_id, project)
        is_mart = "marts" in self.get_resource_props(manifest, unique_id)["fqn"]
        return dg.apply_freshness_policy(spec, DAILY) if is_mart else spec

    def get_group_name(self, dbt_resource_props: Mapping[str, Any]) -> str | None:
        """All models form one group."""
        return "reports"


# Unit tests prove the SQL, not the data: they run in the project's tests, not at every refresh.
BUILD = ("build", "--exclude-resource-type", "unit_test")

# One of our assets fills two tables, so two sources are one asset.
_TRANSLATOR = ReportsTranslator(DagsterDbtTranslatorSettings(enable_duplicate_source_asset_keys=True))


class ReportsBuild(dg.Config):
    """How the reports are built.

    Attributes:
        full_refresh: every model from all raw rows, instead of what is new since the last build.
    """

    full_refresh: bool = False


@dbt_assets(
    manifest=_manifest_path(),
    project=dbt_project,
    dagster_dbt_translator=_TRANSLATOR,
    pool="reports",  # one build at a time, whoever asks for it: two would do the same work twice
)
def dbt_report_models(  # noqa: ANN201 (Dagster reads a return annotation as the outputs' type)
    context: dg.AssetExecutionContext, config: ReportsBuild, dbt: DbtOnWarehouse
):
    """Staging, intermediate and mart models with their tests, built in order."""
    full_refresh = ["--full-refresh"] if config.full_refresh else []
    yield from dbt.cli([*BUILD, *full_refresh], context=context).stream()


@dg.asset(
    partitions_def=campaign_partitions,
    backfill_policy=dg.BackfillPolicy.single_run(),  # dbt's start costs more than any campaign: one build for all
    deps=[dg.AssetKey("warehouse_deliveries"), dg.AssetKey("warehouse_events"), dg.AssetKey("warehouse_dimensions")],
    group_name="reports",
    kinds={"dbt", "clickhouse"},
    pool="reports",
)
def campaign_reports(context: dg.AssetExecutionContext, dbt: DbtOnWarehouse, warehouse: WarehouseResource) -> None:
    """What the reports say of these campaigns, recomputed from the raw tables; runs only when somebody asks for it.

    Grain: as in each report. The refreshes of `reports_job` take in what is new by themselves; this is for campaigns
    whose rows are doubted. Rows of deliveries that the raw table has no more stay: `full_refresh` of `reports_job`
    takes those away. Each campaign's report page is written into the bucket, for at most `MOST_PAGES` in one run.
    """
    campaigns = [campaign_id_of(key) for key in context.partition_keys]
    asked = ["--vars", json.dumps({"recompute_campaigns": campaigns})]
    dbt.cli([*BUILD, *asked], manifest=_manifest_path()).wait()
    with warehouse.open() as clickhouse:
        reported = clickhouse.reported_counts(campaigns)
        for number, (key, campaign) in enumerate(zip(context.partition_keys, campaigns, strict=True)):
            if campaign not in reported:
                context.add_asset_metadata({"campaign_summary": "has no such campaign"}, partition_key=key)
                continue
            page = warehouse.keep_page(clickhouse, campaign) if number < MOST_PAGES else None
            shown = (
                {
                    "report": dg.MetadataValue.url(page.link),
                    "report_object": page.key,
                    "summary": dg.MetadataValue.md(page.summary),
                }
                if page
                else {}
            )
            context.add_asset_metadata({**reported[campaign], **shown}, partition_key=key)
