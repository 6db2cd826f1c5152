"""A model on a Hugging Face hub: its folder at a commit is solved on as the same folder on a disk is."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import numpy as np
import pytest

from ihvp.up.embedded_store import EmbeddedStore
from tests.app.conftest import running_service
from tests.pretrained.conftest import Place, Running
from tests.sources.hub import COMMIT, Hub, running_hub
from workers.execution import Executor

REPOSITORY = "org/judge"


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with running_hub() as hub:
        yield hub


@pytest.fixture(scope="module")
def beside_a_hub(place: Place, hub: Hub, valkey_server: EmbeddedStore) -> Iterator[Running]:
    """A service that may read the hub, and the folders too."""
    settings = place.settings.model_copy(
        update={
            "redis_url": valkey_server.url,
            "namespace": f"t-{secrets.token_hex(6)}",
            "log_level": "error",
            "hf_endpoint": hub.url,
            "source_private_hosts": ("127.0.0.1",),
        }
    )
    with running_service(settings) as service:
        yield Running(service, Executor(settings, service.jobs, service.blobs, "host/test", lambda: False))


def test_a_folder_at_a_commit_is_solved_on_as_on_a_disk(place: Place, hub: Hub, beside_a_hub: Running) -> None:
    saved = place.saved("distilbert")
    files = {path.name: path.read_bytes() for path in saved.folder.iterdir() if path.is_file()}
    # What nobody may run, and nobody reads.
    files |= {"modeling_judge.py": b"raise SystemExit", "pytorch_model.bin": b"\x80\x04pickle"}
    hub.repositories[f"models/{REPOSITORY}"] = files
    head = {"parameters": {"include": ["classifier.*"]}, "dtype": "float64"}
    solved = []
    for weights in (f"hf://{REPOSITORY}@{COMMIT}", saved.spec()["weights"]):
        spec = saved.spec(weights=weights, **head)
        points = {"inputs": spec["data"]["inputs"], "targets": spec["data"]["targets"], "index": [0, 1]}
        job = beside_a_hub.run(
            model=spec, rhs={"gradient_of": points}, curvature="ggn", hessian_perturbation=0.1, options={"rtol": 1e-9}
        )
        solved.append((job, beside_a_hub.get(job, "result")))
    (job, result), (_, on_disk) = solved
    assert {entry["status"] for entry in result["info"]["certificate"]} == {"converged"}
    np.testing.assert_allclose(result["x"], on_disk["x"], rtol=1e-6, atol=1e-12)
    pinned = {uri for uri in job.request.model.spec.sources if uri.startswith("hf://")}
    assert pinned >= {f"hf://{REPOSITORY}@{COMMIT}/{name}" for name in ("config.json", "model.safetensors")}
    assert not any(uri.endswith((".py", ".bin")) for uri in pinned)
    # No file of the repository was asked for at any other state than the commit.
    asked = [path for path, _ in hub.tokens if path.startswith(f"{REPOSITORY}/resolve/")]
    assert asked
    assert all(f"/resolve/{COMMIT}/" in path for path in asked)


def test_a_branch_is_refused_with_the_way_to_a_commit(place: Place, beside_a_hub: Running) -> None:
    spec = place.saved("distilbert").spec(weights=f"hf://{REPOSITORY}@main")
    refused = beside_a_hub.refused(
        "invalid_reference", model=spec, rhs={"gradient_of": {n: spec["data"][n] for n in ("inputs", "targets")}}
    )
    assert "git ls-remote" in refused["hint"]
