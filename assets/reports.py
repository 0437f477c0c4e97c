"""The dbt project `dbt_reports/` as assets: the reports that consumers read."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import dagster as dg
from dagster_dbt import (
    DagsterDbtTranslator,
    DagsterDbtTranslatorSettings,
    DbtProject,
    dbt_assets,
)
from dagster_dbt.errors import DagsterDbtCliRuntimeError

from assets.catalog import PII, REPORTING_OWNERS, REPORTS, dbt_group
from assets.links import campaign_links
from assets.outcomes import final_errors_end_the_run
from assets.partitions import CAMPAIGN_PARTITIONS_NAME, campaign_id_of, campaign_partitions, partition_key
from assets.traces import traced
from email_platform.adapters.clickhouse.warehouse import ClickHouseWarehouse
from email_platform.adapters.dbt import PROJECT_FOLDER
from email_platform.errors import ConfigurationError
from email_platform.runs.ending import Ending
from resources.dbt import DbtOnWarehouse
from resources.settings import SettingsResource
from resources.warehouse import WarehouseResource, outcome_picture

# The reports are refreshed after changes, and once a day without any (sensors/reports_are_stale.py): where they are
# older, the daemon is down or builds fail.
DAILY = dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=48), warn_window=timedelta(hours=26))

MOST_PAGES = 200
"""Report pages of one run of `campaign_reports`: each takes a second or two."""
MOST_REPORTED = 100
"""Campaigns that one refresh notes as reported, the newest first; each is a row of Dagster's event log."""
KEYS_ASKED_FOR = 2_000
"""Campaigns of which one refresh asks whether the reports show them to their end; the ids travel in one URL."""

_CAMPAIGN_REPORTS = dg.AssetKey("campaign_reports")
_MARTS = "marts"

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
        is_mart = _MARTS in self.get_resource_props(manifest, unique_id)["fqn"]
        return dg.apply_freshness_policy(spec, DAILY) if is_mart else spec

    def get_group_name(self, dbt_resource_props: Mapping[str, Any]) -> str | None:
        """A group for each folder of the project: staging, intermediate, marts."""
        return dbt_group(dbt_resource_props["fqn"])

    def get_owners(self, dbt_resource_props: Mapping[str, Any]) -> Sequence[str] | None:
        """All models are looked after by the same people."""
        return REPORTING_OWNERS


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
    context: dg.AssetExecutionContext,
    config: ReportsBuild,
    dbt: DbtOnWarehouse,
    settings: SettingsResource,
    warehouse: WarehouseResource,
):
    """Staging, intermediate and mart models with their tests, built in order."""
    full_refresh = ["--full-refresh"] if config.full_refresh else []
    with (
        final_errors_end_the_run(),
        dbt_failures_in_short(),
        traced(context, settings, "dbt_report_models", full_refresh=config.full_refresh),
        warehouse.open() as clickhouse,
    ):
        clickhouse.fill_keys()
        for event in dbt.cli([*BUILD, *full_refresh], context=context).stream():
            yield with_row_count(event, clickhouse)
        note_reported_campaigns(context, clickhouse)


@contextmanager
def dbt_failures_in_short() -> Iterator[None]:
    """Say in two lines what dbt could not build, and what to do, before dbt's own words."""
    try:
        yield
    except DagsterDbtCliRuntimeError as error:
        _, _, named = str(error.description or error).partition("Errors parsed from dbt logs:")
        first = next((line.strip() for line in named.splitlines() if line.strip()), "its log names the model or test")
        ending = Ending(
            f"dbt could not build every report: {first}",
            "Readers see older numbers of what failed; sending does not read reports.",
            "mend what is named, then: dagster job launch -w workspace.yaml -j reports_job",
        )
        raise dg.Failure(str(ending), metadata={"errors": dg.MetadataValue.text(named.strip())}) from error


def with_row_count(event: Any, clickhouse: ClickHouseWarehouse) -> Any:
    """The event of a mart that was built with the number of its rows; any other event as it is."""
    if not isinstance(event, dg.Output):
        return event
    unique_id = str(getattr(event.metadata.get("unique_id"), "text", ""))
    if not unique_id.startswith("model.") or _MARTS not in _folders().get(unique_id, ()):
        return event
    rows = clickhouse.report_rows(unique_id.rpartition(".")[2])
    return event if rows is None else event.with_metadata({**event.metadata, "dagster/row_count": rows})


@cache
def _folders() -> Mapping[str, Sequence[str]]:
    nodes = json.loads(_manifest_path().read_text(encoding="utf-8"))["nodes"]
    return {unique_id: node["fqn"] for unique_id, node in nodes.items()}


def note_reported_campaigns(context: dg.AssetExecutionContext, clickhouse: ClickHouseWarehouse) -> None:
    """Say of campaigns that the reports now show to their end that their partition of `campaign_reports` is there.

    Each is noted once. What the reports learn later (opens, bounces) is in the reports, and not in Dagster's log.
    """
    known = context.instance.get_dynamic_partitions(CAMPAIGN_PARTITIONS_NAME)
    noted = context.instance.get_materialized_partitions(_CAMPAIGN_REPORTS)
    campaigns = sorted((int(key) for key in set(known) - noted if key.isdecimal()), reverse=True)
    for campaign, figures in clickhouse.reported_to_the_end(campaigns[:KEYS_ASKED_FOR], MOST_REPORTED).items():
        context.log_event(
            dg.AssetMaterialization(
                _CAMPAIGN_REPORTS,
                partition=partition_key(campaign),
                metadata={"outcome": outcome_picture(figures), **figures},
            )
        )


@dg.asset(
    partitions_def=campaign_partitions,
    backfill_policy=dg.BackfillPolicy.single_run(),  # dbt's start costs more than any campaign: one build for all
    deps=[dg.AssetKey("warehouse_deliveries"), dg.AssetKey("warehouse_events"), dg.AssetKey("warehouse_dimensions")],
    group_name=dbt_group((REPORTS, _MARTS, "campaign_reports")),
    owners=REPORTING_OWNERS,
    tags=PII,
    kinds={"dbt", "clickhouse"},
    pool="reports",
)
def campaign_reports(
    context: dg.AssetExecutionContext,
    dbt: DbtOnWarehouse,
    warehouse: WarehouseResource,
    settings: SettingsResource,
) -> None:
    """What the reports say of each campaign; materialize a partition to compute it again from the raw tables.

    Grain: as in each report. A partition is noted by the first refresh of `reports_job` that shows the campaign to its
    end. Those refreshes take in what is new by themselves; a run of this asset is for campaigns whose rows are doubted.
    Rows of deliveries that the raw table has no more stay: `full_refresh` of `reports_job` takes those away. Each
    campaign's report page is written into the bucket, for at most `MOST_PAGES` in one run.
    """
    campaigns = [campaign_id_of(key) for key in context.partition_keys]
    asked = ["--vars", json.dumps({"recompute_campaigns": campaigns})]
    with final_errors_end_the_run(), dbt_failures_in_short(), warehouse.open() as clickhouse:
        dbt.cli([*BUILD, *asked], manifest=_manifest_path()).wait()
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
            links = campaign_links(settings, campaign)
            figures = {"outcome": outcome_picture(reported[campaign]), **reported[campaign]}
            context.add_asset_metadata({**figures, **shown, **links}, partition_key=key)
