"""The whole schema of a cluster, executed: every table registers its replica in a real ZooKeeper."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from clickhouse_connect.driver.exceptions import DatabaseError

from email_platform.adapters.clickhouse.address import ClickHouseAddress
from email_platform.adapters.clickhouse.client import connect
from email_platform.adapters.clickhouse.migrate import ddl, read_migrations, upgrade_to_head
from email_platform.adapters.clickhouse.production_form import ProductionForm
from email_platform.errors import ConfigurationError
from tests.integration.cluster_process import CLUSTER, running_cluster
from tests.integration.zookeeper_process import nodes, running_zookeeper

pytestmark = pytest.mark.integration

FORM = ProductionForm(CLUSTER, sharded=True, keep_events_months=24)
TABLES = {
    *("schema_version", "delivery", "exclusion", "campaign", "app_user", "dimension_snapshot", "event"),
    *("legacy_email", "suppression", "email_key", "email_key_fill", "email_key_filled"),
}
# In chDB no replica takes part in replication, so what must be agreed on with other replicas is refused.
READ_ONLY, NO_MUTATION = 242, 236


@pytest.fixture(scope="module")
def keeper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with running_zookeeper(tmp_path_factory.mktemp("keeper") / "data") as port:
        yield port


def executed(url: str) -> dict[str, int | None]:
    """Every statement of the schema with the code that it was refused with, if it was."""
    client = connect(ClickHouseAddress.parse(f"{url}/mail"), database="")
    client.command(FORM.database("mail"))
    client.database = "mail"
    codes: dict[str, int | None] = {}
    for statement in ddl(read_migrations(), FORM):
        try:
            client.command(statement)
            codes[statement] = None
        except DatabaseError as refused:
            codes[statement] = refused.code
    client.close()
    return codes


def test_two_replicas_of_a_shard_register_every_table_in_zookeeper(keeper: int, tmp_path: Path) -> None:
    for replica in ("a", "b"):  # the second finds the first one's columns and keys, and must have the same
        with running_cluster(tmp_path / replica, keeper, replica) as cluster:
            for statement, code in executed(cluster.url).items():
                of_replicas = statement.startswith("alter table") and "_local on cluster" in statement
                materialized = of_replicas and " materialize " in statement
                expected = NO_MUTATION if materialized else READ_ONLY if of_replicas else None
                assert code == expected, statement
            client = connect(ClickHouseAddress.parse(f"{cluster.url}/mail"))
            found = client.query("select table, replica_name, zookeeper_path from system.replicas").result_rows
            distributed = client.query("select name from system.tables where engine = 'Distributed'").result_rows
            kept = client.query("select engine_full from system.tables where name = 'delivery_local'").result_rows
            client.close()
        assert {name for (name,) in distributed} == TABLES
        assert {table for table, _, _ in found} == {f"{table}_local" for table in TABLES}
        assert {name for _, name, _ in found} == {replica}
        assert {path for *_, path in found} == {f"/clickhouse/tables/1/mail/{table}_local" for table in TABLES}
        assert "ReplicatedReplacingMergeTree" in kept[0][0]
        assert "replicated_deduplication_window = 200000" in kept[0][0]
    there = nodes(keeper, "/clickhouse/tables/1/mail")
    for table in TABLES:
        path = f"/clickhouse/tables/1/mail/{table}_local"
        assert {f"{path}/metadata", f"{path}/columns", f"{path}/replicas/a", f"{path}/replicas/b"} <= there


@pytest.mark.parametrize("form", [ProductionForm("nowhere"), ProductionForm("nowhere", sharded=True)])
def test_a_server_that_is_no_such_cluster_is_named_with_what_it_lacks(form: Any, tmp_path: Path) -> None:
    with (
        running_cluster(tmp_path / "cluster") as cluster,
        pytest.raises(
            ConfigurationError, match=r"not set up as the cluster of EMAIL_PLATFORM_CLICKHOUSE_CLUSTER;.* macros"
        ),
    ):
        upgrade_to_head(f"{cluster.url}/mail", form)
