"""ClickHouse behind one URL: connection, schema, bulk loads, and dbt's view of the same URL.

Invariant: the raw tables live in the URL's database and the report tables in `reports_database`; both follow
from the one setting EMAIL_PLATFORM_CLICKHOUSE_URL, for our own loads and for dbt alike.
"""

from __future__ import annotations

from email_platform.adapters.clickhouse.address import dbt_environment, reports_database

__all__ = ["dbt_environment", "reports_database"]
