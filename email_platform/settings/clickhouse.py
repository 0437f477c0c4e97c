"""The warehouse."""

from __future__ import annotations

from pydantic import BaseModel

from email_platform.settings.names import ReplaceablePart
from email_platform.settings.values import ClickHouseUrl, Port, PositiveInt

CLICKHOUSE = ReplaceablePart("clickhouse", addresses=("clickhouse_url",), fields=("clickhouse_url",))


class ClickHouseSettings(BaseModel):
    """Where ClickHouse is, and the form of its tables.

    Attributes:
        clickhouse_url: ``http(s)://user:password@host:port/database``; of a cluster one server, which has the reports.
        clickhouse_cluster: the tables are made on this cluster, replicated; None for one server. With
            clickhouse_sharded it has several shards.
        clickhouse_storage_policy, clickhouse_cold_after_months: rows that old go to the policy's volume ``cold``.
        clickhouse_keep_events_months: events older than that are deleted; None: never.
        clickhouse_port: of the embedded server.
    """

    clickhouse_url: ClickHouseUrl
    clickhouse_cluster: str | None = None
    clickhouse_sharded: bool = False
    clickhouse_storage_policy: str | None = None
    clickhouse_cold_after_months: PositiveInt | None = None
    clickhouse_keep_events_months: PositiveInt | None = None
    clickhouse_port: Port = 18123
