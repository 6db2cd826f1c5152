"""A worker that does not hear that it should stop: native code has the interpreter, and no thread of it goes on."""

from __future__ import annotations

import secrets
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import redis
import torch

from ihvp.jobs.redis_store import RedisJobStore
from ihvp.jobs.states import JobState
from ihvp.jobs.submission import JobRequest, ResolvedRhs
from ihvp.settings import Settings
from ihvp.up.embedded_store import EmbeddedStore
from tests.waiting import eventually
from tests.workers.problems import Example, job_request, put_tensors, softmax_regression
from tests.workers.running import RunningWorker, Service

pytestmark = pytest.mark.service

GRACE_S = 1.0
# A worker's parent looks once a second; the rest is for a machine under load.
SOON_S = 6.0

Stuck = Callable[..., JobRequest]


@pytest.fixture(scope="module")
def worked(
    valkey_server: EmbeddedStore, tmp_path_factory: pytest.TempPathFactory, plugin_site: Path
) -> Iterator[tuple[Service, RunningWorker]]:
    folder = tmp_path_factory.mktemp("worked")
    settings = Settings(
        redis_url=valkey_server.url, namespace=f"t-{secrets.token_hex(6)}", data_dir=folder, stop_grace_s=GRACE_S
    )
    service = Service(settings)
    worker = RunningWorker(service, folder / "worker.log", python_path=plugin_site, stop_grace_s=GRACE_S)
    yield service, worker
    worker.close()


@pytest.fixture(scope="module")
def example() -> Example:
    return softmax_regression(200, 5, 3)


@pytest.fixture
def stuck(worked: tuple[Service, RunningWorker], example: Example, tmp_path: Path) -> Stuck:
    """Makes requests on a model whose first loading hangs for ten minutes."""
    service, _ = worked
    config = {"in_features": 5, "out_features": 3, "stuck_once": str(tmp_path / "was stuck")}
    spec = example.upload(service.blobs, architecture={"type": "stuck", "config": config})
    b = put_tensors(service.blobs, b=torch.ones(example.num_params))
    rhs = ResolvedRhs(blob=b, shape=[example.num_params])

    def request(**changes: object) -> JobRequest:
        return job_request(spec, example.num_params, rhs, **changes)

    return request


def losses(service: Service, job_id: str) -> int:
    """What the store counts against the job; callers do not see it."""
    with redis.Redis.from_url(service.settings.redis_url, decode_responses=True) as client:
        return int(client.hget(f"{{{service.settings.namespace}}}:job:{job_id}", "losses") or -1)


def loading(service: Service, *ids: str) -> None:
    """Waits until the jobs are held and their worker loads."""
    for job_id in ids:
        eventually(lambda job_id=job_id: (p := service.store.get(job_id).progress) and p.phase == "loading")


def test_a_cancelled_job_ends_within_the_grace_and_its_neighbour_is_none_the_worse(
    worked: tuple[Service, RunningWorker], stuck: Stuck
) -> None:
    service, worker = worked
    ids = [service.submit(stuck(), tokens=0) for _ in range(2)]
    service.wake(ids[0])
    loading(service, *ids)
    child = worker.child
    asked = time.monotonic()
    service.store.request_cancel(ids[0])
    assert service.finished(ids[0]).state is JobState.Cancelled
    assert GRACE_S <= time.monotonic() - asked < GRACE_S + SOON_S
    neighbour = service.finished(ids[1])
    assert neighbour.state is JobState.Succeeded, neighbour.error
    assert neighbour.attempt == 2
    assert losses(service, ids[1]) == 0
    assert service.states(ids[0]) == ["queued", "running", "cancelled"]
    assert not psutil.pid_exists(child.pid)
    assert service.finished(service.submit(stuck())).state is JobState.Succeeded


def test_an_overdue_job_expires_in_the_same_way(worked: tuple[Service, RunningWorker], stuck: Stuck) -> None:
    service, _ = worked
    late = service.submit(stuck(deadline_s=1.0))
    job = service.finished(late, 1.0 + GRACE_S + SOON_S)
    assert (job.state, job.result, job.attempt) == (JobState.Expired, None, 1)
    assert service.finished(service.submit(stuck())).state is JobState.Succeeded


def test_a_parent_that_hangs_too_costs_the_job_no_more_time_and_kills_later(
    worked: tuple[Service, RunningWorker], stuck: Stuck
) -> None:
    service, worker = worked
    job_id = service.submit(stuck())
    loading(service, job_id)
    child = worker.child
    worker.process.send_signal(signal.SIGSTOP)
    try:
        service.store.request_cancel(job_id)
        # What a reconciler does each second, with a grace of its own.
        reconciler = RedisJobStore.from_settings(service.settings, overdue_grace_s=GRACE_S)
        eventually(lambda: job_id in reconciler.expire_overdue())
        reconciler.close()
        assert service.store.get(job_id).state is JobState.Cancelled
        assert child.is_running()
    finally:
        worker.process.send_signal(signal.SIGCONT)
    after = service.submit(stuck())
    eventually(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, SOON_S)
    assert service.finished(after).state is JobState.Succeeded
