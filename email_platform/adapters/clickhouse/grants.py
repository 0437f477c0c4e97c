"""The roles of deploy/grants/clickhouse.sql: made from the file, and what a user may compared with it.

Invariant: what a role may do is written in the file alone; what is checked is read from the same file.

Asked is the server, right by right (``CHECK GRANT``, ClickHouse's documentation, sql-reference/statements/check-grant):
it counts what a user has by roles and by wider grants as well.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clickhouse_connect.driver.exceptions import DatabaseError

from email_platform.adapters.clickhouse.address import ClickHouseAddress, reports_database_beside
from email_platform.adapters.clickhouse.client import clickhouse_errors, connect
from email_platform.adapters.clickhouse.production_form import ProductionForm
from email_platform.errors import ConfigurationError

GRANTS_FILE = Path(__file__).parents[3] / "deploy" / "grants" / "clickhouse.sql"
APPLICATION_ROLE = "email_platform_application"
_DATABASE = "email_platform"  # as the file names it
_ROLE = re.compile(r"create role if not exists (?P<role>\w+)")
_GRANT = re.compile(r"grant (?P<what>[a-z, ]+) on (?P<on>email_platform(?:_reports)?\.\*|S3) to (?P<role>\w+)")
# What nobody who sends or reads reports needs, and what it opens.
_TOO_WIDE = {
    "create user on *.*": "make users",
    "grant option on *.*": "pass its rights on",
    "drop database on *.*": "drop any database",
    "select on *.*": "read every database",
    "insert on *.*": "write into every database",
    "system shutdown on *.*": "stop the server",
    "read on FILE": "read the server's files",
    "read on URL": "reach any address",
    "read on REMOTE": "reach other servers",
    "write on S3": "write to S3",
}
_UNKNOWN_STATEMENT = {62, 509}  # SYNTAX_ERROR, and a privilege that this release does not have


@dataclass(frozen=True, slots=True)
class ClickHouseRights:
    """What the user of a client may.

    Attributes:
        user: his name.
        missing: rights of the application's role that he lacks, as a grant names them.
        beyond: what he may beyond them.
        is_known: whether the server could be asked; releases before 24.11 have no ``CHECK GRANT``.
    """

    user: str
    missing: Sequence[str] = ()
    beyond: Sequence[str] = ()
    is_known: bool = True


def read_grants(database: str, form: ProductionForm | None = None, file: Path = GRANTS_FILE) -> Sequence[str]:
    """The file's statements for a database; on every server of a cluster where the form names one.

    Raises:
        ConfigurationError: there is no such file, or a statement of another kind in it.
    """
    if not file.exists():
        raise ConfigurationError(f"there is no {file}: run this from the repository, which has deploy/grants")
    lines = file.read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for line in lines if not line.startswith("--"))
    cluster = f" on cluster {form.cluster}" if form is not None else ""
    found = []
    for statement in filter(None, (each.strip() for each in text.split(";"))):
        if _ROLE.fullmatch(statement):
            found.append(f"{statement}{cluster}")
        elif _GRANT.fullmatch(statement):
            placed = statement
            for theirs, ours in ((_DATABASE, database), (f"{_DATABASE}_reports", reports_database_beside(database))):
                placed = placed.replace(f" on {theirs}.* ", f" on `{ours}`.* ")
            found.append(f"grant{cluster} {placed.removeprefix('grant ')}")
        else:
            raise ConfigurationError(
                f"{file.name}: {statement[:60]!r} is neither `create role if not exists …` nor `grant … on "
                "email_platform.* to …` (or email_platform_reports.*) or `… on S3 to …`; only those can be checked"
            )
    return found


def apply_grants(url: str, form: ProductionForm | None = None, file: Path = GRANTS_FILE) -> Sequence[str]:
    """Make the file's roles and give them its rights in the URL's database; safe to repeat. Returns the roles.

    Raises:
        ConfigurationError: the server keeps no roles, or the user may not make them.
        PartUnavailableError: nothing answers at the address.
    """
    address = ClickHouseAddress.parse(url)
    statements = read_grants(address.database, form, file)
    with closing(connect(address)) as client, clickhouse_errors(str(address), [address.password]):
        for statement in statements:
            try:
                client.command(statement)
            except DatabaseError as error:
                if error.code not in (497, 514):  # ACCESS_DENIED, ACCESS_STORAGE_FOR_INSERTION_NOT_FOUND
                    raise
                raise ConfigurationError(
                    f"{address.user} cannot make ClickHouse's roles (code {error.code}): use a user with access "
                    "management, or have an administrator run deploy/grants/clickhouse.sql; the embedded ClickHouse "
                    "has one account and no roles"
                ) from error
    return [match["role"] for statement in statements if (match := _ROLE.match(statement))]


def check_rights(client: Any, database: str, file: Path = GRANTS_FILE) -> ClickHouseRights:
    """What the client's user lacks of the application's role in its databases, and what he has beyond it."""
    user = str(client.command("select currentUser()"))
    wanted = []
    for statement in read_grants(database, file=file):
        grant = re.fullmatch(r"grant (?P<what>.*) on (?P<on>.*) to (?P<role>\w+)", statement)
        # A grant for a part of S3 is as good as one for all of it: whether it is enough, reading an object shows.
        if grant is not None and grant["role"] == APPLICATION_ROLE and grant["on"] != "S3":
            wanted += [f"{privilege} on {grant['on']}" for privilege in grant["what"].split(", ")]
    missing, unknown = [], 0
    for right in wanted:
        answer = _may(client, right)
        unknown += answer is None
        if answer is False:
            missing.append(right)
    beyond = [opens for right, opens in _TOO_WIDE.items() if _may(client, right)]
    return ClickHouseRights(user, missing, beyond, is_known=unknown < len(wanted))


def _may(client: Any, right: str) -> bool | None:
    """Whether the user has it; None where the server cannot say."""
    try:
        return str(client.command(f"check grant {right}")).strip() == "1"
    except DatabaseError as error:
        if error.code in _UNKNOWN_STATEMENT:
            return None
        raise
