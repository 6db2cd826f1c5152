"""What ``ihvp.factors.index`` promises, over every adapter."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import redis

from ihvp.errors import StoreUnavailable
from ihvp.factors.index import FactorIndex
from ihvp.factors.memory_index import MemoryFactorIndex
from ihvp.factors.redis_index import RedisFactorIndex
from ihvp.keyvalue.calls import Scripts
from ihvp.settings import Settings
from ihvp.up.embedded_store import free_port
from tests.store.samples import digest

BOUND = 100
A, B, C = map(digest, "abc")


@pytest.fixture(params=["memory", "redis"])
def index(request: pytest.FixtureRequest) -> Iterator[FactorIndex]:
    if request.param == "memory":
        yield MemoryFactorIndex(BOUND)
        return
    settings: Settings = request.getfixturevalue("valkey")
    made = RedisFactorIndex.from_settings(settings.model_copy(update={"factor_bytes": BOUND}))
    yield made
    made.close()


def test_what_was_kept_is_found_and_referenced(index: FactorIndex) -> None:
    assert index.find("a") is None
    assert index.keep("a", A, 10)
    assert index.find("a") == A
    assert index.referenced_blobs() == {A}
    index.forget("a")
    index.forget("a")
    assert index.find("a") is None
    assert index.referenced_blobs() == set()


def test_the_least_recently_used_make_room(index: FactorIndex) -> None:
    for name, blob in (("a", A), ("b", B)):
        index.keep(name, blob, 40)
        time.sleep(0.002)
    index.find("a")
    assert index.keep("c", C, 60)
    assert index.referenced_blobs() == {A, C}


def test_what_exceeds_the_bound_is_not_kept_and_drops_nothing(index: FactorIndex) -> None:
    index.keep("a", A, 40)
    assert not index.keep("b", B, BOUND + 1)
    assert index.referenced_blobs() == {A}


def test_a_name_that_is_kept_again_counts_once(index: FactorIndex) -> None:
    for _ in range(3):
        assert index.keep("a", A, 60)
    assert index.keep("b", B, 40)
    assert index.referenced_blobs() == {A, B}


def test_what_nobody_uses_is_dropped(index: FactorIndex) -> None:
    index.keep("old", A, 10)
    time.sleep(0.06)
    index.keep("new", B, 10)
    assert index.drop_unused(0.04) == 1
    assert index.referenced_blobs() == {B}


def test_dropping_leaves_no_key_behind(valkey: Settings) -> None:
    index = RedisFactorIndex.from_settings(valkey)
    index.keep("a", A, 10)
    client = redis.Redis.from_url(valkey.redis_url, decode_responses=True)
    mine = [key for key in client.scan_iter() if valkey.namespace in key]
    assert all(key.startswith(f"{{{valkey.namespace}}}:factors") for key in mine)
    index.forget("a")
    assert client.get(f"{{{valkey.namespace}}}:factors:bytes") == "0"
    index.close()


def test_a_server_that_is_away_is_told() -> None:
    index = RedisFactorIndex.from_settings(Settings(redis_url=f"redis://127.0.0.1:{free_port()}/0"))
    with pytest.raises(StoreUnavailable):
        index.find("a")


def test_every_script_says_what_it_takes_and_answers() -> None:
    scripts = Scripts("ihvp.factors")
    assert scripts.names() == ["drop_unused", "find", "forget", "keep"]
    assert all("Answers:" in scripts.source(name) for name in scripts.names())
