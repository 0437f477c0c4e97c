"""What the credentials for S3 may do beyond the staging bucket, as far as it can be asked without changing anything.

Invariant: only reading questions are asked, none of them about an object's content. An answer that is neither yes nor
a refusal (a server without that call, or one that does not answer) counts as no: what is reported was allowed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from email_platform.adapters.object_store import S3ObjectStore
from email_platform.settings import Settings

_PATIENCE_SECONDS = 2.0
"""For each of four questions, which are asked once; after one without an answer no other is asked."""
_ALLOWED_AND_NONE = ("NoSuchBucketPolicy", "NoSuchLifecycleConfiguration")


def rights_beyond_the_bucket(settings: Settings) -> Sequence[str]:
    """What of deploy/grants/s3-policies.json does not give and is allowed all the same, as ends of a sentence.

    Whether the bucket's policy could be changed is not asked: only an attempt would show it.
    """
    with closing(S3ObjectStore.from_settings(settings, patience_seconds=_PATIENCE_SECONDS)) as store:
        client, bucket = store.client, store.bucket
        questions: Mapping[str, Callable[[], Any]] = {
            "list the account's buckets (s3:ListAllMyBuckets)": client.list_buckets,
            "read the bucket's policy (s3:GetBucketPolicy)": lambda: client.get_bucket_policy(Bucket=bucket),
            "read its rules of access (s3:GetBucketAcl)": lambda: client.get_bucket_acl(Bucket=bucket),
            "read its settings (s3:GetLifecycleConfiguration)": lambda: client.get_bucket_lifecycle_configuration(
                Bucket=bucket
            ),
        }
        found: list[str] = []
        for what, ask in questions.items():
            try:
                ask()
            except ClientError as error:
                if error.response.get("Error", {}).get("Code") not in _ALLOWED_AND_NONE:
                    continue
            except BotoCoreError:
                break
            found.append(f"may {what}")
        return found
