"""Which addresses some lead has, asked for many at once."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import ARRAY, Engine, Text, bindparam, text

from email_platform.adapters.postgres.lead_relation import LeadRelation
from email_platform.adapters.postgres.transactions import oltp_transaction

_HAVING = """
    select distinct email_address_key(lead.email) as address
    from lead
    inner join unnest(:addresses) as wanted (address) on email_address_key(lead.email) = wanted.address
"""


class PostgresLeadAddresses:
    """`email_platform.runs.shadow.LeadAddresses`; reads the leads once for each call."""

    def __init__(self, engine: Engine, leads: LeadRelation) -> None:
        self._engine, self._leads = engine, leads

    def having(self, addresses: Collection[str]) -> Collection[str]:
        """Those that some lead has; see the Protocol."""
        if not addresses:
            return frozenset()
        statement = text(self._leads.prefix(self._engine) + _HAVING).bindparams(
            bindparam("addresses", type_=ARRAY(Text()))
        )
        with oltp_transaction(self._engine) as connection:
            return frozenset(connection.execute(statement, {"addresses": list(addresses)}).scalars())
