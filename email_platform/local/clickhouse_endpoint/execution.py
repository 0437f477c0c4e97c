"""Runs one statement on a lent engine handle and hands its output on in pieces.

The invariant: memory does not grow with a result or with the data of an insert: rows are streamed, or written by the
engine into a file of the spool, and an insert's data goes through the engine's own blocks.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from email_platform.local.clickhouse_endpoint.access import closed_name
from email_platform.local.clickhouse_endpoint.exceptions import (
    ACCESS_DENIED,
    BAD_ARGUMENTS,
    SYNTAX_ERROR,
    calling_the_engine,
    from_engine,
    refusal,
)
from email_platform.local.clickhouse_endpoint.statement import (
    InsertHead,
    Kind,
    is_statement,
    kind_of,
    output_clause,
    quote,
    tokens,
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
_READ_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement with everything in the request about how to run it.

    Attributes:
        text: the SQL; without FORMAT and data where `insert` is given.
        settings: for this statement alone.
        parameters: values of `{name:Type}` in the protocol's escaped form.
        database: the current database.
        default_format: for results of a statement without a FORMAT clause.
        read_only: refuse every statement that changes data or the setting `readonly`.
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


def check(text: bytes, version: str) -> None:
    """Refuse text that is no statement, and statements that are closed to clients.

    Raises:
        ClickHouseError: with the code that a server would answer.
    """
    if not is_statement(text):
        raise refusal(
            SYNTAX_ERROR,
            "SYNTAX_ERROR",
            "Syntax error: there is no statement, or it begins with no word of SQL. "
            "If the body is compressed, say so in Content-Encoding.",
            version,
        )
    read = list(tokens(text))
    if any(token.is_beyond_ascii for token in read):
        raise refusal(
            SYNTAX_ERROR,
            "SYNTAX_ERROR",
            "Syntax error: there is a character beyond ASCII outside quotes; curly quotes are none here",
            version,
        )
    closed = closed_name(read)
    if closed is not None:
        raise refusal(
            ACCESS_DENIED,
            "ACCESS_DENIED",
            f"Not enough privileges. {closed} is closed to the clients of this endpoint",
            version,
        )


class Execution:
    """Runs statements; holds nothing between two of them."""

    def __init__(self, formats: Mapping[str, str], spool: Path, version: str) -> None:
        """Serve one engine.

        Args:
            formats: the names of output formats by their lower case.
            spool: where results that cannot be streamed are written.
            version: the engine's.
        """
        self._formats = formats
        self._spool = spool
        self._version = version

    def run(self, handle: Any, statement: Statement) -> Result:
        """Run a statement that carries no data."""
        clause = output_clause(statement.text)
        if clause.more_statements:
            raise refusal(
                SYNTAX_ERROR, "SYNTAX_ERROR", "Syntax error (Multi-statements are not allowed)", self._version
            )
        if clause.has_outfile:
            raise refusal(BAD_ARGUMENTS, "BAD_ARGUMENTS", "INTO OUTFILE is not allowed over HTTP", self._version)
        wanted = clause.format or statement.default_format
        name = self._formats.get(wanted.lower())
        if name is None or kind_of(statement.text) is not Kind.READ:  # the engine words the refusal of a format
            return self._run_at_once(handle, statement, wanted)
        if wanted.lower() in _CHUNKS_JOIN and not clause.has_totals and statement.settings.get("extremes", "0") == "0":
            return self._run_streaming(handle, statement, name)
        return self._run_through_file(handle, statement, name, clause.insert_at, clause.format is not None)

    def _run_at_once(self, handle: Any, statement: Statement, name: str) -> Result:
        answer = calling_the_engine(
            self._version, lambda: handle.query(statement.text, name, params=dict(statement.parameters))
        )
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
            raise from_engine(failure, self._version) from failure
        summary = Summary()

        def chunks() -> Generator[bytes, None, None]:
            try:
                while True:
                    chunk = calling_the_engine(self._version, stream.fetch)
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

    def _run_through_file(self, handle: Any, statement: Statement, name: str, insert_at: int, named: bool) -> Result:
        """Let the engine write the whole output to a file, which costs disk instead of memory."""
        file = tempfile.NamedTemporaryFile(dir=self._spool)  # noqa: SIM115  (closed by the chunks' end)
        clause = f"\ninto outfile {quote(file.name)} truncate compression 'none'\n" + (
            "" if named else f"format {name}\n"
        )
        text = statement.text[:insert_at] + clause.encode() + statement.text[insert_at:]
        try:
            answer = calling_the_engine(
                self._version, lambda: handle.query(text, name, params=dict(statement.parameters))
            )
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

    @staticmethod
    def gives(statement: Statement) -> str:
        """The format of the answer, in lower case."""
        return (output_clause(statement.text).format or statement.default_format).lower()

    def run_whole(self, handle: Any, statement: bytes) -> None:
        """Run a statement of ours that answers nothing; several in one are refused."""
        if output_clause(statement).more_statements:
            raise refusal(
                SYNTAX_ERROR, "SYNTAX_ERROR", "Syntax error (Multi-statements are not allowed)", self._version
            )
        calling_the_engine(self._version, lambda: handle.query(statement.decode("utf-8", "surrogateescape")))

    def insert(self, handle: Any, head: InsertHead, data: Iterable[bytes]) -> Summary:
        """Insert the data that follows an INSERT statement, in the engine's own constant memory.

        An insert that ends early is cancelled. As on a server, an insert of several blocks may then be in the table in
        part.
        """
        inserter = calling_the_engine(
            self._version, lambda: handle.send_insert(head.statement.decode("utf-8", "surrogateescape"), head.format)
        )
        try:
            for chunk in data:
                calling_the_engine(self._version, partial(inserter.append, chunk))
            done = calling_the_engine(self._version, inserter.finish)
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
