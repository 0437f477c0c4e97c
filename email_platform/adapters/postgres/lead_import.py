"""Leads of a file into the table ``lead``, in one transaction: whose address is there is changed, the others are added.

Invariant: an import that ends half-way has changed nothing, so it is simply run again. An opt-out is never changed:
``unsubscribed_at`` and the suppression list are not touched, whatever a file says.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, text

from email_platform.adapters.postgres.transactions import oltp_transaction
from email_platform.audience.lead_file import LEAD_COLUMNS, ImportedLead

_TEMPORARY = text(
    """
    create temporary table imported_lead (
        number bigint, email text, first_name text, last_name text, country text, city text, plan text, language text,
        age smallint, attributes text
    ) on commit drop
    """
)
_KEYED = (
    "create temporary table keyed_lead on commit drop as"
    " select *, email_address_key(email) as key,"
    " row_number() over (partition by email_address_key(email) order by number) as nth from imported_lead",
    "analyze keyed_lead",
)
_REPEATED = text("select number from keyed_lead where nth > 1 order by number")
_CHANGE = text(
    """
    update lead
    set
        first_name = coalesce(new.first_name, lead.first_name),
        last_name = coalesce(new.last_name, lead.last_name),
        country = coalesce(new.country, lead.country),
        city = coalesce(new.city, lead.city),
        plan = coalesce(new.plan, lead.plan),
        language = coalesce(new.language, lead.language),
        age = coalesce(new.age, lead.age),
        attributes = lead.attributes || cast(new.attributes as jsonb)
    from keyed_lead as new
    where new.nth = 1 and email_address_key(lead.email) = new.key
    """
)
_ADD = text(
    """
    insert into lead (email, first_name, last_name, country, city, plan, language, age, attributes)
    select email, first_name, last_name, country, city, plan, language, age, cast(attributes as jsonb)
    from keyed_lead as new
    where
        new.nth = 1
        and not exists (select from lead where email_address_key(lead.email) = new.key)
    """
)


@dataclass(frozen=True, slots=True)
class ImportedCounts:
    """What became of the rows.

    Attributes:
        changed: leads that had the address of a row; more than one may have the same.
        repeated: numbers of the rows whose address an earlier row has; they are left out.
    """

    added: int
    changed: int
    repeated: tuple[int, ...]


def import_leads(engine: Engine, leads: Iterable[ImportedLead], *, dry_run: bool = False) -> ImportedCounts:
    """Add and change leads, in one transaction; memory grows with repeated rows only, by their numbers.

    An empty cell changes nothing, and attributes that a file does not have stay.

    Args:
        engine: of the OLTP database.
        leads: as they are read.
        dry_run: count, and change nothing.

    Raises:
        PartUnavailableError: PostgreSQL went away; nothing has changed.
    """
    with oltp_transaction(engine) as connection:
        connection.execute(text("set local idle_in_transaction_session_timeout = '10min'"))  # the file may be slow
        connection.execute(text("set local work_mem = '128MB'"))
        connection.execute(_TEMPORARY)
        driver: Any = connection.connection.driver_connection
        with driver.cursor().copy("copy imported_lead from stdin") as copy:
            for one in leads:
                copy.write_row([one.number, *(one.columns.get(name) for name in LEAD_COLUMNS), one.attributes])
        for statement in _KEYED:
            connection.execute(text(statement))
        repeated: tuple[int, ...] = tuple(connection.execute(_REPEATED).scalars())
        changed = connection.execute(_CHANGE).rowcount
        added = connection.execute(_ADD).rowcount
        if dry_run:
            connection.rollback()
    return ImportedCounts(added, changed, repeated)
