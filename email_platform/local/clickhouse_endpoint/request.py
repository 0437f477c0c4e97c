"""Reads an HTTP request to ClickHouse: parameters, credentials and body.

The invariant: credentials are taken out of the parameters here, so that nothing further on can log or forward them.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from email.message import Message
from typing import BinaryIO
from urllib.parse import parse_qsl

_READ_BYTES = 256 * 1024
_LINE_BYTES = 65536
# Parameters of the protocol; every other one is a setting.
_PROTOCOL_PARAMETERS = frozenset(
    {
        "query",
        "database",
        "default_format",
        "query_id",
        "user",
        "password",
        "quota_key",
        "session_id",
        "session_timeout",
        "session_check",
        "stacktrace",
        "role",
        "compress",
        "decompress",
        "buffer_size",
        "wait_end_of_query",
        "client_protocol_version",
        "close_session",
        # Settings whose effect is this endpoint's own business.
        "enable_http_compression",
        "http_zlib_compression_level",
        "send_progress_in_http_headers",
        "http_headers_progress_interval_ms",
        "cancel_http_readonly_queries_on_client_close",
        "http_response_buffer_size",
        "http_wait_end_of_query",
    }
)
# Python's int() would also take a sign, blanks, underscores and a prefix.
_DECIMAL = re.compile(r"[0-9]{1,18}", re.ASCII)
# What may stand around a header's value (RFC 9110, 5.5); Python's strip() would take more.
_BLANKS = " \t"
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?\r?\n")
_ABSOLUTE_FORM = re.compile(r"https?://[^/]*", re.IGNORECASE)
_NAME_IN_FORM = re.compile(rb'(?<!file)name="([^"]*)"')
_FILE_IN_FORM = re.compile(rb'filename="')


class BrokenBodyError(Exception):
    """The connection ended, or the framing broke, inside the body."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """The user and password that a request gives."""

    user: str
    password: str = field(repr=False)

    def match(self, user: str, password: str) -> bool:
        """Whether they are the account's; the time taken does not show how close they came."""
        same_user = hmac.compare_digest(self.user.encode(), user.encode())
        same_password = hmac.compare_digest(self.password.encode(), password.encode())
        return same_user and same_password


@dataclass(frozen=True, slots=True)
class Parameters:
    """The parameters of a request, credentials left out."""

    query: str
    protocol: Mapping[str, str]
    settings: Mapping[str, str]
    bound: Mapping[str, str]

    def flag(self, name: str) -> bool:
        """Whether a parameter of the protocol is switched on."""
        return self.protocol.get(name, "0") not in ("", "0", "false")


def credentials_of(target: str, headers: Message) -> Credentials:
    """Return the credentials of a request, from where the server looks for them: headers, basic auth, the URL."""
    user = headers.get("X-ClickHouse-User")
    if user is not None:
        return Credentials(_utf8(user), _utf8(headers.get("X-ClickHouse-Key", "")))
    scheme, _, token = headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "basic":
        try:
            name, _, password = base64.b64decode(token.strip(), validate=True).decode("utf-8", "replace").partition(":")
        except (binascii.Error, ValueError):
            return Credentials("", "")
        return Credentials(name, password)
    values = dict(parse_qsl(path_and_query(target)[1], keep_blank_values=True))
    return Credentials(values.get("user", "default"), values.get("password", ""))


def path_and_query(target: str) -> tuple[str, str]:
    """The two parts of a request's target, in origin form or absolute form (RFC 9112, 3.2); any text has them.

    `urllib.parse.urlsplit` would judge the host of an absolute form, and raise.
    """
    path, _, query = target.partition("#")[0].partition("?")
    if absolute := _ABSOLUTE_FORM.match(path):
        path = path[absolute.end() :] or "/"
    return path, query


def _utf8(header: str) -> str:
    """Return a header's value as the client wrote it; http.server reads headers as latin-1."""
    return header.encode("latin-1", "replace").decode("utf-8", "replace")


def parameters_of(pairs: Iterator[tuple[str, str]] | list[tuple[str, str]], headers: Message) -> Parameters:
    """Sort the parameters of a request by what they mean."""
    protocol: dict[str, str] = {}
    settings: dict[str, str] = {}
    bound: dict[str, str] = {}
    query = ""
    for name, value in pairs:
        if name == "query":
            query += value
        elif name in ("user", "password"):
            continue
        elif name.startswith("param_"):
            bound[name[len("param_") :]] = value
        elif name in _PROTOCOL_PARAMETERS:
            protocol[name] = value
        else:
            settings[name] = value
    for header, name in (("X-ClickHouse-Database", "database"), ("X-ClickHouse-Format", "default_format")):
        if header in headers:
            protocol.setdefault(name, _utf8(headers[header]))
    return Parameters(query, protocol, settings, bound)


def body_of(stream: BinaryIO, headers: Message) -> Iterator[bytes]:
    """Return the body as it arrives.

    A body whose end two readers could see in two places is refused before anything of it is read (RFC 9112, 6.1 and
    6.3): of a Content-Length that is no plain number or comes twice, of one beside Transfer-Encoding, of any
    Transfer-Encoding but ``chunked``.

    Raises:
        BrokenBodyError: at once for such headers; while iterating, the body ends before its end.
    """
    lengths = headers.get_all("Content-Length", [])
    codings = headers.get_all("Transfer-Encoding", [])
    if codings:
        if lengths:
            raise BrokenBodyError("Content-Length and Transfer-Encoding exclude each other; send one of them")
        if len(codings) > 1 or codings[0].strip(_BLANKS).lower() != "chunked":
            raise BrokenBodyError(
                "the only Transfer-Encoding is chunked; a compressed body says so in Content-Encoding"
            )
        return _chunked(stream)
    length = lengths[0].strip(_BLANKS) if lengths else "0"
    if len(lengths) > 1 or not _DECIMAL.fullmatch(length):
        raise BrokenBodyError("Content-Length must be one number, digits only")
    return _counted(stream, int(length), "the connection ended inside the body")


def _counted(stream: BinaryIO, remaining: int, broken: str) -> Iterator[bytes]:
    while remaining > 0:
        piece = stream.read1(min(remaining, _READ_BYTES))  # type: ignore[attr-defined]
        if not piece:
            raise BrokenBodyError(broken)
        remaining -= len(piece)
        yield piece


def _chunked(stream: BinaryIO) -> Iterator[bytes]:
    while True:
        size = _CHUNK_SIZE.fullmatch(stream.readline(_LINE_BYTES))
        if size is None:
            raise BrokenBodyError("the chunked body is cut short or malformed: a chunk's size is hexadecimal digits")
        remaining = int(size[1], 16)
        if remaining == 0:
            break
        yield from _counted(stream, remaining, "the connection ended inside a chunk")
        if stream.readline(_LINE_BYTES) not in (b"\r\n", b"\n"):
            raise BrokenBodyError("a chunk is longer than it says")
    while (line := stream.readline(_LINE_BYTES)) not in (b"\r\n", b"\n"):
        if not line:
            raise BrokenBodyError("the connection ended before the chunked body's last line")


def form_parts(body: bytes, content_type: str) -> tuple[list[tuple[str, str]], list[tuple[str, bytes]]]:
    """Return the text fields of a multipart form, and its files, each with its field's name.

    Raises:
        BrokenBodyError: the type names no boundary.
    """
    boundary = Message()
    boundary["Content-Type"] = content_type
    marker = boundary.get_param("boundary")
    if not isinstance(marker, str) or not marker.isascii() or not marker:
        raise BrokenBodyError("multipart/form-data needs a boundary of ASCII characters in its Content-Type")
    fields: list[tuple[str, str]] = []
    files: list[tuple[str, bytes]] = []
    for part in (b"\r\n" + body).split(b"\r\n--" + marker.encode())[1:]:
        if part.startswith(b"--"):
            break
        head, _, value = part.partition(b"\r\n\r\n")
        found = _NAME_IN_FORM.search(head)
        name = found.group(1).decode("utf-8", "surrogateescape") if found else ""
        if _FILE_IN_FORM.search(head):
            files.append((name, value))
        elif found:
            fields.append((name, value.decode("utf-8", "surrogateescape")))
    return fields, files
