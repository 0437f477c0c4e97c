"""Bulk loads of staged objects: in groups where nothing is odd, one by one where something is.

Invariant: however often, in whatever order, in whatever groups and by however many processes objects are loaded,
an object counts as loaded only after its rows were found in the table, and a bad object neither leaves rows there
nor keeps another one out. The proof, cheap first: the table holds as many rows with the object's name and the hash of
its content as were registered; else every single key of the object is looked up, at its version or a later one.

A group is one hash of every object inside ClickHouse, one INSERT of one block, so it is inserted whole or not at
all, and one count by object. Where a group fails, or rows of its objects are replaced already, its objects go one
by one: one INSERT each, under a deduplication token of the object's own. The table's key and version are the second
guard (for events: the reader's `limit 1 by event_key`): they hold where a token is forgotten or a group is cut
differently.

What it costs beside the engine's bare insert: `python bench/loader.py`, figures in docs/warehouse.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from itertools import groupby
from typing import Any

from clickhouse_connect.driver.exceptions import ClickHouseError

from email_platform.adapters.clickhouse.client import error_code, scrubbed, translated
from email_platform.adapters.clickhouse.staging_location import StagingLocation, sql_literal
from email_platform.adapters.clickhouse.targets import TARGETS, Target
from email_platform.domain.ports import LoadOutcome, StagedObject
from email_platform.errors import (
    AccountingError,
    ConfigurationError,
    EmailPlatformError,
    ObjectQuarantinedError,
    PartUnavailableError,
)

GROUP_OBJECTS = 64
GROUP_ROWS = 400_000  # one block: about 100 MB of memory in ClickHouse
GROUPS_AT_ONCE = 2
# A group of its own costs 60 to 110 ms of CPU, as much as inserting 40,000 rows: fewer than so many are not split.
SPLIT_ROWS = 100_000

_ONE_BLOCK_ROWS = 100_000_000  # more than any group has: a block is cut at its end only
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
    "input_format_parquet_allow_missing_columns": 1,  # see _insert
    "insert_null_as_default": 0,
    "optimize_on_insert": 1,  # the default: a lead twice in an object is one row, so the count finds it
    "max_threads": 2,  # they read; one of them writes, so it is one block all the same
    "max_insert_threads": 1,
    "max_insert_block_size": _ONE_BLOCK_ROWS,
    "min_insert_block_size_rows": _ONE_BLOCK_ROWS,
    "min_insert_block_size_bytes": 0,
}
_S3_ERROR = 499
# ClickHouse's complaints about an object's content; every other one is about a part or a setting.
_BAD_CONTENT = {
    *(6, 8, 10, 23, 25, 27, 32, 33, 36, 38, 40, 41, 43, 44, 48, 50, 53, 69, 70, 72, 117, 130, 131),
    *(246, 271, 321, 349, 354, 376, 395, 407, 636),
}
_CAMPAIGN_IN_KEY = re.compile(r"(?:^|/)campaign=(\d+)/")
_PLAIN_KEY = re.compile(r"[A-Za-z0-9/=_.:-]+")
# _path is bucket/key. With one argument beside constants it is computed once per object, not once per row, and so is
# what is looked up by it: 8 % of a load's CPU.
_KEY_OF_PATH = "replaceRegexpOne(_path, '^[^/]*/', '')"


@dataclass(frozen=True, slots=True)
class _Checked:
    """An object that may go to its table.

    Attributes:
        campaign_id: of all its rows, as its key says; None where the kind belongs to no campaign.
    """

    staged: StagedObject
    target: Target
    campaign_id: int | None


class ObjectLoader:
    """Loads staged objects through one client; may be used by several threads at once."""

    def __init__(self, client: Any, location: StagingLocation, *, address: str, secrets: Sequence[str]) -> None:
        """Use a connected client.

        Args:
            client: of clickhouse-connect, without a session.
            location: where ClickHouse reads the objects.
            address: names the server in errors.
            secrets: removed from whatever ClickHouse says.
        """
        self._client = client
        self._location = location
        self._address = address
        self._secrets = secrets

    def load(self, staged: StagedObject) -> int:
        """Load one object; see `email_platform.domain.ports.Warehouse`."""
        one = _checked(staged)
        if self._held([one]).get(staged.key) == staged.rows:
            return staged.rows
        self._require_registered_content([one])
        self._insert([one], {"insert_deduplication_token": _token([one])})
        found = self._found_rows(one)
        if found < staged.rows:
            # The window remembers the token, but rows are gone (deleted, or an older backup): the table's key
            # makes it safe to insert them without a token.
            self._insert([one], {"insert_deduplicate": 0})
            found = self._found_rows(one)
        if found != staged.rows:
            raise AccountingError(
                f"{staged.key}: {staged.rows:,} rows registered, {self._footer_rows(one):,} in its footer, but "
                f"{found:,} different {one.target.key}s of it in table {one.target.table}"
            )
        return found

    def load_many(self, objects: Sequence[StagedObject]) -> Iterator[Sequence[LoadOutcome]]:
        """Load many objects, `GROUPS_AT_ONCE` groups side by side; see `email_platform.domain.ports.Warehouse`."""
        with ThreadPoolExecutor(GROUPS_AT_ONCE, thread_name_prefix="load") as pool:
            groups = [pool.submit(self._load_group, group) for group in _groups(objects)]
            try:
                for group in groups:
                    yield group.result()
            finally:
                pool.shutdown(cancel_futures=True)

    def size_bytes(self, key: str) -> int:
        """Size of an object of the staging bucket as ClickHouse itself reads it; see `load` for what it raises."""
        source = self._location.table_function(key, "RawBLOB", "content String")
        return int(self._read(key, f"select length(content) from {source}")[0][0])  # noqa: S608 - literals escaped

    def holds(self, staged: StagedObject) -> bool:
        """Whether the table holds every row of exactly this content, none of them replaced by a newer one."""
        return self._held([_checked(staged)]).get(staged.key, 0) == staged.rows

    def content_hashes(self, keys: Sequence[str]) -> dict[str, str]:
        """SHA-256 by key; an object that is gone is left out."""
        found: dict[str, str] = {}
        for group in (keys[first : first + GROUP_OBJECTS] for first in range(0, len(keys), GROUP_OBJECTS)):
            try:
                contents = self._contents(group)
            except ObjectQuarantinedError:  # one of them was removed after it was listed
                if len(group) > 1:
                    for key in group:
                        found |= self.content_hashes([key])
                continue
            found |= {key: digest for key, (digest, _) in contents.items()}
        return found

    def _load_group(self, objects: Sequence[StagedObject]) -> list[LoadOutcome]:
        """Load objects of one kind together; those of which anything is odd, one by one."""
        loaded: set[str] = set()
        held_before: set[str] = set()
        try:
            group = [_checked(staged) for staged in objects]
            held = self._held(group)
            held_before = {staged.key for staged in objects if held.get(staged.key) == staged.rows}
            missing = [one for one in group if one.staged.key not in held]
            if missing:
                self._require_registered_content(missing)
                self._insert(missing, {"insert_deduplication_token": _token(missing)})
                held = self._held(group)
            loaded = {staged.key for staged in objects if held.get(staged.key) == staged.rows}
        except ObjectQuarantinedError:
            pass  # which of them it was is found below
        return [
            LoadOutcome(staged, staged.rows, was_held=staged.key in held_before)
            if staged.key in loaded
            else self._alone(staged)
            for staged in objects
        ]

    def _alone(self, staged: StagedObject) -> LoadOutcome:
        try:
            return LoadOutcome(staged, self.load(staged))
        except (ObjectQuarantinedError, AccountingError) as problem:
            return LoadOutcome(staged, 0, problem)

    def _held(self, group: Sequence[_Checked]) -> dict[str, int]:
        """By key, the rows in the table that come from exactly this content; without those that have none."""
        target = group[0].target
        keys = ", ".join(sql_literal(one.staged.key) for one in group)
        campaigns = ", ".join(sorted({str(one.campaign_id) for one in group if one.campaign_id is not None}))
        rows = self._read(
            _named([one.staged.key for one in group]),
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

    def _require_registered_content(self, group: Sequence[_Checked]) -> None:
        """Compare each object's hash, computed inside ClickHouse, with the registered one.

        Needed because a damaged data page passes: with 200 bytes in the middle set to zero, ClickHouse read
        10,000 rows without a complaint. It also finds an object that was rewritten after it was registered.
        """
        found = self._contents([one.staged.key for one in group])
        for one in group:
            digest, size_bytes = found.get(one.staged.key, ("", 0))
            if digest != one.staged.content_sha256:
                raise ObjectQuarantinedError(
                    f"{one.staged.key}: its content ({size_bytes:,} bytes, sha256 {digest[:12]}…) is not the "
                    f"registered one ({one.staged.content_sha256[:12]}…): cut short, damaged, or rewritten without "
                    "registration"
                )

    def _contents(self, keys: Sequence[str]) -> dict[str, tuple[str, int]]:
        """By key, the object's SHA-256 and its bytes, read and hashed inside ClickHouse."""
        source = self._location.table_function(keys, "RawBLOB", "content String")
        rows = self._read(
            _named(keys),
            f"select {_KEY_OF_PATH}, lower(hex(SHA256(content))), length(content) from {source}",  # noqa: S608
        )
        return {str(key): (str(digest), int(size_bytes)) for key, digest, size_bytes in rows}

    def _insert(self, group: Sequence[_Checked], settings: Mapping[str, Any]) -> None:
        """One INSERT of one block for the objects of one kind; nothing of it where a row does not belong there."""
        target = group[0].target
        keys = _array(one.staged.key for one in group)
        hashes = _array(one.staged.content_sha256 for one in group)
        conditions = ["1"]
        if target.of_campaign:
            campaigns = f"[{', '.join(str(one.campaign_id) for one in group)}]"
            conditions.append(
                f"throwIf(ifNull(campaign_id, -2) != transform(object_key, {keys}, {campaigns}, -1), "
                "'rows of another campaign than the key says') = 0"
            )
        if target.allowed_words:
            column, words = target.allowed_words
            allowed = ", ".join(sql_literal(word) for word in words)
            conditions.append(f"throwIf(ifNull({column}, '') not in ({allowed}), 'an unknown {column}') = 0")
        # Read as nullable: a missing column, and a null in a required one, come as nulls, which the table refuses.
        # (Parquet's own check for missing columns takes _path for one.)
        source = self._location.table_function(
            [one.staged.key for one in group], "Parquet", target.structure(nullable=True)
        )
        statement = (
            f"insert into {target.table} ({target.columns}, source_object, source_sha256, loaded_at) "  # noqa: S608
            f"select {target.columns}, object_key, transform(object_key, {keys}, {hashes}, ''), now64(3, 'UTC') "
            f"from (select {target.columns}, {_KEY_OF_PATH} as object_key from {source}) "
            f"where {' and '.join(conditions)}"
        )
        problem: EmailPlatformError
        try:
            self._client.command(statement, settings={**_INSERT_SETTINGS, **settings})
        except ClickHouseError as error:
            problem = self._problem(_named([one.staged.key for one in group]), error)
        else:
            return
        raise problem  # outside the handler: the driver's error may quote the statement

    def _footer_rows(self, one: _Checked) -> int:
        source = self._location.table_function(one.staged.key, "Parquet", one.target.structure())
        return int(self._read(one.staged.key, f"select count() from {source}")[0][0])  # noqa: S608 - literals escaped

    def _found_rows(self, one: _Checked) -> int:
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
        rows = self._read(
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

    def _found_appended_rows(self, one: _Checked) -> int:
        """How many rows the table holds under the object's name; its times keep the read to a few partitions."""
        target, staged = one.target, one.staged
        source = self._location.table_function(staged.key, "Parquet", target.structure((target.time,)))
        rows = self._read(
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

    def _read(self, named: str, statement: str) -> list[Any]:
        problem: EmailPlatformError
        try:
            return list(self._client.query(statement, settings=dict(_READ_SETTINGS)).result_rows)
        except ClickHouseError as error:
            problem = self._problem(named, error)
        raise problem  # outside the handler: the driver's error may quote the statement

    def _problem(self, named: str, error: ClickHouseError) -> EmailPlatformError:
        """The platform's error for a statement that reads objects."""
        code = error_code(error)
        said = scrubbed(str(error), self._secrets)
        if code == _S3_ERROR:
            if "NoSuchBucket" in said or "bucket does not exist" in said:
                return ConfigurationError(f"ClickHouse finds no bucket at {self._location.bucket_url}: {said}")
            if "code: 404" in said or "NoSuchKey" in said:
                return ObjectQuarantinedError(f"{named}: the registered object is not in the bucket")
            if "code: 403" in said or "AccessDenied" in said or "InvalidAccessKeyId" in said or "Signature" in said:
                return ConfigurationError(
                    "S3 refuses ClickHouse with EMAIL_PLATFORM_S3_ACCESS_KEY_ID and "
                    f"EMAIL_PLATFORM_S3_SECRET_ACCESS_KEY (or its named collection): {said}"
                )
            return PartUnavailableError(f"ClickHouse cannot read {self._location.bucket_url}: {said}")
        if code in _BAD_CONTENT:
            return ObjectQuarantinedError(f"{named}: {said}")
        return translated(error, self._address, self._secrets)


def _token(group: Sequence[_Checked]) -> str:
    """The group's token; of a single object its own."""
    tokens = [one.staged.deduplication_token for one in group]
    return tokens[0] if len(tokens) == 1 else sha256("\n".join(tokens).encode()).hexdigest()


def _named(keys: Sequence[str]) -> str:
    return keys[0] if len(keys) == 1 else f"one of {len(keys)} objects"


def _checked(staged: StagedObject) -> _Checked:
    """The object with its table.

    Raises:
        ObjectQuarantinedError: it belongs nowhere.
    """
    target = TARGETS.get(staged.kind)
    if target is None:
        raise ObjectQuarantinedError(f"{staged.key}: no table takes objects of kind {staged.kind!r}")
    if not _PLAIN_KEY.fullmatch(staged.key):
        raise ObjectQuarantinedError(f"{staged.key!r}: not a key of the staging area")
    if not target.of_campaign:
        return _Checked(staged, target, None)
    match = _CAMPAIGN_IN_KEY.search(staged.key)
    if match is None:
        raise ObjectQuarantinedError(f"{staged.key}: the key names no campaign")
    return _Checked(staged, target, int(match[1]))


def _groups(objects: Sequence[StagedObject]) -> Iterator[list[StagedObject]]:
    """Objects of one kind together, in order; what one group could take is split where that pays."""
    for _, of_kind in groupby(sorted(objects, key=lambda staged: staged.kind), key=lambda staged: staged.kind):
        waiting = list(of_kind)
        fair_share = sum(staged.rows for staged in waiting) // GROUPS_AT_ONCE + 1
        most_rows = min(GROUP_ROWS, max(SPLIT_ROWS, fair_share))
        group: list[StagedObject] = []
        for staged in waiting:
            if group and (len(group) >= GROUP_OBJECTS or sum(one.rows for one in group) + staged.rows > most_rows):
                yield group
                group = []
            group.append(staged)
        yield group


def _array(texts: Iterable[str]) -> str:
    return f"[{', '.join(sql_literal(text) for text in texts)}]"
