"""Search directions of one solve shorten the next on the same problem, whatever λ, and change no answer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from solvers import Problem, TorchTwiceDifferentiable, solve_hvp
from tests.solvers.cases import small_mlp

F32, F64 = torch.float32, torch.float64


def decaying(dtype: torch.dtype, p: int = 200) -> tuple[TorchTwiceDifferentiable, Any, Tensor]:
    """Least squares with eigenvalues 1, 1/4, 1/9, …: a few matter, as in networks."""
    values = 1.0 / torch.arange(1, p + 1, dtype=F64) ** 2
    x = torch.diag((values * p / 2).sqrt()).to(dtype)
    model = TorchTwiceDifferentiable(nn.Linear(p, 1, bias=False, dtype=dtype), nn.MSELoss())
    return model, [(x, torch.zeros(p, 1, dtype=dtype))], values


def rows(k: int, p: int, dtype: torch.dtype, seed: int) -> Tensor:
    return torch.randn(k, p, generator=torch.Generator().manual_seed(seed), dtype=F64).to(dtype)


def iterations(info: dict[str, Any]) -> int:
    return max(entry["iterations"] for entry in info["certificate"])


@pytest.mark.parametrize("dtype", [F32, F64], ids=["float32", "float64"])
@pytest.mark.parametrize("later", [1e-3, 1e-2, 3e-4], ids=["same λ", "larger λ", "smaller λ"])
def test_a_later_solve_takes_fewer_iterations_at_any_damping(dtype: torch.dtype, later: float) -> None:
    model, data, values = decaying(dtype)
    rtol = 1e-5 if dtype == F32 else 1e-9
    options = {"hessian_perturbation": later, "rtol": rtol, "atol": 0.0}
    b = rows(4, 200, dtype, seed=2)
    _, alone = solve_hvp("cg", model, data, b, **options)
    problem = Problem(model, data)
    problem.solve("cg", rows(4, 200, dtype, seed=1), hessian_perturbation=1e-3, rtol=rtol, atol=0.0)
    x, info = problem.solve("cg", b, **options)
    assert info["preconditioner"]["kind"] == "recycled"
    assert iterations(info) <= 0.7 * iterations(alone)
    assert info["hvps"] < alone["hvps"]
    exact = b.double() / (values + later)
    assert float(((x.double() - exact).norm(dim=1) / exact.norm(dim=1)).max()) <= 300 * rtol
    assert {entry["status"] for entry in info["certificate"]} == {"converged"}


def test_each_solve_adds_to_what_is_known() -> None:
    model, data, _ = decaying(F64)
    problem = Problem(model, data)
    needed = [
        iterations(problem.solve("cg", rows(2, 200, F64, seed), hessian_perturbation=1e-3, rtol=1e-9, atol=0.0).info)
        for seed in range(4)
    ]
    assert needed[1] < needed[0]
    assert needed[3] < needed[1]


def test_an_indefinite_curvature_leaves_a_sound_preconditioner() -> None:
    case = small_mlp(F64)
    problem = Problem(case.model, case.batches(10))
    problem.solve("cg", case.rhs(2), hessian_perturbation=case.damping, rtol=1e-10, atol=0.0)
    b = case.rhs(3, seed=5)
    x, info = problem.solve("cg", b, hessian_perturbation=case.damping, rtol=1e-10, atol=0.0)
    assert {entry["status"] for entry in info["certificate"]} == {"converged"}
    torch.testing.assert_close(x, case.exact(b), rtol=1e-7, atol=1e-9)
    # Where H + λI is indefinite it is still found out.
    _, info = problem.solve("cg", b, hessian_perturbation=0.0, rtol=1e-10, atol=0.0)
    assert "negative_curvature" in {entry["status"] for entry in info["certificate"]}


def test_directions_found_under_a_damping_by_parameter_serve_others() -> None:
    case = small_mlp(F64)
    problem = Problem(case.model, case.batches(10))
    blocks = {"*": case.damping, "0.*": case.damping + 1.0}
    problem.solve("cg", case.rhs(2), hessian_perturbation=blocks, rtol=1e-10, atol=0.0)
    b = case.rhs(2, seed=5)
    x, info = problem.solve("cg", b, hessian_perturbation=case.damping, rtol=1e-10, atol=0.0)
    assert info["preconditioner"]["kind"] == "recycled"
    torch.testing.assert_close(x, case.exact(b), rtol=1e-7, atol=1e-9)


def test_without_recycling_history_does_not_show_in_a_single_bit() -> None:
    model, data, _ = decaying(F32)
    options = {"hessian_perturbation": 1e-3, "rtol": 1e-5, "atol": 0.0, "recycle": False}
    b = rows(3, 200, F32, seed=2)
    fresh = Problem(model, data, strategy="graph").solve("cg", b, **options)
    used = Problem(model, data, strategy="graph")
    used.solve("cg", rows(3, 200, F32, seed=1), hessian_perturbation=1e-3)
    again = used.solve("cg", b, **options)
    assert torch.equal(again.x, fresh.x)
    assert again.info["preconditioner"] is None


def test_what_is_kept_stays_within_its_share_of_the_budget() -> None:
    model, data, _ = decaying(F64)
    budget = 400 * 200 * 8
    problem = Problem(model, data, memory_budget=budget)
    for seed in range(4):
        problem.solve("cg", rows(8, 200, F64, seed), hessian_perturbation=1e-4, rtol=1e-9, atol=0.0)
        assert problem.recycled.nbytes <= budget // 4
    assert problem.recycled.rank > 0
