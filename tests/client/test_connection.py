"""Repeating requests, against a real server that refuses, stalls, breaks off and comes back."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ihvp import Client
from ihvp.client.connection import Connection
from ihvp.errors import IhvpError, JobNotFound, ServiceUnreachable, StoreUnavailable
from ihvp.up.embedded_store import free_port

BUSY = b'{"code": "store_unavailable", "message": "The job store does not answer."}'
GONE = b'{"code": "job_not_found", "message": "There is no such job."}'
OK = b'{"methods": []}'


class FlakyService:
    """Answers each request with the next of its answers: 200, 404, 503, or ``None`` for a broken connection."""

    def __init__(self, answers: list[int | None], port: int = 0) -> None:
        self.answers = answers
        self.seen: list[str] = []
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                service.seen.append(f"{self.command} {self.path}")
                self.rfile.read(int(self.headers.get("content-length", 0)))
                status = service.answers.pop(0) if service.answers else 200
                if status is None:
                    self.close_connection = True
                    self.connection.close()
                    return
                body = {200: OK, 404: GONE}.get(status, BUSY)
                self.send_response(status)
                self.send_header("Content-Type", "application/json" if status == 200 else "application/problem+json")
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Connection", "close")
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    @contextmanager
    def running(self) -> Iterator[FlakyService]:
        thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield self
        finally:
            self.server.shutdown()
            self.server.server_close()
            thread.join()


def connect(url: str, retry_s: float = 10.0) -> Connection:
    return Connection(url, timeout_s=5.0, retry_s=retry_s)


def test_a_service_that_was_never_there_is_reported_at_once_with_what_to_do() -> None:
    port = free_port()
    began = time.monotonic()
    with Client(f"http://127.0.0.1:{port}") as client, pytest.raises(ServiceUnreachable) as caught:
        client.methods()
    assert time.monotonic() - began < 2.0
    assert f"http://127.0.0.1:{port}" in str(caught.value)
    assert "ihvp up" in str(caught.value)
    assert isinstance(caught.value, ConnectionError)


@pytest.mark.parametrize("answers", [[503, 503, 200], [200, None, 200]], ids=["busy", "broken off"])
def test_a_get_is_repeated_until_it_is_answered(answers: list[int | None]) -> None:
    with FlakyService(answers).running() as service, Client(service.url) as client:
        client.methods()
        assert client.methods() == []


def test_a_post_that_may_have_been_taken_is_not_sent_twice() -> None:
    with FlakyService([503]).running() as service, connect(service.url) as link:
        with pytest.raises(StoreUnavailable):
            link.send("POST", "/v1/jobs", json={})
        assert service.seen == ["POST /v1/jobs"]


def test_a_post_whose_answer_was_lost_is_not_sent_twice() -> None:
    with FlakyService([200, None]).running() as service, connect(service.url) as link:
        link.send("GET", "/")
        with pytest.raises(ServiceUnreachable):
            link.send("POST", "/v1/jobs", json={})
        assert service.seen == ["GET /", "POST /v1/jobs"]


@pytest.mark.parametrize("answers", [[200, None, 202], [503, 202], [429, 202]], ids=["lost", "busy", "full"])
def test_a_post_that_carries_a_key_is_sent_until_it_is_answered(answers: list[int | None]) -> None:
    with FlakyService(answers).running() as service, connect(service.url) as link:
        if answers[0] == 200:
            link.send("GET", "/")
        link.send("POST", "/v1/jobs", json={}, headers={"Idempotency-Key": "k"})
        assert service.seen[-2:] == ["POST /v1/jobs"] * 2


def test_retries_end() -> None:
    with FlakyService([503] * 1000).running() as service, connect(service.url, retry_s=0.5) as link:
        began = time.monotonic()
        with pytest.raises(StoreUnavailable):
            link.send("GET", "/")
        assert 0.5 <= time.monotonic() - began < 4.0
        assert len(service.seen) > 2


def test_a_restart_of_the_service_is_bridged() -> None:
    port = free_port()
    with connect(f"http://127.0.0.1:{port}") as link:
        with FlakyService([], port).running():
            link.send("GET", "/before")
        came_back = threading.Event()
        answered = threading.Event()

        def come_back() -> None:
            time.sleep(0.7)
            with FlakyService([], port).running():
                came_back.set()
                answered.wait(20)

        thread = threading.Thread(target=come_back)
        thread.start()
        try:
            assert link.send("POST", "/after", json={}).status_code == 200
            assert came_back.is_set()
        finally:
            answered.set()
            thread.join()


def test_an_upload_is_sent_whole_again_after_a_failure(tmp_path: Path) -> None:
    sizes: list[int] = []
    path = tmp_path / "blob"
    path.write_bytes(b"x" * 300_000)
    with FlakyService([503, 200]).running() as service, Client(service.url) as client:
        original = service.server.RequestHandlerClass.do_GET  # type: ignore[attr-defined]

        def counted(handler: BaseHTTPRequestHandler) -> None:
            sizes.append(int(handler.headers["content-length"]))
            original(handler)

        service.server.RequestHandlerClass.do_PUT = counted  # type: ignore[attr-defined]
        digest = client.put_blob(path)
    assert sizes == [300_000, 300_000]
    assert service.seen == [f"PUT /v1/blobs/{digest}"] * 2


def test_a_silent_service_is_told_apart_from_an_absent_one() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with (
            Connection(url, timeout_s=0.3, retry_s=0.0) as link,
            pytest.raises(IhvpError, match="did not answer within"),
        ):
            link.send("GET", "/")


def test_a_link_keeps_its_query() -> None:
    # Else the second page of a listing would be the first again, for ever.
    with FlakyService([]).running() as service, connect(service.url) as link:
        link.send("GET", "/v1/jobs?limit=2&cursor=17")
        link.send("GET", "/v1/jobs", params={"state": None, "tag": "a:1"})
    assert service.seen == ["GET /v1/jobs?limit=2&cursor=17", "GET /v1/jobs?tag=a%3A1"]


def test_what_is_gone_by_a_try_whose_answer_was_lost_is_deleted() -> None:
    with FlakyService([200, None, 404]).running() as service, Client(service.url) as client:
        client.methods()
        client.delete("job_01KAT5ZXQ6V5M9W3E8H2R7N4CD")
        assert [seen.partition(" ")[0] for seen in service.seen] == ["GET", "DELETE", "DELETE"]


def test_what_was_not_there_at_the_first_try_is_told() -> None:
    with FlakyService([404]).running() as service, Client(service.url) as client, pytest.raises(JobNotFound):
        client.delete("job_01KAT5ZXQ6V5M9W3E8H2R7N4CD")
