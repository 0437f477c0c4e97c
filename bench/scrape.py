"""How long does a scrape of the metrics take in a backlog, against ``select 1``? On a whole stack.

python -m bench.scrape [--queued 10000] [--past 100000] [--scrapes 50]

The rows are those of `sensor_backlog.py`: queued and silent campaigns, past ones with a staged object each, runs and
partitions in Dagster's storage; beside them a settled call for each past campaign, unanswered ones, and an account with
a flow for each queued campaign. A scrape goes over HTTP to a process of its own. Dagster's storage is
read beside the scrapes, every 15 seconds; the first reading is waited for.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles

import dagster as dg
import httpx
from sqlalchemy import text

from bench.sensor_backlog import SEED_OLTP, fill_dagster, run
from email_platform.adapters.assembly import open_oltp
from email_platform.local.stack.dagster_processes import dagster_environment, write_dagster_yaml
from email_platform.local.stack.stack import clean_environment, running_stack
from email_platform.settings import Settings

MORE_ROWS = (
    "insert into send_call (campaign_id, chunk_index, call_index, call_id, state, first_position, recipient_count,"
    " body_sha256, lease_epoch, intent_at) select n, 0, 0, gen_random_uuid(), case when n <= :past then 'accepted' else"
    " 'unknown' end, 0, 50, '', 1, now() from generate_series(1, :past + 2000) n",
    "insert into provider_rate values ('simulator/default', now(), now(), now(), 1, now())",
    "insert into provider_rate_flow select 'simulator/default', n, now(), now() from generate_series(1, :queued) n",
    "analyze",
)


def main() -> None:
    """Start a stack, fill it, scrape, print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--queued", type=int, default=10_000)
    options.add_argument("--past", type=int, default=100_000)
    options.add_argument("--scrapes", type=int, default=50)
    given = options.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        running_stack(Path(folder) / "state", parts=("postgres", "s3"), environ=clean_environment()) as settings,
    ):
        print(json.dumps(measure(settings, given.queued, given.past, given.scrapes), indent=1))


def measure(settings: Settings, queued: int, past: int, scrapes: int) -> dict[str, float]:
    """Milliseconds: of a scrape, and of ``select 1``."""
    sizes = {"queued": queued, "silent": queued, "past": past, "leads": 1000}
    write_dagster_yaml(settings)
    environment = dagster_environment(settings, clean_environment())
    os.environ.update(environment)
    port = settings.metrics_port
    with open_oltp(settings) as oltp:
        for statement in (*SEED_OLTP, *MORE_ROWS):
            run(oltp, statement.replace("{{", "{").replace("}}", "}"), sizes)
        with dg.DagsterInstance.get() as instance:
            fill_dagster(instance, settings, sizes)
        command = (sys.executable, "-m", "email_platform.metrics", "--port", str(port), "--exit-with-parent")
        server = subprocess.Popen(command, env=environment)
        try:
            url = f"http://127.0.0.1:{port}/metrics"
            with httpx.Client(timeout=60) as client:
                _wait_for(client, url)
                plain = [_milliseconds(lambda: client.get(url).raise_for_status()) for _ in range(scrapes)]
                body = client.get(url).text
        finally:
            server.terminate()
            server.wait()
        with oltp.connect() as connection:
            one = [_milliseconds(lambda: connection.execute(text("select 1")).all()) for _ in range(scrapes)]
    wrong = [
        line for line in body.splitlines() if line.startswith("email_platform_scrape_failed") and line[-3:] != "0.0"
    ]
    if wrong:
        raise SystemExit(f"a group of figures is missing: {wrong}")
    return {
        "scrape_median_ms": median(plain),
        "scrape_p95_ms": quantiles(plain, n=20)[-1],
        "select_1_median_ms": median(one),
        "ratio_to_select_1": median(plain) / median(one),
    }


def _wait_for(client: httpx.Client, url: str) -> None:
    while True:
        try:
            if 'part_up{part="dagster"} 1.0' in client.get(url).text:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)


def _milliseconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1000


if __name__ == "__main__":
    main()
