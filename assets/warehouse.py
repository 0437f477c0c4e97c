"""What the warehouse holds: the campaigns' deliveries and exclusions, and the small tables beside them.

No campaign's run loads anything: one run loads for all campaigns together what their runs staged, so a warehouse that
is slow or away delays reports and nothing else.
"""

from collections.abc import Mapping

import dagster as dg

from assets.campaign_deliveries import campaign_deliveries
from assets.catalog import DELIVERY_OWNERS, PII, WAREHOUSE
from assets.outcomes import final_errors_end_the_run
from assets.partitions import CAMPAIGN_PARTITIONS_NAME, campaign_id_of, campaign_partitions, partition_key
from assets.reports import DAILY
from assets.sources import campaign_table, suppression_table, user_table
from assets.traces import traced
from email_platform.runs.load import CampaignAccount, LoadReport, load_staged, prove, prove_all
from email_platform.staging.dimensions import refresh_dimensions
from resources.parts import PartsResource
from resources.settings import SettingsResource
from resources.warehouse import WarehouseResource

LATE_SECONDS = 900.0  # the sensor staged_objects_waiting asks for a load after one minute

_LOADED = dg.AssetKey("warehouse_deliveries")
_DIMENSIONS = dg.AssetKey("warehouse_dimensions")


@dg.asset(
    key=_LOADED,
    deps=[campaign_deliveries],
    partitions_def=campaign_partitions,
    group_name=WAREHOUSE,
    owners=DELIVERY_OWNERS,
    tags=PII,
    kinds={"clickhouse"},
    check_specs=[
        dg.AssetCheckSpec(
            "accounting",
            asset=_LOADED,
            description="manifest = ledger = staged objects = warehouse, by status, and no lead twice",
            # Where one campaign is loaded by its partition, its run fails. The load of everything that waits goes on
            # with the others, and campaign_summary.not_loaded marks this one in the reports.
            blocking=True,
        ),
        dg.AssetCheckSpec(
            "nothing_quarantined",
            asset=_LOADED,
            description="every staged object of the campaign was loaded; a corrupt one is set aside and named",
        ),
    ],
)
def warehouse_deliveries(
    context: dg.AssetExecutionContext, parts: PartsResource, settings: SettingsResource, warehouse: WarehouseResource
) -> dg.MaterializeResult:
    """The campaign's staged objects in ClickHouse, each inserted once by `insert ... select from s3()`.

    Grain: (campaign, lead). Loading again changes nothing, and brings back what the warehouse lost.
    """
    campaign_id = campaign_id_of(context.partition_key)
    with (
        final_errors_end_the_run(campaign_id),
        traced(context, settings, "warehouse_deliveries", campaign_id=campaign_id),
        parts.open() as opened,
        warehouse.open() as clickhouse,
    ):
        report = load_staged(opened.register, clickhouse, campaign_id)
        proved = prove(opened, clickhouse, campaign_id)
    return dg.MaterializeResult(
        metadata={**_load_metadata(report), **_campaign_metadata(proved)},
        check_results=[
            dg.AssetCheckResult(
                check_name="accounting",
                asset_key=_LOADED,
                passed=proved.holds,
                metadata=_lines_metadata(proved),
            ),
            dg.AssetCheckResult(
                check_name="nothing_quarantined",
                asset_key=_LOADED,
                passed=not report.quarantined and not proved.again.quarantined,
                metadata=_reasons_metadata({**report.quarantined, **proved.again.quarantined}),
            ),
        ],
    )


@dg.asset(
    key=_DIMENSIONS,
    deps=[campaign_table, user_table, suppression_table],
    group_name=WAREHOUSE,
    owners=DELIVERY_OWNERS,
    tags=PII,
    kinds={"postgres", "clickhouse"},
    check_specs=[
        dg.AssetCheckSpec(
            "loads_are_current",
            asset=_DIMENSIONS,
            description=f"no staged object has waited more than {LATE_SECONDS / 60:.0f} minutes to be loaded",
        ),
        dg.AssetCheckSpec(
            "rows_are_ordinary",
            asset=_DIMENSIONS,
            description="the reports can hold every time of every campaign, user and suppression",
        ),
    ],
    freshness_policy=DAILY,
)
def warehouse_dimensions(parts: PartsResource, warehouse: WarehouseResource) -> dg.MaterializeResult:
    """The campaigns, users and counts of suppressions as the OLTP database has them now.

    Grain: one row a campaign; one a user; one a day, reason, source and sender of suppressions. The first step of each
    refresh of the reports, so this is where a load that is late is shown, and rows of which a value is mapped.
    """
    with final_errors_end_the_run(), parts.open() as opened, warehouse.open() as clickhouse:
        rows = refresh_dimensions(opened.dimensions, opened.store, clickhouse, opened.clock)
        late = opened.register.waiting_objects(LATE_SECONDS)
        odd = opened.dimensions.odd_rows()
    return dg.MaterializeResult(
        metadata={f"{name} rows": count for name, count in rows.items()},
        check_results=[
            dg.AssetCheckResult(
                check_name="loads_are_current",
                asset_key=_DIMENSIONS,
                passed=not late,
                severity=dg.AssetCheckSeverity.WARN,
                metadata={"objects waiting": late},
            ),
            dg.AssetCheckResult(
                check_name="rows_are_ordinary",
                asset_key=_DIMENSIONS,
                passed=not odd,
                severity=dg.AssetCheckSeverity.WARN,
                metadata={"odd rows": dg.MetadataValue.md("\n".join(f"- {one}" for one in odd) or "none")},
            ),
        ],
    )


def _load_metadata(report: LoadReport) -> dict[str, int | float]:
    return {
        "objects loaded now": report.objects,
        "rows loaded now": report.rows,
        "objects quarantined": len(report.quarantined),
        "seconds": round(report.seconds, 3),
        "rows per second": round(report.rows / report.seconds, 1) if report.seconds else 0.0,
    }


def _campaign_metadata(proved: CampaignAccount) -> dict[str, int | str]:
    return {
        "campaign": proved.name,
        "objects loaded again": proved.again.objects,
        "rows loaded again": proved.again.rows,
    }


def _lines_metadata(proved: CampaignAccount) -> dict[str, dg.MetadataValue | str]:
    return {"campaign": proved.name, "lines": dg.MetadataValue.md("\n".join(f"- {line}" for line in proved.lines))}


def _reasons_metadata(quarantined: Mapping[str, str]) -> dict[str, dg.MetadataValue]:
    return {key: dg.MetadataValue.text(reason) for key, reason in quarantined.items()}


def log_campaign_loads(
    context: dg.OpExecutionContext | dg.AssetExecutionContext,
    report: LoadReport,
    accounts: Mapping[int, CampaignAccount],
) -> None:
    """Say of each campaign of a load of several that its partition was loaded, and whether its counts agree.

    An old campaign whose partition was taken away is proved all the same; a difference stands in the run's log.
    """
    for key, reason in report.quarantined.items():
        context.log.warning(f"quarantined {key}: {reason}")
    for campaign_id, proved in accounts.items():
        for line in proved.lines:
            if not line.holds:
                context.log.error(f"campaign {campaign_id}: {line}")
        partition = partition_key(campaign_id)
        if not context.instance.has_dynamic_partition(CAMPAIGN_PARTITIONS_NAME, partition):
            continue
        quarantined = {
            key: reason
            for key, reason in {**report.quarantined, **proved.again.quarantined}.items()
            if f"campaign={campaign_id}/" in key
        }
        context.log_event(dg.AssetMaterialization(_LOADED, metadata=_campaign_metadata(proved), partition=partition))
        for check_name, passed, metadata in (
            ("accounting", proved.holds, _lines_metadata(proved)),
            ("nothing_quarantined", not quarantined, _reasons_metadata(quarantined)),
        ):
            context.log_event(  # takes an evaluation at run time; only its annotation leaves it out
                dg.AssetCheckEvaluation(  # type: ignore[arg-type]
                    asset_key=_LOADED,
                    check_name=check_name,
                    passed=passed,
                    metadata=metadata,
                    severity=dg.AssetCheckSeverity.ERROR,
                    partition=partition,
                )
            )


@dg.op
def load_waiting_objects(
    context: dg.OpExecutionContext, parts: PartsResource, settings: SettingsResource, warehouse: WarehouseResource
) -> None:
    """Load every staged object that the warehouse does not hold, of all campaigns, and prove each campaign's counts."""
    with (
        final_errors_end_the_run(),
        traced(context, settings, "load_waiting_objects"),
        parts.open() as opened,
        warehouse.open() as clickhouse,
    ):
        report = load_staged(opened.register, clickhouse)
        accounts = prove_all(opened, clickhouse, report.campaigns)
    context.add_output_metadata({**_load_metadata(report), "campaigns": len(report.campaigns)})
    log_campaign_loads(context, report, accounts)
