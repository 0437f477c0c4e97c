"""Requests to erase people, and what of them is in PostgreSQL.

Invariant: from the moment a request is written, the person is suppressed for every sender, in the same transaction.
The address stands in the request for as long as the work goes on, and is removed from it at its end.

Every text and JSON column of the database is in `NAMING_COLUMNS` or in `NOT_SEARCHED` with the reason; a test compares
both with the tables.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Engine,
    Table,
    and_,
    case,
    cast,
    collate,
    delete,
    exists,
    func,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy import Text as SqlText
from sqlalchemy.dialects.postgresql import JSONB, insert

from email_platform.adapters.postgres.audience import normalised_address_sql
from email_platform.adapters.postgres.erased import is_anybody_erased
from email_platform.adapters.postgres.lead_relation import OUR_LEADS, LeadRelation
from email_platform.adapters.postgres.tables import (
    alert,
    alert_delivery,
    api_audit,
    api_request,
    campaign,
    campaign_guard,
    campaign_manifest,
    erasure,
    lead,
    lead_source_row,
    segment,
    send_call,
    staged_object,
    suppression,
    suppression_lift,
)
from email_platform.adapters.postgres.transactions import oltp_transaction
from email_platform.adapters.postgres.work_lease import OLD_ROWS_WORK, is_work_held
from email_platform.domain.addresses import normalised_address
from email_platform.domain.erasure import ErasedPerson, ErasureKey
from email_platform.errors import ConfigurationError
from email_platform.runs.erasure_parts import Erasure, RewrittenObject

SOURCE = "erasure"
NAMING_COLUMNS: Mapping[Table, Sequence[str]] = {
    lead: ("first_name", "last_name", "city", "plan", "language", "attributes", "own_key"),
    suppression: ("source",),
    suppression_lift: ("address", "reason", "source", "why"),
    lead_source_row: ("problem",),
    segment: ("condition",),
    campaign: ("status_reason", "condition"),
    campaign_manifest: ("condition",),
    campaign_guard: ("reason",),
    staged_object: ("quarantined_reason",),
    alert: ("subject", "occasion", "happened", "meaning", "command", "details"),
    alert_delivery: ("problem",),
    api_request: ("idempotency_key", "body"),
    api_audit: ("path",),
}
"""Columns in which a text may name the person, beside the ledger's, which are searched by chunk."""
NOT_SEARCHED: Mapping[str, str] = {
    "app_user": "users and senders are no recipients: `email-platform user` and `sender` are theirs",
    "sender": "as app_user",
    "lead.email": "a lead with the address is deleted as a whole",
    "lead.country": "two letters",
    "suppression.address": "replaced when the request is written",
    "suppression.reason": "a word of a list",
    "lead_source_row.hashes": "hashes of numbers, times and JSON",
    "lead_source_position": "an address of a database, and a table",
    "campaign.name": "what an author wrote; the report says where a template names the person",
    "campaign.subject_template": "as its name",
    "campaign.html_template": "as its name",
    "campaign.text_template": "as its name",
    "campaign.on_unknown": "a word of a list",
    "campaign.status": "a word of a list",
    "campaign_manifest.prefix": "a key that is made of ids",
    "campaign_manifest.excluded_by_reason": "counts",
    "campaign_manifest.sender": "as app_user",
    "campaign_manifest.content": "as the campaign's templates",
    "campaign_manifest.on_unknown": "a word of a list",
    "campaign_manifest.archived_totals": "counts",
    "chunk.lease_holder": "a host and a process id",
    "send_call.state": "a word of a list",
    "send_call.receipt": "searched in the chunks that the person is in",
    "send_call.error": "as its receipt",
    "send_call.follows": "a word of a list",
    "staged_object.key": "made of ids and days",
    "staged_object.kind": "a word of a list",
    "staged_object.content_sha256": "a hash",
    "staged_object.loaded_sha256": "a hash",
    "segment.name": "names a condition",
    "lead_import": "a hash and counts",
    "alert.kind": "a word of a list",
    "alert_delivery.target": "a name of ours",
    "alert_delivery.state": "a word of a list",
    "alert_beat": "a host",
    "provider_rate": "a name of an account",
    "provider_rate_flow": "a name of an account",
    **dict.fromkeys(("api_key",), "what an operator called it, and hashes"),
    "api_audit.method": "a word of a list",
    "work_lease": "a host and a process id",
    "erasure": "the request itself",
}


class PostgresErasures:
    """`email_platform.runs.erasure_parts.ErasureBook` and `PersonInTables` over the OLTP database.

    Length: one Protocol's methods, each a statement or two.

    Args:
        engine: the OLTP database.
        key: of the settings.
        leads: where leads are.
    """

    def __init__(self, engine: Engine, key: ErasureKey | None, leads: LeadRelation = OUR_LEADS) -> None:
        self._engine = engine
        self._key = key
        self._leads = leads

    def pseudonym(self, address: str) -> str:
        """What stands in the place of the address.

        Raises:
            ConfigurationError: no key is set, or another one than the one under which people were erased.
        """
        if self._key is None:
            raise ConfigurationError(
                "EMAIL_PLATFORM_ERASURE_KEY is not set: set it to a secret of at least 16 characters, the same for "
                "every process, and keep it as long as the data"
            )
        with oltp_transaction(self._engine) as connection:
            is_anybody_erased(connection, self._key)
        return self._key.pseudonym(address)

    def begin(self, address: str) -> Erasure:
        """Write the request down and suppress the person; see the Protocol."""
        pseudonym = self.pseudonym(address)
        key = normalised_address(address)
        assert self._key is not None
        with oltp_transaction(self._engine) as connection:
            statement = insert(erasure).values(pseudonym=pseudonym, key_id=self._key.key_id, address=key)
            connection.execute(
                statement.on_conflict_do_update(
                    index_elements=[erasure.c.pseudonym], set_={"address": key, "finished_at": None}
                )
            )
            moved = self._suppress(connection, key, pseudonym)
            self._add_removed(connection, pseudonym, {"suppressions": moved})
            return _read(connection, pseudonym)

    def find(self, pseudonym: str) -> Erasure | None:
        """The request with this pseudonym."""
        with oltp_transaction(self._engine) as connection:
            known = connection.execute(select(exists().where(erasure.c.pseudonym == pseudonym))).scalar()
            return _read(connection, pseudonym) if known else None

    def unfinished(self) -> Sequence[Erasure]:
        """Requests that are not finished, the oldest first."""
        statement = select(erasure.c.pseudonym).where(erasure.c.finished_at.is_(None))
        with oltp_transaction(self._engine) as connection:
            found: list[str] = list(
                connection.execute(statement.order_by(erasure.c.requested_at, erasure.c.pseudonym)).scalars()
            )
            return [_read(connection, one) for one in found]

    def add_removed(self, pseudonym: str, counts: Mapping[str, int]) -> None:
        """Add to the counts of what was removed."""
        with oltp_transaction(self._engine) as connection:
            self._add_removed(connection, pseudonym, counts)

    def set_rewriting(self, pseudonym: str, objects: Collection[RewrittenObject]) -> None:
        """Remember which objects are about to be replaced; an empty collection once they are."""
        document = {one.key: [one.old_sha256, one.new_sha256] for one in objects}
        with oltp_transaction(self._engine) as connection:
            self._update(connection, pseudonym, rewriting=document)

    def set_waiting(self, pseudonym: str, reasons: Sequence[str]) -> None:
        """Say why the request cannot be finished now."""
        with oltp_transaction(self._engine) as connection:
            self._update(connection, pseudonym, waits_for=list(reasons))

    def finish(self, pseudonym: str) -> Erasure:
        """Forget the address."""
        with oltp_transaction(self._engine) as connection:
            self._update(connection, pseudonym, address=None, rewriting={}, waits_for=[], finished_at=func.now())
            return _read(connection, pseudonym)

    def delete_leads(self, person: ErasedPerson, *, dry_run: bool) -> int:
        """Delete the leads with the address, where the table is ours; reads the table once.

        By a function of the database (migration 0021): no role has a right to delete leads.
        """
        if not self._leads.is_ours:
            return 0
        is_person = normalised_address_sql(lead.c.email) == person.address
        with oltp_transaction(self._engine) as connection:
            if dry_run:
                return connection.execute(select(func.count()).where(is_person)).scalar_one()
            return int(connection.execute(select(func.erase_leads(person.pseudonym, type_=BigInteger))).scalar_one())

    def foreign_leads(self, person: ErasedPerson) -> int:
        """Leads with the address in a relation that is not ours, and which we only read."""
        if self._leads.is_ours:
            return 0
        source = self._leads.source(self._engine)
        is_person = normalised_address_sql(source.c.email) == person.address
        with oltp_transaction(self._engine) as connection:
            return connection.execute(select(func.count()).select_from(source).where(is_person)).scalar_one()

    def suppress_again(self, person: ErasedPerson, *, dry_run: bool) -> int:
        """Suppressions that name the address, which get the pseudonym; returns how many."""
        with oltp_transaction(self._engine) as connection:
            if dry_run:
                is_person = suppression.c.address == person.address
                return connection.execute(select(func.count()).where(is_person)).scalar_one()
            return self._suppress(connection, person.address, person.pseudonym)

    def scrub_tables(self, person: ErasedPerson, *, dry_run: bool) -> Mapping[str, int]:
        """Rows in which a text names the person, by table; the pseudonym is put there."""
        counts: dict[str, int] = {}
        for table, names in NAMING_COLUMNS.items():
            with oltp_transaction(self._engine) as connection:
                found = _rows_naming(connection, table, [table.c[name] for name in names], person)
                for row in found if not dry_run else ():
                    _write_without(connection, table, row, names, person)
                counts[table.name] = len(found)
        return counts

    def scrub_receipts(
        self, campaign_id: int, chunk_indexes: Collection[int], person: ErasedPerson, *, dry_run: bool
    ) -> int:
        """Calls of these chunks whose receipt or error names the person; the pseudonym is put there."""
        names = ("receipt", "error")
        within = and_(send_call.c.campaign_id == campaign_id, send_call.c.chunk_index.in_(list(chunk_indexes)))
        with oltp_transaction(self._engine) as connection:
            found = _rows_naming(connection, send_call, [send_call.c[name] for name in names], person, within)
            for row in found if not dry_run else ():
                _write_without(connection, send_call, row, names, person)
        return len(found)

    def templates_naming(self, person: ErasedPerson) -> Sequence[int]:
        """Ids of campaigns whose name or templates name the person: an author wrote it, and must decide about it."""
        names = ("name", "subject_template", "html_template", "text_template")
        with oltp_transaction(self._engine) as connection:
            found = _rows_naming(connection, campaign, [campaign.c[name] for name in names], person)
        return [row["id"] for row in found]

    def being_frozen(self) -> Sequence[int]:
        """Campaigns whose audience is being resolved now, from a snapshot that may be older than the request."""
        has_manifest = exists().where(campaign_manifest.c.campaign_id == campaign.c.id)
        statement = select(campaign.c.id).where(campaign.c.status == "sending", ~has_manifest).order_by(campaign.c.id)
        with oltp_transaction(self._engine) as connection:
            return list(connection.execute(statement).scalars())

    def are_old_rows_imported(self) -> bool:
        """Whether an import of old rows is under way; see the Protocol."""
        return is_work_held(self._engine, OLD_ROWS_WORK)

    def replace_content(self, objects: Collection[RewrittenObject]) -> None:
        """Register the new contents; what was loaded counts as loaded."""
        columns = staged_object.c
        with oltp_transaction(self._engine) as connection:
            for one in sorted(objects, key=lambda each: each.key):
                loaded = case((columns.loaded_sha256 == one.old_sha256, one.new_sha256), else_=columns.loaded_sha256)
                connection.execute(
                    update(staged_object)
                    .where(columns.key == one.key, columns.content_sha256 == one.old_sha256)
                    .values(content_sha256=one.new_sha256, loaded_sha256=loaded)
                )

    def _suppress(self, connection: Connection, key: str, pseudonym: str) -> int:
        rows = connection.execute(
            delete(suppression)
            .where(suppression.c.address == key)
            .returning(suppression.c.sender_id, suppression.c.reason, suppression.c.source, suppression.c.created_at)
        ).all()
        kept = [{**row._mapping, "address": pseudonym} for row in rows]
        everywhere = {"address": pseudonym, "sender_id": None, "reason": "manual", "source": SOURCE}
        for one in [*kept, everywhere]:
            connection.execute(insert(suppression).values(**one).on_conflict_do_nothing())
        return len(rows)

    def _add_removed(self, connection: Connection, pseudonym: str, counts: Mapping[str, int]) -> None:
        row = select(erasure.c.removed).where(erasure.c.pseudonym == pseudonym).with_for_update()
        removed: dict[str, int] = dict(connection.execute(row).scalar_one())
        for place, count in counts.items():
            if count:
                removed[place] = removed.get(place, 0) + count
        self._update(connection, pseudonym, removed=removed)

    def _update(self, connection: Connection, pseudonym: str, **values: Any) -> None:
        connection.execute(update(erasure).where(erasure.c.pseudonym == pseudonym).values(**values))


def _read(connection: Connection, pseudonym: str) -> Erasure:
    row = connection.execute(select(erasure).where(erasure.c.pseudonym == pseudonym)).one()
    return Erasure(
        pseudonym=row.pseudonym,
        address=row.address,
        requested_at=row.requested_at,
        finished_at=row.finished_at,
        removed=row.removed,
        waits_for=tuple(row.waits_for),
        rewriting=tuple(RewrittenObject(key, *hashes) for key, hashes in sorted(row.rewriting.items())),
    )


def _rows_naming(
    connection: Connection,
    table: Table,
    columns: Sequence[Column[Any]],
    person: ErasedPerson,
    within: ColumnElement[bool] | None = None,
) -> list[Mapping[str, Any]]:
    """Rows of which one of the columns names the person: their keys, and the columns as text."""
    texts = [cast(column, SqlText).label(column.name) for column in columns]
    # In no locale's lower case: a Turkish one has another small letter for I.
    likely = or_(*(func.strpos(func.lower(collate(one.element, "C")), person.needle) > 0 for one in texts))
    names = [column.name for column in columns]
    keys = [column for column in table.primary_key.columns if column.name not in names]
    statement = select(*keys, *texts).where(likely) if within is None else select(*keys, *texts).where(within, likely)
    return [
        dict(row._mapping)
        for row in connection.execute(statement)
        if any(person.is_named_in(row._mapping[name]) for name in names)
    ]


def _write_without(
    connection: Connection, table: Table, row: Mapping[str, Any], names: Sequence[str], person: ErasedPerson
) -> None:
    values = {
        name: cast(literal(without, SqlText), JSONB) if isinstance(table.c[name].type, JSONB) else without
        for name in names
        if row[name] is not None and (without := person.without(row[name])) != row[name]
    }
    its_key = [column == row[column.name] for column in table.primary_key.columns]
    connection.execute(update(table).where(*its_key).values(**values))
