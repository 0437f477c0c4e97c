"""What a fork server loads beside the definitions: nothing of it is loaded again by the process that it forks."""

from __future__ import annotations

import os
import subprocess
import sys

# In an interpreter of its own, since this one has long loaded both. Argument: the module that is loaded beforehand.
PROGRAM = """
import importlib, sys
from botocore.loaders import JSONFileLoader
from email_platform.adapters.object_store import S3ObjectStore
from email_platform.settings import Settings

importlib.import_module(sys.argv[1])
had_pandas, read, load = "pandas" in sys.modules, [], JSONFileLoader.load_file

def reading(self, path):
    read.append(path)
    return load(self, path)

JSONFileLoader.load_file = reading
for _ in range(2):
    store = S3ObjectStore.from_settings(Settings.load())
    assert store.client.meta.region_name == "eu-central-1"
    store.close()
print(had_pandas, len(read))
"""
SETTINGS = {
    "EMAIL_PLATFORM_POSTGRES_URL": "postgresql://postgres.example/email",
    "EMAIL_PLATFORM_CLICKHOUSE_URL": "https://clickhouse.example/email",
    "EMAIL_PLATFORM_UNSUBSCRIBE_SECRET": "0" * 16,
    "EMAIL_PLATFORM_S3_BUCKET": "bucket",
    "EMAIL_PLATFORM_S3_REGION": "eu-central-1",
    "EMAIL_PLATFORM_S3_ACCESS_KEY_ID": "key",
    "EMAIL_PLATFORM_S3_SECRET_ACCESS_KEY": "0" * 16,
}


def after(module: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, module],
        env={**os.environ, **SETTINGS, **variables}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_client_of_s3_reads_no_file_and_pandas_is_there() -> None:
    ended = after("assets.loaded_once")
    assert (ended.stdout.strip(), ended.stderr) == ("True 0", "")


def test_without_it_both_are_loaded_by_whoever_comes_first() -> None:
    had_pandas, read = after("json").stdout.split()
    assert had_pandas == "False"
    assert int(read) > 0


def test_a_fault_of_awss_own_settings_is_for_the_first_client_to_say() -> None:
    ended = after("assets.loaded_once", AWS_PROFILE="nobody")
    assert "import_module" not in ended.stderr
    assert "The config profile (nobody) could not be found" in ended.stderr
