"""What Dagster's UI shows of the definitions before anything runs: owners, tags, groups, lineage, launchpads, jobs."""

from __future__ import annotations

import re
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._config.snap import ConfigSchemaSnapshot
from dagster._core.snap.snap_to_yaml import default_values_yaml_from_type_snap

from assets.catalog import SOURCES, holds_addresses
from email_platform.definitions import defs

# By name: Dagster's order comes from sets, and workers that share the tests must find them in one order.
SPECS = dict(
    sorted(((spec.key.to_user_string(), spec) for spec in defs.resolve_all_asset_specs()), key=lambda one: one[0])
)
GRAPH = defs.resolve_asset_graph()
RUNBOOK = (Path(__file__).parents[2] / "docs" / "runbook.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_every_asset_has_an_owner_a_group_and_a_description(spec: dg.AssetSpec) -> None:
    assert spec.owners
    assert spec.group_name not in (None, "default")
    assert spec.description


def test_the_groups_of_dbt_models_are_the_folders_of_the_project() -> None:
    folders = {path.stem: path.parent.name for path in Path("dbt_reports/models").glob("*/*.sql")}
    assert folders
    assert {name: SPECS[name].group_name for name in folders} == {
        name: f"reports_{folder}" for name, folder in folders.items()
    }


def test_whatever_holds_addresses_is_tagged_so_and_nothing_else_of_which_the_columns_are_known() -> None:
    columns = {}
    for path in Path("dbt_reports/models").glob("*/*.yml"):
        for model in yaml.safe_load(path.read_text(encoding="utf-8")).get("models", []):
            columns[model["name"]] = [column["name"] for column in model.get("columns", [])]
    tagged = {name for name, spec in SPECS.items() if "pii" in spec.tags}
    # dbt's yml leaves columns of these out, which a test of the built tables looks at (test_dbt_reports.py).
    partly = {
        "int_computed_states",
        "int_lead_states",
        "int_legacy_states",
        "int_events_to_match",
        "int_changed_deliveries",
    }
    look_ups = {path.stem for path in Path("dbt_reports/models/look_ups").glob("*.sql")}  # with the columns of `email`
    assert look_ups
    for name in columns.keys() - partly - look_ups:
        holds = holds_addresses(columns[name])
        assert holds == (name in tagged), name
    ours = {"campaign_audience", "campaign_deliveries", "warehouse_deliveries", "warehouse_events", "legacy_emails"}
    ours |= {"leads_in_step", "lead_changes"}
    assert ours | partly | look_ups | {"warehouse_dimensions", "campaign_reports", "webhooks/unsubscribe"} <= tagged
    assert {"postgresql/lead", "postgresql/suppression", "postgresql/app_user"} <= tagged
    assert "postgresql/campaign" not in tagged


def test_lineage_begins_at_tables_and_webhooks_that_dagster_does_not_make() -> None:
    nodes = {key: GRAPH.get(key) for key in GRAPH.get_all_asset_keys()}
    external = {key for key, node in nodes.items() if node.is_external}
    assert {key for key, node in nodes.items() if not node.parent_keys} == external
    assert {key.to_user_string() for key in external} == {
        name for name, spec in SPECS.items() if spec.group_name == SOURCES
    }
    assert all(nodes[key].child_keys for key in external), "a source that nothing comes from"


@pytest.mark.parametrize(
    "job", sorted(job.name for job in defs.resolve_all_job_defs() if not job.name.startswith("__"))
)
def test_a_launchpad_shows_what_an_operator_may_decide_and_no_resource(job: str) -> None:
    schema = defs.resolve_job_def(job).get_config_schema_snapshot()
    assert isinstance(schema, ConfigSchemaSnapshot)
    root = defs.resolve_job_def(job).run_config_schema.run_config_schema_type.key
    shown = default_values_yaml_from_type_snap(schema, schema.get_config_snap(root))
    assert "resources" not in (yaml.safe_load(shown) or {}), shown
    texts = {kind.description for kind in schema.all_config_snaps_by_key.values() if kind.description}
    texts |= {
        field.description
        for kind in schema.all_config_snaps_by_key.values()
        for field in kind.fields or []
        if field.description
    }
    assert not [text for text in texts if "dbt" in text.lower() and "profile" in text.lower()]


def test_every_resource_is_made_without_anything_configured_at_launch() -> None:
    definitions = defs.get_repository_def().get_top_level_resources()
    wanted = {name: definition for name, definition in definitions.items() if name != "io_manager"}  # asks the settings
    with dg.build_resources(wanted) as made:
        kinds = {name: type(getattr(made, name)).__name__ for name in wanted}
    assert (kinds["parts"], kinds["dbt"]) == ("PartsResource", "DbtOnWarehouse")
    ours = {"settings", "parts", "events", "alerts", "warehouse", "erasures", "retention", "legacy", "lead_source"}
    assert set(kinds) == ours | {"dbt"}


def test_every_job_says_what_it_does_for_whom_and_alerts_and_sensors_that_it_names_exist() -> None:
    sensors = {sensor.name for sensor in defs.sensors or [] if isinstance(sensor, dg.SensorDefinition)}
    named_alerts = set()
    for job in defs.resolve_all_job_defs():
        if job.name.startswith("__"):
            continue
        text = job.description or ""
        assert len(text) > 80, job.name
        for alert in re.findall(r"alert `(\w+)`", text):
            assert f"### {alert}\n" in RUNBOOK, alert
            named_alerts.add(alert)
        assert set(re.findall(r"sensor `(\w+)`", text)) <= sensors
    launched = set(re.findall(r"-j (\w+_job)", RUNBOOK))
    assert launched <= {job.name for job in defs.resolve_all_job_defs()}
    assert {"loads_late", "events_late", "reports_late", "unknown_calls", "object_quarantined"} == named_alerts
