"""A web server on loopback that serves files as real ones do, or as bad ones do."""

from __future__ import annotations

import hashlib
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class WebServer:
    """Files by path, and what is wrong with the server.

    Attributes:
        port: Where it listens.
        files: Path to bytes.
        redirects: Path to where it leads.
        statuses: Paths that are answered with nothing but a status.
        ranges: Whether it serves ranges.
        validators: Whether it says ETags.
        cut: Bytes after which it drops the line, once for each number in the list.
        hung: Paths that are never answered.
        stalled: Paths whose line goes silent after so many bytes.
        slow: Seconds before the bytes of a path are sent.
        requests: ``path range`` of each request, as they came.
    """

    port: int = 0
    scheme: str = "http"
    files: dict[str, bytes] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    statuses: dict[str, int] = field(default_factory=dict)
    ranges: bool = True
    validators: bool = True
    cut: list[int] = field(default_factory=list)
    hung: set[str] = field(default_factory=set)
    stalled: dict[str, int] = field(default_factory=dict)
    slow: dict[str, float] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"{self.scheme}://{'localhost' if self.scheme == 'https' else '127.0.0.1'}:{self.port}"

    def put(self, path: str, data: bytes) -> str:
        self.files[path] = data
        return f"{self.url}{path}"

    def fetched(self, path: str) -> int:
        """How often the bytes of a file were asked for from the start."""
        return sum(request == f"{path} bytes=0-" for request in self.requests)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        state = self.server.state
        path = self.path.partition("?")[0]
        asked = self.headers.get("Range", "")
        state.requests.append(f"{path} {asked}".strip())
        if path in state.hung:
            state.over.wait(30)
        if self.command == "GET":
            state.over.wait(state.slow.get(path, 0))
        if path in state.redirects:
            self._answer(302, {"Location": state.redirects[path]})
        elif path in state.statuses:
            self._answer(state.statuses[path], {})
        elif path not in state.files:
            self._answer(404, {})
        else:
            self._send(state.files[path], asked if state.ranges else "")

    def _send(self, data: bytes, asked: str) -> None:
        headers = {"ETag": f'"{hashlib.md5(data).hexdigest()}"'} if self.server.state.validators else {}
        if not asked:
            self._answer(200, headers, data)
            return
        start, _, end = asked.removeprefix("bytes=").partition("-")
        if int(start) >= len(data):
            self._answer(416, {**headers, "Content-Range": f"bytes */{len(data)}"})
            return
        part = data[int(start) : int(end) + 1 if end else None]
        span = f"bytes {start}-{int(start) + len(part) - 1}/{len(data)}"
        self._answer(206, {**headers, "Content-Range": span}, part)

    def _answer(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        cut = self.server.state.cut
        if cut and len(body) > cut[0]:
            self.wfile.write(body[: cut.pop(0)])
            self.close_connection = True
            self.connection.shutdown(2)
            return
        stalled = self.server.state.stalled.get(self.path)
        try:
            self.wfile.write(body[:stalled])
            if stalled is not None and len(body) > stalled:
                self.server.state.over.wait(30)
        except OSError:
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    state: WebServer

    def handle_error(self, *_: object) -> None:
        """A caller that hangs up is no news."""


@contextmanager
def running_web_server(port: int = 0, certificate: Path | None = None) -> Iterator[WebServer]:
    """A server; with a certificate and its key in a file, one for https."""
    server = _Server(("127.0.0.1", port), _Handler)
    server.state = WebServer(port=server.server_address[1])
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        server.state.scheme = "https"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server.state
    finally:
        server.state.over.set()
        server.shutdown()
        server.server_close()
        thread.join(5)
