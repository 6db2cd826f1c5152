"""Two reconcilers as processes, of which one dies or freezes while it leads."""

from __future__ import annotations

import signal

import pytest

from ihvp.jobs.states import JobState
from tests.chaos.cluster import Cluster, Part
from tests.chaos.steps import AFTER_CLAIM
from tests.waiting import eventually

pytestmark = [pytest.mark.service, pytest.mark.chaos]


def leader(cluster: Cluster, parts: list[Part]) -> Part:
    """The one that holds the role."""
    pid = eventually(lambda: cluster.leader_pid(), what="leading")
    return next(part for part in parts if part.process.pid == pid)


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP])
def test_the_other_reconciler_takes_over(cluster: Cluster, fault: signal.Signals) -> None:
    cluster.api()
    both = [cluster.reconciler(), cluster.reconciler()]
    worker = cluster.worker()
    cluster.arm("stop", AFTER_CLAIM)
    job_id = cluster.submit()
    eventually(lambda: worker.frozen, what="the freeze")
    first = leader(cluster, both)
    first.send(fault)
    # The worker is lost to the job, and only a reconciler can tell.
    cluster.worker()
    job = cluster.ended(job_id)
    assert (job.state, job.attempt) == (JobState.Succeeded, 2)
    assert leader(cluster, both) is not first
    if fault is signal.SIGSTOP:
        first.send(signal.SIGCONT)
    worker.child.send_signal(signal.SIGCONT)
    assert cluster.ended(cluster.submit()).state is JobState.Succeeded
    assert cluster.states(job_id) == ["queued", "running", "queued", "running", "succeeded"]
