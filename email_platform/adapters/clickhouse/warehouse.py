"""Bulk loads into ClickHouse and the counts that prove them.

Invariant: however often, in whatever order and by however many processes staged objects are loaded, each
(campaign, lead) has one current row, the one with the highest version; and `load` returns only after it has
found every row of the object in the table, at the object's version or a later one.

One object is one INSERT of one block, so it is inserted whole or not at all, and one deduplication token covers
it. The table's key and version are the second guard: they hold where a token is forgotten. Measured through the
embedded ClickHouse on 2 cores: 75 ms for an object of 10,000 rows, 130 ms for 50,000 (390,000 rows a second), a
replay the same; of the 130 ms the hash takes 13 and the look-up of every row 40.

The secret key is a literal of s3(): ClickHouse hides it in its query log, its errors and its process list, while a
bound parameter would stand in the request's URL. Where a named collection is given, no statement has a secret.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import Any
from uuid import UUID

import pyarrow as pa
from clickhouse_connect.driver.exceptions import ClickHouseError

from email_platform.adapters.clickhouse.address import ClickHouseAddress
from email_platform.adapters.clickhouse.client import clickhouse_errors, connect, error_code, scrubbed, translated
from email_platform.deliveries import DELIVERY_SCHEMA, DELIVERY_STATUSES
from email_platform.dimensions import APP_USER_SCHEMA, CAMPAIGN_SCHEMA, DimensionName
from email_platform.errors import (
    AccountingError,
    ConfigurationError,
    EmailPlatformError,
    ObjectQuarantinedError,
    PartUnavailableError,
)
from email_platform.events.event import EVENT_SCHEMA, EVENT_TYPES
from email_platform.legacy_import import LEGACY_EMAIL_SCHEMA
from email_platform.manifest import EXCLUDED_SCHEMA, EXCLUSION_REASONS
from email_platform.ports import StagedKind, StagedObject
from email_platform.settings import Settings

_MESSAGES_PER_QUERY = 500  # bound parameters travel in the request's URL: 20 KB
_ONE_BLOCK_ROWS = 100_000_000  # more than any object has: a block is cut at the end of the object only
_READ_SETTINGS: Mapping[str, Any] = {
    "s3_retry_attempts": 6,  # the default of 500 kept a query alive for more than 10 minutes after S3 had gone
    "use_hive_partitioning": 0,  # keys hold campaign=<id>; the rows' own column is the truth
    "input_format_parquet_allow_missing_columns": 0,  # else a missing column is filled with zeros
    "input_format_null_as_default": 0,  # else a null in a required column becomes a zero
}
_INSERT_SETTINGS: Mapping[str, Any] = {
    **_READ_SETTINGS,
    "async_insert": 0,
    "insert_deduplicate": 1,
    "max_threads": 1,
    "max_insert_threads": 1,
    "max_block_size": _ONE_BLOCK_ROWS,
    "max_insert_block_size": _ONE_BLOCK_ROWS,
    "min_insert_block_size_rows": _ONE_BLOCK_ROWS,
    "min_insert_block_size_bytes": 0,
}

_CLICKHOUSE_TYPES: Mapping[pa.DataType, str] = {
    pa.int64(): "Int64",
    pa.int32(): "Int32",
    pa.uint64(): "UInt64",
    pa.uint16(): "UInt16",
    pa.uint8(): "UInt8",
    pa.string(): "String",
}
_S3_ERROR = 499
# ClickHouse's complaints about an object's content; every other one is about a part or a setting.
_BAD_CONTENT = {
    *(6, 8, 10, 23, 25, 27, 32, 33, 36, 38, 40, 41, 43, 44, 48, 50, 53, 69, 70, 72, 117, 130, 131),
    *(246, 271, 321, 349, 354, 376, 395, 407, 636),
}
_CAMPAIGN_IN_KEY = re.compile(r"(?:^|/)campaign=(\d+)/")
_PLAIN_KEY = re.compile(r"[A-Za-z0-9/=_.:-]+")


@dataclass(frozen=True, slots=True)
class StagingLocation:
    """The staging bucket as ClickHouse sees it.

    Attributes:
        bucket_url: of the bucket's root, without a slash at the end.
        access_key_id: None where the server has credentials of its own (an IAM role).
        named_collection: made by an administrator with url (the root and a slash) and keys; replaces the rest.
    """

    bucket_url: str
    access_key_id: str | None = field(default=None, repr=False)
    secret_access_key: str | None = field(default=None, repr=False)
    named_collection: str | None = None

    def __post_init__(self) -> None:
        if self.named_collection is not None and not re.fullmatch(r"[A-Za-z_]\w*", self.named_collection, re.ASCII):
            raise ConfigurationError("the named collection's name must be letters, digits and _")

    @classmethod
    def from_settings(cls, settings: Settings, named_collection: str | None = None) -> StagingLocation:
        """Path-style on an endpoint of its own (as ClickHouse sees it), virtual-hosted on AWS."""
        endpoint_url = settings.s3_endpoint_url_for_clickhouse or settings.s3_endpoint_url
        bucket = settings.s3_bucket
        if endpoint_url is None:
            url = f"https://{bucket}.s3.{settings.s3_region}.amazonaws.com"
        else:
            url = f"{endpoint_url.rstrip('/')}/{bucket}"
        secret = settings.s3_secret_access_key
        return cls(url, settings.s3_access_key_id, secret.get_secret_value() if secret else None, named_collection)

    def table_function(self, key: str, format_name: str, structure: str) -> str:
        """SQL of ``s3(...)`` for one object."""
        if self.named_collection:
            return (
                f"s3({self.named_collection}, filename = {_literal(key)}, "
                f"format = {_literal(format_name)}, structure = {_literal(structure)})"
            )
        arguments = [f"{self.bucket_url}/{key}"]
        if self.access_key_id and self.secret_access_key:
            arguments += [self.access_key_id, self.secret_access_key]
        return f"s3({', '.join(_literal(text) for text in [*arguments, format_name, structure])})"


@dataclass(frozen=True, slots=True)
class _Target:
    """How objects of one kind become rows of one table.

    Attributes:
        schema: of the object; its columns are those of the table, beside source_object and loaded_at.
        key: the column that is unique within one object.
        version: the column that decides between two rows, or None where rows never change.
        of_campaign: the object's key names the campaign of all its rows.
        allowed_words: a column and the only values that it may have.
        append_only: the table keeps every row of every object, so an object's rows are found by its name.
        time: of an append-only table partitioned by time, the column that is.
    """

    table: str
    schema: pa.Schema
    key: str
    version: str | None
    of_campaign: bool = False
    allowed_words: tuple[str, tuple[str, ...]] | None = None
    append_only: bool = False
    time: str | None = None

    @property
    def columns(self) -> str:
        return ", ".join(self.schema.names)

    def structure(self, names: tuple[str | None, ...] | None = None) -> str:
        """The object's columns as s3() takes them: all, or those of the names."""
        return ", ".join(
            f"{column.name} {clickhouse_type(column)}"
            for column in self.schema
            if names is None or column.name in names
        )


_TARGETS: Mapping[StagedKind, _Target] = {
    "delivery": _Target(
        "delivery", DELIVERY_SCHEMA, "lead_id", "version", of_campaign=True, allowed_words=("status", DELIVERY_STATUSES)
    ),
    "exclusion": _Target(
        "exclusion", EXCLUDED_SCHEMA, "lead_id", None, of_campaign=True, allowed_words=("reason", EXCLUSION_REASONS)
    ),
    "dimension_campaign": _Target("campaign", CAMPAIGN_SCHEMA, "id", "snapshot_at"),
    "dimension_app_user": _Target("app_user", APP_USER_SCHEMA, "id", "snapshot_at"),
    "legacy_email": _Target("legacy_email", LEGACY_EMAIL_SCHEMA, "id", "version"),
    "event": _Target(
        "event",
        EVENT_SCHEMA,
        "event_key",
        None,
        allowed_words=("type", EVENT_TYPES),
        append_only=True,
        time="occurred_at",
    ),
}


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
        self._location = location
        self._address = address
        self._secrets = [text for text in (password, location.secret_access_key) if text]

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
        target = _TARGETS.get(staged.kind)
        if target is None:
            raise ObjectQuarantinedError(f"{staged.key}: no table takes objects of kind {staged.kind!r}")
        if not _PLAIN_KEY.fullmatch(staged.key):
            raise ObjectQuarantinedError(f"{staged.key!r}: not a key of the staging area")
        campaign_id = _campaign_of(staged.key) if target.of_campaign else None
        self._require_registered_content(staged)
        insert = self._insert_statement(staged, target, campaign_id)
        self._insert(staged, insert, {"insert_deduplication_token": staged.deduplication_token})
        found = self._found_rows(staged, target, campaign_id)
        if found < staged.rows:
            # The window remembers the token, but rows are gone (deleted, or an older backup): the table's key
            # makes it safe to insert them without a token.
            self._insert(staged, insert, {"insert_deduplicate": 0})
            found = self._found_rows(staged, target, campaign_id)
        if found != staged.rows:
            raise AccountingError(
                f"{staged.key}: {staged.rows:,} rows registered, but {found:,} different {target.key}s of it "
                f"in table {target.table}"
            )
        return found

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
        source = self._location.table_function(key, "RawBLOB", "content String")
        rows = self._read(StagedObject(key, "delivery", 0, ""), f"select length(content) from {source}")  # noqa: S608
        return int(rows[0][0])

    def _require_registered_content(self, staged: StagedObject) -> None:
        """Compare the object's hash, computed inside ClickHouse, with the registered one.

        Needed because a damaged data page passes: with 200 bytes in the middle set to zero, ClickHouse read
        10,000 rows without a complaint. It also finds an object that was rewritten after it was registered.
        """
        source = self._location.table_function(staged.key, "RawBLOB", "content String")
        rows = self._read(staged, f"select lower(hex(SHA256(content))), length(content) from {source}")  # noqa: S608
        digest, size_bytes = rows[0] if rows else ("", 0)
        if digest != staged.content_sha256:
            raise ObjectQuarantinedError(
                f"{staged.key}: its content ({size_bytes:,} bytes, sha256 {str(digest)[:12]}…) is not the registered "
                f"one ({staged.content_sha256[:12]}…): cut short, damaged, or rewritten without registration"
            )

    def _insert_statement(self, staged: StagedObject, target: _Target, campaign_id: int | None) -> str:
        conditions = ["1"]
        if campaign_id is not None:
            conditions.append(
                f"throwIf(campaign_id != {campaign_id}, 'rows of another campaign than the key says') = 0"
            )
        if target.allowed_words:
            column, words = target.allowed_words
            allowed = ", ".join(_literal(word) for word in words)
            conditions.append(f"throwIf({column} not in ({allowed}), 'an unknown {column}') = 0")
        source = self._location.table_function(staged.key, "Parquet", target.structure())
        return (
            f"insert into {target.table} ({target.columns}, source_object, loaded_at) "  # noqa: S608 - escaped
            f"select {target.columns}, {_literal(staged.key)}, now64(3, 'UTC') "
            f"from {source} where {' and '.join(conditions)}"
        )

    def _found_rows(self, staged: StagedObject, target: _Target, campaign_id: int | None) -> int:
        """How many rows of the object the table holds, at the object's version or a later one.

        The object's own rows are looked up, not rows that name it as their source: after a rewrite, and after
        loads in another order, those are different sets. The range keeps the read to the object's part of the
        table's key.
        """
        if target.append_only:
            return self._found_appended_rows(staged, target)
        key, version = target.key, target.version
        source = self._location.table_function(staged.key, "Parquet", target.structure((key, version)))
        rows = self._read(
            staged,
            f"""
            with
                (select min({key}) from {source}) as first_key,
                (select max({key}) from {source}) as last_key
            select uniqExact(staged.{key})
            from {source} as staged
            inner join
            (
                select {key}{f", {version}" if version else ""}
                from {target.table} final
                where {"1" if campaign_id is None else f"campaign_id = {campaign_id}"}
                    and {key} between first_key and last_key
            ) as held
            on held.{key} = staged.{key}
            where {f"held.{version} >= staged.{version}" if version else "1"}
            """,  # noqa: S608 - names are constants, literals escaped
        )
        return int(rows[0][0])

    def _found_appended_rows(self, staged: StagedObject, target: _Target) -> int:
        """How many rows the table holds under the object's name; its times keep the read to a few partitions."""
        source = self._location.table_function(staged.key, "Parquet", target.structure((target.time,)))
        rows = self._read(
            staged,
            f"""
            with
                (select min({target.time}) from {source}) as first_time,
                (select max({target.time}) from {source}) as last_time
            select uniqExact({target.key})
            from {target.table}
            where source_object = {_literal(staged.key)} and {target.time} between first_time and last_time
            """,  # noqa: S608 - names are constants, literals escaped
        )
        return int(rows[0][0])

    def _insert(self, staged: StagedObject, statement: str, settings: Mapping[str, Any]) -> None:
        problem: EmailPlatformError
        try:
            self.client.command(statement, settings={**_INSERT_SETTINGS, **settings})
        except ClickHouseError as error:
            problem = self._problem(staged, error)
        else:
            return
        raise problem  # outside the handler: the driver's error may quote the statement

    def _read(self, staged: StagedObject, statement: str) -> list[Any]:
        problem: EmailPlatformError
        try:
            return list(self.client.query(statement, settings=dict(_READ_SETTINGS)).result_rows)
        except ClickHouseError as error:
            problem = self._problem(staged, error)
        raise problem  # outside the handler: the driver's error may quote the statement

    def _problem(self, staged: StagedObject, error: ClickHouseError) -> EmailPlatformError:
        """The platform's error for a statement that reads an object."""
        code = error_code(error)
        said = scrubbed(str(error), self._secrets)
        if code == _S3_ERROR:
            if "NoSuchBucket" in said or "bucket does not exist" in said:
                return ConfigurationError(f"ClickHouse finds no bucket at {self._location.bucket_url}: {said}")
            if "code: 404" in said or "NoSuchKey" in said:
                return ObjectQuarantinedError(f"{staged.key}: the registered object is not in the bucket")
            if "code: 403" in said or "AccessDenied" in said or "InvalidAccessKeyId" in said or "Signature" in said:
                return ConfigurationError(
                    "S3 refuses ClickHouse with EMAIL_PLATFORM_S3_ACCESS_KEY_ID and "
                    f"EMAIL_PLATFORM_S3_SECRET_ACCESS_KEY (or its named collection): {said}"
                )
            return PartUnavailableError(f"ClickHouse cannot read {self._location.bucket_url}: {said}")
        if code in _BAD_CONTENT:
            return ObjectQuarantinedError(f"{staged.key}: {said}")
        return translated(error, self._address, self._secrets)

    def _query(self, statement: str, parameters: Mapping[str, Any]) -> list[Any]:
        with clickhouse_errors(self._address, self._secrets):
            return list(self.client.query(statement, parameters=dict(parameters)).result_rows)
        raise AssertionError("unreachable")


def clickhouse_type(column: pa.Field) -> str:
    """The ClickHouse type of one Arrow column of our schemas.

    Raises:
        KeyError: no column of the domain has this type.
    """
    if pa.types.is_timestamp(column.type):
        name = f"DateTime64({3 if column.type.unit == 'ms' else 6}, 'UTC')"
    else:
        name = _CLICKHOUSE_TYPES[column.type]
    return f"Nullable({name})" if column.nullable else name


def unix_microseconds(moment: datetime) -> int:
    """Microseconds since 1970, exact (a float of seconds is not)."""
    return int(moment.timestamp()) * 1_000_000 + moment.microsecond


def _literal(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _campaign_of(key: str) -> int:
    match = _CAMPAIGN_IN_KEY.search(key)
    if match is None:
        raise ObjectQuarantinedError(f"{key}: the key names no campaign")
    return int(match[1])
