"""Blobs over HTTP: in and out as streams, in flat memory."""

from __future__ import annotations

import base64
import hashlib
import os
import socket
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from ihvp.settings import Settings
from tests.app.driver import Service, api_process, digest_of, problem

MIB = 1024 * 1024


def test_put_answers_201_then_200(service: Service) -> None:
    data = os.urandom(3 * MIB + 17)
    path = f"/v1/blobs/{digest_of(data)}"
    first = service.http.put(path, content=data)
    assert first.status_code == 201
    assert first.json() == {"digest": digest_of(data), "size": len(data), "href": path}
    assert first.headers["location"] == path
    assert service.http.put(path, content=data).status_code == 200
    response = service.http.get(path)
    assert response.content == data
    assert response.headers["content-length"] == str(len(data))


def test_an_empty_blob(service: Service) -> None:
    digest = service.put(b"")
    response = service.http.get(f"/v1/blobs/{digest}")
    assert (response.status_code, response.content) == (200, b"")
    problem(service.http.get(f"/v1/blobs/{digest}", headers={"Range": "bytes=0-"}), 416, "range_not_satisfiable")


def test_head_says_size_and_etag_without_the_bytes(service: Service) -> None:
    digest = service.put(b"0123456789")
    response = service.http.head(f"/v1/blobs/{digest}")
    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["content-length"] == "10"
    assert response.headers["etag"] == f'"{digest.removeprefix("sha256:")}"'
    assert response.headers["accept-ranges"] == "bytes"
    assert service.http.head(f"/v1/blobs/{digest_of(b'other')}").status_code == 404


def test_ranges_and_conditions(service: Service) -> None:
    path = f"/v1/blobs/{service.put(b'0123456789')}"
    part = service.http.get(path, headers={"Range": "bytes=2-4"})
    assert (part.status_code, part.content) == (206, b"234")
    etag = part.headers["etag"]
    assert service.http.get(path, headers={"If-None-Match": etag}).status_code == 304
    resumed = service.http.get(path, headers={"Range": "bytes=8-", "If-Range": etag})
    assert (resumed.status_code, resumed.content) == (206, b"89")


def test_an_upload_that_breaks_off_leaves_nothing(service: Service) -> None:
    data = os.urandom(2 * MIB)
    url = urlsplit(str(service.http.base_url))
    with socket.create_connection((url.hostname, url.port)) as connection:
        head = f"PUT /v1/blobs/{digest_of(data)} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n"
        connection.sendall(head.encode() + data[: MIB + 5])
        time.sleep(0.2)
    until = time.monotonic() + 5
    names = {b.digest for b in service.blobs}
    assert digest_of(data) not in names
    # Nothing unfinished lies about either.
    while left := service.blobs.sweep_unfinished(0.0):
        assert time.monotonic() < until, f"{left} unfinished writes"


@pytest.fixture
def process(valkey: Settings) -> Iterator[tuple[str, psutil.Process]]:
    """The API as the process that is deployed."""
    with api_process(valkey) as found:
        yield found


def test_memory_stays_flat_however_large_the_upload_in_parts(process: tuple[str, psutil.Process]) -> None:
    """Two parts: the second one ends with all of it being read once more for its digest."""
    url, server = process
    piece = os.urandom(MIB)
    half = 48
    digest = hashlib.sha256()
    for _ in range(2 * half):
        digest.update(piece)
    with httpx.Client(timeout=60) as http:
        http.get(f"{url}/v1/methods")
        announced = {
            "Tus-Resumable": "1.0.0",
            "Upload-Length": str(2 * half * MIB),
            "Upload-Metadata": f"sha256 {base64.b64encode(digest.hexdigest().encode()).decode()}",
        }
        place = url + http.post(f"{url}/v1/uploads", headers=announced).headers["location"]
        before, peak = server.memory_info().rss, 0

        def pieces() -> Iterator[bytes]:
            nonlocal peak
            for _ in range(half):
                peak = max(peak, server.memory_info().rss)
                yield piece

        for offset in (0, half * MIB):
            part = {
                "Tus-Resumable": "1.0.0",
                "Upload-Offset": str(offset),
                "Content-Type": "application/offset+octet-stream",
            }
            assert http.patch(place, content=pieces(), headers=part).status_code == 204
            peak = max(peak, server.memory_info().rss)
        assert http.head(f"{url}/v1/blobs/sha256:{digest.hexdigest()}").status_code == 200
    assert peak - before < 24 * MIB


def test_memory_stays_flat_however_large_the_blob(process: tuple[str, psutil.Process]) -> None:
    url, server = process
    piece = os.urandom(MIB)
    pieces = 96
    digest = hashlib.sha256()
    for _ in range(pieces):
        digest.update(piece)
    path = f"{url}/v1/blobs/sha256:{digest.hexdigest()}"
    before = server.memory_info().rss
    peak = 0
    with httpx.Client(timeout=60) as http:
        assert http.put(path, content=(piece for _ in range(pieces))).status_code == 201
        peak = server.memory_info().rss
        with http.stream("GET", path) as response:
            received = sum(len(chunk) for chunk in response.iter_bytes())
        peak = max(peak, server.memory_info().rss)
    assert received == pieces * MIB
    assert peak - before < 24 * MIB
