"""Trained models in folders that an operator has opened, a service, and a worker's code."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from app.model_inspection import InspectedModel, inspect_model
from app.referenced_files import ReferencedFiles
from ihvp.blobs.filesystem import FilesystemBlobStore
from ihvp.jobs.record import JobRecord
from ihvp.models.spec import ModelSpec
from ihvp.settings import Settings
from ihvp.sources.sources import Sources
from ihvp.up.embedded_store import EmbeddedStore
from tests.app.conftest import running_service
from tests.app.driver import Service, problem
from tests.pretrained.models import Saved, train_and_save
from workers.execution import Executor
from workers.resolvers.files import Files
from workers.resolvers.model import LoadedModel, load_model
from workers.resolvers.source_cache import SourceCache


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    """Small operations on a shared machine lose by more threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass
class Place:
    """Models, and both sides of the service: the API's look at a spec, and the worker's."""

    root: Path
    settings: Settings
    blobs: FilesystemBlobStore
    _saved: dict[str, Saved] = field(default_factory=dict)

    def saved(self, kind: str) -> Saved:
        """A model of this kind, trained once for all tests."""
        if kind not in self._saved:
            self._saved[kind] = train_and_save(kind, self.root)
        return self._saved[kind]

    def inspect(self, spec: dict[str, Any]) -> InspectedModel:
        """What the API makes of a spec."""
        files = ReferencedFiles(self.blobs, Sources.to_look(self.settings))
        return inspect_model(ModelSpec.model_validate(spec), files, self.settings)

    def load(self, spec: dict[str, Any] | ModelSpec) -> LoadedModel:
        """What the worker makes of it, once the API has pinned it."""
        pinned = spec if isinstance(spec, ModelSpec) else self.inspect(spec).spec
        files = Files(self.blobs, SourceCache(self.settings), pinned.sources)
        return load_model(files, pinned, memory_budget=2**28)


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    root, data = tmp_path_factory.mktemp("models"), tmp_path_factory.mktemp("data")
    settings = Settings(data_dir=data, source_roots=(root,))
    return Place(root, settings, FilesystemBlobStore(settings.blob_dir, settings.max_store_bytes))


@dataclass
class Running:
    """A running API on the same folders, and a worker's code."""

    service: Service
    executor: Executor

    def run(self, **submission: Any) -> JobRecord:
        response = self.service.http.post("/v1/jobs", json=submission)
        assert response.status_code == 202, response.text
        job_id = str(response.json()["id"])
        self.executor.run_next()
        return self.service.jobs.get(job_id)

    def get(self, job: JobRecord, part: str) -> dict[str, Any]:
        assert job.error is None, job.error
        found: dict[str, Any] = self.service.http.get(f"/v1/jobs/{job.id}/{part}").json()
        return found

    def refused(self, code: str, **submission: Any) -> dict[str, Any]:
        return problem(self.service.http.post("/v1/jobs", json=submission), 422, code)


@pytest.fixture(scope="session")
def running(place: Place, valkey_server: EmbeddedStore) -> Iterator[Running]:
    settings = place.settings.model_copy(
        update={"redis_url": valkey_server.url, "namespace": f"t-{secrets.token_hex(6)}", "log_level": "error"}
    )
    with running_service(settings) as service:
        yield Running(service, Executor(settings, service.jobs, service.blobs, "host/test", lambda: False))


Copy = Callable[[str], Saved]


@pytest.fixture
def copy(place: Place) -> Copy:
    """Makes a copy of a model's folder that a test may damage."""

    def make(kind: str) -> Saved:
        import shutil

        saved = place.saved(kind)
        folder = place.root / f"copy-{secrets.token_hex(4)}"
        shutil.copytree(saved.folder, folder)
        made = Saved(folder, saved.model, saved.inputs, saved.labels)
        shutil.copy(saved.points, made.points)
        return made

    return make
