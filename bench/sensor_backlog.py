"""How long does a tick of each sensor take in a backlog? With Dagster's own sensor daemon code, on a whole stack.

`make backlog`, which is
python bench/sensor_backlog.py [--queued 10000] [--silent 10000] [--past 100000] [--ticks 20] [--leads 20000]

The OLTP database gets so many queued campaigns that are due, so many in ``sending`` of which nobody shows a sign of
life (each with a frozen audience and a run on record that is called at work), and so many past ones; Dagster's storage
gets a partition and a finished run for each past one. Then Dagster's sensor iteration runs in this process, with the
code server in another one, as its daemon has it, but without the sensors' minimum intervals. A tick's time is what
Dagster records: from its start until every run that it asked for is in the run queue. Nothing launches the queued runs.

Printed are the median, the 95th percentile and the longest tick of each sensor, the ticks that failed, launches a
second, and after how many ticks a campaign of one lead that is queued last has its run. The rows that are seeded need
no column of a later revision than 0005, so that older sensors can be measured by the same file.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median, quantiles
from typing import Any
from unittest.mock import patch

import dagster as dg
from dagster._core.test_utils import create_test_daemon_workspace_context
from dagster._core.workspace.load_target import ModuleTarget
from dagster._daemon.sensor import execute_sensor_iteration
from sqlalchemy import Engine, create_engine, text

from email_platform.adapters.assembly import open_oltp
from email_platform.local.stack.dagster_processes import dagster_environment, write_dagster_yaml
from email_platform.local.stack.stack import clean_environment, running_stack
from email_platform.settings import Settings

SENSORS = (
    *("queued_campaigns", "silent_campaigns", "old_campaign_partitions", "staged_objects_waiting"),
    *("events_are_waiting", "reports_are_stale", "dead_runs", "operator_needed"),
)
CAMPAIGN_ID_TAG, ATTEMPT_TAG = "email_platform/campaign_id", "email_platform/attempt"
_TEMPLATE_CAMPAIGN = 777_777_777_777_777

SEED_OLTP = (
    "insert into app_user (email, name) values ('owner@example.com', 'Owner')",
    "insert into sender (owner_id, from_address, from_name) values (1, 'news@example.com', 'News')",
    "insert into lead (email, city, attributes) select 'l' || n || '@example.com', 'city' || n % 100,"
    " jsonb_build_object('score', n % 100) from generate_series(1, :leads) n",
    # Past, then silent, then queued: their ids follow each other.
    "insert into campaign (owner_id, sender_id, name, subject_template, html_template, condition, status, queued_at,"
    " started_at, finished_at) select 1, 1, 'past', 's', 'h', '{{\"all\": []}}', 'sent', at, at, at"
    " from (select now() - interval '1 minute' * n as at from generate_series(1, :past) n) as times",
    "insert into campaign (owner_id, sender_id, name, subject_template, html_template, condition, status, queued_at,"
    " started_at, progress_at) select 1, 1, 'silent', 's', 'h', '{{\"all\": []}}', 'sending', at, at, at"
    " from (select now() - interval '1 hour' as at from generate_series(1, :silent) n) as times",
    "insert into campaign (owner_id, sender_id, name, subject_template, html_template, condition, status, queued_at)"
    " select 1, 1, 'queued', 's', 'h',"
    " jsonb_build_object('field', 'attributes.score', 'op', 'gte', 'value', n % 100), 'queued',"
    " now() - interval '5 min'"
    " from generate_series(1, :queued) n",
    "insert into campaign_manifest select id, gen_random_uuid(), 'prefix', 1000,"
    ' \'{{"suppressed": 0, "unsubscribed": 0, "invalid_address": 0, "duplicate_address": 0}}\', 1000, 50,'
    ' \'{{"sender_id": 1, "owner_id": 1, "from_address": "news@example.com", "from_name": "News", "reply_to": null,'
    ' "provider": "simulator", "provider_account": "default"}}\','
    ' \'{{"subject_template": "s", "html_template": "h", "text_template": ""}}\', \'hold\', now()'
    " from campaign where status = 'sending'",
    "insert into chunk (campaign_id, chunk_index) select id, 0 from campaign where status = 'sending'",
    "insert into staged_object (key, kind, campaign_id, rows, content_sha256, staged_at, loaded_sha256, loaded_rows,"
    " loaded_at) select 'deliveries/' || id, 'delivery', id, 1000, 'x', finished_at, 'x', 1000, finished_at"
    " from campaign where status = 'sent'",
    "analyze",
)

SEED_DAGSTER = (
    "insert into dynamic_partitions (partitions_def_name, partition) select 'campaign', id::text"
    " from generate_series(1, :past) id",
    "insert into runs (run_id, snapshot_id, pipeline_name, status, run_body, partition, start_time, end_time)"
    " select made.id, snapshot_id, pipeline_name, made.status, replace(replace(replace(run_body, run_id, made.id),"
    " '{template}', made.campaign::text), '\"NOT_STARTED\"', '\"' || made.status || '\"'), made.campaign::text,"
    " extract(epoch from now()) - 7200, extract(epoch from now()) - 3600 from runs cross join ("
    "   select gen_random_uuid()::text as id, n as campaign, case when n <= :past then 'SUCCESS' else 'STARTED' end"
    "     as status from generate_series(1, :past + :silent) n"
    " ) as made where run_id = :template_run",
    "insert into run_tags (run_id, key, value) select made.run_id, template.key,"
    " replace(template.value, '{template}', made.partition) from runs as made cross join run_tags as template"
    " where template.run_id = :template_run and made.run_id <> :template_run",
    "update runs set update_timestamp = now() - interval '1 hour'",
    "delete from run_tags where run_id = :template_run",
    "delete from runs where run_id = :template_run",
    "analyze",
)


def main() -> None:
    """Start a stack, fill it, tick, print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--queued", type=int, default=10_000)
    options.add_argument("--silent", type=int, default=10_000)
    options.add_argument("--past", type=int, default=100_000)
    options.add_argument("--leads", type=int, default=20_000)
    options.add_argument("--ticks", type=int, default=20)
    options.add_argument("--json", type=Path, help="where to write the figures")
    given = options.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        running_stack(Path(folder) / "state", environ=clean_environment()) as settings,
    ):
        sizes = {"queued": given.queued, "silent": given.silent, "past": given.past, "leads": given.leads}
        figures = measure(settings, sizes, given.ticks)
    for name, one in figures["sensors"].items():
        print(
            f"{name:26} {one['ticks']:3} ticks  median {one['median']:7.3f} s  p95 {one['p95']:7.3f} s"
            f"  longest {one['longest']:7.3f} s  failed {one['failed']}  runs asked for {one['runs']}"
        )
    print(f"launches a second while queued_campaigns ticks: {figures['launches_per_second']:.1f}")
    print(f"the campaign of one lead, queued last, had its run after {figures['small_after_ticks']} ticks")
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1))


def measure(settings: Settings, sizes: Mapping[str, int], ticks: int) -> dict[str, Any]:
    """Fill the stack, let every sensor tick so often, and give the figures."""
    write_dagster_yaml(settings)
    os.environ.update(dagster_environment(settings, os.environ))
    with open_oltp(settings) as oltp:
        for statement in SEED_OLTP:
            run(oltp, statement.replace("{{", "{").replace("}}", "}"), sizes)
        with dg.DagsterInstance.get() as instance:
            fill_dagster(instance, settings, sizes)
            small = add_small_campaign(oltp)
            return tick_all(instance, ticks, small)


def run(engine: Engine, statement: str, values: Mapping[str, Any]) -> None:
    """One statement, with the values that it names."""
    names = {name: value for name, value in values.items() if f":{name}" in statement}
    with engine.begin() as connection:
        connection.execute(text(statement), names)


def fill_dagster(instance: dg.DagsterInstance, settings: Settings, sizes: Mapping[str, int]) -> None:
    """Runs and partitions in Dagster's storage, copied from one real run."""
    from email_platform.definitions import defs

    tags = {CAMPAIGN_ID_TAG: str(_TEMPLATE_CAMPAIGN), ATTEMPT_TAG: "1", "dagster/partition": str(_TEMPLATE_CAMPAIGN)}
    template = instance.create_run_for_job(
        defs.resolve_job_def("campaign_job"), status=dg.DagsterRunStatus.NOT_STARTED, tags=tags
    )
    engine = create_engine(settings.dagster_postgres_url.get_secret_value())
    for statement in SEED_DAGSTER:
        values = {**sizes, "template_run": template.run_id}
        run(engine, statement.replace("{template}", str(_TEMPLATE_CAMPAIGN)), values)
    engine.dispose()


def add_small_campaign(oltp: Engine) -> int:
    """A campaign of a single lead, queued after all others."""
    with oltp.begin() as connection:
        return int(
            connection.execute(
                text(
                    "insert into campaign (owner_id, sender_id, name, subject_template, html_template, condition,"
                    " status, queued_at) values (1, 1, 'small', 's', 'h',"
                    ' \'{"field": "id", "op": "eq", "value": 1}\', \'queued\', now()) returning id'
                )
            ).scalar_one()
        )


def tick_all(instance: dg.DagsterInstance, ticks: int, small: int) -> dict[str, Any]:
    """Let Dagster's sensor iteration run so often, without minimum intervals.

    One sensor ticks after the other; its runs are submitted by as many threads as `dagster.yaml` gives the daemon.
    """
    logger = logging.getLogger("dagster.daemon")
    target = ModuleTarget("email_platform.definitions", None, None, "email_platform")
    small_after = 0
    with (
        create_test_daemon_workspace_context(target, instance) as workspace,
        patch("dagster._daemon.sensor.is_under_min_interval", return_value=False),
        ThreadPoolExecutor(instance.get_sensor_settings()["num_submit_workers"]) as submitting,
    ):
        logger.setLevel(logging.ERROR)
        list(execute_sensor_iteration(workspace, logger, None, submitting))  # the first one only starts the sensors
        for number in range(1, ticks + 1):
            list(execute_sensor_iteration(workspace, logger, None, submitting))
            if not small_after and instance.get_run_ids(dg.RunsFilter(tags={CAMPAIGN_ID_TAG: str(small)}), limit=1):
                small_after = number
        repository = next(
            iter(next(iter(workspace.create_request_context().code_locations)).get_repositories().values())
        )
        figures: dict[str, Any] = {"sensors": {}, "small_after_ticks": small_after or f"more than {ticks}"}
        for sensor in repository.get_sensors():
            if sensor.name in SENSORS:
                found = instance.get_ticks(sensor.get_remote_origin_id(), sensor.selector_id)
                figures["sensors"][sensor.name] = figures_of(found)
        queued = figures["sensors"]["queued_campaigns"]
        figures["launches_per_second"] = queued["runs"] / queued["seconds"] if queued["seconds"] else 0.0
        return figures


def figures_of(ticks: Sequence[Any]) -> dict[str, Any]:
    """Of one sensor's ticks as Dagster recorded them."""
    seconds = [tick.tick_data.end_timestamp - tick.timestamp for tick in ticks if tick.tick_data.end_timestamp]
    return {
        "ticks": len(seconds),
        "seconds": sum(seconds),
        "median": median(seconds),
        "p95": quantiles(seconds, n=20, method="inclusive")[-1] if len(seconds) > 1 else seconds[0],
        "longest": max(seconds),
        "failed": sum(tick.status.value == "FAILURE" for tick in ticks),
        "runs": sum(len(tick.run_ids) for tick in ticks),
    }


if __name__ == "__main__":
    began = time.monotonic()
    main()
    print(f"all in {time.monotonic() - began:.0f} s")
