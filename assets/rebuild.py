"""The warehouse from the bucket alone, as a job: after a loss, or for a new server."""

import time
from collections.abc import Callable

import dagster as dg

from assets.outcomes import failures_told
from email_platform.rebuild import RebuildReport, rebuild_warehouse
from resources.parts import PartsResource
from resources.warehouse import WarehouseResource

PROGRESS_SECONDS = 5.0
SHOWN_KEYS = 50


@dg.op
def rebuild_from_staging_area(
    context: dg.OpExecutionContext, parts: PartsResource, warehouse: WarehouseResource
) -> None:
    """Load every object of the staging area that the warehouse does not hold, whatever the register says."""
    with failures_told(), parts.open() as opened, warehouse.open() as clickhouse:
        report = rebuild_warehouse(
            opened.store, opened.register, opened.manifests, clickhouse, on_progress=_observer(context)
        )
        fingerprints = clickhouse.fingerprints()
    table = "\n".join(
        ["| table | rows | checksum |", "| --- | ---: | ---: |"]
        + [f"| {name} | {found.rows:,} | {found.checksum} |" for name, found in fingerprints.items()]
    )
    context.add_output_metadata({**_metadata(report), "tables now": dg.MetadataValue.md(table)})
    for reason in report.quarantined.values():
        context.log.warning(f"not loaded: {reason}")
    if report.missing:
        raise dg.Failure(
            f"{len(report.missing):,} registered objects are not in the bucket any more, so their rows cannot be "
            "rebuilt: restore them (the bucket's versions), then launch the job again",
            metadata={"missing": "\n".join(report.missing[:SHOWN_KEYS])},
            allow_retries=False,
        )


def _observer(context: dg.OpExecutionContext) -> Callable[[int, int], None]:
    began_seconds = last_seconds = time.monotonic()

    def observe(objects: int, rows: int) -> None:
        nonlocal last_seconds
        now_seconds = time.monotonic()
        if now_seconds - last_seconds >= PROGRESS_SECONDS:
            last_seconds = now_seconds
            rate = rows / (now_seconds - began_seconds)
            context.log.info(f"{objects:,} objects, {rows:,} rows, {rate:,.0f} rows a second")

    return observe


def _metadata(report: RebuildReport) -> dict[str, int | float | dg.MetadataValue]:
    rows = sum(report.rows.values())
    return {
        **{f"{kind} objects": count for kind, count in report.objects.items()},
        **{f"{kind} rows": count for kind, count in report.rows.items()},
        "registered anew": report.registered,
        "quarantined": len(report.quarantined),
        "foreign objects": dg.MetadataValue.text("\n".join(report.foreign[:SHOWN_KEYS]) or "none"),
        "seconds": round(report.seconds, 3),
        "rows per second": round(rows / report.seconds, 1) if report.seconds else 0.0,
    }


@dg.job(
    executor_def=dg.in_process_executor,
    tags={"dagster/max_retries": "3", "dagster/retry_strategy": "ALL_STEPS"},
    description=(
        "Fill the warehouse from the bucket: a new and empty one, or one that lost rows. Loads nothing twice; "
        "afterwards the reports refresh by themselves."
    ),
)
def rebuild_warehouse_job() -> None:
    """Load what the warehouse lacks of all that was ever staged."""
    rebuild_from_staging_area()
