"""The way over of docs/adopting.md with a generated old system: what it sets and runs, in PostgreSQL and in MariaDB.

Here are its steps up to the shadow, by themselves; `make adoption` runs the whole page with the whole platform.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.exc import ProgrammingError
from typer.testing import CliRunner

from email_platform.adapters.old_systems import import_legacy_month, sync_lead_slice
from email_platform.cli.app import app
from email_platform.local.stack.part import held_free_ports
from email_platform.local.stack.stack import clean_environment
from email_platform.runs.legacy_table import Month
from email_platform.settings import Settings, variable_of
from tests.integration.local.adopting_page import Engine, exports, script
from tests.integration.mariadb_process import MariaDb, running_mariadb
from tests.integration.own_databases import closing_engine, own_settings

pytestmark = [pytest.mark.integration, pytest.mark.slow]

ROOT = Path(__file__).parents[3]
_PORTS = ("postgres", "s3", "clickhouse", "provider", "receiver", "api", "dagster", "metrics")


@pytest.fixture(scope="module")
def mariadb() -> Iterator[MariaDb]:
    with running_mariadb() as server:
        yield server


def old_urls(engine: Engine, settings: Settings, mariadb: MariaDb) -> tuple[str, str]:
    """The old system's own user, and one that only reads and is not there yet."""
    if engine == "PostgreSQL":
        own = make_url(settings.postgres_url.get_secret_value())
        reader = own.set(username=f"old_reader_{own.database}", password="only-'select'%")
        return tuple(url.render_as_string(hide_password=False) for url in (own, reader))  # type: ignore[return-value]
    database = mariadb.make_database()
    return mariadb.url(database, "root", ""), mariadb.url(database, "old_reader", "only-'select'%")


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.output


@pytest.mark.parametrize("engine", ["PostgreSQL", "MySQL or MariaDB"])
def test_an_old_system_is_made_checked_imported_and_compared_with_the_settings_of_the_page(
    engine: Engine, stack: Settings, mariadb: MariaDb, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = own_settings(stack, f"way_{'pg' if engine == 'PostgreSQL' else 'maria'}")
    url, reader_url = old_urls(engine, settings, mariadb)
    small = ("legacy", "system", "--url", url, "--reader-url", reader_url, "--customers", "300", "--months", "1")
    code, shown = run(*small)
    assert (code, "rows in customer" in shown) == (0, True), shown
    assert run(*small)[0] == 1, "nothing is touched where its tables are"

    monkeypatch.chdir(tmp_path)
    variables = {**settings.variables(), **exports(engine)}
    for name in (variable_of("legacy_url"), variable_of("lead_source_url")):
        if name in exports(engine):
            variables[name] = reader_url
    del variables[variable_of("state_folder")]
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    audience, out = tmp_path / "audience.json", tmp_path / "who.csv"
    audience.write_text(json.dumps({"field": "age", "op": "gte", "value": 18}))
    code, shown = run("adopt", "check", "--condition", str(audience))
    assert code == 0, shown
    code, shown = run("adopt", "check", "--old-rows")
    assert (code, "its rows begin in 2025-01; the import begins in 2025-01" in shown) == (0, True), shown
    monkeypatch.setenv(variable_of("legacy_first_month"), "2025-02")
    assert run("adopt", "check", "--old-rows", "--json")[0] == 1, "the rows of January would stay behind"
    monkeypatch.setenv(variable_of("legacy_first_month"), "2025-01")

    here = Settings.load()
    with closing_engine(here.postgres_url.get_secret_value()) as engine_here, engine_here.begin() as connection:
        connection.execute(text("insert into app_user (email, name) values ('a@example.com', 'Ada')"))
        connection.execute(text("insert into sender (owner_id, from_address, from_name) values (1, 'a@e.com', 'Ada')"))
    if engine == "PostgreSQL":
        with closing_engine(reader_url) as reading, reading.begin() as connection:
            assert connection.execute(text("select count(*) from app.mail_lead")).scalar_one() > 200
            with pytest.raises(ProgrammingError, match="permission denied"):
                connection.execute(text("delete from app.customer"))
    else:
        assert sync_lead_slice(here, 0).differences() == []
    assert import_legacy_month(here, Month(2025, 1)).differences() == []
    code, shown = run(
        "adopt", "shadow", "--campaign", "2", "--condition", str(audience), "--sender", "1", "--out", str(out), "--json"
    )
    assert code == 1, "people opted out and moved since"
    counted: dict[tuple[str, str], int] = {
        (one["group"], one["why"]): one["addresses"] for one in json.loads(shown)["counts"]
    }
    assert counted["both", "both"] > 50, counted


@pytest.mark.adoption
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("engine", ["PostgreSQL", "MySQL or MariaDB"])
def test_the_lines_of_the_page_lead_over_from_an_old_system(engine: Engine, mariadb: MariaDb, tmp_path: Path) -> None:
    folder = tmp_path / "clone"
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(".git", ".venv", ".state", "__pycache__"))
    with held_free_ports(len(_PORTS)) as free:
        ports = {variable_of(f"{name}_port"): str(port) for name, port in zip(_PORTS, free, strict=True)}
    environment: dict[str, Any] = {
        **clean_environment(),
        **ports,
        variable_of("start_timeout_seconds"): "300",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(folder),
    }
    if engine != "PostgreSQL":
        database = mariadb.make_database()
        environment["OLD_SYSTEM_URL"] = mariadb.url(database, "root", "")
        environment["OLD_SYSTEM_READER_URL"] = mariadb.url(database, "old_reader", "only-select")
    ended = subprocess.run(
        ["bash", "-euxo", "pipefail", "-c", script(engine)],
        env=environment, cwd=folder, capture_output=True, text=True, timeout=2300,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout[-6000:] + ended.stderr[-6000:]
    assert "12 rows in campaign" in ended.stdout
    assert "addresses on both sides" in ended.stdout
    assert (folder / "all.html").stat().st_size > 10_000
