"""Workers that die and freeze at each step, on a whole service: nothing is lost, nothing ends twice."""

from __future__ import annotations

import signal

import pytest

from ihvp.jobs.states import JobState
from tests.chaos.cluster import Cluster
from tests.chaos.steps import AFTER_CLAIM, AFTER_END, BEFORE_BLOB, BEFORE_END, DURING_LOAD, MID_SOLVE
from tests.waiting import eventually

pytestmark = pytest.mark.service


@pytest.mark.chaos
def test_a_worker_killed_at_any_step_costs_one_attempt(running: Cluster) -> None:
    running.worker()
    attempts = {}
    # The load first: later the second attempt has made the worker warm.
    for step in (DURING_LOAD, AFTER_CLAIM, MID_SOLVE, BEFORE_BLOB, BEFORE_END, AFTER_END):
        running.arm("kill", step)
        job = running.ended(running.submit())
        eventually(lambda: not running.armed.exists(), what=f"death {step}")
        assert job.state is JobState.Succeeded, (step, job.error)
        attempts[step] = job.attempt
    assert attempts == {step: 1 if step == AFTER_END else 2 for step in attempts}


def test_a_worker_frozen_past_its_lease_is_refused_when_it_goes_on(running: Cluster) -> None:
    frozen = running.worker()
    running.arm("stop", BEFORE_END)
    job_id = running.submit()
    eventually(lambda: frozen.frozen, what="the freeze")
    other = running.worker()
    before = running.ended(job_id)
    assert (before.state, before.attempt) == (JobState.Succeeded, 2)
    frozen.child.send_signal(signal.SIGCONT)
    eventually(lambda: frozen.said("stale_attempt") or frozen.said("job_abandoned"), what="the refusal")
    assert running.store.get(job_id) == before
    # It is of use again, alone.
    other.kill()
    after = running.ended(running.submit())
    assert after.state is JobState.Succeeded
    assert running.states(job_id) == ["queued", "running", "queued", "running", "succeeded"]
