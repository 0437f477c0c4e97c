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
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, cast
from urllib.parse import urlencode
from uuid import uuid4

import chdb

from email_platform.errors import ConfigurationError
from email_platform.local.clickhouse_endpoint.exceptions import (
    BAD_ARGUMENTS,
    READONLY,
    SESSION_IS_LOCKED,
    SESSION_NOT_FOUND,
    SYNTAX_ERROR,
    ClickHouseError,
    from_engine,
    refusal,
)
from email_platform.local.clickhouse_endpoint.statement import (
    InsertHead,
    Kind,
    kind_of,
    output_clause,
    quote,
    quote_identifier,
)

# Each chunk of chDB's streaming results is a complete output of its format. These formats have no head or end, so
# that the chunks together are one output; every other format goes through a file that the engine writes.
_CHUNKS_JOIN = frozenset(
    {
        "native",
        "tabseparated",
        "tsv",
        "tabseparatedraw",
        "tsvraw",
        "csv",
        "rowbinary",
        "jsoneachrow",
        "jsoncompacteachrow",
    }
)
# async_insert is on by default in 26.9: a load must be in the table when it is acknowledged. chDB starts with the
# other two on, which a server does not: with implicit_select, a misspelt statement is taken for an expression.
# An unreachable object store fails after 6 s with 8 attempts; with the default of 500, s3() hangs for more than
# nine minutes.
_SERVER_DEFAULTS = "async_insert = 0, implicit_select = 0, allow_introspection_functions = 0, s3_retry_attempts = 8"
# chDB names its queries itself, so they are found again by a setting that has no effect without the query cache.
TAG_SETTING = "query_cache_tag"
_TAG_PREFIX = "request-"
_SETTING_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_READ_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement with all that a request says about how to run it.

    Attributes:
        text: the SQL; without FORMAT and data where `insert` is given.
        settings: for this statement alone.
        parameters: values of `{name:Type}` in the protocol's escaped form.
        database: the current database.
        default_format: for results of a statement without a FORMAT clause.
        read_only: refuse whatever changes data or settings' `readonly`.
    """

    text: bytes
    settings: Mapping[str, str]
    parameters: Mapping[str, str]
    database: str
    default_format: str
    read_only: bool = False


@dataclass(slots=True)
class Summary:
    """What a statement read and wrote, as X-ClickHouse-Summary counts it."""

    read_rows: int = 0
    read_bytes: int = 0
    written_rows: int = 0
    written_bytes: int = 0
    elapsed_nanoseconds: int = 0


@dataclass(frozen=True, slots=True)
class Result:
    """A statement's output.

    Attributes:
        format: None for a statement that returns nothing.
        chunks: the output in pieces; ends the statement when closed.
    """

    format: str | None
    chunks: Generator[bytes, None, None]
    summary: Summary


class _Session:
    """A handle that outlives a request, for clients that SET or USE or create temporary tables."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.handle: Any = None
        self.expires_at_seconds = 0.0


class Engine:
    """The engine on one data folder."""

    def __init__(
        self,
        data_folder: Path,
        database: str,
        *,
        maximum_memory_bytes: int,
        threads_per_query: int = 0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open the folder, creating it and the database where they are absent.

        Args:
            data_folder: this engine's alone.
            database: the default of every request.
            maximum_memory_bytes: of the whole process.
            threads_per_query: 0 takes one per core.
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
        # What a killed process left there belongs to no request any more.
        shutil.rmtree(self._spool, ignore_errors=True)
        self._spool.mkdir()
        # The cache of marks may take 5 GB unless told otherwise.
        limits = {"max_server_memory_usage": maximum_memory_bytes, "mark_cache_size": maximum_memory_bytes // 8}
        if threads_per_query:
            limits["max_threads"] = threads_per_query
        self._path = f"{(data_folder / 'engine').resolve()}?{urlencode(limits)}"
        self._monotonic = monotonic
        self._sessions: dict[str, _Session] = {}
        self._sessions_lock = threading.Lock()
        try:
            self._anchor = self._connect()
        except Exception as failure:
            self._lock_file.close()
            raise ConfigurationError(f"--data-folder {data_folder}: the engine did not open it: {failure}") from failure
        self._anchor.query(f"create database if not exists {quote_identifier(database)}")
        answer = self._anchor.query("select version(), timezone() format TSV").bytes().decode().strip()
        self.version, self.timezone = answer.split("\t")
        names = self._anchor.query("select lower(name), name from system.formats where is_output format TSV")
        self._formats: dict[str, str] = dict(line.split("\t") for line in names.bytes().decode().splitlines())

    def _connect(self) -> Any:
        return chdb.connect(self._path)  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Close sessions, the engine and the folder."""
        with self._sessions_lock:
            for session in self._sessions.values():
                if session.handle is not None:
                    session.handle.close()
            self._sessions.clear()
        self._anchor.close()
        self._lock_file.close()

    @staticmethod
    def new_tag() -> str:
        """Return a value of `TAG_SETTING` by which one request's statements can be cancelled."""
        return f"{_TAG_PREFIX}{uuid4()}"

    def cancel(self, tag: str) -> None:
        """Cancel what still runs of one request."""
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
    def handle(
        self, session_id: str, *, kind: Kind, timeout_seconds: float, must_exist: bool = False
    ) -> Iterator[tuple[Any, bool]]:
        """Lend an engine handle, and whether it belongs to a session and so keeps its state.

        A session gets a lasting handle with the first statement that changes it; until then its requests need
        none, and most clients send a session's name without ever using it.

        Raises:
            ClickHouseError: another request runs in the session (373), or there is no such session (372).
        """
        if not session_id:
            yield from self._fresh_handle()
            return
        with self._sessions_lock:
            self._expire_sessions()
            session = self._sessions.get(session_id)
            if session is None:
                if must_exist:
                    raise refusal(SESSION_NOT_FOUND, "SESSION_NOT_FOUND", "Session not found", self.version)
                session = self._sessions[session_id] = _Session()
            if not session.lock.acquire(blocking=False):
                raise refusal(
                    SESSION_IS_LOCKED,
                    "SESSION_IS_LOCKED",
                    f"Session {session_id} is locked by a concurrent client",
                    self.version,
                )
        try:
            if session.handle is None and kind is Kind.SESSION:
                session.handle = self._connect()
                session.handle.query(f"set {_SERVER_DEFAULTS}")
            if session.handle is None:
                yield from self._fresh_handle()
            else:
                yield session.handle, True
        finally:
            session.expires_at_seconds = self._monotonic() + timeout_seconds
            session.lock.release()

    def _fresh_handle(self) -> Iterator[tuple[Any, bool]]:
        handle = self._connect()
        try:
            yield handle, False
        finally:
            handle.close()

    def _expire_sessions(self) -> None:
        now = self._monotonic()
        for name, session in list(self._sessions.items()):
            if session.expires_at_seconds < now and session.lock.acquire(blocking=False):
                if session.handle is not None:
                    session.handle.close()
                del self._sessions[name]
                session.lock.release()

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
        changes = [f"{self._checked(name)} = {quote(value)}" for name, value in statement.settings.items()]
        if bind:
            changes += [f"param_{self._checked(name)} = {quote(value)}" for name, value in statement.parameters.items()]
        if not lasting:
            changes.insert(0, _SERVER_DEFAULTS)
        try:
            if statement.database:
                self._call(lambda: handle.query(f"use {quote_identifier(statement.database)}"))
            if changes:
                self._call(lambda: handle.query("set " + ", ".join(changes)))
            if statement.read_only and not lasting:
                self._call(lambda: handle.query("set readonly = 2"))
            yield handle
        finally:
            for text in before:
                with contextlib.suppress(Exception):  # the session was told of the first failure
                    handle.query(text)

    def _present_state(self, handle: Any, statement: Statement) -> list[str]:
        """Return the statements that give a session's handle its present database and settings back."""
        restore: list[str] = []
        if statement.database and kind_of(statement.text) is not Kind.SESSION:
            current = handle.query("select currentDatabase() format TSVRaw").bytes().decode().rstrip("\n")
            restore.append(f"use {quote_identifier(current)}")
        if statement.settings:
            names = ", ".join(quote(self._checked(name)) for name in statement.settings)
            rows = handle.query(
                "select base64Encode(name), base64Encode(value), changed from system.settings "  # noqa: S608  (quoted)
                f"where name in ({names}) format TSV"
            )
            restore.extend(_restoring(line) for line in rows.bytes().decode().splitlines())
        return restore

    def _checked(self, name: str) -> str:
        if not _SETTING_NAME.fullmatch(name):
            raise refusal(BAD_ARGUMENTS, "BAD_ARGUMENTS", f"Invalid setting or parameter name {name!r}", self.version)
        return name

    def _call(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except ClickHouseError:
            raise
        except Exception as failure:
            raise from_engine(failure, self.version) from failure

    def run(self, handle: Any, statement: Statement) -> Result:
        """Run a statement that carries no data."""
        clause = output_clause(statement.text)
        if clause.more_statements:
            raise refusal(SYNTAX_ERROR, "SYNTAX_ERROR", "Syntax error (Multi-statements are not allowed)", self.version)
        if clause.has_outfile:
            raise refusal(BAD_ARGUMENTS, "BAD_ARGUMENTS", "INTO OUTFILE is not allowed over HTTP", self.version)
        wanted = clause.format or statement.default_format
        name = self._formats.get(wanted.lower())
        if name is None or kind_of(statement.text) is not Kind.READ:  # the engine words the refusal of a format
            return self._run_at_once(handle, statement, wanted)
        if wanted.lower() in _CHUNKS_JOIN and not clause.has_totals and statement.settings.get("extremes", "0") == "0":
            return self._run_streaming(handle, statement, name)
        return self._run_through_file(handle, statement, name, clause.insert_at, clause.format is not None)

    def _run_at_once(self, handle: Any, statement: Statement, name: str) -> Result:
        answer = self._call(lambda: handle.query(statement.text, name, params=dict(statement.parameters)))
        body = answer.bytes() or b""
        summary = Summary(
            read_rows=answer.storage_rows_read() or answer.rows_read(),
            read_bytes=answer.storage_bytes_read() or answer.bytes_read(),
            written_rows=answer.rows_written(),
            written_bytes=answer.bytes_written(),
            elapsed_nanoseconds=int(answer.elapsed() * 1e9),
        )

        def chunks() -> Generator[bytes, None, None]:
            if body:
                yield body

        return Result(name if body else None, chunks(), summary)

    def _run_streaming(self, handle: Any, statement: Statement, name: str) -> Result:
        try:
            stream = handle.send_query(statement.text, name, params=dict(statement.parameters))
        except Exception as failure:
            if "Streaming query is not supported" in str(failure):
                return self._run_at_once(handle, statement, name)
            raise from_engine(failure, self.version) from failure
        summary = Summary()

        def chunks() -> Generator[bytes, None, None]:
            try:
                while True:
                    chunk = self._call(stream.fetch)
                    if chunk is None:
                        return
                    summary.elapsed_nanoseconds = int(chunk.elapsed() * 1e9)
                    summary.read_rows += chunk.rows_read()
                    summary.read_bytes += chunk.bytes_read()
                    data = chunk.bytes()
                    if data:
                        yield data
            finally:
                # A handle cannot be closed under an open stream.
                with contextlib.suppress(Exception):
                    stream.close()

        return Result(name, chunks(), summary)

    def _run_through_file(self, handle: Any, statement: Statement, name: str, insert_at: int, says: bool) -> Result:
        """Let the engine write the whole output to a file, which costs disk instead of memory."""
        file = tempfile.NamedTemporaryFile(dir=self._spool)  # noqa: SIM115  (closed by the chunks' end)
        clause = f"\ninto outfile {quote(file.name)} truncate compression 'none'\n" + (
            "" if says else f"format {name}\n"
        )
        text = statement.text[:insert_at] + clause.encode() + statement.text[insert_at:]
        try:
            answer = self._call(lambda: handle.query(text, name, params=dict(statement.parameters)))
            reader = Path(file.name).open("rb")  # noqa: SIM115
        except BaseException:
            file.close()
            raise
        summary = Summary(
            read_rows=answer.storage_rows_read(),
            read_bytes=answer.storage_bytes_read(),
            elapsed_nanoseconds=int(answer.elapsed() * 1e9),
        )

        def chunks() -> Generator[bytes, None, None]:
            with file, reader:
                while data := reader.read(_READ_BYTES):
                    yield data

        return Result(name, chunks(), summary)

    def insert(self, handle: Any, head: InsertHead, data: Iterable[bytes]) -> Summary:
        """Insert the data that follows an INSERT statement, in the engine's own constant memory.

        What ends early is cancelled: like a server's, an insert of several blocks may then be in the table in part.
        """
        inserter = self._call(
            lambda: handle.send_insert(head.statement.decode("utf-8", "surrogateescape"), head.format)
        )
        try:
            for chunk in data:
                self._call(partial(inserter.append, chunk))
            done = self._call(inserter.finish)
        except BaseException:
            with contextlib.suppress(Exception):
                inserter.cancel()
            raise
        return Summary(
            written_rows=done.rows_written,
            written_bytes=done.bytes_written,
            read_rows=done.rows_written,
            read_bytes=done.bytes_written,
            elapsed_nanoseconds=int(done.elapsed * 1e9),
        )


def _restoring(row: str) -> str:
    name, value, changed = row.split("\t")
    setting = base64.b64decode(name).decode()
    if changed != "1":
        return f"set {setting} = default"
    text = base64.b64decode(value).decode()
    # A value in quotes is an expression such as 'auto(14)', to be given back as it is.
    literal = text if len(text) > 1 and text[0] == text[-1] == "'" else quote(text)
    return f"set {setting} = {literal}"
