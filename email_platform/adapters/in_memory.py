"""Stand-ins without I/O for unit tests; each fulfils its Protocol to the letter, and integration tests say so.

Invariant: a stand-in shares its Protocol's promises (whole objects, first manifest wins), so a test that passes
here fails on the real part only for reasons of the real part.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from email_platform.deliveries import DELIVERY_STATUSES
from email_platform.dimensions import DIMENSION_SCHEMAS
from email_platform.errors import AccountingError, ObjectQuarantinedError
from email_platform.manifest import EXCLUSION_REASONS, Manifest
from email_platform.ports import LoadOutcome, ObjectInfo, ObjectStore, StagedObject


class InMemoryObjectStore:
    """`email_platform.ports.ObjectStore` in a dictionary."""

    def __init__(self, bucket: str = "in-memory") -> None:
        self._bucket = bucket
        self._objects: dict[str, bytes] = {}

    @property
    def bucket(self) -> str:
        """The bucket's name."""
        return self._bucket

    def put(self, key: str, body: bytes) -> ObjectInfo:
        """Store the body under the key, replacing what was there."""
        self._objects[key] = bytes(body)
        return self._info(key)

    @contextmanager
    def writer(self, key: str) -> Iterator[IO[bytes]]:
        """A file to write in a `with`; the object appears on a clean exit; see the Protocol."""
        with io.BytesIO() as file:
            yield file
            self.put(key, file.getvalue())

    def get(self, key: str) -> bytes:
        """The whole object; see the Protocol."""
        if key not in self._objects:
            raise FileNotFoundError(f"memory://{self._bucket}/{key}")
        return self._objects[key]

    @contextmanager
    def reader(self, key: str) -> Iterator[IO[bytes]]:
        """A seekable file; see the Protocol."""
        with io.BytesIO(self.get(key)) as file:
            yield file

    def info(self, key: str) -> ObjectInfo | None:
        """Size and ETag, or None where there is no such object."""
        return self._info(key) if key in self._objects else None

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Objects whose keys start with the prefix, in key order."""
        for key in sorted(self._objects, key=str.encode):
            if key.startswith(prefix):
                yield self._info(key)

    def delete(self, key: str) -> None:
        """Remove the object; nothing happens where there is none."""
        self._objects.pop(key, None)

    def _info(self, key: str) -> ObjectInfo:
        body = self._objects[key]
        return ObjectInfo(key, len(body), hashlib.md5(body, usedforsecurity=False).hexdigest())


class InMemoryManifestStore:
    """`email_platform.manifest.ManifestStore` in a dictionary; the first manifest of a campaign wins."""

    def __init__(self) -> None:
        self._manifests: dict[int, Manifest] = {}

    def find(self, campaign_id: int) -> Manifest | None:
        """The campaign's frozen manifest, or None where its audience was never frozen."""
        return self._manifests.get(campaign_id)

    def freeze(self, manifest: Manifest) -> Manifest:
        """Make this the campaign's manifest; returns the earlier one where there is one."""
        return self._manifests.setdefault(manifest.campaign_id, manifest)


class InMemoryWarehouse:
    """`email_platform.ports.Warehouse` and `email_platform.dimensions.DimensionWarehouse` over Python dicts.

    Attributes:
        deliveries: by (campaign id, lead id), the row with the highest version.
        exclusions: by (campaign id, lead id).
        dimensions: by name and id, the row of the newest snapshot that had it.
        snapshots: by name, the rows of the newest complete snapshot.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self.deliveries: dict[tuple[int, int], dict[str, Any]] = {}
        self.exclusions: dict[tuple[int, int], dict[str, Any]] = {}
        self.dimensions: dict[str, dict[Any, dict[str, Any]]] = {name: {} for name in DIMENSION_SCHEMAS}
        self.snapshots: dict[str, tuple[datetime, int]] = {}

    def load(self, staged: StagedObject) -> int:
        """Insert the object once, however often this is called; see the Protocol."""
        try:
            body = self._store.get(staged.key)
        except FileNotFoundError:
            raise ObjectQuarantinedError(f"{staged.key}: the registered object is not in the bucket") from None
        if hashlib.sha256(body).hexdigest() != staged.content_sha256:
            raise ObjectQuarantinedError(f"{staged.key}: its content is not the registered one")
        try:
            rows: list[dict[str, Any]] = pq.read_table(io.BytesIO(body)).to_pylist()
        except pa.ArrowException as error:
            raise ObjectQuarantinedError(f"{staged.key}: {error}") from error
        if staged.kind in ("delivery", "exclusion"):
            campaign = re.search(r"(?:^|/)campaign=(\d+)/", staged.key)
            if campaign is None or any(row["campaign_id"] != int(campaign[1]) for row in rows):
                raise ObjectQuarantinedError(f"{staged.key}: rows of another campaign than the key says")
        found = self._insert(staged, rows)
        if found != staged.rows:
            raise AccountingError(f"{staged.key}: {staged.rows:,} rows registered, but {found:,} of them loaded")
        return found

    def load_many(self, objects: Sequence[StagedObject]) -> Iterator[Sequence[LoadOutcome]]:
        """Load them one by one; see the Protocol."""
        for staged in objects:
            try:
                yield [LoadOutcome(staged, self.load(staged))]
            except (ObjectQuarantinedError, AccountingError) as problem:
                yield [LoadOutcome(staged, 0, problem)]

    def _insert(self, staged: StagedObject, rows: list[dict[str, Any]]) -> int:
        if staged.kind == "delivery":
            for row in rows:
                _keep_newer(self.deliveries, (row["campaign_id"], row["lead_id"]), row, "version")
            return len({row["lead_id"] for row in rows})
        if staged.kind == "exclusion":
            self.exclusions |= {(row["campaign_id"], row["lead_id"]): row for row in rows}
            return len({row["lead_id"] for row in rows})
        table = self.dimensions.get(staged.kind.removeprefix("dimension_"))
        if table is None:
            raise ObjectQuarantinedError(f"{staged.key}: no table takes objects of kind {staged.kind!r}")
        for row in rows:
            _keep_newer(table, row["id"], row, "snapshot_at")
        return len({row["id"] for row in rows})

    def delivery_counts(self, campaign_id: int) -> Mapping[str, int]:
        """Deliveries by status for one campaign, each (campaign, lead) counted once; plus ``duplicates``."""
        rows = [row for (campaign, _), row in self.deliveries.items() if campaign == campaign_id]
        counts: dict[str, int] = {s: sum(row["status"] == s for row in rows) for s in DELIVERY_STATUSES}
        return {**counts, "duplicates": len(rows) - len({row["message_id"] for row in rows})}

    def exclusion_counts(self, campaign_id: int) -> Mapping[str, int]:
        """Excluded leads by reason for one campaign; has every reason."""
        reasons = [row["reason"] for (campaign, _), row in self.exclusions.items() if campaign == campaign_id]
        return {reason: reasons.count(reason) for reason in EXCLUSION_REASONS}

    def complete_snapshot(self, name: str, snapshot_at: datetime, rows: int) -> None:
        """Say that this snapshot of a dimension is loaded whole."""
        known = self.snapshots.get(name)
        if known is None or known[0] <= snapshot_at:
            self.snapshots[name] = (snapshot_at, rows)


def _keep_newer(table: dict[Any, dict[str, Any]], key: Any, row: dict[str, Any], version: str) -> None:
    known = table.get(key)
    if known is None or known[version] <= row[version]:
        table[key] = row
