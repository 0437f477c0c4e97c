"""The warehouse of the platform over one connection: loads of staged objects, and the counts that prove them.

Invariant: each (campaign, lead) has one current row, the one with the highest version, whatever was loaded in which
order; every count here reads it so, with final. Loads: `email_platform.adapters.clickhouse.loading`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any
from uuid import UUID

from email_platform.adapters.clickhouse.address import ClickHouseAddress
from email_platform.adapters.clickhouse.client import clickhouse_errors, connect
from email_platform.adapters.clickhouse.loading import ObjectLoader
from email_platform.adapters.clickhouse.staging_location import StagingLocation
from email_platform.adapters.clickhouse.targets import TARGETS
from email_platform.deliveries import DELIVERY_STATUSES
from email_platform.dimensions import DimensionName
from email_platform.manifest import EXCLUSION_REASONS
from email_platform.ports import LoadOutcome, StagedObject
from email_platform.settings import Settings

_MESSAGES_PER_QUERY = 500  # bound parameters travel in the request's URL: 20 KB


_OF_ONE_COPY = {"received_at", "details", "recipient", "account"}  # an event's copies may differ in these


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """How many rows a table has, and the sum of their hashes."""

    rows: int
    checksum: int


class ClickHouseWarehouse:
    """`email_platform.ports.Warehouse` over clickhouse-connect; may be used by several threads at once.

    Attributes:
        client: the clickhouse-connect client, for reading reports.
    """

    def __init__(self, client: Any, location: StagingLocation, *, address: str, password: str = "") -> None:
        """Use a connected client; see `from_settings`.

        Args:
            client: of clickhouse-connect, without a session; `close` closes it.
            location: where ClickHouse reads the staged objects.
            address: names the server in errors; holds no password.
            password: of ClickHouse, to be removed from whatever it says.
        """
        self.client = client
        self._address = address
        self._secrets = [text for text in (password, location.secret_access_key) if text]
        self._loader = ObjectLoader(client, location, address=address, secrets=self._secrets)

    @classmethod
    def from_settings(cls, settings: Settings) -> ClickHouseWarehouse:
        """Connect to ``clickhouse_url`` and read objects from the bucket of the settings.

        Raises:
            ConfigurationError: wrong URL, credentials or database.
            PartUnavailableError: nothing answers.
        """
        address = ClickHouseAddress.parse(settings.clickhouse_url.get_secret_value())
        location = StagingLocation.from_settings(settings)
        return cls(connect(address), location, address=str(address), password=address.password)

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
        rows = self._query(
            "select status, count() from delivery final where campaign_id = {campaign_id:Int64} group by status",
            {"campaign_id": campaign_id},
        )
        counts = dict.fromkeys(DELIVERY_STATUSES, 0) | {str(status): int(count) for status, count in rows}
        return {**counts, "duplicates": self.duplicate_deliveries(campaign_id)}

    def exclusion_counts(self, campaign_id: int) -> Mapping[str, int]:
        """Excluded leads by reason for one campaign, each lead counted once; has every reason."""
        rows = self._query(
            "select reason, count() from exclusion final where campaign_id = {campaign_id:Int64} group by reason",
            {"campaign_id": campaign_id},
        )
        return dict.fromkeys(EXCLUSION_REASONS, 0) | {str(reason): int(count) for reason, count in rows}

    def feedback_counts(self, campaign_ids: Sequence[int]) -> Mapping[int, tuple[int, int]]:
        """Distinct messages that bounced hard, and that were complained about, by campaign.

        Reads the campaigns' own ranges of the key; campaigns without any are left out.
        """
        rows = self._query(
            """
            select
                campaign_id,
                uniqExactIf(message, type = 'bounced') as bounced,
                uniqExactIf(message, type = 'complained') as complained
            from
            (
                select campaign_id, type, if(message_id = '', event_key, message_id) as message
                from event
                where campaign_id in {campaign_ids:Array(Int64)}
                    and ((type = 'bounced' and subtype = 'hard') or type = 'complained')
            )
            group by campaign_id
            """,
            {"campaign_ids": list(campaign_ids)},
        )
        return {int(campaign_id): (int(bounced), int(complained)) for campaign_id, bounced, complained in rows}

    def acceptance_proofs(self, campaign_id: int, message_ids: Collection[UUID]) -> Mapping[UUID, str]:
        """Which of these messages have an event, with the provider's message id where an event gives it, else "".

        Any event will do: who bounces, opens or unsubscribes was accepted before. Not every provider carries our
        campaign id back, so events without one are looked through too.
        """
        found: dict[UUID, str] = {}
        waiting = iter(sorted(str(message_id) for message_id in message_ids))
        while group := list(islice(waiting, _MESSAGES_PER_QUERY)):
            rows = self._query(
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

    def fingerprints(self) -> Mapping[str, Fingerprint]:
        """Rows and an order-independent checksum of every raw table's content, by table.

        Where a row comes from and when it was loaded is left out, so two warehouses that were filled from the same
        objects in any order have the same fingerprints. Of an event that came twice, what both copies share counts.
        """
        found: dict[str, Fingerprint] = {}
        for target in TARGETS.values():
            if target.append_only:
                names = ", ".join(name for name in target.schema.names if name not in _OF_ONE_COPY)
                rows = f"(select {names} from {target.table} order by normaliser_version desc limit 1 by {target.key})"  # noqa: S608
            else:
                names = target.columns
                rows = f"{target.table} final"
            # As text: cityHash64 of a null is null, and a null must count.
            statement = f"select count(), sum(cityHash64(toString(tuple({names})))) from {rows}"  # noqa: S608
            count, checksum = self._query(statement, {})[0]
            found[target.table] = Fingerprint(int(count), int(checksum or 0))
        return found

    def duplicate_deliveries(self, campaign_id: int) -> int:
        """How many rows too many a campaign has: a lead twice, or one message id under two leads. 0 is right."""
        rows = self._query(
            """
            select count() - least(uniqExact(lead_id), uniqExact(message_id))
            from delivery final
            where campaign_id = {campaign_id:Int64}
            """,
            {"campaign_id": campaign_id},
        )
        return int(rows[0][0])

    def complete_snapshot(self, name: DimensionName, snapshot_at: datetime, rows: int) -> None:
        """Say that this snapshot of a dimension is loaded whole; saying it again changes nothing."""
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

    def object_size_bytes(self, key: str) -> int:
        """Size of an object of the staging bucket as ClickHouse itself reads it.

        Raises:
            ObjectQuarantinedError: ClickHouse finds no such object.
            ConfigurationError, PartUnavailableError: it cannot reach the bucket, or is refused.
        """
        return self._loader.size_bytes(key)

    def _query(self, statement: str, parameters: Mapping[str, Any]) -> list[Any]:
        with clickhouse_errors(self._address, self._secrets):
            return list(self.client.query(statement, parameters=dict(parameters)).result_rows)
        raise AssertionError("unreachable")


def unix_microseconds(moment: datetime) -> int:
    """Microseconds since 1970, exact (a float of seconds is not)."""
    return int(moment.timestamp()) * 1_000_000 + moment.microsecond
