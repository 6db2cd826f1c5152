"""What dies comes back, what was accepted is finished once, and nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import numpy as np
import psutil
import pytest

from examples.running_service import RunningService
from ihvp import Client
from ihvp.jobs.states import JobState
from ihvp.settings import child_environment
from ihvp.wire import JobView

if TYPE_CHECKING:
    from tests.service.conftest import Oracle

pytestmark = pytest.mark.service


def parts(service: RunningService, *words: str) -> list[psutil.Process]:
    """The processes under ``ihvp up`` whose command line has all these words."""
    found = []
    for process in psutil.Process(service.pid).children(recursive=True):
        try:
            if all(any(word in argument for argument in process.cmdline()) for word in words):
                found.append(process)
        except psutil.Error:
            continue
    return found


def worker_child(service: RunningService) -> psutil.Process:
    """The process that solves: the child of Celery's parent."""
    workers = parts(service, "workers.celery_app")
    (parent,) = [process for process in workers if process.ppid() == service.pid]
    (child,) = parent.children()
    return child


def until(condition: Callable[[], bool], within_s: float) -> float:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < within_s
        time.sleep(0.05)
    return time.monotonic() - began


def is_ready(service: RunningService) -> bool:
    try:
        return httpx.get(f"{service.url}/readyz", timeout=2.0).status_code == 200
    except httpx.TransportError:
        return False


def submit_slow(client: Client, oracle: Oracle, terms: int) -> JobView:
    """A job that takes seconds and then ends."""
    return client.submit(
        model="oracle-mlp",
        rhs=np.ones(oracle.model.num_params),
        method="lissa",
        hessian_perturbation=0.5,
        options={"maxiter": terms, "rtol": 1e-300},
    )


def test_a_job_whose_worker_child_is_killed_still_succeeds_once(
    service: RunningService, client: Client, oracle: Oracle
) -> None:
    job = submit_slow(client, oracle, 5_000)
    until(lambda: (found := client.job(job.id).progress) is not None and found.iteration > 0, 30)
    worker_child(service).kill()
    ended = client.wait(job.id, timeout=90)
    assert ended.state is JobState.Succeeded
    assert ended.attempt == 2
    states = [event.data["state"] for event in client.events(job.id) if event.type == "state"]
    assert states == ["queued", "running", "queued", "running", "succeeded"]
    assert np.isfinite(client.result(job.id).x).all()


def test_a_killed_api_is_back_within_five_seconds_on_its_port(
    service: RunningService, client: Client, oracle: Oracle
) -> None:
    (api,) = parts(service, "uvicorn")
    api.kill()
    began = time.monotonic()
    assert client.methods()  # the client bridges the gap by itself
    assert time.monotonic() - began < 5.0
    assert parts(service, "uvicorn") != [api]


def test_a_killed_store_is_back_with_every_job(service: RunningService, client: Client, oracle: Oracle) -> None:
    b = np.ones(oracle.model.num_params)
    done = client.solve(model="oracle-mlp", rhs=b, hessian_perturbation=0.5, progress=False)
    before = [job.id for job in client.jobs()]
    (store,) = parts(service, "-server")
    store.kill()
    took = until(lambda: parts(service, "-server") not in ([], [store]) and is_ready(service), 15)
    assert [job.id for job in client.jobs()] == before
    assert client.result(done.job_id).digest == done.digest
    again = client.solve(model="oracle-mlp", rhs=b, hessian_perturbation=0.5, progress=False, timeout=30)
    # To the tolerance of both: the second solve on the model starts from what the first has shown.
    np.testing.assert_allclose(again.x, done.x, rtol=1e-6)
    assert took < 5


def test_answers_do_not_wait_for_acknowledgements(service: RunningService) -> None:
    times = []
    with httpx.Client(base_url=service.url) as connection:
        for _ in range(30):
            began = time.perf_counter()
            connection.get("/healthz").raise_for_status()
            times.append(time.perf_counter() - began)
    # Nagle's algorithm and delayed acknowledgements together make it 40 ms, however fast the machine.
    assert sorted(times)[5] < 0.03


def test_a_second_service_on_the_same_data_is_refused_in_one_line(service: RunningService) -> None:
    command = [sys.executable, "-m", "ihvp.cli", "up", "--port", "0", "--data-dir", str(service.data_dir)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, env=child_environment())
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert f"held by process {service.pid}" in line


def test_a_port_in_use_is_refused_in_one_line(service: RunningService, tmp_path: Path) -> None:
    port = service.url.rpartition(":")[2]
    command = [sys.executable, "-m", "ihvp.cli", "up", "--port", port, "--data-dir", str(tmp_path / "other")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, env=child_environment())
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert f"Port {port} of 127.0.0.1 is in use" in line
    assert "--port 0" in line


def marked(mark: str) -> list[int]:
    """Processes with this namespace in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("IHVP_NAMESPACE") == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def test_data_survives_a_restart_stops_are_clean_and_kills_leave_nothing(tmp_path: Path) -> None:
    mark = f"mark-{os.getpid()}"
    b = {"inline": [1.0, 2.0, 3.0, 4.0]}
    first = RunningService(tmp_path / "data dir", workers="1", namespace=mark)
    try:
        with Client(first.wait_until_ready()) as client:
            rng = np.random.default_rng(0)
            inputs = rng.normal(size=(20, 3)).astype("f4")
            client.register_model(
                "line",
                architecture={"type": "linear", "config": {"in_features": 3, "out_features": 1}},
                weights={"weight": np.ones((1, 3), "f4"), "bias": np.zeros(1, "f4")},
                loss="mse",
                data={"inputs": inputs, "targets": inputs.sum(axis=1, keepdims=True)},
            )
            solved = client.solve(model="line", rhs=b, hessian_perturbation=0.1, progress=False, timeout=60)
            # Stopped in the middle of a job, which goes back to the queue and is finished after the restart.
            running = client.submit(
                model="line",
                rhs=b,
                method="lissa",
                hessian_perturbation=0.1,
                options={"maxiter": 6_000, "rtol": 1e-30, "scale": 100.0},
            )
            until(lambda: client.job(running.id).state is JobState.Running, 30)
            assert len(marked(mark)) >= 5
        began = time.monotonic()
        assert first.stop() == 0
        assert time.monotonic() - began < 10.0
        assert marked(mark) == []
    finally:
        first.stop()

    second = RunningService(tmp_path / "data dir", namespace=mark, lease_s="5")
    try:
        with Client(second.wait_until_ready()) as client:
            assert client.result(solved.job_id).digest == solved.digest
            assert client.model("line").version == 1
            assert client.wait(running.id, timeout=90).state is JobState.Succeeded
        os.kill(second.pid, signal.SIGKILL)
        until(lambda: marked(mark) == [], 5)
    finally:
        second.stop()
