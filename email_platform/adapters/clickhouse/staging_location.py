"""The staging bucket as ClickHouse sees it, and the SQL that reads objects of it.

Invariant: the secret key is a literal of s3(), which ClickHouse hides in its query log, its errors and its process
list, while a bound parameter would stand in the request's URL. Where a named collection is given, no statement has
a secret.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from email_platform.errors import ConfigurationError
from email_platform.settings import Settings


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
        return cls(
            url,
            settings.s3_access_key_id,
            secret.get_secret_value() if secret else None,
            named_collection,
        )

    def table_function(self, keys: str | Sequence[str], format_name: str, structure: str) -> str:
        """SQL of ``s3(...)`` for one object or several; the keys hold no wildcards and no commas."""
        key = keys if isinstance(keys, str) else keys[0] if len(keys) == 1 else f"{{{','.join(keys)}}}"
        if self.named_collection:
            return (
                f"s3({self.named_collection}, filename = {sql_literal(key)}, "
                f"format = {sql_literal(format_name)}, structure = {sql_literal(structure)})"
            )
        arguments = [f"{self.bucket_url}/{key}"]
        if self.access_key_id and self.secret_access_key:
            arguments += [self.access_key_id, self.secret_access_key]
        return f"s3({', '.join(sql_literal(text) for text in [*arguments, format_name, structure])})"


def sql_literal(text: str) -> str:
    """The text as a string of SQL."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
