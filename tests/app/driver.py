"""A running API, and the worker's side of it played by hand."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import safetensors.numpy
import uvicorn

from app.main import create_app
from ihvp.blobs.filesystem import FilesystemBlobStore
from ihvp.jobs.record import Certificate, JobRecord, Progress, ResultSummary
from ihvp.jobs.redis_store import RedisJobStore
from ihvp.methods import TerminationStatus
from ihvp.results import Provenance, ResultDocument, ResultInfo
from ihvp.settings import Settings, child_environment
from ihvp.up.embedded_store import free_port

P = 3
"""Parameters of the model that tests register: a linear map of two features, with a bias."""


@contextmanager
def running_api(settings: Settings) -> Iterator[str]:
    """A real uvicorn in a thread; yields its URL."""
    config = uvicorn.Config(
        create_app(settings), host="127.0.0.1", port=0, log_level="warning", access_log=False, lifespan="on"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until = time.monotonic() + 20
    while not server.started:
        assert thread.is_alive(), "uvicorn did not start"
        assert time.monotonic() < until
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive(), "uvicorn did not stop"


@contextmanager
def api_process(settings: Settings) -> Iterator[tuple[str, psutil.Process]]:
    """The API as the process that is deployed; yields its URL."""
    port = free_port()
    environment = child_environment(
        redis_url=settings.redis_url, namespace=settings.namespace, data_dir=str(settings.data_dir), log_level="error"
    )
    server = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "app.main:create_app", "--factory", "--port", str(port), "--no-access-log"],
        env=environment,
        cwd=Path(__file__).parents[2],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        url = f"http://127.0.0.1:{port}"
        until = time.monotonic() + 20
        while True:
            try:
                httpx.get(f"{url}/healthz")
                break
            except httpx.TransportError:
                assert time.monotonic() < until
                time.sleep(0.05)
        yield url, psutil.Process(server.pid)
    finally:
        server.terminate()
        server.wait(20)


def npy(array: Any) -> bytes:
    """The array as a npy file."""
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(array))
    return buffer.getvalue()


def tensors(**arrays: Any) -> bytes:
    """The arrays as a safetensors file."""
    return safetensors.numpy.save({name: np.ascontiguousarray(array) for name, array in arrays.items()})


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


@dataclass
class Service:
    """The API over HTTP, and its stores as a worker sees them."""

    settings: Settings
    http: httpx.Client
    jobs: RedisJobStore
    blobs: FilesystemBlobStore

    def put(self, data: bytes) -> str:
        """Uploads bytes; returns their digest."""
        digest = digest_of(data)
        response = self.http.put(f"/v1/blobs/{digest}", content=data)
        assert response.status_code in (200, 201), response.text
        return digest

    def spec(self, **changes: Any) -> dict[str, Any]:
        """A linear regression on 10 points, p = 3."""
        rng = np.random.default_rng(0)
        made = {
            "architecture": {"type": "linear", "config": {"in_features": 2, "out_features": 1}},
            "weights": self.put(tensors(weight=np.ones((1, 2), np.float32), bias=np.zeros(1, np.float32))),
            "loss": "mse",
            "data": {
                "inputs": self.put(npy(rng.normal(size=(10, 2)).astype(np.float32))),
                "targets": self.put(npy(rng.normal(size=(10, 1)).astype(np.float32))),
            },
        }
        return {**made, **changes}

    def register(self, name: str = "line", **changes: Any) -> dict[str, Any]:
        """Registers the linear regression."""
        response = self.http.post("/v1/models", json={"name": name, **self.spec(**changes)})
        assert response.status_code in (200, 201), response.text
        found: dict[str, Any] = response.json()
        return found

    def submit(self, **changes: Any) -> dict[str, Any]:
        """Submits a job on the linear regression."""
        response = self.http.post("/v1/jobs", json=self.submission(**changes))
        assert response.status_code == 202, response.text
        found: dict[str, Any] = response.json()
        return found

    def submission(self, **changes: Any) -> dict[str, Any]:
        """A body for ``POST /v1/jobs``."""
        if "model" not in changes:
            changes["model"] = self.register()["reference"]
        return {"rhs": {"inline": [1.0, 2.0, 3.0]}, **changes}

    def claim(self, job_id: str) -> JobRecord:
        """Takes the job as a worker does (and whatever stands before it)."""
        while True:
            job = self.jobs.claim("test-worker", 30.0)
            assert job is not None, "nothing waits"
            if job.id == job_id:
                return job

    def report(self, job: JobRecord, iteration: int) -> None:
        """Reports progress."""
        self.jobs.report(job.id, job.attempt, Progress(phase="solving", iteration=iteration, relative_residual=[0.5]))

    def finish(self, job: JobRecord, x: Any, scores: Any = None) -> JobRecord:
        """Stores a result as a worker does, and ends the job with it."""
        x = np.asarray(x)
        rows = 1 if x.ndim == 1 else len(x)
        certificate = [
            Certificate(status=TerminationStatus.Converged, relative_residual=1e-9, iterations=3, advice=None)
        ] * rows
        document = ResultDocument(
            info=ResultInfo(certificate=certificate, method="cg", options={}, timings={"solve": 0.1}),
            provenance=Provenance(
                job_id=job.id,
                attempt=job.attempt,
                model=job.request.model.reference,
                model_digest=job.request.model.digest,
                weights=job.request.model.spec.weights,
                data={},
                rhs={},
                dtype=str(x.dtype),
                device="cpu",
                threads=1,
                versions={},
            ),
        )
        blob = safetensors.numpy.save({"x": x}, metadata=document.to_metadata())
        influence = None if scores is None else self._store(tensors(scores=np.asarray(scores)))
        summary = ResultSummary(
            digest=self._store(blob),
            size=len(blob),
            shape=list(x.shape),
            dtype=str(x.dtype),
            certificate=certificate,
            influence_digest=influence,
        )
        return self.jobs.succeed(job.id, job.attempt, summary)

    def finished(self, x: Any = (1.0, 2.0, 3.0), scores: Any = None, **changes: Any) -> dict[str, Any]:
        """A job that has succeeded with this x."""
        x = np.asarray(x, dtype=None if isinstance(x, np.ndarray) else np.float32)
        submitted = self.submit(**changes)
        self.finish(self.claim(submitted["id"]), x, scores)
        found: dict[str, Any] = self.http.get(f"/v1/jobs/{submitted['id']}").json()
        return found

    def _store(self, data: bytes) -> str:
        with self.blobs.writer() as writer:
            writer.write(data)
            return writer.commit().digest


def problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Checks that a response is this problem, in the form that all have; returns its body."""
    assert response.status_code == status, f"{response.status_code} {response.text}"
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["code"] == code, body
    assert body["status"] == status
    assert body["detail"]
    assert body["title"]
    assert body["request_id"] == response.headers["x-request-id"]
    return body
