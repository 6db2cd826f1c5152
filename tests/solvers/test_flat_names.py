"""Modules that state the names and the order of their parameters: flat vectors and λ by pattern follow them."""

from __future__ import annotations

import torch
from torch import nn

from solvers import Problem, TorchTwiceDifferentiable
from solvers.snapshot import state_flat_names


def _module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).double()


def test_flat_vectors_and_perturbations_follow_the_stated_names() -> None:
    x, y = torch.randn(20, 4, dtype=torch.float64), torch.randint(0, 2, (20,))
    loss = nn.CrossEntropyLoss()
    plain, stated = _module(), _module()
    state_flat_names(stated, {"2.bias": "a.bias", "0.weight": "b.weight", "2.weight": "c.weight"})
    plain[0].bias.requires_grad_(False)  # not stated: a constant
    at, sizes = [], [12, 6, 2]  # of 0.weight, 2.weight, 2.bias: the order of the module
    for start, size in zip([18, 0, 12], [2, 12, 6], strict=True):
        at += range(start, start + size)
    order = torch.tensor(at)
    assert sum(sizes) == len(order)
    b = torch.randn(20, dtype=torch.float64)
    expected = Problem(TorchTwiceDifferentiable(plain, loss), [(x, y)], curvature="ggn").solve(
        "cg", b, hessian_perturbation={"2.bias": 0.5, "*": 0.1}, rtol=1e-12, atol=0.0
    )
    found = Problem(TorchTwiceDifferentiable(stated, loss), [(x, y)], curvature="ggn").solve(
        "cg", b[order], hessian_perturbation={"a.*": 0.5, "*": 0.1}, rtol=1e-12, atol=0.0
    )
    assert torch.allclose(found.x, expected.x[order], rtol=1e-8)
