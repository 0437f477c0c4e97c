"""The warehouse from the bucket alone, as a job: after a loss, or for a new server."""

import time
from collections.abc import Callable

import dagster as dg

from assets.jobs import RETRY_TAGS
from assets.outcomes import final_errors_end_the_run
from email_platform.errors import ConfigurationError
from email_platform.runs.legacy_table import NOTHING
from email_platform.runs.rebuild import RebuildProgress, RebuildReport, rebuild_warehouse
from resources.parts import PartsResource
from resources.warehouse import WarehouseResource

PROGRESS_SECONDS = 5.0
SHOWN_KEYS = 50


class Rebuild(dg.Config):
    """How the warehouse is rebuilt.

    Attributes:
        empty_database: the name of the raw tables' database, typed out, to remove all their rows first; empty to load
            only what is missing.
    """

    empty_database: str = ""


@dg.op
def rebuild_from_staging_area(
    context: dg.OpExecutionContext, config: Rebuild, parts: PartsResource, warehouse: WarehouseResource
) -> None:
    """Load whatever the bucket has and the warehouse lacks, and show what the tables held before and hold now."""
    with final_errors_end_the_run(), parts.open() as opened, warehouse.open() as clickhouse:
        if config.empty_database not in ("", clickhouse.database):
            raise ConfigurationError(f"empty_database: the warehouse's database is {clickhouse.database}")
        report = rebuild_warehouse(
            opened.store,
            opened.register,
            opened.manifests,
            clickhouse,
            empty_first=bool(config.empty_database),
            on_progress=_observer(context),
        )
    context.add_output_metadata(_metadata(report))
    for reason in report.done.quarantined.values():
        context.log.warning(f"not loaded: {reason}")
    if report.missing:
        raise dg.Failure(
            f"{len(report.missing):,} registered objects are not in the bucket any more, so their rows cannot be "
            "rebuilt: restore them (the bucket's versions), then launch the job again",
            metadata={"missing": _shown(report.missing)},
            allow_retries=False,
        )


def _observer(context: dg.OpExecutionContext) -> Callable[[RebuildProgress], None]:
    began_seconds = last_seconds = time.monotonic()

    def observe(done: RebuildProgress) -> None:
        nonlocal last_seconds
        now_seconds = time.monotonic()
        if now_seconds - last_seconds >= PROGRESS_SECONDS:
            last_seconds = now_seconds
            rate = done.rows / (now_seconds - began_seconds)
            context.log.info(
                f"{done.found:,} objects found, {done.held:,} held, {done.loaded:,} loaded; "
                f"{done.rows:,} rows, {rate:,.0f} a second"
            )

    return observe


def _metadata(report: RebuildReport) -> dict[str, int | float | str | dg.MetadataValue]:
    done = report.done
    tables = ["| table | before | now |", "| --- | --- | --- |"]
    tables += [f"| {name} | {report.before.get(name, NOTHING)} | {now} |" for name, now in report.after.items()]
    return {
        "objects found": done.found,
        "objects held": done.held,
        "objects loaded now": done.loaded,
        "rows loaded now": done.rows,
        "rows per second": round(report.rows_per_second, 1),
        "seconds": round(report.seconds, 3),
        "registered again": done.registered,
        "quarantined": len(done.quarantined),
        "foreign objects": dg.MetadataValue.text(_shown(done.foreign)),
        "lists of excluded leads without a manifest": done.without_manifest,
        "tables changed": ", ".join(report.changed_tables()) or "none",
        "tables": dg.MetadataValue.md("\n".join(tables)),
    }


def _shown(keys: tuple[str, ...]) -> str:
    more = [f"and {len(keys) - SHOWN_KEYS:,} more"] if len(keys) > SHOWN_KEYS else []
    return "\n".join([*keys[:SHOWN_KEYS], *more]) or "none"


@dg.job(
    executor_def=dg.in_process_executor,
    tags=RETRY_TAGS,
    description=(
        "Fills the warehouse from the bucket: a new and empty one, one that lost rows, or after the alert "
        "`object_quarantined`, once the object is mended. Loads nothing twice; with `empty_database`, after removing "
        "every row. Mails nobody. Afterwards the reports refresh by themselves."
    ),
)
def rebuild_warehouse_job() -> None:
    """Load what the warehouse lacks of all that was ever staged."""
    rebuild_from_staging_area()
