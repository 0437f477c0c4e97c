"""The staging bucket on S3, or anything that speaks its protocol.

Invariant: an object appears whole or not at all, whatever its size, in constant memory; a failure says which
variable or address to look at and never a secret.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import IO, Any

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, NoCredentialsError, PartialCredentialsError

from email_platform.domain.ports import ObjectInfo
from email_platform.errors import ConfigurationError, PartUnavailableError
from email_platform.settings import Settings

SPOOL_BYTES = 16 << 20  # larger uploads go through a temporary file
READ_AHEAD_BYTES = 256 << 10  # a Parquet footer and small column chunks come in one request
# One part in memory at a time: boto3 keeps ten of them otherwise, 97 MB for one upload.
_UPLOAD = TransferConfig(use_threads=False, multipart_chunksize=8 << 20)

_REFUSED = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied", "403", "ExpiredToken", "InvalidToken"}
_MISSING = {"NoSuchKey", "404", "NotFound"}
_CHANGED = {"PreconditionFailed", "412"}
_KEY_VARIABLES = "EMAIL_PLATFORM_S3_ACCESS_KEY_ID and EMAIL_PLATFORM_S3_SECRET_ACCESS_KEY"


def load_client_data() -> None:
    """Read what a client is made from: botocore's descriptions of S3 and of AWS's regions, which is most of its time.

    boto3's default session keeps it, so a process that is forked afterwards makes its clients without. The keys are
    made up, so that none are looked for here, and nothing is connected. What is wrong with AWS's own settings is for
    the first client to say.

    Source: botocore 1.44, `loaders.instance_cache`.
    """
    with suppress(BotoCoreError):
        keys = {"aws_access_key_id": "made up", "aws_secret_access_key": "made up"}
        boto3.client("s3", region_name="us-east-1", **keys).close()


class S3ObjectStore:
    """`email_platform.domain.ports.ObjectStore` through boto3.

    Attributes:
        client: the boto3 client, for libraries that want one (dagster-aws).

    Length: one Protocol, most of its methods one request.
    """

    def __init__(self, client: Any, bucket: str) -> None:
        self.client = client
        self._bucket = bucket

    @classmethod
    def from_settings(cls, settings: Settings, *, patience_seconds: float | None = None) -> S3ObjectStore:
        """Connects on first use; path-style addresses where an endpoint is set.

        Args:
            settings: where the bucket is, and the keys.
            patience_seconds: ask once, and wait so long for the next part of an answer; None: as work needs it.
        """
        secret = settings.s3_secret_access_key
        client = boto3.client(
            "s3",
            endpoint_url=settings.s3_endpoint_url,
            region_name=settings.s3_region,
            aws_access_key_id=settings.s3_access_key_id,
            aws_secret_access_key=secret.get_secret_value() if secret else None,
            config=Config(
                s3={"addressing_style": "path" if settings.s3_endpoint_url else "auto"},
                retries={"mode": "standard", "total_max_attempts": 5 if patience_seconds is None else 1},
                connect_timeout=5 if patience_seconds is None else min(5, patience_seconds),
                read_timeout=60 if patience_seconds is None else patience_seconds,
            ),
        )
        return cls(client, settings.s3_bucket)

    def __repr__(self) -> str:
        return f"S3ObjectStore(bucket={self._bucket!r})"

    def close(self) -> None:
        """Close the connections."""
        self.client.close()

    @property
    def bucket(self) -> str:
        """The bucket's name."""
        return self._bucket

    def create_bucket(self) -> None:
        """Make the bucket if it is not there (embedded stack and tests; production has its own)."""
        with self._translated(None):
            try:
                self.client.head_bucket(Bucket=self._bucket)
            except ClientError as error:
                if _code(error) not in _MISSING | {"NoSuchBucket"}:
                    raise
                self.client.create_bucket(Bucket=self._bucket)

    def put(self, key: str, body: bytes, content_type: str = "binary/octet-stream") -> ObjectInfo:
        """Store the body under the key, replacing what was there; the type is for browsers (the default is S3's)."""
        with self._translated(key):
            answer = self.client.put_object(Bucket=self._bucket, Key=key, Body=body, ContentType=content_type)
        return ObjectInfo(key, len(body), answer["ETag"].strip('"'))

    @contextmanager
    def writer(self, key: str) -> Iterator[IO[bytes]]:
        """A file to write in a `with`; uploaded (in parts, if large) on a clean exit; see the Protocol."""
        with tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES) as spool:
            yield spool
            spool.seek(0)
            with self._translated(key):
                self.client.upload_fileobj(spool, self._bucket, key, Config=_UPLOAD)

    def get(self, key: str) -> bytes:
        """The whole object; see the Protocol."""
        with self._translated(key):
            body: bytes = self.client.get_object(Bucket=self._bucket, Key=key)["Body"].read()
            return body

    @contextmanager
    def reader(self, key: str) -> Iterator[IO[bytes]]:
        """A seekable file that reads ranges on demand; see the Protocol."""
        found = self.info(key)
        if found is None:
            raise FileNotFoundError(f"s3://{self._bucket}/{key}")
        with io.BufferedReader(_RangeReader(self, found), buffer_size=READ_AHEAD_BYTES) as reader:
            yield reader

    def info(self, key: str) -> ObjectInfo | None:
        """Size and ETag, or None where there is no such object."""
        with self._translated(key):
            try:
                answer = self.client.head_object(Bucket=self._bucket, Key=key)
            except ClientError as error:
                if _code(error) in _MISSING:
                    return None
                raise
        return ObjectInfo(key, answer["ContentLength"], answer["ETag"].strip('"'))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Objects whose keys start with the prefix, in key order."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix)
        with self._translated(prefix):
            for page in pages:
                for item in page.get("Contents", []):
                    yield ObjectInfo(item["Key"], item["Size"], item["ETag"].strip('"'))

    def oldest_of_first(self, prefix: str, most: int = 1000) -> tuple[int, datetime | None]:
        """How many objects lie under the prefix, counted up to `most` (1000 at most); when the oldest was stored.

        One request, whatever lies there: S3 answers with at most 1,000 keys (its ListObjectsV2 reference).
        """
        with self._translated(prefix):
            answer = self.client.list_objects_v2(Bucket=self._bucket, Prefix=prefix, MaxKeys=most)
        times: list[datetime] = [item["LastModified"] for item in answer.get("Contents", [])]
        return len(times), min(times, default=None)

    def server_time(self) -> datetime | None:
        """The Date of an answer, of a refusal too; whole seconds. None where the server sends none."""
        with self._translated(None):
            try:
                answer = self.client.head_bucket(Bucket=self._bucket)
            except ClientError as error:
                answer = error.response
        date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
        return None if date is None else parsedate_to_datetime(date)

    def delete(self, key: str) -> None:
        """Remove the object; nothing happens where there is none."""
        with self._translated(key):
            self.client.delete_object(Bucket=self._bucket, Key=key)

    def read_range(self, key: str, etag: str, start: int, end: int) -> bytes:
        """Bytes ``start`` to ``end`` (exclusive) of exactly this version of the object."""
        with self._translated(key):
            answer = self.client.get_object(
                Bucket=self._bucket, Key=key, Range=f"bytes={start}-{end - 1}", IfMatch=f'"{etag}"'
            )
            body: bytes = answer["Body"].read()
        if answer["ETag"].strip('"') != etag:  # not every server knows If-Match
            raise PartUnavailableError(self._changed(key))
        return body

    def _changed(self, key: str | None) -> str:
        return f"s3://{self._bucket}/{key} changed while it was read; read it again"

    @contextmanager
    def _translated(self, key: str | None) -> Iterator[None]:
        where = f"s3://{self._bucket}/{key or ''}"
        try:
            yield
        except ClientError as error:
            code = _code(error)
            if code in _MISSING:
                raise FileNotFoundError(where) from error
            if code == "NoSuchBucket":
                raise ConfigurationError(f"bucket {self._bucket!r} does not exist: EMAIL_PLATFORM_S3_BUCKET") from error
            if code in _REFUSED:
                raise ConfigurationError(f"S3 refuses access to {where} ({code}): check {_KEY_VARIABLES}") from error
            if code in _CHANGED:
                raise PartUnavailableError(self._changed(key)) from error
            raise PartUnavailableError(f"S3 answered {code} for {where}") from error
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise ConfigurationError(
                f"there are no credentials for S3: set {_KEY_VARIABLES}, or give this machine an AWS role"
            ) from error
        except (HTTPClientError, BotoCoreError) as error:
            raise PartUnavailableError(f"S3 at {self.client.meta.endpoint_url} does not answer") from error


class _RangeReader(io.RawIOBase):
    """One ranged GET per read of the buffered reader around it."""

    def __init__(self, store: S3ObjectStore, found: ObjectInfo) -> None:
        self._store, self._found, self._position = store, found, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._found.size_bytes}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        end = min(self._position + len(buffer), self._found.size_bytes)
        if end <= self._position:
            return 0
        body = self._store.read_range(self._found.key, self._found.etag, self._position, end)
        buffer[: len(body)] = body
        self._position += len(body)
        return len(body)


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", "unknown"))
