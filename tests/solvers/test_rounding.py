"""Networks that have their training points by heart: H is smaller than what a product is rounded by."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from solvers import TorchTwiceDifferentiable, solve_hvp

F64 = torch.float64


def learnt_by_heart(dtype: torch.dtype = torch.float32) -> tuple[TorchTwiceDifferentiable, Any, torch.Tensor]:
    """A network whose loss at its training points is nothing, and gradients at points that it gets wrong."""
    torch.manual_seed(0)
    x, y = torch.randn(300, 16), torch.randint(0, 10, (306,))
    module = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 10))
    optimiser = torch.optim.LBFGS(
        module.parameters(), max_iter=400, line_search_fn="strong_wolfe", tolerance_grad=0.0, tolerance_change=0.0
    )

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        value = nn.functional.cross_entropy(module(x), y[:300])
        value.backward()
        return value

    optimiser.step(loss)
    assert float(loss().detach()) < 1e-5
    module.eval().to(dtype)
    rows = []
    for point, label in zip(torch.randn(6, 16, dtype=dtype), y[300:], strict=True):
        wrong = nn.functional.cross_entropy(module(point[None]), label[None])
        rows.append(torch.cat([part.flatten() for part in torch.autograd.grad(wrong, list(module.parameters()))]))
    return TorchTwiceDifferentiable(module, nn.CrossEntropyLoss()), [(x.to(dtype), y[:300])], torch.stack(rows)


@pytest.mark.parametrize("damping", [1e-3, 1e-5])
def test_what_is_only_rounding_ends_soon_with_the_true_residual(damping: float) -> None:
    # A network that has its training points by heart: a product's rounding is far larger than H is small.
    model, data, b = learnt_by_heart()
    info = solve_hvp("cg", model, data, b, hessian_perturbation=damping, rtol=1e-6, atol=0.0, maxiter=5_000).info
    for entry in info["certificate"]:
        assert entry["iterations"] < 150
        assert entry["status"] in {"converged", "stagnated"}
        assert (entry["relative_residual"] <= 1e-6) == (entry["status"] == "converged")
        assert entry["status"] == "converged" or "float64" in entry["advice"]


def test_float64_solves_what_is_rounding_in_float32() -> None:
    model, data, b = learnt_by_heart(F64)
    info = solve_hvp("cg", model, data, b, hessian_perturbation=1e-5, rtol=1e-8, atol=0.0).info
    assert {entry["status"] for entry in info["certificate"]} == {"converged"}
