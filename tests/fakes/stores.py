"""Stand-ins without I/O for unit tests; each fulfils its Protocol to the letter, and integration tests say so.

Invariant: a stand-in shares its Protocol's promises (whole objects, first manifest wins), so a test that passes
here fails on the real part only for reasons of the real part.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from email_platform.domain.manifest import Manifest
from email_platform.domain.ports import ObjectInfo


class InMemoryObjectStore:
    """`email_platform.domain.ports.ObjectStore` in a dictionary."""

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
    """`email_platform.domain.manifest.ManifestStore` in a dictionary; the first manifest of a campaign wins."""

    def __init__(self) -> None:
        self._manifests: dict[int, Manifest] = {}

    def find(self, campaign_id: int) -> Manifest | None:
        """The campaign's frozen manifest, or None where its audience was never frozen."""
        return self._manifests.get(campaign_id)

    def freeze(self, manifest: Manifest) -> Manifest:
        """Make this the campaign's manifest; returns the earlier one where there is one."""
        return self._manifests.setdefault(manifest.campaign_id, manifest)
