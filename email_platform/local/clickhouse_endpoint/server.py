"""ClickHouse's HTTP protocol, one thread per connection.

The invariant: a request is answered with its whole result or with an exception that a client cannot mistake for one.
A result that fails after its first byte has left ends with ClickHouse's exception marker and a broken body. No log line
holds a statement, a parameter, a header or an exception's text: all of them may hold credentials.

Threads, since the engine's calls block and let other threads run meanwhile; a blocked write to a slow client is
what keeps a large result from piling up in memory.
"""

from __future__ import annotations

import contextlib
import json
import logging
import secrets
import socket
import sys
import threading
import traceback
from collections.abc import Iterator
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

from email_platform.local.clickhouse_endpoint import exceptions
from email_platform.local.clickhouse_endpoint.departures import DepartureWatch
from email_platform.local.clickhouse_endpoint.encodings import (
    BrokenEncodingError,
    encoder_for,
    encoding_for,
)
from email_platform.local.clickhouse_endpoint.engine import TAG_SETTING, Engine
from email_platform.local.clickhouse_endpoint.exceptions import ClickHouseError, refusal
from email_platform.local.clickhouse_endpoint.execution import Result, Statement, Summary, check
from email_platform.local.clickhouse_endpoint.external import brought_along
from email_platform.local.clickhouse_endpoint.reading import read_statement
from email_platform.local.clickhouse_endpoint.request import (
    BrokenBodyError,
    Parameters,
    body_of,
    credentials_of,
    path_and_query,
)
from email_platform.local.clickhouse_endpoint.settings import EndpointSettings
from email_platform.local.clickhouse_endpoint.statement import (
    Kind,
    asks_for_the_version,
    kind_of,
)

_logger = logging.getLogger("email_platform.clickhouse_endpoint")

_URL_BYTES = 1024 * 1024
_BUFFERED_BYTES = 8 * 1024 * 1024
_SESSION_SECONDS = 60.0
# A peer that sends nothing for this long is gone; its connection must not keep a thread.
_SILENCE_SECONDS = 900.0
# How much of a refused request's body is read and thrown away, so that the client comes to read the refusal.
_DRAINED_BYTES = 256 * 1024 * 1024
_LONGEST_SESSION_SECONDS = 3600.0
_CONTENT_TYPES = {
    "json": "application/json; charset=UTF-8",
    "jsoncompact": "application/json; charset=UTF-8",
    "jsoneachrow": "application/x-ndjson; charset=UTF-8",
    "csv": "text/csv; charset=UTF-8; header=absent",
    "csvwithnames": "text/csv; charset=UTF-8; header=present",
    "tabseparated": "text/tab-separated-values; charset=UTF-8",
    "native": "application/octet-stream",
    "parquet": "application/octet-stream",
    "arrow": "application/octet-stream",
    "arrowstream": "application/octet-stream",
    "rowbinary": "application/octet-stream",
}


class EndpointServer(ThreadingHTTPServer):
    """Accepts connections and counts the requests in flight."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, settings: EndpointSettings, engine: Engine, listener: socket.socket) -> None:
        super().__init__(listener.getsockname()[:2], _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.server_activate()
        self.settings = settings
        self.engine = engine
        self.departures = DepartureWatch()
        self._in_flight = 0
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        """Count a request while it runs."""
        with self._changed:
            self._in_flight += 1
        try:
            yield
        finally:
            with self._changed:
                self._in_flight -= 1
                self._changed.notify_all()

    def wait_for_requests(self, timeout_seconds: float) -> bool:
        """Return whether all requests in flight ended in time."""
        with self._changed:
            return self._changed.wait_for(lambda: self._in_flight == 0, timeout_seconds)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log that a connection failed, without its content."""
        failure = sys.exc_info()[0]
        _logger.info("a connection ended: %s", failure.__name__ if failure else "unknown")


class _Handler(BaseHTTPRequestHandler):
    """Answers the requests of one connection, one after another.

    Length: http.server makes the handler and finds its methods by name; everything in it needs its connection.
    """

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 64 * 1024
    timeout = _SILENCE_SECONDS
    server: EndpointServer

    def handle_one_request(self) -> None:
        # The inherited one accepts 64 KiB of URL; ClickHouse accepts 1 MiB.
        try:
            self.raw_requestline = self.rfile.readline(_URL_BYTES + 1)
        except (TimeoutError, ConnectionError):
            self.raw_requestline = b""
        if not self.raw_requestline:
            self.close_connection = True
            return
        if len(self.raw_requestline) > _URL_BYTES:
            self.requestline = self.request_version = self.command = ""
            self.send_error(HTTPStatus.REQUEST_URI_TOO_LONG)
            return
        if not self.parse_request():
            return
        with self.server.counted():
            self._answer()
            self.wfile.flush()

    def version_string(self) -> str:
        """Return the Server header, without the version of Python."""
        return "embedded ClickHouse"

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: a request line holds statements and may hold passwords."""

    def _answer(self) -> None:
        self._query_id = ""
        self._started = False
        self._body: Iterator[bytes] = iter(())
        path, query = path_and_query(self.path)
        try:
            self._body = body_of(self.rfile, self.headers)  # type: ignore[arg-type]
            if path == "/ping":
                self._send_whole(HTTPStatus.OK, b"Ok.\n", {})
            elif path not in ("/", "/query"):
                self._send_whole(HTTPStatus.NOT_FOUND, b"There is no handle " + path.encode()[:200] + b"\n", {})
            elif self.command not in ("GET", "HEAD", "POST"):
                self._send_whole(HTTPStatus.NOT_IMPLEMENTED, b"Only GET, HEAD and POST\n", {})
            elif self.command != "POST" and not query:
                self._send_whole(HTTPStatus.OK, b"Ok.\n", {})
            else:
                self._answer_statement(query)
        except ClickHouseError as failure:
            self._send_failure(failure)
        except (BrokenBodyError, BrokenEncodingError) as failure:
            self.close_connection = True
            self._send_failure(
                refusal(exceptions.INCOMPLETE_BODY, "CANNOT_READ_ALL_DATA", str(failure), self.server.engine.version)
            )
        except (ConnectionError, TimeoutError):
            self.close_connection = True
        except Exception as failure:
            where = traceback.extract_tb(failure.__traceback__)[-1]
            _logger.error(
                "a request failed inside the endpoint: %s at %s:%s",
                type(failure).__name__,
                Path(where.filename).name,
                where.lineno,
            )
            self._send_failure(exceptions.from_engine(failure, self.server.engine.version))

    def _answer_statement(self, query: str) -> None:
        engine = self.server.engine
        account = self.server.settings
        credentials = credentials_of(self.path, self.headers)
        if not credentials.match(account.user, account.password):
            raise refusal(
                exceptions.AUTHENTICATION_FAILED,
                "AUTHENTICATION_FAILED",
                f"{credentials.user}: Authentication failed: password is incorrect, or there is no user with such name.",  # noqa: E501
                engine.version,
            )
        work = read_statement(query, self._body, self.headers, engine.version)
        protocol = work.parameters.protocol
        self._query_id = protocol.get("query_id") or str(uuid4())
        for unsupported in ("compress", "decompress"):
            if work.parameters.flag(unsupported):
                raise self._refuse(
                    exceptions.NOT_IMPLEMENTED,
                    "NOT_IMPLEMENTED",
                    f"{unsupported}=1 (ClickHouse's own block compression); use Content-Encoding and Accept-Encoding",
                )
        tag = engine.new_tag()
        statement = Statement(
            text=work.insert.statement if work.insert else work.text,
            settings={TAG_SETTING: tag, **work.parameters.settings},
            parameters=work.parameters.bound,
            database=protocol.get("database") or account.database,
            default_format=protocol.get("default_format") or "TabSeparated",
            read_only=self.command != "POST",
        )
        check(statement.text, engine.version)
        if (
            work.parameters.flag("client_protocol_version")
            and engine.execution.gives(statement) == "native"
            and not asks_for_the_version(statement.text)
        ):
            # A server puts a head before each block for such a client, which would misread ours.
            raise self._refuse(
                exceptions.NOT_IMPLEMENTED,
                "NOT_IMPLEMENTED",
                "client_protocol_version: blocks are in the format of version 0; leave it out",
            )
        with (
            engine.sessions.lent(
                protocol.get("session_id", ""),
                kind=kind_of(statement.text),
                timeout_seconds=self._session_seconds(protocol.get("session_timeout")),
                must_exist=work.parameters.flag("session_check"),
            ) as lent,
            engine.prepared(lent, statement, bind=work.insert is not None) as handle,
            brought_along(handle, engine.execution, work.external, engine.version),
        ):
            if work.insert:
                summary = engine.execution.insert(handle, work.insert, work.data)
                self._send_whole(HTTPStatus.OK, b"", self._summary_header(summary))
            else:
                # As on a server, a statement that changes data runs to its end even if its client has gone.
                watched = (
                    self.server.departures.watching(self.connection, partial(engine.cancel, tag))
                    if kind_of(statement.text) is Kind.READ
                    else contextlib.nullcontext()
                )
                with watched:
                    self._send_result(engine.execution.run(handle, statement), work.parameters)

    def _session_seconds(self, given: str | None) -> float:
        try:
            return min(float(given), _LONGEST_SESSION_SECONDS) if given else _SESSION_SECONDS
        except ValueError:
            raise self._refuse(exceptions.BAD_ARGUMENTS, "BAD_ARGUMENTS", "session_timeout is not a number") from None

    def _refuse(self, code: int, name: str, message: str) -> ClickHouseError:
        return refusal(code, name, message, self.server.engine.version)

    def _send_result(self, result: Result, parameters: Parameters) -> None:
        encoding = ""
        if parameters.flag("enable_http_compression"):
            encoding = encoding_for(self.headers.get("Accept-Encoding", ""))
        with contextlib.closing(result.chunks):
            if parameters.flag("wait_end_of_query") or self.command == "HEAD":
                self._send_buffered(result, encoding)
            else:
                self._send_streaming(result, encoding)

    def _result_headers(self, result: Result, encoding: str) -> dict[str, str]:
        headers = self._summary_header(result.summary)
        if result.format is not None:
            headers["X-ClickHouse-Format"] = result.format
            headers["Content-Type"] = _CONTENT_TYPES.get(result.format.lower(), "text/plain; charset=UTF-8")
        if encoding:
            headers["Content-Encoding"] = encoding
        return headers

    def _send_buffered(self, result: Result, encoding: str) -> None:
        """Send a result once it is complete, so that its failure is still an answer of its own."""
        encoder = encoder_for(encoding)
        with self._buffer() as buffer:
            for chunk in result.chunks:
                buffer.write(encoder.encode(chunk))
            buffer.write(encoder.finish())
            length = buffer.tell()
            buffer.seek(0)
            self._send_head(HTTPStatus.OK, self._result_headers(result, encoding), length)
            if self.command != "HEAD":
                while piece := buffer.read(1024 * 1024):
                    self.wfile.write(piece)

    def _buffer(self) -> IO[bytes]:
        return self.server.engine.buffer(_BUFFERED_BYTES)

    def _send_streaming(self, result: Result, encoding: str) -> None:
        first = next(result.chunks, b"")  # a failure so far is still an answer of its own
        encoder = encoder_for(encoding)
        # 16 letters, as the server's.
        tag = secrets.token_hex(8)
        self._send_head(
            HTTPStatus.OK, {**self._result_headers(result, encoding), "X-ClickHouse-Exception-Tag": tag}, None
        )
        try:
            self._send_chunk(encoder.encode(first))
            for chunk in result.chunks:
                self._send_chunk(encoder.encode(chunk))
        except ClickHouseError as failure:
            message = failure.body.encode()
            text = b"\r\n__exception__\r\n%s\r\n%s\n%d %s\r\n__exception__\r\n" % (
                tag.encode(),
                message,
                len(message) + 1,
                tag.encode(),
            )
            self._send_chunk(encoder.encode(text) + encoder.finish())
            # No last chunk: a client that knows nothing of the marker must not take this for the end.
            self.close_connection = True
            return
        self._send_chunk(encoder.finish())
        self.wfile.write(b"0\r\n\r\n")

    def _send_chunk(self, data: bytes) -> None:
        if data:
            self.wfile.write(b"%x\r\n" % len(data))
            self.wfile.write(data)
            self.wfile.write(b"\r\n")

    def _summary_header(self, summary: Summary) -> dict[str, str]:
        counts = {
            "read_rows": summary.read_rows,
            "read_bytes": summary.read_bytes,
            "written_rows": summary.written_rows,
            "written_bytes": summary.written_bytes,
            "total_rows_to_read": 0,
            "result_rows": summary.written_rows,
            "result_bytes": summary.written_bytes,
            "elapsed_ns": summary.elapsed_nanoseconds,
        }
        return {"X-ClickHouse-Summary": json.dumps({name: str(count) for name, count in counts.items()})}

    def _send_failure(self, failure: ClickHouseError) -> None:
        if self._started:
            self.close_connection = True
            return
        code = {"X-ClickHouse-Exception-Code": str(failure.code)}
        self._send_whole(failure.status, failure.body.encode() + b"\n", code)

    def _send_whole(self, status: HTTPStatus, body: bytes, headers: dict[str, str]) -> None:
        self._drain()
        self._send_head(status, {"Content-Type": "text/plain; charset=UTF-8", **headers}, len(body))
        if self.command != "HEAD":
            self.wfile.write(body)

    def _drain(self) -> None:
        """Read the rest of the body, without which it would be taken for the next request."""
        remaining = _DRAINED_BYTES
        try:
            for chunk in self._body:
                remaining -= len(chunk)
                if remaining < 0:
                    self.close_connection = True
                    return
        except BrokenBodyError:
            self.close_connection = True

    def _send_head(self, status: HTTPStatus, headers: dict[str, str], length: int | None) -> None:
        self._started = True
        self.send_response(status)
        engine = self.server.engine
        every = {
            "X-ClickHouse-Server-Display-Name": "embedded",
            "X-ClickHouse-Timezone": engine.timezone,
            **({"X-ClickHouse-Query-Id": self._query_id} if self._query_id else {}),
            **headers,
        }
        for name, value in every.items():
            # A query id comes from the client and must not end this header and begin another.
            self.send_header(
                name, value.replace("\r", "").replace("\n", "").encode("latin-1", "replace").decode("latin-1")
            )
        if length is None:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(length))
        self.send_header("Connection", "close" if self.close_connection else "keep-alive")
        self.end_headers()
