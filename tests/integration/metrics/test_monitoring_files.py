"""The dashboard and the alert rules ask for nothing that a scrape does not have, and are formed as documented."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jsonschema
import promql_parser
import pytest
import yaml
from promql_parser import VectorSelector

from email_platform.adapters.object_store import S3ObjectStore
from email_platform.adapters.postgres.metrics import PostgresFigures
from email_platform.adapters.postgres.rate_limit import PostgresRateLimiter
from email_platform.metrics.collector import PlatformCollector
from email_platform.metrics.dagster_times import DagsterTimes
from email_platform.sending.rate_limit import AccountRate
from email_platform.settings import Settings
from tests.integration.own_databases import closing_engine, own_settings

FOLDER = Path(__file__).parents[3] / "deploy" / "monitoring"
DURATION = {"type": "string", "pattern": r"^(\d+(ms|s|m|h|d|w|y))+$"}
TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
# https://prometheus.io/docs/prometheus/latest/configuration/recording_rules/ and .../alerting_rules/
RULES_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["groups"],
    "additionalProperties": False,
    "properties": {
        "groups": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["name", "rules"],
                "additionalProperties": False,
                "properties": {
                    "name": {"type": "string"},
                    "interval": DURATION,
                    "limit": {"type": "integer"},
                    "query_offset": DURATION,
                    "labels": TEXTS,
                    "rules": {
                        "type": "array",
                        "minItems": 1,
                        "items": {
                            "type": "object",
                            "required": ["alert", "expr"],
                            "additionalProperties": False,
                            "properties": {
                                "alert": {"type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_]*$"},
                                "expr": {"type": "string"},
                                "for": DURATION,
                                "keep_firing_for": DURATION,
                                "labels": TEXTS,
                                "annotations": TEXTS,
                            },
                        },
                    },
                },
            },
        }
    },
}


def rules() -> list[dict[str, Any]]:
    found = yaml.safe_load((FOLDER / "alerts.yaml").read_text(encoding="utf-8"))
    return [rule for group in found["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    dashboard = json.loads((FOLDER / "dashboard.json").read_text(encoding="utf-8"))
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def expressions() -> list[str]:
    return [rule["expr"] for rule in rules()] + [one["expr"] for panel in panels() for one in panel["targets"]]


def selectors(expression: str) -> Iterator[VectorSelector]:
    found: list[VectorSelector] = []

    def visit(node: object) -> bool:
        if isinstance(node, VectorSelector):
            found.append(node)
        return True

    promql_parser.walk(promql_parser.parse(expression), visit)
    yield from found


def test_the_rules_follow_prometheus_documented_form() -> None:
    found = yaml.safe_load((FOLDER / "alerts.yaml").read_text(encoding="utf-8"))
    jsonschema.validate(found, RULES_SCHEMA)
    names = [rule["alert"] for rule in rules()]
    assert len(names) == len(set(names))
    for rule in rules():
        assert rule["annotations"]["summary"], rule["alert"]
        assert rule["labels"]["severity"] in ("page", "ticket")


def test_a_rule_with_a_misspelt_field_does_not_follow_it() -> None:
    with pytest.raises(jsonschema.ValidationError, match="'fro' was unexpected"):
        jsonschema.validate(
            {"groups": [{"name": "g", "rules": [{"alert": "A", "expr": "up", "fro": "5m"}]}]}, RULES_SCHEMA
        )


def test_the_dashboard_s_panels_do_not_overlap_and_name_no_data_source_of_ours() -> None:
    taken: set[tuple[int, int]] = set()
    dashboard = json.loads((FOLDER / "dashboard.json").read_text(encoding="utf-8"))
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24, panel["title"]
        assert not taken & cells, panel["title"]
        taken |= cells
    assert {panel["datasource"]["uid"] for panel in panels()} == {"${datasource}"}


def test_every_rule_is_explained_in_the_documentation() -> None:
    page = (FOLDER.parents[1] / "docs" / "monitoring.md").read_text(encoding="utf-8")
    assert {rule["alert"] for rule in rules()} == set(re.findall(r"`(EmailPlatform\w+)`", page))


@pytest.mark.integration
def test_every_metric_and_label_of_an_expression_exists_in_a_scrape(stack: Settings) -> None:
    own = own_settings(stack, "test_monitoring_files")
    now = datetime.now(UTC).timestamp()
    times = DagsterTimes({"reports_job": now}, {"queued_campaigns": now}, {"queued": 1}, now)
    with closing_engine(own.postgres_url.get_secret_value()) as engine:
        PostgresRateLimiter(engine, "ses/main", AccountRate(100), 1).reserve([1])
        variables = {"EMAIL_PLATFORM_SES_MAIN_RECIPIENTS_PER_SECOND": "100"}
        collector = PlatformCollector(
            PostgresFigures(engine),
            S3ObjectStore.from_settings(own),
            lambda: times,
            variables,
            lambda: datetime.now(UTC),
        )
        samples = [sample for metric in collector.collect() for sample in metric.samples]
    labels: dict[str, set[str]] = {}
    for sample in samples:
        labels.setdefault(sample.name, set()).update(sample.labels)
    for expression in expressions():
        for selector in selectors(expression):
            assert selector.name is not None
            assert selector.name in labels, f"{expression}: no scrape has {selector.name}"
            for matcher in selector.matchers.matchers:
                assert matcher.name in labels[selector.name], f"{expression}: it has no label {matcher.name}"
    shown = {one["expr"] for panel in panels() for one in panel["targets"]}
    on_dashboard = {selector.name for expression in shown for selector in selectors(expression)}
    assert on_dashboard == set(labels) - {"email_platform_up"}, "every metric is shown; this one is a part's too"
    for panel in panels():
        for one in panel["targets"]:
            names = {label for selector in selectors(one["expr"]) for label in labels[selector.name or ""]}
            assert set(re.findall(r"\{\{(\w+)\}\}", one["legendFormat"])) <= names, panel["title"]
