"""Do the dashboards of deploy/superset agree with the marts, with the exposures and among themselves?"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import sqlglot
import yaml
from sqlglot import exp

PROJECT = Path(__file__).parents[3]
EXPORT = PROJECT / "deploy" / "superset" / "export"
MASKED = "XXXXXXXXXX"  # what Superset writes in place of a password, and asks for at an import
ADDRESSES = {"email", "owner_email", "example_reason", "error"}


def files(kind: str) -> dict[str, dict[str, Any]]:
    return {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in (EXPORT / kind).rglob("*.yaml")}


DATASETS, CHARTS, DASHBOARDS = files("datasets"), files("charts"), files("dashboards")
[DATABASE] = files("databases").values()
DATASET_BY_UUID = {dataset["uuid"]: dataset for dataset in DATASETS.values()}


@pytest.fixture(scope="module")
def manifest() -> dict[str, Any]:
    return json.loads((PROJECT / "dbt_reports" / "target" / "manifest.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def marts(manifest: dict[str, Any]) -> dict[str, dict[str, Any]]:
    models = [node for node in manifest["nodes"].values() if node["resource_type"] == "model"]
    return {node["name"]: node["columns"] for node in models if "marts" in node["fqn"]}


def tables_of(dataset: Mapping[str, Any]) -> set[str]:
    if dataset["sql"] is None:
        return {dataset["table_name"]}
    return {table.name for table in sqlglot.parse_one(dataset["sql"], read="clickhouse").find_all(exp.Table)}


def columns_in(expression: str) -> set[str]:
    return {column.name for column in sqlglot.parse_one(expression, read="clickhouse").find_all(exp.Column)}


def used_by(chart: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What a chart asks for: ("column" or "metric", its name)."""
    params = chart["params"]
    for name in (*params.get("groupby", []), params.get("x_axis")):
        if name:
            yield "column", name
    for asked in params.get("adhoc_filters", []):
        yield "column", asked["subject"]
    for name in (*params.get("metrics", []), params.get("metric"), params.get("timeseries_limit_metric")):
        if name:
            yield "metric", name
    if params["viz_type"] == "echarts_timeseries_bar" and params.get("x_axis_sort"):
        yield "metric", params["x_axis_sort"]


@pytest.mark.parametrize("name", DATASETS)
def test_a_dataset_is_a_mart_and_has_its_columns(name: str, marts: dict[str, dict[str, Any]]) -> None:
    dataset = DATASETS[name]
    tables = tables_of(dataset)
    assert name == dataset["table_name"] in tables <= set(marts)
    known = {column: about for table in tables - {name} for column, about in marts[table].items()} | marts[name]
    for column in dataset["columns"]:
        about = known[column["column_name"]]
        assert column["type"] == about["data_type"], column["column_name"]
        assert column["description"] == " ".join(about["description"].split()), column["column_name"]
        assert column["is_dttm"] == ("Date" in column["type"])
    listed = {column["column_name"] for column in dataset["columns"]}
    assert dataset["main_dttm_col"] in listed
    for metric in dataset["metrics"]:
        assert columns_in(metric["expression"]) <= set(marts[name]), metric["metric_name"]
    if dataset["sql"]:
        selected = sqlglot.parse_one(dataset["sql"], read="clickhouse")
        assert isinstance(selected, exp.Select)
        assert selected.named_selects == [column["column_name"] for column in dataset["columns"]]
        assert {column.name for column in selected.find_all(exp.Column)} <= set(known)


@pytest.mark.parametrize("name", CHARTS)
def test_a_chart_asks_for_what_its_dataset_has(name: str) -> None:
    chart = CHARTS[name]
    dataset = DATASET_BY_UUID[chart["dataset_uuid"]]
    has = {("column", column["column_name"]) for column in dataset["columns"]}
    has |= {("metric", metric["metric_name"]) for metric in dataset["metrics"]}
    used = set(used_by(chart))
    assert used
    assert used <= has
    assert chart["viz_type"] == chart["params"]["viz_type"]


@pytest.mark.parametrize("name", DASHBOARDS)
def test_a_dashboard_shows_charts_that_are_there_and_filters_by_columns_that_are_there(name: str) -> None:
    dashboard = DASHBOARDS[name]
    titles = {chart["uuid"]: chart["slice_name"] for chart in CHARTS.values()}
    position = dashboard["position"]
    placed = [one["meta"] for one in position.values() if isinstance(one, dict) and one["type"] == "CHART"]
    assert {meta["uuid"]: meta["sliceName"] for meta in placed}.items() <= titles.items()
    for row in (one for one in position.values() if isinstance(one, dict) and one["type"] == "ROW"):
        assert sum(position[child]["meta"]["width"] for child in row["children"]) == 12  # Superset's grid
    filters = dashboard["metadata"]["native_filter_configuration"]
    assert {one["filterType"] for one in filters} == {"filter_select", "filter_time"}
    for target in (target for one in filters for target in one["targets"] if target):
        columns = DATASET_BY_UUID[target["datasetUuid"]]["columns"]
        assert target["column"]["name"] in {column["column_name"] for column in columns}


def test_every_chart_is_on_one_dashboard_and_every_dataset_is_used() -> None:
    shown = [
        one["meta"]["uuid"]
        for dashboard in DASHBOARDS.values()
        for one in dashboard["position"].values()
        if isinstance(one, dict) and one["type"] == "CHART"
    ]
    assert sorted(shown) == sorted(chart["uuid"] for chart in CHARTS.values())
    assert {chart["dataset_uuid"] for chart in CHARTS.values()} == set(DATASET_BY_UUID)
    assert {dataset["database_uuid"] for dataset in DATASETS.values()} == {DATABASE["uuid"]}


def test_the_files_hold_no_secret_and_no_column_with_addresses() -> None:
    address = urlsplit(DATABASE["sqlalchemy_uri"])
    assert address.password == MASKED
    assert {dataset["schema"] for dataset in DATASETS.values()} == {address.path.strip("/")}
    assert not DATABASE["expose_in_sqllab"]
    for path in EXPORT.rglob("*.yaml"):
        assert not re.search(r"password|secret|token|encrypted_extra", path.read_text(encoding="utf-8"), re.I), (
            path.name
        )
    for dataset in DATASETS.values():
        assert ADDRESSES.isdisjoint(column["column_name"] for column in dataset["columns"]), dataset["table_name"]


def test_every_exposed_dashboard_is_a_file_that_reads_what_the_exposure_says(manifest: dict[str, Any]) -> None:
    exposures = [one for one in manifest["exposures"].values() if one["type"] == "dashboard"]
    pointed = {one["name"]: PROJECT / one["meta"]["superset_dashboard"] for one in exposures}
    assert sorted(pointed.values()) == sorted((EXPORT / "dashboards").glob("*.yaml"))
    for one in exposures:
        dashboard = DASHBOARDS[pointed[one["name"]].stem]
        assert one["url"].endswith(f"/superset/dashboard/{dashboard['slug']}/")
        shown = {
            item["meta"]["uuid"]
            for item in dashboard["position"].values()
            if isinstance(item, dict) and item["type"] == "CHART"
        }
        used = {chart["dataset_uuid"] for chart in CHARTS.values() if chart["uuid"] in shown}
        read = {table for dataset in used for table in tables_of(DATASET_BY_UUID[dataset])}
        assert {name.rpartition(".")[2] for name in one["depends_on"]["nodes"]} == read, one["name"]
