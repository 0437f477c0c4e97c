"""What the credentials for S3 may do beyond the staging bucket, as far as it can be asked without changing anything.

Invariant: only reading questions are asked, none of them about an object's content. An answer that is neither yes nor
a refusal (a server without that call, or one that does not answer) counts as no: what is reported was allowed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from email_platform.settings import Settings

_TIMEOUT_SECONDS = 2.5
"""Of each of four questions, which are asked once."""


def rights_beyond_the_bucket(settings: Settings) -> Sequence[str]:
    """What of deploy/grants/s3-policies.json does not follow and is allowed all the same, as ends of a sentence.

    Whether the bucket's policy could be changed is not asked: only an attempt would show it.
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
            retries={"mode": "standard", "total_max_attempts": 1},
            connect_timeout=_TIMEOUT_SECONDS,
            read_timeout=_TIMEOUT_SECONDS,
        ),
    )
    bucket = settings.s3_bucket
    with closing(client):
        questions: Mapping[str, Callable[[], Any]] = {
            "list the account's buckets (s3:ListAllMyBuckets)": client.list_buckets,
            "read the bucket's policy (s3:GetBucketPolicy)": lambda: client.get_bucket_policy(Bucket=bucket),
            "read its rules of access (s3:GetBucketAcl)": lambda: client.get_bucket_acl(Bucket=bucket),
            "read its settings (s3:GetLifecycleConfiguration)": lambda: client.get_bucket_lifecycle_configuration(
                Bucket=bucket
            ),
        }
        return [f"may {what}" for what, ask in questions.items() if _is_allowed(ask)]


def _is_allowed(ask: Callable[[], Any]) -> bool:
    try:
        ask()
    except ClientError as error:
        # Allowed, and there is none.
        return error.response.get("Error", {}).get("Code") in ("NoSuchBucketPolicy", "NoSuchLifecycleConfiguration")
    except BotoCoreError:
        return False
    return True
