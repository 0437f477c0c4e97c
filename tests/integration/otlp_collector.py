"""An OpenTelemetry collector of the test's own: OTLP over HTTP, decoded by OpenTelemetry's own protobuf messages."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

Behaviour = Literal["takes", "hangs", "answers 500", "cuts the connection"]


@dataclass(frozen=True, slots=True)
class ReceivedSpan:
    """A span as the collector has it."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: int
    is_error: bool
    attributes: Mapping[str, Any]


@dataclass(slots=True)
class Collector:
    """What came, and what the server does with the next request.

    Attributes:
        resource: attributes of who sent the spans last.
        bodies: of every request, decompressed, whatever was answered.
    """

    url: str
    behaviour: Behaviour = "takes"
    spans: list[ReceivedSpan] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    paths: set[str] = field(default_factory=set)
    resource: Mapping[str, Any] = field(default_factory=dict)
    let_go: threading.Event = field(default_factory=threading.Event)

    def named(self, name: str) -> list[ReceivedSpan]:
        """The spans of this name, in the order in which they came."""
        return [span for span in self.spans if span.name == name]

    def take(self, body: bytes) -> None:
        """Keep the spans of one export."""
        request = ExportTraceServiceRequest.FromString(body)
        for of_resource in request.resource_spans:
            self.resource = _attributes(of_resource.resource.attributes)
            for of_scope in of_resource.scope_spans:
                self.spans += [
                    ReceivedSpan(
                        span.name, span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex(), span.kind,
                        span.status.code == span.status.STATUS_CODE_ERROR, _attributes(span.attributes),
                    )
                    for span in of_scope.spans
                ]  # fmt: skip


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}


@contextmanager
def otlp_collector() -> Iterator[Collector]:
    """A collector on a port of its own."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            body = gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body
            collector.bodies.append(body)
            collector.paths.add(self.path)
            if collector.behaviour == "hangs":
                collector.let_go.wait()
            if collector.behaviour in ("hangs", "cuts the connection"):
                self.close_connection = True
                return
            is_taken = collector.behaviour == "takes"
            if is_taken:
                collector.take(body)
            self.send_response(200 if is_taken else 500)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    collector = Collector(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield collector
    finally:
        collector.let_go.set()
        server.shutdown()
        server.server_close()
        thread.join()
