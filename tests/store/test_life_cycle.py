"""Any sequence of calls has the same outcome in Redis as in the readable model, and keeps the promises."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from ihvp.errors import IhvpError
from ihvp.jobs.memory_store import MemoryJobStore
from ihvp.jobs.outlook import Origin, Outlook, Place
from ihvp.jobs.record import JobRecord
from ihvp.jobs.redis_store import AsyncRedisJobStore, RedisJobStore
from ihvp.jobs.states import TERMINAL, JobState, may_follow
from ihvp.jobs.store import Deleted, JobFilter, JobStore, Once, Standing
from ihvp.jobs.submission import Priority
from ihvp.methods import InversionMethod
from ihvp.settings import Settings
from ihvp.webhooks.record import Delivery, DeliveryState, DeliveryTry
from ihvp.webhooks.redis_store import RedisWebhookStore
from ihvp.webhooks.rules import events_of
from ihvp.webhooks.spec import WebhookEvent, WebhookSpec
from ihvp.webhooks.store import WebhookStore
from tests.store.awaited import Awaited
from tests.store.samples import ERROR, PROGRESS, RESULT, job_request

TIMED = ("queue_wait_seconds", "eta_log_error")
IDS = [f"job_{number}" for number in range(3)]
OWNERS = ["a", "b"]
TENANTS = ["default", "acme"]
TIMES = {"created_at", "started_at", "finished_at", "deadline_at"}
LONG_S = 3600.0
ONCE = [Once(key, fingerprint, LONG_S) for key, fingerprint in (("k", "one"), ("k", "other"), ("l", "one"))]

HOOK = WebhookSpec(url="https://example.com/", events=list(WebhookEvent))
MANY = 1000

job_ids = st.sampled_from(IDS)


def outcome(store: JobStore, name: str, *args: Any, **kwargs: Any) -> Any:
    """What a call answers, times left out: the two stores' clocks differ."""
    try:
        return _timeless(getattr(store, name)(*args, **kwargs))
    except IhvpError as error:
        return type(error), str(error)


def _timeless(value: Any) -> Any:
    if isinstance(value, JobRecord):
        if value.error is not None and value.error.code == "model_quarantined":
            # It says how many seconds are left.
            value = value.model_copy(update={"error": value.error.model_copy(update={"allowed": None})})
        known = {name: getattr(value, name) is not None for name in TIMES}
        return value.model_dump(exclude=TIMES), known
    if isinstance(value, Place):
        # Whether anything is known of the times, and if not why.
        return value.queue_position, [at is None for at in (value.eta.starts_at, value.eta.ends_at)], value.eta.unknown
    if isinstance(value, Standing):
        return value.state, value.revision, _timeless(value.place)
    if isinstance(value, Outlook):
        return value.queue_length, value.workers, value.starts_in_s is None, value.ends_in_s is None, value.unknown
    return [_timeless(each) for each in value] if isinstance(value, tuple | list) else value


def _but_times(counts: Mapping[str, float]) -> dict[str, float]:
    return {name: round(by, 6) for name, by in counts.items() if not name.startswith(TIMED)}


ADAPTERS: dict[str, Callable[[Settings], Any]] = {
    "blocking": lambda own: RedisJobStore.from_settings(own, overdue_grace_s=LONG_S),
    "awaiting": lambda own: Awaited(lambda: AsyncRedisJobStore.from_settings(own, overdue_grace_s=LONG_S)),
}


def told_by(store: WebhookStore) -> list[Delivery]:
    """All deliveries, of all tenants."""
    return [delivery for tenant in TENANTS for delivery in store.list(tenant, limit=MANY)[0]]


def outbox(store: WebhookStore) -> list[tuple[Any, ...]]:
    """All deliveries, without what clocks and ids tell."""
    return sorted((e.tenant, e.job_id, e.type, e.state.value, e.attempt, e.round) for e in told_by(store))


class LifeCycle(RuleBasedStateMachine):
    """Calls both stores alike and compares."""

    base: Settings
    adapter: str

    def __init__(self) -> None:
        super().__init__()
        own = self.base.model_copy(update={"namespace": f"s-{secrets.token_hex(6)}"})
        self.redis = ADAPTERS[self.adapter](own)
        self.model = MemoryJobStore(overdue_grace_s=LONG_S)
        self.hooks = RedisWebhookStore.from_settings(own)
        self.ended: dict[str, JobState] = {}

    def teardown(self) -> None:
        self.redis.close()
        self.hooks.close()

    def jobs(self, state: JobState | None = None) -> Sequence[JobRecord]:
        return self.model.list(JobFilter(state=state), limit=len(IDS)).jobs

    def both(self, name: str, *args: Any, tenant: str | None = None, **kwargs: Any) -> Any:
        """The same call on both stores, of which a tenant sees its part; workers see all."""
        model, redis = (self.model, self.redis) if tenant is None else (self.model.of(tenant), self.redis.of(tenant))
        expected = outcome(model, name, *args, **kwargs)
        assert outcome(redis, name, *args, **kwargs) == expected
        return expected

    # Preconditions keep the walk where something can happen; refusals are met on the way, and in the contract suite.
    @precondition(lambda self: len(self.jobs()) < len(IDS))
    @rule(
        taken=st.sampled_from([None, None, None, *IDS]),
        priority=st.sampled_from(Priority),
        method=st.sampled_from([InversionMethod.Cg, InversionMethod.Cg, InversionMethod.Direct]),
        deadline_s=st.sampled_from([None, None, None, 1e-6, 30.0, LONG_S]),
        tags=st.sampled_from([{}, {"a": "1"}, {"a": "1", "b": "2"}]),
        once=st.sampled_from([None, None, None, *ONCE]),
        tenant=st.sampled_from([None, *TENANTS]),
        most_queued=st.sampled_from([None, None, None, 1, 2]),
        origin=st.sampled_from([Origin(), Origin("r1", "00-t", 2.5), Origin(predicted_s=0.0)]),
        webhook=st.sampled_from([None, HOOK]),
    )
    def create(
        self,
        taken: str | None,
        priority: Priority,
        method: InversionMethod,
        deadline_s: float | None,
        tags: dict[str, str],
        once: Once | None,
        tenant: str | None,
        most_queued: int | None,
        origin: Origin,
        webhook: WebhookSpec | None,
    ) -> None:
        free = sorted({*IDS} - {job.id for job in self.jobs()})
        job_id = taken or free[0]
        request = job_request(priority=priority, method=method, deadline_s=deadline_s, tags=tags, webhook=webhook)
        self.both("submit", job_id, request, tenant=tenant, once=once, most_queued=most_queued, origin=origin)

    @precondition(lambda self: self.model.queue_length())
    @rule(owner=st.sampled_from(OWNERS), lapsed=st.sampled_from([False, False, True]))
    def claim(self, owner: str, lapsed: bool) -> None:
        self.both("claim", owner, 0.0 if lapsed else LONG_S)

    @precondition(lambda self: self.model.queue_length() > 1)
    @rule(owner=st.sampled_from(OWNERS), lapsed=st.sampled_from([False, False, True]), most=st.integers(3, 7))
    def claim_block(self, owner: str, lapsed: bool, most: int) -> None:
        self.both("claim_block", owner, 0.0 if lapsed else LONG_S, most, 100)

    @precondition(lambda self: self.jobs(JobState.Running))
    @rule(
        write=st.sampled_from(["renew", "report", "checkpoint", "succeed", "fail", "cancelled", "expired", "release"]),
        nth=st.integers(0, 2),
        stale=st.sampled_from([0, 0, 0, 0, 1]),
    )
    def work(self, write: str, nth: int, stale: int) -> None:
        """A worker's write, for the most part by the one that holds the job."""
        running = self.jobs(JobState.Running)
        job = running[nth % len(running)]
        arguments: dict[str, tuple[Any, ...]] = {
            "renew": (LONG_S,),
            "report": (PROGRESS,),
            "checkpoint": (f"sha256:{stale}{nth}",),
            "succeed": (RESULT,),
            "fail": (ERROR,),
            "cancelled": (JobState.Cancelled, RESULT),
            "expired": (JobState.Expired, RESULT),
        }
        name = "stop" if write in {"cancelled", "expired"} else write
        named = {"alone": nth == 0} if write == "checkpoint" else {}
        self.both(name, job.id, job.attempt - stale, *arguments.get(write, ()), **named)

    @rule(owner=st.sampled_from(OWNERS), there=st.booleans())
    def be_seen(self, owner: str, there: bool) -> None:
        self.both("worker_alive" if there else "worker_gone", owner)

    @precondition(lambda self: self.jobs(JobState.Running))
    @rule(owner=st.sampled_from(OWNERS), max_attempts=st.integers(2, 3))
    def lose(self, owner: str, max_attempts: int) -> None:
        """A worker dies and is found dead."""
        expected = sorted(outcome(self.model, "reclaim_owner", owner, max_attempts), key=str)
        assert sorted(outcome(self.redis, "reclaim_owner", owner, max_attempts), key=str) == expected

    @precondition(lambda self: self.jobs(JobState.Running))
    @rule(owner=st.sampled_from(OWNERS), grace_s=st.sampled_from([0.0, 0.0, LONG_S]))
    def condemn(self, owner: str, grace_s: float) -> None:
        """Its parent looks whether a worker has stopped what it should have."""
        expected = outcome(self.model, "condemn", owner, grace_s)
        found = outcome(self.redis, "condemn", owner, grace_s)
        assert (found is None) == (expected is None)
        assert sorted(found or []) == sorted(expected or [])

    @precondition(lambda self: self.jobs(JobState.Running))
    @rule(job_id=job_ids, tenant=st.sampled_from([None, *TENANTS]))
    def cancel(self, job_id: str, tenant: str | None) -> None:
        self.both("request_cancel", job_id, tenant=tenant)

    @precondition(lambda self: self.model.quarantined())
    @rule(lift=st.booleans())
    def look_at_the_quarantine(self, lift: bool) -> None:
        digest = job_request().model.digest
        mine, theirs = (
            [
                (each.method, each.model_digest, each.job_id)
                for each in (store.end_quarantine(digest) if lift else store.quarantined())
            ]
            for store in (self.model, self.redis)
        )
        assert mine == theirs

    @rule(fresh_s=st.sampled_from([0.0, LONG_S]), pause_s=st.sampled_from([0.0, LONG_S]))
    def look_at_the_chain(self, fresh_s: float, pause_s: float) -> None:
        chains = [store.chain(LONG_S, fresh_s, pause_s) for store in (self.model, self.redis)]
        mine, theirs = [(c.workers, c.proof_age_s is None, c.asked_age_s is None, c.send) for c in chains]
        assert mine == theirs

    @precondition(lambda self: any(job.finished for job in self.jobs()))
    @rule(job_id=job_ids)
    def delete(self, job_id: str) -> None:
        # How long ago it ended differs with the clocks.
        mine, theirs = outcome(self.model, "delete", job_id), outcome(self.redis, "delete", job_id)
        if isinstance(mine, Deleted):
            # What another tenant has stays; the model knows of jobs alone, not of who has which blob.
            assert set(theirs.blobs) <= set(mine.blobs)
            self.ended.pop(job_id, None)
        else:
            assert theirs == mine

    @precondition(lambda self: self.jobs(JobState.Running))
    @rule(max_attempts=st.integers(1, 3))
    def reclaim_lapsed(self, max_attempts: int) -> None:
        # Several leases of no length at all may end in another order on another clock.
        expected = sorted(outcome(self.model, "reclaim_lapsed", max_attempts), key=str)
        assert sorted(outcome(self.redis, "reclaim_lapsed", max_attempts), key=str) == expected

    @precondition(lambda self: any(job.deadline_at and not job.finished for job in self.jobs()))
    @rule()
    def expire_overdue(self) -> None:
        assert sorted(outcome(self.redis, "expire_overdue")) == sorted(outcome(self.model, "expire_overdue"))

    @precondition(lambda self: any(job.result and not job.result_removed for job in self.jobs()))
    @rule()
    def drop_results(self) -> None:
        self.both("drop_results", 0.0)

    @precondition(lambda self: any(job.finished for job in self.jobs()))
    @rule()
    def drop_jobs(self) -> None:
        # Jobs that one call has ended ended at once in Redis, and one after another in the model.
        dropped = sorted(outcome(self.redis, "drop_jobs", 0.0))
        assert dropped == sorted(outcome(self.model, "drop_jobs", 0.0))
        for job_id in dropped:
            self.ended.pop(job_id, None)

    @precondition(lambda self: self.model.webhooks.overview().due)
    @rule(state=st.sampled_from(DeliveryState))
    def deliver(self, state: DeliveryState) -> None:
        """A sender tries all that is due."""
        for store in (self.model.webhooks, self.hooks):
            for sent in store.claim(lease_s=LONG_S, most=MANY, most_of_a_lane=MANY, most_tries=3):
                done = DeliveryTry(attempt=sent.delivery.attempt, at=sent.delivery.occurred_at)
                assert store.settle(sent.delivery.id, done, state=state)

    @precondition(lambda self: outbox(self.model.webhooks))
    @rule(nth=st.integers(0, 20))
    def replay(self, nth: int) -> None:
        """An operator has one sent again: the same in both, though their ids differ by their clocks."""
        for store in (self.model.webhooks, self.hooks):
            listed = told_by(store)
            wanted = sorted(listed, key=lambda each: (each.job_id, each.type, each.created_at))[nth % len(listed)]
            store.replay(wanted.tenant, wanted.id)

    @invariant()
    def both_tell_webhooks_the_same(self) -> None:
        assert outbox(self.hooks) == outbox(self.model.webhooks)
        mine, theirs = self.model.webhooks.overview(), self.hooks.overview()
        assert (mine.due, mine.dead, mine.counts) == (theirs.due, theirs.dead, theirs.counts)

    @invariant()
    def each_event_of_a_webhook_has_one_delivery(self) -> None:
        told = told_by(self.hooks)
        assert len({each.id for each in told}) == len(told)
        for job in self.jobs():
            states = [JobState(e.data["state"]) for e in self.redis.events(job.id) if e.type == "state"]
            events = sorted(name for state in states for name in events_of(state)) if job.request.webhook else []
            # A job may have been deleted, and another made under its id in this walk: what is older is not its own.
            mine = [e for e in told if e.job_id == job.id and e.created_at > job.created_at]
            assert {each.tenant for each in mine} <= {job.tenant}
            assert sorted(each.type for each in mine) == events

    @invariant()
    def both_tell_the_same(self) -> None:
        self.both("queue_length")
        self.both("foresee", Priority.Normal, 1.5)
        self.both("referenced_blobs")
        for wanted in (
            JobFilter(),
            JobFilter(tags={"a": "1"}, method=InversionMethod.Cg),
            JobFilter(state=JobState.Queued),
        ):
            mine, theirs = self.model.list(wanted, limit=2), self.redis.list(wanted, limit=2)
            assert [job.id for job in mine.jobs] == [job.id for job in theirs.jobs]
            assert (mine.cursor is None) == (theirs.cursor is None)
            assert {at: _timeless(place) for at, place in mine.places.items()} == {
                at: _timeless(place) for at, place in theirs.places.items()
            }
        for job_id in IDS:
            self.both("get", job_id)
            self.both("queue_position", job_id)
            self.both("standing", job_id)
            for tenant in TENANTS:
                self.both("get", job_id, tenant=tenant)
                self.both("standing", job_id, tenant=tenant)
        for tenant in TENANTS:
            mine, theirs = (each.of(tenant).list(JobFilter(), limit=3) for each in (self.model, self.redis))
            assert [job.id for job in mine.jobs] == [job.id for job in theirs.jobs]
            assert {job.tenant for job in theirs.jobs} <= {tenant}

    @invariant()
    def both_count_the_same(self) -> None:
        mine, theirs = self.model.measure(), self.redis.measure()
        assert (mine.queue_length, mine.jobs) == (theirs.queue_length, theirs.jobs)
        assert _but_times(mine.counts) == _but_times(theirs.counts)

    @invariant()
    def promises_hold(self) -> None:
        for job in self.redis.list(JobFilter(), limit=len(IDS)).jobs:
            events = self.redis.events(job.id)
            assert not self.redis.event_page(job.id).gap
            assert [(each.type, each.data) for each in events] == [
                (each.type, each.data) for each in self.model.events(job.id)
            ]
            states = [JobState(event.data["state"]) for event in events if event.type == "state"]
            assert states[0] is JobState.Queued
            assert states[-1] is job.state
            assert all(map(may_follow, states, states[1:]))
            assert (job.owner is not None) == (job.state is JobState.Running)
            if job.id in self.ended:
                assert job.state is self.ended[job.id]
            if job.state in TERMINAL:
                self.ended[job.id] = job.state


@pytest.mark.parametrize(("adapter", "walks"), [("blocking", 60), ("awaiting", 20)])
def test_redis_behaves_as_the_model(valkey: Settings, adapter: str, walks: int) -> None:
    LifeCycle.base, LifeCycle.adapter = valkey, adapter
    run_state_machine_as_test(
        LifeCycle,
        settings=settings(
            max_examples=walks,
            stateful_step_count=50,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
