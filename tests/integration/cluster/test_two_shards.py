"""What the platform and dbt ask of a sharded warehouse: nothing that shards refuse, or cannot answer by themselves."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from uuid import uuid4

import pytest
from pydantic import SecretStr

from email_platform.adapters.assembly import open_warehouse
from email_platform.adapters.clickhouse.erasure import WarehousePerson
from email_platform.adapters.clickhouse.lookups import find_emails
from email_platform.adapters.object_store import S3ObjectStore
from email_platform.domain.erasure import ErasedPerson, ErasureKey
from email_platform.settings import Settings
from tests.integration.cluster_process import Cluster, running_cluster
from tests.integration.dbt_project.test_dbt_reports import (
    NOON,
    PROJECT,
    Reports,
    about,
    campaign,
    delivery,
    event,
    suppressions,
    user,
)
from tests.integration.dbt_project.test_legacy_reports import load_old, old_row
from tests.integration.own_databases import own_warehouse

pytestmark = [pytest.mark.integration, pytest.mark.slow]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("cluster") / "state") as running:
        yield running


@pytest.fixture(scope="module")
def sharded(stack: Settings, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reports]:
    """A warehouse on the cluster with emails, events, old rows and dimensions."""
    base = cluster.settings_of("unused")
    base["clickhouse_url"] = SecretStr(base["clickhouse_url"])
    settings = own_warehouse(stack.model_copy(update=base), "mail")
    folder = tmp_path_factory.mktemp("sharded")
    with open_warehouse(settings) as warehouse:
        reports = Reports(settings, warehouse, S3ObjectStore.from_settings(settings), folder / uuid4().hex[:8], folder)
        load_first(reports)
        yield reports


def load_first(reports: Reports) -> None:
    reports.load_deliveries(1, [delivery(1, lead, "accepted", NOON) for lead in range(1, 5)])
    load_old(reports, "old", [old_row(1, 900_001, 1, "sent"), old_row(2, 900_001, 2, "bounced")])
    reports.load_dimensions(
        {"app_user": [user(1)], "campaign": [campaign(1, eligible=4)], "suppression": [suppressions(2, source="us")]},
        NOON,
    )


def test_a_load_is_acknowledged_where_it_will_be_looked_for(cluster: Cluster, sharded: Reports) -> None:
    before = len(cluster.statements())
    sharded.load_deliveries(2, [delivery(2, 1, "accepted", NOON)])
    inserts = [one for one in cluster.statements()[before:] if one["text"].startswith("insert into delivery")]
    assert len(inserts) == 1
    expected = {
        "distributed_foreground_insert": "1",
        "insert_quorum": "auto",
        "parallel_distributed_insert_select": "0",
        "load_balancing": "in_order",
        "async_insert": "0",
    }
    assert {name: inserts[0]["settings"].get(name) for name in expected} == expected
    sharded.load_deliveries(2, [delivery(2, 1, "accepted", NOON)])
    rows = sharded.warehouse.query("select count() from delivery_local where campaign_id = 2", {})
    assert rows == [(1,)], "the same object again adds no row on its shard"


def test_every_insert_goes_with_the_cluster_s_settings(cluster: Cluster, sharded: Reports) -> None:
    sharded.warehouse.fill_keys()
    into_a_raw_table = re.compile(r"\s*insert\s+into\s+`?(\w+)`?[\s(]", re.IGNORECASE)
    raw = [(found[1], one) for one in cluster.statements() if (found := into_a_raw_table.match(one["text"]))]
    tables = {table for table, _ in raw}
    assert {"delivery", "legacy_email", "campaign", "dimension_snapshot", "schema_version", "email_key"} <= tables
    assert [table for table, one in raw if one["settings"].get("distributed_foreground_insert") != "1"] == []


def test_look_ups_fills_and_an_erasure_ask_every_shard(cluster: Cluster, sharded: Reports) -> None:
    warehouse = sharded.warehouse
    key = ErasureKey("a key of thirty-two letters or more")
    person = ErasedPerson("lead3@example.org", key.pseudonym("lead3@example.org"))
    assert len(find_emails(warehouse, "address", "lead3@example.org", 10)) == 1
    warehouse.fill_keys()
    for by, wanted in (("lead", 3), ("address", "lead3@example.org"), ("provider_message_id", "p-1-3")):
        assert len(find_emails(warehouse, by, wanted, 10)) == 1, by  # type: ignore[arg-type]
    changed = WarehousePerson(lambda: warehouse).erase(person, dry_run=False)
    assert changed["mail.delivery_local"] == 1
    assert find_emails(warehouse, "address", "lead3@example.org", 10) == []
    assert len(find_emails(warehouse, "address", person.pseudonym, 10)) == 1
    assert warehouse.fingerprints()["delivery"].rows >= 4
    assert cluster.strangers() == set()


def test_every_model_and_its_tests_are_built_from_shards_first_and_again(cluster: Cluster, sharded: Reports) -> None:
    sharded.models()
    first = len(cluster.shard.asked)
    sharded.load_deliveries(3, [delivery(3, lead, "accepted", NOON) for lead in range(1, 4)])
    sharded.load_events(
        event("delivered", key="1", **about(1, 1)),
        event("bounced", "hard", key="2", provider_message_id="p-1-2", normaliser_version=2),
        event("complained", key="3", recipient="lead4@example.org", at=NOON + timedelta(hours=1)),
    )
    load_old(sharded, "again", [old_row(2, 900_001, 2, "sent", version=10**18)])
    campaigns = [campaign(1, eligible=4), campaign(2, eligible=1), campaign(3, eligible=3)]
    sharded.load_dimensions({"app_user": [user(1)], "campaign": campaigns}, NOON + timedelta(hours=2))
    sharded.build()
    assert sharded.statuses(1) == ["delivered", "bounced_hard", "sent", "complained"]
    assert sharded.statuses(3) == ["sent"] * 3
    assert sharded.statuses(900_001) == ["sent", "sent"]
    assert len(cluster.shard.asked) > first > 0
    assert cluster.strangers() == set()


def test_the_shard_would_have_been_asked_for_a_report_without_global(cluster: Cluster, sharded: Reports) -> None:
    """What the other tests look for is found: a bare ``in`` reaches the shard with a table that it does not have."""
    query = sharded.warehouse.query
    query("create table if not exists mail_reports.few (id Int64) engine = MergeTree order by id", {})
    query("select count() from delivery where campaign_id in (select id from mail_reports.few)", {})
    assert cluster.strangers() == {"few"}
    cluster.shard.asked.clear()
    query("select count() from delivery where campaign_id global in (select id from mail_reports.few)", {})
    assert cluster.strangers() == set()
    assert len(cluster.shard.asked) == 1


def test_no_model_has_a_subquery_behind_a_bare_in() -> None:
    bare = re.compile(r"\bin\s*\(\s*(?:select|with)\b", re.IGNORECASE)
    files = [path for path in PROJECT.rglob("*.sql") if "target" not in path.relative_to(PROJECT).parts]
    assert len(files) > 40
    assert [path.name for path in files if bare.search(path.read_text(encoding="utf-8"))] == []
