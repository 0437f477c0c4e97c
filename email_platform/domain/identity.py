"""Deterministic identities: the same campaign, lead and call always get the same ids, whoever computes them.

Invariant: a message id depends on (campaign, lead) alone and a call id on (campaign, chunk, call index)
alone, so a re-run, a backfill or another machine cannot give one recipient two identities.
"""

from __future__ import annotations

from uuid import UUID, uuid5

MESSAGE_NAMESPACE = UUID("6f1c1c0e-6d8b-5b1e-9c55-1d0a5a0c7a01")
CALL_NAMESPACE = UUID("6f1c1c0e-6d8b-5b1e-9c55-1d0a5a0c7a02")


def message_id(campaign_id: int, lead_id: int) -> UUID:
    """The id of the one message that this campaign may ever send to this lead."""
    return uuid5(MESSAGE_NAMESPACE, f"{campaign_id}:{lead_id}")


def call_id(campaign_id: int, chunk_index: int, call_index: int) -> UUID:
    """The id of one bulk call, which is also its Idempotency-Key at the provider."""
    return uuid5(CALL_NAMESPACE, f"{campaign_id}:{chunk_index}:{call_index}")
