"""How long does a small campaign wait behind large ones on one provider account? On a whole stack with Dagster.

python -m bench.small_behind_large [--rate 100] [--small 1000] [--large 25000] [--larges 4]

Measured is the time from queueing until every recipient is accepted: of the small campaign alone, then of another one
that is queued while large ones are sending and more of them wait in the run queue. All use one account with one rate,
and everything goes through the sensors, the run queue, run workers and step processes. Then the large ones that
have not ended are cancelled.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import Engine, text

from bench.send.campaigns import queue, seed_leads
from email_platform.adapters.assembly import open_oltp, open_parts
from email_platform.domain.campaigns import CampaignStatus
from email_platform.errors import IllegalTransitionError
from email_platform.local.stack.stack import ALL_PART_NAMES, clean_environment, running_stack
from email_platform.runs.launch import LARGE_ROWS
from email_platform.runs.parts import Parts
from email_platform.settings import variable_of

RATE_VARIABLE = "EMAIL_PLATFORM_SIMULATOR_RECIPIENTS_PER_SECOND"
POLL_SECONDS = 0.1
PATIENCE_SECONDS = 900.0


def main() -> None:
    """Start a stack, measure, print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rate", type=int, default=100, help="recipients a second of the account")
    options.add_argument("--small", type=int, default=1000)
    options.add_argument("--large", type=int, default=25_000)
    options.add_argument("--larges", type=int, default=4)
    chosen = options.parse_args()
    if chosen.large < LARGE_ROWS:
        options.error(f"a campaign is large from {LARGE_ROWS} recipients on")
    environment = clean_environment() | {
        RATE_VARIABLE: str(chosen.rate),
        variable_of("start_timeout_seconds"): "300",
    }
    with (
        tempfile.TemporaryDirectory(prefix="small-behind-large-") as folder,
        running_stack(Path(folder) / "state", parts=ALL_PART_NAMES, environ=environment, say=print) as settings,
        open_oltp(settings) as engine,
        open_parts(settings, {**os.environ, **environment}) as parts,
    ):
        seed_leads(engine, "small", chosen.small)
        seed_leads(engine, "large", chosen.large)
        alone = measure(engine, parts, "small")
        larges = [queue(engine, "large") for _ in range(chosen.larges)]
        running = min(len(larges), settings.max_concurrent_runs - 1)
        # At least so many: where one has ended, another one's run has begun in its place.
        wait_until(lambda: sum(parts.ledger.totals(one).accepted > 0 for one in larges) >= running)
        behind = measure(engine, parts, "small")
        sent_of_large = [parts.ledger.totals(one).accepted for one in larges]
        ended = sum(not cancelled(parts, one) for one in larges)
    print(f"{chosen.small:,} recipients at {chosen.rate} a second, s from queueing until sent (from its run's start):")
    print(f"  alone: {alone[0]:.1f} ({alone[1]:.1f})")
    print(f"  behind {chosen.larges} of {chosen.large:,}, {running} of them sending: {behind[0]:.1f} ({behind[1]:.1f})")
    print(f"  factor: {behind[0] / alone[0]:.1f} ({behind[1] / alone[1]:.1f})")
    print(f"  accepted of the large ones when the small one was sent: {sent_of_large}")
    if ended:
        print(
            f"  {ended} of the large ones ended before that: the small one did not share the rate with them throughout"
        )


def measure(engine: Engine, parts: Parts, city: str) -> tuple[float, float]:
    """Seconds from queueing a campaign to this city, and from its run's first step, until it is sent."""
    campaign_id = queue(engine, city)
    wait_until(lambda: parts.campaigns.get(campaign_id).status is CampaignStatus.SENT)
    with engine.begin() as connection:
        row = connection.execute(
            text("select queued_at, started_at, finished_at from campaign where id = :id"), {"id": campaign_id}
        ).one()
    return (row.finished_at - row.queued_at).total_seconds(), (row.finished_at - row.started_at).total_seconds()


def cancelled(parts: Parts, campaign_id: int) -> bool:
    """Cancel a campaign; False where it has ended already, which spoils no figure."""
    try:
        parts.campaigns.change_status(campaign_id, CampaignStatus.CANCELLED, "measured")
    except IllegalTransitionError:
        return False
    return True


def wait_until(is_so: Callable[[], bool]) -> None:
    """Look again and again, within bounds."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        if time.monotonic() > deadline:
            raise SystemExit("waited too long; see the logs in the state folder")
        time.sleep(POLL_SECONDS)


if __name__ == "__main__":
    main()
