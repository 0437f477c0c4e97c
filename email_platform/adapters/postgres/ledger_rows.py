"""Rows of ``send_call`` as the ledger's records and counts.

Invariant: what `write_record` writes, `read_records` reads back equal.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from sqlalchemy import Boolean, ColumnElement, Connection, Select, bindparam, case, func, or_, select, text, update

from email_platform.adapters.postgres.tables import chunk, send_call
from email_platform.domain.texts import without_nul
from email_platform.sending.ledger import CallReceipt, CallRecord, CampaignTotals

RECORD_OUTCOME = (
    update(send_call)
    .where(
        send_call.c.campaign_id == bindparam("b_campaign_id"),
        send_call.c.chunk_index == bindparam("b_chunk_index"),
        send_call.c.call_index == bindparam("b_call_index"),
        # Written out: an `in` list is expanded per execution, which executemany cannot do.
        or_(send_call.c.state == "planned", send_call.c.state == "intent", send_call.c.state == "unknown"),
        bindparam("b_accepted", type_=Boolean) | (send_call.c.lease_epoch <= bindparam("b_lease_epoch")),
    )
    .values(
        state=bindparam("b_state"),
        # Where the call has no answer, the proof from events stays.
        receipt=func.coalesce(bindparam("b_receipt", type_=send_call.c.receipt.type), send_call.c.receipt),
        receipt_at=case((bindparam("b_answered", type_=Boolean), func.clock_timestamp()), else_=send_call.c.receipt_at),
        error=bindparam("b_error"),
    )
)

RECORD_COLUMNS = (
    send_call.c.chunk_index,
    send_call.c.call_index,
    send_call.c.call_id,
    send_call.c.state,
    send_call.c.first_position,
    send_call.c.recipient_count,
    send_call.c.body_sha256,
    send_call.c.lease_epoch,
    send_call.c.attempts,
    send_call.c.intent_at,
    send_call.c.receipt_at,
    send_call.c.receipt,
    send_call.c.error,
    send_call.c.offsets,
    send_call.c.follows,
    send_call.c.after_unknown,
)


def is_unknown() -> ColumnElement[bool]:
    """Calls marked unknown, and intents whose process is gone: their chunk's lease is free or has expired."""
    at_work = (
        select(chunk.c.chunk_index)
        .where(
            chunk.c.campaign_id == send_call.c.campaign_id,
            chunk.c.chunk_index == send_call.c.chunk_index,
            chunk.c.lease_holder.is_not(None),
            chunk.c.lease_expires_at > func.clock_timestamp(),
        )
        .exists()
    )
    return send_call.c.state.in_(("intent", "unknown")) & ~at_work


def read_records(connection: Connection, statement: Select[Any]) -> list[tuple[int, CallRecord]]:
    """Chunk index and record of the rows that a selection of `RECORD_COLUMNS` finds, in order."""
    rows = connection.execute(statement.order_by(send_call.c.chunk_index, send_call.c.call_index)).all()
    return [
        (
            row.chunk_index,
            CallRecord(
                call_index=row.call_index,
                call_id=row.call_id,
                state=row.state,
                first_position=row.first_position,
                recipient_count=row.recipient_count,
                body_sha256=bytes(row.body_sha256),
                lease_epoch=row.lease_epoch,
                attempts=row.attempts,
                intent_at=row.intent_at,
                receipt_at=row.receipt_at,
                receipt=CallReceipt.from_json(row.receipt) if row.receipt is not None else None,
                error=row.error,
                offsets=None if row.offsets is None else tuple(row.offsets),
                follows=row.follows,
                after_unknown=row.after_unknown,
            ),
        )
        for row in rows
    ]


def write_record(connection: Connection, campaign_id: int, chunk_index: int, record: CallRecord) -> None:
    """Write the outcome of a call without an answer; its row is locked."""
    connection.execute(
        update(send_call)
        .where(
            send_call.c.campaign_id == campaign_id,
            send_call.c.chunk_index == chunk_index,
            send_call.c.call_index == record.call_index,
        )
        .values(
            state=record.state,
            after_unknown=record.after_unknown,
            receipt=record.receipt.to_json() if record.receipt else None,
            receipt_at=record.receipt_at,
            error=without_nul(record.error),
        )
    )


def campaign_totals(connection: Connection, campaign_id: int) -> CampaignTotals:
    """Recipients and calls of the campaign by state; reads one row per call, by primary key."""
    by_state = text(
        """
        select
            send_call.state,
            chunk.finished_at is not null as finished,
            send_call.after_unknown,
            count(*) as calls,
            coalesce(sum(recipient_count) filter (where receipt is not null), 0)::bigint as answered,
            coalesce(sum(recipient_count) filter (where receipt is null), 0)::bigint as unanswered,
            coalesce(sum((select count(*) from jsonb_object_keys(receipt -> 'rejected'))), 0)::bigint as refused,
            coalesce(sum((select count(*) from jsonb_object_keys(receipt -> 'deferred'))), 0)::bigint as deferred,
            coalesce(sum((select count(*) from jsonb_object_keys(receipt -> 'unknown'))), 0)::bigint as unproved,
            coalesce(sum(recipient_count) filter (where follows = 'deferred'), 0)::bigint as following_deferred,
            coalesce(sum(recipient_count) filter (where follows = 'in_doubt'), 0)::bigint as following_in_doubt
        from send_call
        join chunk using (campaign_id, chunk_index)
        where campaign_id = :campaign_id
        group by 1, 2, 3
        """
    )
    of_chunks = select(func.count(), func.count(chunk.c.finished_at)).where(chunk.c.campaign_id == campaign_id)
    rows = connection.execute(by_state, {"campaign_id": campaign_id}).all()
    chunks, chunks_finished = connection.execute(of_chunks).one()

    def open_in(state: str) -> int:
        """Recipients of calls in this state whose outcome is not known."""
        return sum(int(row.unanswered + row.unproved) for row in rows if row.state == state)

    deferred_counts: Counter[tuple[bool, bool]] = Counter()  # by (chunk finished, in doubt): without a follow-up call

    calls: Counter[str] = Counter()
    for row in rows:
        calls[row.state] += row.calls
        deferred_counts[row.finished, row.after_unknown] += int(row.deferred)
        deferred_counts[row.finished, False] -= int(row.following_deferred)
        deferred_counts[row.finished, True] -= int(row.following_in_doubt)
    return CampaignTotals(
        accepted=sum(int(row.answered - row.refused - row.deferred - row.unproved) for row in rows),
        rejected=sum(int(row.refused) for row in rows) + deferred_counts[True, False],
        unknown=open_in("unknown") + deferred_counts[True, True],
        abandoned=open_in("abandoned"),
        planned=open_in("planned") + deferred_counts[False, False] + deferred_counts[False, True],
        in_call=open_in("intent"),
        calls_by_state=dict(calls),
        chunks=chunks,
        chunks_finished=chunks_finished,
    )
