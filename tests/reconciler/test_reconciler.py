"""The reconciler mends a real store, a real broker and real blobs."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from celery import Celery

from ihvp.blobs.filesystem import FilesystemBlobStore
from ihvp.errors import BlobNotFound, JobNotFound
from ihvp.factors.redis_index import RedisFactorIndex
from ihvp.holdings.memory_store import MemoryHoldings
from ihvp.holdings.redis_store import RedisHoldings
from ihvp.jobs.record import JobRecord
from ihvp.jobs.redis_store import RedisJobStore
from ihvp.jobs.states import JobState
from ihvp.models.redis_store import RedisModelStore
from ihvp.settings import Settings, child_environment
from ihvp.up.embedded_store import EmbeddedStore
from tests.store.samples import LAYOUT, RESULT, job_request, model_spec, new_id
from tests.waiting import eventually
from workers.broker import make_celery, publish_token, waiting_tokens
from workers.reconciler import Reconciler
from workers.retention import Retention

ROOT = Path(__file__).parents[2]
SHORT_S = 0.03


@pytest.fixture
def settings(valkey: Settings) -> Settings:
    return valkey.model_copy(
        update={"retention_s": SHORT_S, "orphan_grace_s": 60.0, "lease_renew_s": 0.1, "reconcile_interval_s": 0.05}
    )


@pytest.fixture
def store(settings: Settings) -> Iterator[RedisJobStore]:
    store = RedisJobStore.from_settings(settings)
    yield store
    store.close()


@pytest.fixture
def broker(settings: Settings) -> Iterator[Celery]:
    app = make_celery(settings)
    yield app
    app.close()


@pytest.fixture
def blobs(settings: Settings) -> FilesystemBlobStore:
    return FilesystemBlobStore(settings.blob_dir)


@pytest.fixture
def reconciler(settings: Settings) -> Reconciler:
    return Reconciler.from_settings(settings, sweep_interval_s=SHORT_S)


def queue(store: RedisJobStore, **changes: object) -> str:
    return store.create(new_id(), job_request(**changes)).id


def put(blobs: FilesystemBlobStore, content: bytes, age_s: float = 0.0) -> str:
    with blobs.writer() as writer:
        writer.write(content)
        digest = writer.commit().digest
    then = time.time() - age_s
    os.utime(blobs.local_path(digest), (then, then))
    return digest


def succeed(store: RedisJobStore, digest: str) -> JobRecord:
    job_id = queue(store)
    job = store.claim("worker", 60.0)
    assert job is not None
    assert job.id == job_id
    result = RESULT.model_copy(update={"digest": digest, "influence_digest": None})
    return store.succeed(job_id, job.attempt, result)


class TestTokens:
    def test_every_queued_job_has_a_token_and_no_more(
        self, settings: Settings, store: RedisJobStore, broker: Celery, reconciler: Reconciler
    ) -> None:
        queue(store)
        published = queue(store)
        publish_token(broker, published)
        for _ in range(3):
            reconciler.round()
            assert waiting_tokens(broker, settings.queue_name) == 2

    def test_a_flushed_broker_gets_its_tokens_back(
        self, settings: Settings, store: RedisJobStore, broker: Celery, reconciler: Reconciler
    ) -> None:
        for _ in range(5):
            queue(store)
        reconciler.round()
        redis.Redis.from_url(settings.resolved_broker_url).flushdb()
        assert waiting_tokens(broker, settings.queue_name) == 0
        reconciler.round()
        assert waiting_tokens(broker, settings.queue_name) == 5

    def test_a_token_is_a_message_that_a_worker_takes(
        self, settings: Settings, store: RedisJobStore, broker: Celery, reconciler: Reconciler
    ) -> None:
        job_id = queue(store)
        reconciler.round()
        with broker.connection_for_read() as connection:
            message = connection.SimpleQueue(settings.queue_name).get(timeout=5)
            message.ack()
        assert message.headers["task"] == "ihvp.solve"
        assert message.content_type == "application/json"
        assert message.payload[0] == [job_id]

    def test_nothing_queued_asks_nothing_of_the_broker(self, settings: Settings) -> None:
        nowhere = settings.model_copy(update={"broker_url": "redis://127.0.0.1:1/0"})
        assert Reconciler.from_settings(nowhere).round()


class TestJobs:
    def test_a_lapsed_lease_returns_the_job_and_sends_a_token(
        self, settings: Settings, store: RedisJobStore, broker: Celery, reconciler: Reconciler
    ) -> None:
        job_id = queue(store)
        store.claim("worker", SHORT_S)
        reconciler.round()
        assert store.get(job_id).state is JobState.Running
        time.sleep(2 * SHORT_S)
        reconciler.round()
        assert store.get(job_id).state is JobState.Queued
        assert waiting_tokens(broker, settings.queue_name) == 1

    def test_a_job_that_kills_its_workers_fails(self, store: RedisJobStore, reconciler: Reconciler) -> None:
        job_id = queue(store)
        for _ in range(3):
            store.claim("worker", 0.001)
            time.sleep(0.01)
            reconciler.round()
        job = store.get(job_id)
        assert job.state is JobState.Failed
        assert job.error is not None
        assert job.error.code == "worker_lost"

    def test_an_overdue_job_expires(self, store: RedisJobStore, reconciler: Reconciler) -> None:
        job_id = queue(store, deadline_s=SHORT_S)
        time.sleep(2 * SHORT_S)
        reconciler.round()
        assert store.get(job_id).state is JobState.Expired

    def test_only_one_of_two_works(self, settings: Settings, reconciler: Reconciler) -> None:
        other = Reconciler.from_settings(settings)
        assert reconciler.round()
        assert not other.round()
        assert reconciler.round()


class TestRetention:
    @staticmethod
    def _old_result(store: RedisJobStore, blobs: FilesystemBlobStore) -> tuple[str, JobRecord]:
        """A blob, and the job that ended with it longer ago than short."""
        digest = put(blobs, b"x", age_s=3600)
        job = succeed(store, digest)
        time.sleep(2 * SHORT_S)
        return digest, job

    def test_an_old_result_and_its_blob_go_and_the_job_stays(
        self, store: RedisJobStore, blobs: FilesystemBlobStore, reconciler: Reconciler
    ) -> None:
        digest, job = self._old_result(store, blobs)
        reconciler.round()
        kept = store.get(job.id)
        assert (kept.state, kept.result_removed) == (JobState.Succeeded, True)
        with pytest.raises(BlobNotFound):
            blobs.stat(digest)

    def test_an_old_job_goes_with_its_result(
        self, settings: Settings, store: RedisJobStore, blobs: FilesystemBlobStore
    ) -> None:
        digest, job = self._old_result(store, blobs)
        Reconciler.from_settings(settings.model_copy(update={"job_retention_s": SHORT_S})).round()
        with pytest.raises(JobNotFound):
            store.get(job.id)
        with pytest.raises(BlobNotFound):
            blobs.stat(digest)

    def test_a_result_in_time_keeps_its_blob_however_old(
        self, settings: Settings, store: RedisJobStore, blobs: FilesystemBlobStore
    ) -> None:
        digest = put(blobs, b"x", age_s=3600)
        job = succeed(store, digest)
        Reconciler.from_settings(settings.model_copy(update={"retention_s": 60.0})).round()
        assert not store.get(job.id).result_removed
        assert blobs.stat(digest).size == 1

    def test_blobs_of_models_and_waiting_jobs_stay_and_orphans_go(
        self, settings: Settings, store: RedisJobStore, blobs: FilesystemBlobStore, reconciler: Reconciler
    ) -> None:
        weights, rhs, orphan, young = (
            put(blobs, content, age_s) for content, age_s in ((b"w", 3600), (b"r", 3600), (b"o", 3600), (b"y", 0))
        )
        models = RedisModelStore.from_settings(settings)
        models.register("digits", model_spec(weights=weights), layout=LAYOUT, num_params=3, num_points=10)
        request = job_request()
        queued = store.create(
            new_id(), request.model_copy(update={"rhs": request.rhs.model_copy(update={"blob": rhs})})
        )
        assert queued.request.rhs.blob == rhs
        reconciler.round()
        assert {blob.digest for blob in blobs} == {weights, rhs, young}
        assert orphan not in {blob.digest for blob in blobs}

    def test_a_sweep_looks_at_a_bounded_number_of_blobs_and_the_next_goes_on(
        self,
        settings: Settings,
        store: RedisJobStore,
        blobs: FilesystemBlobStore,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("workers.retention.BLOBS_A_SWEEP", 10)
        kept = {put(blobs, b"kept %d" % n, age_s=3600) for n in range(15)}
        for digest in kept:
            succeed(store, digest)
        for n in range(20):
            put(blobs, b"orphan %d" % n, age_s=3600)
        models, index = RedisModelStore.from_settings(settings), RedisFactorIndex.from_settings(settings)
        retention = Retention(
            settings.model_copy(update={"retention_s": 60.0}), store, models, index, blobs, MemoryHoldings()
        )
        removed = [retention.sweep().blobs for _ in range(4)]
        assert sum(removed) == 20
        assert max(removed) <= 10
        assert {blob.digest for blob in blobs} == kept
        index.close()

    def test_a_blob_that_is_removed_counts_for_no_tenant_any_more(
        self, settings: Settings, blobs: FilesystemBlobStore, reconciler: Reconciler
    ) -> None:
        orphan, young = put(blobs, b"orphan", age_s=3600), put(blobs, b"young")
        with contextlib.closing(RedisHoldings.from_settings(settings)) as holdings:
            for tenant in ("acme", "other"):
                holdings.of(tenant).add(orphan, 6)
                holdings.of(tenant).add(young, 5)
            reconciler.round()
            for tenant in ("acme", "other"):
                assert holdings.of(tenant).held([orphan, young]) == {young}
                assert holdings.of(tenant).total() == 5

    def test_what_is_due_beyond_one_sweep_goes_with_the_next_rounds(
        self, settings: Settings, store: RedisJobStore, blobs: FilesystemBlobStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("workers.retention.AT_ONCE", 2)
        monkeypatch.setattr("workers.retention.CALLS_A_SWEEP", 2)
        ids = [succeed(store, put(blobs, b"x", age_s=3600)).id for _ in range(5)]
        time.sleep(2 * SHORT_S)
        reconciler = Reconciler.from_settings(settings, sweep_interval_s=3600.0)
        reconciler.round()
        assert [store.get(job_id).result_removed for job_id in ids] == [True, True, True, True, False]
        reconciler.round()
        assert store.get(ids[-1]).result_removed

    def test_a_factor_stays_while_it_is_used_and_goes_when_it_is_not(
        self, settings: Settings, store: RedisJobStore, blobs: FilesystemBlobStore
    ) -> None:
        models, index = RedisModelStore.from_settings(settings), RedisFactorIndex.from_settings(settings)
        digest = put(blobs, b"factor", age_s=3600)
        index.keep("name", digest, 6)
        patient = settings.model_copy(update={"retention_s": 60.0})
        assert not Retention(patient, store, models, index, blobs, MemoryHoldings()).sweep()
        assert blobs.stat(digest).size == 6
        time.sleep(2 * SHORT_S)
        removed = Retention(settings, store, models, index, blobs, MemoryHoldings()).sweep()
        assert (removed.factors, removed.blobs) == (1, 1)
        assert index.find("name") is None
        index.close()

    def test_the_state_of_an_interrupted_solve_stays_until_its_job_has_ended(
        self, store: RedisJobStore, blobs: FilesystemBlobStore, reconciler: Reconciler
    ) -> None:
        job_id = queue(store)
        store.claim("worker", 60.0)
        digest = put(blobs, b"state", age_s=3600)
        store.checkpoint(job_id, 1, digest, alone=True)
        store.release(job_id, 1)
        reconciler.round()
        assert blobs.stat(digest).size == 5
        store.request_cancel(job_id)
        time.sleep(2 * SHORT_S)
        reconciler.round()
        with pytest.raises(BlobNotFound):
            blobs.stat(digest)

    def test_what_a_broken_off_upload_left_is_removed(self, settings: Settings, blobs: FilesystemBlobStore) -> None:
        writing = blobs.writer()
        writer = writing.__enter__()
        writer.write(b"half")
        (left,) = (settings.blob_dir / "unfinished").iterdir()
        then = time.time() - 3600
        os.utime(left, (then, then))
        Reconciler.from_settings(settings).round()
        assert not left.exists()
        writing.__exit__(None, None, None)


class TestProcess:
    @pytest.fixture
    def start(self, settings: Settings, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
        started = []

        def start(**overrides: str) -> subprocess.Popen[bytes]:
            values = {
                "redis_url": settings.redis_url,
                "namespace": settings.namespace,
                "data_dir": str(settings.data_dir),
                "reconcile_interval_s": "0.05",
                "lease_renew_s": "0.1",
                "store_timeout_s": "2",
            }
            with (tmp_path / "log").open("ab") as log:
                process = subprocess.Popen(
                    [sys.executable, "-m", "workers.reconciler"],
                    cwd=ROOT,
                    env=child_environment(**(values | overrides)),
                    stderr=log,
                )
            started.append(process)
            return process

        yield start
        for process in started:
            process.kill()
            process.wait()

    def test_it_works_through_an_outage_of_the_broker_and_stops_at_once(
        self,
        settings: Settings,
        store: RedisJobStore,
        tmp_path: Path,
        start: Callable[..., subprocess.Popen[bytes]],
    ) -> None:
        own = EmbeddedStore(tmp_path / "broker")
        job_id = queue(store, deadline_s=3600)
        process = start(broker_url=own.url)
        log = tmp_path / "log"
        eventually(lambda: "broker_away" in log.read_text(), 20)
        store.claim("worker", 0.001)
        eventually(lambda: store.get(job_id).state is JobState.Queued)
        own.start()
        try:
            broker = make_celery(settings.model_copy(update={"broker_url": own.url}))
            eventually(lambda: "tokens_published" in log.read_text())
            assert waiting_tokens(broker, settings.queue_name) == 1
            began = time.monotonic()
            process.send_signal(signal.SIGTERM)
            assert process.wait(5) == 0
            assert time.monotonic() - began < 1.0
        finally:
            own.stop()
        said = log.read_text()
        assert said.count("broker_away") == 1
        assert own.password not in said

    def test_a_silent_store_does_not_hold_up_its_end(
        self, tmp_path: Path, start: Callable[..., subprocess.Popen[bytes]]
    ) -> None:
        own = EmbeddedStore(tmp_path / "store")
        own.start()
        process = start(redis_url=own.url, store_timeout_s="30")
        eventually(lambda: (tmp_path / "log").exists() and "reconciler_started" in (tmp_path / "log").read_text(), 20)
        assert own._process is not None
        own._process.send_signal(signal.SIGSTOP)
        try:
            time.sleep(0.3)
            began = time.monotonic()
            process.send_signal(signal.SIGTERM)
            assert process.wait(5) == 0
            assert time.monotonic() - began < 1.0
        finally:
            own._process.send_signal(signal.SIGCONT)
            own.stop()

    def test_it_needs_no_torch(self) -> None:
        asked = "import sys, workers.reconciler; sys.exit('torch' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", asked], cwd=ROOT, check=False).returncode == 0


def test_live_workers_may_renew_before_they_are_given_up_after_an_outage(
    settings: Settings, store: RedisJobStore, tmp_path: Path
) -> None:
    own = EmbeddedStore(tmp_path / "server")
    own.start()
    away = settings.model_copy(update={"redis_url": own.url, "lease_renew_s": 0.4, "store_timeout_s": 0.2})
    jobs = RedisJobStore.from_settings(away)
    job = jobs.create(new_id(), job_request())
    stop = threading.Event()
    thread = threading.Thread(target=Reconciler.from_settings(away).run, args=(stop,))
    try:
        jobs.claim("worker", 0.3)
        thread.start()
        own.stop()
        time.sleep(0.6)
        own.start()
        time.sleep(0.4)
        assert jobs.get(job.id).state is JobState.Running
        eventually(lambda: jobs.get(job.id).state is JobState.Queued)
    finally:
        stop.set()
        thread.join()
        own.stop()
