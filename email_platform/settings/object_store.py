"""The staging bucket: S3, or anything that speaks its protocol."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, Field, SecretStr, model_validator

from email_platform.settings.names import ReplaceablePart, variable_of
from email_platform.settings.values import HttpUrl, Port

OBJECT_STORE = ReplaceablePart(
    "s3",
    # Two, because AWS itself needs no endpoint, only a bucket.
    addresses=("s3_bucket", "s3_endpoint_url"),
    fields=("s3_bucket", "s3_endpoint_url", "s3_region", "s3_access_key_id", "s3_secret_access_key"),
)


class ObjectStoreSettings(BaseModel):
    """Where the staging bucket is.

    Attributes:
        s3_endpoint_url: None for AWS itself.
        s3_endpoint_url_for_clickhouse: the same endpoint as ClickHouse reaches it, where that differs.
        s3_bucket: the staging bucket.
        s3_access_key_id, s3_secret_access_key: both or neither; None for boto3's usual chain.
        s3_port: of the embedded server.
    """

    s3_endpoint_url: HttpUrl | None = None
    s3_endpoint_url_for_clickhouse: HttpUrl | None = None
    s3_bucket: Annotated[str, Field(min_length=3, max_length=63)]
    s3_region: str = "us-east-1"
    s3_access_key_id: str | None = None
    s3_secret_access_key: SecretStr | None = None
    s3_port: Port = 19000

    @model_validator(mode="after")
    def _check_key_pair(self) -> Self:
        if (self.s3_access_key_id is None) != (self.s3_secret_access_key is None):
            raise ValueError(
                f"{variable_of('s3_access_key_id')} and {variable_of('s3_secret_access_key')}: set both, "
                "or neither to use AWS credentials from the machine"
            )
        return self
