"""`segment …` on the real database, and a campaign whose condition names a segment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, text
from typer.testing import CliRunner, Result

from email_platform.adapters.assembly import open_explain, open_parts
from email_platform.cli.app import app
from email_platform.errors import InvalidConditionError
from email_platform.runs.explain import explain
from email_platform.runs.freeze import freeze_audience
from email_platform.settings import Settings
from tests.integration.campaign_rows import in_city, numbered, queue_campaign, row_of, seed_leads, unique

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("environment")]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def add(name: str, condition: object, *more: str) -> Result:
    Path("condition.json").write_text(json.dumps(condition))
    return run("segment", "add", name, "--condition", "condition.json", *more)


def shown(name: str) -> dict[str, Any]:
    return json.loads(run("segment", "show", name, "--json").stdout)


def test_segments_are_added_changed_listed_and_shown() -> None:
    inner, outer = unique("inner"), unique("outer")
    condition = {"field": "country", "op": "eq", "value": "DE"}
    assert add(inner, condition).exit_code == 0
    assert add(outer, {"not": {"segment": inner}}).exit_code == 0
    again = add(inner, condition)
    assert (again.exit_code, "--replace" in again.stderr) == (1, True)
    changed = {**condition, "value": "FR"}
    assert add(inner, changed, "--replace").exit_code == 0
    assert shown(outer) == {
        "name": outer,
        "condition": {"not": {"segment": inner}},
        "resolved": {"not": changed},
    }
    listed = json.loads(run("segment", "list", "--json").stdout)
    assert {one["name"]: one["condition"] for one in listed}[inner] == changed
    assert inner in run("segment", "list").stdout
    assert '"FR"' in run("segment", "show", outer).stdout
    assert run("segment", "show", "nobody").exit_code == 1


def test_a_segment_that_could_not_be_used_is_refused() -> None:
    first, second = unique("first"), unique("second")
    for condition, problem in (
        ({"segment": second}, "there is no segment"),
        ({"any": [{"segment": first}]}, "contains itself"),
        ({"field": "contry", "op": "eq", "value": "DE"}, "did you mean 'country'"),
        ({"all": []}, "at least one"),
    ):
        refused = add(first, condition)
        assert (refused.exit_code, problem in refused.stderr) == (1, True), refused.stderr
    assert add("-bad", {"all": []}).exit_code != 0
    assert add(first, {"field": "age", "op": "gt", "value": 5}).exit_code == 0
    assert add(second, {"not": {"not": {"segment": first}}}).exit_code == 0
    cycle = add(first, {"segment": second}, "--replace")
    assert "contains itself" in cycle.stderr
    # A change that is in order by itself, and makes one that uses it too deep.
    deep: dict[str, Any] = {"field": "age", "op": "gt", "value": 5}
    for _ in range(6):
        deep = {"not": deep}
    too_deep = add(first, deep, "--replace")
    assert "nested too deeply" in too_deep.stderr
    assert shown(first)["condition"] == {"field": "age", "op": "gt", "value": 5}


def test_an_audience_is_frozen_with_its_segments_as_they_were(oltp_engine: Engine, settings: Settings) -> None:
    city = seed_leads(oltp_engine, [{**row, "age": age} for row, age in zip(numbered(3), (10, 20, 30), strict=True)])
    name = unique("adults")
    adult = {"field": "age", "op": "gte", "value": 18}
    assert add(name, adult).exit_code == 0
    condition = {"all": [*in_city(city)["all"], {"segment": name}]}
    campaign_id, later = (queue_campaign(oltp_engine, condition) for _ in range(2))
    with open_parts(settings) as parts:
        assert parts.audience.count_rows(condition, 100, 10) == 2
        assert parts.audience.estimate_rows(condition) >= 0
        manifest = freeze_audience(parts, campaign_id).manifest
        assert manifest.eligible_rows == 2
        resolved = {"all": [*in_city(city)["all"], adult]}
        assert manifest.condition == resolved
        assert add(name, {**adult, "value": 25}, "--replace").exit_code == 0
        assert parts.manifests.find(campaign_id) == manifest
        assert freeze_audience(parts, later).manifest.eligible_rows == 1
    with oltp_engine.connect() as connection:
        stored = connection.execute(
            text("select condition from campaign_manifest where campaign_id = :id"), {"id": campaign_id}
        ).scalar_one()
    assert stored == resolved


def test_a_segment_that_is_gone_or_circular_fails_the_campaign_with_the_reason(
    oltp_engine: Engine, settings: Settings
) -> None:
    name = unique("circle")
    with oltp_engine.begin() as connection:  # by SQL, past the command's check
        connection.execute(
            text("insert into segment (name, condition) values (:name, cast(:condition as jsonb))"),
            {"name": name, "condition": json.dumps({"not": {"segment": name}})},
        )
    for segment, problem in ((name, "contains itself"), ("nobody knows it", "there is no segment")):
        campaign_id = queue_campaign(oltp_engine, {"segment": segment})
        with open_explain(settings) as parts:
            assert explain(parts, campaign_id, 1).verdict == "not_frozen"
        with open_parts(settings) as parts, pytest.raises(InvalidConditionError):
            freeze_audience(parts, campaign_id)
        row = row_of(oltp_engine, campaign_id)
        assert (row.status, problem in row.status_reason) == ("failed", True)
    with oltp_engine.begin() as connection:
        connection.execute(text("delete from segment where name = :name"), {"name": name})
