"""An executor without Celery around it, and jobs for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from ihvp.blobs.filesystem import FilesystemBlobStore
from ihvp.jobs.memory_store import MemoryJobStore
from ihvp.jobs.record import JobRecord
from ihvp.jobs.submission import GradientOf, JobRequest, ResolvedRhs
from ihvp.results import ResultDocument
from ihvp.settings import Settings
from tests.workers.problems import Example, job_request, new_id, put_tensors, softmax_regression
from workers.execution import Executor


class Bench:
    """An executor over a store in memory and real blobs, and jobs for it."""

    def __init__(self, store: MemoryJobStore, blobs: FilesystemBlobStore, folder: Path) -> None:
        self.store = store
        self.blobs = blobs
        self.shutdown = False
        settings = Settings(data_dir=folder, lease_renew_s=0.05, progress_interval_s=0.01)
        self.executor = Executor(settings, store, blobs, "host/test", lambda: self.shutdown)

    def submit(self, request: JobRequest) -> str:
        return self.store.create(new_id(), request).id

    def run(self, request: JobRequest) -> JobRecord:
        job_id = self.submit(request)
        self.executor.run_next()
        return self.store.get(job_id)

    def tensor(self, digest: str, name: str) -> Tensor:
        with safe_open(self.blobs.local_path(digest), framework="pt") as file:
            found: Tensor = file.get_tensor(name)
        return found

    def x(self, job: JobRecord) -> Tensor:
        assert job.result is not None, job.error
        return self.tensor(job.result.digest, "x")

    def document(self, job: JobRecord) -> ResultDocument:
        assert job.result is not None, job.error
        with safe_open(self.blobs.local_path(job.result.digest), framework="pt") as file:
            return ResultDocument.from_metadata(file.metadata())


def points(bench: Bench, digits: Example, count: int) -> ResolvedRhs:
    blob = put_tensors(bench.blobs, inputs=digits.x[:count], targets=digits.y[:count])
    of = GradientOf(inputs=f"{blob}#inputs", targets=f"{blob}#targets")
    return ResolvedRhs(gradient_of=of, shape=[count, digits.num_params])


def dense(digits_hessian: Tensor, b: Tensor, damping: float = 0.1) -> Tensor:
    matrix = digits_hessian + damping * torch.eye(len(digits_hessian), dtype=torch.float64)
    return torch.linalg.solve(matrix, b.T).T


def slow_request(bench: Bench, **changes: Any) -> JobRequest:
    """A solve of many seconds that reports every few milliseconds."""
    example = softmax_regression(1500, 60, 8)
    p = example.num_params
    b = torch.randn(16, p, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    fields: dict[str, Any] = {
        "options": {"rtol": 1e-13, "maxiter": 1_000_000, "atol": 0.0},
        "hessian_perturbation": 1e-12,
        **changes,
    }
    rhs = ResolvedRhs(blob=put_tensors(bench.blobs, b=b), shape=[16, p])
    return job_request(example.upload(bench.blobs), p, rhs, **fields)


def when_solving(bench: Bench, job_id: str, act: Callable[[], None], *, iterations: int = 3) -> threading.Thread:
    """Acts from another thread once the job has shown so many iterations."""

    def wait() -> None:
        for _ in range(3000):
            progress = bench.store.get(job_id).progress
            if progress is not None and progress.phase == "solving" and progress.iteration >= iterations:
                act()
                return
            time.sleep(0.005)

    thread = threading.Thread(target=wait)
    thread.start()
    return thread
