"""What only a store on a server can get wrong: links that break or fall silent, repeated calls, other versions."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Iterator

import pytest
import redis

from ihvp import __version__
from ihvp.errors import SetupError, StoreUnavailable
from ihvp.holdings.redis_store import RedisHoldings
from ihvp.jobs.calls import JobCalls
from ihvp.jobs.record import JobChange, JobRecord
from ihvp.jobs.redis_store import AsyncRedisJobStore, RedisJobStore
from ihvp.jobs.states import JobState
from ihvp.jobs.store import Finish, JobFilter
from ihvp.keyvalue.calls import Call, Scripts
from ihvp.keyvalue.connection import Executor, server_address
from ihvp.settings import Settings
from ihvp.up.embedded_store import EmbeddedStore, free_port
from tests.store.samples import PROGRESS, RESULT, job_request, new_id


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def settings_at(port: int, timeout_s: float = 5.0) -> Settings:
    return Settings(redis_url=f"redis://:secret-word@127.0.0.1:{port}/0", store_timeout_s=timeout_s)


class TestAway:
    def test_a_server_that_is_not_there_is_told_at_once(self) -> None:
        port = free_port()
        store = RedisJobStore.from_settings(settings_at(port))
        began = time.monotonic()
        with pytest.raises(StoreUnavailable, match=rf"127\.0\.0\.1:{port}/0 does not answer") as caught:
            store.get("job_1")
        assert time.monotonic() - began < 1.0
        assert "secret-word" not in str(caught.value)

    def test_a_silent_server_is_told_after_the_timeout(self, silent_port: int) -> None:
        store = RedisJobStore.from_settings(settings_at(silent_port, timeout_s=0.2))
        began = time.monotonic()
        with pytest.raises(StoreUnavailable):
            store.queue_length()
        assert 0.2 <= time.monotonic() - began < 0.8

    def test_and_so_it_is_when_awaited(self, silent_port: int) -> None:
        async def ask() -> None:
            store = AsyncRedisJobStore.from_settings(settings_at(silent_port, timeout_s=0.2))
            with pytest.raises(StoreUnavailable):
                await store.queue_length()
            await store.close()

        began = time.monotonic()
        asyncio.run(ask())
        assert time.monotonic() - began < 0.8

    def test_a_wrong_password_says_so(self, valkey_server: EmbeddedStore) -> None:
        store = RedisJobStore.from_settings(settings_at(valkey_server.port))
        with pytest.raises(StoreUnavailable, match="password") as caught:
            store.ping()
        assert "secret-word" not in str(caught.value)

    def test_a_full_server_refuses_and_loses_nothing(self, own_server: EmbeddedStore) -> None:
        store = RedisJobStore.from_settings(Settings(redis_url=own_server.url))
        kept = store.create(new_id(), job_request())
        client = redis.Redis.from_url(own_server.url)
        client.config_set("maxmemory", "1")
        with pytest.raises(StoreUnavailable, match="maxmemory"):
            store.create(new_id(), job_request())
        client.config_set("maxmemory", "0")
        assert [job.id for job in store.list(JobFilter(), limit=5).jobs] == [kept.id]

    def test_jobs_survive_the_death_of_the_server_and_the_store_finds_back(self, own_server: EmbeddedStore) -> None:
        store = RedisJobStore.from_settings(Settings(redis_url=own_server.url))
        running, queued = store.create(new_id(), job_request()), store.create(new_id(), job_request())
        assert store.claim("worker", 60.0) is not None
        assert own_server._process is not None
        own_server._process.kill()
        own_server._process.wait()
        with pytest.raises(StoreUnavailable):
            store.get(running.id)
        own_server.start()
        assert store.get(running.id).state is JobState.Running
        assert store.queue_position(queued.id) == 0
        assert store.succeed(running.id, 1, RESULT).state is JobState.Succeeded

    def test_scripts_come_back_after_the_server_forgot_them(self, valkey: Settings) -> None:
        store = RedisJobStore.from_settings(valkey)
        job = store.create(new_id(), job_request())
        redis.Redis.from_url(valkey.redis_url).script_flush()
        assert store.get(job.id) == job

    @pytest.mark.parametrize(
        ("url", "address"),
        [
            ("redis://:pw@10.0.0.1/3", "10.0.0.1:6379/3"),
            ("rediss://user:pw@store.example:7000", "store.example:7000/0"),
            ("unix:///run/valkey.sock", "/run/valkey.sock"),
        ],
    )
    def test_addresses_are_shown_without_their_secrets(self, url: str, address: str) -> None:
        assert server_address(url) == address


class TestRepeatedCalls:
    """redis-py sends a call again when the link broke before the answer came; the first may have been done."""

    @pytest.fixture
    def twice(self, valkey: Settings) -> Callable[[Call[JobRecord | None]], list[JobRecord | None]]:
        executor = Executor(valkey, "ihvp.jobs")
        return lambda call: [executor.run(call), executor.run(call)]

    def test_a_repeated_claim_takes_one_job(self, valkey: Settings, twice: Callable[..., list[JobRecord]]) -> None:
        store, calls = RedisJobStore.from_settings(valkey), JobCalls(valkey)
        store.create(new_id(), job_request())
        store.create(new_id(), job_request())
        first, second = twice(calls.claim("worker", 60.0))
        assert first == second
        assert store.queue_length() == 1
        other = store.claim("worker", 60.0)
        assert other is not None
        assert other.id != first.id

    def test_a_repeated_end_is_no_stale_attempt(self, valkey: Settings, twice: Callable[..., list[JobRecord]]) -> None:
        store, calls = RedisJobStore.from_settings(valkey), JobCalls(valkey)
        job = store.create(new_id(), job_request())
        store.claim("worker", 60.0)
        first, second = twice(calls.finish(Finish(job.id, 1, JobState.Succeeded, result=RESULT)))
        assert first == second
        store.delete(job.id)
        assert store.referenced_blobs() == set()

    def test_a_repeated_report_is_one_event(self, valkey: Settings, twice: Callable[..., object]) -> None:
        store, calls = RedisJobStore.from_settings(valkey), JobCalls(valkey)
        job = store.create(new_id(), job_request())
        store.claim("worker", 60.0)
        twice(calls.report(job.id, 1, PROGRESS))
        assert [event.type for event in store.events(job.id)] == ["state", "state", "progress"]

    def test_a_repeated_release_is_fine(self, valkey: Settings, twice: Callable[..., object]) -> None:
        store, calls = RedisJobStore.from_settings(valkey), JobCalls(valkey)
        job = store.create(new_id(), job_request())
        store.claim("worker", 60.0)
        twice(calls.release(job.id, 1))
        assert store.get(job.id).state is JobState.Queued


class TestChanges:
    def test_each_change_of_a_job_is_announced_and_its_end_as_one(self, valkey: Settings) -> None:
        async def follow() -> list[JobChange]:
            store, writer = AsyncRedisJobStore.from_settings(valkey), AsyncRedisJobStore.from_settings(valkey)
            heard: list[JobChange] = []

            async def listen() -> None:
                async for change in store.changes():
                    heard.append(change)  # noqa: PERF401 - the stream has no end, what was heard so far counts

            listening = asyncio.create_task(listen())
            await asyncio.sleep(0.1)
            await writer.create("job_1", job_request())
            await writer.claim("worker", 60.0)
            await writer.report("job_1", 1, PROGRESS)
            await writer.request_cancel("job_1")
            await writer.stop("job_1", 1, JobState.Cancelled)
            await writer.delete("job_1")
            await asyncio.sleep(0.1)
            listening.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await listening
            await store.close()
            await writer.close()
            return heard

        # It starts, has a point of progress, is asked to stop, does, and is deleted.
        going, over = JobChange("job_1", ended=False), JobChange("job_1", ended=True)
        assert asyncio.run(follow()) == [going] * 3 + [over] * 2

    def test_one_that_says_no_state_may_be_the_last(self) -> None:
        assert JobChange.read("job_1") == JobChange("job_1", ended=True)

    def test_a_quiet_link_stays_open(self, valkey: Settings) -> None:
        async def follow() -> str:
            quick = valkey.model_copy(update={"store_timeout_s": 0.1})
            store = AsyncRedisJobStore.from_settings(quick)
            changes = store.changes()
            heard = asyncio.ensure_future(anext(changes))
            await asyncio.sleep(0.5)
            await store.create("job_1", job_request())
            await store.request_cancel("job_1")
            first = await asyncio.wait_for(heard, 5)
            await store.close()
            return first.job_id

        assert asyncio.run(follow()) == "job_1"

    @pytest.mark.parametrize("silenced", [False, True], ids=["dead", "stopped"])
    def test_a_lost_link_is_told(self, own_server: EmbeddedStore, silenced: bool) -> None:
        async def follow() -> None:
            store = AsyncRedisJobStore.from_settings(Settings(redis_url=own_server.url, store_timeout_s=0.3))
            heard = asyncio.ensure_future(anext(store.changes()))
            await asyncio.sleep(0.2)
            assert own_server._process is not None
            if silenced:
                own_server._process.send_signal(19)  # SIGSTOP: the link stays open and says nothing more
            else:
                own_server._process.kill()
            try:
                with pytest.raises(StoreUnavailable):
                    await asyncio.wait_for(heard, 5)
            finally:
                own_server._process.send_signal(18)
            await store.close()

        asyncio.run(follow())


class TestSchema:
    def test_a_store_of_a_newer_version_is_left_alone(self, valkey: Settings) -> None:
        store = RedisJobStore.from_settings(valkey)
        store.ping()
        client = redis.Redis.from_url(valkey.redis_url, decode_responses=True)
        key = f"{{{valkey.namespace}}}:schema"
        assert client.get(key) == "1"
        client.set(key, "2")
        with pytest.raises(SetupError, match=rf"layout 2, that of ihvp {__version__}.*layout 1.*IHVP_NAMESPACE"):
            store.ping()

    def test_a_store_tells_which_version_used_it_last(self, valkey: Settings) -> None:
        store = RedisJobStore.from_settings(valkey)
        client = redis.Redis.from_url(valkey.redis_url, decode_responses=True)
        key = f"{{{valkey.namespace}}}:version"
        client.set(key, "0.0.1")
        store.ping()
        assert client.get(key) == __version__
        client.mset({f"{{{valkey.namespace}}}:schema": "2", key: "7.8.9"})
        with pytest.raises(SetupError, match=r"newer version.*layout 2, that of ihvp 7\.8\.9"):
            store.ping()
        assert client.get(key) == "7.8.9", "it was left alone"

    def test_all_keys_share_the_namespaces_slot(self, valkey: Settings) -> None:
        store = RedisJobStore.from_settings(valkey)
        for _ in range(2):
            store.create(new_id(), job_request(deadline_s=60))
        job = store.claim("worker", 60.0)
        assert job is not None
        store.succeed(job.id, 1, RESULT)
        store.worker_alive("worker")
        store.acquire_leadership("role", "me", 60.0)
        client = redis.Redis.from_url(valkey.redis_url, decode_responses=True)
        mine = [key for key in client.scan_iter() if valkey.namespace in key]
        assert len(mine) > 10
        assert all(key.startswith(f"{{{valkey.namespace}}}:") for key in mine)

    def test_a_deleted_job_leaves_no_key_behind(self, valkey: Settings) -> None:
        store = RedisJobStore.from_settings(valkey)
        store.ping()
        client = redis.Redis.from_url(valkey.redis_url, decode_responses=True)
        before = {key for key in client.scan_iter() if valkey.namespace in key}
        job = store.create(new_id(), job_request(deadline_s=60))
        store.claim("worker", 60.0)
        store.succeed(job.id, 1, RESULT)
        store.delete(job.id)
        store.worker_gone("worker")
        with contextlib.closing(RedisHoldings.from_settings(valkey)) as holdings:
            holdings.forget([RESULT.digest, str(RESULT.influence_digest)])  # as whoever deletes the blobs does
        # Of all jobs that ever were.
        counts = {f"{{{valkey.namespace}}}:{name}" for name in ("metrics", "pace", "tenants")}
        # That a job of this method succeeded on this model goes by itself within a day.
        lasting = {key for key in client.scan_iter() if valkey.namespace in key and client.ttl(key) < 0}
        assert lasting - counts == before

    @pytest.mark.parametrize("package", ["ihvp.jobs", "ihvp.models"])
    def test_every_script_says_what_it_takes_and_answers(self, package: str) -> None:
        scripts = Scripts(package)
        assert len(scripts.names()) >= 5
        for name in scripts.names():
            assert "Answers:" in scripts.source(name), name
