"""A Hugging Face hub on loopback: the two routes that matter, in pages, and the store that it redirects to.

``test_the_hub_speaks_as_the_real_client_expects`` holds it against ``huggingface_hub``.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PAGE = 2


@dataclass
class Hub:
    """Repositories by their API name (``models/org/repo``), each a mapping of paths to bytes.

    Attributes:
        large: Suffixes that are kept elsewhere and known by their sha256, as the real hub does with large files.
        private: Repositories that need the token.
        elsewhere: Where redirects for large files lead; left out, to this server.
        tokens: The authorization that each request carried.
    """

    port: int = 0
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    large: tuple[str, ...] = (".safetensors", ".parquet")
    private: set[str] = field(default_factory=set)
    elsewhere: str | None = None
    tokens: list[tuple[str, str | None]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        path = unquote(parts.path).strip("/")
        self.server.hub.tokens.append((path, self.headers.get("Authorization")))
        if path.startswith("api/"):
            self._api(path.removeprefix("api/"), parse_qs(parts.query))
        elif path.startswith("store/"):
            self._bytes(self._found(path.removeprefix("store/"))[1] or b"", {})
        else:
            self._resolve(path)

    def _api(self, path: str, query: dict[str, list[str]]) -> None:
        name, _, rest = path.partition("/tree/")
        files = self.server.hub.repositories.get(name)
        commit, _, folder = rest.partition("/")
        if files is None or commit != COMMIT or (name in self.server.hub.private and not self._allowed()):
            self._send(401 if files is not None else 404, {}, b'{"error": "Repository not found"}')
            return
        start = f"{folder}/" if folder else ""
        deep = "recursive" in query
        entries = [self._entry(p, d) for p, d in sorted(files.items()) if p.startswith(start)]
        entries = [e for e in entries if deep or "/" not in str(e["path"]).removeprefix(start)]
        at = int(query.get("cursor", ["0"])[0])
        following = {}
        if at + PAGE < len(entries):
            address = f"{self.server.hub.url}/api/{path}?{'recursive=true&' if deep else ''}cursor={at + PAGE}"
            following = {"Link": f'<{address}>; rel="next"'}
        self._send(
            200, {"Content-Type": "application/json", **following}, json.dumps(entries[at : at + PAGE]).encode()
        )

    def _entry(self, path: str, data: bytes) -> dict[str, object]:
        git = hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()
        entry: dict[str, object] = {"type": "file", "oid": git, "size": len(data), "path": path}
        if path.endswith(self.server.hub.large):
            entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
        return entry

    def _found(self, path: str) -> tuple[str, bytes | None]:
        kind, path = ("datasets", path.removeprefix("datasets/")) if path.startswith("datasets/") else ("models", path)
        name, _, rest = path.partition("/resolve/")
        commit, _, file = rest.partition("/")
        name = f"{kind}/{name}"
        return name, self.server.hub.repositories.get(name, {}).get(file) if commit == COMMIT else None

    def _resolve(self, path: str) -> None:
        name, data = self._found(path)
        if data is None or (name in self.server.hub.private and not self._allowed()):
            self._send(404 if data is None else 401, {}, b"")
            return
        facts = {"X-Repo-Commit": COMMIT}
        if path.endswith(self.server.hub.large):
            linked = {"X-Linked-Size": str(len(data)), "X-Linked-Etag": f'"{hashlib.sha256(data).hexdigest()}"'}
            place = self.server.hub.elsewhere or f"{self.server.hub.url}/store"
            self._send(302, {**facts, **linked, "Location": f"{place}/{path}"}, b"")
        else:
            self._bytes(data, {**facts, "ETag": f'"{self._entry(path, data)["oid"]}"'})

    def _allowed(self) -> bool:
        return self.headers.get("Authorization") == "Bearer hf_secret"

    def _bytes(self, data: bytes, headers: dict[str, str]) -> None:
        start, _, end = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        part = data[int(start) : int(end) + 1 if end else None]
        span = {"Content-Range": f"bytes {start}-{int(start) + len(part) - 1}/{len(data)}"}
        ranged = "Range" in self.headers and bool(part)
        self._send(206 if ranged else 200, {**headers, **(span if ranged else {})}, part)

    def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    hub: Hub

    def handle_error(self, *_: object) -> None:
        """A caller that hangs up is no news."""


@contextmanager
def running_hub(port: int = 0) -> Iterator[Hub]:
    server = _Server(("127.0.0.1", port), _Handler)
    server.hub = Hub(port=server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server.hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
