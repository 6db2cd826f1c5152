"""Parts that are started one by one: they are the service, say whether they live, and stop as they should."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
from collections.abc import Iterator
from contextlib import ExitStack, closing

import httpx
import psutil
import pytest
from safetensors import safe_open

from ihvp.jobs.redis_store import RedisJobStore
from ihvp.jobs.states import JobState
from ihvp.jobs.submission import ResolvedRhs
from ihvp.settings import Settings
from ihvp.tenants import DEFAULT_TENANT
from ihvp.up.embedded_store import EmbeddedStore, free_port
from ihvp.webhooks.record import DeliveryState
from ihvp.webhooks.redis_store import RedisWebhookStore
from tests.starting.started import ROOT, Host, make_host
from tests.store.samples import job_request as sample_request
from tests.store.samples import new_id
from tests.waiting import eventually
from tests.webhooks.conftest import Outbox
from tests.webhooks.receiver import receiving
from tests.workers.problems import job_request, put_tensors, softmax_regression
from tests.workers.running import Service
from workers.broker import make_celery, waiting_tokens

PARTS = ("api", "worker", "reconciler", "webhooks")
SECONDS = {"worker_alive_s": 1, "reconcile_interval_s": 0.2}
WITHOUT = """
import sys
class Without:
    def __init__(self, finder):
        self._finder = finder
    def find_spec(self, name, path=None, target=None):
        absent = name.partition(".")[0] in {names!r}
        return None if absent else self._finder.find_spec(name, path, target)
    def __getattr__(self, name):
        return getattr(self._finder, name)
sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
"""


class Whole:
    """All four parts on one host."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.port = free_port()
        self.processes = {part: host.start(part, port=self.port, **SECONDS) for part in PARTS}
        eventually(self.ready)

    def ready(self) -> bool:
        for part, process in self.processes.items():
            assert process.poll() is None, self.host.log(part).read_text()
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def healthy(self, part: str) -> bool:
        return self.host.healthy(part, port=self.port, **SECONDS)


@pytest.fixture(scope="module")
def whole(valkey_server: EmbeddedStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    """Shared: a test that stops a part has it go on."""
    settings = Settings(redis_url=valkey_server.url, namespace=f"t-{secrets.token_hex(6)}")
    host = make_host(tmp_path_factory.mktemp("whole"), valkey_server, settings)
    try:
        yield Whole(host)
    finally:
        host.close()


class TestWhole:
    @pytest.mark.parametrize("part", PARTS)
    def test_each_is_healthy(self, whole: Whole, part: str) -> None:
        assert whole.healthy(part)

    @pytest.mark.parametrize("part", PARTS)
    def test_each_is_its_own_process_so_that_signals_reach_it(self, whole: Whole, part: str) -> None:
        command = psutil.Process(whole.processes[part].pid).cmdline()
        assert "ihvp.cli" not in command
        assert ("uvicorn" in command) if part == "api" else any("workers." in word for word in command)

    def test_the_password_is_in_no_command_no_environment_and_no_log(self, whole: Whole) -> None:
        for part, process in whole.processes.items():
            own = psutil.Process(process.pid)
            for each in (own, *own.children(recursive=True)):
                assert whole.host.store.password not in " ".join(each.cmdline())
                assert whole.host.store.password not in str(each.environ())
            assert whole.host.store.password not in whole.host.log(part).read_text()

    @pytest.mark.parametrize("part", PARTS)
    def test_one_that_hangs_is_noticed_and_one_that_goes_on_is_healthy_again(self, whole: Whole, part: str) -> None:
        own = psutil.Process(whole.processes[part].pid)
        hung = [own, *own.children(recursive=True)]
        for each in hung:
            each.suspend()
        try:
            eventually(lambda: not whole.healthy(part))
        finally:
            for each in hung:
                each.resume()
        eventually(lambda: whole.healthy(part))

    def test_asking_costs_little(self, whole: Whole) -> None:
        before = os.times()
        for _ in range(3):
            assert whole.healthy("reconciler")
        after = os.times()
        spent = after.children_user + after.children_system - before.children_user - before.children_system
        assert spent / 3 < 1.0


def test_what_was_never_started_is_not_healthy(host: Host) -> None:
    for part in PARTS:
        assert not host.healthy(part, port=free_port())


def test_what_waits_for_its_store_does_not_live_yet(host: Host) -> None:
    nowhere = f"redis://127.0.0.1:{free_port()}/0"
    process = host.start("reconciler", redis_url=nowhere, start_wait_s=30)
    eventually(lambda: "waiting for the job store" in host.log("reconciler").read_text())
    assert process.poll() is None
    assert not host.healthy("reconciler")


@pytest.fixture
def bare(host: Host) -> Host:
    """The host, on which parts start from the API's image: without solvers and torch, and here without the API too."""
    tree = host.folder / "srv"
    for room in ("ihvp", "workers"):
        shutil.copytree(ROOT / room, tree / room, ignore=shutil.ignore_patterns("__pycache__"))
    site = host.folder / "site"
    site.mkdir()
    names = {"torch", "solvers", "app", "fastapi", "uvicorn"}
    (site / "sitecustomize.py").write_text(WITHOUT.format(names=names))
    host.environment["PYTHONPATH"] = f"{site}{os.pathsep}{tree}"
    host.root = tree
    return host


class TestApiImage:
    def test_the_reconciler_works_there(self, bare: Host) -> None:
        with closing(RedisJobStore.from_settings(bare.settings)) as jobs:
            jobs.create(new_id(), sample_request())
            process = bare.start("reconciler", **SECONDS)
            broker = make_celery(bare.settings)
            eventually(lambda: waiting_tokens(broker, bare.settings.queue_name) == 1)
        process.terminate()
        assert process.wait(10) == 0, bare.log("reconciler").read_text()

    def test_the_sender_works_there(self, bare: Host) -> None:
        process = bare.start("webhooks", webhook_allowed_hosts=json.dumps(["127.0.0.1"]), **SECONDS)
        with ExitStack() as stack:
            jobs = stack.enter_context(closing(RedisJobStore.from_settings(bare.settings)))
            hooks = stack.enter_context(closing(RedisWebhookStore.from_settings(bare.settings)))
            hooks.create_secret(DEFAULT_TENANT)
            box = Outbox(bare.settings, jobs, hooks)
            with receiving() as receiver:
                assert box.ended(box.finish_job(receiver.url)).state is DeliveryState.Delivered
        process.terminate()
        assert process.wait(15) == 0, bare.log("webhooks").read_text()

    def test_the_worker_says_where_it_starts_instead(self, bare: Host) -> None:
        line = bare.refused("start", "worker")
        assert "packages that are not installed here: torch" in line
        assert "the worker image" in line


def test_a_worker_that_is_told_to_stop_saves_its_solve_and_another_goes_on(host: Host) -> None:
    service = Service(host.settings)
    example = softmax_regression(12_000, 60, 8)
    b = put_tensors(service.blobs, b=example.gradients(example.x[:2], example.y[:2]))
    rhs = ResolvedRhs(blob=b, shape=[2, example.num_params])
    options = {"maxiter": 1_000_000, "rtol": 1e-8}
    request = job_request(
        example.upload(service.blobs), example.num_params, rhs, options=options, hessian_perturbation=1e-6
    )
    first = host.start("worker")
    job_id = service.submit(request)
    reached = service.solving(job_id, 5).progress
    assert reached is not None
    first.send_signal(signal.SIGTERM)
    assert first.wait(20) == 0
    waiting = service.store.get(job_id)
    assert waiting.state is JobState.Queued
    assert waiting.checkpoint is not None
    host.start("worker")
    done = service.finished(job_id)
    assert done.state is JobState.Succeeded, done.error
    assert done.result is not None
    with safe_open(str(service.blobs.local_path(done.result.digest)), framework="np") as file:
        info = json.loads(file.metadata()["ihvp"])["info"]
    assert info["resumed_at"] >= reached.iteration
    assert service.states(job_id) == ["queued", "running", "queued", "running", "succeeded"]


def test_the_alive_file_of_another_user_is_not_followed(host: Host) -> None:
    target = host.folder / "precious"
    link = host.folder / "link"
    link.symlink_to(target)
    assert "cannot be made" in host.refused("start", "reconciler", alive_file=link)
    assert not target.exists()
