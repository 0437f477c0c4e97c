"""The call ledger in PostgreSQL: every method is one transaction, and the chunk's row is the fence.

Invariant: an intent is inserted in the same transaction that locks the chunk's row and finds the caller's
epoch in it; taking over updates that row, so of two processes exactly one can intend. A receipt is written
whatever the epoch, and never over a final state.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    Connection,
    Engine,
    Select,
    func,
    literal,
    select,
    text,
    update,
)

from email_platform.adapters.postgres.campaigns import change_status
from email_platform.adapters.postgres.ledger_rows import (
    RECORD_COLUMNS,
    answers_since_queued,
    campaign_totals,
    insert_intents,
    is_unknown,
    read_records,
    record_outcomes,
    write_record,
)
from email_platform.adapters.postgres.tables import campaign, chunk, send_call
from email_platform.adapters.postgres.transactions import oltp_transaction
from email_platform.domain.campaigns import CampaignStatus
from email_platform.errors import CampaignStoppedError, LeaseLostError
from email_platform.sending.call_outcome import after_decision, after_proof
from email_platform.sending.ledger import (
    AnswerCounts,
    CallIntent,
    CallOutcome,
    CallRecord,
    CampaignTotals,
    Lease,
    Proof,
    UnknownDecision,
)
from email_platform.sending.second_chance import put_back


class PostgresCallLedger:
    """`email_platform.sending.ledger.CallLedger` over the tables ``chunk`` and ``send_call``.

    Length: one method for each of the protocol's, and each of them is one transaction.

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
        statement = select(*RECORD_COLUMNS).where(
            send_call.c.campaign_id == campaign_id, send_call.c.chunk_index == chunk_index
        )
        return [record for _, record in self._records(statement)]

    def unknown_calls(self, campaign_id: int) -> Sequence[tuple[int, CallRecord]]:
        """Chunk index and record of every call without an answer that no process is making now."""
        statement = select(*RECORD_COLUMNS).where(send_call.c.campaign_id == campaign_id, is_unknown())
        return self._records(statement)

    def campaigns_with_unknown(self) -> Sequence[int]:
        """Ids of the campaigns that have such calls."""
        statement = select(send_call.c.campaign_id).where(is_unknown()).distinct()
        with oltp_transaction(self._engine) as connection:
            return list(connection.execute(statement.order_by(send_call.c.campaign_id)).scalars())

    def decide_unknown(self, campaign_id: int, decision: UnknownDecision, chunk_index: int | None = None) -> int:
        """Apply an operator's decision to the campaign's unknown calls; see the Protocol."""
        chosen = (send_call.c.campaign_id == campaign_id) & is_unknown()
        if chunk_index is not None:
            chosen &= send_call.c.chunk_index == chunk_index
        with oltp_transaction(self._engine) as connection:
            found = read_records(connection, select(*RECORD_COLUMNS).where(chosen).with_for_update(of=send_call))
            for index, record in found:
                write_record(connection, campaign_id, index, after_decision(record, decision))
            if decision == "resend":
                own = chunk.c.campaign_id == campaign_id
                if found:
                    touched = own & chunk.c.chunk_index.in_(sorted({index for index, _ in found}))
                    connection.execute(update(chunk).where(touched).values(finished_at=None))
                self._queue_again_if_unfinished(connection, campaign_id, "to resend unknown calls")
        return len(found)

    def put_back_rejected(self, campaign_id: int, chunk_rows: int, code: str | None = None) -> int:
        """Have recipients whose refusal is certain sent to again; see the Protocol."""
        own = chunk.c.campaign_id == campaign_id
        free = chunk.c.lease_holder.is_(None) | (chunk.c.lease_expires_at <= func.clock_timestamp())
        with_refusals = (
            select(send_call.c.call_index)
            .where(
                send_call.c.campaign_id == chunk.c.campaign_id,
                send_call.c.chunk_index == chunk.c.chunk_index,
                text("(send_call.receipt -> 'rejected' <> '{}' or send_call.receipt ? 'deferred')"),
            )
            .exists()
        )
        recipients = 0
        with oltp_transaction(self._engine) as connection:
            # The lock keeps every process from taking the lease meanwhile.
            chosen = (
                select(chunk.c.chunk_index, chunk.c.finished_at)
                .where(own, free, with_refusals)
                .order_by(chunk.c.chunk_index)
            )
            found_chunks: Sequence[Any] = connection.execute(chosen.with_for_update()).all()
            for index, finished_at in found_chunks:
                records = select(*RECORD_COLUMNS).where(
                    send_call.c.campaign_id == campaign_id, send_call.c.chunk_index == index
                )
                found = put_back(
                    [one for _, one in read_records(connection, records)],
                    index * chunk_rows,
                    code,
                    finished=finished_at is not None,
                )
                for record in found.records:
                    write_record(connection, campaign_id, index, record)
                if found.recipients:
                    connection.execute(update(chunk).where(own, chunk.c.chunk_index == index).values(finished_at=None))
                recipients += found.recipients
            self._queue_again_if_unfinished(connection, campaign_id, "to send to refused recipients again")
        return recipients

    @staticmethod
    def _queue_again_if_unfinished(connection: Connection, campaign_id: int, reason: str) -> None:
        """A campaign that is sent has no unfinished chunk; one that has is queued."""
        unfinished = select(chunk.c.chunk_index).where(
            chunk.c.campaign_id == campaign_id, chunk.c.finished_at.is_(None)
        )
        status: str | None = connection.execute(
            select(campaign.c.status).where(campaign.c.id == campaign_id).with_for_update()
        ).scalar_one_or_none()
        if status == CampaignStatus.SENT and connection.execute(unfinished.limit(1)).first() is not None:
            change_status(connection, campaign_id, CampaignStatus.QUEUED, reason)

    def abandoned_chunks(self, campaign_id: int) -> Sequence[int]:
        """Chunks with calls that an operator has abandoned."""
        statement = (
            select(send_call.c.chunk_index)
            .where(send_call.c.campaign_id == campaign_id, send_call.c.state == "abandoned")
            .distinct()
            .order_by(send_call.c.chunk_index)
        )
        with oltp_transaction(self._engine) as connection:
            return list(connection.execute(statement).scalars())

    def prove(self, campaign_id: int, proofs: Iterable[Proof]) -> int:
        """Record what events have proved about calls without an answer; see the Protocol."""
        changed = 0
        with oltp_transaction(self._engine) as connection:
            now: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
            for proof in proofs:
                own = (
                    (send_call.c.campaign_id == campaign_id)
                    & (send_call.c.chunk_index == proof.chunk_index)
                    & (send_call.c.call_index == proof.call_index)
                )
                statement = select(*RECORD_COLUMNS).where(own, is_unknown()).with_for_update(of=send_call)
                for _, record in read_records(connection, statement):
                    proved = after_proof(record, proof, now)
                    if proved is not None:
                        write_record(connection, campaign_id, proof.chunk_index, proved)
                        changed += 1
        return changed

    def _records(self, statement: Select[Any]) -> list[tuple[int, CallRecord]]:
        with oltp_transaction(self._engine) as connection:
            return read_records(connection, statement)

    def turn(self, lease: Lease, outcomes: Sequence[CallOutcome], intents: Sequence[CallIntent]) -> frozenset[int]:
        """Record outcomes, then intents, in one commit; see the Protocol."""
        refusal: Exception | None = None
        standing: frozenset[int] = frozenset()
        with oltp_transaction(self._engine) as connection:
            if any(one.leaves_work for one in outcomes) and not self._is_open(connection, lease):
                outcomes = [one for one in outcomes if one.state != "planned"]
            if outcomes:
                record_outcomes(connection, lease, outcomes)
            refusal = self._why_not(connection, lease)
            if refusal is None and intents:
                standing = insert_intents(connection, lease, intents)
        if refusal is not None:  # raised after the commit: the outcomes stay recorded
            raise refusal
        return standing

    def _is_open(self, connection: Connection, lease: Lease) -> bool:
        """Lock the chunk's row and make sure that the rest of the chunk will be worked on, where that is possible."""
        own = (chunk.c.campaign_id == lease.campaign_id) & (chunk.c.chunk_index == lease.chunk_index)
        found = connection.execute(select(chunk.c.finished_at).where(own).with_for_update(key_share=True)).one_or_none()
        if found is None or found.finished_at is None:
            return found is not None
        # A transaction that sets the campaign to sent locks its row and then looks for unfinished chunks. It runs
        # either before this one, whose read of the status then waits for its end, or after it.
        status = connection.execute(
            select(campaign.c.status).where(campaign.c.id == lease.campaign_id).with_for_update(read=True)
        ).scalar_one_or_none()
        if status == "sending":
            connection.execute(update(chunk).where(own).values(finished_at=None))
        return status == "sending"

    def _why_not(self, connection: Connection, lease: Lease) -> Exception | None:
        """Lock the chunk's row and return why the caller may not start a call now, or renew its lease."""
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

    def finish_chunk(self, lease: Lease) -> bool:
        """Mark the chunk finished and let the lease go; see the Protocol."""
        planned = select(send_call.c.call_index).where(
            send_call.c.campaign_id == lease.campaign_id,
            send_call.c.chunk_index == lease.chunk_index,
            send_call.c.state == "planned",
        )
        with oltp_transaction(self._engine) as connection:
            # Locks the row. A fenced process may hold that lock while it records its last outcomes; the next statement
            # reads them.
            if not connection.execute(self._own(lease).values(lease_holder=chunk.c.lease_holder)).rowcount:
                raise LeaseLostError(f"chunk {lease.chunk_index} of campaign {lease.campaign_id} was taken over")
            if connection.execute(planned.limit(1)).first() is not None:
                return False
            connection.execute(
                self._own(lease).values(
                    finished_at=func.coalesce(chunk.c.finished_at, func.clock_timestamp()), lease_holder=None
                )
            )
        return True

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

    def answers_since_queued(self, campaign_id: int, chunk_index: int) -> AnswerCounts:
        """How many recipients have an answer since the campaign was last queued; see the Protocol."""
        with oltp_transaction(self._engine) as connection:
            return answers_since_queued(connection, campaign_id, chunk_index)

    def totals(self, campaign_id: int) -> CampaignTotals:
        """Recipients and calls of the campaign by state; see the Protocol."""
        with oltp_transaction(self._engine) as connection:
            return campaign_totals(connection, campaign_id)
