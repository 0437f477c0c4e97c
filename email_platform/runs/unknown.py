"""Settles calls of unknown outcome: by an operator's decision, or by provider events that prove them.

Invariant: nothing unknown is sent again unless an operator asks for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from uuid import UUID

from email_platform.audience.freeze import read_chunk
from email_platform.domain.campaigns import Campaign, CampaignStatus
from email_platform.domain.identity import message_id
from email_platform.domain.manifest import Manifest
from email_platform.errors import (
    CampaignNotFoundError,
)
from email_platform.runs.finish import sent_reason
from email_platform.runs.parts import Parts, manifest_with_ledger
from email_platform.runs.stage import stage_chunk
from email_platform.sending.evidence import proof_from, unknown_of
from email_platform.sending.ledger import CallRecord, CampaignTotals, UnknownDecision


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
    """Abandon or resend the calls whose outcome nobody knows, and stage what that changes.

    ``resend`` accepts that their recipients may get the message twice; the campaign is queued again if it was
    sent. ``abandon`` accepts that they may not have got it at all. After a death in the middle, the same command
    does the rest.

    Raises:
        CampaignNotFoundError: the row is gone (only abandoning works then: it needs no run).
    """
    manifest = manifest_with_ledger(parts, campaign_id)
    found = [
        (index, record)
        for index, record in parts.ledger.unknown_calls(campaign_id)
        if chunk_index is None or index == chunk_index
    ]
    calls = parts.ledger.decide_unknown(campaign_id, decision, chunk_index)
    if decision == "abandon":  # resent calls are staged when they have been made
        for index in parts.ledger.abandoned_chunks(campaign_id):  # of an earlier decision as well
            if chunk_index is None or index == chunk_index:
                stage_chunk(parts, manifest, index, read_chunk(parts.store, manifest, index))
    campaign = parts.campaigns.get(campaign_id)
    if decision == "abandon" and campaign.status is CampaignStatus.SENT:
        reason = sent_reason(manifest, parts.ledger.totals(campaign_id))
        campaign = parts.campaigns.change_status(campaign_id, CampaignStatus.SENT, reason)
    chunks = tuple(sorted({index for index, _ in found}))
    return UnknownDecided(calls, sum(record.unknown_count for _, record in found), chunks, campaign)


@dataclass(frozen=True, slots=True)
class EvidenceApplied:
    """What events have settled of a campaign's unknown calls.

    Attributes:
        calls_resolved: calls of which nobody is unknown any more.
        recipients_proved: recipients that went from unknown to accepted now.
        recipients_unknown: recipients of the campaign that are still unknown.
        chunks: the chunks staged again.
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
    manifest = manifest_with_ledger(parts, campaign_id)
    whole_calls = parts.limits(manifest.sender).accepts_whole_calls
    proofs = [
        proof
        for chunk_index, record, messages in _unknown_recipients(parts, manifest)
        if (proof := proof_from(chunk_index, record, messages, evidence, whole_calls=whole_calls)) is not None
    ]
    if not proofs:
        return EvidenceApplied(0, 0, parts.ledger.totals(campaign_id).unknown, ())
    before = parts.ledger.totals(campaign_id)
    chunks = tuple(sorted({proof.chunk_index for proof in proofs}))
    for chunk_index in chunks:
        # Staged before the ledger says so: after a death between the two, the calls are still unknown there, and the
        # next pass finds the same proofs. The other way round nobody would come back to the chunk.
        stage_chunk(parts, manifest, chunk_index, read_chunk(parts.store, manifest, chunk_index), proofs)
    parts.ledger.prove(campaign_id, proofs)
    for chunk_index in chunks:
        stage_chunk(parts, manifest, chunk_index, read_chunk(parts.store, manifest, chunk_index))
    after = parts.ledger.totals(campaign_id)
    with suppress(CampaignNotFoundError):
        if parts.campaigns.get(campaign_id).status is CampaignStatus.SENT:
            parts.campaigns.change_status(campaign_id, CampaignStatus.SENT, sent_reason(manifest, after))

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
