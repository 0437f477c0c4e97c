"""`lead import` by the owner's own key, and in batches that an import which ended half-way goes on behind."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, func, select, text
from typer.testing import CliRunner, Result

from email_platform.adapters.postgres.erased import erasure_key
from email_platform.adapters.postgres.lead_import import ImportedCounts, import_leads
from email_platform.adapters.postgres.tables import lead, lead_import, suppression
from email_platform.audience.lead_file import ImportedLead
from email_platform.cli.app import app
from email_platform.domain.erasure import ErasureKey
from email_platform.errors import CommandRefusedError
from email_platform.settings import Settings
from tests.integration.campaign_rows import seed_leads, unique

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("environment")]


@pytest.fixture
def key(settings: Settings) -> ErasureKey | None:
    return erasure_key(settings)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def leads_of(engine: Engine, city: str) -> list[Any]:
    with engine.connect() as connection:
        return list(connection.execute(select(lead).where(lead.c.city == city).order_by(lead.c.id)).all())


def write(rows: list[list[str]], name: str = "leads.csv") -> None:
    with Path(name).open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)


def numbered(city: str, tag: str, rows: int) -> Iterator[ImportedLead]:
    for number in range(1, rows + 1):
        yield ImportedLead(number, {"email": f"{number}-{tag}@example.com", "city": city}, "{}")


def test_a_key_finds_its_lead_whatever_the_address_is_and_an_opt_out_stays_with_the_old_address(
    oltp_engine: Engine,
) -> None:
    tag, key = unique("lead"), unique("key")
    opted_out = datetime(2026, 1, 1, tzinfo=UTC)
    city = seed_leads(
        oltp_engine,
        [
            {"email": f"Old-{tag}@example.com", "own_key": f"{key}-1", "unsubscribed_at": opted_out},
            {"email": f"plain-{tag}@example.com", "own_key": None, "unsubscribed_at": None},
            {"email": f"theirs-{tag}@example.com", "own_key": f"{key}-9", "unsubscribed_at": None},
        ],
    )
    write(
        [
            ["Kundennummer", "email", "first_name", "city"],
            [f"{key}-1", f"moved-{tag}@example.com", "Moved", city],
            [f"{key}-2", f"PLAIN-{tag}@example.com", "Keyed", city],
            [f"{key}-3", f"theirs-{tag}@example.com", "New", city],
            [f"{key}-1", f"again-{tag}@example.com", "Again", city],
            ["", f"nokey-{tag}@example.com", "Keyless", city],
            ["", f"old-{tag}@example.com", "Other", city],
            ["x" * 201, f"long-{tag}@example.com", "Long", city],
        ]
    )
    result = run("lead", "import", "leads.csv", "--map", "Kundennummer=own_key", "--json")
    document = json.loads(result.stdout)
    assert (document["added"], document["changed"], document["repeated"], document["rejected"]) == (3, 2, [5], 1)
    found = [(row.own_key, row.email, row.first_name) for row in leads_of(oltp_engine, city)]
    assert found == [
        (f"{key}-1", f"moved-{tag}@example.com", "Moved"),
        (f"{key}-2", f"plain-{tag}@example.com", "Keyed"),
        (f"{key}-9", f"theirs-{tag}@example.com", "Ada"),
        (f"{key}-3", f"theirs-{tag}@example.com", "New"),
        (None, f"nokey-{tag}@example.com", "Keyless"),
        (None, f"old-{tag}@example.com", "Other"),
    ]
    assert leads_of(oltp_engine, city)[0].unsubscribed_at == opted_out
    with oltp_engine.connect() as connection:
        kept = connection.execute(
            select(suppression.c.reason, suppression.c.sender_id).where(
                suppression.c.address == f"old-{tag}@example.com"
            )
        ).all()
        others = connection.execute(
            select(func.count()).select_from(suppression).where(suppression.c.address.like(f"%-{tag}@example.com"))
        ).scalar_one()
    assert [tuple(row) for row in kept] == [("unsubscribe", None)]
    assert others == 1
    again = json.loads(run("lead", "import", "leads.csv", "--map", "Kundennummer=own_key", "--json").stdout)
    assert (again["added"], again["changed"]) == (0, 5)
    assert len(leads_of(oltp_engine, city)) == 6


def test_an_import_that_ends_half_way_goes_on_behind_its_last_batch(
    oltp_engine: Engine, key: ErasureKey | None
) -> None:
    city, tag, name = unique("city"), unique("lead"), unique("file")

    def half() -> Iterator[ImportedLead]:
        yield from numbered(city, tag, 250)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_leads(oltp_engine, half(), key, fingerprint=name, batch_rows=100)
    assert len(leads_of(oltp_engine, city)) == 200
    rows = [*numbered(city, tag, 300), ImportedLead(301, {"email": f"7-{tag}@example.com"}, "{}")]
    counts = import_leads(oltp_engine, rows, key, fingerprint=name, batch_rows=100)
    assert counts == ImportedCounts(300, 0, (301,), went_on_after=200)
    assert len(leads_of(oltp_engine, city)) == 300
    with oltp_engine.connect() as connection:
        left = connection.execute(select(lead_import).where(lead_import.c.fingerprint == name)).all()
    assert left == []
    assert import_leads(oltp_engine, rows, key, fingerprint=name, batch_rows=100) == ImportedCounts(0, 300, (301,))


def test_of_two_imports_of_one_file_at_once_one_is_refused_and_no_row_counts_twice(
    oltp_engine: Engine, key: ErasureKey | None
) -> None:
    city, tag, name = unique("city"), unique("lead"), unique("file")

    def with_another_one_meanwhile() -> Iterator[ImportedLead]:
        for one in numbered(city, tag, 30):
            if one.number == 15:
                import_leads(oltp_engine, numbered(city, tag, 20), key, fingerprint=name, batch_rows=20)
            yield one

    with pytest.raises(CommandRefusedError, match="imported already"):
        import_leads(oltp_engine, with_another_one_meanwhile(), key, fingerprint=name, batch_rows=10)
    assert len(leads_of(oltp_engine, city)) == 20


def test_a_dry_run_over_several_batches_counts_and_changes_nothing(oltp_engine: Engine, key: ErasureKey | None) -> None:
    city, tag, name = unique("city"), unique("lead"), unique("file")
    counts = import_leads(oltp_engine, numbered(city, tag, 25), key, fingerprint=name, dry_run=True, batch_rows=10)
    assert counts == ImportedCounts(25, 0, ())
    assert leads_of(oltp_engine, city) == []


_KILLED = """
import os, signal, sys
from email_platform.adapters.postgres import lead_import
from email_platform.cli.app import app
apply, batches = lead_import._apply, []
lead_import.import_leads.__kwdefaults__["batch_rows"] = 100
def dies(connection, batch, key):
    batches.append(1)
    counts = apply(connection, batch, key)
    if len(batches) == 3:  # its rows are written, and not committed
        os.kill(os.getpid(), signal.SIGKILL)
    return counts
lead_import._apply = dies
app(sys.argv[1:])
"""


def test_a_killed_command_goes_on_when_it_is_run_again_and_writes_all_its_rejects(oltp_engine: Engine) -> None:
    city, tag = unique("city"), unique("lead")
    rows = [[f"{number}-{tag}@example.com", city] for number in range(500)]
    write([["email", "city"], ["no-at-sign", city], *rows, ["neither", city]])
    died = subprocess.run([sys.executable, "-c", _KILLED, "lead", "import", "leads.csv"], check=False, timeout=120)
    assert died.returncode == -signal.SIGKILL
    assert len(leads_of(oltp_engine, city)) == 200

    result = run("lead", "import", "leads.csv")
    assert result.exit_code == 1, result.output
    assert "went on after row 202, where an earlier import of this file had ended" in result.output
    assert "500 leads added, 0 changed" in result.output
    assert len(leads_of(oltp_engine, city)) == 500
    with Path("leads.csv.rejects.csv").open(encoding="utf-8", newline="") as file:
        assert [row[0] for row in csv.reader(file)] == ["row", "2", "503"]


def test_a_restart_begins_with_the_first_row(oltp_engine: Engine) -> None:
    city, tag = unique("city"), unique("lead")
    write([["email", "city"], *([f"{number}-{tag}@example.com", city] for number in range(3))])
    with oltp_engine.begin() as connection:
        dry = json.loads(run("lead", "import", "leads.csv", "--dry-run", "--json").stdout)
        assert dry["added"] == 3
        before = set(connection.execute(select(lead_import.c.fingerprint)).scalars())
    from email_platform.audience.lead_rows import file_fingerprint

    name = file_fingerprint(Path("leads.csv"), {}, ())
    assert name not in before
    with oltp_engine.begin() as connection:
        connection.execute(
            text("insert into lead_import (fingerprint, last_row, added, changed) values (:name, 3, 2, 0)"),
            {"name": name},
        )
    document = json.loads(run("lead", "import", "leads.csv", "--restart", "--json").stdout)
    assert (document["added"], document["went_on_after"]) == (3, None)
