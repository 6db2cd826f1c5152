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
