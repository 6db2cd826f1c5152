"""What ``ihvp.jobs.store`` promises of jobs that are claimed as one block, over every adapter."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import Any

import hypothesis
import pytest
import redis
from hypothesis import strategies as st

from ihvp.errors import StaleAttempt
from ihvp.jobs.calls import JobCalls
from ihvp.jobs.memory_store import MemoryJobStore
from ihvp.jobs.record import JobRecord
from ihvp.jobs.redis_store import RedisJobStore
from ihvp.jobs.states import JobState
from ihvp.jobs.store import JobStore, LeaseState, Reclaimed
from ihvp.jobs.submission import Priority, ResolvedModel, ResolvedRhs
from ihvp.keyvalue.connection import Executor
from ihvp.methods import InversionMethod
from ihvp.settings import Settings
from ihvp.up.embedded_store import EmbeddedStore
from tests.store.samples import ERROR, PROGRESS, RESULT, RHS, job_request, model_spec, new_id

LONG_S = 3600.0
OTHER = {"hessian_perturbation": 0.5}
"""What puts a job into another group."""


def queue(store: JobStore, rows: int = 1, **changes: Any) -> str:
    rhs = ResolvedRhs(blob=RHS, shape=[rows, 3] if rows > 1 else [3])
    return store.create(new_id(), job_request(rhs=rhs, **changes)).id


def claim(store: JobStore, most_rhs: int = 64, most_numbers: int = 1000) -> list[str]:
    return [job.id for job in store.claim_block("worker", LONG_S, most_rhs, most_numbers)]


class TestWhoIsTakenAlong:
    def test_nothing_waits(self, store: JobStore) -> None:
        assert claim(store) == []

    def test_all_that_are_alike_in_the_order_of_the_queue(self, store: JobStore) -> None:
        ids = [queue(store) for _ in range(4)]
        block = store.claim_block("worker", LONG_S, 64, 1000)
        assert [job.id for job in block] == ids
        for job in block:
            assert (job.state, job.attempt, job.owner, job.revision) == (JobState.Running, 1, "worker", 2)
            assert store.get(job.id) == job
        assert store.queue_length() == 0

    @pytest.mark.parametrize(
        "changes",
        [
            {"method": InversionMethod.Minres},
            {"options": {"rtol": 1e-3}},
            {"hessian_perturbation": 0.2},
            {"hessian_perturbation": "auto"},
            {"hessian_perturbation": {"*": 0.1}},
            {"curvature": "ggn"},
            {"model": "another"},
        ],
        ids=str,
    )
    def test_nobody_whose_system_or_method_differs(self, store: JobStore, changes: dict[str, Any]) -> None:
        if "model" in changes:
            spec = model_spec(dtype="float64")
            changes = {"model": ResolvedModel(reference="digits@1", digest=spec.digest, num_params=3, spec=spec)}
        first = queue(store)
        queue(store, **changes)
        assert claim(store) == [first]

    def test_whatever_is_done_with_x_makes_no_difference(self, store: JobStore) -> None:
        ids = [queue(store), queue(store, influence={"on": "training"}), queue(store, tags={"a": "1"})]
        assert claim(store) == ids

    def test_the_same_model_under_another_name_is_the_same(self, store: JobStore) -> None:
        ids = [queue(store, reference=name) for name in ("digits@1", "copy@7", None)]
        assert claim(store) == ids

    def test_right_hand_sides_up_to_the_bound(self, store: JobStore) -> None:
        first, second, third = queue(store, 3), queue(store, 4), queue(store, 2)
        assert claim(store, 8) == [first, second]
        assert claim(store, 8) == [third]

    def test_and_numbers_in_them_up_to_theirs(self, store: JobStore) -> None:
        first, second, third = queue(store, 3), queue(store, 4), queue(store)
        assert claim(store, most_numbers=21) == [first, second]
        assert claim(store, most_numbers=21) == [third]

    def test_the_first_job_is_taken_however_large(self, store: JobStore) -> None:
        first, second = queue(store, 9), queue(store, 9)
        queue(store)
        assert claim(store, 8) == [first]
        assert claim(store, most_numbers=8) == [second]

    def test_a_plain_claim_takes_one(self, store: JobStore) -> None:
        first, second = queue(store), queue(store)
        assert store.claim("worker", LONG_S).id == first  # type: ignore[union-attr]
        assert claim(store) == [second]


class TestOrder:
    def test_equals_without_a_deadline_are_passed(self, store: JobStore) -> None:
        first, other, like = queue(store), queue(store, **OTHER), queue(store)
        assert claim(store) == [first, like]
        assert claim(store) == [other]

    @pytest.mark.parametrize(
        ("priorities", "taken"),
        [
            (["high", "high", "normal"], False),
            (["normal", "normal", "low"], False),
            (["high", "high", "low"], False),
            (["high", "normal", "normal"], True),
            (["low", "low", "low"], True),
        ],
        ids=lambda value: "-".join(value) if isinstance(value, list) else None,
    )
    def test_a_higher_priority_is_never_passed(self, store: JobStore, priorities: list[str], taken: bool) -> None:
        first, between, like = (
            queue(store, priority=Priority(p), **(OTHER if at == 1 else {})) for at, p in enumerate(priorities)
        )
        assert claim(store) == ([first, like] if taken else [first])
        assert claim(store)[0] == between

    def test_nor_is_a_deadline(self, store: JobStore) -> None:
        first, other, _ = queue(store), queue(store, deadline_s=LONG_S, **OTHER), queue(store)
        assert claim(store) == [first]
        assert claim(store) == [other]

    def test_a_deadline_of_ones_own_is_no_hindrance(self, store: JobStore) -> None:
        ids = [queue(store), queue(store, deadline_s=LONG_S), queue(store)]
        assert claim(store) == ids

    def test_nothing_is_added_behind_a_near_deadline(self, store: JobStore) -> None:
        ids = [queue(store), queue(store, deadline_s=30.0), queue(store)]
        assert claim(store) == ids[:2]

    def test_who_stands_behind_is_not_passed(self, store: JobStore) -> None:
        first, like, other = queue(store), queue(store), queue(store, deadline_s=LONG_S, **OTHER)
        assert claim(store) == [first, like]
        assert claim(store) == [other]

    def test_one_past_its_deadline_is_not_given_out(self, store: JobStore) -> None:
        first, late, like = queue(store), queue(store, deadline_s=0.01), queue(store)
        time.sleep(0.02)
        assert claim(store) == [first, like]
        assert store.get(late).state is JobState.Expired


class TestMembers:
    """Each is a job of its own."""

    @pytest.fixture
    def block(self, store: JobStore) -> Sequence[JobRecord]:
        for _ in range(5):
            queue(store)
        return store.claim_block("worker", LONG_S, 64, 1000)

    def test_they_end_one_by_one_each_in_its_way(self, store: JobStore, block: Sequence[JobRecord]) -> None:
        ids = [job.id for job in block]
        store.request_cancel(ids[0])
        assert [store.renew(job_id, 1, LONG_S) for job_id in ids[:2]] == [LeaseState.CancelRequested, LeaseState.Held]
        assert store.report(ids[1], 1, PROGRESS) is LeaseState.Held
        ended = [
            store.succeed(ids[0], 1, RESULT),
            store.succeed(ids[1], 1, RESULT),
            store.fail(ids[2], 1, ERROR),
            store.stop(ids[3], 1, JobState.Expired),
        ]
        assert [job.state.value for job in ended] == ["cancelled", "succeeded", "failed", "expired"]
        assert store.get(ids[4]).state is JobState.Running
        with pytest.raises(StaleAttempt):
            store.succeed(ids[2], 1, RESULT)

    def test_released_ones_wait_in_their_old_order_and_are_a_block_again(
        self, store: JobStore, block: Sequence[JobRecord]
    ) -> None:
        ids = [job.id for job in block]
        for job_id in reversed(ids):
            store.release(job_id, 1)
        again = store.claim_block("worker", LONG_S, 64, 1000)
        assert [(job.id, job.attempt) for job in again] == [(job_id, 2) for job_id in ids]

    def test_a_lost_worker_gives_all_of_them_back_and_each_is_tried_alone(
        self, store: JobStore, block: Sequence[JobRecord]
    ) -> None:
        ids = [job.id for job in block]
        store.succeed(ids[0], 1, RESULT)
        taken = store.reclaim_owner("worker", 3)
        assert sorted(taken, key=lambda r: r.job_id) == [Reclaimed(job_id, JobState.Queued) for job_id in ids[1:]]
        # Whichever of them it was that killed the worker: it takes nobody with it again.
        fresh = queue(store)
        assert [claim(store) for _ in range(5)] == [[job_id] for job_id in [*ids[1:], fresh]]

    def test_lapsed_leases_are_taken_back_each_for_itself(self, store: JobStore) -> None:
        ids = [queue(store) for _ in range(3)]
        store.claim_block("worker", 0.02, 64, 1000)
        store.renew(ids[1], 1, LONG_S)
        time.sleep(0.04)
        assert {each.job_id for each in store.reclaim_lapsed(3)} == {ids[0], ids[2]}


class TestCheckpoint:
    def test_the_next_attempt_finds_it(self, store: JobStore) -> None:
        job_id = queue(store)
        job = store.claim("worker", LONG_S)
        assert job is not None
        assert job.checkpoint is None
        assert store.checkpoint(job_id, 1, "sha256:1", alone=True) is None
        noted = store.get(job_id)
        assert (noted.checkpoint, noted.revision) == ("sha256:1", job.revision + 1)
        store.release(job_id, 1)
        again = store.claim("worker", LONG_S)
        assert again is not None
        assert again.checkpoint == "sha256:1"

    def test_it_is_referenced_until_another_takes_its_place_or_the_job_ends(self, store: JobStore) -> None:
        job_id = queue(store)
        store.claim("worker", LONG_S)
        store.checkpoint(job_id, 1, "sha256:1", alone=True)
        assert "sha256:1" in store.referenced_blobs()
        assert store.checkpoint(job_id, 1, "sha256:1", alone=True) is None
        assert store.checkpoint(job_id, 1, "sha256:2", alone=True) == "sha256:1"
        assert {"sha256:1", "sha256:2"} & store.referenced_blobs() == {"sha256:2"}
        ended = store.succeed(job_id, 1, RESULT)
        assert ended.checkpoint is None
        assert "sha256:2" not in store.referenced_blobs()

    def test_what_something_else_needs_is_not_handed_out_as_superseded(self, store: JobStore) -> None:
        job_id = queue(store)
        store.claim("worker", LONG_S)
        store.checkpoint(job_id, 1, RHS, alone=True)
        assert store.checkpoint(job_id, 1, "sha256:2", alone=True) is None

    def test_a_stale_attempt_notes_nothing(self, store: JobStore) -> None:
        job_id = queue(store)
        store.claim("worker", LONG_S)
        store.release(job_id, 1)
        with pytest.raises(StaleAttempt):
            store.checkpoint(job_id, 1, "sha256:1", alone=True)
        assert store.get(job_id).checkpoint is None

    @pytest.mark.parametrize("alone", [True, False])
    def test_a_job_stays_alone_if_what_it_goes_on_from_is_for_it_alone(self, store: JobStore, alone: bool) -> None:
        first, second = queue(store), queue(store)
        store.claim("worker", LONG_S)
        store.checkpoint(first, 1, "sha256:1", alone=not alone)
        store.checkpoint(first, 1, "sha256:2", alone=alone)
        store.release(first, 1)
        assert claim(store) == ([first] if alone else [first, second])


WAITING = st.fixed_dictionaries(
    {
        "priority": st.sampled_from(Priority),
        "deadline_s": st.sampled_from([None, None, None, 30.0, LONG_S]),
        "hessian_perturbation": st.sampled_from([0.1, 0.1, 0.5]),
        "rows": st.integers(1, 3),
    }
)


@hypothesis.settings(deadline=None, derandomize=True, max_examples=100)
@hypothesis.given(queued=st.lists(WAITING, min_size=2, max_size=7), most_rhs=st.integers(1, 8))
def test_any_queue_falls_into_the_same_blocks(
    valkey_server: EmbeddedStore, queued: list[dict[str, Any]], most_rhs: int
) -> None:
    own = Settings(redis_url=valkey_server.url, namespace=f"b-{secrets.token_hex(6)}")
    blocks: list[list[list[int]]] = []
    for store in (MemoryJobStore(), RedisJobStore.from_settings(own)):
        ids = [queue(store, **fields) for fields in queued]
        found: list[list[int]] = []
        while taken := claim(store, most_rhs):
            found.append([ids.index(job_id) for job_id in taken])
        blocks.append(found)
        taken_in_order = [nth for block in found for nth in block]
        assert sorted(taken_in_order) == list(range(len(ids)))
        # Head starts are minutes and the queue was filled at once, so no lower priority is ever ahead of a higher one.
        ranks = [[*Priority].index(queued[nth]["priority"]) for nth in taken_in_order]
        assert ranks == sorted(ranks, reverse=True)
    assert blocks[0] == blocks[1]


def test_a_repeated_claim_takes_one_block(valkey: Settings) -> None:
    store, calls, executor = RedisJobStore.from_settings(valkey), JobCalls(valkey), Executor(valkey, "ihvp.jobs")
    ids = [queue(store) for _ in range(4)]
    call = calls.claim_block("worker", LONG_S, 3, 1000)
    first = executor.run(call)
    assert [job.id for job in first] == ids[:3]
    assert executor.run(call) == first
    store.succeed(ids[0], 1, RESULT)
    assert [job.id for job in executor.run(call)] == ids[1:3], "what has ended meanwhile is not given out again"
    assert store.queue_length() == 1


def test_a_claimed_block_leaves_no_index_behind(valkey: Settings) -> None:
    store = RedisJobStore.from_settings(valkey)
    client = redis.Redis.from_url(valkey.redis_url, decode_responses=True)
    ids = [queue(store, deadline_s=LONG_S, priority=priority) for priority in Priority]
    waiting = {key.split(":", 1)[1] for key in client.scan_iter(f"{{{valkey.namespace}}}:*")}
    assert {"queue:deadlines", "queue:normal", "queue:high"} <= waiting
    assert len(claim(store)) == len(ids)
    left = {key.split(":", 1)[1] for key in client.scan_iter(f"{{{valkey.namespace}}}:*")}
    assert not [key for key in left if key.startswith(("queue", "alike"))]
