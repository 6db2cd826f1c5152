"""Directions kept conjugate to all earlier ones: fewer iterations, whatever part of them fits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from solvers import Problem, TorchTwiceDifferentiable
from solvers.directions import Directions

F64 = torch.float64


def clustered(dtype: torch.dtype, p: int = 400) -> tuple[TorchTwiceDifferentiable, Any, Tensor]:
    """Least squares with some eigenvalues far above all others, as trained networks have them."""
    values = torch.cat([torch.logspace(2, 0, 30, dtype=F64), torch.full((p - 30,), 1e-3, dtype=F64)])
    x = torch.diag((values * p / 2).sqrt()).to(dtype)
    model = TorchTwiceDifferentiable(nn.Linear(p, 1, bias=False, dtype=dtype), nn.MSELoss())
    return model, [(x, torch.zeros(p, 1, dtype=dtype))], values


def solved(dtype: torch.dtype, k: int, budget: int = 2**30) -> tuple[dict[str, Any], float]:
    """The info of a solve, and the largest relative error of its solutions."""
    model, data, values = clustered(dtype)
    b = torch.randn(k, 400, generator=torch.Generator().manual_seed(k), dtype=F64).to(dtype)
    problem = Problem(model, data, memory_budget=budget, strategy="recomputed")
    x, info = problem.solve("cg", b, hessian_perturbation=1e-2, rtol=1e-5, atol=0.0, recycle=False)
    exact = b.double() / (values + 1e-2)
    return info, float(((x.double() - exact).norm(dim=1) / exact.norm(dim=1)).max())


def iterations(info: dict[str, Any]) -> int:
    return max(entry["iterations"] for entry in info["certificate"])


@pytest.mark.parametrize("k", [1, 4])
def test_rounding_costs_few_iterations(k: int) -> None:
    single, error = solved(torch.float32, k)
    assert {entry["status"] for entry in single["certificate"]} == {"converged"}
    assert error < 1e-3
    # 31 different eigenvalues: exact arithmetic would be done in 31 iterations, a three-term recurrence in
    # float32 is not.
    assert iterations(single) <= 36


def test_directions_that_do_not_fit_cost_iterations_only() -> None:
    roomy, _ = solved(torch.float32, 1)
    # An eighth of this budget holds ten directions of 400 numbers and their images.
    narrow, error = solved(torch.float32, 1, budget=8 * 10 * 2 * 400 * 4)
    assert {entry["status"] for entry in narrow["certificate"]} == {"converged"}
    assert error < 1e-3
    assert iterations(narrow) >= iterations(roomy)


def test_what_is_kept_is_conjugate_and_restored_to_the_bit() -> None:
    generator = torch.Generator().manual_seed(0)
    A = torch.diag(torch.logspace(-2, 2, 60, dtype=F64))
    kept = Directions(12, A)
    for m in (4, 3, 4, 3):
        Z = kept.conjugate(torch.randn(m, 60, generator=generator, dtype=F64))
        # Conjugate to the last block, too, when that was too many to be kept.
        kept.add(Z, Z @ A, torch.linalg.inv(Z @ A @ Z.T))
    assert kept.vectors.shape == (11, 60)
    new = kept.conjugate(torch.randn(2, 60, generator=generator, dtype=F64))
    overlap = (new @ kept.images.T).abs().max() / new.norm() / kept.images.norm()
    assert float(overlap) < 1e-12
    other = Directions(1, A)
    other.restore({name: tensor.clone() for name, tensor in kept.tensors().items()})
    assert torch.equal(other.conjugate(new), kept.conjugate(new))
    R = torch.randn(3, 60, generator=generator, dtype=F64)
    step, taken = other.project(R)
    assert float(((R - taken) @ kept.vectors.T).abs().max()) < 1e-9
    torch.testing.assert_close(step @ A, taken)
