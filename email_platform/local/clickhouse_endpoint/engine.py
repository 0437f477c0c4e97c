"""chDB behind the questions that the HTTP protocol asks.

The invariant: every request runs on an engine handle of its own (or its session's), so that settings, the current
database and open streams of one client are never another's. Handles of one engine run at once; calls on the same
handle wait for each other, and a call on a handle whose stream is open answers nothing at all, which is why a
handle is never shared. Opening one takes 0.2 ms.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, cast
from urllib.parse import urlencode
from uuid import uuid4

import chdb

from email_platform.errors import ConfigurationError
from email_platform.local.clickhouse_endpoint.access import write_access
from email_platform.local.clickhouse_endpoint.exceptions import (
    BAD_ARGUMENTS,
    READONLY,
    calling_the_engine,
    refusal,
)
from email_platform.local.clickhouse_endpoint.execution import Execution, Statement
from email_platform.local.clickhouse_endpoint.sessions import SERVER_DEFAULTS, Sessions
from email_platform.local.clickhouse_endpoint.statement import (
    Kind,
    kind_of,
    quote,
    quote_identifier,
)

# Of an insert whose data comes with the request. The buffers that hold one row grow by doubling: a row of a gigabyte
# took 5 GB. With this limit such a row is refused with code 241 before the process has grown by
# 1.5 GB (1.8 GB with a limit of 1 GB: what is being copied is counted after it is there).
_INSERT_MEMORY_BYTES = 600_000_000
# chDB names its queries itself, so they are found again by a setting that has no effect without the query cache.
TAG_SETTING = "query_cache_tag"
_TAG_PREFIX = "request-"
_SETTING_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Engine:
    """The engine on one data folder."""

    def __init__(
        self,
        data_folder: Path,
        database: str,
        *,
        maximum_memory_bytes: int,
        threads_per_query: int = 0,
        s3_endpoints: Sequence[str] = (),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open the folder, creating it and the database where they are absent.

        Args:
            data_folder: this engine's alone.
            database: the default of every request.
            maximum_memory_bytes: of the whole process.
            threads_per_query: 0 takes one per core.
            s3_endpoints: URLs below which s3() may read and write; see the module `access`.
            monotonic: the clock that ends sessions.

        Raises:
            ConfigurationError: another process holds the folder.
        """
        data_folder.mkdir(parents=True, exist_ok=True)
        self._lock_file = (data_folder / "lock").open("a")
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as taken:
            self._lock_file.close()
            raise ConfigurationError(
                f"--data-folder {data_folder}: another ClickHouse endpoint runs on this folder"
            ) from taken
        self._spool = data_folder / "spool"
        # Files that a killed process left there belong to no request any more.
        shutil.rmtree(self._spool, ignore_errors=True)
        self._spool.mkdir()
        # The cache of marks may take 5 GB unless this setting limits it.
        limits: dict[str, int | str] = {
            "max_server_memory_usage": maximum_memory_bytes,
            "mark_cache_size": maximum_memory_bytes // 8,
            "config-file": str(write_access(data_folder, s3_endpoints)),
        }
        if threads_per_query:
            limits["max_threads"] = threads_per_query
        self._insert_memory_bytes = min(maximum_memory_bytes // 2, _INSERT_MEMORY_BYTES)
        self._path = f"{(data_folder / 'engine').resolve()}?{urlencode(limits)}"
        try:
            self._anchor = self._connect()
        except Exception as failure:
            self._lock_file.close()
            raise ConfigurationError(f"--data-folder {data_folder}: the engine did not open it: {failure}") from failure
        self._anchor.query(f"create database if not exists {quote_identifier(database)}")
        answer = self._anchor.query("select version(), timezone() format TSV").bytes().decode().strip()
        self.version, self.timezone = answer.split("\t")
        names = self._anchor.query("select lower(name), name from system.formats where is_output format TSV")
        formats = dict(line.split("\t") for line in names.bytes().decode().splitlines())
        self.sessions = Sessions(self._connect, self.version, monotonic)
        self.execution = Execution(formats, self._spool, self.version)

    def _connect(self) -> Any:
        return chdb.connect(self._path)

    def close(self) -> None:
        """Close sessions, the engine and the folder."""
        self.sessions.close()
        self._anchor.close()
        self._lock_file.close()

    @staticmethod
    def new_tag() -> str:
        """Return a value of `TAG_SETTING` by which one request's statements can be cancelled."""
        return f"{_TAG_PREFIX}{uuid4()}"

    def cancel(self, tag: str) -> None:
        """Cancel the statements of one request that still run."""
        with contextlib.closing(self._connect()) as handle:
            handle.query(f"kill query where Settings['{TAG_SETTING}'] = {quote(tag)} async")

    def cancel_all(self) -> None:
        """Cancel the statements of all requests."""
        with contextlib.closing(self._connect()) as handle:
            handle.query(f"kill query where startsWith(Settings['{TAG_SETTING}'], '{_TAG_PREFIX}') async")

    def buffer(self, memory_bytes: int) -> IO[bytes]:
        """Return a buffer that moves into a nameless file, gone with the process, when it outgrows the memory."""
        return cast("IO[bytes]", tempfile.SpooledTemporaryFile(memory_bytes, dir=str(self._spool)))

    @contextlib.contextmanager
    def prepared(self, lent: tuple[Any, bool], statement: Statement, *, bind: bool = False) -> Iterator[Any]:
        """Apply a statement's database and settings to a handle; a session's handle gets its own ones back.

        Args:
            lent: what `handle` gave.
            statement: the statement to prepare for.
            bind: also set the parameters, for calls that take none.
        """
        handle, lasting = lent
        if lasting and statement.read_only and kind_of(statement.text) is not Kind.READ:
            # A session that is once read-only stays so, hence no `set readonly` as for other handles.
            raise refusal(
                READONLY,
                "READONLY",
                "Cannot execute query in readonly mode. For queries over HTTP, method GET implies readonly. "
                "You should use method POST for modifying queries.",
                self.version,
            )
        before: list[str] = []
        if lasting:
            before = self._present_state(handle, statement)
        changes = [f"{_checked(name, self.version)} = {quote(value)}" for name, value in statement.settings.items()]
        if bind:
            changes += [
                f"param_{_checked(name, self.version)} = {quote(value)}" for name, value in statement.parameters.items()
            ]
        if bind and "max_memory_usage" not in statement.settings:
            changes.insert(0, f"max_memory_usage = {self._insert_memory_bytes}")
            if lasting:
                before.append("set max_memory_usage = default")
        if not lasting:
            changes.insert(0, SERVER_DEFAULTS)
        try:
            if statement.database:
                calling_the_engine(self.version, lambda: handle.query(f"use {quote_identifier(statement.database)}"))
            if changes:
                calling_the_engine(self.version, lambda: handle.query("set " + ", ".join(changes)))
            if statement.read_only and not lasting:
                calling_the_engine(self.version, lambda: handle.query("set readonly = 2"))
            yield handle
        finally:
            for text in before:
                with contextlib.suppress(Exception):  # the session already got the first failure
                    handle.query(text)

    def _present_state(self, handle: Any, statement: Statement) -> list[str]:
        """Return the statements that give a session's handle its present database and settings back."""
        restore: list[str] = []
        if statement.database and kind_of(statement.text) is not Kind.SESSION:
            current = handle.query("select currentDatabase() format TSVRaw").bytes().decode().rstrip("\n")
            restore.append(f"use {quote_identifier(current)}")
        if statement.settings:
            names = ", ".join(quote(_checked(name, self.version)) for name in statement.settings)
            rows = handle.query(
                "select base64Encode(name), base64Encode(value), changed from system.settings "  # noqa: S608  (quoted)
                f"where name in ({names}) format TSV"
            )
            restore.extend(_restoring(line) for line in rows.bytes().decode().splitlines())
        return restore


def _checked(name: str, version: str) -> str:
    if not _SETTING_NAME.fullmatch(name):
        raise refusal(BAD_ARGUMENTS, "BAD_ARGUMENTS", f"Invalid setting or parameter name {name!r}", version)
    return name


def _restoring(row: str) -> str:
    name, value, changed = row.split("\t")
    setting = base64.b64decode(name).decode()
    if changed != "1":
        return f"set {setting} = default"
    text = base64.b64decode(value).decode()
    # A value in quotes is an expression such as 'auto(14)', to be given back as it is.
    literal = text if len(text) > 1 and text[0] == text[-1] == "'" else quote(text)
    return f"set {setting} = {literal}"
