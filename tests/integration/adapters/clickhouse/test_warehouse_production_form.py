"""Is the cluster's schema complete, and does the engine parse every statement of it?"""

from __future__ import annotations

import re

import pytest
from typer.testing import CliRunner

from email_platform.adapters.assembly import open_warehouse
from email_platform.adapters.clickhouse.migrate import ddl, read_migrations
from email_platform.adapters.clickhouse.production_form import ProductionForm, production_form
from email_platform.cli.app import app
from email_platform.errors import ConfigurationError
from email_platform.settings import Settings

pytestmark = pytest.mark.integration

FORMS = {
    "replicas": ProductionForm("main"),
    "replicas, cold and kept": ProductionForm(
        "main", storage_policy="tiered", cold_after_months=6, keep_events_months=24
    ),
    "shards": ProductionForm("main", sharded=True, storage_policy="tiered", cold_after_months=6),
}


@pytest.mark.parametrize("name", FORMS)
def test_the_engine_parses_every_statement(settings: Settings, name: str) -> None:
    with open_warehouse(settings) as warehouse:
        for statement in [FORMS[name].database("email_platform"), *ddl(read_migrations(), FORMS[name])]:
            formatted = warehouse.client.query(
                "select formatQuerySingleLine({statement:String})", parameters={"statement": statement}
            ).result_rows[0][0]
            assert "ON CLUSTER main" in formatted


@pytest.mark.parametrize("name", FORMS)
def test_every_table_of_one_server_is_there_with_the_same_columns_and_keys(name: str) -> None:
    plain = {found["table"]: found for found in map(created, ddl(read_migrations())) if found}
    suffix = "_local" if FORMS[name].sharded else ""
    formed = {found["table"]: found for found in map(created, ddl(read_migrations(), FORMS[name])) if found}
    assert {f"{table}{suffix}" for table in plain} == set(formed)
    for table, found in plain.items():
        twin = formed[f"{table}{suffix}"]
        assert twin["columns"] == found["columns"]
        assert twin["order"] == found["order"]
        assert twin["engine"].startswith(f"Replicated{found['engine'].split('(')[0]}(")


def created(statement: str) -> dict[str, str] | None:
    found = re.match(
        r"create table if not exists (?P<table>\w+)(?: on cluster main)?\s*\((?P<columns>.*)\)\s*"
        r"engine = (?P<engine>\w+(?:\([^)]*\))?)\s*partition by .*?order by (?P<order>\([^)]*\)|\w+)",
        statement,
        re.DOTALL,
    )
    return found.groupdict() if found else None


def test_the_version_of_a_replacing_table_stays_its_last_argument() -> None:
    (delivery,) = [one for one in ddl(read_migrations(), FORMS["replicas"]) if "exists delivery on" in one]
    assert (
        "engine = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/{database}/{table}', '{replica}', version)"
        in delivery
    )
    assert "replicated_deduplication_window = 200000" in delivery


def test_only_tables_that_grow_are_moved_and_only_events_are_deleted() -> None:
    statements = list(ddl(read_migrations(), FORMS["replicas, cold and kept"]))
    moved = {
        found["table"] for found in map(created, [one for one in statements if "to volume 'cold'" in one]) if found
    }
    assert moved == {"delivery", "exclusion", "event", "legacy_email"}
    deleted = [one for one in statements if "month delete" in one]
    assert len(deleted) == 1
    assert "exists event on cluster" in deleted[0]


def test_of_shards_columns_come_to_both_tables_and_indexes_to_the_local_one() -> None:
    statements = list(ddl(read_migrations(), FORMS["shards"]))
    assert any(one.startswith("alter table delivery_local on cluster main add column") for one in statements)
    assert any(one.startswith("alter table delivery on cluster main add column") for one in statements)
    assert any(one.startswith("alter table delivery_local on cluster main add index") for one in statements)
    assert not any(one.startswith("alter table delivery on cluster main add index") for one in statements)
    assert any(
        "Distributed(main, currentDatabase(), delivery_local, cityHash64(campaign_id))" in one for one in statements
    )


def test_one_server_gets_the_migrations_as_they_are_written() -> None:
    written = [statement for migration in read_migrations() for statement in migration.statements]
    assert list(ddl(read_migrations()))[1:] == written


def test_a_statement_without_a_known_form_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="no production form is known for the statement 'optimize table"):
        FORMS["replicas"].statements("optimize table delivery final")


def test_settings_that_go_together_are_asked_for(settings: Settings) -> None:
    assert production_form(settings) is None
    clustered = settings.model_copy(update={"clickhouse_cluster": "main", "clickhouse_cold_after_months": 6})
    with pytest.raises(ConfigurationError, match="needs a storage policy"):
        production_form(clustered)


def test_the_command_prints_what_a_migration_applies() -> None:
    result = CliRunner().invoke(app, ["warehouse", "ddl", "--cluster", "main", "--keep-events-months", "24"])
    assert result.exit_code == 0
    form = ProductionForm("main", keep_events_months=24)
    assert [one.strip() for one in result.output.split(";\n") if one.strip()] == list(ddl(read_migrations(), form))
    assert CliRunner().invoke(app, ["warehouse", "ddl", "--sharded"]).exit_code == 2
    assert CliRunner().invoke(app, ["warehouse", "ddl", "--cluster", "a; drop"]).exit_code == 2
