"""One life of a run worker: the steps of `campaign_job` over the real parts, with at most one planned death.

    python -m tests.chaos.worker --state-folder F --campaign 7 [--crash "kill after ledger.turn 3"]

Exit status 0: the campaign is sent, staged and loaded. 75: not now (somebody else has the lease, a part is away);
another life will finish it. Anything else is a fault of the product.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from pathlib import Path

from email_platform.adapters.assembly import open_parts, open_warehouse
from email_platform.campaign_run import finish_sending, freeze_audience, load_staged, send_chunk
from email_platform.campaigns import CampaignStatus
from email_platform.errors import (
    CampaignStoppedError,
    ChunkBusyError,
    LeaseLostError,
    PartUnavailableError,
    ProviderDownError,
)
from email_platform.settings import Settings
from tests.chaos.crashing import Crashing, CrashPlan, Killer, crashing_parts

NOT_NOW = 75


def live(settings: Settings, campaign_id: int, killer: Killer) -> int:
    with open_parts(settings) as plain, open_warehouse(settings) as clickhouse:
        parts = crashing_parts(plain, killer)
        warehouse = Crashing(clickhouse, "warehouse", killer)
        if parts.campaigns.get(campaign_id).status is CampaignStatus.PAUSED:  # what an operator does after an outage
            parts.campaigns.change_status(campaign_id, CampaignStatus.QUEUED)
        manifest = freeze_audience(parts, campaign_id).manifest
        for chunk_index in range(manifest.chunk_count):
            send_chunk(parts, campaign_id, chunk_index, holder=f"life-{os.getpid()}")
        finish_sending(parts, campaign_id)
        load_staged(parts.register, warehouse, campaign_id)
    return 0


def main() -> int:
    options = argparse.ArgumentParser()
    options.add_argument("--state-folder", type=Path, required=True)
    options.add_argument("--campaign", type=int, required=True)
    options.add_argument("--crash", type=CrashPlan.parse)
    chosen = options.parse_args()
    settings = Settings.load(state_folder=chosen.state_folder)
    try:
        return live(settings, chosen.campaign, Killer(chosen.crash))
    except (CampaignStoppedError, ChunkBusyError, LeaseLostError, PartUnavailableError, ProviderDownError) as error:
        sys.stderr.write(f"not now: {type(error).__name__}: {error}\n")
        return NOT_NOW
    except Exception:
        traceback.print_exc()
        return 1


if __name__ == "__main__":
    sys.exit(main())
