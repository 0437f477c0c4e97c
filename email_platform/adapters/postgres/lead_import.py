"""Leads of a file into the table ``lead``, in batches: who is there is changed, the others are added.

Invariant: a batch and the position after it are one commit, so an import that ends half-way goes on behind its last
batch when it is run again, and no row counts twice. An opt-out is never lost: ``unsubscribed_at`` is not touched, and
where a lead that opted out gets another address, the old one is suppressed.

| a row | is |
| --- | --- |
| with a key that a lead has | that lead; it gets the row's address |
| with a key that no lead has | the lead without a key that has its address; otherwise a new one |
| without a key | every lead that has its address; otherwise a new one |
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from more_itertools import chunked
from sqlalchemy import Connection, Engine, text

from email_platform.adapters.postgres.erased import is_anybody_erased, key_parameters
from email_platform.adapters.postgres.transactions import oltp_transaction
from email_platform.audience.lead_file import LEAD_COLUMNS, ImportedLead
from email_platform.domain.addresses import normalised_address
from email_platform.domain.erasure import ErasureKey
from email_platform.errors import CommandRefusedError

# Each batch reads the table once, since an index over all addresses would cost every other writer: large batches.
BATCH_ROWS = 100_000
_TURN = 0x6C656164  # "lead": two imports at once would add the same address twice

_TEMPORARY = text(
    """
    create temporary table imported_lead (
        number bigint, email text, own_key text, first_name text, last_name text, country text, city text, plan text,
        language text, age smallint, attributes text
    ) on commit drop
    """
)
_MATCH_BY_KEY = text(
    """
    create temporary table keyed_match on commit drop as
    select new.number, lead.id as lead_id
    from imported_lead as new
    inner join lead on new.own_key = lead.own_key
    union all
    (
        select distinct on (new.number) new.number, lead.id as lead_id
        from imported_lead as new
        inner join lead on email_address_key(new.email) = email_address_key(lead.email) and lead.own_key is null
        where
            new.own_key is not null
            and not exists (select from lead as keyed where keyed.own_key = new.own_key)
        order by new.number, lead.id
    )
    """
)
_KEEP_OPT_OUTS = text(
    """
    insert into suppression (address, reason, source)
    select distinct email_address_key(lead.email), 'unsubscribe', 'lead import: the lead has another address now'
    from keyed_match
    inner join imported_lead as new on keyed_match.number = new.number
    inner join lead on keyed_match.lead_id = lead.id
    where lead.unsubscribed_at is not null and email_address_key(lead.email) <> email_address_key(new.email)
    on conflict (address, sender_id) do nothing
    """
)
_MATCH_BY_ADDRESS = text(
    """
    create temporary table address_match on commit drop as
    select new.number, lead.id as lead_id
    from imported_lead as new
    inner join lead on email_address_key(new.email) = email_address_key(lead.email)
    where new.own_key is null
    """
)
_CHANGE = """
    update lead
    set
        email = case
            when new.own_key is null or email_address_key(lead.email) = email_address_key(new.email) then lead.email
            else new.email
        end,
        own_key = coalesce(new.own_key, lead.own_key),
        first_name = coalesce(new.first_name, lead.first_name),
        last_name = coalesce(new.last_name, lead.last_name),
        country = coalesce(new.country, lead.country),
        city = coalesce(new.city, lead.city),
        plan = coalesce(new.plan, lead.plan),
        language = coalesce(new.language, lead.language),
        age = coalesce(new.age, lead.age),
        attributes = lead.attributes || cast(new.attributes as jsonb)
    from {matches} as matches
    inner join imported_lead as new on matches.number = new.number
    where lead.id = matches.lead_id
    """
_ADD = """
    insert into lead (email, own_key, first_name, last_name, country, city, plan, language, age, attributes)
    select email, own_key, first_name, last_name, country, city, plan, language, age, cast(attributes as jsonb)
    from imported_lead as new
    where
        (new.own_key is not null) = :with_key
        and not exists (select from {matches} as matches where matches.number = new.number)
    order by number
    """
# Rows of people who were erased are taken out before anything is matched: they do not become leads again.
_TAKE_OUT_ERASED = text(
    """
    delete from imported_lead as new
    using erasure
    where erasure.pseudonym = erased_address(new.email, :erasure_inner, :erasure_outer)
    returning new.number
    """
)
# Rows with a key come first: a row without one is judged by the addresses that leads have then.
_STEPS = ((True, (_MATCH_BY_KEY, _KEEP_OPT_OUTS), "keyed_match"), (False, (_MATCH_BY_ADDRESS,), "address_match"))

_BEGIN = text(
    """
    insert into lead_import (fingerprint, last_row, added, changed)
    values (:fingerprint, :before, 0, 0)
    on conflict (fingerprint) do nothing
    """
)
_BEFORE_THE_FIRST_ROW = -1
_READ = text("select last_row, added, changed from lead_import where fingerprint = :fingerprint")
_MOVE = text(
    """
    update lead_import
    set last_row = :last_row, added = added + :added, changed = changed + :changed, progress_at = now()
    where fingerprint = :fingerprint and last_row = :before
    """
)
_FORGET = text("delete from lead_import where fingerprint = :fingerprint")


@dataclass(frozen=True, slots=True)
class ImportedCounts:
    """What became of the rows, over all the runs that the import took.

    Attributes:
        changed: leads that had the key or the address of a row; more than one may have the same address.
        repeated: numbers of the rows whose address or key an earlier row has; they are left out.
        erased: numbers of the rows of people who were erased; they are left out. Of a resumed import those behind the
            row where it went on.
        went_on_after: number of the row behind which the import went on; None where it began with the first.
    """

    added: int
    changed: int
    repeated: tuple[int, ...]
    went_on_after: int | None = None
    erased: tuple[int, ...] = ()


def import_leads(
    engine: Engine,
    leads: Iterable[ImportedLead],
    key: ErasureKey | None,
    *,
    fingerprint: str | None = None,
    dry_run: bool = False,
    batch_rows: int = BATCH_ROWS,
) -> ImportedCounts:
    """Add and change leads, each batch in a transaction; memory grows by an address a row.

    An empty cell changes nothing, and attributes that a file does not have stay.

    Args:
        engine: of the OLTP database.
        leads: as they are read, by ascending number; of an import that is resumed all of them again.
        key: of the pseudonyms of people who were erased; None where no key is set.
        fingerprint: names the file and how it is read, so that an import that ended half-way is found and goes on;
            None for one that keeps no position.
        dry_run: count in one transaction, and change nothing; reads no position either.
        batch_rows: rows of a transaction.

    Raises:
        ConfigurationError: people were erased under another key.
        CommandRefusedError: the same file is being imported by somebody else.
        PartUnavailableError: PostgreSQL went away; run it again, and it goes on.
    """
    repeated: list[int] = []
    erased: list[int] = []
    others = _without_repeats(leads, repeated)
    if dry_run:
        return _count(engine, others, repeated, batch_rows, key)
    after, added, changed = _position(engine, fingerprint)
    first = after
    for batch in chunked((one for one in others if one.number > first), batch_rows):
        with oltp_transaction(engine) as connection:
            new, old, left_out = _apply(connection, batch, key)
            if fingerprint is not None:
                moved = {"fingerprint": fingerprint, "before": after, "last_row": batch[-1].number}
                if not connection.execute(_MOVE, {**moved, "added": new, "changed": old}).rowcount:
                    raise CommandRefusedError("the same file is being imported already: wait for the other import")
        after, added, changed = batch[-1].number, added + new, changed + old
        erased += left_out
    if fingerprint is not None:
        with oltp_transaction(engine) as connection:
            connection.execute(_FORGET, {"fingerprint": fingerprint})
    went_on_after = None if first == _BEFORE_THE_FIRST_ROW else first
    return ImportedCounts(added, changed, tuple(repeated), went_on_after, tuple(erased))


def upsert_leads(connection: Connection, leads: Iterable[ImportedLead], key: ErasureKey | None) -> ImportedCounts:
    """Add and change a few leads in the caller's transaction, as `import_leads` does; reads the table once."""
    repeated: list[int] = []
    added, changed, erased = _apply(connection, list(_without_repeats(leads, repeated)), key)
    return ImportedCounts(added, changed, tuple(repeated), erased=tuple(erased))


def forget_import(engine: Engine, fingerprint: str) -> None:
    """Have the next import of the file begin with its first row."""
    with oltp_transaction(engine) as connection:
        connection.execute(_FORGET, {"fingerprint": fingerprint})


def _position(engine: Engine, fingerprint: str | None) -> tuple[int, int, int]:
    if fingerprint is None:
        return _BEFORE_THE_FIRST_ROW, 0, 0
    with oltp_transaction(engine) as connection:
        connection.execute(_BEGIN, {"fingerprint": fingerprint, "before": _BEFORE_THE_FIRST_ROW})
        row = connection.execute(_READ, {"fingerprint": fingerprint}).one()
    return row.last_row, row.added, row.changed


def _count(
    engine: Engine, leads: Iterable[ImportedLead], repeated: list[int], batch_rows: int, key: ErasureKey | None
) -> ImportedCounts:
    added = changed = 0
    erased: list[int] = []
    with oltp_transaction(engine) as connection:
        connection.execute(text("set local idle_in_transaction_session_timeout = '10min'"))  # the file may be slow
        for batch in chunked(leads, batch_rows):
            new, old, left_out = _apply(connection, batch, key)
            added, changed = added + new, changed + old
            erased += left_out
            connection.execute(text("drop table imported_lead, keyed_match, address_match"))
        connection.rollback()
    return ImportedCounts(added, changed, tuple(repeated), erased=tuple(erased))


def _without_repeats(leads: Iterable[ImportedLead], repeated: list[int]) -> Iterator[ImportedLead]:
    addresses: set[str] = set()
    keys: set[str] = set()
    for one in leads:
        address = normalised_address(str(one.columns["email"]))
        key = one.columns.get("own_key")
        if address in addresses or key in keys:
            repeated.append(one.number)
            continue
        addresses.add(address)
        if key is not None:
            keys.add(str(key))
        yield one


def hold_lead_turn(connection: Connection) -> None:
    """Wait until nobody else adds leads, and keep others waiting until this transaction ends."""
    connection.execute(text("select pg_advisory_xact_lock(:turn)"), {"turn": _TURN})


def _apply(connection: Connection, batch: Iterable[ImportedLead], key: ErasureKey | None) -> tuple[int, int, list[int]]:
    """The batch's leads in the caller's transaction: how many were added and changed, and the rows of the erased."""
    hold_lead_turn(connection)
    connection.execute(text("set local work_mem = '128MB'"))
    connection.execute(_TEMPORARY)
    driver: Any = connection.connection.driver_connection
    with driver.cursor().copy("copy imported_lead from stdin") as copy:
        for one in batch:
            copy.write_row([one.number, *(one.columns.get(name) for name in LEAD_COLUMNS), one.attributes])
    connection.execute(text("analyze imported_lead"))
    added = changed = 0
    erased: list[int] = []
    if is_anybody_erased(connection, key):
        erased = sorted(connection.execute(_TAKE_OUT_ERASED, key_parameters(key)).scalars())
    for with_key, statements, matches in _STEPS:
        for statement in statements:
            connection.execute(statement)
        changed += connection.execute(text(_CHANGE.format(matches=matches))).rowcount
        added += connection.execute(text(_ADD.format(matches=matches)), {"with_key": with_key}).rowcount
    return added, changed, erased
