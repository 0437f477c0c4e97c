"""Does docs/database.md name every table and every column of the migrated schemas, as they are?"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from sqlalchemy import text

from email_platform.adapters.assembly import open_oltp, open_warehouse
from email_platform.domain.campaigns import LEGAL_TRANSITIONS
from email_platform.settings import Settings
from tests.integration.own_databases import own_settings

pytestmark = pytest.mark.integration

PAGE = (Path(__file__).parents[4] / "docs" / "database.md").read_text(encoding="utf-8")
NOT_OURS = "email_platform_alembic_version"
KEPT_FOR_ITSELF = {"schema_version"}
COLUMNS = text(
    """
    select class.relname, attribute.attname, format_type(attribute.atttypid, attribute.atttypmod),
           not attribute.attnotnull
    from pg_attribute as attribute join pg_class as class on class.oid = attribute.attrelid
    where class.relnamespace = current_schema()::regnamespace and class.relkind in ('r', 'v', 'p')
        and attribute.attnum > 0 and not attribute.attisdropped
    """
)


@pytest.fixture(scope="module")
def fresh(stack: Settings) -> Settings:
    """Databases with what the migrations make and nothing that another test left."""
    return own_settings(stack, "page")


def test_every_table_and_column_is_there_with_its_type(fresh: Settings) -> None:
    with open_oltp(fresh) as engine, engine.connect() as connection:
        found = {
            (row[0], row[1], row[2].replace("timestamp with time zone", "timestamptz"), row[3])
            for row in connection.execute(COLUMNS)
            if row[0] != NOT_OURS
        }
    written = set()
    for table, section in re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL):
        for column, kind, null, meaning in re.findall(
            r"^\| `(\w+)` \| ([^|]+) \| (yes)? ?\| (.+) \|$", section, re.MULTILINE
        ):
            if table != "States":
                assert meaning.strip(), (table, column)
                written.add((table, column, kind.strip(), bool(null)))
    assert written == found
    assert NOT_OURS in PAGE


def test_the_states_of_a_campaign_are_the_state_machine_s() -> None:
    drawn = set(re.findall(r"^    (\w+) --> (\w+)$", PAGE, re.MULTILINE))
    assert drawn == {(str(status), str(next_one)) for status, more in LEGAL_TRANSITIONS.items() for next_one in more}


def test_the_states_of_a_call_are_the_table_s(fresh: Settings) -> None:
    with open_oltp(fresh) as engine, engine.connect() as connection:
        constraint = connection.execute(
            text("select pg_get_constraintdef(oid) from pg_constraint where conname = 'ck_send_call_state_known'")
        ).scalar_one()
    calls = PAGE.partition("| state | means | an end |")[2].partition("\n\n")[0]
    assert set(re.findall(r"^\| `(\w+)`", calls, re.MULTILINE)) == set(re.findall(r"'(\w+)'", constraint))


def test_every_raw_table_and_column_of_the_warehouse_is_there_with_its_type(fresh: Settings) -> None:
    with open_warehouse(fresh) as warehouse:
        found = {
            (str(row[0]), str(row[1]), str(row[2]))
            for row in warehouse.client.query(
                "select table, name, type from system.columns where database = currentDatabase()"
            ).result_rows
            if row[0] not in KEPT_FOR_ITSELF
        }
    written = {
        (table, column, kind)
        for table, section in re.findall(r"^## warehouse: (\w+)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
        for column, kind in re.findall(r"^\| `(\w+)` \| ([^|]+) \| .+ \|$", section, re.MULTILINE)
    }
    assert written == found
