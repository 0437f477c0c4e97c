"""What a refresh of the reports costs against building them again from all rows, model by model.

Fills the raw tables inside ClickHouse, builds everything, then refreshes after 1 % new deliveries, after as many late
events spread over all campaigns, and after nothing. One run, one machine: the ratios are the result.

    python bench/refresh_of_the_reports.py --rows 5000000

Engines on a folder of their own, removed at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from email_platform.adapters.clickhouse import dbt_environment
from email_platform.adapters.clickhouse.warehouse import ClickHouseWarehouse
from email_platform.local.stack.stack import clean_environment, running_stack
from email_platform.settings import Settings

PROJECT = Path(__file__).parents[1] / "dbt_reports"
CAMPAIGN_ROWS = 100_000
OBJECT_ROWS = 10_000

# Row n: campaign n / 100,000, a lead of a million, one of 7 large domains or 5,000 small ones; 96 % accepted.
_DELIVERIES = f"""
insert into delivery
select
    intDiv(number, {CAMPAIGN_ROWS}) + 1 as campaign_id,
    number % {CAMPAIGN_ROWS} * 10 + campaign_id % 10 as lead_id,
    toUUID(UUIDNumToString(toFixedString(substring(MD5(toString(number)), 1, 16), 16))) as message_id,
    campaign_id % 40 + 1 as owner_id,
    campaign_id % 60 + 1 as sender_id,
    concat('first.last', toString(lead_id), '@', if(number % 5 > 0,
        ['gmail.com', 'outlook.com', 'yahoo.com', 'gmx.de', 'web.de', 'icloud.com', 'orange.fr'][number % 7 + 1],
        concat('company', toString(intHash32(lead_id) % 5000), '.example'))) as email,
    'ses' as provider,
    if(number % 25 = 0, '', concat('0100018f-', toString(message_id))) as provider_message_id,
    if(number % 25 = 0, 'rejected', 'accepted') as status,
    if(number % 25 = 0, '550', '') as error_code,
    if(number % 25 = 0, 'no such user', '') as error_message,
    toInt32(number % {CAMPAIGN_ROWS} / {OBJECT_ROWS}) as chunk_index,
    toInt32(number % {OBJECT_ROWS} / 50) as call_index,
    toUUID('00000000-0000-5000-8000-000000000000') as call_id,
    toDateTime64('2026-01-01 00:00:00', 3, 'UTC') + interval campaign_id day
        + interval intDiv(number % {CAMPAIGN_ROWS}, 20) second as occurred_at,
    toUInt64(1) as version,
    concat('deliveries/', toString(intDiv(number, {OBJECT_ROWS}))) as source_object,
    '' as source_sha256,
    now64(3, 'UTC') as loaded_at
from numbers({{first}}, {{rows}})
settings max_partitions_per_insert_block = 0
"""

# One event for each `every`th delivery from `first` on.
_EVENTS = """
insert into event
select
    concat('{kind}', '-', toString(message_id)) as event_key,
    provider,
    'default' as account,
    event_key as event_id,
    '{kind}' as type,
    '{subtype}' as subtype,
    {rank} as status_rank,
    campaign_id,
    toString(message_id) as message_id,
    provider_message_id,
    email as recipient,
    occurred_at + interval {later_seconds} second as occurred_at,
    occurred_at as received_at,
    1 as normaliser_version,
    if('{kind}' = 'bounced', '{{"diagnostic": "550 5.1.1 no such user"}}', '{{}}') as details,
    concat('{kind}/', '{batch}') as source_object,
    '' as source_sha256,
    now64(3, 'UTC') as loaded_at
from delivery
where status = 'accepted' and lead_id % {every} = {offset}
settings max_partitions_per_insert_block = 0
"""


@dataclass(frozen=True, slots=True)
class Build:
    """One `dbt run`.

    Attributes:
        seconds: from dbt's start to its end, as a reader waits for it.
        models_seconds: of all models together, by dbt's clock: waiting for the processor counts.
        engine_cpu_seconds, dbt_cpu_seconds: what the two used of the processor, whatever else the machine did.
        of_models: seconds of each model.
    """

    seconds: float
    models_seconds: float
    engine_cpu_seconds: float
    dbt_cpu_seconds: float
    of_models: Mapping[str, float]

    @property
    def cpu_seconds(self) -> float:
        """Of both."""
        return self.engine_cpu_seconds + self.dbt_cpu_seconds


def fill(warehouse: ClickHouseWarehouse, first: int, rows: int) -> None:
    """Deliveries number `first` to `first + rows`, a million at a time."""
    for start in range(first, first + rows, 1_000_000):
        count = min(1_000_000, first + rows - start)
        warehouse.client.command(_DELIVERIES.format(first=start, rows=count))


def tell(warehouse: ClickHouseWarehouse, kind: str, batch: str, **values: object) -> None:
    """Events about deliveries that are there."""
    warehouse.client.command(_EVENTS.format(kind=kind, batch=batch, **({"subtype": ""} | values)))


def build(settings: Settings, project: Path, *arguments: str) -> Build:
    """Run every model, as a refresh does."""
    # One folder for all builds, so that dbt finds what it parsed before, as the platform's own runs do.
    folder = str(settings.state_folder / "dbt")
    command = [str(Path(sys.executable).with_name("dbt")), "run", "--quiet", "--project-dir", str(project)]
    command += ["--profiles-dir", str(project), "--target-path", folder, "--log-path", folder, *arguments]
    environment = {**os.environ, **dbt_environment(settings.clickhouse_url.get_secret_value())}
    engine, dbt, began = engine_cpu_seconds(), dbt_cpu_seconds(), time.perf_counter()
    subprocess.run(command, env=environment | {"DBT_SEND_ANONYMOUS_USAGE_STATS": "false"}, check=True)
    seconds = time.perf_counter() - began
    engine, dbt = engine_cpu_seconds() - engine, dbt_cpu_seconds() - dbt
    ended = json.loads((Path(folder) / "run_results.json").read_text())
    of_models = {result["unique_id"].split(".")[-1]: float(result["execution_time"]) for result in ended["results"]}
    return Build(seconds, sum(of_models.values()), engine, dbt, of_models)


def engine_cpu_seconds() -> float:
    """Of the processes that are running: the stack's."""
    times = [process.cpu_times() for process in psutil.Process().children(recursive=True)]
    return sum(time.user + time.system for time in times)


def dbt_cpu_seconds() -> float:
    """Of the processes that have ended: dbt's."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def show(builds: Mapping[str, Build]) -> None:
    """Seconds by model, and each build against the full one, as Markdown."""
    full = next(iter(builds.values()))
    print("| | " + " | ".join(builds) + " |\n| --- |" + " ---: |" * len(builds))
    for label, of in (
        ("processor: engine, seconds", lambda b: b.engine_cpu_seconds),
        ("processor: dbt, seconds", lambda b: b.dbt_cpu_seconds),
        ("engine, % of a full build", lambda b: b.engine_cpu_seconds / full.engine_cpu_seconds * 100),
        ("engine and dbt, % of a full build", lambda b: b.cpu_seconds / full.cpu_seconds * 100),
        ("end to end, dbt's start included, seconds", lambda b: b.seconds),
        ("end to end, % of a full build", lambda b: b.seconds / full.seconds * 100),
        ("models by dbt's clock, seconds", lambda b: b.models_seconds),
        ("models, % of a full build", lambda b: b.models_seconds / full.models_seconds * 100),
    ):
        print(f"| {label} | " + " | ".join(f"{of(b):.2f}" for b in builds.values()) + " |")
    for name in sorted(full.of_models, key=lambda name: -full.of_models[name]):
        print(f"| `{name}` | " + " | ".join(f"{b.of_models.get(name, 0):.2f}" for b in builds.values()) + " |")


def main() -> None:
    """Fill, build, refresh, print."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rows", type=int, default=5_000_000)
    arguments.add_argument("--project", type=Path, default=PROJECT, help="another state of the models, to compare")
    given = arguments.parse_args()
    rows, new = given.rows, max(given.rows // 100, 1)
    folder = Path(tempfile.mkdtemp(prefix="email-platform-refresh-"))
    folder.chmod(0o755)
    builds: dict[str, Build] = {}
    try:
        with running_stack(folder / "state", parts=("clickhouse",), environ=clean_environment()) as settings:
            warehouse = ClickHouseWarehouse.from_settings(settings)
            fill(warehouse, 0, rows)
            tell(warehouse, "delivered", "0", rank=40, later_seconds=2, every=2, offset=0)
            builds["full"] = build(settings, given.project)
            build(settings, given.project)
            builds["nothing new"] = build(settings, given.project)
            for turn in (1, 2):
                fill(warehouse, rows + (turn - 1) * new, new)
                builds[f"1 % new deliveries ({turn})"] = build(settings, given.project)
            for turn in (1, 2):
                late = {"rank": 90, "subtype": "hard", "later_seconds": 864_000, "every": 100, "offset": turn}
                tell(warehouse, "bounced", str(turn), **late)
                builds[f"1 % late bounces, all campaigns ({turn})"] = build(settings, given.project)
            builds["full again"] = build(settings, given.project, "--full-refresh")
            warehouse.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    show(builds)


if __name__ == "__main__":
    main()
