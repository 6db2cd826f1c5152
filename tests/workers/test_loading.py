"""Models that take too long or too much memory to load, or want the network: each fails alone and by name."""

from __future__ import annotations

import secrets
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
import torch

from ihvp.errors import NetworkClosed
from ihvp.jobs.record import JobRecord
from ihvp.jobs.states import JobState
from ihvp.jobs.submission import JobRequest, ResolvedRhs
from ihvp.models.spec import ModelSpec
from ihvp.settings import Settings
from ihvp.up.embedded_store import EmbeddedStore
from tests.sources.web_server import WebServer, running_web_server
from tests.waiting import eventually
from tests.workers.bench import Bench
from tests.workers.problems import Example, job_request, put_tensors, softmax_regression
from tests.workers.running import RunningWorker, Service
from workers.closed_network import can_be_closed, run_closed

LOAD_S = 2.0
ROOM = 512 * 2**20

closing = pytest.mark.skipif(not can_be_closed(), reason="the network cannot be closed to one thread here")


class Worked:
    """A worker with tight limits, and jobs for it."""

    def __init__(self, service: Service, worker: RunningWorker) -> None:
        self.service = service
        self.worker = worker
        self.example = softmax_regression(200, 5, 3)
        b = put_tensors(service.blobs, b=torch.ones(self.example.num_params))
        self.rhs = ResolvedRhs(blob=b, shape=[self.example.num_params])

    def request(self, kind: str | None = None, **config: Any) -> JobRequest:
        """A job on a model of a plug-in; on an ordinary one if none is named."""
        features = {"in_features": 5, "out_features": 3}
        architecture = {"type": kind or "linear", "config": features | config}
        spec = self.example.upload(self.service.blobs, architecture=architecture)
        return job_request(spec, self.example.num_params, self.rhs)

    def run(self, kind: str | None = None, **config: Any) -> JobRecord:
        return self.service.finished(self.service.submit(self.request(kind, **config)))

    def goes_on(self) -> None:
        """The worker solves, and no loss of a worker was ever counted."""
        job = self.run()
        assert job.state is JobState.Succeeded, job.error
        assert [name for name in self.service.store.measure().counts if name.startswith("lease_losses|")] == []


@pytest.fixture(scope="module")
def worked(
    valkey_server: EmbeddedStore, tmp_path_factory: pytest.TempPathFactory, plugin_site: Path
) -> Iterator[Worked]:
    folder = tmp_path_factory.mktemp("worked")
    settings = Settings(redis_url=valkey_server.url, namespace=f"t-{secrets.token_hex(6)}", data_dir=folder)
    service = Service(settings)
    limits = {"load_s": LOAD_S, "load_memory": ROOM, "lease_renew_s": 0.5}
    worker = RunningWorker(service, folder / "worker.log", python_path=plugin_site, **limits)
    yield Worked(service, worker)
    worker.close()


def failed(job: JobRecord, code: str) -> str:
    """What the job's error says, which has this code."""
    assert job.error is not None
    assert (job.state, job.error.code) == (JobState.Failed, code), job.error
    assert job.attempt == 1
    return f"{job.error.message} {job.error.given} {job.error.allowed} {job.error.hint}"


@pytest.mark.service
@pytest.mark.parametrize("kind", ["sleepy", "stuck"])
def test_a_model_that_is_never_ready_fails_by_name_and_the_worker_goes_on(
    worked: Worked, kind: str, tmp_path: Path
) -> None:
    """Also where native code holds the interpreter, so that no thread of the child can do anything about it."""
    config = {"stuck_once": str(tmp_path / "was stuck")} if kind == "stuck" else {}
    child = worked.worker.child
    told = failed(worked.run(kind, **config), "model_load_timeout")
    assert "2 s" in told
    assert "IHVP_LOAD_S" in told
    eventually(lambda: not psutil.pid_exists(child.pid))
    worked.goes_on()


@pytest.mark.service
def test_all_jobs_of_the_block_fail_together(worked: Worked) -> None:
    request = worked.request("sleepy")
    ids = [worked.service.submit(request, tokens=0) for _ in range(3)]
    worked.service.wake(ids[0])
    for job_id in ids:
        failed(worked.service.finished(job_id), "model_load_timeout")
    worked.goes_on()


@pytest.mark.service
def test_a_model_that_takes_memory_without_end_fails_by_name_before_the_machine_is_full(worked: Worked) -> None:
    child = worked.worker.child
    job_id = worked.service.submit(worked.request("endless"))
    most = 0
    while not (job := worked.service.store.get(job_id)).finished:
        if child.is_running():
            most = max(most, child.memory_info().rss)
    told = failed(job, "model_too_large")
    assert f"{ROOM} bytes" in told
    assert "IHVP_LOAD_MEMORY" in told
    assert most < ROOM + 4 * 2**30
    worked.goes_on()


@pytest.mark.service
def test_weights_that_cannot_fit_are_refused_by_their_header(worked: Worked) -> None:
    """Their file has 150 MB; in float64 they would take 600, more than there may be."""
    child = worked.worker.child
    layout = [("weight", (1, 75_000_000)), ("bias", (1,))]
    spec = worked.example.upload(
        worked.service.blobs,
        architecture={"type": "linear", "config": {"in_features": 75_000_000, "out_features": 1}},
        weights=put_tensors(worked.service.blobs, **{name: torch.zeros(shape).half() for name, shape in layout}),
    )
    told = failed(
        worked.service.finished(worked.service.submit(job_request(spec, worked.example.num_params, worked.rhs))),
        "model_too_large",
    )
    assert "at least 600000008 bytes in float64" in told
    assert child.is_running()
    worked.goes_on()


@pytest.mark.service
@closing
def test_a_model_that_calls_out_while_it_loads_reaches_nobody(worked: Worked) -> None:
    with running_web_server() as web:
        web.put("/extra.bin", b"weights from elsewhere")
        told = failed(worked.run("caller", url=f"{web.url}/extra.bin"), "network_closed")
        assert web.requests == []
        assert "IHVP_LOAD_NETWORK" in told
        named = failed(worked.run("caller", url=f"http://localhost:{web.port}/extra.bin"), "network_closed")
        assert "IHVP_LOAD_NETWORK" in named
        assert web.requests == []
    # Its leases and its messages go on, over connections that it makes anew.
    with redis.Redis.from_url(worked.service.settings.redis_url) as client:
        client.client_kill_filter(_type="normal", skipme=True)
    worked.goes_on()


@closing
class TestThread:
    @pytest.fixture
    def web(self) -> Iterator[WebServer]:
        with running_web_server() as web:
            yield web

    @pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
    @pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
    def test_it_makes_no_socket_and_its_process_does(self, family: int, kind: int) -> None:
        with pytest.raises(NetworkClosed, match="needed the network"):
            run_closed(lambda: socket.socket(family, kind))
        socket.socket(family, kind).close()

    def test_nor_do_threads_that_it_starts(self, web: WebServer) -> None:
        faults: list[OSError] = []

        def call() -> None:
            try:
                socket.create_connection(("127.0.0.1", web.port))
            except OSError as error:
                faults.append(error)

        def start() -> None:
            thread = threading.Thread(target=call)
            thread.start()
            thread.join()

        run_closed(start)
        assert len(faults) == 1
        assert web.requests == []

    def test_local_sockets_and_pairs_work(self) -> None:
        def pair() -> bytes:
            a, b = socket.socketpair()
            with a, b:
                a.send(b"here")
                return b.recv(4)

        assert run_closed(pair) == b"here"

    def test_what_it_raises_of_its_own_stays_what_it_is(self) -> None:
        def fail() -> None:
            raise PermissionError(13, "not that")

        with pytest.raises(PermissionError, match="not that"):
            run_closed(fail)

    def test_modules_made_there_are_good_for_everything_elsewhere(self) -> None:
        """Products with H among it, of graphs that were made in a thread that is gone."""

        def make() -> tuple[torch.nn.Module, torch.Tensor]:
            module = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Tanh(), torch.nn.Linear(64, 1)).double()
            loss = module(torch.ones(300, 64, dtype=torch.float64)).square().mean()
            return module, torch.cat(
                [g.reshape(-1) for g in torch.autograd.grad(loss, module.parameters(), create_graph=True)]
            )

        module, gradient = run_closed(make)
        product = torch.autograd.grad(gradient @ torch.ones_like(gradient), list(module.parameters()))
        assert all(bool(part.isfinite().all()) for part in product)


@closing
def test_the_thread_in_which_buckets_are_read_is_not_started_by_a_load() -> None:
    """A process of its own: others may have started that thread before."""
    program = """
import socket
from ihvp.models.spec import ModelSpec
from ihvp.settings import Settings
from workers.loading import Loading

def open_one():
    from fsspec.asyn import get_loop, sync
    async def call():
        socket.socket().close()
    sync(get_loop(), call)

Loading(Settings(source_buckets=("s3://models",))).run([], lambda room: open_one())
open_one()
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


class TestFreeMemory:
    """What the machine has free is told by a stand-in: no test fills a machine."""

    def test_warm_models_make_room_where_only_they_are_in_the_way(
        self, bench: Bench, spec: ModelSpec, digits: Example, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ones = put_tensors(bench.blobs, b=torch.ones(digits.num_params))
        rhs = ResolvedRhs(blob=ones, shape=[digits.num_params])
        assert bench.run(job_request(spec, digits.num_params, rhs)).error is None
        models = bench.executor._resources.models
        monkeypatch.setattr("workers.loading.free_bytes", lambda _: 10**9 if len(models) == 0 else 1000)
        other = spec.model_copy(update={"data": spec.data.model_copy(update={"index": [0, 1, 2]})})
        job = bench.run(job_request(other, digits.num_params, rhs))
        assert job.error is None
        assert len(models) == 1
        monkeypatch.setattr("workers.loading.free_bytes", lambda _: 1000)
        third = spec.model_copy(update={"data": spec.data.model_copy(update={"index": [3]})})
        told = failed(bench.run(job_request(third, digits.num_params, rhs)), "model_too_large")
        assert "900 bytes" in told

    def test_where_the_platform_does_not_say_there_is_no_limit(
        self, bench: Bench, spec: ModelSpec, digits: Example, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("workers.loading.free_bytes", lambda _: 0)
        rhs = ResolvedRhs(blob=put_tensors(bench.blobs, b=torch.ones(digits.num_params)), shape=[digits.num_params])
        assert bench.run(job_request(spec, digits.num_params, rhs)).error is None
