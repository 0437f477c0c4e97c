"""Rebuilds the warehouse from the bucket: loads every object that is missing, and proves the result.

Invariant: the bucket's content is the truth, by key and by the hash of its content. Neither the register's word that
an object is loaded, nor a register without rows, keeps an object out. An object that is already held is not loaded
again, so a rebuild may be repeated at any time, beside loads that go on, and goes on where a killed one ended.

The register of staged objects is mended on the way: objects that it does not know, or knows with another content than
the bucket has, are recorded as they were found, unless a newer content was recorded meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from hashlib import sha256
from io import BytesIO
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq
from more_itertools import chunked

from email_platform.domain.manifest import ManifestStore
from email_platform.domain.ports import LoadOutcome, ObjectStore, StagedKind, StagedObject, Warehouse
from email_platform.domain.storage_layout import (
    DELIVERIES_PREFIX,
    EVENT_NORMALISED_PREFIX,
    EVENT_QUARANTINE_PREFIX,
    LEGACY_PREFIX,
    MANIFESTS_PREFIX,
    excluded_key,
    is_eligible_key,
    kind_of_key,
)
from email_platform.runs.legacy_table import NOTHING, Fingerprint
from email_platform.staging.delivery_objects import StagingRegister
from email_platform.staging.dimensions import DIMENSION_KINDS, DimensionName, snapshot_at_of

BATCH_OBJECTS = 512
_LOADED_PREFIXES = (DELIVERIES_PREFIX, MANIFESTS_PREFIX, EVENT_NORMALISED_PREFIX, LEGACY_PREFIX)
_FOUND_IN_QUARANTINE = "found in the bucket by a rebuild; each body in it carries its own reason"


class RebuildWarehouse(Warehouse, Protocol):
    """What a rebuild asks of the warehouse."""

    def content_hashes(self, keys: Sequence[str]) -> Mapping[str, str]:
        """SHA-256 of objects of the bucket, by key; those that are gone are left out."""
        ...

    def fingerprints(self) -> Mapping[str, Fingerprint]:
        """Count and checksum of what each raw table says, whatever was loaded in which order and how often."""
        ...

    def holds(self, staged: StagedObject) -> bool:
        """Whether the table holds every row of exactly this content, none of them replaced by a newer one."""
        ...

    def completed_snapshots(self, name: DimensionName) -> Collection[datetime]:
        """When the snapshots of a dimension were taken that are loaded whole."""
        ...

    def complete_snapshot(self, name: DimensionName, snapshot_at: datetime, rows: int) -> None:
        """Say that this snapshot is loaded whole."""
        ...

    def empty_tables(self) -> None:
        """Remove every row of the raw tables."""
        ...


@dataclass(frozen=True, slots=True)
class RebuildProgress:
    """What was done so far.

    Attributes:
        found: objects of the warehouse's kinds in the bucket.
        held: of them, those that the warehouse held as they are.
        loaded: objects loaded now, and `rows` of them.
        registered: objects that the register did not know as they are.
        quarantined: objects that cannot be loaded, with the reason.
        foreign: other objects under the warehouse's prefixes.
        without_manifest: lists of excluded leads that no campaign in PostgreSQL names (not frozen, or lost).
    """

    found: int = 0
    held: int = 0
    loaded: int = 0
    rows: int = 0
    registered: int = 0
    quarantined: Mapping[str, str] = field(default_factory=dict)
    foreign: tuple[str, ...] = ()
    without_manifest: int = 0


@dataclass(frozen=True, slots=True)
class RebuildReport:
    """What a rebuild did, and what the raw tables held before and hold now.

    Attributes:
        missing: objects that the register knows and the bucket has no more; their rows cannot be rebuilt.
    """

    done: RebuildProgress
    missing: tuple[str, ...]
    before: Mapping[str, Fingerprint]
    after: Mapping[str, Fingerprint]
    seconds: float

    @property
    def rows_per_second(self) -> float:
        """Rows loaded, over the whole time."""
        return self.done.rows / self.seconds if self.seconds else 0.0

    @property
    def is_complete(self) -> bool:
        """Whether everything that was ever staged is in the warehouse."""
        return not self.done.quarantined and not self.missing

    def changed_tables(self) -> list[str]:
        """The tables whose content differs from before."""
        names = sorted(self.before.keys() | self.after.keys())
        return [name for name in names if self.before.get(name, NOTHING) != self.after.get(name, NOTHING)]


def rebuild_warehouse(
    store: ObjectStore,
    register: StagingRegister,
    manifests: ManifestStore,
    warehouse: RebuildWarehouse,
    *,
    empty_first: bool = False,
    on_progress: Callable[[RebuildProgress], None] = lambda _: None,
) -> RebuildReport:
    """Load whatever the bucket has and the warehouse lacks.

    Constant memory but for the keys.

    Args:
        store: the staging bucket.
        register: mended on the way.
        manifests: say which list of excluded leads of a campaign counts.
        warehouse: may be empty, partly filled or complete.
        empty_first: remove every row of the raw tables before.
        on_progress: called after each batch of objects.

    Raises:
        PartUnavailableError: a part is away; run again, what is loaded stays loaded.
    """
    began_seconds = time.monotonic()
    before = warehouse.fingerprints()
    if empty_first:
        warehouse.empty_tables()
    work = _Rebuild(store, register, manifests, warehouse)
    listed: set[str] = set()
    for prefix in _LOADED_PREFIXES:
        for keys in chunked((info.key for info in store.list(prefix)), BATCH_OBJECTS):
            work.load_staged(keys)
            listed.update(keys)
            on_progress(work.done)
    for name in DIMENSION_KINDS:
        work.load_snapshots(name, lambda: on_progress(work.done))
    for keys in chunked((info.key for info in store.list(EVENT_QUARANTINE_PREFIX)), BATCH_OBJECTS):
        work.register_quarantined(keys)
    on_progress(work.done)
    missing = _missing(store, register, listed)
    return RebuildReport(work.done, missing, before, warehouse.fingerprints(), time.monotonic() - began_seconds)


def _missing(store: ObjectStore, register: StagingRegister, listed: Collection[str]) -> tuple[str, ...]:
    """Registered objects with rows that are not in the bucket; those staged since it was listed are."""
    known = (staged for staged in register.known().values() if staged.kind != "event_quarantine" and staged.rows)
    unlisted = sorted(staged.key for staged in known if staged.key not in listed)
    return tuple(key for key in unlisted if store.info(key) is None)


class _Rebuild:
    """The work of one rebuild, batch by batch."""

    def __init__(
        self, store: ObjectStore, register: StagingRegister, manifests: ManifestStore, warehouse: RebuildWarehouse
    ) -> None:
        self._store = store
        self._register = register
        self._manifests = manifests
        self._warehouse = warehouse
        self.done = RebuildProgress()

    def load_staged(self, keys: Sequence[str]) -> None:
        """Register what the register lacks, and load what the warehouse lacks."""
        belongs = {key: found for key in keys if (found := self._belonging(key)) is not None}
        seen = self._register.registered(belongs)  # before the objects: see StagingRegister.adopt
        hashes = self._warehouse.content_hashes(list(belongs))
        objects = []
        unknown = []
        for key, (kind, campaign_id) in belongs.items():
            known = seen.get(key)
            if known is None or known.content_sha256 != hashes.get(key):
                described = _described(self._store, key, kind)
                if described is None:
                    continue
                known = described
                unknown.append((described, campaign_id))
            objects.append(known)
        self._register.adopt(unknown, seen)
        self._count(found=len(objects), registered=len(unknown))
        for outcomes in self._warehouse.load_many(objects):
            self._register.mark_all_loaded([(one.staged, one.rows) for one in outcomes if one.problem is None])
            self._take(outcomes)

    def load_snapshots(self, name: DimensionName, on_batch: Callable[[], None]) -> None:
        """Load the snapshots of a small table; the older ones hold the rows that were deleted since.

        The newest comes last: where it is held, so are those that count as complete. To look for their own rows would
        tell nothing, since rows of newer snapshots have replaced them.
        """
        kind = DIMENSION_KINDS[name]
        listed = [info.key for info in self._store.list(f"dimensions/{name}/")]
        keys = [key for key in listed if kind_of_key(key) == (kind, None)]
        self._name_foreign(set(listed) - set(keys))
        if not keys:
            return
        newest = _described(self._store, keys[-1], kind)
        complete: Collection[datetime] = ()
        if newest is not None and self._warehouse.holds(newest):
            complete = self._warehouse.completed_snapshots(name)
        waiting = [key for key in keys if snapshot_at_of(key) not in complete]
        self._count(found=len(keys), held=len(keys) - len(waiting))
        for batch in chunked(waiting, BATCH_OBJECTS):
            described = (_described(self._store, key, kind) for key in batch)
            objects = [staged for staged in described if staged is not None]
            for outcomes in self._warehouse.load_many(objects):
                for one in outcomes:
                    if one.problem is None:
                        self._warehouse.complete_snapshot(name, snapshot_at_of(one.staged.key), one.rows)
                self._take(outcomes)
            on_batch()

    def register_quarantined(self, keys: Sequence[str]) -> None:
        """Let the register know bodies that could not be read, so that they can be replayed; nothing is loaded."""
        ours = [key for key in keys if kind_of_key(key) == ("event_quarantine", None)]
        seen = self._register.registered(ours)
        described = (_described(self._store, key, "event_quarantine") for key in ours if key not in seen)
        unknown = [staged for staged in described if staged is not None]
        self._register.adopt([(staged, None) for staged in unknown], {})
        for staged in unknown:
            self._register.quarantine(staged, _FOUND_IN_QUARANTINE)
        self._name_foreign(set(keys) - set(ours))
        self._count(registered=len(unknown))

    def _belonging(self, key: str) -> tuple[StagedKind, int | None] | None:
        """Kind and campaign of an object that the warehouse must hold; None for every other one."""
        found = kind_of_key(key)
        if found is None:
            self._name_foreign(() if is_eligible_key(key) else (key,))
            return None
        kind, campaign_id = found
        if kind == "exclusion" and campaign_id is not None:
            manifest = self._manifests.find(campaign_id)
            if manifest is None or excluded_key(manifest.prefix) != key:  # another resolution of the audience won
                self._count(without_manifest=int(manifest is None))
                return None
            if manifest.excluded_rows == 0:
                return None
        return found

    def _take(self, outcomes: Sequence[LoadOutcome]) -> None:
        """Count what was loaded, and set aside what could not be."""
        held = [one for one in outcomes if one.was_held]
        loaded = [one for one in outcomes if one.problem is None and not one.was_held]
        self._count(held=len(held), loaded=len(loaded), rows=sum(one.rows for one in loaded))
        for one in outcomes:
            if one.problem is None:
                continue
            self._register.quarantine(one.staged, str(one.problem))
            registered = self._register.registered([one.staged.key]).get(one.staged.key)
            if registered is None or registered == one.staged:  # else it was staged again meanwhile; that is loaded
                reasons = {**self.done.quarantined, one.staged.key: str(one.problem)}
                self.done = replace(self.done, quarantined=reasons)

    def _name_foreign(self, keys: Iterable[str]) -> None:
        self.done = replace(self.done, foreign=(*self.done.foreign, *sorted(keys)))

    def _count(self, **more: int) -> None:
        self.done = replace(self.done, **{name: getattr(self.done, name) + count for name, count in more.items()})


def _described(store: ObjectStore, key: str, kind: StagedKind) -> StagedObject | None:
    """The object as it lies in the bucket; None where it is gone. One that is no Parquet counts no rows."""
    try:
        body = store.get(key)
    except FileNotFoundError:  # removed since it was listed
        return None
    try:
        rows = pq.read_metadata(BytesIO(body)).num_rows
    except (pa.ArrowException, OSError):  # a load of it says what is wrong
        rows = 0
    return StagedObject(key, kind, rows, sha256(body).hexdigest())
