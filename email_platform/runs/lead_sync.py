"""Keeps the table `lead` in step with another database: its changes often, all of it by ranges of keys.

Invariant: after `sync_slice`, every range of keys has the same count and the same checksum on both sides, each computed
by its own engine; and however often, in whatever order and after whatever death both parts run, each source row is one
lead, under the same id for as long as the row lives.

Two parts, which may run side by side in time but never at once:

- `sync_changes` reads what has a change column at or after the last position less an overlap, page by page, and moves
  the position with each page. A row that is read again and is as it was changes nothing.
- `sync_slice` compares one slice of all ranges of keys and copies the ranges that differ. It finds what the change
  column does not tell: deleted rows, a null or a zero date in it, a transaction that committed later than the overlap,
  a lead that somebody changed here. A killed run goes on with the ranges that still differ.

The source is spared: each page and each range is one short snapshot, followed by a pause that keeps the average under
the configured rows a second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from email_platform.errors import PartUnavailableError
from email_platform.runs.legacy_import import Throttle
from email_platform.runs.legacy_table import NOTHING, Fingerprint

RANGE_KEYS = 10_000
"""Keys of one range: at most so many rows are one snapshot and one transaction."""
SLICES = 16
"""Range r belongs to slice ``r % SLICES``, so every key has one, and new keys go to each in turn."""
PAGE_ROWS = 5_000


@dataclass(frozen=True, slots=True)
class SourceRow:
    """One row of the source, as the source's engine wrote it out.

    Attributes:
        key: names it for ever.
        checksum: 60 bits of the MD5 of its canonical text, computed by the source.
        is_gone: marked as deleted there.
        changed_at: of the change column; None where that is null or a zero date.
        values: by our column or ``attributes.<name>``, as text; None for null.
    """

    key: int
    checksum: int
    is_gone: bool
    changed_at: datetime | None
    values: Mapping[str, str | None]


@dataclass(frozen=True, slots=True)
class ChangedPage:
    """Some rows in the order of (change column, key), and the source's clock at that snapshot."""

    rows: Sequence[SourceRow]
    read_at: datetime
    is_last: bool


class LeadSource(Protocol):
    """Somebody else's leads. No method writes, none keeps a transaction open after it returns."""

    @property
    def name(self) -> str:
        """Names the source and what is read of it, without user and password."""
        ...

    def changed(self, since: datetime, after: tuple[datetime, int] | None, rows: int) -> ChangedPage:
        """The next rows whose change column is `since` or later; `after` is the last page's last row."""
        ...

    def newest_change(self) -> tuple[datetime | None, datetime]:
        """The newest time of a change, which a writer's clock or zone may put anywhere, and the source's own clock."""
        ...

    def next_key(self, key: int) -> int | None:
        """The smallest key from this one on; None where there is none."""
        ...

    def fingerprint(self, first_key: int, next_key: int) -> Fingerprint:
        """Count and checksum of the rows with keys in ``[first_key, next_key)`` that are not marked as deleted."""
        ...

    def rows(self, first_key: int, next_key: int) -> Sequence[SourceRow]:
        """Those rows, of one snapshot."""
        ...


@dataclass(frozen=True, slots=True)
class Applied:
    """What a batch did to our leads.

    Attributes:
        unchanged: rows that were as they are already.
        quarantined: keys of rows that no lead can be made of; each has its reason in ``lead_source_row.problem``.
    """

    added: int = 0
    changed: int = 0
    removed: int = 0
    unchanged: int = 0
    quarantined: int = 0

    def __add__(self, other: Applied) -> Applied:
        return Applied(
            self.added + other.added,
            self.changed + other.changed,
            self.removed + other.removed,
            self.unchanged + other.unchanged,
            self.quarantined + other.quarantined,
        )


class LeadMirror(Protocol):
    """Our side: the table `lead`, and what is known of each source row."""

    def position(self, source: str) -> datetime | None:
        """Up to where the changes of this source are known; None before the first look."""
        ...

    def move(self, source: str, position: datetime) -> None:
        """Remember a position."""
        ...

    def apply(self, rows: Sequence[SourceRow]) -> Applied:
        """Add, change and remove the leads of these rows; a batch is one commit."""
        ...

    def replace(self, first_key: int, next_key: int, rows: Sequence[SourceRow]) -> Applied:
        """The same, and remove the leads of all other keys in the range."""
        ...

    def fingerprints(self, slice_index: int) -> Mapping[int, Fingerprint]:
        """By range, of one slice, computed from the leads as they are now."""
        ...


@dataclass(frozen=True, slots=True)
class ChangesReport:
    """One look for changes.

    Attributes:
        position: the next look begins there, less the overlap; None where nothing was ever seen.
    """

    source: str
    rows_read: int
    applied: Applied
    position: datetime | None


@dataclass(frozen=True, slots=True)
class SliceReport:
    """One slice, and the proof.

    Attributes:
        source, ours: fingerprints by range, after the run; equal where all is well.
        copied_ranges: the other ranges were equal already.
    """

    slice_index: int
    source: Mapping[int, Fingerprint]
    ours: Mapping[int, Fingerprint]
    copied_ranges: int
    applied: Applied
    paused_seconds: float

    def differences(self) -> list[tuple[int, Fingerprint, Fingerprint]]:
        """First key, source and ours of every range that differs; must be empty."""
        return [
            (index * RANGE_KEYS, self.source.get(index, NOTHING), self.ours.get(index, NOTHING))
            for index in sorted(self.source.keys() | self.ours.keys())
            if self.source.get(index, NOTHING) != self.ours.get(index, NOTHING)
        ]

    @property
    def rows(self) -> int:
        """Of the slice, at the source."""
        return sum(one.rows for one in self.source.values())


def sync_changes(
    source: LeadSource, mirror: LeadMirror, overlap: timedelta, throttle: Throttle, page_rows: int = PAGE_ROWS
) -> ChangesReport:
    """Take over what changed since the last look; see the module.

    The position never goes beyond the source's own clock: a row whose change lies in the future is read again and again
    until its time has come, and hides no other.

    Raises:
        PartUnavailableError: a part went away; the pages before it are kept.
    """
    position = mirror.position(source.name)
    if position is None:
        # The slices copy what is there; the first look only marks where changes begin.
        newest, now = source.newest_change()
        mirror.move(source.name, start := now if newest is None else min(newest, now))
        return ChangesReport(source.name, 0, Applied(), start)
    since, after = position - overlap, None
    applied, rows_read = Applied(), 0
    while True:
        page = source.changed(since, after, page_rows)
        if page.rows:
            applied += mirror.apply(page.rows)
            rows_read += len(page.rows)
            last = page.rows[-1]
            if last.changed_at is None:  # a row without a time is in no page
                raise PartUnavailableError(f"{source.name}: a row without a time of change came among the changes")
            after = (last.changed_at, last.key)
            reached = max(position, min(last.changed_at, page.read_at))
            if reached != position:
                mirror.move(source.name, position := reached)
            throttle.took(len(page.rows))
        if page.is_last:
            return ChangesReport(source.name, rows_read, applied, position)


def sync_slice(
    source: LeadSource,
    mirror: LeadMirror,
    slice_index: int,
    throttle: Throttle,
    on_range: Callable[[int, int], None] = lambda _range, _rows: None,
) -> SliceReport:
    """Make our leads of one slice equal to the source's; see the module.

    Args:
        on_range: called after each copied range with its number and its rows.

    Raises:
        PartUnavailableError: a part went away; run again, and it goes on.
    """
    held = dict(mirror.fingerprints(slice_index))
    found: dict[int, Fingerprint] = {}
    copied, applied = 0, Applied()
    for range_index in _ranges(source, held, slice_index):
        first, end = range_index * RANGE_KEYS, (range_index + 1) * RANGE_KEYS
        is_held = range_index in held
        # Nothing to compare with: the rows bring their checksums along.
        theirs = source.fingerprint(first, end) if is_held else None
        if theirs is None or theirs != held[range_index]:
            rows = source.rows(first, end)
            theirs = Fingerprint(len(rows), sum(row.checksum for row in rows))
            if rows or is_held:
                applied += mirror.replace(first, end, rows)
                copied += 1
                on_range(range_index, len(rows))
        if theirs.rows:
            found[range_index] = theirs
        throttle.took(theirs.rows)
    ours = mirror.fingerprints(slice_index)
    return SliceReport(slice_index, found, ours, copied, applied, throttle.paused_seconds)


def _ranges(source: LeadSource, held: Mapping[int, Fingerprint], slice_index: int) -> Iterator[int]:
    """The slice's ranges that one side or the other has rows in, in order; gaps in the keys cost one question."""
    ours = sorted(held)
    range_index = slice_index
    while True:
        key = source.next_key(range_index * RANGE_KEYS)
        reached = None if key is None else _of_slice(key // RANGE_KEYS, slice_index)
        while ours and (reached is None or ours[0] < reached):
            yield ours.pop(0)
        if reached is None:
            return
        if ours and ours[0] == reached:
            ours.pop(0)
        yield reached
        range_index = reached + SLICES


def _of_slice(range_index: int, slice_index: int) -> int:
    """The first range from this one on that belongs to the slice."""
    return range_index + (slice_index - range_index) % SLICES
