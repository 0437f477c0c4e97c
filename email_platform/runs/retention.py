"""Removes what nobody works with any more, so that nothing grows for ever; says what, and what had to stay and why.

Invariant: nothing is removed whose truth is not elsewhere: a ledger lies in the bucket before its rows go, a body of an
event was loaded. Each step is bounded, may be killed anywhere and repeated; one process at a time does it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Literal, Protocol

from more_itertools import chunked

from email_platform.domain.ports import Clock, ObjectStore
from email_platform.domain.storage_layout import (
    EVENT_RAW_PREFIX,
    event_inbox_prefix,
    event_normalised_key,
    event_raw_parts,
)
from email_platform.errors import CommandRefusedError, PartUnavailableError

LEDGERS_PER_RUN = 500
RAW_OBJECTS_PER_RUN = 20_000
RUNS_PER_RUN = 2_000
_PAGE = 100

What = Literal["ledgers", "raw events", "leftover rows", "dagster runs"]


class LedgerArchive(Protocol):
    """Moves call ledgers into the bucket; see `email_platform.adapters.postgres.ledger_archive`."""

    def due(self, ended_before: datetime, after_id: int, limit: int) -> Sequence[int]:
        """The next campaigns by id that ended before the moment and are not archived."""
        ...

    def held_back(self, campaign_id: int) -> str | None:
        """Why the campaign's ledger must stay; None where it may go."""
        ...

    def archive(self, campaign_id: int, ended_before: datetime) -> int | None:
        """Store and mark the ledger; its calls, or None where the campaign changed meanwhile."""
        ...

    def half_removed(self, limit: int) -> Sequence[int]:
        """Archived campaigns of which rows may be left."""
        ...

    def remove(self, campaign_id: int) -> int:
        """Delete the rows of an archived ledger; returns how many calls."""
        ...


class Leftovers(Protocol):
    """Rows of work that is over, and what is loaded."""

    def loaded(self, keys: Collection[str]) -> Collection[str]:
        """Of these objects those whose present content the warehouse holds."""
        ...

    def leftover_rows(self, before: datetime, remove: bool) -> Mapping[str, int]:
        """By table, the rows that nobody has touched since the moment; deleted where asked."""
        ...


class RunHistory(Protocol):
    """Dagster's runs on record."""

    def old_runs(self, ended_before: datetime, limit: int) -> Sequence[str]:
        """Ids of runs that ended before the moment, the oldest first; the newest run of a job is never among them."""
        ...

    def remove(self, run_id: str) -> int:
        """Remove a run with its step outputs, logs and events, in this order; returns the objects removed."""
        ...


@dataclass(frozen=True, slots=True)
class KeptDays:
    """See `email_platform.settings.retention.RetentionSettings`; 0: for ever."""

    ledgers: int
    runs: int
    raw_events: int
    leftovers: int


@dataclass(frozen=True, slots=True)
class RetentionParts:
    """What retention needs of the outside.

    Attributes:
        runs: None where this process has no Dagster instance.
        still_ours: whether this process still holds the work's lease; asked before each campaign, object page and run.
    """

    ledgers: LedgerArchive
    leftovers: Leftovers
    runs: RunHistory | None
    store: ObjectStore
    clock: Clock
    days: KeptDays
    still_ours: Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Removal:
    """What one kind of removal did, or would do.

    Attributes:
        items: campaigns, objects, rows or runs.
        details: counts by name (calls, a table's rows).
        kept: what was due and had to stay, with the reason.
        is_complete: whether nothing else is due now (False: the bound of one run was reached; the next goes on).
    """

    what: What
    items: int = 0
    details: Mapping[str, int] = field(default_factory=dict)
    kept: Mapping[str, str] = field(default_factory=dict)
    is_complete: bool = True


def run_retention(parts: RetentionParts, *, dry_run: bool) -> Iterator[Removal]:
    """Remove each kind of old thing; yields what was removed as soon as a kind is done.

    Args:
        parts: the outside.
        dry_run: change nothing, and yield what would be removed.

    Raises:
        PartUnavailableError: a part is away, or the lease was lost; what is removed stays removed, run again.
    """
    if parts.days.ledgers:
        yield _archive_ledgers(parts, dry_run)
    if parts.days.raw_events:
        yield _remove_raw_events(parts, dry_run)
    if parts.days.leftovers:
        rows = parts.leftovers.leftover_rows(_ago(parts, parts.days.leftovers), remove=not dry_run)
        yield Removal("leftover rows", sum(rows.values()), rows)
    if parts.days.runs and parts.runs is not None:
        yield _remove_runs(parts, parts.runs, dry_run)


def _archive_ledgers(parts: RetentionParts, dry_run: bool) -> Removal:
    before = _ago(parts, parts.days.ledgers)
    kept: dict[str, str] = {}
    calls = archived = last_id = 0
    half_removed = list(parts.ledgers.half_removed(LEDGERS_PER_RUN))
    for campaign_id in () if dry_run else half_removed:  # a run before this one ended in the middle
        _require_lease(parts)
        try:
            calls += parts.ledgers.remove(campaign_id)
        except CommandRefusedError as error:
            kept[f"campaign {campaign_id}"] = str(error)
    while page := parts.ledgers.due(before, last_id, _PAGE):
        for campaign_id in page:
            if archived >= LEDGERS_PER_RUN:
                return Removal("ledgers", archived, {"calls": calls}, kept, is_complete=False)
            _require_lease(parts)
            last_id = campaign_id
            try:
                reason = parts.ledgers.held_back(campaign_id)
                if reason is None and not dry_run:
                    if parts.ledgers.archive(campaign_id, before) is None:
                        reason = "it changed meanwhile"
                    else:
                        calls += parts.ledgers.remove(campaign_id)
            except PartUnavailableError:
                raise
            except Exception as error:  # one odd campaign never stops the others
                reason = f"{type(error).__name__} while it was archived"
            if reason is None:
                archived += 1
            elif len(kept) < _PAGE:
                kept[f"campaign {campaign_id}"] = reason
    return Removal("ledgers", archived, {} if dry_run else {"calls": calls}, kept)


def _remove_raw_events(parts: RetentionParts, dry_run: bool) -> Removal:
    """Keys begin with their day: the listing ends at the first day that is young enough."""
    last_day = _ago(parts, parts.days.raw_events).date()
    kept: dict[str, str] = {}
    removed = seen = 0
    for page in chunked(_raw_before(parts.store, last_day), _PAGE):
        _require_lease(parts)
        normalised = {key: event_normalised_key(day, batch) for key, day, batch in page}
        loaded = set(parts.leftovers.loaded(normalised.values()))
        waiting = {day for day in {one[1] for one in page} if any(parts.store.list(event_inbox_prefix(day)))}
        for key, day, _ in page:
            seen += 1
            if day in waiting:
                kept[str(day)] = "bodies of that day are still in the inbox"
            elif normalised[key] not in loaded and parts.store.info(normalised[key]) is not None:
                kept[key] = "its events are not loaded"
            else:
                removed += 1
                if not dry_run:
                    parts.store.delete(key)
        if seen >= RAW_OBJECTS_PER_RUN:
            return Removal("raw events", removed, kept=kept, is_complete=False)
    return Removal("raw events", removed, kept=kept)


def _raw_before(store: ObjectStore, last_day: date) -> Iterator[tuple[str, date, str]]:
    for info in store.list(EVENT_RAW_PREFIX):
        found = event_raw_parts(info.key)
        if found is None:
            continue  # not ours
        if found[0] >= last_day:
            return
        yield info.key, *found


def _remove_runs(parts: RetentionParts, history: RunHistory, dry_run: bool) -> Removal:
    due = history.old_runs(_ago(parts, parts.days.runs), RUNS_PER_RUN)
    objects = 0
    for run_id in () if dry_run else due:
        _require_lease(parts)
        objects += history.remove(run_id)
    details = {} if dry_run else {"step outputs": objects}
    return Removal("dagster runs", len(due), details, is_complete=len(due) < RUNS_PER_RUN)


def _ago(parts: RetentionParts, days: int) -> datetime:
    return parts.clock() - timedelta(days=days)


def _require_lease(parts: RetentionParts) -> None:
    if not parts.still_ours():
        raise PartUnavailableError("another process took the removal over, since this one stood still; run it again")
