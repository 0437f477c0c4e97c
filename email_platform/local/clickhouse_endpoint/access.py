"""What clients may reach through the engine: its own tables, and objects of the named S3 endpoints.

The invariant: the password of the endpoint opens the warehouse and nothing else of this machine or its network.
Without limits it would open every file that the process can read or write (``file()``, ``INFILE``, schemas and
templates of formats), every address that it can reach (``url()``, ``remote()``, dictionaries), every command
(``executable``) and, by ``SYSTEM SHUTDOWN``, the supervisor, whose process group the engine signals.

Most of it is held by ClickHouse's own grants: SOURCES are not granted but for ``READ, WRITE ON S3('<pattern>')``, which
is matched against the address that s3() resolves to, whichever function or named collection it came from; table and
database engines are granted one by one. (docs/en/sql-reference/statements/grant: Source grants, TABLE ENGINE, NAMED
COLLECTION; docs/en/operations/settings/settings-users: grants; settings-constraints: const.) Functions that chDB 26.9
runs without asking for a grant are refused by their name in the statement; each name was tried.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape

from email_platform.local.clickhouse_endpoint.statement import tokens

_ON_EVERYTHING = (
    "SHOW",
    "SELECT",
    "INSERT",
    "ALTER",
    "CREATE DATABASE",
    "CREATE TABLE",
    "CREATE VIEW",
    "CREATE ARBITRARY TEMPORARY TABLE",
    "CREATE FUNCTION",
    "DROP",
    "UNDROP TABLE",
    "TRUNCATE",
    "OPTIMIZE",
    "CHECK",
    "KILL QUERY",
    # No dictionaries: their sources run commands and reach addresses, and no grant stands before that.
    "dictGet",
    # No other SYSTEM: SHUTDOWN and KILL end the process and its group.
    "SYSTEM FLUSH",
    "SYSTEM MERGES",
    "SYSTEM DROP CACHE",
)
_NAMED_COLLECTIONS = "CREATE NAMED COLLECTION, DROP NAMED COLLECTION, NAMED COLLECTION"
_MERGE_TREES = ("", "Replacing", "Summing", "Aggregating", "Collapsing", "VersionedCollapsing", "Coalescing")
_ENGINES = (
    *(f"{kind}MergeTree" for kind in _MERGE_TREES),
    *("Memory", "Null", "Log", "TinyLog", "StripeLog", "Set", "Join", "Buffer", "Merge", "GenerateRandom"),
    *("View", "MaterializedView", "Atomic"),
)
# They name files that a format reads or writes.
_FILE_SETTINGS = (
    "format_schema",
    "output_format_schema",
    "format_template_row",
    "format_template_resultset",
)
# Functions, table functions, engines and dictionary sources that ask for no grant.
_CLOSED_NAMES = frozenset(
    {
        *("file", "filesystem", "executable", "executablepool", "executable_pool", "disk", "python", "pyreader"),
        *("bigquery", "arrowflight", "arrowstream", "catboostevaluate"),
    }
)


def write_access(folder: Path, s3_endpoints: Sequence[str]) -> Path:
    """Write the engine's configuration with the grants; return the file to start the engine with.

    Args:
        folder: of the data, this endpoint's own.
        s3_endpoints: URLs below which s3() may read and write; none closes s3().
    """
    grants = [f"GRANT {', '.join(_ON_EVERYTHING)} ON *.*", f"GRANT {_NAMED_COLLECTIONS} ON *"]
    grants += [f"GRANT READ, WRITE ON S3('{_pattern(url)}')" for url in s3_endpoints]
    grants += [f"GRANT TABLE ENGINE ON {name}" for name in _ENGINES]
    constraints = "".join(f"<{name}><const/></{name}>" for name in _FILE_SETTINGS)
    queries = "".join(f"<query>{escape(grant)}</query>" for grant in grants)
    users = folder / "users.xml"
    users.write_text(
        "<clickhouse>"
        f"<profiles><default><constraints>{constraints}</constraints></default></profiles>"
        "<quotas><default></default></quotas>"
        "<users><default><password></password><networks><ip>::/0</ip></networks>"
        f"<profile>default</profile><quota>default</quota><grants>{queries}</grants></default></users>"
        "</clickhouse>\n",
        encoding="utf-8",
    )
    path = escape(str(users.resolve()))
    configuration = folder / "engine.xml"
    configuration.write_text(
        f"<clickhouse><users_config>{path}</users_config>"
        f"<user_directories><users_xml><path>{path}</path></users_xml></user_directories></clickhouse>\n",
        encoding="utf-8",
    )
    return configuration


def _pattern(url: str) -> str:
    """The regular expression of the addresses below a URL, as a grant's string holds it."""
    return re.escape(url.rstrip("/")).replace("\\", "\\\\").replace("'", "\\'") + "/.*"


def closed_name(statement: bytes) -> str | None:
    """The first name in a statement that is closed to clients and for which the engine asks no grant; or None.

    A name counts where it is called: with a bracket behind it. INFILE counts where it stands as a keyword, behind
    FROM. Text in strings and comments does not count.
    """
    before = previous = called = ""
    for token in tokens(statement):
        name = token.identifier
        if token.text == b"(" and called in _CLOSED_NAMES:
            return called
        if previous == "FROM" and token.keyword == "INFILE":
            return "INFILE"
        if "ENGINE" in (previous, before if previous == "=" else "") and name.lower() in _CLOSED_NAMES:
            return name
        before, previous, called = previous, token.keyword, name.lower()
    return None
