"""Rows of ``send_call`` as the ledger's records and counts.

Invariant: what `write_record` writes, `read_records` reads back equal.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import orjson
from sqlalchemy import ColumnElement, Connection, Select, func, select, text, update

from email_platform.adapters.postgres.tables import campaign_manifest, chunk, send_call
from email_platform.domain.texts import without_nul
from email_platform.sending.ledger import (
    OWN_REFUSALS,
    WATCHED_CHUNKS,
    AnswerCounts,
    CallIntent,
    CallOutcome,
    CallRecord,
    CampaignTotals,
    Lease,
)
from email_platform.sending.receipt import CallReceipt

# One constant statement each, whatever the number of rows, so that none is compiled for each number of them.
_RECORD_OUTCOMES = text(
    """
    update send_call
    set
        state = one.state,
        -- Where the call has no answer, the proof from events stays.
        receipt = coalesce(one.receipt, send_call.receipt),
        receipt_at = case when one.receipt is not null then clock_timestamp() else send_call.receipt_at end,
        error = one.error
    from jsonb_to_recordset(cast(:outcomes as jsonb)) as one (call_index integer, state text, receipt jsonb, error text)
    where
        send_call.campaign_id = :campaign_id
        and send_call.chunk_index = :chunk_index
        and send_call.call_index = one.call_index
        and send_call.state in ('planned', 'intent', 'unknown')
        and (one.state = 'accepted' or send_call.lease_epoch <= :lease_epoch)
    """
)
_INSERT_INTENTS = text(
    """
    insert into send_call (
        campaign_id, chunk_index, call_index, call_id, state, receipt, receipt_at, offsets, follows, after_unknown,
        first_position, recipient_count, body_sha256, lease_epoch, attempts, error, intent_at
    )
    select
        :campaign_id, :chunk_index, one.call_index, one.call_id, one.state, one.receipt,
        case when one.receipt is not null then clock_timestamp() end, one.offsets, one.follows, one.after_unknown,
        one.first_position, one.recipient_count, decode(one.body_sha256, 'hex'), :lease_epoch, one.attempts, one.error,
        clock_timestamp()
    from jsonb_to_recordset(cast(:intents as jsonb)) as one (
        call_index integer, call_id uuid, state text, receipt jsonb, offsets integer[], follows text,
        after_unknown boolean, first_position bigint, recipient_count smallint, body_sha256 text, attempts smallint,
        error text
    )
    on conflict (campaign_id, chunk_index, call_index) do update set
        state = excluded.state,
        lease_epoch = excluded.lease_epoch,
        body_sha256 = excluded.body_sha256,
        first_position = excluded.first_position,
        recipient_count = excluded.recipient_count,
        offsets = excluded.offsets,
        follows = excluded.follows,
        -- Proof from events about an earlier attempt stays.
        after_unknown = send_call.after_unknown or excluded.after_unknown,
        receipt = coalesce(excluded.receipt, send_call.receipt),
        receipt_at = coalesce(excluded.receipt_at, send_call.receipt_at),
        attempts = send_call.attempts + excluded.attempts,
        -- The first attempt that may have been accepted decides how long its key is trusted.
        intent_at = case when send_call.state = 'planned' then excluded.intent_at else send_call.intent_at end,
        error = excluded.error
    where send_call.state in ('planned', 'intent', 'unknown')
    returning call_index
    """
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


def record_outcomes(connection: Connection, lease: Lease, outcomes: Sequence[CallOutcome]) -> None:
    """Write what became of attempts, in order; see `CallLedger.turn` for which of them count."""
    waiting = list(outcomes)
    while waiting:  # an update from a list changes a row once: a second outcome of a call is a second statement
        now: dict[int, CallOutcome] = {}
        later: list[CallOutcome] = []
        for one in waiting:
            if one.call_index in now:
                later.append(one)
            else:
                now[one.call_index] = one
        rows = [
            {
                "call_index": one.call_index,
                "state": one.state,
                "receipt": one.receipt.to_json() if one.receipt else None,
                "error": without_nul(one.error),
            }
            for one in now.values()
        ]
        connection.execute(_RECORD_OUTCOMES, {**_of_chunk(lease), "outcomes": orjson.dumps(rows).decode()})
        waiting = later


def insert_intents(connection: Connection, lease: Lease, intents: Sequence[CallIntent]) -> frozenset[int]:
    """Write intents, one a call; returns the indexes of those that stand: the others' calls have come to an end."""
    rows = [
        {
            "call_index": one.call_index,
            "call_id": one.call_id,
            "state": one.state,
            "receipt": None if one.refusal is None else one.refusal.to_json(),
            "offsets": one.offsets,
            "follows": one.follows,
            "after_unknown": one.after_unknown,
            "first_position": one.first_position,
            "recipient_count": one.recipient_count,
            "body_sha256": one.body_sha256.hex(),
            "attempts": 0 if one.is_planned else 1,
            "error": without_nul(one.error),
        }
        for one in intents
    ]
    written = connection.execute(_INSERT_INTENTS, {**_of_chunk(lease), "intents": orjson.dumps(rows).decode()})
    return frozenset(written.scalars())


def _of_chunk(lease: Lease) -> dict[str, int]:
    return {"campaign_id": lease.campaign_id, "chunk_index": lease.chunk_index, "lease_epoch": lease.epoch}


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


_ANSWERS_SINCE_QUEUED = text(
    """
    select
        coalesce(sum(
            recipient_count
            - (select count(*) from jsonb_object_keys(coalesce(receipt -> 'deferred', '{}')))
            - (select count(*) from jsonb_object_keys(coalesce(receipt -> 'unknown', '{}')))
        ), 0)::bigint as ended,
        coalesce(sum((
            select count(*) from jsonb_each(receipt -> 'rejected') as one (place, result)
            where result ->> 0 <> all(cast(:own as text[]))
        )), 0)::bigint as refused
    from send_call
    join campaign on campaign.id = send_call.campaign_id
    where
        campaign_id = :campaign_id
        and chunk_index between :chunk_index - :watched and :chunk_index
        and receipt_at > coalesce(campaign.queued_at, '-infinity')
    """
)


def answers_since_queued(connection: Connection, campaign_id: int, chunk_index: int) -> AnswerCounts:
    """See `CallLedger.answers_since_queued`; reads one row per call of a few chunks, by primary key."""
    asked = {
        "campaign_id": campaign_id,
        "chunk_index": chunk_index,
        "watched": WATCHED_CHUNKS,
        "own": sorted(OWN_REFUSALS),
    }
    row = connection.execute(_ANSWERS_SINCE_QUEUED, asked).one()
    return AnswerCounts(row.ended, row.refused)


def campaign_totals(connection: Connection, campaign_id: int) -> CampaignTotals:
    """Recipients and calls of the campaign by state; reads one row per call, by primary key.

    Of an archived ledger: what its rows added up to.
    """
    archived = select(campaign_manifest.c.archived_totals).where(campaign_manifest.c.campaign_id == campaign_id)
    totals: Any = connection.execute(archived).scalar_one_or_none()
    if totals is not None:
        return CampaignTotals(**totals)
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
