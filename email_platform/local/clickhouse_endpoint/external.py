"""External data: tables that a request brings along for its own statement, as files of a multipart form.

The invariant: such a table is a temporary one of this request. It is made with the rights of any statement of the
client's, and is gone with the request, in a session too.

After ClickHouse's page "External data for query processing": the form's file gives the table's name and rows, the
parameters ``<name>_structure`` (or ``<name>_types``, for columns ``_1``, ``_2``, …) and ``<name>_format`` the rest.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from email_platform.local.clickhouse_endpoint.exceptions import BAD_ARGUMENTS, refusal
from email_platform.local.clickhouse_endpoint.execution import Execution, check
from email_platform.local.clickhouse_endpoint.statement import InsertHead, quote_identifier

_DEFAULT_FORMAT = "TabSeparated"
_ABOUT = ("_format", "_types", "_structure")


@dataclass(frozen=True, slots=True)
class ExternalTable:
    """One table of the request's.

    Attributes:
        columns: as in CREATE TABLE.
        content: rows in the format.
    """

    name: str
    columns: str
    format: str
    content: bytes = field(repr=False)


def external_tables(
    files: Sequence[tuple[str, bytes]], pairs: Sequence[tuple[str, str]], version: str
) -> tuple[list[ExternalTable], list[tuple[str, str]]]:
    """The tables of a form's files, and the parameters that are not about them.

    Raises:
        ClickHouseError: a file has no name, a name comes twice, or nothing says which columns it has.
    """
    about = {name + end for name, _ in files for end in _ABOUT}
    given = {name: value for name, value in pairs if name in about}
    tables: list[ExternalTable] = []
    for name, content in files:
        columns = given.get(f"{name}_structure") or _numbered(given.get(f"{name}_types", ""))
        if not name or not columns or any(table.name == name for table in tables):
            raise refusal(
                BAD_ARGUMENTS,
                "BAD_ARGUMENTS",
                f"External data {name!r}: give each file a name of its own, and its columns as <name>_structure or "
                "<name>_types",
                version,
            )
        tables.append(ExternalTable(name, columns, given.get(f"{name}_format", _DEFAULT_FORMAT), content))
    return tables, [(name, value) for name, value in pairs if name not in about]


def _numbered(types: str) -> str:
    """``UInt8, Array(Tuple(Int8, Int8))`` with names for the columns."""
    found: list[str] = []
    depth, begin = 0, 0
    for at, character in enumerate(f"{types},"):
        depth += (character == "(") - (character == ")")
        if character == "," and depth == 0:
            found.append(types[begin:at].strip())
            begin = at + 1
    return ", ".join(f"_{number} {each}" for number, each in enumerate(found, start=1)) if types.strip() else ""


@contextlib.contextmanager
def brought_along(handle: Any, execution: Execution, tables: Sequence[ExternalTable], version: str) -> Iterator[None]:
    """The tables are there for the statement inside.

    Raises:
        ClickHouseError: a table cannot be made or filled; the engine's words.
    """
    with contextlib.ExitStack() as made:
        for table in tables:
            name = quote_identifier(table.name)
            statement = f"create temporary table {name} ({table.columns})".encode("utf-8", "surrogateescape")
            check(statement, version)
            execution.run_whole(handle, statement)
            made.callback(_dropped, handle, name)
            if table.content:
                head = InsertHead(f"insert into {name}".encode(), table.format, 0)
                execution.insert(handle, head, [table.content])
        yield


def _dropped(handle: Any, name: str) -> None:
    with contextlib.suppress(Exception):  # the request has its answer, or its failure, already
        handle.query(f"drop temporary table if exists {name}")
