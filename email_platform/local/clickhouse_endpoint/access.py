"""What clients may reach through the engine: its own tables, and objects of the named S3 endpoints.

The invariant: the password of the endpoint opens the warehouse and nothing else of this machine or its network.
Without limits it would open every file that the process can read or write (``file()``, ``INFILE``, schemas and
templates of formats), every address that it can reach (``url()``, ``remote()``, dictionaries), every command
(``executable``) and, by ``SYSTEM SHUTDOWN``, the supervisor, whose process group the engine signals.

Most of it is held by ClickHouse's own grants: SOURCES are not granted but for ``READ, WRITE ON S3('<pattern>')``, which
is matched against the address that s3() resolves to, dot segments taken away, whichever function or named collection
it came from; table and database engines are granted one by one. (What a list in braces hides of dot segments is part of
a key, which the object store refuses or takes as it is.) See docs/en/sql-reference/statements/grant: Source grants,
TABLE ENGINE, NAMED COLLECTION; docs/en/operations/settings/settings-users: grants; settings-constraints: const.

Functions that chDB 26.9 runs without asking for a grant are refused by their name in the statement; each name was
tried. A name in a statement cannot hide from this module, but SQL has ways to a function that are no name in a
statement: against those the kernel confines the process, see `confinement`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

from email_platform.local.clickhouse_endpoint.statement import Token

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
_CLOSED_SETTINGS = (
    # They name files that are read or written.
    *("format_schema", "output_format_schema", "format_template_row", "format_template_resultset"),
    *("rename_files_after_processing", "input_format_record_errors_file_path"),
    # They hold SQL, or make it of another language: what they name stands in no statement.
    *("additional_result_filter", "additional_table_filters", "parallel_replicas_custom_key"),
    *("dialect", "enable_json_ast_dialect", "allow_experimental_eval_table_function"),
    # They name an address to ask.
    *("ai_function_text_default_credentials", "ai_function_embedding_default_credentials"),
)
# Functions, table functions, engines and dictionary sources that ask for no grant, or whose files name other places.
_CLOSED_NAMES = frozenset(
    {
        *("file", "filesystem", "executable", "executablepool", "executable_pool", "disk", "python", "pyreader"),
        *("bigquery", "arrowflight", "arrowstream", "catboostevaluate", "eval", "extra_credentials"),
        *(f"ai{what}" for what in ("redact", "similarity", "filter", "classify", "embed", "extract", "generate")),
        "aitranslate",
        *(f"{lake}{of}" for lake in ("iceberg", "deltalake", "paimon") for of in ("", "s3", "cluster", "s3cluster")),
        *("hudi", "hudicluster", "datalakecatalog"),
        # Engines: the first two have their data in a folder that they name, the third runs what is inserted as queries.
        *("embeddedrocksdb", "filelog", "queryrunner"),
    }
)
# Of s3() and of named collections: they have credentials fetched from an address that they name, or from AWS.
_CLOSED_ARGUMENTS = frozenset(
    {
        *("http_client", "metadata_service", "service_account", "request_token_path"),
        *(
            "google_adc_client_id",
            "google_adc_client_secret",
            "google_adc_refresh_token",
            "google_adc_quota_project_id",
        ),
        *("role_arn", "role_session_name", "sts_endpoint_override", "external_id"),
    }
)


def write_access(folder: Path, s3_endpoints: Sequence[str]) -> Path:
    """Write the engine's configuration with the grants; return the file to start the engine with.

    Args:
        folder: of the data, this endpoint's own.
        s3_endpoints: URLs below which s3() may read and write, each of a bucket or of a prefix in it; none closes s3().
    """
    grants = [f"GRANT {', '.join(_ON_EVERYTHING)} ON *.*", f"GRANT {_NAMED_COLLECTIONS} ON *"]
    grants += [f"GRANT READ, WRITE ON S3('{_pattern(url)}')" for url in s3_endpoints]
    grants += [f"GRANT TABLE ENGINE ON {name}" for name in _ENGINES]
    constraints = "".join(f"<{name}><const/></{name}>" for name in _CLOSED_SETTINGS)
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


def closed_name(statement: Iterable[Token]) -> str | None:
    """The first name in a statement that is closed to clients and for which the engine asks no grant; or None.

    A name counts where it is called, with a bracket behind it, or applied to columns; an argument's where a value
    follows. INFILE counts where it stands as a keyword, behind FROM. Text in strings and comments does not count.
    """
    before = previous = called = ""
    for token in statement:
        name = token.identifier
        if token.text == b"(" and called in _CLOSED_NAMES:
            return called
        if token.text == b"=" and called in _CLOSED_ARGUMENTS:
            return called
        if previous == "FROM" and token.keyword == "INFILE":
            return "INFILE"
        if "ENGINE" in (previous, before if previous == "=" else "") and name.lower() in _CLOSED_NAMES:
            return name
        if "APPLY" in (previous, before if previous == "(" else "") and name.lower() in _CLOSED_NAMES:
            return name
        before, previous, called = previous, token.keyword, name.lower()
    return None
