"""From the receivers' inbox to staged events: archive, normalise, suppress, register, and only then clear.

Invariant: a body leaves the inbox only after its archive, its events, its suppressions and, where it could not
be read, its quarantine are durable. Every step may be repeated by anybody at any time: keys follow from the
inbox objects of a batch, the register and the suppressions are written in one transaction, and an event that
is staged twice is one event (see `email_platform.events.event`).

Why an inbox that is emptied, and no register of what was received: the receiver's acknowledgement then hangs
on one S3 PUT alone. Nothing is lost by a crash between PUT and registration, since the listing *is* the
register; and the listing stays short, whatever the archive holds. It also coalesces: the receivers write an
object every fraction of a second, the warehouse gets one per batch.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from hashlib import sha256
from io import BytesIO
from itertools import chain
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from email_platform.domain.erasure import ErasedLookup, NobodyErased
from email_platform.domain.ports import Clock, ObjectInfo, ObjectStore, StagedObject
from email_platform.domain.storage_layout import (
    EVENT_INBOX_PREFIX,
    event_inbox_key,
    event_normalised_key,
    event_quarantine_key,
    event_raw_key,
    event_raw_prefix,
)
from email_platform.events.erased_events import archived_without, body_without, erased_in_bodies, without_people
from email_platform.events.event import Event, event_table
from email_platform.events.formats.ses import SUBSCRIPTION_ENDED
from email_platform.events.mailed import Mailed, MailedAddresses
from email_platform.events.normalising import normalise_body
from email_platform.events.received import ReceivedBody, from_parquet, to_parquet
from email_platform.events.suppression import (
    ComplaintScope,
    SuppressionRequest,
    asks_to_suppress,
    ids_of_page,
    suppressions_from,
)

_logger = logging.getLogger(__name__)
_REPLAY_PREFIX = "replay-"
BATCH_OBJECTS = 500
BATCH_BYTES = 8 << 20  # compressed; about ten times as much in memory


@dataclass(frozen=True, slots=True)
class Quarantined:
    """An object of the quarantine and why its bodies are there."""

    staged: StagedObject
    reason: str


class EventIntake(Protocol):
    """Where a batch becomes known; every method is one transaction."""

    def admit(
        self, staged: StagedObject | None, quarantined: Sequence[Quarantined], requests: Sequence[SuppressionRequest]
    ) -> int:
        """Register the batch's objects and write its suppressions; returns how many suppressions are new.

        Idempotent.
        """
        ...

    def quarantined(self) -> Sequence[StagedObject]:
        """The quarantine's objects that were not replayed."""
        ...

    def mark_replayed(self, staged: StagedObject) -> None:
        """Remember that the object's bodies are in the inbox again."""
        ...


@dataclass(frozen=True, slots=True)
class StagingReport:
    """What one pass over the inbox did.

    Attributes:
        bodies: verified bodies taken from the inbox.
        events: events staged, each identity once per batch.
        problems: bodies that lie in the quarantine now.
        suppressions: suppressions that are new.
        events_by_type: of `events`.
        keys: the staged objects.
        quarantined: the quarantine's new objects and why their bodies are there.
        notices: what an operator must hear of, in words: a provider stopped sending events.
    """

    batches: int = 0
    objects: int = 0
    bodies: int = 0
    events: int = 0
    problems: int = 0
    suppressions: int = 0
    events_by_type: Mapping[str, int] = field(default_factory=dict)
    keys: tuple[str, ...] = ()
    quarantined: Mapping[str, str] = field(default_factory=dict)
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SuppressionPolicy:
    """How suppressions follow from events.

    Attributes:
        mailed: finds whom we mailed; None: the events' own word is all there is.
        present_addresses: what `SuppressionStore.present_addresses` answers.
        complaint_scope: for whom a complaint counts.
        erased: whose address must not come back with a late event.
    """

    mailed: MailedAddresses | None = None
    present_addresses: Callable[[Sequence[int]], Mapping[int, str]] = lambda _: {}
    complaint_scope: ComplaintScope = "sender"
    erased: ErasedLookup = field(default_factory=NobodyErased)


def inbox_is_waiting(store: ObjectStore) -> bool:
    """Whether anything lies in the inbox; one listing request."""
    return next(iter(store.list(EVENT_INBOX_PREFIX)), None) is not None


def stage_inbox(
    store: ObjectStore,
    intake: EventIntake,
    clock: Clock,
    on_progress: Callable[[StagingReport], None] = lambda _: None,
    *,
    policy: SuppressionPolicy | None = None,
    batch_objects: int = BATCH_OBJECTS,
    batch_bytes: int = BATCH_BYTES,
) -> StagingReport:
    """Stage what lies in the inbox now; what arrives meanwhile is the next pass's.

    Constant memory: a batch at a time. Safe to run in several processes at once.

    Args:
        store: the bucket.
        intake: where batches become known.
        clock: the present time.
        on_progress: called after each batch.
        policy: how suppressions follow from events.
        batch_objects: most inbox objects of one batch.
        batch_bytes: most compressed bytes of one batch (a single larger object makes its own).

    Raises:
        PartUnavailableError: S3 or PostgreSQL is away; staged bodies stay staged, the rest stays in the inbox.
    """
    report = StagingReport()
    for batch in _batches(list(store.list(EVENT_INBOX_PREFIX)), batch_objects, batch_bytes):
        report = _stage_batch(store, intake, clock, batch, report, policy or SuppressionPolicy())
        on_progress(report)
    return report


def _batches(infos: Sequence[ObjectInfo], most_objects: int, most_bytes: int) -> Iterator[list[ObjectInfo]]:
    batch: list[ObjectInfo] = []
    size_bytes = 0
    for info in infos:
        if batch and (len(batch) >= most_objects or size_bytes + info.size_bytes > most_bytes):
            yield batch
            batch, size_bytes = [], 0
        batch.append(info)
        size_bytes += info.size_bytes
    if batch:
        yield batch


def _stage_batch(
    store: ObjectStore,
    intake: EventIntake,
    clock: Clock,
    batch: Sequence[ObjectInfo],
    report: StagingReport,
    policy: SuppressionPolicy,
) -> StagingReport:
    bodies: list[ReceivedBody] = []
    to_archive: list[ReceivedBody] = []
    unreadable: list[tuple[ObjectInfo, bytes]] = []
    keys: list[str] = []
    for info in batch:
        try:
            content = store.get(info.key)
        except FileNotFoundError:  # another process has staged it meanwhile
            continue
        keys.append(info.key)
        try:
            found = from_parquet(content)
        except (pa.ArrowException, OSError):  # OSError: pyarrow's word for a corrupt page
            unreadable.append((info, content))
            continue
        bodies += found
        if not info.key.rpartition("/")[2].startswith(_REPLAY_PREFIX):  # those lie in the archive already
            to_archive += found
    if not keys:
        return report
    batch_name = sha256("\n".join(keys).encode()).hexdigest()[:32]
    day = min((body.received_at for body in bodies), default=clock()).date()
    quarantined = [_set_aside(store, day, info, content) for info, content in unreadable]

    results = [normalise_body(body) for body in bodies]
    if people := erased_in_bodies(policy.erased, bodies):  # after they were read: an id made of the content stays
        results = [without_people(result, people) for result in results]
        to_archive = [kept for body in to_archive if (kept := archived_without(body, people)) is not None]
        bodies = [body_without(body, people) for body in bodies]
    events = list(chain.from_iterable(result.events for result in results))
    mailed = _whom_we_mailed(events, policy)
    unattributable = _unattributable(events, mailed, policy)
    problems: list[ReceivedBody] = []
    for body, result in zip(bodies, results, strict=True):
        nobody = [_NOBODY] if any(event.event_key in unattributable for event in result.events) else []
        if problem := "; ".join([*([result.problem] if result.problem else []), *nobody]):
            problems.append(replace(body, problem=problem))
    if to_archive:
        store.put(event_raw_key(day, batch_name), to_parquet(to_archive))
    if problems:
        quarantined.append(_quarantine(store, day, batch_name, problems))
    staged: StagedObject | None = None
    by_type: Counter[str] = Counter()
    if events:
        table = event_table(events)
        by_type.update(table.column("type").to_pylist())
        content = _parquet(table)
        key = event_normalised_key(day, batch_name)
        store.put(key, content)
        staged = StagedObject(key, "event", table.num_rows, sha256(content).hexdigest())
    new_suppressions = intake.admit(staged, quarantined, suppressions_from(events, mailed, policy.complaint_scope))
    for key in keys:
        store.delete(key)
    return StagingReport(
        batches=report.batches + 1,
        objects=report.objects + len(keys),
        bodies=report.bodies + len(bodies),
        events=report.events + (staged.rows if staged else 0),
        problems=report.problems + len(problems) + len(unreadable),
        suppressions=report.suppressions + new_suppressions,
        events_by_type=Counter(report.events_by_type) + by_type,
        keys=(*report.keys, *([staged.key] if staged else [])),
        quarantined={**report.quarantined, **{one.staged.key: one.reason for one in quarantined}},
        notices=(*report.notices, *_notices(events)),
    )


_NOBODY = "it asks to suppress somebody whom neither it, nor a manifest, nor a lead names: kept apart as unattributable"


def _whom_we_mailed(events: Sequence[Event], policy: SuppressionPolicy) -> Mapping[str, Mailed]:
    """By event key, the recipients of those events that ask to suppress somebody."""
    if policy.mailed is None:
        return {}
    found: dict[str, Mailed] = {}
    of_campaign: dict[int, list[Event]] = defaultdict(list)
    for event in events:
        lead_id, _ = ids_of_page(event)
        if not asks_to_suppress(event) or not event.campaign_id:
            continue
        if not lead_id and event.message_id:
            of_campaign[event.campaign_id].append(event)
        elif lead_id and not event.recipient:
            for one in policy.mailed.of_lead(event.campaign_id, lead_id):
                found[event.event_key] = one
    for campaign_id, asking in of_campaign.items():
        known = policy.mailed.of_messages(campaign_id, {event.message_id: event.recipient for event in asking})
        found |= {event.event_key: known[event.message_id] for event in asking if event.message_id in known}
    return found


def _unattributable(events: Sequence[Event], mailed: Mapping[str, Mailed], policy: SuppressionPolicy) -> set[str]:
    """Keys of the events that ask to suppress somebody whom nobody can name."""
    nameless = {
        event.event_key: ids_of_page(event)[0]
        for event in events
        if asks_to_suppress(event) and not event.recipient and event.event_key not in mailed
    }
    lead_ids = sorted({lead_id for lead_id in nameless.values() if lead_id})
    present = policy.present_addresses(lead_ids) if lead_ids else {}
    return {key for key, lead_id in nameless.items() if lead_id not in present}


def _notices(events: Sequence[Event]) -> list[str]:
    return [
        f"{event.provider}/{event.account}: SNS has ended the subscription of this address, so no more events come in; "
        "subscribe it to the topic again, unless that was meant"
        for event in events
        if event.type == "other" and event.subtype == SUBSCRIPTION_ENDED
    ]


def _parquet(table: pa.Table) -> bytes:
    buffer = BytesIO()
    # One row group: the warehouse reads the object as one block.
    pq.write_table(table, buffer, compression="zstd", row_group_size=max(1, table.num_rows))
    return buffer.getvalue()


def _quarantine(store: ObjectStore, day: date, batch_name: str, problems: Sequence[ReceivedBody]) -> Quarantined:
    content = to_parquet(problems)
    key = event_quarantine_key(day, batch_name)
    store.put(key, content)
    counts: dict[str, int] = {}
    for body in problems:
        line = f"{body.provider}/{body.account}: {body.problem}"
        counts[line] = counts.get(line, 0) + 1
    shown = [f"{line} ({count} bodies)" if count > 1 else line for line, count in sorted(counts.items())]
    more = [f"and {len(shown) - 10} other reasons"] if len(shown) > 10 else []
    staged = StagedObject(key, "event_quarantine", len(problems), sha256(content).hexdigest())
    return Quarantined(staged, "\n".join(shown[:10] + more))


def _set_aside(
    store: ObjectStore,
    day: date,
    info: ObjectInfo,
    content: bytes,
    reason: str = "the inbox object is corrupt: not the Parquet file that a receiver writes",
) -> Quarantined:
    """Keep an object that is no Parquet exactly as it is."""
    name = info.key.rpartition("/")[2].removesuffix(".parquet")
    key = event_quarantine_key(day, f"unreadable-{name}")
    store.put(key, content)
    staged = StagedObject(key, "event_quarantine", 0, sha256(content).hexdigest())
    return Quarantined(staged, reason)


# --- replays ------------------------------------------------------------------------------------------------------


def replay_quarantine(store: ObjectStore, intake: EventIntake, clock: Clock) -> int:
    """Put every quarantined body back into the inbox, after a fix of the code that could not read it; returns how many.

    Idempotent: an object's bodies go to one inbox key. A body that still cannot be read comes back to the quarantine
    under another key; the events of a body that was half readable are deduplicated.
    """
    replayed = 0
    for staged in intake.quarantined():
        try:
            bodies = from_parquet(store.get(staged.key))
        except (pa.ArrowException, OSError):  # a corrupt object stays; FileNotFoundError: removed by hand
            continue
        _put_back(store, clock, f"{_REPLAY_PREFIX}{staged.content_sha256[:16]}", bodies)
        intake.mark_replayed(staged)
        replayed += len(bodies)
    return replayed


def replay_archive(
    store: ObjectStore, clock: Clock, first_day: date, last_day: date, intake: EventIntake | None = None
) -> int:
    """Put every archived body of these days of reception back into the inbox; returns how many.

    After a fix of a normaliser: the warehouse takes the newer reading of the same event. An object that cannot be read
    stops no other: it is logged, and copied into the quarantine.

    Args:
        store: the bucket.
        clock: the present time.
        first_day: of reception, included.
        last_day: included.
        intake: where a corrupt object becomes known; None: in the log alone.
    """
    replayed = 0
    day = first_day
    while day <= last_day:
        for info in list(store.list(event_raw_prefix(day))):
            try:
                content = store.get(info.key)
            except FileNotFoundError:  # deleted meanwhile
                continue
            try:
                bodies = from_parquet(content)
            except (pa.ArrowException, OSError):
                _logger.error("an archived object is corrupt and was set aside: %s", info.key)
                aside = _set_aside(
                    store, day, info, content, "the archived object is corrupt: not a Parquet file of ours"
                )
                if intake is not None:
                    intake.admit(None, [aside], [])
                continue
            _put_back(store, clock, f"{_REPLAY_PREFIX}{sha256(info.key.encode()).hexdigest()[:16]}", bodies)
            replayed += len(bodies)
        day += timedelta(days=1)
    return replayed


def _put_back(store: ObjectStore, clock: Clock, name: str, bodies: Sequence[ReceivedBody]) -> None:
    store.put(event_inbox_key(clock().date(), name, 0), to_parquet([replace(body, problem="") for body in bodies]))
