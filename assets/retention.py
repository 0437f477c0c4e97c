"""The nightly removal of what nobody works with any more, as a job with its schedule."""

import dagster as dg

from email_platform.runs.erase import carry_on_all
from email_platform.runs.retention import Removal, run_retention
from resources.retention import ErasureResource, RetentionResource


class RetentionConfig(dg.Config):
    """How to remove.

    Attributes:
        dry_run: change nothing, and say what would be removed.
    """

    dry_run: bool = False


@dg.op
def remove_what_is_old(context: dg.OpExecutionContext, config: RetentionConfig, retention: RetentionResource) -> None:
    """Remove each kind of old thing, and say how much of it, what had to stay and why."""
    with retention.open(context.instance) as parts:
        for removal in run_retention(parts, dry_run=config.dry_run):
            context.log.info(summary(removal, dry_run=config.dry_run))
            context.add_output_metadata(
                {
                    removal.what: removal.items,
                    f"{removal.what}: details": dg.MetadataValue.json(dict(removal.details)),
                    f"{removal.what}: kept": dg.MetadataValue.json(dict(removal.kept)),
                    f"{removal.what}: nothing else is due": removal.is_complete,
                }
            )


@dg.op(ins={"removed": dg.In(dg.Nothing)})
def go_on_with_erasures(context: dg.OpExecutionContext, erasures: ErasureResource) -> None:
    """Go on with each request to erase a person that is not finished, and say what it waits for."""
    with erasures.open() as parts:
        for request in carry_on_all(parts):
            waits = "; ".join(request.waits_for)
            context.log.info(f"{request.pseudonym}: {'erased' if request.finished_at else f'waits: {waits}'}")


def summary(removal: Removal, *, dry_run: bool) -> str:
    """One line about what was removed."""
    done = "would remove" if dry_run else "removed"
    return f"{done} {removal.items:,} {removal.what}, {len(removal.kept):,} had to stay"


@dg.job(
    executor_def=dg.in_process_executor,
    description="Each night: archives the ledgers of campaigns that ended long ago, removes old runs, raw events "
    "and leftover rows, and goes on with erasures. With `dry_run` it only says what it would remove. "
    "docs/retention.md says what is kept how long.",
)
def retention_job() -> None:
    """Remove what is old; safe to kill and to repeat."""
    go_on_with_erasures(remove_what_is_old())


# Running by default: what grows for ever is noticed when a disk is full, and everything that it removes is half a year
# old, or of no use, and stays in the bucket where it matters. One setting of 0 days keeps a kind for ever.
retention_schedule = dg.ScheduleDefinition(
    job=retention_job, cron_schedule="30 3 * * *", default_status=dg.DefaultScheduleStatus.RUNNING
)
