"""The roles of deploy/roles: made from their files, and compared with what the database really allows.

Invariant: what a role may do is written in its file alone; the check reads the same file that was applied. So a right
that somebody added by hand shows up as well as one that a new table lacks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from sqlalchemy import Connection, Engine, bindparam, text
from sqlalchemy.exc import ProgrammingError

from email_platform.adapters.postgres.transactions import oltp_transaction
from email_platform.errors import ConfigurationError

ROLES_FOLDER = Path(__file__).parents[3] / "deploy" / "roles"
ROLE_PREFIX = "email_platform_"

Right: TypeAlias = tuple[str, str, str]
"""Table, column ("" for the whole table), privilege in lower case."""

_GRANT = re.compile(r"^grant (?P<what>[a-z, ()_]+?) on (?P<tables>[a-z_, ]+) to (?P<role>[a-z_]+);$", re.MULTILINE)
_PRIVILEGE = re.compile(r"([a-z]+)(?: \(([a-z_, ]+)\))?")
_OF_COLUMNS = ("select", "insert", "update")
# Privileges of columns count for the whole table too: has_column_privilege says yes for either (PostgreSQL, "Access
# Privilege Inquiry Functions").
_ACTUAL = text("""
    select r.rolname, c.relname, a.attname, p.privilege
    from pg_roles as r
    cross join pg_class as c
    join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    cross join unnest(array['select', 'insert', 'update']) as p (privilege)
    where r.rolname in :roles and c.relname in :tables and c.relnamespace = current_schema()::regnamespace
        and has_column_privilege(r.oid, c.oid, a.attnum, p.privilege)
    union all
    select r.rolname, c.relname, '', p.privilege
    from pg_roles as r
    cross join pg_class as c
    cross join unnest(array['delete', 'truncate', 'trigger', 'references']) as p (privilege)
    where r.rolname in :roles and c.relname in :tables and c.relnamespace = current_schema()::regnamespace
        and has_table_privilege(r.oid, c.oid, p.privilege)
""").bindparams(bindparam("roles", expanding=True), bindparam("tables", expanding=True))
_COLUMNS = text("""
    select c.relname, a.attname
    from pg_class as c
    join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    where c.relkind = 'r' and c.relnamespace = current_schema()::regnamespace and c.relname in :tables
""").bindparams(bindparam("tables", expanding=True))
# For the role itself and for everybody: before PostgreSQL 15, PUBLIC could create in schema public (its release notes).
_CREATORS = text("""
    select r.rolname, current_schema() as schema
    from pg_roles as r
    where r.rolname in :roles and has_schema_privilege(r.oid, current_schema(), 'create')
    order by r.rolname
""").bindparams(bindparam("roles", expanding=True))
_PRESENT = text("select rolname from pg_roles where rolname in :roles").bindparams(bindparam("roles", expanding=True))


@dataclass(frozen=True, slots=True)
class RoleFile:
    """One role as its file describes it.

    Attributes:
        grants: table, column ("" for all), privilege.
    """

    role: str
    sql: str
    grants: frozenset[Right]


def role_files(folder: Path = ROLES_FOLDER) -> Sequence[RoleFile]:
    """The files of the folder, by name; none where there is no such folder (installed without deploy/)."""
    return [_role_file(path) for path in sorted(folder.glob("*.sql"))]


def _role_file(path: Path) -> RoleFile:
    sql = path.read_text(encoding="utf-8")
    grants: set[Right] = set()
    roles: set[str] = set()
    for found in _GRANT.finditer(sql):
        roles.add(found["role"])
        for privilege, columns in _PRIVILEGE.findall(found["what"]):
            for table in found["tables"].split(", "):
                grants |= {(table, column, privilege) for column in (columns.split(", ") if columns else [""])}
    lines = [line for line in sql.splitlines() if line.startswith("grant ")]
    if len(roles) != 1 or len(lines) != len(_GRANT.findall(sql)):
        raise ConfigurationError(
            f"{path}: each grant stands on a line of its own, `grant select (id), insert on lead to the_role;`, "
            "and all are for one role"
        )
    return RoleFile(roles.pop(), sql, frozenset(grants))


def apply_roles(engine: Engine, folder: Path = ROLES_FOLDER) -> Sequence[str]:
    """Make each role that is missing and give it exactly its file's rights, in one transaction; returns the roles.

    Raises:
        ConfigurationError: there are no files, or the database refuses (the user may not create roles).
    """
    files = role_files(folder)
    if not files:
        raise ConfigurationError(f"there is no role's file in {folder}; give --folder deploy/roles of the repository")
    with oltp_transaction(engine) as connection, _refusals(engine):
        for file in files:
            # Without parameters the driver sends all statements of the file as they are.
            connection.execution_options(no_parameters=True).exec_driver_sql(file.sql)
        # A grant by somebody who may not give it is a warning only (PostgreSQL, GRANT, "Notes"): look what came of it.
        _, problems = check_roles(connection, files, of_tables_only=True)
        if problems:
            raise ConfigurationError(f"{_refused_by(engine)}: {problems[0]}")
    return [file.role for file in files]


@contextmanager
def _refusals(engine: Engine) -> Iterator[None]:
    try:
        yield
    except ProgrammingError as error:
        raise ConfigurationError(f"{_refused_by(engine)} ({type(error.orig).__name__})") from error


def _refused_by(engine: Engine) -> str:
    return (
        f"{engine.url.username} cannot make the roles: use a user who owns the tables and may create roles, and run "
        "`email-platform migrate` before"
    )


def check_roles(
    connection: Connection, files: Sequence[RoleFile], *, of_tables_only: bool = False
) -> tuple[Sequence[str], Sequence[str]]:
    """Which of the roles exist, and a sentence for each right that differs from its file.

    No role makes tables: one that may create in the schema could put its own in the way of ours. `of_tables_only`
    leaves that out, since it is given to everybody, and not by the files.
    """
    if not files:
        return [], []
    names = [file.role for file in files]
    found = connection.execute(_PRESENT, {"roles": names}).all()
    present = sorted(str(row.rolname) for row in found)
    if not present:
        return [], []
    tables = sorted({table for file in files for table, _, _ in file.grants})
    columns: dict[str, list[str]] = {}
    for table, column in connection.execute(_COLUMNS, {"tables": tables}):
        columns.setdefault(str(table), []).append(str(column))
    actual: dict[str, set[Right]] = {name: set() for name in names}
    for role, table, column, privilege in connection.execute(_ACTUAL, {"roles": present, "tables": tables}):
        actual[str(role)].add((str(table), str(column), str(privilege)))
    problems = []
    for file in files:
        if file.role in present:
            wanted = {right for grant in file.grants for right in _by_column(grant, columns)}
            problems += [f"{file.role} lacks {_shown(right)}" for right in sorted(wanted - actual[file.role])]
            problems += [
                f"{file.role} has {_shown(right)} beyond its file" for right in sorted(actual[file.role] - wanted)
            ]
    if not of_tables_only:
        problems += [
            f'{row.rolname} may create tables: revoke create on schema "{row.schema}" from public, {row.rolname}'
            for row in connection.execute(_CREATORS, {"roles": present})
        ]
    return present, problems


def _by_column(grant: Right, columns: dict[str, list[str]]) -> list[Right]:
    table, column, privilege = grant
    if column or privilege not in _OF_COLUMNS:
        return [grant]
    return [(table, each, privilege) for each in columns.get(table, [])]


def _shown(right: Right) -> str:
    table, column, privilege = right
    return f"{privilege} on {table}{f'.{column}' if column else ''}"
