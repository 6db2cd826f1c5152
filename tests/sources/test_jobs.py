"""Jobs whose files lie elsewhere, through the real API and the real worker's code: pinned, fetched, solved."""

from __future__ import annotations

import hashlib
import io
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ihvp.jobs.record import JobRecord
from ihvp.settings import Settings
from ihvp.up.embedded_store import EmbeddedStore
from tests.app.conftest import running_service
from tests.app.driver import Service, problem, tensors
from tests.datafiles.samples import table, write_dataset
from tests.sources.problem import DAMPING, Regression, spec
from tests.sources.web_server import WebServer, running_web_server
from workers.execution import Executor


@dataclass
class Place:
    """A service, a worker's code, and two places with files."""

    service: Service
    executor: Executor
    web: WebServer
    root: Path
    regression: Regression

    def submission(self, model: Any, **changes: Any) -> dict[str, Any]:
        return {
            "model": model,
            "rhs": {"inline": self.regression.b.tolist()},
            "hessian_perturbation": DAMPING,
            **changes,
        }

    def submit(self, model: Any, **changes: Any) -> str:
        response = self.service.http.post("/v1/jobs", json=self.submission(model, **changes))
        assert response.status_code == 202, response.text
        return str(response.json()["id"])

    def run(self, model: Any, **changes: Any) -> JobRecord:
        job_id = self.submit(model, **changes)
        self.executor.run_next()
        return self.service.jobs.get(job_id)

    def result(self, job: JobRecord) -> dict[str, Any]:
        assert job.error is None, job.error
        found: dict[str, Any] = self.service.http.get(f"/v1/jobs/{job.id}/result").json()
        return found

    def refused(self, model: Any, code: str, status: int = 422, **changes: Any) -> dict[str, Any]:
        return problem(self.service.http.post("/v1/jobs", json=self.submission(model, **changes)), status, code)


@pytest.fixture(scope="module")
def shared(valkey_server: EmbeddedStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    root = tmp_path_factory.mktemp("open folder")
    settings = Settings(
        redis_url=valkey_server.url,
        namespace=f"t-{secrets.token_hex(6)}",
        data_dir=tmp_path_factory.mktemp("data"),
        log_level="error",
        source_roots=(root,),
        source_private_hosts=("127.0.0.1",),
        source_timeout_s=1.0,
        source_resolve_s=3.0,
        max_source_bytes=10_000_000,
    )
    with running_web_server() as web, running_service(settings) as service:
        executor = Executor(settings, service.jobs, service.blobs, "host/test", lambda: False)
        yield Place(service, executor, web, root, Regression.make())


@pytest.fixture
def place(shared: Place) -> Place:
    """The same with its files as they should be."""
    for name, data in shared.regression.files.items():
        shared.web.put(f"/{name}", data)
        (shared.root / name).write_bytes(data)
    shared.web.statuses.clear()
    shared.web.hung.clear()
    shared.web.requests.clear()
    return shared


def files(place: Place) -> str:
    return f"file://{place.root}".replace(" ", "%20")


def test_weights_from_a_file_and_data_from_the_web(place: Place) -> None:
    weights, data = f"{files(place)}/weights.safetensors", f"{place.web.url}/data.safetensors"
    job = place.run(spec(weights, data), rhs={"blob": f"{place.web.url}/b.npy"})
    result = place.result(job)
    np.testing.assert_allclose(result["x"], place.regression.x, rtol=1e-7)
    assert result["info"]["certificate"][0]["status"] == "converged"
    pins = job.request.model.spec.sources
    assert pins[weights].size == len(place.regression.files["weights.safetensors"])
    assert pins[data].etag
    # The result says what was read, as it was referred to, and the bytes of it.
    provenance = result["provenance"]
    assert provenance["weights"] == weights
    assert provenance["rhs"]["blob"] == f"{place.web.url}/b.npy"
    assert {uri: pin["sha256"] for uri, pin in provenance["sources"].items()} == {
        weights: hashlib.sha256(place.regression.files["weights.safetensors"]).hexdigest(),
        data: hashlib.sha256(place.regression.files["data.safetensors"]).hexdigest(),
        f"{place.web.url}/b.npy": hashlib.sha256(place.regression.files["b.npy"]).hexdigest(),
    }


@pytest.mark.parametrize(
    ("where", "kind"),
    [
        *[(where, kind) for where in ("file", "web") for kind in ("parquet", "npz", "arrow")],
        ("file", "dataset"),  # there are no folders in the web
    ],
)
def test_data_in_each_format_from_each_place(place: Place, where: str, kind: str) -> None:
    """Headers by range reads at the API; the rows from the worker's cache."""
    whole = table({"x": place.regression.inputs, "y": place.regression.targets}, fixed=False)
    buffer = io.BytesIO()
    if kind == "dataset":
        if not (place.root / "train").exists():
            write_dataset(place.root / "train", whole)
        data = f"{files(place)}/train"
    else:
        if kind == "parquet":
            pq.write_table(whole, buffer)
        elif kind == "npz":
            np.savez_compressed(buffer, x=place.regression.inputs, y=place.regression.targets)
        else:
            with pa.ipc.new_file(buffer, whole.schema) as writer:
                writer.write_table(whole, max_chunksize=7)
        place.web.put(f"/data.{kind}", buffer.getvalue())
        (place.root / f"data.{kind}").write_bytes(buffer.getvalue())
        data = f"{place.web.url if where == 'web' else files(place)}/data.{kind}"
    job = place.run(spec(f"{files(place)}/weights.safetensors", data))
    np.testing.assert_allclose(place.result(job)["x"], place.regression.x, rtol=1e-7)
    held_out = {"inputs": f"{data}#x", "targets": f"{data}#y", "index": [3, 1]}
    job = place.run(spec(f"{files(place)}/weights.safetensors", data), rhs={"gradient_of": held_out})
    assert np.shape(place.result(job)["x"]) == (2, 3)


def test_gradients_at_points_from_the_web(place: Place) -> None:
    data = f"{place.web.url}/data.safetensors"
    model = spec(f"{files(place)}/weights.safetensors", data)
    job = place.run(model, rhs={"gradient_of": {"inputs": f"{data}#x", "targets": f"{data}#y"}})
    x = np.array(place.result(job)["x"])
    assert x.shape == (30, 3)
    assert np.linalg.norm(x.sum(axis=0)) < 1e-6 * np.linalg.norm(x)  # at the optimum the gradients add up to nothing


def test_a_registered_model_is_pinned_once(place: Place) -> None:
    data = place.web.put("/registered.safetensors", place.regression.files["data.safetensors"])
    fields = {"name": f"m-{secrets.token_hex(4)}", **spec(f"{files(place)}/weights.safetensors", data)}
    first = place.service.http.post("/v1/models", json=fields)
    assert first.status_code == 201, first.text
    assert place.service.http.post("/v1/models", json=fields).status_code == 200
    job_id = place.submit(first.json()["reference"])
    place.web.put("/registered.safetensors", Regression.make(seed=1).files["data.safetensors"])
    # The job was promised the file as it was; the model too, and a new version takes the file as it is.
    place.executor.run_next()
    job = place.service.jobs.get(job_id)
    assert job.error is not None
    assert job.error.code == "source_changed"
    second = place.service.http.post("/v1/models", json=fields)
    assert (second.status_code, second.json()["version"]) == (201, 2)
    assert place.run(second.json()["reference"]).error is None


def test_what_is_cached_is_not_fetched_again_though_the_place_is_gone(place: Place) -> None:
    data = place.web.put(f"/{secrets.token_hex(4)}.safetensors", place.regression.files["data.safetensors"])
    model = spec(f"{files(place)}/weights.safetensors", data)
    job_id = place.submit(model)
    assert place.run(model).error is None
    asked = len(place.web.requests)
    place.executor._resources.models.clear()
    del place.web.files[data.removeprefix(place.web.url)]
    place.executor.run_next()
    assert place.service.jobs.get(job_id).error is None
    assert len(place.web.requests) == asked


def test_pins_that_the_caller_sends_are_held_to(place: Place) -> None:
    data = f"{place.web.url}/data.safetensors"
    content = place.regression.files["data.safetensors"]
    model = spec(f"{files(place)}/weights.safetensors", data)
    digest = hashlib.sha256(content).hexdigest()
    assert place.run({**model, "sources": {data: {"size": len(content), "sha256": digest}}}).error is None
    place.refused({**model, "sources": {data: {"size": len(content), "etag": '"other"'}}}, "source_changed")
    place.refused({**model, "sources": {f"{data}x": {"size": 1}}}, "source_not_found")
    wrong = place.run({**model, "sources": {data: {"size": len(content), "sha256": "0" * 64}}})
    assert wrong.error is not None
    assert wrong.error.code == "source_changed"


@pytest.mark.parametrize(
    ("path", "code", "status"),
    [
        ("/missing.safetensors", "source_not_found", 422),
        ("/forbidden.safetensors", "source_forbidden", 422),
        ("/busy.safetensors", "source_unavailable", 503),
        ("/hung.safetensors", "source_timeout", 503),
        ("/pickle.safetensors", "invalid_tensor", 422),
        ("/zip.safetensors", "invalid_tensor", 422),
        ("/short.safetensors", "invalid_tensor", 422),
        ("/large.safetensors", "source_too_large", 422),
        ("/nan.safetensors", "weights_mismatch", 422),
    ],
)
def test_what_is_refused_at_submit(place: Place, path: str, code: str, status: int) -> None:
    web = place.web
    web.statuses |= {"/forbidden.safetensors": 403, "/busy.safetensors": 503}
    web.hung.add("/hung.safetensors")
    web.put("/pickle.safetensors", b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix")
    web.put("/zip.safetensors", b"PK\x03\x04" + b"\0" * 200)
    web.put("/short.safetensors", place.regression.files["weights.safetensors"][:-1])
    web.put("/large.safetensors", b"\0" * 10_000_001)
    web.put("/nan.safetensors", tensors(other=np.ones((1, 3))))
    place.refused(spec(f"{web.url}{path}", f"{web.url}/data.safetensors"), code, status)


def test_weights_need_an_architecture_and_a_loss(place: Place) -> None:
    model = spec(f"{files(place)}/weights.safetensors", f"{files(place)}/data.safetensors")
    place.refused({**model, "architecture": None}, "invalid_architecture")
    place.refused({**model, "loss": None}, "loss_mismatch")


def test_a_file_that_changes_between_submit_and_fetch(place: Place) -> None:
    name = f"{secrets.token_hex(4)}.safetensors"
    (place.root / name).write_bytes(place.regression.files["weights.safetensors"])
    job_id = place.submit(spec(f"{files(place)}/{name}", f"{files(place)}/data.safetensors"))
    (place.root / name).write_bytes(place.regression.files["weights.safetensors"])
    place.executor.run_next()
    job = place.service.jobs.get(job_id)
    assert job.error is not None
    assert job.error.code == "source_changed"
    assert not list(place.service.settings.source_cache_dir.glob("*.part"))
