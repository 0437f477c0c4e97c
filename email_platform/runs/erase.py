"""Erases a person, by address, from everything that the platform keeps (GDPR, article 17).

Invariant: from the first step the person is suppressed for every sender, by a keyed hash that every spelling of the
address leads to; no row is removed that something is counted by, so every campaign's accounting stays as it was; and
the request counts as finished only after a further look through everything found nothing.

The steps, each of which may be killed anywhere and is done again by whoever goes on (`erase`, `carry_on`):

1. The request is written down with the address, and the person is suppressed, in one transaction. Whoever freezes an
   audience, asks before a call, stages deliveries or events, or imports leads from now on recognises the person.
2. Leads with the address are deleted where the table is ours.
3. Manifests are written again, with the pseudonym and without what was known of the person, and the ledger's receipts
   with them. A campaign with a call in flight or of unknown outcome that has the person among its recipients waits:
   repeating the call needs its bytes.
4. Every other object of the bucket that names the person is written again: deliveries from the ledger, others cell by
   cell. Before an object is replaced its old and new hash are written down, so that whoever goes on can tell the
   register and the warehouse of it.
5. Texts in the database's other tables, and cells of the warehouse's tables.
6. All of it once more, until nothing is found; then the request forgets the address.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from hashlib import sha256

import pyarrow as pa
from more_itertools import chunked

from email_platform.audience.freeze import read_chunk
from email_platform.domain.addresses import normalised_address
from email_platform.domain.erasure import ErasedPerson, is_pseudonym
from email_platform.domain.manifest import Manifest
from email_platform.domain.storage_layout import (
    DELIVERIES_PREFIX,
    DIMENSIONS_PREFIX,
    EVENT_INBOX_PREFIX,
    EVENT_NORMALISED_PREFIX,
    EVENT_QUARANTINE_PREFIX,
    EVENT_RAW_PREFIX,
    LEDGERS_PREFIX,
    LEGACY_PREFIX,
    MANIFESTS_PREFIX,
    REPORTS_PREFIX,
    delivery_parts,
    eligible_campaign,
    eligible_key,
    is_eligible_key,
    kind_of_key,
)
from email_platform.errors import CommandRefusedError
from email_platform.runs.erasure_parts import EraseParts, Erasure, ErasureBook, FoundPerson, RewrittenObject
from email_platform.runs.stage import stage_chunk
from email_platform.staging.erased_objects import named_rows, object_without, rewrite_recipients

_SEARCHED = (
    MANIFESTS_PREFIX,
    DELIVERIES_PREFIX,
    EVENT_RAW_PREFIX,
    EVENT_QUARANTINE_PREFIX,
    EVENT_NORMALISED_PREFIX,
    LEDGERS_PREFIX,
    LEGACY_PREFIX,
    DIMENSIONS_PREFIX,
    REPORTS_PREFIX,
)
"""Everything that the platform keeps in the bucket but step outputs, which hold keys, ids and counts."""
_OBJECTS_AT_ONCE = 50
_MOST_LOOKS = 5
_SHOWN = 20


def begin(book: ErasureBook, address: str) -> Erasure:
    """Suppress the person, delete their leads and write the request down; `carry_on` does the rest.

    Raises:
        CommandRefusedError: this is no address.
        ConfigurationError: there is no key.
    """
    key = _checked(address)
    request = book.begin(key)
    leads = book.delete_leads(ErasedPerson(key, request.pseudonym), dry_run=False)
    book.add_removed(request.pseudonym, {"leads": leads})
    return _again(book, request.pseudonym)


def erase(parts: EraseParts, address: str) -> Erasure:
    """Erase a person, or go on with it; the request, which says what it waits for where it is not finished.

    Raises:
        CommandRefusedError, ConfigurationError: as `begin`.
        PartUnavailableError: a part is away; what is done stays done, run it again.
    """
    request = begin(parts.book, address)
    parts.on_step("suppressed")
    return carry_on(parts, request)


def carry_on(parts: EraseParts, request: Erasure) -> Erasure:
    """Go on with a request, from whatever point it was left at; see `erase`."""
    if request.address is None:
        return request
    work = _Work(parts, ErasedPerson(request.address, request.pseudonym), dry_run=False)
    work.finish_rewriting(request.rewriting)
    for _ in range(_MOST_LOOKS):
        work.look()
        if not work.found_last:
            break
    else:
        work.waits_for.append("what names the person is being written again and again: run it again later")
    if work.waits_for:
        parts.book.set_waiting(request.pseudonym, work.waits_for)
        return _again(parts.book, request.pseudonym)
    return parts.book.finish(request.pseudonym)


def carry_on_all(parts: EraseParts) -> Iterator[Erasure]:
    """Go on with every request that is not finished, the oldest first.

    Raises:
        PartUnavailableError: a part is away.
    """
    for request in parts.book.unfinished():
        yield carry_on(parts, request)


def look_only(parts: EraseParts, address: str) -> FoundPerson:
    """What `erase` would remove, and what it would leave; changes nothing.

    Raises:
        CommandRefusedError, ConfigurationError, PartUnavailableError: as `erase`.
    """
    key = _checked(address)
    person = ErasedPerson(key, parts.book.pseudonym(key))
    work = _Work(parts, person, dry_run=True)
    work.look()
    return FoundPerson(person.pseudonym, dict(work.found_last), tuple(work.waits_for), kept(parts.book, person))


def kept(book: ErasureBook, person: ErasedPerson) -> tuple[str, ...]:
    """What names the person and is not ours to change."""
    reasons = []
    if leads := book.foreign_leads(person):
        reasons.append(
            f"{leads:,} leads have the address in the table that EMAIL_PLATFORM_LEAD_RELATION names: its owner's"
        )
    if campaigns := book.templates_naming(person):
        shown = ", ".join(map(str, campaigns[:_SHOWN])) + (" …" if len(campaigns) > _SHOWN else "")
        reasons.append(f"the name or a template of these campaigns has the address; an author wrote it: {shown}")
    return tuple(reasons)


def _again(book: ErasureBook, pseudonym: str) -> Erasure:
    found = book.find(pseudonym)
    assert found is not None
    return found


def _checked(address: str) -> str:
    key = normalised_address(address)
    local, at, domain = key.rpartition("@")
    if is_pseudonym(key):
        raise CommandRefusedError("this is what stands in the place of an address that was erased; give the address")
    if not (local and at and domain) or not ErasedPerson(key, key).needle:
        raise CommandRefusedError("this is no address: write it as name@example.com")
    return key


class _Work:
    """Looks through everything.

    Attributes:
        found_last: what the last look found and changed (or would change), by place.
        waits_for: why something had to stay as it is, of the last look.

    Length: the places are looked through with one state: what was found, and which campaigns wait.
    """

    def __init__(self, parts: EraseParts, person: ErasedPerson, *, dry_run: bool) -> None:
        self._outside, self._parts, self._book = parts, parts.parts, parts.book
        self._person, self._dry_run = person, dry_run
        self.found_last: Counter[str] = Counter()
        self.waits_for: list[str] = []
        self._waiting_campaigns: set[int] = set()

    def look(self) -> None:
        """One look through everything."""
        self.found_last, self.waits_for, self._waiting_campaigns = Counter(), [], set()
        book, person = self._book, self._person
        self.waits_for += [
            f"the audience of campaign {one} is being frozen, perhaps from before the request"
            for one in book.being_frozen()
        ]
        if book.are_old_rows_imported():
            self.waits_for.append("old rows are being imported, perhaps read from before the request")
        self._did("suppressions", book.suppress_again(person, dry_run=self._dry_run))
        self._did("leads", book.delete_leads(person, dry_run=self._dry_run))
        for key in self._listed(MANIFESTS_PREFIX):
            if (campaign_id := eligible_campaign(key)) is not None:
                self._manifest(campaign_id, key)
        for prefix in _SEARCHED:
            wanted = (key for key in self._listed(prefix) if not is_eligible_key(key) and not self._waits(key))
            for keys in chunked(wanted, _OBJECTS_AT_ONCE):
                self._objects(keys)
        for table, rows in book.scrub_tables(person, dry_run=self._dry_run).items():
            self._did(f"rows of {table}", rows)
        for table, cells in self._outside.warehouse.erase(person, dry_run=self._dry_run).items():
            self._did(f"cells of {table}", cells, counts=not self._waiting_campaigns)
        if any(self._is_named(key) for key in self._listed(EVENT_INBOX_PREFIX)):
            self.waits_for.append("an event that names the person waits in the inbox to be staged")

    def finish_rewriting(self, objects: Sequence[RewrittenObject]) -> None:
        """Tell register and warehouse of objects that were replaced before a death."""
        replaced = [one for one in objects if _digest(self._get(one.key)) == one.new_sha256]
        self._tell(replaced)

    def _did(self, place: str, count: int, *, counts: bool = True) -> None:
        if not count:
            return
        if not self._dry_run:
            self._book.add_removed(self._person.pseudonym, {place: count})
            self._outside.on_step(place)
        if counts or self._dry_run:
            self.found_last[place] += count

    def _listed(self, prefix: str) -> Iterator[str]:
        return iter([info.key for info in self._parts.store.list(prefix)])

    def _waits(self, key: str) -> bool:
        found = kind_of_key(key)
        return found is not None and found[1] in self._waiting_campaigns

    def _get(self, key: str) -> bytes:
        try:
            return self._parts.store.get(key)
        except FileNotFoundError:
            return b""

    # --- manifests --------------------------------------------------------------------------------------------

    def _manifest(self, campaign_id: int, key: str) -> None:
        try:
            positions = named_rows(self._parts.store, key, self._person)
        except (FileNotFoundError, pa.ArrowException):
            return
        if positions is None:
            return
        manifest = self._parts.manifests.find(campaign_id)
        if manifest is not None and eligible_key(manifest.prefix) == key:
            if call := self._call_in_doubt(manifest, positions):
                self._waiting_campaigns.add(campaign_id)
                self.waits_for.append(call)
                return
            chunks = {position // manifest.chunk_rows for position in positions}
            receipts = self._book.scrub_receipts(campaign_id, chunks, self._person, dry_run=self._dry_run)
            self._did("calls", receipts)
        if not self._dry_run:
            rewrite_recipients(self._parts.store, key, self._person)
        self._did("manifests", 1)

    def _call_in_doubt(self, manifest: Manifest, positions: Sequence[int]) -> str | None:
        """Why the manifest must stay as it is: a call may have to be repeated with the same bytes."""
        for position in positions:
            chunk_index, offset = divmod(position, manifest.chunk_rows)
            first = chunk_index * manifest.chunk_rows
            for record in self._parts.ledger.calls(manifest.campaign_id, chunk_index):
                is_open = record.state in ("intent", "unknown") or (record.state == "planned" and record.after_unknown)
                if is_open and offset in record.offsets_in_chunk(first):
                    return (
                        f"campaign {manifest.campaign_id}: a call with the person is in flight or of unknown outcome; "
                        f"it ends by itself, by events, or by `email-platform campaign decide {manifest.campaign_id}`"
                    )
        return None

    # --- other objects ----------------------------------------------------------------------------------------

    def _is_named(self, key: str) -> bool:
        try:
            # Nothing of a waiting body is left out, as in the quarantine.
            as_kept = EVENT_QUARANTINE_PREFIX + key.removeprefix(EVENT_INBOX_PREFIX)
            return object_without(as_kept, self._get(key), self._person) is not None
        except (pa.ArrowException, OSError):
            return False

    def _objects(self, keys: Sequence[str]) -> None:
        """A few objects together: what becomes of them is written down before the first is replaced."""
        rewritten: list[RewrittenObject] = []
        bodies: dict[str, bytes] = {}
        staged: list[tuple[Manifest, int]] = []
        for key in keys:
            body = self._get(key)
            try:
                found = object_without(key, body, self._person)
            except (pa.ArrowException, OSError):  # corrupt, and kept as it is for that; or gone
                continue
            if found is None:
                continue
            if self._dry_run:
                self._did("objects", 1)
            elif chunk := self._chunk_to_stage_again(key):
                staged.append(chunk)
            else:
                bodies[key] = found.body
                rewritten.append(RewrittenObject(key, _digest(body), _digest(found.body)))
        for manifest, chunk_index in staged:
            self._stage_again(manifest, chunk_index)
        if not rewritten:
            return
        self._book.set_rewriting(self._person.pseudonym, rewritten)
        self._outside.on_step("objects noted")
        for one in rewritten:
            if _digest(self._get(one.key)) == one.old_sha256:  # else it was written again meanwhile: the next look
                self._parts.store.put(one.key, bodies[one.key])
                self._outside.on_step(f"object {one.key}")
        self._tell(rewritten)
        self._did("objects", len(rewritten))

    def _tell(self, objects: Sequence[RewrittenObject]) -> None:
        if objects:
            self._outside.warehouse.replace_sources(objects)
            self._outside.on_step("warehouse knows the objects")
            self._book.replace_content(objects)
        self._book.set_rewriting(self._person.pseudonym, ())

    def _chunk_to_stage_again(self, key: str) -> tuple[Manifest, int] | None:
        """The chunk whose deliveries the object holds, where its ledger is still in the database."""
        parts = delivery_parts(key)
        manifest = None if parts is None else self._parts.manifests.find(parts[0])
        if parts is None or manifest is None or manifest.archived_at is not None:
            return None
        return manifest, parts[1]

    def _stage_again(self, manifest: Manifest, chunk_index: int) -> None:
        """Write a chunk's deliveries as the ledger has them: somebody else may be writing them, too."""
        receipts = self._book.scrub_receipts(manifest.campaign_id, [chunk_index], self._person, dry_run=False)
        self._did("calls", receipts)
        # What it holds may be newer than what was loaded, so the next load takes it in again; its rows replace the old.
        stage_chunk(self._parts, manifest, chunk_index, read_chunk(self._parts.store, manifest, chunk_index))
        self._did("objects", 1)


def _digest(body: bytes) -> str:
    return sha256(body).hexdigest()
