"""dbt-clickhouse builds against the embedded ClickHouse unchanged, twice."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import clickhouse_connect
import pytest

pytestmark = [pytest.mark.integration, pytest.mark.slow]

PASSWORD = "dbt's 'secret'"
FILES = {
    "dbt_project.yml": """
name: tiny
version: "1.0"
profile: tiny
flags: {send_anonymous_usage_stats: false}
""",
    "profiles.yml": """
tiny:
  target: dev
  outputs:
    dev:
      type: clickhouse
      driver: http
      host: 127.0.0.1
      port: "{{ env_var('TINY_PORT') | as_number }}"
      user: reporter
      password: "{{ env_var('TINY_PASSWORD') }}"
      schema: reports
      threads: 2
""",
    "seeds/people.csv": 'id,name\n1,Ann 😀\n2,"שלום, ""q"" it\'s"\n3,c\n',
    "models/stg_people.sql": """
{{ config(materialized='view') }}
select id, name from {{ ref('people') }}
""",
    "models/people_table.sql": """
{{ config(materialized='table', engine='MergeTree()', order_by='id') }}
select id, upper(name) as name from {{ ref('stg_people') }}
""",
    "models/people_replaced.sql": """
{{ config(materialized='incremental', incremental_strategy='delete+insert', unique_key='id',
          engine='MergeTree()', order_by='id') }}
select id, name, generateUUIDv4() as built from {{ ref('stg_people') }}
{% if is_incremental() %} where id >= 2 {% endif %}
""",
    "models/people_overwritten.sql": """
{{ config(materialized='incremental', incremental_strategy='insert_overwrite', partition_by='id',
          engine='MergeTree()', order_by='id') }}
select id, generateUUIDv4() as built from {{ ref('stg_people') }}
{% if is_incremental() %} where id >= 2 {% endif %}
""",
    "models/models.yml": """
models:
  - name: people_table
    config: {contract: {enforced: true}}
    columns:
      - {name: id, data_type: Int32, data_tests: [unique, not_null]}
      - {name: name, data_type: String}
  - name: people_replaced
    columns:
      - {name: id, data_tests: [unique, not_null, {relationships: {arguments: {to: ref('people'), field: id}}}]}
  - name: people_overwritten
    columns:
      - {name: id, data_tests: [unique]}
unit_tests:
  - name: names_are_upper_case
    model: people_table
    given: [{input: ref('stg_people'), rows: [{id: 7, name: "it's"}]}]
    expect: {rows: [{id: 7, name: "IT'S"}]}
""",
    "tests/no_empty_name.sql": "select id from {{ ref('people_table') }} where name = ''",
}


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    log = tmp_path / "endpoint.log"
    options = ["--data-folder", str(tmp_path / "data"), "--port", "0", "--user", "reporter", "--database", "mail"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "email_platform.local.clickhouse_endpoint", *options],
            stdout=output,
            stderr=output,
            env={**os.environ, "EMAIL_PLATFORM_CLICKHOUSE_PASSWORD": PASSWORD},
        )
    try:
        deadline = time.monotonic() + 60
        while not (found := re.search(r"listens on http://127\.0\.0\.1:(\d+)", log.read_text())):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield int(found.group(1))
    finally:
        process.terminate()
        process.wait(60)


def build(project: Path, port: int) -> dict[str, str]:
    """Run `dbt build`, and return the status of every node."""
    ended = subprocess.run(
        [Path(sys.executable).with_name("dbt"), "build", "--profiles-dir", "."],
        cwd=project,
        env={**os.environ, "TINY_PORT": str(port), "TINY_PASSWORD": PASSWORD},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    results = json.loads((project / "target" / "run_results.json").read_text())["results"]
    return {result["unique_id"]: result["status"] for result in results}


def test_dbt_builds_seeds_views_tables_increments_and_tests_twice(tmp_path: Path, port: int) -> None:
    project = tmp_path / "project"
    for name, text in FILES.items():
        file = project / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    first = build(project, port)
    with clickhouse_connect.get_client(
        host="127.0.0.1", port=port, username="reporter", password=PASSWORD, database="reports"
    ) as client:

        def built(table: str) -> dict[int, str]:
            rows = client.query(f"select id, toString(built) from {table} order by id").result_rows
            return {identity: at for identity, at in rows}  # noqa: C416 - rows are sequences, which dict() does not take

        before = {table: built(table) for table in ("people_replaced", "people_overwritten")}
        second = build(project, port)
        assert set(first.values()) | set(second.values()) == {"success", "pass"}
        for table, rows in before.items():
            after = built(table)
            assert list(after) == [1, 2, 3]
            assert [after[number] == rows[number] for number in (1, 2, 3)] == [True, False, False]
        names = client.query("select name from people_table order by id").result_rows
        assert names == [("ANN 😀",), ('שלום, "Q" IT\'S',), ("C",)]
