"""The loader's queries to ClickHouse: about objects in the bucket, and about their rows in the tables.

Invariant: an error of ClickHouse's that is an object's fault becomes `ObjectQuarantinedError`, and never an error that
is the fault of the bucket, the credentials or the server; no error quotes a statement, which may hold credentials.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from clickhouse_connect.driver.exceptions import ClickHouseError

from email_platform.adapters.clickhouse.client import error_code, scrubbed, translated
from email_platform.adapters.clickhouse.object_groups import CheckedObject, named
from email_platform.adapters.clickhouse.staging_location import StagingLocation, sql_literal
from email_platform.errors import (
    ConfigurationError,
    EmailPlatformError,
    ObjectQuarantinedError,
    PartUnavailableError,
)

READ_SETTINGS: Mapping[str, Any] = {
    "s3_retry_attempts": 6,  # the default of 500 kept a query alive for more than 10 minutes after S3 had gone
    "use_hive_partitioning": 0,  # keys hold campaign=<id>; the rows' own column is the truth
    "input_format_parquet_allow_missing_columns": 0,  # else a missing column is filled with zeros
    "input_format_null_as_default": 0,  # else a null in a required column becomes a zero
}
_S3_ERROR = 499
# ClickHouse's complaints about an object's content; every other one is about a part or a setting.
_BAD_CONTENT = {
    *(6, 8, 10, 23, 25, 27, 32, 33, 36, 38, 40, 41, 43, 44, 48, 50, 53, 69, 70, 72, 117, 130, 131),
    *(246, 271, 321, 349, 354, 376, 395, 407, 636),
}
# _path is bucket/key. With one argument beside constants it is computed once per object, not once per row, and so is a
# lookup by it: that is 8 % of a load's CPU.
KEY_OF_PATH = "replaceRegexpOne(_path, '^[^/]*/', '')"


class ObjectQueries:
    """Questions about staged objects through one client; may be used by several threads at once."""

    def __init__(self, client: Any, location: StagingLocation, *, address: str, secrets: Sequence[str]) -> None:
        """Use a connected client.

        Args:
            client: of clickhouse-connect, without a session.
            location: where ClickHouse reads the objects.
            address: names the server in errors.
            secrets: removed from ClickHouse's messages.
        """
        self._client = client
        self._location = location
        self._address = address
        self._secrets = secrets

    def size_bytes(self, key: str) -> int:
        """Size of an object of the staging bucket as ClickHouse itself reads it; see `read` for what it raises."""
        source = self._location.table_function(key, "RawBLOB", "content String")
        return int(self.read(key, f"select length(content) from {source}")[0][0])  # noqa: S608 - literals escaped

    def held(self, group: Sequence[CheckedObject]) -> dict[str, int]:
        """By key, the rows in the table that come from exactly this content; without those that have none."""
        target = group[0].target
        keys = ", ".join(sql_literal(one.staged.key) for one in group)
        campaigns = ", ".join(sorted({str(one.campaign_id) for one in group if one.campaign_id is not None}))
        rows = self.read(
            named([one.staged.key for one in group]),
            f"""
            select toString(source_object), toString(source_sha256), count()
            from {target.table}
            where source_object in ({keys}) {f"and campaign_id in ({campaigns})" if campaigns else ""}
            group by source_object, source_sha256
            """,  # noqa: S608 - names are constants, literals escaped
        )
        found = {(str(key), str(digest)): int(count) for key, digest, count in rows}
        contents = {one.staged.key: one.staged.content_sha256 for one in group}
        return {key: found[key, digest] for key, digest in contents.items() if (key, digest) in found}

    def contents(self, keys: Sequence[str]) -> dict[str, tuple[str, int]]:
        """By key, the object's SHA-256 and its bytes, read and hashed inside ClickHouse."""
        source = self._location.table_function(keys, "RawBLOB", "content String")
        rows = self.read(
            named(keys),
            f"select {KEY_OF_PATH}, lower(hex(SHA256(content))), length(content) from {source}",  # noqa: S608
        )
        return {str(key): (str(digest), int(size_bytes)) for key, digest, size_bytes in rows}

    def footer_rows(self, one: CheckedObject) -> int:
        """How many rows the object claims to hold."""
        source = self._location.table_function(one.staged.key, "Parquet", one.target.structure())
        return int(self.read(one.staged.key, f"select count() from {source}")[0][0])  # noqa: S608 - literals escaped

    def found_rows(self, one: CheckedObject) -> int:
        """How many rows of the object the table holds, at the object's version or a later one.

        The object's own rows are looked up, not rows that name it as their source: after a rewrite, and after
        loads in another order, those are different sets. The range keeps the read to the object's part of the
        table's key.
        """
        target, staged = one.target, one.staged
        if target.append_only:
            return self._found_appended_rows(one)
        key, version = target.key, target.version
        source = self._location.table_function(staged.key, "Parquet", target.structure((key, version)))
        rows = self.read(
            staged.key,
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
                where {"1" if one.campaign_id is None else f"campaign_id = {one.campaign_id}"}
                    and {key} between first_key and last_key
            ) as held
            on held.{key} = staged.{key}
            where {f"held.{version} >= staged.{version}" if version else "1"}
            """,  # noqa: S608 - names are constants, literals escaped
        )
        return int(rows[0][0])

    def _found_appended_rows(self, one: CheckedObject) -> int:
        """How many rows the table holds under the object's name; its times keep the read to a few partitions."""
        target, staged = one.target, one.staged
        source = self._location.table_function(staged.key, "Parquet", target.structure((target.time,)))
        rows = self.read(
            staged.key,
            f"""
            with
                (select min({target.time}) from {source}) as first_time,
                (select max({target.time}) from {source}) as last_time
            select uniqExact({target.key})
            from {target.table}
            where source_object = {sql_literal(staged.key)} and {target.time} between first_time and last_time
            """,  # noqa: S608 - names are constants, literals escaped
        )
        return int(rows[0][0])

    def read(self, subject: str, statement: str) -> list[Any]:
        """The rows of a statement that reads objects.

        Args:
            subject: what an error calls the objects; see `named`.
            statement: the query.

        Raises:
            ObjectQuarantinedError: an object is gone, or its content cannot be read.
            ConfigurationError, PartUnavailableError: ClickHouse or, seen from it, S3.
        """
        problem: EmailPlatformError
        try:
            return list(self._client.query(statement, settings=dict(READ_SETTINGS)).result_rows)
        except ClickHouseError as error:
            problem = self._problem(subject, error)
        raise problem  # outside the handler: the driver's error may quote the statement

    def command(self, keys: Sequence[str], statement: str, settings: Mapping[str, Any]) -> None:
        """Run a statement that writes what it reads of these objects; see `read` for what it raises."""
        problem: EmailPlatformError
        try:
            self._client.command(statement, settings=dict(settings))
        except ClickHouseError as error:
            problem = self._problem(named(keys), error)
        else:
            return
        raise problem  # outside the handler: the driver's error may quote the statement

    def _problem(self, subject: str, error: ClickHouseError) -> EmailPlatformError:
        """The platform's error for a statement that reads objects."""
        code = error_code(error)
        message = scrubbed(str(error), self._secrets)
        if code == _S3_ERROR:
            return _s3_problem(subject, message, self._location.bucket_url)
        if code in _BAD_CONTENT:
            return ObjectQuarantinedError(f"{subject}: {message}")
        return translated(error, self._address, self._secrets)


def _s3_problem(subject: str, message: str, bucket_url: str) -> EmailPlatformError:
    """The error for a failed read from S3 by ClickHouse, by its cause: the object, the settings or the store."""
    if "NoSuchBucket" in message or "bucket does not exist" in message:
        return ConfigurationError(f"ClickHouse finds no bucket at {bucket_url}: {message}")
    if "code: 404" in message or "NoSuchKey" in message:
        return ObjectQuarantinedError(f"{subject}: the registered object is not in the bucket")
    if "code: 403" in message or "AccessDenied" in message or "InvalidAccessKeyId" in message or "Signature" in message:
        return ConfigurationError(
            "S3 refuses ClickHouse with EMAIL_PLATFORM_S3_ACCESS_KEY_ID and "
            f"EMAIL_PLATFORM_S3_SECRET_ACCESS_KEY (or its named collection): {message}"
        )
    return PartUnavailableError(f"ClickHouse cannot read {bucket_url}: {message}")
