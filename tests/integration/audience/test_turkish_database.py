"""Opt-outs hold in a database whose own collation is Turkish, where lower('I') is an i without its dot.

The embedded PostgreSQL is built without ICU, so this is Debian's server, started by the test on a socket of its own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp

import pyarrow as pa
import pytest
from sqlalchemy import Engine, insert, text

from email_platform.adapters.postgres.audience import PostgresAudienceSource
from email_platform.adapters.postgres.engine import create_oltp_engine
from email_platform.adapters.postgres.events import PostgresSuppressions
from email_platform.adapters.postgres.migrate import upgrade_to_head
from email_platform.adapters.postgres.tables import app_user, lead, sender, suppression
from email_platform.audience.conditions import parse_condition
from email_platform.domain.addresses import normalised_address
from email_platform.domain.manifest import CANDIDATE_SCHEMA

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def turkish() -> Iterator[Engine]:
    """A migrated database whose default collation is ICU's Turkish one."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not folders:
        pytest.skip("Debian's package postgresql is not installed: no PostgreSQL with ICU")
    programs = folders[-1].parent
    # A server of PostgreSQL does not run as root; Debian's package brings a user for it.
    as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    folder = Path(mkdtemp(prefix="turkish-"))
    if as_user:
        shutil.chown(folder, "postgres")
    data, log = folder / "data", folder / "log"
    initdb = ["--locale-provider=icu", "--icu-locale=tr", "--encoding=UTF8", "--locale=C.UTF-8", "--auth=trust"]
    commands = [
        [*as_user, str(programs / "initdb"), "-D", str(data), "-U", "tester", "--no-sync", *initdb],
        [*as_user, str(programs / "pg_ctl"), "-D", str(data), "-l", str(log), "-w", "start", "-o",
         f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off"],
    ]  # fmt: skip
    for command in commands:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=folder)
    url = f"postgresql+psycopg://tester@/postgres?host={folder}"
    engine = create_oltp_engine(url)
    try:
        upgrade_to_head(url)
        yield engine
    finally:
        engine.dispose()
        stop = [*as_user, str(programs / "pg_ctl"), "-D", str(data), "-m", "immediate", "stop"]
        subprocess.run(stop, check=False, stdout=subprocess.DEVNULL, cwd=folder)
        shutil.rmtree(folder, ignore_errors=True)


def test_an_opt_out_in_capitals_is_found_whatever_the_database_makes_of_an_i(turkish: Engine) -> None:
    with turkish.begin() as connection:
        assert connection.execute(text("select lower('I')")).scalar_one() == "\u0131", "the database is Turkish"
        connection.execute(insert(app_user).values(email="a@example.com", name="Ada"))
        connection.execute(insert(sender).values(owner_id=1, from_address="a@example.com", from_name="Ada"))
        connection.execute(
            insert(suppression).values(
                address=normalised_address("INFO@EXAMPLE.COM"), sender_id=None, reason="manual", source="test"
            )
        )
        connection.execute(
            insert(lead),
            [
                {"email": "INFO@Example.com", "unsubscribed_at": None},
                {"email": "ILIKE@example.com", "unsubscribed_at": "2026-03-01T09:00:00Z"},
                {"email": "ilike@EXAMPLE.COM", "unsubscribed_at": None},
                {"email": "fine@example.com", "unsubscribed_at": None},
            ],
        )
    with PostgresAudienceSource(turkish, None).stream(parse_condition({"all": []}), 1, 10) as batches:
        table = pa.Table.from_batches(batches, schema=CANDIDATE_SCHEMA)
    assert table["reason"].to_pylist() == ["suppressed", "unsubscribed", "unsubscribed", None]
    found = PostgresSuppressions(turkish, None).suppressed(1, [1, 4], ["INFO@Example.com", "fine@example.com"])
    assert set(found) == {1}


def test_the_functions_of_addresses_give_what_python_gives(turkish: Engine) -> None:
    statement = "select email_address_key(' INFO@BİLGİ.EXAMPLE'), mailable_email_address('INFO@EXAMPLE.COM')"
    with turkish.connect() as connection:
        key, mailable = connection.execute(text(statement)).one()
    assert (key, mailable) == (normalised_address(" INFO@BİLGİ.EXAMPLE"), "INFO@EXAMPLE.COM")
