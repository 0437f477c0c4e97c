"""What a transaction pooler would break is named in deploy/README.md, and nothing else is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[3]
FOLDERS = ("email_platform", "assets", "sensors", "resources")

# PgBouncer, "Feature list for pooling modes": what belongs to a session, and does not work where each transaction may
# have another connection. A lock of a transaction and a temporary table that is dropped on commit do.
OF_A_SESSION = {
    "a lock of the session": r"pg_(try_)?advisory_(un)?lock(_shared|_all)?\b",
    "a setting of the session": r"""["']\s*set (?!local\b|transaction\b)(session )?[a-z_{][a-z_}]* ?=""",
    "waiting for notices": r"""["'](un)?listen \w""",
    "a cursor that outlives its transaction": r"\bwith hold\b",
    "a temporary table that outlives its transaction": r"create temp(orary)? table(?![^;]*?on commit drop)",
    "a prepared statement by name": r"""["']prepare \w""",
}
NAMED_IN_THE_DOCS = {
    "email_platform/adapters/mysql/connection.py": {"a setting of the session"},
    "email_platform/adapters/postgres/engine.py": {"a setting of the session"},
    "email_platform/adapters/postgres/legacy_source.py": {"a setting of the session"},
}


def of_a_session(text: str) -> set[str]:
    """What the module's SQL has that belongs to a session."""
    return {name for name, pattern in OF_A_SESSION.items() if re.search(pattern, text, re.IGNORECASE)}


def test_what_belongs_to_a_session_is_named_in_the_docs_and_nothing_else_is_there() -> None:
    found_paths = [path for folder in FOLDERS for path in sorted((PROJECT / folder).rglob("*.py"))]
    paths = [path for path in found_paths if "clickhouse_endpoint" not in path.parts]  # its sessions are ClickHouse's
    found = {str(path.relative_to(PROJECT)): of_a_session(path.read_text(encoding="utf-8")) for path in paths}
    assert {name: what for name, what in found.items() if what} == NAMED_IN_THE_DOCS
    documented = (PROJECT / "deploy/README.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in documented for name in NAMED_IN_THE_DOCS)


@pytest.mark.parametrize(
    ("sql", "named"),
    [
        ('"select pg_try_advisory_lock(:key)"', {"a lock of the session"}),
        ('"select pg_advisory_xact_lock(:key)"', set()),
        ('f"set {setting} = {value}"', {"a setting of the session"}),
        ("\"set timezone = 'UTC'\"", {"a setting of the session"}),
        ("\"set local work_mem = '1MB'\"", set()),
        ('"listen campaigns"', {"waiting for notices"}),
        ('"create temporary table a (b int)"', {"a temporary table that outlives its transaction"}),
        ('"create temporary table a (b int) on commit drop"', set()),
    ],
)
def test_each_kind_is_seen(sql: str, named: set[str]) -> None:
    assert of_a_session(sql) == named
