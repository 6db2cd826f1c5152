"""``ihvp rerun`` on the running service: the same bits where nothing differs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from examples.running_service import RunningService
from ihvp import Client
from ihvp.client.saved_result import save_result
from ihvp.errors import JobNotFound
from ihvp.settings import child_environment
from tests.places import Places
from tests.sources.problem import DAMPING, Regression, spec

if TYPE_CHECKING:
    from tests.service.conftest import Oracle

pytestmark = pytest.mark.service


def ihvp(service: RunningService, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ihvp.cli", *arguments],
        capture_output=True, text=True, timeout=60, env=child_environment(url=service.url) | {"NO_COLOR": "1"},
    )  # fmt: skip


def test_a_rerun_gives_the_same_bits_where_nothing_differs(
    client: Client, oracle: Oracle, service: RunningService
) -> None:
    b = np.ones((2, oracle.model.num_params))
    for _ in range(2):  # what the first leaves, all later ones find
        first = client.solve(model="oracle-mlp", rhs=b, method="direct", hessian_perturbation=0.5, progress=False)
    assert first.provenance.given == "oracle-mlp"
    done = ihvp(service, "rerun", first.job_id, "--strict", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["changed"] == {}
    assert told["identical"]
    assert told["first"]["digest"] == first.digest
    assert told["second"]["job_id"] != first.job_id
    np.testing.assert_array_equal(client.result(told["second"]["job_id"]).x, first.x)

    table = ihvp(service, "rerun", first.job_id)
    assert table.returncode == 0
    assert "bit for bit" in table.stdout
    assert table.stdout.count("converged") == 4


def test_cg_agrees_to_its_tolerance_and_a_job_that_is_gone_is_status_3(
    client: Client, oracle: Oracle, service: RunningService
) -> None:
    job = client.submit(model="oracle-mlp", rhs=np.ones(oracle.model.num_params), hessian_perturbation=0.5)
    client.wait(job.id, 30)
    both = client.rerun(job.id)
    assert both.agrees(1e-4)
    client.delete(job.id)
    with pytest.raises(JobNotFound):
        client.rerun(job.id)
    gone = ihvp(service, "rerun", job.id)
    assert (gone.returncode, gone.stdout) == (3, "")
    assert "job_not_found" in gone.stderr


@pytest.mark.parametrize("kind", ["safetensors", "json"])
def test_a_saved_result_is_enough_where_the_job_is_gone(
    client: Client, oracle: Oracle, service: RunningService, tmp_path: Path, kind: str
) -> None:
    """By its provenance alone: model, points, method, options and seed, and x is the same."""
    points = {"inputs": oracle.test_inputs, "targets": oracle.test_targets, "index": [3, 1]}
    sent: dict[str, Any] = {"method": "nystrom", "options": {"rank": 20, "rtol": 1e-3}, "hessian_perturbation": 0.5}
    if kind == "json":
        sent = {"method": "direct", "hessian_perturbation": {"*": 0.5, "0.*": 0.7}, "curvature": "ggn"}
    for _ in range(2):  # what the first leaves, all later ones find
        first = client.solve(
            model=f"{oracle.model.name}@latest", rhs={"gradient_of": points}, influence=True, progress=False, **sent
        )
    path = tmp_path / f"saved.{kind}"
    if kind == "json":
        path.write_text(ihvp(service, "result", first.job_id, "--json").stdout)
    else:
        assert ihvp(service, "result", first.job_id, "-o", str(path)).returncode == 0
    client.delete(first.job_id)
    done = ihvp(service, "rerun", str(path), "--strict", "--json", "--tolerance", "1e-9")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["first"]["job_id"] == first.job_id
    assert told["agrees"]
    again = client.result(told["second"]["job_id"])
    np.testing.assert_allclose(again.x, first.x, rtol=1e-9)
    for name in ("spec", "rhs", "method", "options", "seed", "hessian_perturbation", "curvature", "influence"):
        assert getattr(again.provenance, name) == getattr(first.provenance, name), name
    assert again.provenance.model_digest == first.provenance.model_digest
    assert client.influence(again.job_id).scores is not None


def test_a_saved_result_of_files_elsewhere_holds_them_to_their_pins(
    client: Client, service: RunningService, places: Places, tmp_path: Path
) -> None:
    regression = Regression.make()
    places.s3.create_bucket(Bucket="models")
    for name, content in regression.files.items():
        places.s3.put_object(Bucket="models", Key=f"rerun/{name}", Body=content)
    model = spec("s3://models/rerun/weights.safetensors", "s3://models/rerun/data.safetensors")
    rhs = "s3://models/rerun/b.npy"
    first = client.solve(model=model, rhs=rhs, hessian_perturbation=DAMPING, progress=False)
    path = tmp_path / "saved.safetensors"
    save_result(first, path)
    client.delete(first.job_id)
    both = client.rerun(path)
    assert both.agrees(1e-9)
    assert both.second.provenance.sources == first.provenance.sources
    assert both.second.provenance.model_digest == first.provenance.model_digest
    places.s3.put_object(Bucket="models", Key="rerun/b.npy", Body=regression.files["b.npy"] + b"x")
    changed = ihvp(service, "rerun", str(path))
    assert changed.returncode != 0
    assert "[source_changed]" in changed.stderr


def test_files_that_say_too_little(client: Client, oracle: Oracle, service: RunningService, tmp_path: Path) -> None:
    first = client.solve(model="oracle-mlp", rhs=np.ones(oracle.model.num_params), method="direct", progress=False)
    whole = tmp_path / "whole.json"
    whole.write_text(ihvp(service, "result", first.job_id, "--json").stdout)
    document = json.loads(whole.read_text())

    without_x = tmp_path / "without-x.json"
    without_x.write_text(json.dumps(document | {"x": None}))
    done = ihvp(service, "rerun", str(without_x))
    assert done.returncode == 0, done.stderr
    assert "no first result to compare with" in done.stdout

    provenance = document["provenance"]
    other_model = provenance | {"spec": provenance["spec"] | {"dtype": "float32"}}
    for name, content, said in (
        ("old.json", {**document, "provenance": provenance | {"spec": None, "seed": None}}, "without spec"),
        ("changed.json", {**document, "provenance": other_model}, "does not agree with itself"),
        ("other.json", {"certificate": []}, "holds no result"),
        ("list.json", [1, 2], "holds no result"),
    ):
        (tmp_path / name).write_text(json.dumps(content))
        refused = ihvp(service, "rerun", str(tmp_path / name))
        assert (refused.returncode, refused.stdout) == (2, ""), refused.stderr
        assert said in refused.stderr
        assert refused.stderr.startswith("error: ")  # and no bar of a job that there is not
    np.save(tmp_path / "x.npy", np.ones(3))
    assert "x.npy: neither safetensors nor JSON" in ihvp(service, "rerun", str(tmp_path / "x.npy")).stderr
    save_file({"x": np.ones(3)}, tmp_path / "bare.safetensors")
    refused = ihvp(service, "rerun", str(tmp_path / "bare.safetensors"))
    assert refused.returncode == 2
    assert "does not say what it was made of" in refused.stderr
    for name in ("nowhere.json", "nowhere.safetensors"):
        refused = ihvp(service, "rerun", name)
        assert (refused.returncode, refused.stderr) == (2, f"error: {name}: No such file or directory\n")
