"""`make chaos-demo`: kill -9 of everything in the middle of a demo, then the demo again; it must end by itself.

python -m tests.chaos.kill_everything --leads 100000 [--report FILE]

Killed at one moment: the supervisor, the guards, PostgreSQL with its backends, the S3 server, the ClickHouse endpoint,
the provider, the receivers, Dagster's webserver, daemon and code server, run workers and step processes. Nothing is
cleaned up. The second start finds the state folder as the first one left it.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from rich.console import Console

from email_platform.adapters.assembly import open_parts
from email_platform.domain.campaigns import CampaignStatus
from email_platform.errors import EmailPlatformError
from email_platform.local.provider_simulator import AcceptedLog
from email_platform.local.stack.part import held_free_ports
from email_platform.local.stack.stack import clean_environment
from email_platform.settings import Settings, variable_of

PORT_SETTINGS = (
    *("postgres_port", "s3_port", "clickhouse_port", "provider_port", "dagster_port", "receiver_port", "metrics_port"),
    "code_server_port",
)
SHARE_SENT_BEFORE_THE_KILL = 0.4
PATIENCE_SECONDS = 3600.0
POLL_SECONDS = 0.2

console = Console(highlight=False, soft_wrap=True, markup=False)


@dataclass(frozen=True)
class Sent:
    """How far the demo's campaigns are: recipients by what the ledger knows, and the statuses."""

    eligible: int
    accepted: int
    statuses: tuple[str, ...]


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--leads", type=int, default=100_000)
    options.add_argument("--report", type=Path, help="append the figures as Markdown")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="kill-everything-") as folder:
        return kill_and_start_again(Path(folder), chosen.leads, chosen.report)


def kill_and_start_again(folder: Path, leads: int, report: Path | None) -> int:
    environment = clean_environment() | {variable_of("state_folder"): str(folder / "state")}
    with held_free_ports(len(PORT_SETTINGS)) as ports:
        environment |= {variable_of(name): str(port) for name, port in zip(PORT_SETTINGS, ports, strict=True)}
    began_seconds = time.monotonic()
    first = demo(environment, leads, folder / "first.log")
    at_the_kill = wait_for_the_moment(first, environment)
    killed_seconds = time.monotonic()
    killed = kill_everything(first)
    console.print(f"killed {sum(killed.values())} processes at {at_the_kill}: {dict(killed)}")

    second = demo(environment, leads, folder / "second.log")
    code = second.wait(PATIENCE_SECONDS)
    ended_seconds = time.monotonic()
    console.print((folder / "second.log").read_text(encoding="utf-8", errors="replace")[-6000:])
    if code != 0:
        console.print("BROKEN: the second demo did not come to its end")
        return 1
    log = AcceptedLog(folder / "state" / "provider")
    rows, leads_mailed = log.summary().accepted_rows, log.summary().distinct_message_ids
    console.print(f"the provider's own log: {rows:,} accepted, {leads_mailed:,} (campaign, lead) pairs")
    if rows != leads_mailed:
        console.print("BROKEN: somebody was mailed twice")
        return 1
    if report is not None:
        lines = [
            f"`make chaos-demo LEADS={leads}`: {sum(killed.values())} processes killed with SIGKILL at one moment, "
            f"{killed_seconds - began_seconds:.0f} s after the start, with {at_the_kill.accepted:,} of "
            f"{at_the_kill.eligible:,} recipients of the frozen audiences accepted; the second start ended by itself "
            f"after {ended_seconds - killed_seconds:.0f} s: {rows:,} messages accepted by the provider, "
            f"{leads_mailed:,} different (campaign, lead) pairs, every line of the demo's accounting equal.",
            "",
            "| killed | processes |",
            "| --- | ---: |",
            *(f"| {name} | {count} |" for name, count in sorted(killed.items())),
            "",
        ]
        with report.open("a", encoding="utf-8") as file:
            file.write("\n".join(lines))
    return 0


def demo(environment: dict[str, str], leads: int, log_file: Path) -> subprocess.Popen[bytes]:
    """`email-platform demo`, as an operator starts it."""
    program = "from email_platform.cli.app import app; app()"
    with log_file.open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-c", program, "demo", "--leads", str(leads)],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=Path(__file__).parents[2],
            start_new_session=True,
        )


def wait_for_the_moment(process: subprocess.Popen[bytes], environment: dict[str, str]) -> Sent:
    """Until so much is sent, by the ledger; the largest campaign is still sending then."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError("the first demo ended before its moment came")
        sent = look(environment)
        if sent is not None and sent.accepted >= SHARE_SENT_BEFORE_THE_KILL * sent.eligible:
            if CampaignStatus.SENDING not in sent.statuses:
                raise RuntimeError(f"nothing is sending any more: {sent}")
            return sent
        time.sleep(POLL_SECONDS)
    raise RuntimeError("the moment did not come")


def look(environment: dict[str, str]) -> Sent | None:
    """What the ledger says now; None while the stack starts or no audience is frozen."""
    try:
        settings = Settings.load(environment)
        with open_parts(settings, environment) as parts:
            campaigns = parts.campaigns.newest(3)
            manifests = [parts.manifests.find(campaign.campaign_id) for campaign in campaigns]
            if len(campaigns) < 3 or None in manifests:
                return None
            totals = [parts.ledger.totals(campaign.campaign_id) for campaign in campaigns]
    except EmailPlatformError:
        return None
    except Exception:  # the schema is being made
        return None
    return Sent(
        sum(manifest.eligible_rows for manifest in manifests if manifest is not None),
        sum(one.accepted for one in totals),
        tuple(str(campaign.status) for campaign in campaigns),
    )


def kill_everything(process: subprocess.Popen[bytes]) -> Counter[str]:
    """SIGKILL to the supervisor and all its descendants; returns how many, by kind."""
    supervisor = psutil.Process(process.pid)
    everybody = [supervisor, *supervisor.children(recursive=True)]
    kinds: Counter[str] = Counter()
    named: list[tuple[psutil.Process, str]] = []
    for one in everybody:
        with suppress(psutil.Error):
            named.append((one, kind_of(one)))
    # The guards first: they would end their parts in good order.
    for one, kind in sorted(named, key=lambda pair: pair[1] != "guard"):
        with suppress(ProcessLookupError):
            os.kill(one.pid, signal.SIGKILL)
            kinds[kind] += 1
    process.wait()
    psutil.wait_procs([one for one, _ in named], timeout=30)
    return kinds


def kind_of(process: psutil.Process) -> str:
    command = " ".join(process.cmdline())
    for sign, kind in (
        ("guard.py", "guard"),
        ("multiprocessing.forkserver", "run worker, step process or fork server"),
        ("multiprocessing.resource_tracker", "multiprocessing's resource tracker"),
        ("compute_logs", "capture of a step's log"),
        ("dagster._daemon", "Dagster daemon"),
        ("dagster_webserver", "Dagster webserver"),
        ("assets.code_server", "code server"),
        ("postgres", "PostgreSQL server and backends"),
        ("object_store_server", "S3 server"),
        ("clickhouse_endpoint", "ClickHouse endpoint"),
        ("provider_simulator", "provider"),
        ("email_platform.receiver", "receiver"),
        (" demo ", "supervisor"),
    ):
        if sign in command:
            return kind
    return "other"


if __name__ == "__main__":
    sys.exit(main())
