"""``ihvp inspect`` on the running service: what it says of a model is what plain torch says, and it leaves nothing."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from examples.running_service import RunningService
from ihvp import Client
from ihvp.methods import InversionMethod
from ihvp.settings import child_environment
from tests.pretrained.models import train_and_save
from tests.sources.problem import Regression

if TYPE_CHECKING:
    from tests.service.conftest import Oracle

pytestmark = pytest.mark.service


def ihvp(service: RunningService, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ihvp.cli", *arguments],
        capture_output=True, text=True, timeout=60, env=child_environment(url=service.url) | {"NO_COLOR": "1"},
    )  # fmt: skip


def test_a_registered_model(client: Client, oracle: Oracle) -> None:
    before = [job.id for job in client.jobs()]
    found = client.inspect("oracle-mlp@1")
    assert found.reference == "oracle-mlp@1"
    assert found.layout == oracle.model.layout
    assert (found.num_params, found.prediction.num_points) == (oracle.model.num_params, 60)
    assert found.nbytes == 8 * oracle.model.num_params
    assert {entry.method for entry in found.prediction.predictions} == {method.value for method in InversionMethod}
    assert found.loss_check is not None, found.no_check
    assert found.loss_check.points == 8
    gradient = oracle.training_gradients[:8].mean(axis=0)
    assert found.loss_check.gradient_norm == pytest.approx(float(np.linalg.norm(gradient)), rel=1e-9)
    assert found.loss_check.uninformed_loss == pytest.approx(math.log(3))
    assert [job.id for job in client.jobs()] == before


def test_the_command_shows_a_model_and_a_spec_in_a_file_alike(
    client: Client, oracle: Oracle, service: RunningService, tmp_path: Path
) -> None:
    spec = tmp_path / "spec.json"
    spec.write_text(oracle.model.spec.model_dump_json())
    told = json.loads(ihvp(service, "inspect", str(spec), "--json").stdout)
    assert told["reference"] is None
    assert told["digest"] == oracle.model.digest
    assert told["layout"][0] == {"name": "0.weight", "offset": 0, "shape": [6, 4]}
    assert told["loss_check"]["mean_loss"] > 0
    shown = ihvp(service, "inspect", "oracle-mlp", "--no-check")
    assert shown.returncode == 0, shown.stderr
    assert "loss check: none" in shown.stdout
    assert all(entry.name in shown.stdout for entry in oracle.model.layout)
    assert "ekfac" in shown.stdout
    missing = ihvp(service, "inspect", "nobody")
    assert (missing.returncode, missing.stdout) == (3, "")


def test_weights_where_they_are(service: RunningService, tmp_path: Path) -> None:
    """By URI or by file, with the data and what the weights do not say themselves."""
    regression = Regression.make()
    for name, content in regression.files.items():
        (tmp_path / name).write_bytes(content)
    weights, data = ((tmp_path / name).as_uri() for name in ("weights.safetensors", "data.safetensors"))
    config = json.dumps({"in_features": 3, "out_features": 1, "bias": False})
    of = ["--inputs", f"{data}#x", "--targets", f"{data}#y", "--loss", "mse", "--dtype", "float64"]
    linear = ["--architecture", "linear", "--config", config]
    for reference in (weights, str(tmp_path / "weights.safetensors")):
        done = ihvp(service, "inspect", reference, *of, *linear, "--json")
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert (told["num_params"], told["num_points"], told["dtype"]) == (3, 30, "float64")
        assert told["loss_check"]["mean_loss"] < told["loss_check"]["uninformed_loss"]

    for given, said in (
        ([weights], "Add --inputs, --targets, --architecture with its --config, --loss; or"),
        ([weights, "--loss", "mse", *linear], "Add --inputs, --targets; or"),
        ([tmp_path.as_uri() + "/"], "Add --inputs, --targets; or"),
        ([weights, *of], "does not say what module it belongs to"),
        ([weights, "--inputs", data], "both --inputs and --targets"),
        ([weights, *of[:4], *linear], "does not say its loss"),
        (["oracle-mlp", *linear], "has its architecture, data and loss already"),
        ([weights, *of, "--config", config], "Give --architecture too"),
        (["hf://org/repo@main", *of], "named with a commit"),
    ):
        refused = ihvp(service, "inspect", *given)
        assert (refused.returncode, refused.stdout) == (2, ""), refused.stderr
        assert said in refused.stderr


def test_a_folder_in_hugging_face_layout_says_all_but_its_data(service: RunningService, tmp_path: Path) -> None:
    saved = train_and_save("distilbert", tmp_path)
    spec = saved.spec()
    inputs = [part for name, uri in spec["data"]["inputs"].items() for part in ("--inputs", f"{name}={uri}")]
    data = [*inputs, "--targets", spec["data"]["targets"], "--dtype", "float64"]
    done = ihvp(service, "inspect", spec["weights"], *data, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["architecture"] == "folder"
    assert told["num_points"] == len(saved.labels)
    assert told["loss_check"]["points"] == 8
