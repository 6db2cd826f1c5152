"""What ``ihvp.jobs.store`` promises of events, over every adapter."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ihvp.errors import InvalidInput
from ihvp.jobs.states import JobState
from ihvp.jobs.store import JobStore
from tests.store.samples import PROGRESS, RESULT, job_request, new_id

if TYPE_CHECKING:
    from tests.store.conftest import MakeStore


def run(store: JobStore) -> str:
    job_id = store.create(new_id(), job_request()).id
    assert store.claim("worker", 60.0) is not None
    return job_id


def test_every_move_and_progress_point_is_an_event(store: JobStore) -> None:
    job_id = run(store)
    store.report(job_id, 1, PROGRESS)
    store.succeed(job_id, 1, RESULT)
    told = [(event.type, event.data) for event in store.events(job_id)]
    assert told == [
        ("state", {"state": "queued", "attempt": 0, "revision": 1}),
        ("state", {"state": "running", "attempt": 1, "revision": 2}),
        ("progress", PROGRESS.model_dump(mode="json")),
        ("state", {"state": "succeeded", "attempt": 1, "revision": 4}),
    ]
    assert store.get(job_id).progress == PROGRESS
    assert store.get(job_id).revision == 4


def test_reading_resumes_after_any_event_without_loss(store: JobStore) -> None:
    job_id = run(store)
    for _ in range(5):
        store.report(job_id, 1, PROGRESS)
    events = list(store.events(job_id))
    assert len({event.id for event in events}) == 7
    for at, event in enumerate(events):
        assert store.events(job_id, after=event.id) == events[at + 1 :]
    assert store.events(job_id, after=events[1].id, limit=2) == events[2:4]


def test_a_capped_stream_drops_old_progress_and_no_change_of_state(make_store: MakeStore) -> None:
    store = make_store(event_limit=10)
    job_id = run(store)
    points = [PROGRESS.model_copy(update={"iteration": number}) for number in range(250)]
    for point in points[:200]:
        store.report(job_id, 1, point)
    store.release(job_id, 1)
    assert store.claim("worker", 60.0) is not None
    for point in points[200:]:
        store.report(job_id, 2, point)
    store.succeed(job_id, 2, RESULT)
    events = store.events(job_id, limit=1000)
    assert [event.data["state"] for event in events if event.type == "state"] == [
        *("queued", "running", "queued", "running", "succeeded")
    ]
    assert [event.data["iteration"] for event in events if event.type == "progress"] == [245, 246, 247, 248, 249]


def test_who_was_away_while_progress_was_dropped_gets_what_is_left(make_store: MakeStore) -> None:
    store = make_store(event_limit=10)
    job_id = run(store)
    store.report(job_id, 1, PROGRESS)
    seen = store.events(job_id)[-1].id
    for _ in range(50):
        store.report(job_id, 1, PROGRESS)
    store.succeed(job_id, 1, RESULT)
    page = store.event_page(job_id, after=seen, limit=1000)
    assert len(page.events) == 8
    assert page.events[-1].data["state"] == "succeeded"
    assert page.gap, "and is told that it is not all"
    # Who has seen what was dropped last misses nothing.
    assert not store.event_page(job_id, after=page.events[0].id).gap
    assert store.event_page(job_id).gap


def test_a_stream_within_its_limit_has_no_gap(store: JobStore) -> None:
    job_id = run(store)
    store.report(job_id, 1, PROGRESS)
    assert not store.event_page(job_id).gap
    assert not store.event_page(job_id, after=store.events(job_id)[0].id, limit=1).gap


@pytest.mark.parametrize("position", ["", "x", "1-", "-1", "1-2-3", "99999999999999999999", "0-18446744073709551616"])
def test_a_position_that_is_none_is_refused(store: JobStore, position: str) -> None:
    job_id = run(store)
    with pytest.raises(InvalidInput, match="not the id of an event"):
        store.events(job_id, after=position)


def test_a_position_of_the_far_future_has_nothing_after_it(store: JobStore) -> None:
    job_id = run(store)
    assert store.events(job_id, after="18446744073709551615-18446744073709551615") == []


def test_a_job_that_went_back_tells_it(store: JobStore) -> None:
    job_id = run(store)
    store.release(job_id, 1)
    store.claim("another", 60.0)
    store.stop(job_id, 2, JobState.Expired)
    assert [event.data["state"] for event in store.events(job_id)] == [
        "queued",
        "running",
        "queued",
        "running",
        "expired",
    ]
