"""A real Celery worker on a real Valkey: right answers, and nothing lost whatever dies."""

from __future__ import annotations

import json
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from ihvp.jobs.record import JobRecord
from ihvp.jobs.states import JobState
from ihvp.jobs.submission import GradientOf, JobRequest, ResolvedRhs
from ihvp.messages import AHEAD_S
from ihvp.methods import TerminationStatus
from ihvp.settings import Settings
from ihvp.up.embedded_store import EmbeddedStore
from tests.store.samples import new_id
from tests.waiting import eventually
from tests.workers.problems import Example, job_request, put_tensors, softmax_regression
from tests.workers.running import RunningWorker, Service

pytestmark = pytest.mark.service

Start = Callable[..., RunningWorker]


@pytest.fixture
def service(valkey: Settings) -> Service:
    """A namespace without a worker."""
    return Service(valkey)


@pytest.fixture
def start(service: Service, tmp_path: Path) -> Iterator[Start]:
    """Starts workers for a test that ends them."""
    workers: list[RunningWorker] = []

    def start_one(**overrides: object) -> RunningWorker:
        workers.append(RunningWorker(service, tmp_path / f"worker-{len(workers)}.log", **overrides))
        return workers[-1]

    yield start_one
    for worker in workers:
        worker.close()


@pytest.fixture(scope="module")
def worked(
    valkey_server: EmbeddedStore, tmp_path_factory: pytest.TempPathFactory, plugin_site: Path
) -> Iterator[tuple[Service, RunningWorker]]:
    """A service with one worker, which outlives whatever tests do to its jobs and its child."""
    folder = tmp_path_factory.mktemp("worked")
    settings = Settings(redis_url=valkey_server.url, namespace=f"t-{secrets.token_hex(6)}", data_dir=folder)
    service = Service(settings)
    worker = RunningWorker(service, folder / "worker.log", python_path=plugin_site)
    yield service, worker
    worker.close()


def quick(service: Service, digits: Example, first: int = 0) -> JobRequest:
    """Milliseconds of work: gradients of three digits."""
    rows = slice(first, first + 3)
    blob = put_tensors(service.blobs, inputs=digits.x[rows], targets=digits.y[rows])
    of = GradientOf(inputs=f"{blob}#inputs", targets=f"{blob}#targets")
    rhs = ResolvedRhs(gradient_of=of, shape=[3, digits.num_params])
    return job_request(digits.upload(service.blobs), digits.num_params, rhs)


def long(service: Service, *, damping: float = 1e-4, row: int | None = None) -> JobRequest:
    """Seconds of work that ends converged; with a tiny λ, minutes. One of the right-hand sides, or all of them."""
    example = softmax_regression(12_000, 60, 8)
    p = example.num_params
    b = torch.randn(6, p, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    if row is not None:
        b = b[row : row + 1]
    rhs = ResolvedRhs(blob=put_tensors(service.blobs, b=b), shape=list(b.shape))
    options = {"maxiter": 1_000_000, "rtol": 1e-8}
    return job_request(example.upload(service.blobs), p, rhs, options=options, hessian_perturbation=damping)


def x_of(service: Service, job: JobRecord) -> Tensor:
    assert job.result is not None, job.error
    with safe_open(service.blobs.local_path(job.result.digest), framework="pt") as file:
        found: Tensor = file.get_tensor("x")
    return found


def assert_certified(job: JobRecord) -> None:
    assert job.state is JobState.Succeeded, job.error
    assert job.result is not None
    assert {c.status for c in job.result.certificate} == {TerminationStatus.Converged}


def test_jobs_are_solved_and_torch_stays_out_of_the_parent(
    worked: tuple[Service, RunningWorker], digits: Example, digits_hessian: Tensor
) -> None:
    service, worker = worked
    ids = [service.submit(quick(service, digits, first)) for first in (0, 3, 6)]
    # Tokens that are delivered twice, or come late, make no second execution.
    ids.append(service.submit(quick(service, digits, 9), tokens=3))
    matrix = digits_hessian + 0.1 * torch.eye(digits.num_params, dtype=torch.float64)
    for first, job_id in zip((0, 3, 6, 9), ids, strict=True):
        job = service.finished(job_id)
        assert_certified(job)
        b = digits.gradients(digits.x[first : first + 3], digits.y[first : first + 3])
        expected = torch.linalg.solve(matrix, b.T).T
        assert float((x_of(service, job) - expected).norm() / expected.norm()) < 1e-6
        assert job.attempt == 1
        assert service.states(job_id) == ["queued", "running", "succeeded"]

    def loaded(process: psutil.Process) -> str:
        return Path(f"/proc/{process.pid}/maps").read_text()

    assert "libtorch" in loaded(worker.child)
    assert "libtorch" not in loaded(psutil.Process(worker.process.pid))
    events = [json.loads(line) for line in worker.log.read_text().splitlines() if line.startswith("{")]
    claims = [e for e in events if e["event"] == "job_claimed"]
    assert [(e["job_id"], e["attempt"]) for e in claims] == [(job_id, 1) for job_id in ids]


def test_a_message_may_be_ahead_of_its_job(worked: tuple[Service, RunningWorker], digits: Example) -> None:
    service, _ = worked
    service.finished(service.submit(quick(service, digits)))  # the worker is up, and the model warm
    request = quick(service, digits)
    for pause in (0.0, 0.005, AHEAD_S):
        job_id, began = new_id(), time.monotonic()
        service.wake(job_id)
        time.sleep(pause)
        service.store.create(job_id, request)
        if time.monotonic() - began > 3 * AHEAD_S:
            service.wake(job_id)  # a machine that slow says nothing of the worker; the API does the same
        # Else nobody sends another message: a worker that had given up would leave the job where it is.
        assert_certified(service.finished(job_id))


def test_messages_whose_jobs_never_come_hold_nothing_up(
    worked: tuple[Service, RunningWorker], digits: Example
) -> None:
    service, _ = worked
    for _ in range(20):
        service.wake(new_id())
    assert_certified(service.finished(service.submit(quick(service, digits)), timeout_s=10.0))


def test_a_killed_child_costs_seconds_and_no_job(
    worked: tuple[Service, RunningWorker], record_property: Callable[[str, object], None]
) -> None:
    service, worker = worked
    job_id = service.submit(long(service))
    service.solving(job_id)
    killed_at = worker.kill_child()
    eventually(lambda: service.store.get(job_id).attempt == 2)
    recovery_s = time.monotonic() - killed_at
    record_property("recovery_s", recovery_s)
    print(f"claimed again {recovery_s:.2f} s after kill -9")
    # The lease would have held for 30 s: the worker's next child took the job back itself.
    assert recovery_s < 15
    job = service.finished(job_id)
    assert_certified(job)
    assert job.attempt == 2
    assert service.states(job_id) == ["queued", "running", "queued", "running", "succeeded"]


def test_sigterm_in_the_middle_of_a_solve_hands_the_job_to_the_next_worker(service: Service, start: Start) -> None:
    first = start()
    job_id = service.submit(long(service))
    service.solving(job_id)
    assert first.terminate() < 8
    assert first.process.returncode == 0
    assert not service.store.workers(), "a worker that ends in peace signs off"
    assert service.store.get(job_id).state is JobState.Queued
    start()
    # No token is sent here: the worker that gave the job back has sent one.
    assert_certified(service.finished(job_id))


def test_ctrl_c_gives_the_job_back_as_well(service: Service, start: Start) -> None:
    worker = start()
    job_id = service.submit(long(service, damping=1e-12))
    service.solving(job_id)
    worker.process.send_signal(signal.SIGINT)
    worker.process.wait(15)
    assert service.store.get(job_id).state is JobState.Queued


def test_a_cancelled_solve_ends_at_once_and_the_next_job_runs(
    worked: tuple[Service, RunningWorker], digits: Example
) -> None:
    service, _ = worked
    job_id = service.submit(long(service, damping=1e-12))
    service.solving(job_id)
    asked = time.monotonic()
    service.store.request_cancel(job_id)
    assert service.finished(job_id).state is JobState.Cancelled
    assert time.monotonic() - asked < 3
    assert_certified(service.finished(service.submit(quick(service, digits))))


def test_a_dead_parent_takes_its_child_with_it(start: Start) -> None:
    worker = start()
    child = worker.child
    worker.process.kill()
    worker.process.wait()
    eventually(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, 5)


def test_a_model_that_kills_every_worker_fails_alone(worked: tuple[Service, RunningWorker], digits: Example) -> None:
    service, worker = worked
    spec = digits.upload(service.blobs, architecture={"type": "fatal", "config": {}})
    b = put_tensors(service.blobs, b=torch.ones(digits.num_params))
    rhs = ResolvedRhs(blob=b, shape=[digits.num_params])
    fatal = service.submit(job_request(spec, digits.num_params, rhs))
    after = service.submit(quick(service, digits))
    job = service.finished(fatal, 60)
    assert job.state is JobState.Failed
    assert job.error is not None
    assert job.error.code == "worker_lost"
    assert job.attempt == 3
    assert_certified(service.finished(after))
    # The next one on it costs no worker.
    child = worker.child
    again = service.finished(service.submit(job_request(spec, digits.num_params, rhs)))
    assert again.error is not None
    assert (again.error.code, again.attempt) == ("model_quarantined", 0)
    assert_certified(service.finished(service.submit(quick(service, digits))))
    assert worker.child.pid == child.pid


def test_a_plugin_architecture_is_solved_like_a_built_in_one(
    worked: tuple[Service, RunningWorker],
) -> None:
    service, _ = worked
    left, right = nn.Linear(3, 2), nn.Linear(3, 2)
    module = nn.ModuleDict({"left": left, "right": right})
    architecture = {"type": "two-branches", "config": {"in_features": 3, "out_features": 2}}
    example = Example(architecture, module, torch.randn(40, 3), torch.randint(0, 2, (40,)))
    b = torch.randn(2, 16, dtype=torch.float64)
    rhs = ResolvedRhs(blob=put_tensors(service.blobs, b=b), shape=[2, 16])
    spec = example.upload(service.blobs)
    job = service.finished(service.submit(job_request(spec, 16, rhs, hessian_perturbation=2.0)))
    assert_certified(job)
    sizes = [tuple(p.shape) for p in module.parameters()]

    def mean_loss(flat: Tensor) -> Tensor:
        lw, lb, rw, rb = (part.reshape(shape) for part, shape in zip(flat.split([6, 2, 6, 2]), sizes, strict=True))
        x = example.x.double()
        return nn.functional.cross_entropy(torch.tanh(x @ lw.T + lb) * (x @ rw.T + rb), example.y)

    matrix = torch.func.hessian(mean_loss)(example.flat) + 2.0 * torch.eye(16, dtype=torch.float64)
    torch.testing.assert_close(x_of(service, job), torch.linalg.solve(matrix, b.T).T, rtol=1e-6, atol=1e-9)


def test_a_killed_child_gives_every_job_of_its_block_back(worked: tuple[Service, RunningWorker]) -> None:
    service, worker = worked
    # Submitted without a token, so that both wait when the worker looks.
    ids = [service.submit(long(service, damping=1e-6, row=row), tokens=0) for row in range(2)]
    service.wake(ids[0])
    for job_id in ids:
        service.solving(job_id, iterations=1)
    worker.kill_child()
    jobs = [service.finished(job_id) for job_id in ids]
    for job in jobs:
        assert_certified(job)
        assert job.attempt == 2
        assert service.states(job.id) == ["queued", "running", "queued", "running", "succeeded"]
    assert jobs[0].finished_at is not None
    assert jobs[1].started_at is not None
    assert jobs[0].finished_at <= jobs[1].started_at, "each is tried alone after a death"


def test_a_killed_solve_goes_on_where_its_last_checkpoint_was(service: Service, start: Start) -> None:
    worker = start(checkpoint_s=0.1)
    job_id = service.submit(long(service, damping=1e-6))
    eventually(lambda: service.store.get(job_id).checkpoint)
    worker.kill_child()
    job = service.finished(job_id)
    assert_certified(job)
    assert job.attempt == 2
    assert job.result is not None
    with safe_open(service.blobs.local_path(job.result.digest), framework="pt") as file:
        info = json.loads(file.metadata()["ihvp"])["info"]
    resumed_at = info["resumed_at"]
    # Nobody can tell a kill for want of memory from another: the next attempt plans for less, and says so.
    assert info["memory"] == {
        "budget": service.settings.memory_budget // 2,
        "instead_of": service.settings.memory_budget,
        "workers_lost": 1,
        "out_of_memory": [],
    }
    assert 0 < resumed_at < job.result.certificate[0].iterations
    events = service.store.events(job_id, limit=10_000)
    second = next(at for at, e in enumerate(events) if e.type == "state" and e.data["attempt"] == 2)
    reported = [e.data["iteration"] for e in events[second:] if e.type == "progress" and e.data["iteration"]]
    assert reported[0] == resumed_at + 1
