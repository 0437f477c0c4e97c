"""Brings the warehouse's raw tables to the newest version.

Invariant: a version's file never changes once it is applied anywhere (its checksum is kept and compared), and
applying it again, also half of it, or by two processes at once, changes nothing: ClickHouse has no transaction
around DDL, so every statement is written with ``if [not] exists``.

Own runner: of the packages on PyPI, clickhouse-migrations is kept well but opens its own connection from host
and port; what is needed here is a loop over five statements with the client, the URL and the errors that the
rest of the platform has, so a dependency would cost more lines than it saves.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import Any

from email_platform.adapters.clickhouse.address import ClickHouseAddress
from email_platform.adapters.clickhouse.client import clickhouse_errors, connect
from email_platform.adapters.clickhouse.production_form import ProductionForm, session_settings
from email_platform.errors import ConfigurationError

MIGRATIONS_FOLDER = Path(__file__).parent / "migrations"
_FILE_NAME = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")
_DATABASE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

_CREATE_VERSIONS = """\
create table if not exists schema_version
(
    version UInt32,
    name String,
    checksum String,
    applied_at DateTime64(3, 'UTC')
)
engine = ReplacingMergeTree(applied_at)
partition by tuple()
order by version
"""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file of the migrations folder.

    Attributes:
        version: from the file's name; no two files share one. Gaps are allowed: branches reserve numbers.
    """

    version: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        """SHA-256 of the file's text."""
        return sha256(self.sql.encode()).hexdigest()

    @property
    def statements(self) -> tuple[str, ...]:
        """The statements; each ends with a semicolon at the end of a line, comments lead their line."""
        code = "\n".join(line for line in self.sql.splitlines() if not line.lstrip().startswith("--"))
        return tuple(part.strip() for part in re.split(r";[ \t]*(?:\n|$)", code) if part.strip())


def read_migrations(folder: Path = MIGRATIONS_FOLDER) -> list[Migration]:
    """The folder's migrations in order.

    Raises:
        ConfigurationError: a name is not ``NNNN_words.sql`` or a version is there twice.
    """
    migrations = []
    for path in sorted(folder.glob("*.sql")):
        match = _FILE_NAME.fullmatch(path.name)
        if match is None:
            raise ConfigurationError(f"migration {path.name}: the name must look like 0001_what_it_does.sql")
        migrations.append(Migration(int(match[1]), match[2], path.read_text(encoding="utf-8")))
    versions = [migration.version for migration in migrations]
    if len(set(versions)) != len(versions):
        raise ConfigurationError(f"two migrations share a version: {versions}")
    return migrations


def pending(migrations: Iterable[Migration], applied_checksums: dict[int, str]) -> list[Migration]:
    """Those not yet applied. Versions that only the database knows belong to newer code and are left alone.

    Raises:
        ConfigurationError: the file of an applied version has changed since.
    """
    waiting = []
    for migration in migrations:
        applied = applied_checksums.get(migration.version)
        if applied is None:
            waiting.append(migration)
        elif applied != migration.checksum:
            raise ConfigurationError(
                f"migration {migration.version:04}_{migration.name}.sql was changed after it was applied; "
                "restore the file and add a new version instead"
            )
    return waiting


def upgrade_to_head(url: str, form: ProductionForm | None = None) -> list[str]:
    """Create the database where it is missing and apply the missing migrations; returns the applied names.

    Args:
        url: ``http(s)://user:password@host:port/database``.
        form: of a cluster; None for one server.

    Raises:
        ConfigurationError: wrong URL, credentials or rights, or an applied file was changed.
        PartUnavailableError: nothing answers at the address.
    """
    address = ClickHouseAddress.parse(url)
    if not _DATABASE_NAME.fullmatch(address.database):
        raise ConfigurationError("EMAIL_PLATFORM_CLICKHOUSE_URL: the database's name must be letters, digits and _")
    _create_database(address, form)
    client = connect(address, settings=session_settings(form))
    try:
        with clickhouse_errors(str(address), [address.password]):
            return apply_migrations(client, read_migrations(), form)
    finally:
        client.close()


def unapplied(client: Any, migrations: Iterable[Migration]) -> int:
    """How many of the migrations the client's database lacks; changes nothing."""
    known = client.query(
        "select count() from system.tables where database = currentDatabase() and name = 'schema_version'"
    ).result_rows[0][0]
    return len(pending(migrations, _applied_checksums(client) if known else {}))


def _applied_checksums(client: Any) -> dict[int, str]:
    rows = client.query("select version, checksum from schema_version final").result_rows
    return {int(version): str(checksum) for version, checksum in rows}


def ddl(migrations: Iterable[Migration], form: ProductionForm | None = None) -> Iterator[str]:
    """Every statement that a new database needs, in order, in the form of one server or of a cluster."""
    for statement in (_CREATE_VERSIONS, *chain.from_iterable(migration.statements for migration in migrations)):
        yield from form.statements(statement) if form else [statement.strip()]


def apply_migrations(client: Any, migrations: Iterable[Migration], form: ProductionForm | None = None) -> list[str]:
    """Apply the migrations that the client's database lacks; returns the applied names, in order."""
    for statement in ddl([], form):
        client.command(statement)
    applied = []
    for migration in pending(migrations, _applied_checksums(client)):
        for written in migration.statements:
            for statement in form.statements(written) if form else [written]:
                client.command(statement)
        client.insert(
            "schema_version",
            [[migration.version, migration.name, migration.checksum, datetime.now(UTC)]],
            column_names=["version", "name", "checksum", "applied_at"],
            settings={"async_insert": 0},
        )
        applied.append(f"{migration.version:04}_{migration.name}")
    return applied


def _create_database(address: ClickHouseAddress, form: ProductionForm | None) -> None:
    """Make the database if it is missing; a user without that right only needs the database to be there."""
    client = connect(address, database="")
    try:
        with clickhouse_errors(str(address), [address.password]):
            found = client.query(
                "select count() from system.databases where name = {name:String}",
                parameters={"name": address.database},
            ).result_rows[0][0]
            if not found:
                name = address.database
                client.command(form.database(name) if form else f"create database if not exists {name}")
    finally:
        client.close()
