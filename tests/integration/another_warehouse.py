"""Another warehouse than the embedded one, for the same tests: EMAIL_PLATFORM_TEST_WAREHOUSE names it.

(not set)     the embedded one
two-shards    the cluster of `cluster_process`
a file        lines NAME=value, the platform's variables of a cluster that runs (deploy/cluster)
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dotenv import dotenv_values

from email_platform.settings import Settings, variable_of
from tests.integration.cluster_process import running_cluster

TWO_SHARDS = "two-shards"


@contextmanager
def another_warehouse(folder: Path) -> Iterator[dict[str, str]]:
    """The variables that replace the embedded warehouse; none by default."""
    wanted = os.environ.get("EMAIL_PLATFORM_TEST_WAREHOUSE", "")
    if wanted == TWO_SHARDS:
        with running_cluster(folder) as cluster:
            settings = cluster.settings_of("email_platform")
            yield {variable_of(name): str(value) for name, value in settings.items()}
            assert cluster.shard.asked, "no test asked the cluster anything"
            found = cluster.strangers()
            assert not found, f"a shard was asked for what only the server of the reports has: {sorted(found)}"
    elif wanted:
        yield {name: value for name, value in dotenv_values(wanted).items() if value}
    else:
        yield {}


def on_cluster(settings: Settings) -> str:
    """What a statement about a database says so that it is for every server of a cluster."""
    return f" on cluster {settings.clickhouse_cluster}" if settings.clickhouse_cluster else ""
