"""The commands against the running service: what they print, write and exit with."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from examples.running_service import RunningService
from ihvp import Client
from ihvp.settings import child_environment

if TYPE_CHECKING:
    from tests.service.conftest import Oracle

pytestmark = pytest.mark.service
Ihvp = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def ihvp(service: RunningService, tmp_path: Path) -> Ihvp:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "ihvp.cli", *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            cwd=tmp_path,
            env=child_environment(url=service.url) | {"NO_COLOR": "1"},
        )

    return run


@pytest.fixture
def b(oracle: Oracle, tmp_path: Path) -> str:
    np.save(tmp_path / "b.npy", np.ones((2, oracle.model.num_params)))
    return "b.npy"


def test_submit_wait_and_result(ihvp: Ihvp, b: str, oracle: Oracle, tmp_path: Path) -> None:
    done = ihvp("submit", "-m", "oracle-mlp@1", "--rhs", b, "--lambda", "0.5", "--wait", "--strict", "--json")
    assert done.returncode == 0, done.stderr
    job = json.loads(done.stdout)
    assert job["state"] == "succeeded"
    assert job["hessian_perturbation"] == 0.5

    table = ihvp("result", job["id"], "-o", "x.safetensors")
    assert table.returncode == 0
    assert table.stdout.count("converged") == 2
    saved = ihvp("result", job["id"], "-o", "x.npy", "--json")
    document = json.loads(saved.stdout)
    x = np.load(tmp_path / "x.npy")
    np.testing.assert_array_equal(np.array(document["x"]), x)
    np.testing.assert_allclose(x, oracle.solve(np.ones((2, oracle.model.num_params)), 0.5), rtol=1e-5, atol=1e-6)
    assert document["digest"] == job["result"]["digest"]

    assert job["id"] in ihvp("jobs", "--model", "oracle-mlp").stdout
    assert "oracle-mlp@1" in ihvp("status", job["id"]).stdout
    lines = [json.loads(line) for line in ihvp("watch", job["id"], "--json").stdout.splitlines()]
    assert [line["data"]["state"] for line in lines if line["type"] == "state"] == ["queued", "running", "succeeded"]


def test_strict_is_status_6_when_a_certificate_does_not_say_converged(ihvp: Ihvp, b: str) -> None:
    arguments = ["submit", "-m", "oracle-mlp", "--rhs", b, "--lambda", "0.5", "-o", "maxiter=1", "--wait"]
    assert ihvp(*arguments).returncode == 0
    strict = ihvp(*arguments, "--strict")
    assert strict.returncode == 6
    assert "max_iterations" in strict.stdout


def test_a_wait_that_is_too_short_is_status_5_and_cancel_ends_the_job_as_status_1(ihvp: Ihvp, b: str) -> None:
    arguments = ["-m", "oracle-mlp", "--rhs", b, "--method", "lissa", "--lambda", "0.5"]
    options = ["-o", "maxiter=10000000", "-o", "rtol=1e-300"]
    job = json.loads(ihvp("submit", *arguments, *options, "--json").stdout)["id"]
    late = ihvp("watch", job, "--timeout", "0.5")
    assert late.returncode == 5
    assert "wait again, or cancel it" in late.stderr
    assert ihvp("result", job).returncode == 1
    assert ihvp("cancel", job).returncode == 0
    ended = ihvp("watch", job)
    assert ended.returncode == 1
    assert "cancelled" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_services_refusals_are_messages_with_codes(ihvp: Ihvp, b: str, oracle: Oracle, tmp_path: Path) -> None:
    np.save(tmp_path / "short.npy", np.ones(3))
    for arguments, status, code in (
        (["submit", "-m", "oracle-mlp", "--rhs", "short.npy"], 2, "rhs_shape_mismatch"),
        (["submit", "-m", "nobody", "--rhs", b], 2, "unknown_model"),
        (["submit", "-m", "oracle-mlp", "--rhs", b, "-o", "rtoll=1"], 2, "unknown_option"),
        (["status", "job_00000000000000000000000000"], 3, "job_not_found"),
        (["models", "show", "nobody"], 3, "model_not_found"),
    ):
        done = ihvp(*arguments)
        assert (done.returncode, done.stdout) == (status, "")
        assert f"[{code}]" in done.stderr
        assert "Traceback" not in done.stderr


def test_models_methods_and_blobs(ihvp: Ihvp, oracle: Oracle, client: Client, tmp_path: Path) -> None:
    assert "oracle-mlp@1" in ihvp("models").stdout
    assert json.loads(ihvp("models", "--json").stdout)
    shown = ihvp("models", "show", "oracle-mlp").stdout
    assert all(entry.name in shown for entry in oracle.model.layout)
    assert "rtol" in ihvp("methods", "cg").stdout
    assert {method["method"] for method in json.loads(ihvp("methods", "--json").stdout)} >= {"cg", "direct"}
    (tmp_path / "file").write_bytes(b"some bytes")
    (line,) = ihvp("blobs", "put", "file").stdout.splitlines()
    assert line == f"{client.put_blob(b'some bytes')}  file"


def test_gradients_at_some_rows_of_a_file(ihvp: Ihvp, oracle: Oracle, tmp_path: Path) -> None:
    np.save(tmp_path / "test-x.npy", oracle.test_inputs)
    np.save(tmp_path / "test-y.npy", oracle.test_targets)
    np.save(tmp_path / "rows.npy", np.array([3, 0]))
    job = ["submit", "-m", "oracle-mlp", "--gradient-of", "test-x.npy", "test-y.npy", "--lambda", "0.5", "--wait"]
    expected = oracle.solve(oracle.test_gradients[[3, 0]], 0.5)
    for rows in ("3,0", "rows.npy"):
        done = ihvp(*job, "--method", "direct", "--rows", rows, "--json")
        assert done.returncode == 0, done.stderr
        found = ihvp("result", json.loads(done.stdout)["id"], "--json")
        np.testing.assert_allclose(np.array(json.loads(found.stdout)["x"]), expected, rtol=1e-8)
    for given, said in (
        ([*job, "--rows", "9"], "invalid_index"),
        ([*job, "--rows", "x"], "--rows takes row numbers"),
        (["submit", "-m", "oracle-mlp", "--rhs", "test-x.npy", "--rows", "1"], "of --gradient-of"),
    ):
        refused = ihvp(*given)
        assert refused.returncode == 2, refused.stderr
        assert said in refused.stderr
