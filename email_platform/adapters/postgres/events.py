"""Batches of events and the suppressions that follow from them, in PostgreSQL.

Invariant: an events object is offered for loading exactly when its suppressions are written, since both are
one transaction; writing the same batch again changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import orjson
from more_itertools import chunked
from sqlalchemy import (
    Connection,
    Engine,
    Executable,
    LargeBinary,
    Row,
    TextClause,
    bindparam,
    delete,
    func,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import insert

from email_platform.adapters.postgres.erased import ERASED, WRONG_KEY, ErasedAddresses, key_parameters, wrong_key
from email_platform.adapters.postgres.lead_relation import OUR_LEADS, LeadRelation
from email_platform.adapters.postgres.tables import sender, staged_object, suppression
from email_platform.adapters.postgres.transactions import oltp_transaction
from email_platform.domain.addresses import normalised_address
from email_platform.domain.erasure import ErasureKey
from email_platform.domain.ports import StagedObject
from email_platform.errors import CommandRefusedError
from email_platform.events.inbox import Quarantined
from email_platform.events.suppression import Suppression, SuppressionRequest

REQUESTS_PER_STATEMENT = 5000
_COLUMNS = (
    suppression.c.address,
    suppression.c.sender_id,
    suppression.c.reason,
    suppression.c.source,
    suppression.c.created_at,
)
_SUPPRESSIONS = select(*_COLUMNS)

# Each request asks for the address that was mailed and, where it names a lead, for the lead's of today. The sender
# comes from the page's token, else from the campaign, also a deleted one; if none is known, every sender is meant.
_RESOLVED = """
    select coalesce(erasure.pseudonym, address.one) as address, request.*
    from (
        select
            r.*,
            case when not r.everywhere
                then coalesce(named.id, campaign.sender_id, frozen.id)
            end as for_sender_id
        from jsonb_to_recordset(cast(:requests as jsonb)) as r (
            address text, reason text, source text, everywhere boolean,
            lead_id bigint, sender_id bigint, campaign_id bigint, created_at timestamptz
        )
        left join sender as named on named.id = r.sender_id
        left join campaign on campaign.id = r.campaign_id
        left join campaign_manifest as manifest on manifest.campaign_id = r.campaign_id
        left join sender as frozen on frozen.id = cast(manifest.sender ->> 'sender_id' as bigint)
    ) as request (mailed, reason, source, everywhere, lead_id, sender_id, campaign_id, created_at, for_sender_id)
    left join lead on lead.id = request.lead_id
    cross join lateral (values (request.mailed), (email_address_key(lead.email))) as address (one)
    -- Of somebody who was erased the pseudonym is suppressed; the address does not come back.
    left join erasure on erasure.pseudonym = erased_address(address.one, :erasure_inner, :erasure_outer)
    where address.one <> ''
"""
# The strongest reason names a row where several requests meet; a row that is there keeps its first reason.
_SUPPRESS = f"""
    insert into suppression (address, sender_id, reason, source, created_at)
    select distinct on (address, for_sender_id) address, for_sender_id, reason, source, coalesce(created_at, now())
    from ({_RESOLVED}) as resolved
    order by
        address,
        for_sender_id,
        array_position(array['complaint', 'hard_bounce', 'unsubscribe', 'manual'], reason),
        created_at
    on conflict (address, sender_id) do nothing
"""  # noqa: S608  (constants)
_LIFT = f"""
    delete from suppression using ({_RESOLVED}) as resolved
    where suppression.address = resolved.address
        and suppression.sender_id is not distinct from resolved.for_sender_id
        and suppression.reason = resolved.reason
        and suppression.created_at <= resolved.created_at
"""  # noqa: S608  (constants)
_PRESENT = """
    select id, email_address_key(email) as address
    from lead
    where id = any(:lead_ids) and email_address_key(email) <> ''
"""

# Arrays and not joins: whatever the planner guesses, each is an index lookup an element. An opt-out belongs to the
# address, whichever lead has it. They come as JSON, which the driver writes ten times faster than an array.
_ADDRESSES = "array(select jsonb_array_elements_text(cast(:addresses as jsonb)))"
_LEAD_IDS = "array(select cast(one as bigint) from jsonb_array_elements(cast(:lead_ids as jsonb)) as given (one))"
_SUPPRESSED = f"""
    select cast(null as bigint) as lead_id, address, reason
    from suppression
    where address = any({_ADDRESSES}) and (sender_id is null or sender_id = :sender_id)
    union all
    select null, email_address_key(email), 'unsubscribe'
    from lead
    where unsubscribed_at is not null and email_address_key(email) = any({_ADDRESSES})
    union all
    select id, null, 'unsubscribe' from lead where id = any({_LEAD_IDS}) and unsubscribed_at is not null
    union all
    select null, given.one, '{ERASED}'
    from jsonb_array_elements_text(cast(:addresses as jsonb)) as given (one)
    where
        exists (select from erasure)
        and exists (
            select from erasure where pseudonym = erased_address(given.one, :erasure_inner, :erasure_outer)
        )
    union all
    {WRONG_KEY.text}
"""  # noqa: S608  (constants)


def _suppression(row: Row[Any]) -> Suppression:
    return Suppression(row.address, row.sender_id, row.reason, row.source, row.created_at)


def suppress(
    connection: Connection, requests: Iterable[SuppressionRequest], prefix: str, key: ErasureKey | None
) -> int:
    """Suppress, and lift, in the caller's transaction; returns how many rows are new.

    Args:
        connection: in a transaction.
        requests: in any order.
        prefix: of `LeadRelation`, which says what ``lead`` is.
        key: of the pseudonyms of people who were erased.
    """
    added = 0
    # One order for every writer, or two batches with the same addresses could wait for each other. Requests that lift a
    # suppression come last: a complaint and its withdrawal may be in one batch.
    ordered = sorted(requests, key=lambda one: (one.lifts, one.address, one.lead_id))
    for statement, is_lift in ((_SUPPRESS, False), (_LIFT, True)):
        waiting = (one for one in ordered if one.lifts == is_lift)
        for group in chunked(waiting, REQUESTS_PER_STATEMENT):
            document = orjson.dumps([_without_nul(asdict(one)) for one in group]).decode()
            parameters = {"requests": document, **key_parameters(key)}
            changed = connection.execute(_typed(prefix + statement), parameters).rowcount
            added += 0 if is_lift else changed
    return added


def _typed(statement: str) -> TextClause:
    """The statement with the types of `key_parameters`: a null has none of its own."""
    pads = (bindparam("erasure_inner", type_=LargeBinary), bindparam("erasure_outer", type_=LargeBinary))
    return text(statement).bindparams(*pads)


def _without_nul(document: Mapping[str, Any]) -> dict[str, Any]:
    """The values without NUL characters, of which PostgreSQL's jsonb takes none."""
    return {name: value.replace("\0", "") if isinstance(value, str) else value for name, value in document.items()}


class PostgresSuppressions:
    """`email_platform.events.suppression.SuppressionStore` over the table ``suppression``.

    Args:
        engine: the OLTP database.
        key: of the pseudonyms of people who were erased; None where no key is set.
        leads: where leads are.
    """

    def __init__(self, engine: Engine, key: ErasureKey | None, leads: LeadRelation = OUR_LEADS) -> None:
        self._engine = engine
        self._leads = leads
        self._key = key

    def add(self, requests: Iterable[SuppressionRequest]) -> int:
        """Suppress, in one transaction; returns how many rows are new."""
        prefix = self._leads.prefix(self._engine)
        with oltp_transaction(self._engine) as connection:
            return suppress(connection, requests, prefix, self._key)

    def suppressed(self, sender_id: int, lead_ids: Sequence[int], addresses: Sequence[str]) -> Mapping[int, str]:
        """Which of these leads may not be mailed now, by anybody or by this sender; see `SuppressionLookup`."""
        leads_of: dict[str, list[int]] = {}
        for lead_id, address in zip(lead_ids, addresses, strict=True):
            leads_of.setdefault(normalised_address(address), []).append(lead_id)
        found = {
            "lead_ids": orjson.dumps(list(lead_ids)).decode(),
            "addresses": orjson.dumps(list(leads_of)).decode(),
            "sender_id": sender_id,
            **key_parameters(self._key),
        }
        reasons: dict[int, str] = {}
        statement = _typed(self._leads.prefix(self._engine) + _SUPPRESSED)
        with oltp_transaction(self._engine) as connection:
            for row in connection.execute(statement, found):
                if row.lead_id is None and row.address is None:
                    raise wrong_key()
                for lead_id in [row.lead_id] if row.address is None else leads_of[row.address]:
                    reasons[lead_id] = row.reason
        return reasons

    def present_addresses(self, lead_ids: Sequence[int]) -> Mapping[int, str]:
        """The addresses that these leads have now; see the Protocol."""
        statement = text(self._leads.prefix(self._engine) + _PRESENT)
        with oltp_transaction(self._engine) as connection:
            rows = connection.execute(statement, {"lead_ids": list(lead_ids)})
            return {row.id: row.address for row in rows}

    def all(self) -> Iterator[Suppression]:
        """Every suppression, by address, streamed."""
        with oltp_transaction(self._engine) as connection:
            rows = connection.execution_options(yield_per=5000).execute(
                _SUPPRESSIONS.order_by(suppression.c.address, suppression.c.sender_id)
            )
            for row in rows:
                yield _suppression(row)

    def of_address(self, address: str) -> Sequence[Suppression]:
        """What is known of one address; see the Protocol."""
        forms = [address] if self._key is None else [address, self._key.pseudonym(address)]
        return self._read(
            _SUPPRESSIONS.where(suppression.c.address.in_(forms)).order_by(suppression.c.sender_id.nulls_first())
        )

    def newest(self, limit: int) -> Sequence[Suppression]:
        """The newest first; by id, which grows with time and has an index."""
        return self._read(_SUPPRESSIONS.order_by(suppression.c.id.desc()).limit(limit))

    def remove(self, address: str, sender_id: int | None) -> Sequence[Suppression]:
        """Let the address be mailed again; see the Protocol.

        Raises:
            CommandRefusedError: the person was erased.
        """
        if self._key is not None and ErasedAddresses(self._engine, self._key).pseudonyms([address]):
            raise CommandRefusedError("the address was erased at the person's request, and stays suppressed")
        statement = delete(suppression).where(suppression.c.address == address)
        if sender_id is not None:
            statement = statement.where(suppression.c.sender_id == sender_id)
        return self._read(statement.returning(*_COLUMNS))

    def sender_ids(self) -> frozenset[int]:
        """Every sender that a suppression can name."""
        with oltp_transaction(self._engine) as connection:
            return frozenset(connection.execute(select(sender.c.id)).scalars())

    def _read(self, statement: Executable) -> Sequence[Suppression]:
        with oltp_transaction(self._engine) as connection:
            return [_suppression(row) for row in connection.execute(statement)]


class PostgresEventIntake:
    """`email_platform.events.inbox.EventIntake` over ``staged_object`` and ``suppression``.

    Args:
        engine: the OLTP database.
        key: of the pseudonyms of people who were erased; None where no key is set.
        leads: where leads are.
    """

    def __init__(self, engine: Engine, key: ErasureKey | None, leads: LeadRelation = OUR_LEADS) -> None:
        self._engine = engine
        self._leads = leads
        self._key = key

    def admit(
        self, staged: StagedObject | None, quarantined: Sequence[Quarantined], requests: Sequence[SuppressionRequest]
    ) -> int:
        """Register the batch's objects and write its suppressions; see the Protocol."""
        prefix = self._leads.prefix(self._engine)
        with oltp_transaction(self._engine) as connection:
            if staged is not None:
                _register(connection, staged, None)
            for one in quarantined:
                _register(connection, one.staged, one.reason)
            return suppress(connection, requests, prefix, self._key)

    def quarantined(self) -> Sequence[StagedObject]:
        """The quarantine's objects that were not replayed, the oldest first."""
        columns = staged_object.c
        statement = (
            select(columns.key, columns.kind, columns.rows, columns.content_sha256)
            .where(columns.kind == "event_quarantine", columns.loaded_sha256.is_distinct_from(columns.content_sha256))
            .order_by(columns.staged_at, columns.key)
        )
        with oltp_transaction(self._engine) as connection:
            return [
                StagedObject(row.key, row.kind, row.rows, row.content_sha256) for row in connection.execute(statement)
            ]

    def mark_replayed(self, staged: StagedObject) -> None:
        """Record that the object's bodies are in the inbox again; its reason stays."""
        with oltp_transaction(self._engine) as connection:
            connection.execute(
                update(staged_object)
                .where(staged_object.c.key == staged.key, staged_object.c.content_sha256 == staged.content_sha256)
                .values(loaded_sha256=staged.content_sha256, loaded_rows=0, loaded_at=func.clock_timestamp())
            )


def _register(connection: Connection, staged: StagedObject, reason: str | None) -> None:
    statement = insert(staged_object).values(
        key=staged.key,
        kind=staged.kind,
        campaign_id=None,
        rows=staged.rows,
        content_sha256=staged.content_sha256,
        staged_at=func.now(),
        quarantined_reason=reason,
    )
    new = statement.excluded
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=[staged_object.c.key],
            set_={
                "rows": new.rows,
                "content_sha256": new.content_sha256,
                "staged_at": new.staged_at,
                "quarantined_reason": new.quarantined_reason,
            },
            where=staged_object.c.content_sha256 != new.content_sha256,
        )
    )
