"""What the warehouse holds: the campaign's deliveries and exclusions, and the small tables beside them."""

from collections.abc import Mapping

import dagster as dg

from assets.campaign_deliveries import campaign_deliveries
from assets.outcomes import failures_told
from assets.partitions import campaign_id_of, campaign_partitions
from assets.reports import DAILY
from email_platform.runs.load import LoadReport, account, load_lost, load_staged
from email_platform.staging.accounting import AccountingLine
from email_platform.staging.dimensions import refresh_dimensions
from resources.parts import PartsResource
from resources.warehouse import WarehouseResource

LATE_SECONDS = 900.0  # the sensor staged_objects_waiting asks for a load after one minute

_LOADED = dg.AssetKey("warehouse_deliveries")
_DIMENSIONS = dg.AssetKey("warehouse_dimensions")


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
            # The run fails, and nothing that reads the table is made in it. The reports are made by another run, for
            # all campaigns together: campaign_summary.not_loaded marks this one there instead of stopping the others.
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
    context: dg.AssetExecutionContext, parts: PartsResource, warehouse: WarehouseResource
) -> dg.MaterializeResult:
    """The campaign's staged objects in ClickHouse, each inserted once by `insert ... select from s3()`.

    Grain: (campaign, lead). Loading again changes nothing, and brings back what the warehouse lost.
    """
    campaign_id = campaign_id_of(context.partition_key)
    with failures_told(), parts.open() as opened, warehouse.open() as clickhouse:
        report = load_staged(opened.register, clickhouse, campaign_id)
        lines = account(opened, clickhouse, campaign_id)
        lost = LoadReport(0, 0, 0.0, {})
        if not all(line.holds for line in lines):
            lost = load_lost(opened.register, clickhouse, campaign_id)
            lines = account(opened, clickhouse, campaign_id)
    return dg.MaterializeResult(
        metadata={
            **_load_metadata(report),
            "objects loaded again": lost.objects,
            "rows loaded again": lost.rows,
        },
        check_results=[_accounting_check(lines), _quarantine_check({**report.quarantined, **lost.quarantined})],
    )


@dg.asset(
    key=_DIMENSIONS,
    group_name="warehouse",
    kinds={"postgres", "clickhouse"},
    check_specs=[
        dg.AssetCheckSpec(
            "loads_are_current",
            asset=_DIMENSIONS,
            description=f"no staged object has waited more than {LATE_SECONDS / 60:.0f} minutes to be loaded",
        )
    ],
    freshness_policy=DAILY,
)
def warehouse_dimensions(parts: PartsResource, warehouse: WarehouseResource) -> dg.MaterializeResult:
    """The campaigns, users and counts of suppressions as the OLTP database has them now.

    Grain: one row a campaign; one a user; one a day, reason, source and sender of suppressions. The first step of each
    refresh of the reports, so this is where a load that is late is told.
    """
    with failures_told(), parts.open() as opened, warehouse.open() as clickhouse:
        rows = refresh_dimensions(opened.dimensions, opened.store, clickhouse, opened.clock)
        late = opened.register.waiting_objects(LATE_SECONDS)
    return dg.MaterializeResult(
        metadata={f"{name} rows": count for name, count in rows.items()},
        check_results=[
            dg.AssetCheckResult(
                check_name="loads_are_current",
                asset_key=_DIMENSIONS,
                passed=not late,
                severity=dg.AssetCheckSeverity.WARN,
                metadata={"objects waiting": late},
            )
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


def _accounting_check(lines: list[AccountingLine]) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name="accounting",
        asset_key=_LOADED,
        passed=all(line.holds for line in lines),
        metadata={"lines": dg.MetadataValue.md("\n".join(f"- {line}" for line in lines))},
    )


def _quarantine_check(quarantined: Mapping[str, str]) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name="nothing_quarantined",
        asset_key=_LOADED,
        passed=not quarantined,
        metadata={key: dg.MetadataValue.text(reason) for key, reason in quarantined.items()},
    )


@dg.op
def load_waiting_objects(context: dg.OpExecutionContext, parts: PartsResource, warehouse: WarehouseResource) -> None:
    """Load every staged object that the warehouse does not hold, of all campaigns."""
    with failures_told(), parts.open() as opened, warehouse.open() as clickhouse:
        report = load_staged(opened.register, clickhouse)
    context.add_output_metadata(_load_metadata(report))
    for key, reason in report.quarantined.items():
        context.log.warning(f"quarantined {key}: {reason}")
