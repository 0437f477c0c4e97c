"""What the warehouse holds: the campaign's deliveries and exclusions, and the small tables beside them."""

import dagster as dg

from assets.campaign_deliveries import campaign_deliveries
from assets.outcomes import failures_told
from assets.partitions import campaign_id_of, campaign_partitions
from email_platform.accounting import AccountingLine
from email_platform.campaign_run import LoadReport, account, load_staged
from email_platform.dimensions import refresh_dimensions
from resources.parts import PartsResource
from resources.warehouse import WarehouseResource

_LOADED = dg.AssetKey("warehouse_deliveries")


@dg.asset(
    key=_LOADED,
    deps=[campaign_deliveries],
    partitions_def=campaign_partitions,
    group_name="warehouse",
    kinds={"clickhouse"},
    check_specs=[
        dg.AssetCheckSpec(
            "accounting",
            asset=_LOADED,
            description="manifest = ledger = staged objects = warehouse, by status, and no lead twice",
        ),
        dg.AssetCheckSpec(
            "nothing_quarantined",
            asset=_LOADED,
            description="every staged object of the campaign was loaded; a corrupt one is set aside and named",
        ),
    ],
)
def warehouse_deliveries(
    context: dg.AssetExecutionContext, parts: PartsResource, warehouse: WarehouseResource
) -> dg.MaterializeResult:
    """The campaign's staged objects in ClickHouse, each inserted once by `insert ... select from s3()`.

    Grain: (campaign, lead). Loading again changes nothing.
    """
    campaign_id = campaign_id_of(context.partition_key)
    with failures_told(), parts.open() as opened, warehouse.open() as clickhouse:
        report = load_staged(opened.register, clickhouse, campaign_id)
        lines = account(opened, clickhouse, campaign_id)
    return dg.MaterializeResult(
        metadata=_load_metadata(report),
        check_results=[_accounting_check(lines), _quarantine_check(report)],
    )


@dg.asset(group_name="warehouse", kinds={"postgres", "clickhouse"})
def warehouse_dimensions(parts: PartsResource, warehouse: WarehouseResource) -> dg.MaterializeResult:
    """The campaigns and their users as the OLTP database has them now. Grain: one row a campaign, one a user."""
    with failures_told(), parts.open() as opened, warehouse.open() as clickhouse:
        rows = refresh_dimensions(opened.dimensions, opened.store, clickhouse, opened.clock)
    return dg.MaterializeResult(metadata={f"{name} rows": count for name, count in rows.items()})


def _load_metadata(report: LoadReport) -> dict[str, int | float]:
    return {
        "objects loaded now": report.objects,
        "rows loaded now": report.rows,
        "objects quarantined": len(report.quarantined),
        "seconds": round(report.seconds, 3),
        "rows per second": round(report.rows / report.seconds, 1) if report.seconds else 0.0,
    }


def _accounting_check(lines: list[AccountingLine]) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name="accounting",
        asset_key=_LOADED,
        passed=all(line.holds for line in lines),
        metadata={"lines": dg.MetadataValue.md("\n".join(f"- {line}" for line in lines))},
    )


def _quarantine_check(report: LoadReport) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name="nothing_quarantined",
        asset_key=_LOADED,
        passed=not report.quarantined,
        metadata={key: dg.MetadataValue.text(reason) for key, reason in report.quarantined.items()},
    )


@dg.op
def load_waiting_objects(context: dg.OpExecutionContext, parts: PartsResource, warehouse: WarehouseResource) -> None:
    """Load every staged object that the warehouse does not hold, of all campaigns."""
    with failures_told(), parts.open() as opened, warehouse.open() as clickhouse:
        report = load_staged(opened.register, clickhouse)
    context.add_output_metadata(_load_metadata(report))
    for key, reason in report.quarantined.items():
        context.log.warning(f"quarantined {key}: {reason}")
