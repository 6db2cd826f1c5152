"""The life of a job."""

from __future__ import annotations

from ihvp.jobs.states import TERMINAL, TRANSITIONS, JobState, may_follow


def test_every_state_has_its_row() -> None:
    assert set(TRANSITIONS) == set(JobState)


def test_nothing_follows_an_end() -> None:
    assert {JobState.Succeeded, JobState.Failed, JobState.Cancelled, JobState.Expired} == TERMINAL
    assert not any(may_follow(end, state) for end in TERMINAL for state in JobState)


def test_a_lost_worker_sends_its_job_back() -> None:
    assert may_follow(JobState.Running, JobState.Queued)


def test_only_a_running_job_succeeds() -> None:
    assert [s for s in JobState if may_follow(s, JobState.Succeeded)] == [JobState.Running]


def test_every_end_is_reachable() -> None:
    assert all(may_follow(JobState.Running, end) for end in TERMINAL)
