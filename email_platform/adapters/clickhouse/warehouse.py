"""The warehouse of the platform over one connection: loads of staged objects, and the counts that prove them.

Invariant: each (campaign, lead) has one current row, the one with the highest version, whatever was loaded in which
order; every count here reads it so, with final. Loads: `email_platform.adapters.clickhouse.loading`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pyarrow as pa
from more_itertools import chunked
from urllib3.exceptions import HTTPError

from email_platform.adapters.clickhouse.address import ClickHouseAddress, reports_database_beside
from email_platform.adapters.clickhouse.client import LOAD_TIMEOUT_SECONDS, clickhouse_errors, connect
from email_platform.adapters.clickhouse.key_index import TABLES as KEY_TABLES
from email_platform.adapters.clickhouse.key_index import fill
from email_platform.adapters.clickhouse.loading import ObjectLoader
from email_platform.adapters.clickhouse.object_queries import ObjectQueries
from email_platform.adapters.clickhouse.production_form import ProductionForm, production_form, session_settings
from email_platform.adapters.clickhouse.staging_location import StagingLocation
from email_platform.adapters.clickhouse.targets import TARGETS
from email_platform.domain.manifest import EXCLUSION_REASONS
from email_platform.domain.ports import LoadOutcome, StagedObject
from email_platform.errors import ConfigurationError, PartUnavailableError
from email_platform.runs.legacy_table import Fingerprint
from email_platform.settings import Settings
from email_platform.staging.delivery_rows import DELIVERY_STATUSES
from email_platform.staging.dimensions import DimensionName

if TYPE_CHECKING:
    import pandas as pd

COUNTED_ROWS = 5_000_000
"""So many rows are read at most to count those of a view."""
_SUMMARY = (
    *("eligible", "excluded", "accepted", "rejected", "unknown", "abandoned", "not_attempted"),
    *("bounced_hard", "bounced_soft", "blocked", "complained", "not_loaded"),
)
_SNAPSHOTS = "dimension_snapshot"
_MESSAGES_PER_QUERY = 500  # bound parameters travel in the request's URL: 20 KB


class ClickHouseWarehouse:
    """`email_platform.domain.ports.Warehouse` over clickhouse-connect; may be used by several threads at once.

    Length: one Protocol, each of its methods one short query or one call of the loader; no caller needs only a part of
    it.

    Attributes:
        client: the clickhouse-connect client, for reading reports.
    """

    def __init__(
        self,
        client: Any,
        location: StagingLocation,
        *,
        address: str,
        password: str = "",
        form: ProductionForm | None = None,
    ) -> None:
        """Use a connected client; see `from_settings`.

        Args:
            client: of clickhouse-connect, without a session; `close` closes it.
            location: where ClickHouse reads the staged objects.
            address: names the server in errors; holds no password.
            password: of ClickHouse, to be removed from its messages.
            form: of the tables on a cluster; None for one server.
        """
        self._form = form
        self.client = client
        self._address = address
        self._secrets = [text for text in (password, location.secret_access_key) if text]
        queries = ObjectQueries(client, location, address=address, secrets=self._secrets)
        self._loader = ObjectLoader(queries, location)

    @classmethod
    def from_settings(cls, settings: Settings, timeout_seconds: float = LOAD_TIMEOUT_SECONDS) -> ClickHouseWarehouse:
        """Connect to ``clickhouse_url`` and read objects from the bucket of the settings.

        Args:
            settings: where the parts are.
            timeout_seconds: how long a statement may stay without an answer.

        Raises:
            ConfigurationError: wrong URL, credentials or database.
            PartUnavailableError: nothing answers.
        """
        address = ClickHouseAddress.parse(settings.clickhouse_url.get_secret_value())
        location = StagingLocation.from_settings(settings)
        form = production_form(settings)
        return cls(
            connect(address, timeout_seconds=timeout_seconds, settings=session_settings(form)),
            location,
            address=str(address),
            password=address.password,
            form=form,
        )

    def __repr__(self) -> str:
        return f"ClickHouseWarehouse({self._address})"

    def close(self) -> None:
        """Close the connections."""
        self.client.close()

    def load(self, staged: StagedObject) -> int:
        """Insert the object once, however often this is called; returns the rows found loaded for it.

        Raises:
            ObjectQuarantinedError: the object is not the registered one, cannot be read, or holds rows that do
                not belong there; nothing of it was inserted.
            AccountingError: the table does not hold every row of the object afterwards.
            ConfigurationError, PartUnavailableError: ClickHouse or, seen from it, S3.
        """
        return self._loader.load(staged)

    def load_many(self, objects: Sequence[StagedObject]) -> Iterator[Sequence[LoadOutcome]]:
        """Load many objects together; the outcomes of a group as soon as they are known.

        Raises:
            ConfigurationError, PartUnavailableError: as `load`; the rest was not loaded, or is not known to be.
        """
        return self._loader.load_many(objects)

    def delivery_counts(self, campaign_id: int) -> Mapping[str, int]:
        """Deliveries by status for one campaign, each (campaign, lead) counted once; plus ``duplicates``."""
        rows = self.query(
            "select status, count() from delivery final where campaign_id = {campaign_id:Int64} group by status",
            {"campaign_id": campaign_id},
        )
        counts = dict.fromkeys(DELIVERY_STATUSES, 0) | {str(status): int(count) for status, count in rows}
        return {**counts, "duplicates": self.duplicate_deliveries(campaign_id)}

    def exclusion_counts(self, campaign_id: int) -> Mapping[str, int]:
        """Excluded leads by reason for one campaign, each lead counted once; has every reason."""
        rows = self.query(
            "select reason, count() from exclusion final where campaign_id = {campaign_id:Int64} group by reason",
            {"campaign_id": campaign_id},
        )
        return dict.fromkeys(EXCLUSION_REASONS, 0) | {str(reason): int(count) for reason, count in rows}

    def feedback_counts(self, campaign_ids: Sequence[int]) -> Mapping[int, tuple[int, ...]]:
        """Distinct messages that bounced hard, that were complained about, and that were blocked, by campaign.

        Reads the campaigns' own ranges of the key; campaigns without any are left out.
        """
        rows = self.query(
            """
            select
                campaign_id,
                uniqExactIf(message, type = 'bounced') as bounced,
                uniqExactIf(message, type = 'complained') as complained,
                uniqExactIf(message, type = 'blocked') as blocked
            from
            (
                select campaign_id, type, if(message_id = '', event_key, message_id) as message
                from event
                where campaign_id in {campaign_ids:Array(Int64)}
                    and ((type = 'bounced' and subtype = 'hard') or type in ('complained', 'blocked'))
            )
            group by campaign_id
            """,
            {"campaign_ids": list(campaign_ids)},
        )
        return {int(campaign_id): tuple(int(count) for count in counts) for campaign_id, *counts in rows}

    def reported_counts(self, campaign_ids: Sequence[int]) -> Mapping[int, Mapping[str, int | str]]:
        """These campaigns' names and counts in the report `campaign_summary`; campaigns that it lacks are left out."""
        return self._summary_rows(campaign_ids)

    def reported_to_the_end(self, campaign_ids: Sequence[int], limit: int) -> Mapping[int, Mapping[str, int | str]]:
        """As `reported_counts`, of those of the campaigns that have ended and lack no row; the newest first."""
        ended = "and status in ('sent', 'cancelled', 'failed') and not_loaded = 0"
        return self._summary_rows(campaign_ids, f"{ended} order by campaign_id desc limit {limit:d}")

    def _summary_rows(self, campaign_ids: Sequence[int], only: str = "") -> Mapping[int, Mapping[str, int | str]]:
        summary = f"{reports_database_beside(self.database)}.campaign_summary"
        rows = self.query(
            f"select campaign_id, name, {', '.join(_SUMMARY)} from {summary} "  # noqa: S608 - constants and a number
            f"where campaign_id in {{campaign_ids:Array(Int64)}} {only}",
            {"campaign_ids": list(campaign_ids)},
        )
        return {int(row[0]): dict(zip(("campaign", *_SUMMARY), row[1:], strict=True)) for row in rows}

    def report_rows(self, name: str) -> int | None:
        """Rows of a report; None where it is not there, or is a view that is too large to be counted.

        ClickHouse knows a table's. A view's are counted, where that reads at most `COUNTED_ROWS` rows.
        """
        database = reports_database_beside(self.database)
        found = self.query(
            "select total_rows from system.tables where database = {database:String} and name = {name:String}",
            {"database": database, "name": name},
        )
        if not found or found[0][0] is not None:
            return int(found[0][0]) if found else None
        limits = f"max_rows_to_read = {COUNTED_ROWS}, read_overflow_mode = 'throw', max_execution_time = 5"
        try:
            counted = self.query(f"select count() from {database}.`{name}` settings {limits}", {})  # noqa: S608 - a model
        except (ConfigurationError, PartUnavailableError):  # a count is a courtesy; a refresh does not fail for it
            return None
        return int(counted[0][0])

    def acceptance_proofs(self, campaign_id: int, message_ids: Collection[UUID]) -> Mapping[UUID, str]:
        """Which of these messages have an event, with the provider's message id where an event gives it, else "".

        Any event will do: an email that bounced, was opened or led to an unsubscribe was accepted before. Not every
        provider carries our campaign id back, so events without one are searched too.
        """
        found: dict[UUID, str] = {}
        waiting = sorted(str(message_id) for message_id in message_ids)
        for group in chunked(waiting, _MESSAGES_PER_QUERY):
            rows = self.query(
                """
                select message_id, max(if(provider = 'platform', '', provider_message_id))
                from event
                where campaign_id in (0, {campaign_id:Int64}) and message_id in {message_ids:Array(String)}
                group by message_id
                """,
                {"campaign_id": campaign_id, "message_ids": group},
            )
            found |= {UUID(message_id): str(provider_message_id) for message_id, provider_message_id in rows}
        return found

    def duplicate_deliveries(self, campaign_id: int) -> int:
        """How many rows too many a campaign has: a lead twice, or one message id under two leads. 0 is right."""
        rows = self.query(
            """
            select count() - least(uniqExact(lead_id), uniqExact(message_id))
            from delivery final
            where campaign_id = {campaign_id:Int64}
            """,
            {"campaign_id": campaign_id},
        )
        return int(rows[0][0])

    def complete_snapshot(self, name: DimensionName, snapshot_at: datetime, rows: int) -> None:
        """Record that this snapshot of a dimension is loaded completely; recording it again changes nothing."""
        with clickhouse_errors(self._address, self._secrets):
            self.client.command(
                """
                insert into dimension_snapshot (name, snapshot_at, row_count, loaded_at)
                select {name:String}, fromUnixTimestamp64Micro({snapshot_us:Int64}, 'UTC'), {rows:UInt64},
                    now64(3, 'UTC')
                """,
                # Microseconds as a number: the driver would cut a bound datetime to whole seconds.
                parameters={"name": name, "snapshot_us": unix_microseconds(snapshot_at), "rows": rows},
                settings={"async_insert": 0},
            )

    def completed_snapshots(self, name: DimensionName) -> frozenset[datetime]:
        """When the completely loaded snapshots of a dimension were taken."""
        rows = self.query(
            "select distinct snapshot_at from dimension_snapshot where name = {name:String}", {"name": name}
        )
        return frozenset(snapshot_at for (snapshot_at,) in rows)

    def holds(self, staged: StagedObject) -> bool:
        """Whether the table holds every row of exactly this content, none of them replaced by a newer one."""
        return self._loader.holds(staged)

    def content_hashes(self, keys: Sequence[str]) -> Mapping[str, str]:
        """SHA-256 of objects of the staging bucket as ClickHouse reads them, by key; those that are gone are left out.

        Raises:
            ConfigurationError, PartUnavailableError: it cannot reach the bucket, or is refused.
        """
        return self._loader.content_hashes(keys)

    def fingerprints(self) -> Mapping[str, Fingerprint]:
        """Count and checksum of each raw table, by table: over the newest row of each key.

        Equal whatever was loaded in which order, how often, when and from which object. Reads everything once.
        """
        found = {}
        for target in TARGETS.values():
            row_hash = f"cityHash64({', '.join(_hashed(column) for column in target.schema)})"
            newest = f"final where {target.live_rows}"
            if target.append_only:  # an event twice is one; in the order of the key, so in constant memory
                newest = "group by campaign_id, message_id, event_key, hash"
            found[target.table] = self._fingerprint(row_hash, f"{target.table} {newest}")
        found[_SNAPSHOTS] = self._fingerprint("cityHash64(name, snapshot_at, row_count)", f"{_SNAPSHOTS} final")
        return found

    def _fingerprint(self, row_hash: str, rows: str) -> Fingerprint:
        ((count, checksum),) = self.query(
            f"select count(), sum(hash) from (select {row_hash} as hash from {rows}) "  # noqa: S608 - constants
            "settings optimize_aggregation_in_order = 1",
            {},
        )
        return Fingerprint(int(count), int(checksum))

    def empty_tables(self) -> None:
        """Remove every row of the raw tables and of their keys; the reports' tables are left alone."""
        with clickhouse_errors(self._address, self._secrets):
            for table in [*KEY_TABLES, _SNAPSHOTS, *dict.fromkeys(target.table for target in TARGETS.values())]:
                self.client.command(self._form.emptied(table) if self._form else f"truncate table {table}")

    def mutate(self, table: str, change: str, settings: Mapping[str, Any]) -> None:
        """Change rows of a table in place (``alter table ... update``): a raw one on every server of a cluster.

        Args:
            table: with its database; not a Distributed one. The reports' tables are this server's alone.
            change: the rest of the statement.
            settings: of the statement.
        """
        is_raw = table.startswith(f"{self.database}.")
        everywhere = f" on cluster {self._form.cluster}" if self._form and is_raw else ""
        with clickhouse_errors(self._address, self._secrets):
            self.client.command(f"alter table {table}{everywhere} {change}", settings=dict(settings))

    def command(
        self, statement: str, settings: Mapping[str, Any], parameters: Mapping[str, Any] = MappingProxyType({})
    ) -> None:
        """Run a statement without an answer; errors as of `query`."""
        with clickhouse_errors(self._address, self._secrets):
            self.client.command(statement, parameters=dict(parameters), settings=dict(settings))

    def fill_keys(self) -> int:
        """Bring the keys of look-ups up to what is loaded; see `key_index.fill`. Returns the rows that were new."""
        return fill(self)

    @property
    def on_cluster(self) -> bool:
        """Whether several servers hold the tables."""
        return self._form is not None

    def local_table(self, table: str) -> str:
        """The name of the table that holds a raw table's rows on each server."""
        return f"{table}_local" if self._form and self._form.sharded else table

    @property
    def database(self) -> str:
        """The name of the raw tables' database."""
        return str(self.client.database)

    def object_size_bytes(self, key: str) -> int:
        """Size of an object of the staging bucket as ClickHouse itself reads it.

        Raises:
            ObjectQuarantinedError: ClickHouse finds no such object.
            ConfigurationError, PartUnavailableError: it cannot reach the bucket, or is refused.
        """
        return self._loader.size_bytes(key)

    def query(self, statement: str, parameters: Mapping[str, Any]) -> list[Any]:
        """The rows of a statement with bound parameters; errors are the platform's own and show no secret."""
        with clickhouse_errors(self._address, self._secrets):
            return list(self.client.query(statement, parameters=dict(parameters)).result_rows)
        raise AssertionError("unreachable")

    def query_frame(self, statement: str, parameters: Mapping[str, Any]) -> pd.DataFrame:
        """The rows of a statement as a pandas frame, with the statement's column names; errors as of `query`."""
        with self.arrow_batches(statement, parameters) as (schema, batches):
            return pa.Table.from_batches(batches, schema).to_pandas()
        raise AssertionError("unreachable")

    @contextmanager
    def arrow_batches(
        self, statement: str, parameters: Mapping[str, Any]
    ) -> Iterator[tuple[pa.Schema, Iterator[pa.RecordBatch]]]:
        """The columns of a statement, and its rows as they come, batch by batch.

        Raises:
            ConfigurationError, PartUnavailableError: as `query`, also while the rows are read.
        """
        with clickhouse_errors(self._address, self._secrets):
            stream = self.client.query_arrow_stream(statement, parameters=dict(parameters), use_strings=True)
        with stream:
            yield stream.gen.schema, self._read(stream.gen)

    def _read(self, reader: Any) -> Iterator[pa.RecordBatch]:
        try:
            yield from reader
        except (pa.ArrowException, OSError, HTTPError) as error:  # the connection's or the format's, never the caller's
            raise PartUnavailableError(f"ClickHouse at {self._address} broke off while rows were read") from error


def _hashed(column: pa.Field) -> str:
    """SQL of a column's part of a row's hash; a null would make the whole hash null."""
    return f"ifNull(cityHash64({column.name}), 0)" if column.nullable else str(column.name)


def unix_microseconds(moment: datetime) -> int:
    """Microseconds since 1970, exact (a float of seconds is not)."""
    return int(moment.timestamp()) * 1_000_000 + moment.microsecond
