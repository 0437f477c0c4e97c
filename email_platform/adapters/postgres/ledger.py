"""The call ledger in PostgreSQL: every method is one transaction, and the chunk's row is the fence.

Invariant: an intent is inserted in the same transaction that locks the chunk's row and finds the caller's
epoch in it; taking over updates that row, so of two processes exactly one can intend. A receipt is written
whatever the epoch, and never over a final state.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    Boolean,
    ColumnElement,
    Connection,
    Engine,
    Select,
    bindparam,
    case,
    func,
    literal,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import insert

from email_platform.adapters.postgres.tables import campaign, chunk, send_call
from email_platform.adapters.postgres.transactions import oltp_transaction
from email_platform.errors import CampaignStoppedError, LeaseLostError
from email_platform.ledger import (
    CallIntent,
    CallOutcome,
    CallReceipt,
    CallRecord,
    CampaignTotals,
    Lease,
    UnknownDecision,
)

_RECORD_OUTCOME = (
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
        receipt=bindparam("b_receipt", type_=send_call.c.receipt.type),
        receipt_at=case((bindparam("b_answered", type_=Boolean), func.clock_timestamp()), else_=None),
        error=bindparam("b_error"),
    )
)


_RECORD_COLUMNS = (
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
    send_call.c.left_out,
)


def _is_unknown(campaign_id: int) -> ColumnElement[bool]:
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
    return (send_call.c.campaign_id == campaign_id) & send_call.c.state.in_(("intent", "unknown")) & ~at_work


class PostgresCallLedger:
    """`email_platform.ledger.CallLedger` over the tables ``chunk`` and ``send_call``.

    Args:
        lease_seconds: how long a lease lives without a turn, on PostgreSQL's clock.
    """

    def __init__(self, engine: Engine, lease_seconds: float) -> None:
        self._engine = engine
        self._lease_interval = func.make_interval(0, 0, 0, 0, 0, 0, lease_seconds)

    def take_lease(self, campaign_id: int, chunk_index: int, holder: str) -> Lease | None:
        """Take the next epoch, unless another holder's lease is still valid; see the Protocol."""
        now = func.clock_timestamp()
        statement = (
            update(chunk)
            .where(
                chunk.c.campaign_id == campaign_id,
                chunk.c.chunk_index == chunk_index,
                (chunk.c.lease_holder.is_(None)) | (chunk.c.lease_holder == holder) | (chunk.c.lease_expires_at < now),
            )
            .values(
                lease_epoch=chunk.c.lease_epoch + 1,
                lease_holder=holder,
                lease_expires_at=now + self._lease_interval,
            )
            .returning(chunk.c.lease_epoch)
        )
        with oltp_transaction(self._engine) as connection:
            epoch = connection.execute(statement).scalar_one_or_none()
        return None if epoch is None else Lease(campaign_id, chunk_index, epoch, holder)

    def calls(self, campaign_id: int, chunk_index: int) -> Sequence[CallRecord]:
        """Every recorded call of the chunk, by call index."""
        statement = select(*_RECORD_COLUMNS).where(
            send_call.c.campaign_id == campaign_id, send_call.c.chunk_index == chunk_index
        )
        return [record for _, record in self._records(statement)]

    def unknown_calls(self, campaign_id: int) -> Sequence[tuple[int, CallRecord]]:
        """Chunk index and record of every call without an answer that nobody is making now."""
        statement = select(*_RECORD_COLUMNS).where(_is_unknown(campaign_id))
        return self._records(statement)

    def decide_unknown(self, campaign_id: int, decision: UnknownDecision, chunk_index: int | None = None) -> int:
        """Apply an operator's decision to the campaign's unknown calls; see the Protocol."""
        chosen = _is_unknown(campaign_id)
        if chunk_index is not None:
            chosen &= send_call.c.chunk_index == chunk_index
        decided = (
            update(send_call)
            .where(chosen)
            .values(
                state="abandoned" if decision == "abandon" else "planned",
                error=func.concat_ws("; ", send_call.c.error, f"an operator decided: {decision}"),
            )
            .returning(send_call.c.chunk_index)
        )
        with oltp_transaction(self._engine) as connection:
            chunks: list[int] = list(connection.execute(decided).scalars())
            if decision == "resend" and chunks:
                connection.execute(
                    update(chunk)
                    .where(chunk.c.campaign_id == campaign_id, chunk.c.chunk_index.in_(sorted(set(chunks))))
                    .values(finished_at=None)
                )
        return len(chunks)

    def _records(self, statement: Select[Any]) -> list[tuple[int, CallRecord]]:
        ordered = statement.order_by(send_call.c.chunk_index, send_call.c.call_index)
        with oltp_transaction(self._engine) as connection:
            rows = connection.execute(ordered).all()
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
                    left_out={int(offset): reason for offset, reason in (row.left_out or {}).items()},
                ),
            )
            for row in rows
        ]

    def turn(self, lease: Lease, outcomes: Sequence[CallOutcome], intents: Sequence[CallIntent]) -> None:
        """Record outcomes, then intents, in one commit; see the Protocol."""
        refusal: Exception | None = None
        with oltp_transaction(self._engine) as connection:
            if outcomes:
                connection.execute(_RECORD_OUTCOME, [self._outcome_row(lease, one) for one in outcomes])
            refusal = self._why_not(connection, lease)
            if refusal is None and intents:
                self._insert_intents(connection, lease, intents)
        if refusal is not None:  # raised after the commit: the outcomes stay recorded
            raise refusal

    def _why_not(self, connection: Connection, lease: Lease) -> Exception | None:
        """Lock the chunk's row and say why the caller may not start a call now, or renew its lease."""
        now = func.clock_timestamp()
        state = connection.execute(
            select(
                chunk.c.lease_epoch,
                (chunk.c.lease_expires_at < now + self._lease_interval * literal(2.0 / 3.0)).label("renew"),
                campaign.c.status,
            )
            .select_from(chunk.outerjoin(campaign, campaign.c.id == chunk.c.campaign_id))
            .where(chunk.c.campaign_id == lease.campaign_id, chunk.c.chunk_index == lease.chunk_index)
            .with_for_update(of=chunk, key_share=True)
        ).one_or_none()
        if state is None or state.lease_epoch != lease.epoch:
            return LeaseLostError(
                f"chunk {lease.chunk_index} of campaign {lease.campaign_id} was taken over: epoch {lease.epoch} is past"
            )
        if state.status != "sending":
            return CampaignStoppedError(lease.campaign_id, state.status or "deleted")
        if state.renew:  # not at every turn: a lease row rewritten 50 times a second is a write per call
            connection.execute(
                update(chunk)
                .where(chunk.c.campaign_id == lease.campaign_id, chunk.c.chunk_index == lease.chunk_index)
                .values(lease_expires_at=now + self._lease_interval)
            )
        return None

    def _insert_intents(self, connection: Connection, lease: Lease, intents: Sequence[CallIntent]) -> None:
        statement = insert(send_call)
        statement = statement.on_conflict_do_update(
            index_elements=[send_call.c.campaign_id, send_call.c.chunk_index, send_call.c.call_index],
            set_={
                "state": "intent",
                "lease_epoch": statement.excluded.lease_epoch,
                "body_sha256": statement.excluded.body_sha256,
                "left_out": statement.excluded.left_out,
                "attempts": send_call.c.attempts + 1,
                # The first attempt that may have been accepted decides how long its key is trusted.
                "intent_at": case(
                    (send_call.c.state == "planned", statement.excluded.intent_at),
                    else_=send_call.c.intent_at,
                ),
                "error": None,
            },
            where=send_call.c.state.in_(("planned", "intent", "unknown")),
        )
        connection.execute(
            statement.values(
                [
                    {
                        "campaign_id": lease.campaign_id,
                        "chunk_index": lease.chunk_index,
                        "call_index": one.call_index,
                        "call_id": one.call_id,
                        "state": "intent",
                        "first_position": one.first_position,
                        "recipient_count": one.recipient_count,
                        "body_sha256": one.body_sha256,
                        "left_out": {str(offset): reason for offset, reason in one.left_out.items()} or None,
                        "lease_epoch": lease.epoch,
                        "attempts": 1,
                        "intent_at": func.clock_timestamp(),
                    }
                    for one in intents
                ]
            )
        )

    @staticmethod
    def _outcome_row(lease: Lease, outcome: CallOutcome) -> dict[str, Any]:
        return {
            "b_campaign_id": lease.campaign_id,
            "b_chunk_index": lease.chunk_index,
            "b_call_index": outcome.call_index,
            "b_lease_epoch": lease.epoch,
            "b_state": outcome.state,
            "b_receipt": outcome.receipt.to_json() if outcome.receipt else None,
            "b_answered": outcome.receipt is not None,
            "b_accepted": outcome.state == "accepted",
            "b_error": outcome.error,
        }

    def finish_chunk(self, lease: Lease) -> None:
        """Mark the chunk finished and let the lease go; see the Protocol."""
        with oltp_transaction(self._engine) as connection:
            found = connection.execute(
                self._own(lease).values(
                    finished_at=func.coalesce(chunk.c.finished_at, func.clock_timestamp()), lease_holder=None
                )
            ).rowcount
        if not found:
            raise LeaseLostError(f"chunk {lease.chunk_index} of campaign {lease.campaign_id} was taken over")

    def release_lease(self, lease: Lease) -> None:
        """Let the lease go without finishing; see the Protocol."""
        with oltp_transaction(self._engine) as connection:
            connection.execute(self._own(lease).values(lease_holder=None))

    @staticmethod
    def _own(lease: Lease) -> Any:
        return update(chunk).where(
            chunk.c.campaign_id == lease.campaign_id,
            chunk.c.chunk_index == lease.chunk_index,
            chunk.c.lease_epoch == lease.epoch,
        )

    def chunk_is_finished(self, campaign_id: int, chunk_index: int) -> bool:
        """Whether every call of the chunk has reached an end."""
        statement = select(chunk.c.finished_at).where(
            chunk.c.campaign_id == campaign_id, chunk.c.chunk_index == chunk_index
        )
        with oltp_transaction(self._engine) as connection:
            return connection.execute(statement).scalar_one_or_none() is not None

    def totals(self, campaign_id: int) -> CampaignTotals:
        """Recipients and calls of the campaign by state; reads one row per call, by primary key."""
        by_state = text(
            """
            select
                state,
                count(*) as calls,
                coalesce(sum(recipient_count), 0)::bigint as recipients,
                coalesce(sum((select count(*) from jsonb_object_keys(
                    case
                        when receipt is not null then receipt -> 'rejected'
                        when state in ('intent', 'unknown', 'abandoned') then left_out
                    end
                ))), 0)::bigint as refused
            from send_call
            where campaign_id = :campaign_id
            group by state
            """
        )
        of_chunks = select(func.count(), func.count(chunk.c.finished_at)).where(chunk.c.campaign_id == campaign_id)
        with oltp_transaction(self._engine) as connection:
            rows = {row.state: row for row in connection.execute(by_state, {"campaign_id": campaign_id})}
            chunks, chunks_finished = connection.execute(of_chunks).one()

        def recipients(*states: str) -> int:
            """Without those whom the provider refused, or whom we left out."""
            return sum(int(rows[state].recipients) - int(rows[state].refused) for state in states if state in rows)

        return CampaignTotals(
            accepted=recipients("accepted", "rejected"),
            rejected=sum(int(row.refused) for row in rows.values()),
            unknown=recipients("unknown"),
            abandoned=recipients("abandoned"),
            planned=recipients("planned"),
            in_call=recipients("intent"),
            calls_by_state={state: int(row.calls) for state, row in rows.items()},
            chunks=chunks,
            chunks_finished=chunks_finished,
        )
