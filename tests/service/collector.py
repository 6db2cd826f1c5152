"""A real OTLP/HTTP receiver on loopback, as a collector of OpenTelemetry is one."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True)
class Seen:
    """A span as it arrived."""

    name: str
    trace: str
    id: str
    parent: str
    service: str
    start: int
    end: int
    failed: bool
    attributes: dict[str, Any]
    links: list[str]
    events: list[str]


@dataclass
class Collector:
    url: str
    spans: list[Seen] = field(default_factory=list)

    def wait_for(self, name: str, count: int = 1, timeout_s: float = 30.0) -> list[Seen]:
        """The spans of this name, once there are so many."""
        until = time.monotonic() + timeout_s
        while len(found := [span for span in self.spans if span.name == name]) < count:
            assert time.monotonic() < until, sorted({span.name for span in self.spans})
            time.sleep(0.02)
        return found

    def take(self, body: bytes) -> None:
        request = ExportTraceServiceRequest.FromString(body)
        for resource in request.resource_spans:
            service = next(a.value.string_value for a in resource.resource.attributes if a.key == "service.name")
            for scope in resource.scope_spans:
                self.spans += [_read(span, service) for span in scope.spans]


def _read(span: Any, service: str) -> Seen:
    values = {}
    for attribute in span.attributes:
        kind = attribute.value.WhichOneof("value")
        values[attribute.key] = getattr(attribute.value, kind)
    return Seen(
        name=span.name,
        trace=span.trace_id.hex(),
        id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        service=service,
        start=span.start_time_unix_nano,
        end=span.end_time_unix_nano,
        failed=span.status.code == 2,
        attributes=values,
        links=[link.span_id.hex() for link in span.links],
        events=[event.name for event in span.events],
    )


@contextmanager
def collecting() -> Iterator[Collector]:
    """A receiver while entered."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            assert self.path == "/v1/traces"
            collector.take(body)
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    collector = Collector(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
