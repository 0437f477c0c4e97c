"""The jobs: one run per campaign to send it, one for all campaigns to load what they staged, one for the reports."""

from __future__ import annotations

import multiprocessing

import dagster as dg
from dagster._core.execution.retries import RetryMode
from dagster._core.executor.in_process import InProcessExecutor
from dagster._core.executor.multiprocess import MultiprocessExecutor

from assets.campaign_audience import campaign_audience
from assets.campaign_deliveries import campaign_deliveries
from assets.reports import dbt_report_models
from assets.step_process import PRELOADED
from assets.unknown_calls import decide_about_unknown_calls
from assets.warehouse import load_waiting_objects, warehouse_deliveries, warehouse_dimensions
from email_platform.adapters.dagster_yaml import WAITS_FOR_TAG, WAREHOUSE
from email_platform.adapters.launchers import require_celery, require_possible
from email_platform.settings import Settings

ATTEMPT_TAG = "email_platform/attempt"

# A retry from the failed step would lose the chunks that had not started when the process died (measured;
# dagster #20925, #30077): every retry runs all steps, and each step skips what the ledger shows as done.
MAX_RETRIES_TAG = "dagster/max_retries"
RETRY_TAGS = {MAX_RETRIES_TAG: "3", "dagster/retry_strategy": "ALL_STEPS"}
WAREHOUSE_TAGS = {**RETRY_TAGS, WAITS_FOR_TAG: WAREHOUSE}


# A step process costs seconds before it does anything. A small campaign needs none: the death of
# the run's process ends the same calls that the death of its one step at work would.
@dg.executor(
    name="campaign_steps",
    config_schema={
        "in_one_process": dg.Field(
            bool, default_value=False, description="Run the steps one after the other in the run's own process."
        )
    },
    requirements=lambda config: [] if config["in_one_process"] else dg.multiple_process_executor_requirements(),
)
def campaign_steps(init_context: dg.InitExecutorContext) -> dg.Executor:
    """The run's own process, processes of its machine, or Celery's workers, as configuration and settings say.

    Raises:
        ConfigurationError: the run's launcher and these steps cannot work together.
    """
    if init_context.executor_config["in_one_process"]:
        return InProcessExecutor(retries=RetryMode.ENABLED)
    settings = Settings.load()
    pool = "prefork" if multiprocessing.current_process().daemon else None
    require_possible(type(init_context.instance.run_launcher).__name__, settings.steps, pool=pool)
    if settings.steps == "celery":
        require_celery()
        from assets.celery_steps import CelerySteps  # its packages are an extra

        return CelerySteps(settings, RetryMode.ENABLED)
    # The fork server with preloaded modules starts a step in about a third of a plain fork server's time.
    return MultiprocessExecutor(
        retries=RetryMode.ENABLED,
        max_concurrent=None,  # as many as there are cores
        start_method="forkserver",
        explicit_forkserver_preload=[*PRELOADED],
    )


campaign_job = dg.define_asset_job(
    "campaign_job",
    selection=dg.AssetSelection.assets(campaign_audience, campaign_deliveries),
    executor_def=campaign_steps,
    tags=RETRY_TAGS,
    description="Mails one campaign: freezes its audience, sends its chunks, stages what became of everybody. The "
    "sensor `queued_campaigns` starts it. Launched by hand it mails nobody twice, and says so. A pause or"
    " a cancel ends the run as cancelled, with who or what stopped it; `email-platform campaign resume "
    "17` starts the next attempt.",
)

load_campaigns_job = dg.define_asset_job(
    "load_campaigns_job",
    selection=dg.AssetSelection.assets(warehouse_deliveries),
    executor_def=dg.in_process_executor,
    tags=WAREHOUSE_TAGS,
    description="Loads campaigns into the warehouse again, by partition, and proves that manifest, ledger, staged "
    "objects and warehouse agree: for a campaign whose rows are missing or doubted. Mails nobody.",
)

reports_job = dg.define_asset_job(
    "reports_job",
    selection=dg.AssetSelection.assets(warehouse_dimensions, dbt_report_models),
    executor_def=dg.in_process_executor,
    tags=WAREHOUSE_TAGS,
    description="Refreshes the reports. The sensor `reports_are_stale` starts it after loads; launch it where the "
    "alert `reports_late` rings. Until it succeeds readers see older numbers; sending does not read "
    "reports.",
)


@dg.job(
    executor_def=dg.in_process_executor,
    tags=WAREHOUSE_TAGS,
    description="Loads whatever is staged and the warehouse does not hold, of all campaigns together, and proves "
    "their accounting. The sensor `staged_objects_waiting` starts it; launch it where the alert "
    "`loads_late` rings. Mails nobody; until it succeeds the reports and the guard against bounces do not"
    " see the newest mail.",
)
def load_staged_job() -> None:
    """Load what waits in the staging area."""
    load_waiting_objects()


@dg.job(
    executor_def=dg.in_process_executor,
    description="For the alert `unknown_calls`: abandons (never twice, some may have got nothing) or resends (never "
    "missed, some may get two) the calls of a campaign that had no answer. Needs the decision in its "
    "config; `email-platform campaign decide 17` does the same and shows the calls first.",
)
def resolve_unknown_calls_job() -> None:
    """Apply an operator's decision."""
    decide_about_unknown_calls()
