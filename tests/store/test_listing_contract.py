"""What ``ihvp.jobs.store`` promises of listings, over every adapter."""

from __future__ import annotations

import pytest

from ihvp.errors import InvalidInput
from ihvp.jobs import rules
from ihvp.jobs.states import JobState
from ihvp.jobs.store import JobFilter, JobStore
from ihvp.methods import InversionMethod
from tests.store.samples import RESULT, job_request, new_id

ALL = JobFilter()


def queue(store: JobStore, **changes: object) -> str:
    return store.create(new_id(), job_request(**changes)).id


def walk(store: JobStore, wanted: JobFilter, limit: int, pages: int = 50) -> list[str]:
    ids, cursor = [], None
    for _ in range(pages):
        page = store.list(wanted, limit=limit, cursor=cursor)
        assert len(page.jobs) <= limit
        ids += [job.id for job in page.jobs]
        cursor = page.cursor
        if cursor is None:
            return ids
    raise AssertionError("the listing does not end")


def test_newest_first_in_pages(store: JobStore) -> None:
    ids = [queue(store) for _ in range(7)]
    for limit in (1, 3, 7, 100):
        assert walk(store, ALL, limit) == ids[::-1]
    assert store.list(ALL, limit=7).cursor is None
    assert store.list(ALL, limit=6).cursor is not None


def test_new_and_deleted_jobs_do_not_shift_later_pages(store: JobStore) -> None:
    ids = [queue(store) for _ in range(6)]
    first = store.list(ALL, limit=2)
    queue(store)
    store.request_cancel(ids[4])
    store.delete(ids[4])
    rest = store.list(ALL, limit=10, cursor=first.cursor)
    assert [job.id for job in rest.jobs] == ids[3::-1]


def test_an_empty_store_has_one_empty_page(store: JobStore) -> None:
    page = store.list(ALL, limit=10)
    assert (list(page.jobs), page.cursor) == ([], None)


def test_each_filter_restricts(store: JobStore) -> None:
    plain = queue(store)
    other_model = queue(store, reference="digits-large@1")
    second_version = queue(store, reference="digits@2")
    inline = queue(store, reference=None)
    direct = queue(store, method=InversionMethod.Direct)
    tagged = queue(store, tags={"run": "42", "who": "me"})
    store.claim("worker", 60.0)

    def listed(**wanted: object) -> set[str]:
        return set(walk(store, JobFilter(**wanted), 100))  # type: ignore[arg-type]

    assert listed(state=JobState.Running) == {plain}
    assert listed(state=JobState.Queued) == {other_model, second_version, inline, direct, tagged}
    assert listed(method=InversionMethod.Direct) == {direct}
    assert listed(model="digits") == {plain, second_version, direct, tagged}
    assert listed(model="digits@2") == {second_version}
    assert listed(model="digit") == set()
    assert listed(tags={"run": "42"}) == {tagged}
    assert listed(tags={"run": "42", "who": "you"}) == set()
    assert listed(state=JobState.Running, method=InversionMethod.Direct) == set()


def test_a_job_is_listed_under_its_state_of_now(store: JobStore) -> None:
    job_id = queue(store)
    for step, state in (
        (lambda: store.claim("worker", 60.0), JobState.Running),
        (lambda: store.succeed(job_id, 1, RESULT), JobState.Succeeded),
    ):
        step()
        assert [each for each in JobState if walk(store, JobFilter(state=each), 10)] == [state]


def test_times_bound_the_listing_on_both_sides(store: JobStore) -> None:
    ids = [queue(store) for _ in range(5)]
    times = [store.get(job_id).created_at for job_id in ids]
    between = JobFilter(created_after=times[0], created_before=times[4])
    assert walk(store, between, 2) == ids[3:0:-1]
    assert walk(store, JobFilter(created_after=times[4]), 2) == []


def test_a_rare_match_is_found_over_bounded_pages(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "SCAN_BOUND", 10)
    rare = queue(store, tags={"rare": "yes"})
    for _ in range(25):
        queue(store)
    assert walk(store, JobFilter(tags={"rare": "yes"}), 5) == [rare]


@pytest.mark.parametrize("cursor", ["", "x", "-1", "1" * 17, "+inf", "١٢"])
def test_a_cursor_that_is_none_is_refused(store: JobStore, cursor: str) -> None:
    with pytest.raises(InvalidInput, match="not a cursor"):
        store.list(ALL, limit=1, cursor=cursor)


def test_pages_cost_the_same_however_many_jobs_are_finished(store: JobStore) -> None:
    # A state has an index of its own, so one waiting job is found on the first page past any number of others.
    waiting = queue(store, priority="low")
    for _ in range(120):
        job_id = queue(store)
        store.request_cancel(job_id)
    page = store.list(JobFilter(state=JobState.Queued), limit=1)
    assert [job.id for job in page.jobs] == [waiting]
    assert page.cursor is None
