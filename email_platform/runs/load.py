"""Loads what is staged into the warehouse, apart from sending, and proves each campaign's counts.

Invariant: one bad object, and one campaign whose counts differ, blocks no other; an object counts as loaded only when
its rows were found. Nothing that sends waits for a load: a warehouse that is away delays reports and nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from email_platform.domain.campaigns import CampaignStatus
from email_platform.domain.ports import StagedObject, Warehouse
from email_platform.domain.storage_layout import kind_of_key
from email_platform.errors import CampaignNotFoundError, CampaignStoppedError
from email_platform.runs.parts import Parts, find_manifest
from email_platform.staging.accounting import AccountingLine, ledger_lines, warehouse_lines
from email_platform.staging.delivery_objects import StagingRegister


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What was loaded now, and what was set aside with which reason.

    Attributes:
        campaigns: of which campaigns objects were loaded or set aside.
    """

    objects: int
    rows: int
    seconds: float
    quarantined: Mapping[str, str]
    campaigns: frozenset[int] = frozenset()

    def and_then(self, later: LoadReport) -> LoadReport:
        """Both loads as one."""
        return LoadReport(
            self.objects + later.objects,
            self.rows + later.rows,
            self.seconds + later.seconds,
            {**self.quarantined, **later.quarantined},
            self.campaigns | later.campaigns,
        )


def load_staged(
    register: StagingRegister,
    warehouse: Warehouse,
    campaign_id: int | None = None,
    on_progress: Callable[[int, int], None] = lambda _objects, _rows: None,
) -> LoadReport:
    """Load every staged object that the warehouse does not hold yet; one bad object blocks no other.

    Args:
        register: says what is staged and what is loaded.
        warehouse: where it goes.
        campaign_id: only this campaign's objects; None for everything.
        on_progress: called with objects and rows loaded so far.
    """
    began_seconds = time.monotonic()
    objects = rows = 0
    quarantined: dict[str, str] = {}
    campaigns: set[int] = set()
    while batch := register.unloaded(campaign_id):
        for outcomes in warehouse.load_many(batch):
            loaded = [(outcome.staged, outcome.rows) for outcome in outcomes if outcome.problem is None]
            register.mark_all_loaded(loaded)
            objects += len(loaded)
            rows += sum(count for _, count in loaded)
            for outcome in outcomes:
                found = kind_of_key(outcome.staged.key)
                if found is not None and found[1] is not None:
                    campaigns.add(found[1])
                if outcome.problem is not None:
                    register.quarantine(outcome.staged, str(outcome.problem))
                    quarantined[outcome.staged.key] = str(outcome.problem)
            on_progress(objects, rows)
    return LoadReport(objects, rows, time.monotonic() - began_seconds, quarantined, frozenset(campaigns))


def load_lost(register: StagingRegister, warehouse: Warehouse, campaign_id: int) -> LoadReport:
    """Load again what the register calls loaded, or set aside, and the warehouse lacks: rows that were deleted or fell
    behind a restored backup, objects that were mended in the bucket.

    For where the accounting does not hold: an object whose rows are there several times, until they are merged, is
    proved key by key and counts as loaded again.
    """
    began_seconds = time.monotonic()
    again: list[tuple[StagedObject, int]] = []
    quarantined: dict[str, str] = {}
    for outcomes in warehouse.load_many(register.of_campaign(campaign_id)):
        for outcome in outcomes:
            if outcome.problem is not None:
                register.quarantine(outcome.staged, str(outcome.problem))
                quarantined[outcome.staged.key] = str(outcome.problem)
            elif not outcome.was_held:
                again.append((outcome.staged, outcome.rows))
    register.mark_all_loaded(again)
    rows = sum(count for _, count in again)
    return LoadReport(len(again), rows, time.monotonic() - began_seconds, quarantined, frozenset({campaign_id}))


def account(parts: Parts, warehouse: Warehouse, campaign_id: int) -> list[AccountingLine]:
    """Every accounting line of the campaign, from manifest, ledger, staging area and warehouse."""
    manifest = find_manifest(parts, campaign_id)
    totals = parts.ledger.totals(campaign_id)
    try:
        complete = parts.campaigns.get(campaign_id).status is CampaignStatus.SENT
    except CampaignNotFoundError:
        complete = False
    return [
        *ledger_lines(manifest, totals, complete=complete),
        *warehouse_lines(
            manifest,
            totals,
            parts.register.staged_rows(campaign_id),
            warehouse.delivery_counts(campaign_id),
            sum(warehouse.exclusion_counts(campaign_id).values()),
        ),
    ]


@dataclass(frozen=True, slots=True)
class CampaignAccount:
    """One campaign's accounting after a load.

    Attributes:
        lines: manifest, ledger, staged objects and warehouse against each other.
        again: what had to be loaded a second time because the lines did not hold.
        name: the campaign's; empty where its row is gone.
    """

    lines: tuple[AccountingLine, ...]
    again: LoadReport
    name: str = ""

    @property
    def holds(self) -> bool:
        """Whether every line holds."""
        return all(line.holds for line in self.lines)


def prove(parts: Parts, warehouse: Warehouse, campaign_id: int) -> CampaignAccount:
    """The campaign's accounting; where it does not hold, what the warehouse lost is loaded again first.

    Raises:
        CampaignStoppedError: the campaign has no manifest.
    """
    lines = account(parts, warehouse, campaign_id)
    again = LoadReport(0, 0, 0.0, {})
    if not all(line.holds for line in lines):
        again = load_lost(parts.register, warehouse, campaign_id)
        lines = account(parts, warehouse, campaign_id)
    try:
        name = parts.campaigns.get(campaign_id).name
    except CampaignNotFoundError:
        name = ""
    return CampaignAccount(tuple(lines), again, name)


def prove_all(parts: Parts, warehouse: Warehouse, campaign_ids: Iterable[int]) -> Mapping[int, CampaignAccount]:
    """The accounting of each of these campaigns, by id; one without a manifest is left out."""
    accounts: dict[int, CampaignAccount] = {}
    for campaign_id in sorted(campaign_ids):
        with suppress(CampaignStoppedError):  # objects of a campaign whose manifest somebody removed by hand
            accounts[campaign_id] = prove(parts, warehouse, campaign_id)
    return accounts
