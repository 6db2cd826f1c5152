"""What the workers' tests share."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ihvp.blobs.filesystem import FilesystemBlobStore
from ihvp.jobs.memory_store import MemoryJobStore
from ihvp.jobs.record import JobRecord
from ihvp.jobs.submission import ResolvedRhs
from ihvp.models.spec import ModelSpec
from tests.workers.bench import Bench
from tests.workers.problems import Example, digits_mlp, job_request, new_id


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    """Small operations on a shared machine lose by more threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def plugin_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the module path into which pip has installed the test's plug-in package."""
    site = tmp_path_factory.mktemp("plugin site")
    package = Path(__file__).parent / "plugin_package"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", str(site), str(package)], check=True)
    return site


@pytest.fixture
def blobs(tmp_path: Path) -> FilesystemBlobStore:
    """An empty blob store."""
    return FilesystemBlobStore(tmp_path / "blobs")


@pytest.fixture(scope="session")
def digits() -> Example:
    """A digits MLP, trained once for all tests."""
    return digits_mlp()


@pytest.fixture(scope="session")
def digits_hessian(digits: Example) -> Tensor:
    """Its dense Hessian in float64."""
    return digits.hessian()


@pytest.fixture
def memory_store() -> MemoryJobStore:
    """An empty job store."""
    return MemoryJobStore()


@pytest.fixture
def queued(memory_store: MemoryJobStore) -> JobRecord:
    """A job that waits; its tensors do not exist."""
    nowhere = "sha256:" + "0" * 64
    spec = ModelSpec.model_validate(
        {
            "architecture": {"type": "linear", "config": {"in_features": 1, "out_features": 1}},
            "weights": nowhere,
            "loss": "mse",
            "data": {"inputs": nowhere, "targets": nowhere},
        }
    )
    return memory_store.create(new_id(), job_request(spec, 2, ResolvedRhs(blob=nowhere, shape=[2])))


@pytest.fixture
def claimed(memory_store: MemoryJobStore, queued: JobRecord) -> JobRecord:
    """The same job, held by a worker."""
    job = memory_store.claim("worker", 30.0)
    assert job is not None
    return job


@pytest.fixture
def bench(memory_store: MemoryJobStore, blobs: FilesystemBlobStore, tmp_path: Path) -> Bench:
    return Bench(memory_store, blobs, tmp_path)


@pytest.fixture
def spec(bench: Bench, digits: Example) -> ModelSpec:
    return digits.upload(bench.blobs)
