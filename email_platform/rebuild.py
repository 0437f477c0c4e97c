"""Fills a warehouse from the bucket, whatever the warehouse and the register of staged objects know or have forgotten.

Invariant: the bucket is the truth. Every object of the staging area that counts is in the warehouse afterwards, or is
named with the reason; nothing is loaded twice, and nothing that the warehouse already holds is taken out.

    the bucket's listing ─▶ known to the register? ─ yes ─▶ its rows and hash
                                   │ no: read once ────────▶ footer and hash, registered anew
                                   ▼
                   groups to the warehouse, which checks each hash and skips what it holds
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from itertools import islice
from typing import Protocol, cast

import pyarrow as pa
import pyarrow.parquet as pq

from email_platform.dimensions import DIMENSION_KINDS, DIMENSION_SCHEMAS, SNAPSHOT_FORMAT, DimensionName
from email_platform.manifest import ManifestStore
from email_platform.ports import LoadOutcome, ObjectStore, StagedKind, StagedObject
from email_platform.staging import StagingRegister

BATCH_OBJECTS = 500
_READ_BYTES = 1 << 20

_DELIVERY = re.compile(r"deliveries/campaign=(\d+)/chunk-\d+\.parquet")
_EXCLUDED = re.compile(r"(manifests/campaign=(\d+)/[^/]+)/excluded\.parquet")
_EVENTS = re.compile(r"events/normalised/[^/]+/[^/]+\.parquet")
_LEGACY = re.compile(r"legacy/month=[^/]+/ids-[^/]+\.parquet")
_DIMENSION = re.compile(r"dimensions/([^/]+)/([^/]+)\.parquet")
_PREFIXES = ("deliveries/", "manifests/", "events/normalised/", "legacy/", "dimensions/")


class RebuildWarehouse(Protocol):
    """What a rebuild needs of the warehouse."""

    def load_many(self, objects: Sequence[StagedObject]) -> Iterator[Sequence[LoadOutcome]]:
        """See `email_platform.ports.Warehouse`."""
        ...

    def complete_snapshot(self, name: DimensionName, snapshot_at: datetime, rows: int) -> None:
        """See `email_platform.dimensions.DimensionWarehouse`."""
        ...


@dataclass(frozen=True, slots=True)
class RebuildReport:
    """What one pass over the bucket found and did.

    Attributes:
        objects, rows: that the warehouse holds now, by kind.
        registered: objects that the register did not know.
        quarantined: key and reason of what could not be loaded.
        missing: keys that the register knows and the bucket has no more; their rows cannot be rebuilt.
        foreign: keys under the staging area's prefixes that no rule names; left alone.
    """

    objects: Mapping[str, int] = field(default_factory=dict)
    rows: Mapping[str, int] = field(default_factory=dict)
    registered: int = 0
    quarantined: Mapping[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def is_complete(self) -> bool:
        """Whether everything that ever counted is in the warehouse."""
        return not self.quarantined and not self.missing


@dataclass(frozen=True, slots=True)
class _Found:
    """An object that counts; of a dimension, nothing is registered."""

    staged: StagedObject
    campaign_id: int | None
    is_registered: bool
    is_new: bool


def rebuild_warehouse(
    store: ObjectStore,
    register: StagingRegister,
    manifests: ManifestStore,
    warehouse: RebuildWarehouse,
    on_progress: Callable[[int, int], None] = lambda _objects, _rows: None,
) -> RebuildReport:
    """Load every object of the staging area that the warehouse does not hold; constant memory but for the keys.

    May be repeated, also after it died half-way, and may run beside ordinary loads. Objects that the register does
    not know are read once through this process for their hash, everything else inside the warehouse only.

    Args:
        store: the bucket.
        register: what is known of the objects; mended on the way.
        manifests: says which of several resolutions of a campaign's audience counts.
        warehouse: migrated, empty or not.
        on_progress: called with objects and rows found loaded so far.

    Raises:
        PartUnavailableError: a part is away; what was done stays done.
    """
    began_seconds = time.monotonic()
    known = dict(register.known())
    unseen = {key for key, staged in known.items() if staged.rows and staged.kind != "event_quarantine"}
    objects: dict[str, int] = {}
    rows: dict[str, int] = {}
    quarantined: dict[str, str] = {}
    foreign: list[str] = []
    newest: dict[DimensionName, tuple[datetime, int]] = {}
    registered = 0

    found = _objects_that_count(store, known, manifests, quarantined, foreign)
    while batch := list(islice(found, BATCH_OBJECTS)):
        for one in batch:
            unseen.discard(one.staged.key)
            if one.is_registered and one.is_new:
                register.record(one.staged, one.campaign_id)
                registered += 1
        in_register = {one.staged.key for one in batch if one.is_registered}
        for outcomes in warehouse.load_many([one.staged for one in batch if one.staged.rows]):
            loaded = [(outcome.staged, outcome.rows) for outcome in outcomes if outcome.problem is None]
            register.mark_all_loaded([pair for pair in loaded if pair[0].key in in_register])
            for staged, count in loaded:
                objects[staged.kind] = objects.get(staged.kind, 0) + 1
                rows[staged.kind] = rows.get(staged.kind, 0) + count
                _remember_newest(newest, staged)
            for outcome in outcomes:
                if outcome.problem is not None:
                    quarantined[outcome.staged.key] = str(outcome.problem)
                    if outcome.staged.key in in_register:
                        register.quarantine(outcome.staged, str(outcome.problem))
            on_progress(sum(objects.values()), sum(rows.values()))
    for name, (snapshot_at, count) in newest.items():
        warehouse.complete_snapshot(name, snapshot_at, count)
    return RebuildReport(
        objects=objects,
        rows=rows,
        registered=registered,
        quarantined=quarantined,
        missing=tuple(sorted(unseen - set(quarantined))),
        foreign=tuple(foreign),
        seconds=time.monotonic() - began_seconds,
    )


def _objects_that_count(
    store: ObjectStore,
    known: Mapping[str, StagedObject],
    manifests: ManifestStore,
    unreadable: dict[str, str],
    foreign: list[str],
) -> Iterator[_Found]:
    for prefix in _PREFIXES:
        for info in store.list(prefix):
            key = info.key
            if key in known:
                yield _Found(known[key], None, is_registered=True, is_new=False)
                continue
            named = _kind_of(key, manifests)
            if named is None:
                if not prefix.startswith("manifests"):  # those hold the audiences, which are not loaded
                    foreign.append(key)
                continue
            kind, campaign_id = named
            try:
                staged = _described(store, key, kind)
            except (pa.ArrowException, OSError) as problem:  # OSError: pyarrow's word for a corrupt footer
                unreadable[key] = f"{key}: not a Parquet file ({type(problem).__name__})"
                continue
            yield _Found(staged, campaign_id, is_registered=not kind.startswith("dimension_"), is_new=True)


def _kind_of(key: str, manifests: ManifestStore) -> tuple[StagedKind, int | None] | None:
    """The kind of an unregistered object and its campaign, or None where it does not count."""
    if match := _DELIVERY.fullmatch(key):
        return "delivery", int(match[1])
    if _EVENTS.fullmatch(key):
        return "event", None
    if _LEGACY.fullmatch(key):
        return "legacy_email", None
    if (match := _DIMENSION.fullmatch(key)) and match[1] in DIMENSION_SCHEMAS:
        return DIMENSION_KINDS[cast(DimensionName, match[1])], None
    if match := _EXCLUDED.fullmatch(key):
        manifest = manifests.find(int(match[2]))  # another process may have resolved the audience too, and lost
        if manifest is not None and manifest.prefix == match[1] and manifest.excluded_rows:
            return "exclusion", manifest.campaign_id
    return None


def _described(store: ObjectStore, key: str, kind: StagedKind) -> StagedObject:
    digest = sha256()
    with store.reader(key) as reader:
        rows = pq.ParquetFile(reader).metadata.num_rows
        reader.seek(0)
        while block := reader.read(_READ_BYTES):
            digest.update(block)
    return StagedObject(key, kind, rows, digest.hexdigest())


def _remember_newest(newest: dict[DimensionName, tuple[datetime, int]], staged: StagedObject) -> None:
    """A snapshot counts whole once it is loaded; the newest one says which rows were deleted."""
    match = _DIMENSION.fullmatch(staged.key)
    if match is None:
        return
    name = cast(DimensionName, match[1])
    snapshot_at = datetime.strptime(match[2], SNAPSHOT_FORMAT).replace(tzinfo=UTC)
    if name not in newest or snapshot_at > newest[name][0]:
        newest[name] = (snapshot_at, staged.rows)
