"""The embedded parts' addresses and generated secrets, kept in ``<state_folder>/embedded.env``.

Invariant: the file is only ever whole and only ever readable by its owner (mode 0600), and a secret once made
is kept for as long as the data that it protects.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from email_platform.local.stack.part import LOOPBACK
from email_platform.local.stack.postgres import DATABASE, USER
from email_platform.settings import (
    DAGSTER_DATABASE,
    EMBEDDED_FILE_NAME,
    LEGACY_DATABASE,
    embedded_values,
    variable_of,
)

BUCKET = "email-platform"
CLICKHOUSE_USER = "email_platform"
CLICKHOUSE_DATABASE = "email_platform"


def complete_values(known: Mapping[str, str], ports: Mapping[str, int]) -> dict[str, str]:
    """Addresses and secrets of all embedded parts, by field name of `Settings`.

    Args:
        known: values of an earlier start; their secrets are kept, their ports are not.
        ports: by field name, such as ``postgres_port``.
    """

    def secret(name: str) -> str:
        return known.get(name) or secrets.token_urlsafe(32)

    def password(name: str) -> str:
        found = urlsplit(known.get(name, "")).password
        return unquote(found) if found else secrets.token_urlsafe(32)

    database = f"{USER}:{quote(password('postgres_url'), safe='')}@{LOOPBACK}:{ports['postgres_port']}"
    clickhouse = f"{CLICKHOUSE_USER}:{quote(password('clickhouse_url'), safe='')}@{LOOPBACK}:{ports['clickhouse_port']}"
    return {
        "postgres_url": f"postgresql+psycopg://{database}/{DATABASE}",
        "dagster_postgres_url": f"postgresql+psycopg2://{database}/{DAGSTER_DATABASE}",
        # Made by `email-platform legacy generate` only: an old database to practise the import on.
        "legacy_url": f"postgresql://{database}/{LEGACY_DATABASE}",
        "s3_endpoint_url": f"http://{LOOPBACK}:{ports['s3_port']}",
        "s3_bucket": known.get("s3_bucket", BUCKET),
        "s3_region": known.get("s3_region", "us-east-1"),
        "s3_access_key_id": known.get("s3_access_key_id") or secrets.token_hex(10).upper(),
        "s3_secret_access_key": secret("s3_secret_access_key"),
        "clickhouse_url": f"http://{clickhouse}/{CLICKHOUSE_DATABASE}",
        "provider_url": f"http://{LOOPBACK}:{ports['provider_port']}",
        "provider_api_key": secret("provider_api_key"),
        "provider_webhook_secret": secret("provider_webhook_secret"),
        "receiver_url": f"http://{LOOPBACK}:{ports['receiver_port']}",
        "unsubscribe_secret": secret("unsubscribe_secret"),
        "erasure_key": secret("erasure_key"),
    }


def read_embedded_file(state_folder: Path) -> dict[str, str]:
    """The values that an earlier start wrote, by field name; empty without the file."""
    return embedded_values(state_folder, {})


def write_embedded_file(state_folder: Path, values: Mapping[str, str]) -> None:
    """Put the file in place in one step, readable by its owner only."""
    path = state_folder / EMBEDDED_FILE_NAME
    unfinished = path.with_name(f"{path.name}.unfinished")
    unfinished.unlink(missing_ok=True)
    lines = ["# Written by `email-platform up`; addresses and secrets of the embedded parts."]
    lines += [f"{variable_of(name)}={value}" for name, value in values.items()]
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
        file.flush()
        os.fsync(descriptor)
    unfinished.replace(path)
