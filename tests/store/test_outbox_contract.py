"""What outboxes promise, over every adapter: an event that a webhook asks for is one delivery, tried until it ends."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import pytest

from ihvp.errors import (
    DeliveryNotFound,
    DeliveryUnderWay,
    InvalidInput,
    WebhookSecretExists,
    WebhookSecretMissing,
)
from ihvp.jobs.states import JobState
from ihvp.jobs.store import JobStore
from ihvp.tenants import DEFAULT_TENANT as TENANT
from ihvp.webhooks.record import Delivery, DeliveryState, DeliveryTry, ToSend
from ihvp.webhooks.spec import WebhookEvent, WebhookSpec
from ihvp.webhooks.store import WebhookStore
from tests.store.samples import ERROR, RESULT, job_request, new_id

LONG_S = 60.0
NONE_S = 0.0
ALL = list(WebhookEvent)


def submit(store: JobStore, *events: WebhookEvent, url: str = "https://example.com/hook") -> str:
    webhook = WebhookSpec(url=url, events=list(events) or [WebhookEvent.Finished])
    return store.create(new_id(), job_request(webhook=webhook)).id


def finish(store: JobStore, job_id: str) -> None:
    job = store.claim("worker", LONG_S)
    assert job is not None
    assert job.id == job_id
    store.succeed(job_id, job.attempt, RESULT)


def told(store: JobStore, url: str = "https://example.com/hook") -> str:
    """A job that has finished, and a delivery of that."""
    job_id = submit(store, url=url)
    finish(store, job_id)
    return job_id


def deliveries(hooks: WebhookStore, **wanted: Any) -> list[Delivery]:
    return list(hooks.list(TENANT, limit=100, **wanted)[0])


def take(
    hooks: WebhookStore, lease_s: float = LONG_S, most: int = 10, of_a_lane: int = 10, tries: int = 3
) -> list[ToSend]:
    return list(hooks.claim(lease_s=lease_s, most=most, most_of_a_lane=of_a_lane, most_tries=tries))


def settle(
    hooks: WebhookStore, sent: ToSend, state: DeliveryState = DeliveryState.Delivered, pause_s: float = 0.0
) -> bool:
    done = DeliveryTry(attempt=sent.delivery.attempt, at=datetime.now(UTC), status=200, seconds=0.1)
    return hooks.settle(sent.delivery.id, done, state=state, pause_s=pause_s)


class TestWriting:
    @pytest.mark.parametrize(
        ("end", "types"),
        [
            ("succeed", ["job.started", "job.finished", "job.succeeded"]),
            ("fail", ["job.started", "job.finished", "job.failed"]),
            ("cancel", ["job.started", "job.finished", "job.cancelled"]),
            ("expire", ["job.started", "job.finished", "job.expired"]),
            ("cancel while it waits", ["job.finished", "job.cancelled"]),
        ],
    )
    def test_each_event_asked_for_becomes_one_delivery(
        self, store: JobStore, hooks: WebhookStore, end: str, types: list[str]
    ) -> None:
        job_id = submit(store, *ALL)
        attempt = 0 if end == "cancel while it waits" else store.claim("worker", LONG_S).attempt  # type: ignore[union-attr]
        if end == "succeed":
            store.succeed(job_id, attempt, RESULT)
        elif end == "fail":
            store.fail(job_id, attempt, ERROR)
        elif end == "expire":
            store.stop(job_id, attempt, JobState.Expired, RESULT)
        else:
            store.request_cancel(job_id)
            if attempt:
                store.stop(job_id, attempt, JobState.Cancelled)
        assert [each.type for each in reversed(deliveries(hooks))] == types
        # Their ids come from the events that they tell of.
        events = [event.id for event in store.events(job_id) if event.type == "state"]
        assert {each.id.split("_")[2] for each in deliveries(hooks)} == set(events[1:])

    def test_only_what_was_asked_for_is_told(self, store: JobStore, hooks: WebhookStore) -> None:
        told(store)
        finish(store, store.create(new_id(), job_request()).id)
        assert [each.type for each in deliveries(hooks)] == ["job.finished"]

    def test_a_delivery_holds_the_job_as_it_was(self, store: JobStore, hooks: WebhookStore) -> None:
        job_id = submit(store, WebhookEvent.Started, WebhookEvent.Succeeded)
        finish(store, job_id)
        store.delete(job_id)
        states = {sent.delivery.type: (sent.job.state, sent.job.result, sent.job.id) for sent in take(hooks)}
        assert states == {
            "job.started": (JobState.Running, None, job_id),
            "job.succeeded": (JobState.Succeeded, RESULT, job_id),
        }

    def test_a_job_that_starts_again_says_so_again(self, store: JobStore, hooks: WebhookStore) -> None:
        submit(store, WebhookEvent.Started, WebhookEvent.Failed)
        for _ in range(2):
            assert store.claim("worker", LONG_S) is not None
            store.reclaim_owner("worker", 2)
        found = deliveries(hooks)
        assert [each.type for each in found] == ["job.failed", "job.started", "job.started"]
        assert len({each.id for each in found}) == 3

    def test_a_repeated_write_tells_nothing_twice(self, store: JobStore, hooks: WebhookStore) -> None:
        job_id = told(store)
        store.request_cancel(other := submit(store))
        store.request_cancel(other)
        with pytest.raises(Exception, match="no longer running"):
            store.succeed(job_id, 1, RESULT)
        assert len(deliveries(hooks)) == 2


class TestSending:
    def test_a_delivery_goes_to_one_sender_until_its_lease_has_run_out(
        self, store: JobStore, hooks: WebhookStore
    ) -> None:
        told(store)
        (first,) = take(hooks, lease_s=0.05)
        assert (first.delivery.attempt, first.delivery.sending) == (1, True)
        assert take(hooks) == []
        time.sleep(0.1)
        (second,) = take(hooks)
        assert (second.delivery.id, second.delivery.attempt) == (first.delivery.id, 2)
        assert [done.error for done in second.delivery.tries] == ["sender_lost"]
        # The one that was given up comes back: its word counts no more.
        assert not settle(hooks, first)
        assert settle(hooks, second)
        assert not settle(hooks, second)
        (done,) = deliveries(hooks)
        assert (done.state, done.due_at, done.sending) == (DeliveryState.Delivered, None, False)
        assert [each.status for each in done.tries] == [None, 200]

    def test_one_whose_senders_all_die_is_dead_in_the_end(self, store: JobStore, hooks: WebhookStore) -> None:
        told(store)
        for _ in range(3):
            assert len(take(hooks, lease_s=NONE_S)) == 1
        assert take(hooks) == []
        assert [each.state for each in deliveries(hooks)] == [DeliveryState.Dead]

    def test_a_failed_one_waits_for_its_time(self, store: JobStore, hooks: WebhookStore) -> None:
        told(store)
        (sent,) = take(hooks)
        settle(hooks, sent, DeliveryState.Pending, pause_s=0.1)
        (waiting,) = deliveries(hooks)
        assert waiting.state is DeliveryState.Pending
        assert waiting.due_at is not None
        assert take(hooks) == []
        time.sleep(0.15)
        assert [again.delivery.attempt for again in take(hooks)] == [2]

    def test_one_host_has_its_share_and_leaves_the_rest_to_others(self, store: JobStore, hooks: WebhookStore) -> None:
        for _ in range(5):
            told(store, "https://slow.example/hook")
        told(store, "https://other.example/hook")
        taken = take(hooks, of_a_lane=2)
        hosts = sorted(sent.delivery.url.split("/")[2] for sent in taken)
        assert hosts == ["other.example", "slow.example", "slow.example"]
        assert take(hooks, of_a_lane=2) == []
        settle(hooks, next(sent for sent in taken if "slow" in sent.delivery.url))
        assert len(take(hooks, of_a_lane=2)) == 1
        assert len(take(hooks, of_a_lane=5, most=1)) == 1

    def test_it_is_signed_with_the_secrets_of_its_tenant(self, store: JobStore, hooks: WebhookStore) -> None:
        for _ in range(3):
            told(store)
        (without,) = take(hooks, most=1)
        assert without.secrets == []
        made = hooks.create_secret(TENANT)
        hooks.create_secret("another")
        (sent,) = take(hooks, most=1)
        assert sent.secrets == made
        rotated = hooks.rotate_secret(TENANT, LONG_S)
        (sent,) = take(hooks, most=1)
        assert sent.secrets == rotated
        assert len(rotated) == 2


class TestWatching:
    def test_a_listing_has_pages_and_filters(self, store: JobStore, hooks: WebhookStore) -> None:
        jobs = [told(store) for _ in range(5)]
        (sent,) = take(hooks, most=1)
        settle(hooks, sent, DeliveryState.Dead)
        assert [each.id for each in deliveries(hooks, state=DeliveryState.Dead)] == [sent.delivery.id]
        assert len(deliveries(hooks, state=DeliveryState.Pending)) == 4
        assert [each.job_id for each in deliveries(hooks, job_id=jobs[2])] == [jobs[2]]
        assert deliveries(hooks, job_id=jobs[4], state=DeliveryState.Dead) == []
        seen, cursor = [], None
        while True:
            page, cursor = hooks.list(TENANT, limit=2, cursor=cursor)
            seen += [each.job_id for each in page]
            if cursor is None:
                break
        assert seen == jobs[::-1]
        with pytest.raises(InvalidInput, match="not a cursor"):
            hooks.list(TENANT, limit=2, cursor="x")

    def test_another_tenant_learns_of_none(self, store: JobStore, hooks: WebhookStore) -> None:
        job_id = told(store)
        (mine,) = deliveries(hooks)
        assert hooks.list("another", limit=10) == ([], None)
        assert list(hooks.list("another", limit=10, job_id=job_id)[0]) == []
        for look in (hooks.get, hooks.replay):
            with pytest.raises(DeliveryNotFound):
                look("another", mine.id)
        assert hooks.get(TENANT, mine.id) == mine

    def test_the_overview_counts_over_all(self, store: JobStore, hooks: WebhookStore) -> None:
        for _ in range(5):
            told(store)
        ends = [(DeliveryState.Delivered, 0.0), (DeliveryState.Dead, 0.0), (DeliveryState.Pending, LONG_S)]
        for state, pause_s in ends:
            (sent,) = take(hooks, most=1)
            settle(hooks, sent, state, pause_s)
        take(hooks, most=1)
        time.sleep(0.01)
        seen = hooks.overview()
        assert (seen.due, seen.waiting, seen.sending, seen.dead) == (1, 1, 1, 1)
        assert 0.01 <= seen.oldest_due_s < 30
        assert seen.counts == {"delivered": 1, "dead": 1, "failed": 1}


class TestReplay:
    @pytest.mark.parametrize("state", DeliveryState)
    def test_a_replayed_delivery_is_due_now_with_a_new_schedule(
        self, store: JobStore, hooks: WebhookStore, state: DeliveryState
    ) -> None:
        told(store)
        (sent,) = take(hooks)
        with pytest.raises(DeliveryUnderWay):
            hooks.replay(TENANT, sent.delivery.id)
        settle(hooks, sent, state, pause_s=LONG_S)
        replayed = hooks.replay(TENANT, sent.delivery.id)
        assert (replayed.id, replayed.state, replayed.round) == (sent.delivery.id, DeliveryState.Pending, 1)
        assert len(replayed.tries) == 1
        assert hooks.overview().dead == 0
        (again,) = take(hooks)
        assert (again.delivery.attempt, again.job) == (2, sent.job)
        settle(hooks, again)
        assert [each.state for each in deliveries(hooks)] == [DeliveryState.Delivered]

    def test_what_is_not_there_is_said(self, hooks: WebhookStore) -> None:
        with pytest.raises(DeliveryNotFound, match="GET /v1/webhooks/deliveries"):
            hooks.replay(TENANT, "msg_1")


class TestKeeping:
    def test_ended_deliveries_go_when_their_time_is_over(self, store: JobStore, hooks: WebhookStore) -> None:
        for _ in range(3):
            told(store)
        for state in (DeliveryState.Delivered, DeliveryState.Dead):
            (sent,) = take(hooks, most=1)
            settle(hooks, sent, state)
        ended = [each.id for each in reversed(deliveries(hooks)) if each.ended_at]
        assert hooks.drop(LONG_S) == []
        time.sleep(0.01)
        assert hooks.drop(0.0, limit=1) == ended[:1]
        assert hooks.drop(0.0) == ended[1:]
        assert [each.state for each in deliveries(hooks)] == [DeliveryState.Pending]
        assert hooks.overview().dead == 0


class TestSecrets:
    def test_the_first_is_made_once(self, hooks: WebhookStore) -> None:
        assert hooks.secrets(TENANT) == []
        with pytest.raises(WebhookSecretMissing, match="ihvp webhooks secret create"):
            hooks.rotate_secret(TENANT, LONG_S)
        (made,) = hooks.create_secret(TENANT)
        assert made.secret.startswith("whsec_")
        assert made.valid_until is None
        with pytest.raises(WebhookSecretExists, match=made.id):
            hooks.create_secret(TENANT)
        assert hooks.secrets(TENANT) == [made]

    def test_the_one_before_counts_for_a_while_after_a_rotation(self, hooks: WebhookStore) -> None:
        (first,) = hooks.create_secret(TENANT)
        new, old = hooks.rotate_secret(TENANT, 0.1)
        assert (old.id, old.secret) == (first.id, first.secret)
        assert old.valid_until is not None
        assert new.secret != old.secret
        time.sleep(0.15)
        assert hooks.secrets(TENANT) == [new]

    def test_a_leaked_one_can_be_ended_at_once(self, hooks: WebhookStore) -> None:
        hooks.create_secret(TENANT)
        hooks.rotate_secret(TENANT, LONG_S)
        (only,) = hooks.rotate_secret(TENANT, 0.0)
        assert hooks.secrets(TENANT) == [only]

    def test_many_rotations_leave_a_few(self, hooks: WebhookStore) -> None:
        hooks.create_secret(TENANT)
        for _ in range(6):
            made = hooks.rotate_secret(TENANT, LONG_S)
        assert len(made) == 4
        assert [each.valid_until is None for each in made] == [True, False, False, False]
