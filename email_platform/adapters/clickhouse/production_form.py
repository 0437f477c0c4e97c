"""The warehouse's tables as a ClickHouse cluster wants them, made from the same migrations as on one server.

Invariant: there is one source of the schema, the migrations' files; a form adds where the tables are and how long rows
are kept, never what the tables contain. A statement that this module does not understand is refused, not passed on
half-changed.

    one server          a cluster of replicas                several shards as well
    engine = MergeTree  Replicated…MergeTree(path, replica)  <table>_local, and <table> as Distributed over it

The reports' tables are dbt's, on the one server that the URL names: what they read of the raw tables comes from every
shard, so each subquery behind ``in`` is a global one (`dbt_reports/macros/is_in.sql`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from email_platform.errors import ConfigurationError
from email_platform.settings import Settings

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_CREATE = re.compile(
    r"create table if not exists (?P<table>\w+)\s*\((?P<columns>.*)\)\s*"
    r"engine = (?P<engine>(?:Replacing)?MergeTree)(?:\((?P<arguments>[^)]*)\))?\s*"
    r"(?P<keys>partition by .*?)(?:\nsettings (?P<settings>.*))?",
    re.DOTALL,
)
_ALTER = re.compile(
    r"alter table (?P<table>\w+) (?P<change>(?:add|modify|drop|materialize) (?P<what>\w+) .*)", re.DOTALL
)
_PATH = "/clickhouse/tables/{shard}/{database}/{table}"

# Rows that are read together must be on one shard: final and `limit 1 by` look at one shard at a time.
_SHARDING_KEYS: Mapping[str, str] = {
    "delivery": "cityHash64(campaign_id)",
    "exclusion": "cityHash64(campaign_id)",
    "event": "cityHash64(event_key)",
    "legacy_email": "cityHash64(campaign_id)",
    "email_key": "cityHash64(kind, key_hash)",
}
_QUORUM_TIMEOUT_MS = 300_000  # half of what a load may take: its failure comes back while somebody waits for it
_BY_ONE_SHARD = "0"  # small tables, whole on the first shard
# The time by which a table's rows grow old; tables without one stay where they are.
_TIME_COLUMNS: Mapping[str, str] = {
    "delivery": "occurred_at",
    "exclusion": "loaded_at",
    "event": "occurred_at",
    "legacy_email": "created_at",
}


@dataclass(frozen=True, slots=True)
class ProductionForm:
    """Where the tables are and for how long.

    Attributes:
        cluster: as in ``system.clusters``; the macros ``{shard}`` and ``{replica}`` must be set on its servers.
        sharded: the cluster has several shards: every table is a Distributed one over ``<table>_local``.
        storage_policy: of the tables that grow; its volume `cold_volume` takes what is older than `cold_after_months`.
        keep_events_months: events older than that are deleted; None keeps them for ever. Deliveries are always kept.
    """

    cluster: str
    sharded: bool = False
    storage_policy: str | None = None
    cold_volume: str = "cold"
    cold_after_months: int | None = None
    keep_events_months: int | None = None

    def __post_init__(self) -> None:
        for name in (self.cluster, self.cold_volume, self.storage_policy):
            if name is not None and not _NAME.fullmatch(name):
                raise ConfigurationError(f"{name!r}: names of clusters, policies and volumes are letters, digits and _")
        if self.cold_after_months is not None and self.storage_policy is None:
            raise ConfigurationError("moving rows to a cold volume needs a storage policy that has one")
        for months in (self.cold_after_months, self.keep_events_months):
            if months is not None and months < 1:
                raise ConfigurationError("months must be at least 1")

    def statements(self, statement: str) -> list[str]:
        """What one statement of a migration becomes, in order; each may be repeated.

        Raises:
            ConfigurationError: the statement is of no kind that is known here.
        """
        statement = statement.strip()
        if created := _CREATE.fullmatch(statement):
            return self._created(created)
        if altered := _ALTER.fullmatch(statement):
            return self._altered(altered)
        raise ConfigurationError(f"no production form is known for the statement {statement.splitlines()[0]!r} …")

    @property
    def session_settings(self) -> Mapping[str, str | int]:
        """Settings of every statement on a cluster, so that a load is where it is looked for once it is acknowledged.

        Source: ClickHouse's documentation, operations/settings/settings, under each name.
        """
        return {
            # Acknowledged when a majority of a shard's replicas has it: whatever counts as loaded outlives one of them.
            # One load may not wait for another, so insert_quorum_parallel stays on, and reads are not sequential:
            # select_sequential_consistency does not work beside it.
            "insert_quorum": "auto",
            "insert_quorum_timeout": _QUORUM_TIMEOUT_MS,
            # Else a load is counted before it arrives: the default is a queue on the server that took it.
            "distributed_foreground_insert": 1,
            # Rows lie where the sharding key says; by default, a copy between two tables stays on each shard.
            "parallel_distributed_insert_select": 0,
            # Else a shard's lagging replica may answer for one that has the rows; this takes the same one each time.
            "load_balancing": "in_order",
        }

    def database(self, name: str) -> str:
        """The statement that makes the database on every server."""
        return f"create database if not exists {name} on cluster {self.cluster}"

    def emptied(self, table: str) -> str:
        """The statement that removes every row of a table on every server."""
        return f"truncate table {self._local(table)} on cluster {self.cluster}"

    def _local(self, table: str) -> str:
        return f"{table}_local" if self.sharded else table

    def _created(self, found: re.Match[str]) -> list[str]:
        table = found["table"]
        arguments = ", ".join(filter(None, (f"'{_PATH}'", "'{replica}'", found["arguments"])))
        settings = [found["settings"]] if found["settings"] else []
        if self.storage_policy and table in _TIME_COLUMNS:
            settings.append(f"storage_policy = '{self.storage_policy}'")
        lines = [
            f"create table if not exists {self._local(table)} on cluster {self.cluster}",
            f"({found['columns']})",
            f"engine = Replicated{found['engine']}({arguments})",
            found["keys"].rstrip(),
        ]
        if ttl := self._ttl(table):
            lines.append(f"ttl {ttl}")
        if settings:
            lines.append(f"settings {', '.join(settings)}")
        statements = ["\n".join(lines)]
        if self.sharded:
            sharding_key = _SHARDING_KEYS.get(table, _BY_ONE_SHARD)
            statements.append(
                f"create table if not exists {table} on cluster {self.cluster} as {self._local(table)}\n"
                f"engine = Distributed({self.cluster}, currentDatabase(), {self._local(table)}, {sharding_key})"
            )
        return statements

    def _ttl(self, table: str) -> str:
        time = _TIME_COLUMNS.get(table)
        rules = []
        if time and self.cold_after_months:
            rules.append(f"toDateTime({time}) + interval {self.cold_after_months} month to volume '{self.cold_volume}'")
        if table == "event" and self.keep_events_months:
            rules.append(f"toDateTime({time}) + interval {self.keep_events_months} month delete")
        return ", ".join(rules)

    def _altered(self, found: re.Match[str]) -> list[str]:
        table, change = found["table"], found["change"]
        statements = [f"alter table {self._local(table)} on cluster {self.cluster} {change}"]
        if self.sharded and found["what"] == "column":  # indexes and projections are the local table's alone
            statements.append(f"alter table {table} on cluster {self.cluster} {change}")
        return statements


def session_settings(form: ProductionForm | None) -> Mapping[str, str | int]:
    """Settings of every statement of a connection; none on one server."""
    return form.session_settings if form is not None else {}


def production_form(settings: Settings) -> ProductionForm | None:
    """The cluster's form of the warehouse's tables; None for one server.

    Raises:
        ConfigurationError: settings that go together are incomplete.
    """
    if settings.clickhouse_cluster is None:
        return None
    return ProductionForm(
        settings.clickhouse_cluster,
        sharded=settings.clickhouse_sharded,
        storage_policy=settings.clickhouse_storage_policy,
        cold_after_months=settings.clickhouse_cold_after_months,
        keep_events_months=settings.clickhouse_keep_events_months,
    )
