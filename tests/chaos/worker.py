"""One life of a run worker: the steps of `campaign_job` over the real parts, with at most one planned death.

Runs as a child of a fork server that has the imports done, so that a life costs a fraction of a second.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from pathlib import Path

from email_platform.adapters.assembly import open_parts, open_warehouse
from email_platform.domain.campaigns import CampaignStatus
from email_platform.errors import (
    AccountingError,
    AccountRefusedError,
    CampaignStoppedError,
    ChunkBusyError,
    LeaseLostError,
    PartUnavailableError,
    ProviderDownError,
)
from email_platform.runs.finish import finish_sending
from email_platform.runs.freeze import freeze_audience
from email_platform.runs.load import load_staged
from email_platform.runs.send import send_chunk
from email_platform.runs.unknown import decide_unknown_calls
from email_platform.settings import Settings
from tests.chaos.crashing import Crashing, CrashPlan, Killer, Obstacles, crashing_parts

FINISHED, NOT_NOW, FAULT = 0, 75, 1
_EXPECTED = (
    AccountRefusedError,
    AccountingError,  # a chunk is not finished yet, by this life's or another's fault
    CampaignStoppedError,
    ChunkBusyError,
    LeaseLostError,
    PartUnavailableError,
    ProviderDownError,
)


def life(
    state_folder: str,
    campaign_id: int,
    crash: str | None,
    log_file: str,
    variables: dict[str, str],
    obstacles: Obstacles,
    abandons: bool = False,
) -> None:
    """Live once, and exit: 0 the campaign is sent, staged and loaded; 75 not now; 1 a fault of the product.

    Args:
        abandons: be the operator's command that abandons calls without an answer, and not a run.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.update(variables)
    with Path(log_file).open("a", encoding="utf-8") as log:
        try:
            _live(Settings.load(state_folder=Path(state_folder)), campaign_id, crash, obstacles, abandons)
        except _EXPECTED as error:
            log.write(f"not now: {type(error).__name__}: {error}\n")
            sys.exit(NOT_NOW)
        except BaseException:
            traceback.print_exc(file=log)
            sys.exit(FAULT)
    sys.exit(FINISHED)


def _live(settings: Settings, campaign_id: int, crash: str | None, obstacles: Obstacles, abandons: bool) -> None:
    killer = Killer(CrashPlan.parse(crash) if crash else None)
    with open_parts(settings) as plain, open_warehouse(settings) as clickhouse:
        parts = crashing_parts(plain, killer, obstacles)
        warehouse = Crashing(clickhouse, "warehouse", killer)
        if abandons:
            decide_unknown_calls(parts, campaign_id, "abandon")
            load_staged(parts.register, warehouse, campaign_id)
            return
        status = parts.campaigns.get(campaign_id).status
        if status is CampaignStatus.PAUSED:  # what an operator does after an outage
            parts.campaigns.change_status(campaign_id, CampaignStatus.QUEUED)
        manifest = freeze_audience(parts, campaign_id).manifest
        for chunk_index in range(manifest.chunk_count):
            send_chunk(parts, campaign_id, chunk_index, holder=f"life-{os.getpid()}")
        finish_sending(parts, campaign_id)
        load_staged(parts.register, warehouse, campaign_id)
