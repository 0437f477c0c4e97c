"""A table or view of MySQL or MariaDB that our leads are kept in step with."""

from __future__ import annotations

from pydantic import BaseModel

from email_platform.settings.values import MysqlUrl, PositiveFloat, PositiveSeconds


class LeadSourceSettings(BaseModel):
    """Where the leads come from, and how gently they are read (docs/lead_sync.md).

    Attributes:
        lead_source_url: ``mysql://user:password@host:port/database``, best a read replica's; None: leads are
            kept in step with nothing.
        lead_source_table: the table or view, with its database where it is another one.
        lead_source_key: its column that names a lead for ever: a whole number, indexed. It becomes ``lead.own_key``.
        lead_source_changed: its column with the time of a row's last change, indexed.
        lead_source_deleted: its column that marks a row as deleted (a number other than 0, or a time); empty: none.
        lead_source_columns: which columns make a lead's, ``email=mail,first_name=given_name``; those of the same name
            need no mention.
        lead_source_attributes: columns that become attributes, with commas between; ``name.*`` for the keys of a JSON
            column.
        lead_source_overlap_seconds: how far a look for changes goes back behind the last one, for transactions that
            commit late and for clocks that differ.
        lead_source_rows_per_second: how many rows are read at most, on average.
        lead_source_statement_timeout_seconds: when a statement at the source gives up.
    """

    lead_source_url: MysqlUrl | None = None
    lead_source_table: str = "lead"
    lead_source_key: str = "id"
    lead_source_changed: str = "updated_at"
    lead_source_deleted: str = ""
    lead_source_columns: str = ""
    lead_source_attributes: str = ""
    lead_source_overlap_seconds: PositiveSeconds = 300.0
    lead_source_rows_per_second: PositiveFloat = 20_000
    lead_source_statement_timeout_seconds: PositiveSeconds = 60.0
