"""One campaign's run, step by step: freeze the audience, send the chunks, finish, load.

Invariant: each step reads what is true from PostgreSQL and may be repeated at any time by anybody; a step
that finds its work done does nothing and says so. Completeness is judged from the ledger, never from what
an orchestrator remembers of its steps.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from itertools import groupby
from threading import Event
from typing import Protocol
from uuid import UUID

import pyarrow as pa

from email_platform.audience.freeze import read_chunk, resolve_audience
from email_platform.audience.source import AudienceSource
from email_platform.domain.campaigns import Campaign, CampaignStatus, CampaignStore, Sender
from email_platform.domain.identity import call_id, message_id
from email_platform.domain.manifest import Manifest, ManifestStore
from email_platform.domain.ports import (
    BulkCall,
    Clock,
    EmailProvider,
    ObjectStore,
    ProviderLimits,
    Recipient,
    StagedObject,
    SuppressionLookup,
    Warehouse,
)
from email_platform.domain.storage_layout import eligible_key, excluded_key
from email_platform.errors import (
    AccountRefusedError,
    CampaignNotFoundError,
    CampaignStoppedError,
    ConfigurationError,
    IllegalTransitionError,
    InvalidConditionError,
    InvalidTemplateError,
    LeaseLostError,
    ProviderDownError,
    SendingInterruptedError,
)
from email_platform.sending.chunk_delivery import ChunkDelivery, ChunkProgress, DeliveryPolicy, progress_of
from email_platform.sending.evidence import proof_from, unknown_of
from email_platform.sending.ledger import CallLedger, CallRecord, CampaignTotals, UnknownDecision
from email_platform.sending.rate_limit import RateLimiter
from email_platform.sending.uninterrupted import run_to_the_end
from email_platform.staging.accounting import AccountingLine, ledger_lines, require_all, warehouse_lines
from email_platform.staging.delivery_objects import StagingRegister, stage_deliveries
from email_platform.staging.dimensions import DimensionSource


class Renderer(Protocol):
    """Turns rows of a manifest into messages; deterministic."""

    def check(self, store: ObjectStore, manifest: Manifest) -> None:
        """Return where every recipient can be rendered.

        Raises:
            InvalidTemplateError: says which variable how many recipients lack.
        """
        ...

    def render(self, manifest: Manifest, rows: pa.Table) -> tuple[Recipient, ...]:
        """One message per row, in order."""
        ...


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything a campaign's run needs of the outside world.

    Attributes:
        chunk_rows: eligible leads per chunk of the manifests frozen from now on.
        limits: what a sender's provider allows, said without connecting to it.
        provider: makes a client of a sender's provider; called inside the event loop that uses it.
        limiter: the rate limiter of a sender's provider account, for the campaign with this id.
        suppressions: asked again before each call.
        renderer: compiles the content of a campaign or of its manifest (InvalidTemplateError).
    """

    campaigns: CampaignStore
    manifests: ManifestStore
    audience: AudienceSource
    suppressions: SuppressionLookup
    ledger: CallLedger
    store: ObjectStore
    register: StagingRegister
    dimensions: DimensionSource
    clock: Clock
    policy: DeliveryPolicy
    chunk_rows: int
    limits: Callable[[Sender], ProviderLimits]
    provider: Callable[[Sender], EmailProvider]
    limiter: Callable[[Sender, int], RateLimiter]
    renderer: Callable[[Campaign | Manifest], Renderer]


# --- step 1: the audience -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FrozenAudience:
    """A campaign's manifest and whether this step made it (or found it)."""

    campaign: Campaign
    manifest: Manifest
    frozen_now: bool


def freeze_audience(
    parts: Parts, campaign_id: int, on_progress: Callable[[int], None] = lambda _: None
) -> FrozenAudience:
    """Put the campaign into ``sending`` and freeze its audience, or find the one frozen before.

    A campaign that is sent or stopped keeps its status; its manifest is returned if it has one.

    Args:
        parts: the outside world.
        campaign_id: which campaign.
        on_progress: called with the number of leads considered so far.

    Raises:
        CampaignNotFoundError: the row is gone.
        CampaignStoppedError: it has no manifest and may not send now.
        InvalidConditionError, InvalidTemplateError: the campaign is set to failed with the reason.
    """
    campaign = parts.campaigns.get(campaign_id)
    if campaign.status in (CampaignStatus.QUEUED, CampaignStatus.SENDING):
        campaign = parts.campaigns.change_status(campaign_id, CampaignStatus.SENDING)
    manifest = parts.manifests.find(campaign_id)
    if manifest is not None:
        _register_exclusions(parts, manifest)
        return FrozenAudience(campaign, manifest, frozen_now=False)
    if campaign.status is not CampaignStatus.SENDING:
        raise CampaignStoppedError(campaign_id, campaign.status)

    def noticed(rows: int) -> None:
        parts.campaigns.note_progress(campaign_id)
        on_progress(rows)

    try:
        renderer = parts.renderer(campaign)
        resolved = resolve_audience(
            campaign,
            parts.audience,
            parts.store,
            parts.clock,
            chunk_rows=parts.chunk_rows,
            call_rows=parts.limits(campaign.sender).recipients_per_call,
            on_progress=noticed,
        )
        renderer.check(parts.store, resolved)
    except (InvalidConditionError, InvalidTemplateError, ConfigurationError) as error:
        parts.campaigns.change_status(campaign_id, CampaignStatus.FAILED, str(error))
        raise
    manifest = parts.manifests.freeze(resolved)
    _register_exclusions(parts, manifest)
    return FrozenAudience(campaign, manifest, frozen_now=manifest.manifest_id == resolved.manifest_id)


def _register_exclusions(parts: Parts, manifest: Manifest) -> None:
    """Offer the excluded leads to the warehouse; the object never changes, so once is enough."""
    if manifest.excluded_rows == 0 or "exclusion" in parts.register.staged_rows(manifest.campaign_id):
        return
    key = excluded_key(manifest.prefix)
    digest = sha256()
    with parts.store.reader(key) as reader:
        while block := reader.read(1 << 20):
            digest.update(block)
    staged = StagedObject(key, "exclusion", manifest.excluded_rows, digest.hexdigest())
    parts.register.record(staged, manifest.campaign_id)


# --- before step 1: what would happen -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CampaignPreview:
    """What a campaign would send now.

    Attributes:
        manifest: the counts of an audience that was resolved and thrown away.
        samples: the first recipients' messages, as they would be sent.
    """

    campaign: Campaign
    manifest: Manifest
    samples: tuple[Recipient, ...]


def preview_campaign(parts: Parts, campaign_id: int, samples: int = 1) -> CampaignPreview:
    """Resolve the audience, check that everybody can be rendered, render the first few, and forget it again.

    Changes neither the campaign nor its manifest; a campaign whose audience is frozen is previewed as it is frozen.

    Raises:
        CampaignNotFoundError: no such campaign.
        InvalidConditionError, InvalidTemplateError, ConfigurationError: what would fail the campaign.
    """
    campaign = parts.campaigns.get(campaign_id)
    frozen = parts.manifests.find(campaign_id)
    renderer = parts.renderer(frozen or campaign)
    manifest = frozen or resolve_audience(
        campaign,
        parts.audience,
        parts.store,
        parts.clock,
        chunk_rows=parts.chunk_rows,
        call_rows=parts.limits(campaign.sender).recipients_per_call,
    )
    try:
        renderer.check(parts.store, manifest)
        messages: tuple[Recipient, ...] = ()
        if manifest.eligible_rows and samples:
            messages = renderer.render(manifest, read_chunk(parts.store, manifest, 0).slice(0, samples))
        return CampaignPreview(campaign, manifest, messages)
    finally:
        if frozen is None:
            for key in (eligible_key(manifest.prefix), excluded_key(manifest.prefix)):
                parts.store.delete(key)


# --- step 2: the chunks -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ChunkReport:
    """What one step found and did in one chunk.

    Attributes:
        progress: recipients by outcome, over all runs; ``sent_calls`` of this step alone.
        seconds: how long this step worked on the chunk.
        staged_key: the object with the chunk's deliveries, or None where nothing was attempted.
    """

    chunk_index: int
    progress: ChunkProgress
    seconds: float
    staged_key: str | None


def send_chunk(
    parts: Parts,
    campaign_id: int,
    chunk_index: int,
    *,
    holder: str,
    stop: Event | None = None,
    on_progress: Callable[[ChunkProgress], None] = lambda _: None,
) -> ChunkReport:
    """Send what the ledger does not show as done, then stage what is known of every recipient.

    Raises:
        CampaignStoppedError, AccountRefusedError, ProviderDownError: what is known is staged; after the
            latter two the campaign is paused with the reason.
        LeaseLostError, ChunkBusyError, SendingInterruptedError: another process does it, or will.
    """
    began_seconds = time.monotonic()
    stop = stop or Event()
    manifest = find_manifest(parts, campaign_id)
    recipients = read_chunk(parts.store, manifest, chunk_index)
    if parts.ledger.chunk_is_finished(campaign_id, chunk_index):
        progress = progress_of(manifest, chunk_index, parts.ledger.calls(campaign_id, chunk_index))
        staged = _stage(parts, manifest, chunk_index, recipients)
        return ChunkReport(chunk_index, progress, time.monotonic() - began_seconds, staged)
    renderer = parts.renderer(manifest)

    def build_call(call_index: int, offsets: Sequence[int]) -> BulkCall:
        return BulkCall(
            call_id=call_id(campaign_id, chunk_index, call_index),
            campaign_id=campaign_id,
            from_address=manifest.sender.from_address,
            from_name=manifest.sender.from_name,
            reply_to=manifest.sender.reply_to,
            recipients=renderer.render(manifest, recipients.take(list(offsets))),
            tags={"campaign_id": str(campaign_id)},
        )

    def screen(offsets: Sequence[int]) -> dict[int, str]:
        rows = recipients.take(list(offsets))
        leads = rows.column("lead_id").to_pylist()
        suppressed = parts.suppressions.suppressed(manifest.sender.sender_id, leads, rows.column("email").to_pylist())
        return {offset: suppressed[lead] for offset, lead in zip(offsets, leads, strict=True) if lead in suppressed}

    async def deliver() -> ChunkProgress:
        provider = parts.provider(manifest.sender)
        try:
            return await ChunkDelivery(
                manifest,
                chunk_index,
                holder=holder,
                ledger=parts.ledger,
                provider=provider,
                build_call=build_call,
                clock=parts.clock,
                policy=parts.policy,
                limiter=parts.limiter(manifest.sender, campaign_id),
                screen=screen,
                stop=stop,
                on_progress=on_progress,
            ).run()
        finally:
            await provider.aclose()

    try:
        progress = run_to_the_end(deliver, stop)
    except (AccountRefusedError, ConfigurationError, ProviderDownError) as error:
        with suppress(IllegalTransitionError, CampaignNotFoundError):
            parts.campaigns.change_status(campaign_id, CampaignStatus.PAUSED, str(error))
        _stage(parts, manifest, chunk_index, recipients)
        raise
    except (CampaignStoppedError, LeaseLostError, SendingInterruptedError):  # a fenced process may bring a late receipt
        _stage(parts, manifest, chunk_index, recipients)
        raise
    except InvalidTemplateError as error:
        with suppress(IllegalTransitionError, CampaignNotFoundError):
            parts.campaigns.change_status(campaign_id, CampaignStatus.FAILED, str(error))
        raise
    staged = _stage(parts, manifest, chunk_index, recipients)
    parts.campaigns.note_progress(campaign_id)
    return ChunkReport(chunk_index, progress, time.monotonic() - began_seconds, staged)


def _stage(parts: Parts, manifest: Manifest, chunk_index: int, recipients: pa.Table) -> str | None:
    """Stage what the ledger knows of the chunk; returns the object's key, None where nothing was attempted.

    Two processes may stage one chunk at once (an orphan, events that prove a call). Each looks at the ledger again
    after it has written, so that the last object written holds what is known, whoever wrote it.
    """

    def knowledge() -> tuple[Sequence[CallRecord], bool]:
        finished = parts.ledger.chunk_is_finished(manifest.campaign_id, chunk_index)
        return parts.ledger.calls(manifest.campaign_id, chunk_index), finished

    records, finished = knowledge()
    while True:
        staged = stage_deliveries(
            manifest, chunk_index, recipients, records, parts.store, parts.register, finished=finished
        )
        known, (records, finished) = (records, finished), knowledge()
        if known == (records, finished):
            return staged.key if staged else None


def find_manifest(parts: Parts, campaign_id: int) -> Manifest:
    """The campaign's frozen audience.

    Raises:
        CampaignStoppedError: it has none.
    """
    manifest = parts.manifests.find(campaign_id)
    if manifest is None:
        raise CampaignStoppedError(campaign_id, "without a frozen audience")
    return manifest


# --- step 3: the end of sending -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SendingSummary:
    """The campaign after its chunks: what the ledger knows and what became of the status.

    Attributes:
        unknown_by_chunk: recipients of whom nobody knows, by chunk index; chunks without any are left out.
    """

    campaign: Campaign
    manifest: Manifest
    totals: CampaignTotals
    lines: tuple[AccountingLine, ...]
    unknown_by_chunk: Mapping[int, int]


def finish_sending(parts: Parts, campaign_id: int) -> SendingSummary:
    """Judge from the ledger whether the campaign is complete, and if so set it to sent, saying what is unknown.

    Raises:
        CampaignNotFoundError: the row is gone; ledger and staged objects stay.
        CampaignStoppedError: it was paused or cancelled before the last chunk.
        AccountingError: chunks are unfinished or recipients missing; the campaign stays in ``sending``.
    """
    manifest = find_manifest(parts, campaign_id)
    totals = parts.ledger.totals(campaign_id)
    campaign = parts.campaigns.get(campaign_id)
    if campaign.status not in (CampaignStatus.SENDING, CampaignStatus.SENT):
        raise CampaignStoppedError(campaign_id, campaign.status)
    lines = ledger_lines(manifest, totals, complete=True)
    require_all(lines)
    if campaign.status is CampaignStatus.SENDING:
        campaign = parts.campaigns.change_status(campaign_id, CampaignStatus.SENT, _sent_reason(manifest, totals))
    unknown: Counter[int] = Counter()
    for chunk_index, record in parts.ledger.unknown_calls(campaign_id) if totals.unknown else ():
        unknown[chunk_index] += record.unknown_count
    return SendingSummary(campaign, manifest, totals, tuple(lines), unknown)


def _sent_reason(manifest: Manifest, totals: CampaignTotals) -> str | None:
    if manifest.eligible_rows == 0:
        return f"nobody to send to: {manifest.considered_rows:,} leads considered, all of them excluded"
    if totals.unknown:
        calls = totals.calls_by_state.get("unknown", 0)
        return f"{totals.unknown:,} recipients in {calls:,} calls have no answer and are held"
    return None


# --- step 4: the warehouse ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What was loaded now, and what was set aside with which reason."""

    objects: int
    rows: int
    seconds: float
    quarantined: Mapping[str, str]


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
    while batch := register.unloaded(campaign_id):
        for outcomes in warehouse.load_many(batch):
            loaded = [(outcome.staged, outcome.rows) for outcome in outcomes if outcome.problem is None]
            register.mark_all_loaded(loaded)
            objects += len(loaded)
            rows += sum(count for _, count in loaded)
            for outcome in outcomes:
                if outcome.problem is not None:
                    register.quarantine(outcome.staged, str(outcome.problem))
                    quarantined[outcome.staged.key] = str(outcome.problem)
            on_progress(objects, rows)
    return LoadReport(objects, rows, time.monotonic() - began_seconds, quarantined)


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
    return LoadReport(len(again), rows, time.monotonic() - began_seconds, quarantined)


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


# --- when an operator decides -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class UnknownDecided:
    """What became of a campaign's unknown calls."""

    calls: int
    recipients: int
    chunks: tuple[int, ...]
    campaign: Campaign


def decide_unknown_calls(
    parts: Parts, campaign_id: int, decision: UnknownDecision, chunk_index: int | None = None
) -> UnknownDecided:
    """Abandon or resend the calls whose outcome nobody knows, and stage their chunks anew.

    ``resend`` accepts that their recipients may get the message twice; the campaign is queued again if it was
    sent. ``abandon`` accepts that they may not have got it at all.

    Raises:
        CampaignNotFoundError: the row is gone (only abandoning works then: it needs no run).
    """
    manifest = find_manifest(parts, campaign_id)
    found = [
        (index, record)
        for index, record in parts.ledger.unknown_calls(campaign_id)
        if chunk_index is None or index == chunk_index
    ]
    calls = parts.ledger.decide_unknown(campaign_id, decision, chunk_index)
    chunks = tuple(sorted({index for index, _ in found}))
    for index in chunks if decision == "abandon" else ():  # resent calls are staged when they have been made
        _stage(parts, manifest, index, read_chunk(parts.store, manifest, index))
    campaign = parts.campaigns.get(campaign_id)
    if decision == "resend" and calls and campaign.status is CampaignStatus.SENT:
        campaign = parts.campaigns.change_status(campaign_id, CampaignStatus.QUEUED, "to resend unknown calls")
    if decision == "abandon" and campaign.status is CampaignStatus.SENT:
        reason = _sent_reason(manifest, parts.ledger.totals(campaign_id))
        campaign = parts.campaigns.change_status(campaign_id, CampaignStatus.SENT, reason)
    return UnknownDecided(calls, sum(record.unknown_count for _, record in found), chunks, campaign)


# --- when events tell ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EvidenceApplied:
    """What events have settled of a campaign's unknown calls.

    Attributes:
        calls_resolved: calls of which nobody is unknown any more.
        recipients_proved: recipients that went from unknown to accepted now.
        recipients_unknown: recipients of the campaign that are still unknown.
        chunks: the chunks staged anew.
    """

    calls_resolved: int
    recipients_proved: int
    recipients_unknown: int
    chunks: tuple[int, ...]


def unknown_messages(parts: Parts, campaign_id: int) -> frozenset[UUID]:
    """The message ids of every recipient whose outcome nobody knows and nobody is finding out now."""
    manifest = parts.manifests.find(campaign_id)
    if manifest is None:  # calls of a manifest that somebody removed by hand name nobody, and hold up nobody else
        return frozenset()
    return frozenset(
        message
        for _, record, messages in _unknown_recipients(parts, manifest)
        for message in unknown_of(record, messages)
    )


def resolve_unknown_by_evidence(parts: Parts, campaign_id: int, evidence: Mapping[UUID, str]) -> EvidenceApplied:
    """Settle unknown calls by provider events, each of which proves that its message was accepted.

    One proved recipient proves the whole call where the provider accepts whole calls; where it answers per
    recipient, the others stay unknown until an event of their own, since the provider may have refused them.
    Idempotent; messages that are not unknown are passed over.

    Args:
        parts: the outside world.
        campaign_id: which campaign.
        evidence: by message id, the provider's message id as the event has it; "" where it has none.

    Raises:
        CampaignStoppedError: the campaign has no manifest, so it never called a provider.
    """
    manifest = find_manifest(parts, campaign_id)
    whole_calls = parts.limits(manifest.sender).accepts_whole_calls
    proofs = [
        proof
        for chunk_index, record, messages in _unknown_recipients(parts, manifest)
        if (proof := proof_from(chunk_index, record, messages, evidence, whole_calls=whole_calls)) is not None
    ]
    if not proofs:
        return EvidenceApplied(0, 0, parts.ledger.totals(campaign_id).unknown, ())
    before = parts.ledger.totals(campaign_id)
    parts.ledger.prove(campaign_id, proofs)
    chunks = tuple(sorted({proof.chunk_index for proof in proofs}))
    for chunk_index in chunks:
        _stage(parts, manifest, chunk_index, read_chunk(parts.store, manifest, chunk_index))
    after = parts.ledger.totals(campaign_id)
    with suppress(CampaignNotFoundError):
        if parts.campaigns.get(campaign_id).status is CampaignStatus.SENT:
            parts.campaigns.change_status(campaign_id, CampaignStatus.SENT, _sent_reason(manifest, after))

    def open_calls(totals: CampaignTotals) -> int:
        return sum(totals.calls_by_state.get(state, 0) for state in ("unknown", "intent"))

    return EvidenceApplied(
        calls_resolved=open_calls(before) - open_calls(after),
        recipients_proved=after.accepted - before.accepted,
        recipients_unknown=after.unknown,
        chunks=chunks,
    )


def _unknown_recipients(parts: Parts, manifest: Manifest) -> Iterator[tuple[int, CallRecord, list[UUID]]]:
    """Chunk index, record and message ids (in the call's order) of every call without an answer."""
    by_chunk = groupby(parts.ledger.unknown_calls(manifest.campaign_id), key=lambda found: found[0])
    for chunk_index, found in by_chunk:
        lead_ids = read_chunk(parts.store, manifest, chunk_index).column("lead_id").to_pylist()
        for _, record in found:
            offsets = record.offsets_in_chunk(chunk_index * manifest.chunk_rows)
            yield chunk_index, record, [message_id(manifest.campaign_id, lead_ids[offset]) for offset in offsets]
