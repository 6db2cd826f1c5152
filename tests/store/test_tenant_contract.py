"""What belongs to one tenant does not exist for another, in every store."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest
import redis

from ihvp.blobs.store import BlobInfo
from ihvp.errors import IdempotencyMismatch, IhvpError, JobNotFound, ModelNotFound, QuotaExceeded
from ihvp.holdings.redis_store import RedisHoldings
from ihvp.holdings.store import Holdings
from ihvp.jobs.outlook import Origin
from ihvp.jobs.record import JobRecord
from ihvp.jobs.redis_store import RedisJobStore
from ihvp.jobs.states import JobState
from ihvp.jobs.store import JobFilter, JobStore, Once
from ihvp.models.store import ModelStore
from ihvp.references import ModelRef
from ihvp.settings import Settings
from tests.store.samples import LAYOUT, RESULT, RHS, SCORES, WEIGHTS, X, job_request, model_spec, new_id

ONCE = Once("a-key", "a-body", 60.0)
BY_ID: dict[str, Callable[[JobStore, str], object]] = {
    "get": lambda store, job_id: store.get(job_id),
    "standing": lambda store, job_id: store.standing(job_id),
    "cancel": lambda store, job_id: store.request_cancel(job_id),
    "delete": lambda store, job_id: store.delete(job_id),
    "events": lambda store, job_id: store.events(job_id),
}


def _ids(store: JobStore, **wanted: JobState) -> list[str]:
    return [job.id for job in store.list(JobFilter(**wanted), limit=10).jobs]


class TestJobs:
    @pytest.mark.parametrize("owner", ["acme", None])
    @pytest.mark.parametrize("verb", BY_ID)
    def test_another_tenants_job_is_not_found(self, store: JobStore, verb: str, owner: str | None) -> None:
        mine = store if owner is None else store.of(owner)
        job = mine.create(new_id(), job_request())
        with pytest.raises(JobNotFound) as refused:
            BY_ID[verb](store.of("other"), job.id)
        with pytest.raises(JobNotFound) as unknown:
            BY_ID[verb](store.of("other"), new_id())
        assert refused.value.message == unknown.value.message
        assert store.get(job.id) == job

    def test_its_own_are_found_and_kept_under_its_name(self, store: JobStore) -> None:
        job = store.of("acme").create(new_id(), job_request())
        assert job.tenant == "acme"
        assert store.of("acme").get(job.id) == job
        assert store.of("acme").request_cancel(job.id).state is JobState.Cancelled
        store.of("acme").delete(job.id)
        with pytest.raises(JobNotFound):
            store.get(job.id)

    def test_without_a_tenant_a_job_is_the_default_ones(self, store: JobStore) -> None:
        job = store.create(new_id(), job_request())
        assert store.of("default").get(job.id).tenant == "default"

    def test_lists_hold_the_tenants_own_whatever_becomes_of_them(self, store: JobStore) -> None:
        theirs = store.create(new_id(), job_request())
        mine = [store.of("acme").create(new_id(), job_request()) for _ in range(2)]
        assert _ids(store.of("acme")) == [mine[1].id, mine[0].id]
        assert _ids(store.of("default")) == [theirs.id]
        assert _ids(store.of("nobody")) == []
        assert len(_ids(store)) == 3
        store.of("acme").request_cancel(mine[0].id)
        assert _ids(store.of("acme"), state=JobState.Cancelled) == [mine[0].id]
        assert _ids(store.of("acme"), state=JobState.Queued) == [mine[1].id]
        store.of("acme").delete(mine[0].id)
        assert _ids(store.of("acme")) == [mine[1].id]
        assert store.drop_jobs(0.0) == []

    def test_a_place_in_the_queue_counts_all_that_wait(self, store: JobStore) -> None:
        first = store.create(new_id(), job_request())
        job = store.of("acme").create(new_id(), job_request())
        assert store.of("acme").queue_position(job.id) == 1
        assert store.of("acme").queue_position(first.id) is None
        assert store.of("acme").queue_length() == 2

    def test_as_many_of_its_jobs_wait_as_may_whatever_others_have(self, store: JobStore) -> None:
        acme = store.of("acme", 2)
        for tenant in (acme, acme, store.of("other", 1)):
            tenant.create(new_id(), job_request())
        with pytest.raises(QuotaExceeded):
            acme.create(new_id(), job_request())
        assert store.of("other").queue_length() == 3
        assert store.claim("worker", 60.0) is not None
        acme.create(new_id(), job_request())

    def test_workers_take_the_jobs_of_all(self, store: JobStore) -> None:
        jobs = [store.of(tenant).create(new_id(), job_request()) for tenant in ("acme", "other")]
        taken = [store.claim("worker", 60.0) for _ in jobs]
        assert [job.id for job in taken if job] == [job.id for job in jobs]
        assert [job.tenant for job in taken if job] == ["acme", "other"]
        store.succeed(jobs[0].id, 1, RESULT)
        assert store.of("acme").get(jobs[0].id).state is JobState.Succeeded
        assert [each.job_id for each in store.reclaim_owner("worker", 3)] == [jobs[1].id]

    def test_jobs_of_two_tenants_are_never_solved_as_one_block(self, store: JobStore) -> None:
        for tenant in ("acme", "other", "acme"):
            store.of(tenant).create(new_id(), job_request())
        blocks = [store.claim_block("worker", 60.0, 100, 100) for _ in range(2)]
        assert [[job.tenant for job in block] for block in blocks] == [["acme", "acme"], ["other"]]

    def test_a_key_names_a_request_of_its_tenant(self, store: JobStore) -> None:
        acme, other = store.of("acme"), store.of("other")
        job = acme.create(new_id(), job_request(), once=ONCE)
        assert other.made_once(ONCE) is None
        assert other.made_once(Once(ONCE.key, "another-body", 60.0)) is None
        assert other.create(new_id(), job_request(), once=ONCE).id != job.id
        assert acme.create(new_id(), job_request(), once=ONCE) == job
        with pytest.raises(IdempotencyMismatch):
            acme.made_once(Once(ONCE.key, "another-body", 60.0))

    def test_the_id_of_another_tenants_job_makes_no_second_one(self, store: JobStore) -> None:
        job = store.of("acme").create(new_id(), job_request())
        with pytest.raises(IhvpError):
            store.of("other").create(job.id, job_request())


def _register(models: ModelStore, name: str, **changes: object) -> int:
    spec = model_spec(**changes)
    return models.register(name, spec, layout=LAYOUT, num_params=3, num_points=10).model.version


class TestModels:
    def test_names_and_versions_are_the_tenants_own(self, models: ModelStore) -> None:
        acme, other = models.of("acme"), models.of("other")
        _register(models, "digits")
        assert _register(acme, "digits", loss="bce_with_logits") == 1
        assert _register(acme, "digits") == 2
        assert models.of("default").get(ModelRef.parse("digits")).version == 1
        assert [model.version for model in acme.versions("digits")] == [2, 1]
        assert [model.name for model in acme.list(limit=10)[0]] == ["digits"]
        assert other.list(limit=10) == ([], None)
        for look in (lambda: other.versions("digits"), lambda: other.get(ModelRef.parse("digits@1"))):
            with pytest.raises(ModelNotFound):
                look()

    def test_what_any_tenants_model_needs_is_kept(self, models: ModelStore) -> None:
        _register(models.of("acme"), "digits")
        assert WEIGHTS in models.referenced_blobs()
        assert models.of("other").referenced_among([WEIGHTS]) == {WEIGHTS}


class TestHoldings:
    def test_a_blob_is_seen_by_those_who_have_brought_it(self, holdings: Holdings) -> None:
        acme, other = holdings.of("acme"), holdings.of("other")
        assert acme.add(X, 100)
        assert not acme.add(X, 100)
        assert other.held([X, WEIGHTS]) == set()
        assert other.add(X, 100), "that another has it is not to be told"
        assert other.held([X, WEIGHTS]) == {X}
        assert holdings.held([X]) == set()
        assert acme.held([]) == set()

    def test_bytes_count_once_for_each_tenant_until_the_blob_goes(self, holdings: Holdings) -> None:
        acme, other = holdings.of("acme"), holdings.of("other")
        for _ in range(2):
            acme.add(X, 100)
            other.add(X, 100)
        acme.add(WEIGHTS, 7)
        assert (acme.total(), other.total(), holdings.total()) == (107, 100, 0)
        holdings.forget([X, RHS])
        holdings.forget([X])
        assert (acme.total(), other.total()) == (7, 0)
        assert acme.held([X, WEIGHTS]) == {WEIGHTS}

    def test_a_tenant_holds_no_more_than_it_may(self, holdings: Holdings) -> None:
        acme = holdings.of("acme")
        acme.add(X, 60, most=100)
        with pytest.raises(QuotaExceeded):
            acme.add(WEIGHTS, 41, most=100)
        assert acme.held([WEIGHTS]) == set()
        assert not acme.add(X, 60, most=50), "what it has already needs no room"
        assert acme.add(WEIGHTS, 40, most=100)


@pytest.fixture
def stores(valkey: Settings) -> Iterator[tuple[RedisJobStore, RedisHoldings]]:
    with (
        contextlib.closing(RedisJobStore.from_settings(valkey)) as jobs,
        contextlib.closing(RedisHoldings.from_settings(valkey)) as holdings,
    ):
        yield jobs, holdings


def _done(store: RedisJobStore, tenant: str) -> JobRecord:
    job = store.of(tenant).create(new_id(), job_request())
    store.claim("worker", 60.0)
    return store.succeed(job.id, job.attempt + 1, RESULT)


class TestTogether:
    def test_a_tenant_holds_what_its_jobs_bring_and_yield(self, stores: tuple[RedisJobStore, RedisHoldings]) -> None:
        jobs, holdings = stores
        jobs.of("acme").submit(new_id(), job_request(), origin=Origin(brings=BlobInfo(RHS, 24)))
        assert holdings.of("acme").held([RHS, X]) == {RHS}
        job = jobs.claim("worker", 60.0)
        assert job is not None
        jobs.succeed(job.id, 1, RESULT.model_copy(update={"influence_size": 30}))
        assert holdings.of("acme").held([RHS, X, SCORES]) == {RHS, X, SCORES}
        assert holdings.of("acme").total() == 24 + 100 + 30
        assert holdings.held([RHS, X, SCORES]) == set()

    def test_deleting_a_job_leaves_the_blob_that_another_tenant_has(
        self, stores: tuple[RedisJobStore, RedisHoldings]
    ) -> None:
        jobs, holdings = stores
        job = _done(jobs, "acme")
        holdings.of("other").add(X, 100)
        assert set(jobs.of("acme").delete(job.id).blobs) == {SCORES}

    def test_what_was_stored_before_there_were_tenants_is_the_default_ones(
        self, stores: tuple[RedisJobStore, RedisHoldings], valkey: Settings
    ) -> None:
        jobs, holdings = stores
        done, waiting = _done(jobs, "default"), jobs.create(new_id(), job_request())
        # As the version before has left it.
        client = redis.Redis.from_url(valkey.redis_url, decode_responses=True)
        client.delete(*client.scan_iter(f"{{{valkey.namespace}}}:tenant*"))
        for job in (done, waiting):
            client.hdel(f"{{{valkey.namespace}}}:job:{job.id}", "tenant")
        assert _ids(jobs.of("default")) == [waiting.id, done.id]
        assert _ids(jobs.of("default"), state=JobState.Succeeded) == [done.id]
        assert jobs.of("default").get(done.id).tenant == "default"
        assert holdings.held([X, RHS, WEIGHTS]) == {X, RHS, WEIGHTS}
        assert _ids(jobs.of("acme")) == []
        with pytest.raises(JobNotFound):
            jobs.of("acme").get(done.id)
        jobs.of("default").delete(done.id)
        assert _ids(jobs.of("default")) == [waiting.id]
