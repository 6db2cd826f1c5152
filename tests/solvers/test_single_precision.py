"""Float64 systems solved with float32 products: float64's certificates, and its products where those are too few."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from solvers import Problem, TorchTwiceDifferentiable
from tests.solvers.keeper import Keeper

POINTS = 1000


def _network(module: nn.Module | None = None) -> tuple[TorchTwiceDifferentiable, list[tuple[Tensor, Tensor]]]:
    torch.manual_seed(5)
    if module is None:
        module = nn.Sequential(nn.Linear(20, 128), nn.Tanh(), nn.Linear(128, 4))
    x = torch.randn(POINTS, 20, dtype=torch.float64)
    y = (x[:, :4] + 0.3 * torch.randn(POINTS, 4, dtype=torch.float64)).argmax(dim=1)
    module.double().eval()
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(x), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    model = TorchTwiceDifferentiable(module, nn.CrossEntropyLoss())
    return model, [(x[:700], y[:700]), (x[700:], y[700:])]


def _rows(model: TorchTwiceDifferentiable, k: int) -> Tensor:
    return torch.randn(k, model.num_params, generator=torch.Generator().manual_seed(k), dtype=torch.float64)


def _residual(model: TorchTwiceDifferentiable, data: list[tuple[Tensor, Tensor]], x: Tensor, b: Tensor) -> float:
    """The largest relative residual, by double backward on all points in float64: no code of the solvers."""
    inputs, targets = (torch.cat(parts) for parts in zip(*data, strict=True))
    parameters = list(model.model.parameters())
    loss = nn.functional.cross_entropy(model.model(inputs), targets)
    gradient = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, parameters, create_graph=True)])
    worst = 0.0
    for row, given in zip(x, b, strict=True):
        parts = torch.autograd.grad(gradient @ row, parameters, retain_graph=True)
        product = torch.cat([part.reshape(-1) for part in parts])
        worst = max(worst, float((product + DAMPING * row - given).norm() / given.norm()))
    return worst


DAMPING = 0.05


def _solve(problem: Problem, b: Tensor, **options: Any) -> tuple[Tensor, dict[str, Any]]:
    given = {"hessian_perturbation": DAMPING, "rtol": 1e-10, "atol": 0.0, "recycle": False, **options}
    x, info = problem.solve("cg", b, **given)
    return x, info


def _statuses(info: dict[str, Any]) -> set[str]:
    return {entry["status"] for entry in info["certificate"]}


@pytest.mark.parametrize("curvature", ["hessian", "ggn", "empirical_fisher"])
@pytest.mark.parametrize("k", [1, 5])
def test_the_tolerance_of_float64_is_met(k: int, curvature: str) -> None:
    model, data = _network()
    b = _rows(model, k)
    problem = Problem(model, data, curvature=curvature)
    x, info = _solve(problem, b)
    assert "single" in info["strategy"]
    assert x.dtype == torch.float64
    assert _statuses(info) == {"converged"}
    if curvature == "hessian":
        assert _residual(model, data, x, b) <= 1.01e-10
    whole, other = _solve(problem, b, single_precision=False)
    assert "single" not in other["strategy"]
    assert float((x - whole).norm() / whole.norm()) < 1e-8
    # The weights of the module itself stay what they were.
    assert all(p.dtype == torch.float64 for p in model.model.parameters())


def test_an_ill_conditioned_system_takes_few_products_more() -> None:
    model, data = _network()
    b = _rows(model, 2)
    problem = Problem(model, data, curvature="ggn")
    options = {"hessian_perturbation": 1e-4, "rtol": 1e-9}
    _, info = _solve(problem, b, **options)
    _, whole = _solve(problem, b, single_precision=False, **options)
    assert "single" in info["strategy"]
    assert _statuses(info) == _statuses(whole) == {"converged"}
    assert info["hvps"] <= 1.6 * whole["hvps"]


class _Coarse(nn.Module):
    """A network that is another one in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(20, 128), nn.Tanh(), nn.Linear(128, 4))

    def forward(self, x: Tensor) -> Tensor:
        """Logits, of rounded inputs where these are float32."""
        logits: Tensor = self.net(2 * x.round() if x.dtype == torch.float32 else x)
        return logits


def test_products_that_are_wrong_in_float32_are_left_for_those_of_float64() -> None:
    model, data = _network(_Coarse())
    b = _rows(model, 2)
    problem = Problem(model, data, curvature="ggn")
    x, info = _solve(problem, b)
    assert "single" in info["strategy"]
    assert _statuses(info) == {"converged"}
    whole, _ = _solve(problem, b, single_precision=False)
    assert float((x - whole).norm() / whole.norm()) < 1e-8


def test_negative_curvature_is_told_as_in_float64() -> None:
    model, data = _network()
    # Far from a minimum, so that the Hessian has negative eigenvalues below −λ.
    with torch.no_grad():
        for p in model.model.parameters():
            p.mul_(6.0)
    problem = Problem(model, data)
    _, info = _solve(problem, _rows(model, 2), hessian_perturbation=1e-4)
    _, whole = _solve(problem, _rows(model, 2), hessian_perturbation=1e-4, single_precision=False)
    assert _statuses(info) == _statuses(whole) == {"negative_curvature"}
    for found, wanted in zip(info["certificate"], whole["certificate"], strict=True):
        assert found["rayleigh_quotient"] < 0
        assert found["suggested_perturbation"] == pytest.approx(wanted["suggested_perturbation"], rel=0.3)


class _Tied(nn.Module):
    """A network that works in float64 only."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(20, 128), nn.Linear(128, 4)
        self.mixing = [torch.eye(128, dtype=torch.float64)]

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.second(torch.tanh(self.first(x) @ self.mixing[0]))
        return logits


def test_a_module_tied_to_float64_is_solved_in_float64() -> None:
    model, data = _network(_Tied())
    _, info = _solve(Problem(model, data), _rows(model, 2))
    assert "single" not in info["strategy"]
    assert _statuses(info) == {"converged"}


def test_the_problem_stays_at_the_parameters_it_was_made_at() -> None:
    model, data = _network()
    b = _rows(model, 2)
    before, _ = _solve(Problem(model, data), b)
    problem = Problem(model, data)
    with torch.no_grad():
        for p in model.model.parameters():
            p.add_(0.1)
    after, info = _solve(problem, b)
    assert "single" in info["strategy"]
    torch.testing.assert_close(after, before, rtol=1e-6, atol=1e-9)


def test_a_resumed_solve_takes_the_same_bits() -> None:
    model, data = _network()
    b = _rows(model, 3)
    whole, info = _solve(Problem(model, data, strategy="graph"), b)
    last = max(entry["iterations"] for entry in info["certificate"])
    for at in (2, last - 1):
        keeper = Keeper(at)
        _solve(Problem(model, data, strategy="graph"), b, checkpoints=keeper, maxiter=at)
        assert keeper.saved is not None
        again = Problem(model, data, strategy="graph")
        again.pin(keeper.saved.facts["plan"])
        resumed, _ = _solve(again, b, checkpoints=Keeper(resume=keeper.saved))
        assert torch.equal(resumed, whole)


def test_what_the_twin_keeps_is_counted() -> None:
    model, data = _network()
    problem = Problem(model, data)
    _solve(problem, _rows(model, 2), single_precision=False)
    before = problem.nbytes
    _solve(problem, _rows(model, 2))
    # The inputs in float32 at least, and the graphs of their products.
    assert problem.nbytes > before + POINTS * 20 * 4
