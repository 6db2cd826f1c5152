"""Large uploads against the real service, over a line that drops, and a service that dies and comes back."""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from ihvp import Client
from ihvp.client import resumable
from ihvp.errors import BodyTooLarge, DigestMismatch, OutOfSpace, ServiceUnreachable
from ihvp.settings import Settings
from ihvp.up.embedded_store import EmbeddedStore
from tests.app.driver import digest_of, running_api

MIB = 1024 * 1024
SIZE = 40 * MIB


class Line:
    """A TCP line to the service that can be made to drop after some bytes."""

    def __init__(self, url: str) -> None:
        parts = httpx.URL(url)
        self._target = (parts.host, parts.port or 80)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.drops: list[int] = []
        self.sent: list[int] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._target)
                threading.Thread(target=self._carry, args=(far, near), daemon=True).start()
                threading.Thread(target=self._carry_up, args=(near, far), daemon=True).start()

    def _carry_up(self, near: socket.socket, far: socket.socket) -> None:
        carried = 0
        with suppress(OSError):
            while data := near.recv(65536):
                carried += len(data)
                # Small requests pass: what drops is a line under load.
                if self.drops and carried > self.drops[0]:
                    self.drops.pop(0)
                    break
                far.sendall(data)
        self.sent.append(carried)
        self._end(near, far)

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        self._end(source, sink)

    def _end(self, *sockets: socket.socket) -> None:
        for each in sockets:
            # Closing alone would not wake the thread that reads from it.
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def settings(valkey_server: EmbeddedStore, tmp_path: Path) -> Settings:
    return Settings(
        redis_url=valkey_server.url,
        namespace=f"t-{secrets.token_hex(6)}",
        data_dir=tmp_path / "data",
        log_level="error",
    )


@pytest.fixture
def line(settings: Settings) -> Iterator[Line]:
    with running_api(settings) as url:
        line = Line(url)
        yield line
        line.close()


@pytest.fixture
def big(tmp_path: Path) -> Path:
    path = tmp_path / "big file.npy"
    path.write_bytes(os.urandom(SIZE))
    return path


def stored(settings: Settings, digest: str) -> bytes:
    name = digest.removeprefix("sha256:")
    return (settings.blob_dir / name[:2] / name).read_bytes()


def test_a_line_that_drops_again_and_again_costs_what_was_on_its_way(
    settings: Settings, line: Line, big: Path
) -> None:
    line.drops = [10 * MIB, 8 * MIB, 13 * MIB]
    told: list[int] = []
    with Client(line.url) as client:
        digest = client.put_blob(big, lambda sent, total: told.append(sent * SIZE // total))
    assert stored(settings, digest) == big.read_bytes()
    assert line.drops == []
    # Each drop costs less than what lies in the buffers of the sockets, and not what had arrived.
    assert sum(line.sent) < SIZE + 3 * 8 * MIB
    assert told[-1] == SIZE
    assert list((settings.blob_dir / "uploads").glob("*.part")) == []


def test_small_blobs_go_whole_and_what_is_there_is_not_sent(settings: Settings, line: Line, big: Path) -> None:
    with Client(line.url) as client:
        small = client.put_blob(os.urandom(2 * MIB))
        assert list((settings.blob_dir / "uploads").iterdir()) == []
        client.put_blob(big)
        assert len(list((settings.blob_dir / "uploads").iterdir())) == 1
        client.put_blob(big)
        assert len(list((settings.blob_dir / "uploads").iterdir())) == 1
    assert len(stored(settings, small)) == 2 * MIB


def test_a_service_that_is_restarted_meanwhile_goes_on(
    settings: Settings, big: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resumable, "PART_BYTES", 4 * MIB)
    reached, restarted = threading.Event(), threading.Event()

    def progress(sent: int, total: int) -> None:
        if sent > total // 3 and not reached.is_set():
            reached.set()
            assert restarted.wait(20)

    with first_then_second(settings) as (url, replace):

        def restart() -> None:
            assert reached.wait(20)
            replace()
            restarted.set()

        thread = threading.Thread(target=restart)
        thread.start()
        with Client(url) as client:
            digest = client.put_blob(big, progress)
        thread.join()
        assert stored(settings, digest) == big.read_bytes()


@contextmanager
def first_then_second(settings: Settings) -> Iterator[tuple[str, object]]:
    """Two processes of the API in turn behind one address."""
    with running_api(settings) as first, running_api(settings) as second:
        line = Line(first)

        def replace() -> None:
            parts = httpx.URL(second)
            line.drops.append(0)
            line._target = (parts.host, parts.port or 80)

        yield line.url, replace
        line.close()


def test_a_file_that_changes_while_it_is_sent_is_refused(
    settings: Settings, line: Line, big: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resumable, "PART_BYTES", 4 * MIB)

    def change(sent: int, total: int) -> None:
        if sent < total // 2:
            with big.open("r+b") as file:
                file.seek(total - 1)
                file.write(b"?" if big.read_bytes()[-1:] != b"?" else b"!")

    with Client(line.url) as client, pytest.raises(DigestMismatch, match="file has changed"):
        client.put_blob(big, _once(change))
    assert list((settings.blob_dir / "uploads").iterdir()) == []


def _once(call: object) -> resumable.Progress:
    called = threading.Event()

    def progress(sent: int, total: int) -> None:
        if not called.is_set():
            called.set()
            call(sent, total)  # type: ignore[operator]

    return progress


def test_what_the_service_refuses_is_told_and_not_tried_again(settings: Settings, big: Path) -> None:
    for bound, error in (({"max_blob_bytes": MIB}, BodyTooLarge), ({"max_store_bytes": MIB}, OutOfSpace)):
        with running_api(settings.model_copy(update=bound)) as url, Client(url) as client:
            began = time.monotonic()
            with pytest.raises(error):
                client.put_blob(big)
            assert time.monotonic() - began < 5.0


def test_a_service_that_stays_away_is_given_up(settings: Settings, line: Line, big: Path) -> None:
    def hang_up(sent: int, total: int) -> None:
        del total
        if sent > 10 * MIB:
            line.drops.append(0)
            line.close()

    with Client(line.url, retry_s=1.0) as client, pytest.raises(ServiceUnreachable):
        client.put_blob(big, hang_up)


def test_an_open_file_is_sent_from_where_it_stands(settings: Settings, line: Line, big: Path) -> None:
    line.drops = [20 * MIB]
    with big.open("rb") as file, Client(line.url) as client:
        file.seek(7)
        digest = client.put_blob(file)
        assert file.tell() == 7
    assert digest == digest_of(big.read_bytes()[7:])
    assert len(stored(settings, digest)) == SIZE - 7
