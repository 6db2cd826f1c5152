"""Uploads in parts, walked as tus 1.0 has it, by plain HTTP."""

from __future__ import annotations

import base64
import hashlib
import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.app.conftest import MakeService
from tests.app.driver import Service, digest_of, problem

MIB = 1024 * 1024
TUS = {"Tus-Resumable": "1.0.0"}
PART = {**TUS, "Content-Type": "application/offset+octet-stream"}


def b64(data: bytes | str) -> str:
    return base64.b64encode(data.encode() if isinstance(data, str) else data).decode()


def metadata(digest: str, **more: str) -> str:
    pairs = {"sha256": digest.removeprefix("sha256:"), **more}
    return ",".join(f"{key} {b64(value)}" for key, value in pairs.items())


def start(service: Service, data: bytes, digest: str | None = None, **headers: str) -> httpx.Response:
    return service.http.post(
        "/v1/uploads",
        headers={
            **TUS,
            "Upload-Length": str(len(data)),
            "Upload-Metadata": metadata(digest or digest_of(data)),
            **headers,
        },
    )


def started(service: Service, data: bytes, digest: str | None = None) -> str:
    response = start(service, data, digest)
    assert response.status_code == 201, response.text
    return response.headers["location"]


def send(service: Service, path: str, offset: int, part: Any, **headers: str) -> httpx.Response:
    return service.http.patch(path, content=part, headers={**PART, "Upload-Offset": str(offset), **headers})


def offset_of(service: Service, path: str) -> int:
    response = service.http.head(path, headers=TUS)
    assert response.status_code == 200
    return int(response.headers["upload-offset"])


def left(service: Service) -> set[str]:
    """What lies about of unfinished writes and uploads."""
    folder = service.settings.blob_dir
    return {path.name for name in ("unfinished", "uploads") for path in (folder / name).iterdir()}


def test_what_is_offered(service: Service) -> None:
    response = service.http.options("/v1/uploads")
    assert response.status_code == 204
    assert response.headers["tus-version"] == response.headers["tus-resumable"] == "1.0.0"
    assert int(response.headers["tus-max-size"]) == service.settings.max_blob_bytes
    assert set(response.headers["tus-extension"].split(",")) == {
        *("creation", "creation-with-upload", "expiration", "checksum", "termination")
    }
    assert "sha1" in response.headers["tus-checksum-algorithm"].split(",")


def test_an_upload_in_two_parts_becomes_a_blob(service: Service) -> None:
    data = os.urandom(100)
    made = start(service, data)
    assert made.status_code == 201
    assert made.headers["tus-resumable"] == "1.0.0"
    path = made.headers["location"]
    first = send(service, path, 0, data[:70])
    assert (first.status_code, first.headers["upload-offset"], first.content) == (204, "70", b"")
    told = service.http.head(path, headers=TUS)
    assert (told.headers["upload-offset"], told.headers["upload-length"]) == ("70", "100")
    assert told.headers["upload-metadata"] == metadata(digest_of(data))
    assert told.headers["cache-control"] == "no-store"
    problem(service.http.get(f"/v1/blobs/{digest_of(data)}"), 404, "blob_not_found")
    second = send(service, path, 70, data[70:])
    assert (second.status_code, second.headers["upload-offset"]) == (204, "100")
    assert service.http.get(f"/v1/blobs/{digest_of(data)}").content == data
    # Who missed the last answer asks, and is told that all is there; saying the end again changes nothing.
    assert offset_of(service, path) == 100
    assert send(service, path, 100, b"").status_code == 204


def test_a_blob_in_one_request(service: Service) -> None:
    data = os.urandom(3 * MIB + 1)
    headers = {**PART, "Upload-Length": str(len(data)), "Upload-Metadata": metadata(digest_of(data), filename="ä.npy")}
    response = service.http.post("/v1/uploads", content=data, headers=headers)
    assert (response.status_code, response.headers["upload-offset"]) == (201, str(len(data)))
    assert service.http.get(f"/v1/blobs/{digest_of(data)}").content == data


def test_an_empty_upload_is_finished_at_once(service: Service) -> None:
    path = started(service, b"")
    assert offset_of(service, path) == 0
    assert service.http.head(f"/v1/blobs/{digest_of(b'')}").status_code == 200


def test_bytes_that_are_there_already_cost_nothing_twice(service: Service) -> None:
    data = os.urandom(1000)
    service.put(data)
    before = service.blobs.total_bytes()
    assert send(service, started(service, data), 0, data).status_code == 204
    assert service.blobs.total_bytes() == before


class TestProtocol:
    @pytest.mark.parametrize("spoken", [{}, {"Tus-Resumable": "0.2.2"}])
    def test_another_version_is_refused_untouched(self, service: Service, spoken: dict[str, str]) -> None:
        data = os.urandom(10)
        path = started(service, data)
        headers = {**PART, "Upload-Offset": "0"}
        del headers["Tus-Resumable"]
        response = service.http.patch(path, content=data, headers={**headers, **spoken})
        problem(response, 412, "unsupported_tus_version")
        assert response.headers["tus-version"] == "1.0.0"
        assert offset_of(service, path) == 0

    def test_a_part_from_elsewhere_is_refused(self, service: Service) -> None:
        data = os.urandom(10)
        path = started(service, data)
        send(service, path, 0, data[:4])
        for offset in (0, 3, 5, 10):
            said = problem(send(service, path, offset, data[4:]), 409, "offset_mismatch")
            assert said["allowed"] == "4"
        assert offset_of(service, path) == 4

    def test_a_part_past_the_end_is_refused_before_it_is_sent(self, service: Service) -> None:
        data = os.urandom(10)
        path = started(service, data)
        problem(send(service, path, 0, data + b"x"), 413, "body_too_large")
        assert offset_of(service, path) == 0
        problem(send(service, path, 0, iter([data[:5], data[5:] + b"x"])), 413, "body_too_large")
        assert offset_of(service, path) < 10

    def test_other_media_types_are_refused(self, service: Service) -> None:
        path = started(service, b"12345")
        response = service.http.patch(
            path, content=b"12345", headers={**TUS, "Upload-Offset": "0", "Content-Type": "application/json"}
        )
        problem(response, 415, "unsupported_media_type")

    def test_what_is_not_there(self, service: Service) -> None:
        for path in ("/v1/uploads/" + "0" * 32, "/v1/uploads/..%2f..%2fetc", "/v1/uploads/short"):
            response = service.http.head(path, headers=TUS)
            assert (response.status_code, response.headers.get("upload-offset")) == (404, None)
        problem(send(service, "/v1/uploads/" + "0" * 32, 0, b"x"), 404, "upload_not_found")

    @pytest.mark.parametrize(
        ("said", "code"),
        [
            ("filename " + b64("a"), "invalid_header"),
            ("sha256", "invalid_reference"),
            ("sha256 " + b64("not a digest"), "invalid_reference"),
            ("sha256 ???", "invalid_header"),
            (f"sha256 {b64('a' * 64)},sha256 {b64('b' * 64)}", "invalid_header"),
            (",", "invalid_header"),
        ],
    )
    def test_an_upload_has_to_say_what_it_hashes_to(self, service: Service, said: str, code: str) -> None:
        problem(start(service, b"x", **{"Upload-Metadata": said}), 422, code)

    @pytest.mark.parametrize("length", ["-1", "x", "1.5", ""])
    def test_and_how_long_it_is(self, service: Service, length: str) -> None:
        problem(start(service, b"x", **{"Upload-Length": length}), 422, "validation_error")

    def test_methods_behind_a_proxy_that_knows_only_post(self, service: Service) -> None:
        data = os.urandom(10)
        path = started(service, data)
        headers = {**PART, "Upload-Offset": "0", "X-HTTP-Method-Override": "PATCH"}
        assert service.http.post(path, content=data[:5], headers=headers).status_code == 204
        assert offset_of(service, path) == 5
        assert service.http.post(path, headers={**TUS, "X-HTTP-Method-Override": "DELETE"}).status_code == 204
        assert service.http.head(path, headers=TUS).status_code == 404


class TestTermination:
    def test_an_upload_that_is_given_up_leaves_nothing(self, make_service: MakeService) -> None:
        service = make_service()
        path = started(service, b"12345")
        send(service, path, 0, b"123")
        assert service.blobs.total_bytes() == 3
        assert service.http.delete(path, headers=TUS).status_code == 204
        assert left(service) == set()
        assert service.blobs.total_bytes() == 0
        assert service.http.head(path, headers=TUS).status_code == 404
        problem(send(service, path, 3, b"45"), 404, "upload_not_found")


class TestDigests:
    def test_a_wrong_digest_is_refused_and_nothing_is_kept(self, make_service: MakeService) -> None:
        service = make_service()
        data = os.urandom(2 * MIB)
        for parts in ([data], [data[:MIB], data[MIB:]]):
            path, offset = started(service, data, digest_of(b"other")), 0
            for part in parts:
                response = send(service, path, offset, part)
                offset += len(part)
            problem(response, 422, "digest_mismatch")
            assert left(service) == set()
            assert list(service.blobs) == []
            assert service.blobs.total_bytes() == 0

    @pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
    def test_a_part_with_a_wrong_checksum_is_forgotten(self, service: Service, algorithm: str) -> None:
        data = os.urandom(3 * MIB)
        path = started(service, data)
        good = f"{algorithm} {b64(hashlib.new(algorithm, data[: 2 * MIB]).digest())}"
        flipped = data[: 2 * MIB - 1] + bytes([data[2 * MIB - 1] ^ 1])  # another byte, whatever was drawn
        response = send(service, path, 0, flipped, **{"Upload-Checksum": good})
        problem(response, 460, "checksum_mismatch")
        assert offset_of(service, path) == 0
        response = send(service, path, 0, data[: 2 * MIB], **{"Upload-Checksum": good})
        assert (response.status_code, response.headers["upload-offset"]) == (204, str(2 * MIB))
        assert send(service, path, 2 * MIB, data[2 * MIB :]).status_code == 204
        assert service.http.head(f"/v1/blobs/{digest_of(data)}").status_code == 200

    @pytest.mark.parametrize("said", ["md5 1B2M2Y8AsgTpgAmY7PhCfg==", "sha1", "sha1 x", "sha1 " + "A" * 8, "ä"])
    def test_a_checksum_that_cannot_be_used(self, service: Service, said: str) -> None:
        path = started(service, b"12345")
        headers = [(name, value) for name, value in {**PART, "Upload-Offset": "0"}.items()]
        response = service.http.patch(path, content=b"12345", headers=[*headers, ("Upload-Checksum", said.encode())])
        problem(response, 400, "unsupported_checksum")
        assert offset_of(service, path) == 0


class TestInterruption:
    def test_a_connection_that_breaks_keeps_what_came(self, service: Service) -> None:
        data = os.urandom(5 * MIB)
        path = started(service, data)
        with raw_part(service, path, 0, len(data)) as connection:
            connection.sendall(data[: 3 * MIB + 12345])
        until = time.monotonic() + 10
        while (offset := offset_of(service, path)) < 3 * MIB + 12345:
            assert time.monotonic() < until, offset
        assert offset == 3 * MIB + 12345, "to the byte"
        assert eventually_sent(service, path, offset, data[offset:]).status_code == 204
        assert service.http.get(f"/v1/blobs/{digest_of(data)}").content == data

    def test_a_broken_part_with_a_checksum_is_forgotten(self, service: Service) -> None:
        data = os.urandom(2 * MIB)
        path = started(service, data)
        checksum = f"Upload-Checksum: sha1 {b64(hashlib.sha1(data).digest())}\r\n"
        with raw_part(service, path, 0, len(data), checksum) as connection:
            connection.sendall(data[: MIB + MIB // 2])
            assert offset_of(service, path) == 0
        assert eventually_sent(service, path, 0, data).status_code == 204

    def test_a_second_writer_is_refused_while_the_first_one_writes(self, service: Service) -> None:
        data = os.urandom(2 * MIB)
        path = started(service, data)
        with raw_part(service, path, 0, len(data)) as connection:
            connection.sendall(data[: MIB + 1])
            until = time.monotonic() + 10
            while offset_of(service, path) < MIB:
                assert time.monotonic() < until
            for response in (send(service, path, MIB, b"x"), service.http.delete(path, headers=TUS)):
                problem(response, 423, "upload_locked")
                assert response.headers["retry-after"] == "1"
            connection.sendall(data[MIB + 1 :])
            assert connection.recv(100).startswith(b"HTTP/1.1 204")
        assert service.http.get(f"/v1/blobs/{digest_of(data)}").content == data

    def test_many_writers_at_once_make_one_right_blob(self, service: Service) -> None:
        data = os.urandom(MIB)
        path = started(service, data)
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: send(service, path, 0, data).status_code, range(16)))
        assert answers.count(204) == 1
        assert set(answers) <= {204, 409, 413, 423}
        assert service.http.get(f"/v1/blobs/{digest_of(data)}").content == data

    def test_a_link_that_falls_silent_frees_the_upload(
        self, service: Service, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("app.uploading.STALL_S", 0.2)
        data = os.urandom(1000)
        path = started(service, data)
        with raw_part(service, path, 0, len(data)) as connection:
            connection.sendall(data[:600])
            assert connection.recv(100).startswith(b"HTTP/1.1 408")
        assert offset_of(service, path) == 600
        assert send(service, path, 600, data[600:]).status_code == 204

    def test_another_process_goes_on_where_a_killed_one_was(self, make_service: MakeService) -> None:
        first = make_service()
        data = os.urandom(1000)
        path = started(first, data)
        send(first, path, 0, data[:500])
        # As a crash leaves it: a part that was to be proven by its checksum, and was not.
        part = first.settings.blob_dir / "uploads" / f"{path.rpartition('/')[2]}.part"
        part.with_suffix(".sure").write_text("500")
        with part.open("ab") as file:
            file.write(b"unproven")
        second = make_service()
        assert offset_of(second, path) == 500
        assert send(second, path, 500, data[500:]).status_code == 204
        assert second.http.get(f"/v1/blobs/{digest_of(data)}").content == data

    def test_all_bytes_without_the_proof_are_no_blob_yet(self, service: Service) -> None:
        """A process that died between the last byte and the digest."""
        data = os.urandom(1000)
        path = started(service, data)
        send(service, path, 0, data[:999])
        part = service.settings.blob_dir / "uploads" / f"{path.rpartition('/')[2]}.part"
        with part.open("ab") as file:
            file.write(data[999:])
        assert offset_of(service, path) == 999
        assert send(service, path, 999, data[999:]).status_code == 204
        assert service.http.get(f"/v1/blobs/{digest_of(data)}").content == data


class TestBounds:
    def test_an_upload_that_is_too_large_is_refused_before_its_bytes(self, make_service: MakeService) -> None:
        service = make_service(max_blob_bytes=100)
        problem(start(service, bytes(101)), 413, "body_too_large")
        problem(start(service, b"", **{"Upload-Length": "9" * 400}), 413, "body_too_large")
        assert left(service) == set()

    def test_the_store_is_not_filled_past_its_bound_by_uploads_together(self, make_service: MakeService) -> None:
        service = make_service(max_store_bytes=1000)
        one, two = os.urandom(600), os.urandom(700)
        paths = [started(service, one), started(service, two)]
        assert send(service, paths[0], 0, one[:500]).status_code == 204
        problem(send(service, paths[1], 0, two), 507, "out_of_space")
        problem(start(service, bytes(600)), 507, "out_of_space")
        data = os.urandom(600)
        problem(service.http.put(f"/v1/blobs/{digest_of(data)}", content=data), 507, "out_of_space")
        assert send(service, paths[0], 500, one[500:]).status_code == 204
        assert service.blobs.total_bytes() <= 1000

    def test_the_disk_keeps_its_reserve(self, make_service: MakeService) -> None:
        service = make_service(keep_free_bytes=10**18)
        assert "IHVP_KEEP_FREE_BYTES" in problem(start(service, b"x"), 507, "out_of_space")["detail"]

    def test_only_so_many_are_under_way(self, make_service: MakeService) -> None:
        service = make_service(max_uploads=2)
        path = started(service, b"1")
        started(service, b"2")
        response = start(service, b"3")
        problem(response, 429, "too_many_uploads")
        assert response.headers["retry-after"]
        assert send(service, path, 0, b"1").status_code == 204
        started(service, b"3")


class TestExpiration:
    @pytest.fixture
    def hasty(self, make_service: MakeService) -> Service:
        return make_service(upload_expiry_s=3600.0)

    def age(self, service: Service, seconds: float) -> None:
        for path in (service.settings.blob_dir / "uploads").iterdir():
            os.utime(path, (time.time() - seconds, time.time() - seconds))

    def test_it_is_told_until_when(self, hasty: Service) -> None:
        made = start(hasty, b"12345")
        for response in (made, send(hasty, made.headers["location"], 0, b"1")):
            until = parsedate_to_datetime(response.headers["upload-expires"]).timestamp()
            assert 3500 < until - time.time() <= 3601

    def test_an_abandoned_one_is_gone_and_swept(self, hasty: Service) -> None:
        path = started(hasty, b"12345")
        send(hasty, path, 0, b"123")
        self.age(hasty, 3500)
        assert hasty.blobs.sweep_unfinished(60.0) == 0
        assert offset_of(hasty, path) == 3
        self.age(hasty, 3700)
        response = hasty.http.head(path, headers=TUS)
        assert (response.status_code, response.headers.get("upload-offset")) == (410, None)
        problem(send(hasty, path, 3, b"45"), 410, "upload_expired")
        assert hasty.blobs.sweep_unfinished(60.0) == 1
        assert left(hasty) == set()
        assert hasty.blobs.total_bytes() == 0
        problem(send(hasty, path, 3, b"45"), 404, "upload_not_found")

    def test_a_finished_one_is_forgotten_and_its_blob_stays(self, hasty: Service) -> None:
        path = started(hasty, b"12345")
        send(hasty, path, 0, b"12345")
        self.age(hasty, 3700)
        assert hasty.blobs.sweep_unfinished(60.0) == 1
        assert left(hasty) == set()
        assert hasty.http.head(f"/v1/blobs/{digest_of(b'12345')}").status_code == 200

    def test_what_a_crash_left_is_swept(self, hasty: Service) -> None:
        folder: Path = hasty.settings.blob_dir / "uploads"
        (folder / "00.part").write_bytes(b"no announcement")
        (folder / "01.info").write_bytes(b"broken")
        (folder / "02.info.abcd").write_bytes(b"{}")
        hasty.blobs.sweep_unfinished(60.0)
        assert len(left(hasty)) == 3
        self.age(hasty, 3700)
        hasty.blobs.sweep_unfinished(60.0)
        assert left(hasty) == set()


def raw_part(service: Service, path: str, offset: int, length: int, more: str = "") -> socket.socket:
    """A connection on which a part of this length is about to be sent."""
    url = urlsplit(str(service.http.base_url))
    connection = socket.create_connection((url.hostname, url.port), timeout=20)
    head = (
        f"PATCH {path} HTTP/1.1\r\nHost: x\r\nTus-Resumable: 1.0.0\r\nUpload-Offset: {offset}\r\n{more}"
        f"Content-Type: application/offset+octet-stream\r\nContent-Length: {length}\r\n\r\n"
    )
    connection.sendall(head.encode())
    return connection


def eventually_sent(service: Service, path: str, offset: int, part: bytes) -> httpx.Response:
    """Sends a part once the lock of the connection that broke is free."""
    until = time.monotonic() + 10
    while (response := send(service, path, offset, part)).status_code == 423:
        assert time.monotonic() < until
    return response
