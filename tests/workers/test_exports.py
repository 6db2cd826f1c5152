"""Jobs on exported programs by the worker's own code: x is the dense oracle's, certified; the switch holds too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ihvp.errors import ExportsNotAllowed, InvalidExport
from ihvp.jobs.states import JobState
from ihvp.jobs.submission import InfluenceRequest
from ihvp.methods import TerminationStatus
from ihvp.models.spec import ModelSpec
from ihvp.settings import Settings
from tests.exports.programs import export
from tests.workers.bench import Bench, dense, points
from tests.workers.problems import Example, job_request, put
from workers.execution import Executor
from workers.resolvers.model import load_model


@pytest.fixture
def program(bench: Bench, digits: Example, tmp_path: Path) -> ModelSpec:
    """The digits MLP, exported in float32, as a spec in float64."""
    path = export(digits.module.eval(), (digits.x[:3],), tmp_path / "digits.pt2")
    spec = digits.upload(bench.blobs)
    return spec.model_copy(update={"architecture": None, "weights": f"export://{put(bench.blobs, path.read_bytes())}"})


def allow(bench: Bench, tmp_path: Path, **settings: Any) -> None:
    bench.executor = Executor(
        Settings(data_dir=tmp_path, allow_exports=True, **settings),
        bench.store,
        bench.blobs,
        "host/test",
        lambda: False,
    )


@pytest.mark.parametrize("method", ["cg", "direct", "nystrom", "ekfac"])
def test_a_job_is_solved_as_on_the_module_itself(
    method: str, bench: Bench, digits: Example, digits_hessian: Tensor, program: ModelSpec, tmp_path: Path
) -> None:
    allow(bench, tmp_path)
    request = job_request(
        program,
        digits.num_params,
        points(bench, digits, 2),
        method=method,
        options={"rank": 50} if method == "nystrom" else {},
        influence=InfluenceRequest(on="training"),
    )
    job = bench.run(request)
    assert job.state is JobState.Succeeded, job.error
    assert job.result is not None
    if method in ("cg", "direct"):
        assert [entry.status for entry in job.result.certificate] == [TerminationStatus.Converged] * 2
        expected = dense(digits_hessian, digits.gradients(digits.x[:2], digits.y[:2]))
        torch.testing.assert_close(bench.x(job), expected, rtol=1e-5, atol=1e-7)
    assert bench.document(job).provenance.weights == program.weights


def test_the_worker_has_the_switch_too(bench: Bench, digits: Example, program: ModelSpec) -> None:
    job = bench.run(job_request(program, digits.num_params, points(bench, digits, 1)))
    assert job.state is JobState.Failed
    assert job.error is not None
    assert job.error.code == ExportsNotAllowed.code


def test_a_program_that_mixes_points_is_refused_when_it_is_loaded(
    bench: Bench, digits: Example, tmp_path: Path
) -> None:
    class Centred(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(64, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x - x.mean(0))  # type: ignore[no-any-return]

    path = export(Centred().eval(), (digits.x[:3],), tmp_path / "centred.pt2")
    spec = digits.upload(bench.blobs).model_copy(
        update={"architecture": None, "weights": f"export://{put(bench.blobs, path.read_bytes())}"}
    )
    with pytest.raises(InvalidExport, match="mixes the points"):
        load_model(bench.blobs, spec, memory_budget=10**8, allow_exports=True)
