"""Reads a request as far as its statement, and leaves the data of an insert unread.

The invariant: what is held in memory is a statement of bounded length; an insert's data stays in the connection until
the engine asks for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from email.message import Message
from urllib.parse import parse_qsl

from email_platform.local.clickhouse_endpoint.encodings import UnknownEncodingError, decoded
from email_platform.local.clickhouse_endpoint.exceptions import (
    BAD_ARGUMENTS,
    SYNTAX_ERROR,
    UNKNOWN_COMPRESSION_METHOD,
    refusal,
)
from email_platform.local.clickhouse_endpoint.external import ExternalTable, external_tables
from email_platform.local.clickhouse_endpoint.request import (
    Parameters,
    form_parts,
    parameters_of,
)
from email_platform.local.clickhouse_endpoint.statement import IncompleteStatementError, InsertHead, insert_head

_STATEMENT_BYTES = 64 * 1024 * 1024
_MOST_PARAMETERS = 10_000
# Below it, a statement that is incomplete is read again with each piece that comes; from there on when it has doubled:
# one that comes in single bytes would else be read as often as it has bytes.
_READ_AGAIN_BYTES = 4 * 1024


@dataclass(frozen=True, slots=True)
class Work:
    """One request, read as far as its statement.

    Attributes:
        text: the statement; without FORMAT and data where `insert` is given.
        data: of the insert, yet to be read.
        external: tables that the request brings along.
    """

    parameters: Parameters
    text: bytes
    insert: InsertHead | None
    data: Iterator[bytes]
    external: Sequence[ExternalTable] = ()


def read_statement(query: str, body: Iterator[bytes], headers: Message, version: str) -> Work:
    """Read the statement from the URL's query and the body, which may share it.

    Args:
        query: of the URL.
        body: as it arrives.
        headers: of the request.
        version: the engine's, for refusals.

    Raises:
        ClickHouseError: the statement is too long, or comes in a form that is not supported.
        BrokenBodyError: the body ends before its end.
        BrokenEncodingError: the body does not match its Content-Encoding.
    """
    try:
        pairs = parse_qsl(query, keep_blank_values=True, errors="surrogateescape", max_num_fields=_MOST_PARAMETERS)
    except ValueError:
        raise refusal(
            BAD_ARGUMENTS, "BAD_ARGUMENTS", f"More than {_MOST_PARAMETERS:,} parameters in one URL", version
        ) from None
    content_type = headers.get("Content-Type", "")
    if content_type.lower().startswith("multipart/form-data"):
        fields, files = form_parts(_all_of(body, b"", version), content_type)
        external, pairs = external_tables(files, [*pairs, *fields], version)
        parameters = parameters_of(pairs, headers)
        work = _without_data(parameters, parameters.query.encode("utf-8", "surrogateescape"))
        return replace(work, external=external)
    parameters = parameters_of(pairs, headers)
    try:
        chunks = decoded(body, headers.get("Content-Encoding", "").lower())
    except UnknownEncodingError as unknown:
        raise refusal(
            UNKNOWN_COMPRESSION_METHOD,
            "NOT_IMPLEMENTED",
            f"Unknown compression method {unknown}; lz4, zstd, gzip and deflate are known",
            version,
        ) from None
    text = parameters.query.encode("utf-8", "surrogateescape")
    if text:
        text += b"\n"
    read_bytes = 0
    while True:
        piece = next(chunks, None)
        text += piece or b""
        if piece is not None and _READ_AGAIN_BYTES < len(text) < 2 * read_bytes:
            continue
        read_bytes = len(text)
        try:
            head = insert_head(text, whole=piece is None)
        except IncompleteStatementError:
            if len(text) > _STATEMENT_BYTES:
                raise refusal(SYNTAX_ERROR, "SYNTAX_ERROR", "The statement is too long", version) from None
            continue
        if head is None:
            return _without_data(parameters, _all_of(chunks, text, version))
        return Work(parameters, head.statement, head, _following(text[head.data_start :], chunks))


def _following(first: bytes, chunks: Iterator[bytes]) -> Iterator[bytes]:
    if first:
        yield first
    yield from chunks


def _without_data(parameters: Parameters, text: bytes) -> Work:
    head = insert_head(text, whole=True)
    if head is None:
        return Work(parameters, text, None, iter(()))
    return Work(parameters, head.statement, head, iter((text[head.data_start :],)))


def _all_of(chunks: Iterator[bytes], text: bytes, version: str) -> bytes:
    parts = [text]
    length = len(text)
    for chunk in chunks:
        length += len(chunk)
        if length > _STATEMENT_BYTES:
            raise refusal(SYNTAX_ERROR, "SYNTAX_ERROR", "The statement is too long", version)
        parts.append(chunk)
    return b"".join(parts)
