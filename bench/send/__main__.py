"""`make bench-send`: what sending costs, as ratios of things measured side by side in one run.

    python -m bench.send [--scale small|full] [--docs docs]

1. Our sender alone beside a bare loop over the same bodies, in turns, for a newsletter of 2 kB and one of 30 kB.
2. Campaigns of growing size from the queue to the reports, through everything, beside the sender's own time.
3. A campaign of 1,000 leads at 500 recipients a second, alone and behind two large ones.
4. django-post-office on the same PostgreSQL and the same server.

The provider is a server that accepts everybody as cheaply as it can (`answering_server`).
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from sqlalchemy import Engine

from bench.send.answering_server import answering_server
from bench.send.campaigns import queue, seed_leads
from bench.send.findings import Findings, SmallCampaign
from bench.send.peer_run import run_peer
from bench.send.report import print_findings, write_page
from bench.send.sender_alone import in_a_process
from bench.send.whole_path import Path as WholePath
from bench.send.whole_path import follow, import_size_mb, memory_watched, until_accepted
from email_platform.adapters.assembly import open_oltp
from email_platform.local.stack.stack import ALL_PART_NAMES, clean_environment, running_stack
from email_platform.settings import Settings, variable_of

REPORTS_VARIABLE = variable_of("reports_interval_seconds")
RATE_VARIABLE = "EMAIL_PLATFORM_SIMULATOR_RECIPIENTS_PER_SECOND"
SCALES: Mapping[str, Mapping[str, object]] = {
    "small": {"leads": 10_000, "rounds": 1, "path": (1_000, 10_000), "large": 20_000, "peer": 2_000},
    "full": {"leads": 50_000, "rounds": 3, "path": (10_000, 100_000, 1_000_000), "large": 40_000, "peer": 20_000},
    "growth": {"leads": 50_000, "rounds": 3, "path": (10_000, 100_000, 1_000_000, 3_000_000), "large": 40_000,
               "peer": 20_000},
}  # fmt: skip


def main() -> None:
    """Measure, print, and write the page where asked."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--scale", choices=sorted(SCALES), default="full")
    options.add_argument("--docs", type=Path, help="write the page and its plots into this folder")
    options.add_argument("--only", choices=["sender", "path", "small", "peer"], action="append")
    chosen = options.parse_args()
    scale = SCALES[chosen.scale]
    wanted = chosen.only or ["sender", "path", "small", "peer"]
    findings = Findings(scale=chosen.scale, cores=os.cpu_count() or 0)
    with tempfile.TemporaryDirectory(prefix="bench-send-") as name, answering_server() as url:
        folder = Path(name)
        environment = clean_environment() | {
            variable_of("provider_url"): url,
            variable_of("provider_api_key"): "bench",
            variable_of("start_timeout_seconds"): "300",
            REPORTS_VARIABLE: "5",
        }
        if "sender" in wanted or "path" in wanted:
            with _stack(folder / "engines", environment, ("postgres", "s3", "clickhouse")) as settings:
                _measure_sender(findings, settings, environment, url, scale)
                if "peer" in wanted:
                    findings.peer = run_peer(settings, url, int(str(scale["peer"])), 2, 2_000, folder)
        if "path" in wanted:
            with _stack(folder / "whole", environment, ALL_PART_NAMES) as settings, open_oltp(settings) as engine:
                _measure_path(findings, settings, engine, scale)
        if "small" in wanted:
            limited = {name: value for name, value in environment.items() if name != REPORTS_VARIABLE}
            limited[RATE_VARIABLE] = "500"
            with _stack(folder / "small", limited, ALL_PART_NAMES) as settings, open_oltp(settings) as engine:
                findings.small = _measure_small(settings, engine, int(str(scale["large"])))
    findings.load_average = os.getloadavg()[0]
    print_findings(findings)
    if chosen.docs:
        write_page(findings, chosen.docs)


def _stack(folder: Path, environment: Mapping[str, str], parts: tuple[str, ...]) -> AbstractContextManager[Settings]:
    return running_stack(folder / "state", parts=parts, environ=environment, say=print)


def _measure_sender(
    findings: Findings, settings: Settings, environment: Mapping[str, str], url: str, scale: Mapping[str, object]
) -> None:
    with open_oltp(settings) as engine:
        seed_leads(engine, "bench", int(str(scale["leads"])))
    child = {**environment, variable_of("state_folder"): str(settings.state_folder)}
    for html_bytes in (2_000, 30_000):
        findings.sender[html_bytes] = in_a_process(child, url, html_bytes, "bench", int(str(scale["rounds"])), print)


def _measure_path(findings: Findings, settings: Settings, engine: Engine, scale: Mapping[str, object]) -> None:
    findings.import_mb = import_size_mb()
    sizes = scale["path"]
    assert isinstance(sizes, tuple)
    seed_leads(engine, "warm", 1_000)
    follow(settings, engine, partial(queue, engine, "warm", 2_000))  # pays for what a stack loads once
    for size in sizes:
        seed_leads(engine, f"path{size}", size)
        with memory_watched() as memory:
            path: WholePath = follow(settings, engine, partial(queue, engine, f"path{size}", 2_000))
        print(f"  {size:,} leads: {path.total_seconds:.1f} s")
        findings.paths.append((path, dict(memory.peak_mb)))


def _measure_small(settings: Settings, engine: Engine, large: int) -> SmallCampaign:
    seed_leads(engine, "small", 1_000)
    for number in range(2):
        seed_leads(engine, f"large{number}", large)

    def small() -> WholePath:
        return follow(settings, engine, lambda: queue(engine, "small", 2_000))

    small()  # the first run of a stack pays for what is loaded once
    alone = [small() for _ in range(3)]
    larges = [queue(engine, f"large{number}", 2_000) for number in range(2)]
    for campaign_id in larges:
        until_accepted(engine, campaign_id)
    behind = small()
    return SmallCampaign(statistics.median(one.sent_seconds for one in alone), behind.sent_seconds, large)


if __name__ == "__main__":
    main()
