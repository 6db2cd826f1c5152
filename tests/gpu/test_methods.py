"""Every method on a GPU against float64 oracles on the processor, data staying in main memory."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from solvers import InversionMethod, Problem, TorchTwiceDifferentiable, influence_scores, loss_gradients, solve_hvp
from tests.solvers.cases import Case, small_mlp
from tests.solvers.kronecker_cases import layered

pytestmark = pytest.mark.gpu

F64 = torch.float64
EXACT: dict[str, dict[str, Any]] = {
    "direct": {},
    "cg": {"rtol": 1e-6, "atol": 0.0},
    "minres": {"rtol": 1e-6},
    "lissa": {"scale": 4.0, "rtol": 1e-6, "maxiter": 3000},
    "arnoldi": {"rank_estimate": 51, "tol": 1e-6},
    "auto": {"rtol": 1e-6},
}
APPROXIMATE: dict[str, dict[str, Any]] = {
    "nystrom": {"rank": 51},
    "kfac": {},
    "ekfac": {},
    "datainf": {},
}
PRECONDITIONERS = ["jacobi", "nystrom", "kfac", "ekfac", "deflation"]


def on(device: torch.device, case: Case) -> TorchTwiceDifferentiable:
    """The model of a case on a device; its data stay where they are."""
    return TorchTwiceDifferentiable(copy.deepcopy(case.model.model).to(device), case.model.loss)


def test_every_method_is_among_these() -> None:
    assert {m.value for m in InversionMethod} == set(EXACT) | set(APPROXIMATE)


@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=["float32", "float64"])
@pytest.mark.parametrize("method", EXACT)
def test_exact_methods_meet_the_dense_oracle(device: torch.device, method: str, dtype: torch.dtype) -> None:
    case = small_mlp(dtype)
    b = case.rhs(3)
    batches = case.batches(37 if method == "lissa" else 10)
    x, info = solve_hvp(method, on(device, case), batches, b, hessian_perturbation=case.damping, **EXACT[method])
    assert x.device == b.device
    assert x.dtype == dtype
    exact = case.exact(b)
    assert float((x.double() - exact).norm() / exact.norm()) < (1e-3 if method == "lissa" else 1e-4)
    for entry, true in zip(info["certificate"], case.residual(x, b), strict=True):
        assert entry["relative_residual"] == pytest.approx(true, rel=1e-2, abs=2e-6 if dtype != F64 else 1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=["float32", "float64"])
@pytest.mark.parametrize("method", APPROXIMATE)
def test_approximate_methods_are_the_same_as_on_the_processor(
    device: torch.device, method: str, dtype: torch.dtype
) -> None:
    case, precise = small_mlp(dtype), small_mlp(F64)
    b = precise.rhs(2)
    options = APPROXIMATE[method]
    expected = solve_hvp(method, precise.model, precise.batches(10), b, hessian_perturbation=case.damping, **options).x
    on_device = b.to(device, dtype)
    x, info = solve_hvp(
        method, on(device, case), case.batches(10), on_device, hessian_perturbation=case.damping, **options
    )
    assert x.device == device
    assert float((x.cpu().double() - expected).norm() / expected.norm()) < (1e-3 if dtype != F64 else 1e-6)
    assert len(info["certificate"]) == 2


@pytest.mark.parametrize("kind", PRECONDITIONERS)
def test_every_preconditioner(device: torch.device, kind: str) -> None:
    case = small_mlp(F64)
    b = case.rhs(2)
    options = {"rtol": 1e-8, "atol": 0.0, "preconditioner": kind}
    x, info = solve_hvp("cg", on(device, case), case.batches(10), b, hessian_perturbation=case.damping, **options)
    assert max(case.residual(x, b)) < 2e-8
    assert info["preconditioner"]["kind"] == kind


@pytest.mark.parametrize("name", ["convolutions", "attention", "tables", "awkward", "class weights"])
@pytest.mark.parametrize("method", ["kfac", "ekfac", "datainf"])
def test_every_kind_of_layer(device: torch.device, method: str, name: str) -> None:
    case = layered(name)
    b = torch.randn(2, case.problem().num_params, generator=torch.Generator().manual_seed(0), dtype=F64)
    expected = case.problem().solve(method, b, hessian_perturbation=0.1).x
    model = TorchTwiceDifferentiable(copy.deepcopy(case.module).to(device), copy.deepcopy(case.loss))
    if isinstance(model.loss, nn.Module):
        model.loss.to(device)
    x = solve_hvp(method, model, case.batches(4), b, hessian_perturbation=0.1).x
    torch.testing.assert_close(x, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("method", list(InversionMethod), ids=str)
def test_bfloat16(device: torch.device, method: InversionMethod) -> None:
    case = small_mlp(F64)
    module = case.model.model.to(torch.bfloat16)
    x16 = case.x.to(torch.bfloat16)
    half = Case("half", TorchTwiceDifferentiable(module, nn.CrossEntropyLoss()), x16, case.y, case.H, 1.0)
    precise = TorchTwiceDifferentiable(copy.deepcopy(module).double(), nn.CrossEntropyLoss())
    exact = Case("half", precise, x16.double(), case.y, precise.hessian(x16.double(), case.y), 1.0)
    b = half.rhs(2)
    options: dict[str, Any] = {"scale": 4.0, "rtol": 1e-2} if method is InversionMethod.Lissa else {}
    if method in (InversionMethod.Cg, InversionMethod.Minres):
        options = {"rtol": 3e-2}
    x, info = solve_hvp(method, on(device, half), half.batches(10), b, hessian_perturbation=1.0, **options)
    assert x.dtype == torch.bfloat16
    for entry, true in zip(info["certificate"], exact.residual(x, b), strict=True):
        assert entry["relative_residual"] == pytest.approx(true, abs=0.1)
        if method.value in ("direct", "cg", "minres", "auto"):
            assert true < 5e-2


def test_gradients_and_influence_scores(device: torch.device) -> None:
    case = small_mlp(F64)
    model = on(device, case)
    points = case.batches(5)[:1]
    b = loss_gradients(model, points)
    assert b.device == device
    torch.testing.assert_close(b.cpu(), loss_gradients(case.model, points), rtol=1e-10, atol=1e-12)
    expected = influence_scores(case.model, case.batches(10), b.cpu())
    torch.testing.assert_close(influence_scores(model, case.batches(10), b).cpu(), expected, rtol=1e-9, atol=1e-11)


def test_what_a_problem_keeps_serves_the_next_solve(device: torch.device) -> None:
    case = small_mlp(F64)
    problem = Problem(on(device, case), case.batches(10))
    b = case.rhs(4)
    tight = {"rtol": 1e-8, "atol": 0.0}
    first = problem.solve("cg", b, hessian_perturbation=case.damping, **tight).info
    second, info = problem.solve("cg", b.flip(1), hessian_perturbation=case.damping, **tight)
    assert info["hvps"] < first["hvps"]
    assert max(case.residual(second, b.flip(1))) < 2e-8


class Shelf:
    """A store of factors in main memory, as another worker would have left them."""

    def __init__(self) -> None:
        self.kept: dict[str, dict[str, Tensor]] = {}

    def load(self, key: str) -> dict[str, Tensor] | None:
        return self.kept.get(key)

    def save(self, key: str, tensors: Mapping[str, Tensor], seconds: float) -> None:
        self.kept[key] = {name: tensor.cpu() for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("direct", {}),
        ("arnoldi", {"rank_estimate": 5}),
        ("nystrom", {"rank": 20}),
        ("ekfac", {}),
        *(("cg", {"preconditioner": kind}) for kind in PRECONDITIONERS),
    ],
    ids=str,
)
def test_factors_that_another_worker_has_left_are_taken_up(
    device: torch.device, method: str, options: dict[str, Any]
) -> None:
    case = small_mlp(F64)
    b, shelf = case.rhs(2), Shelf()
    made, loaded = (
        Problem(on(device, case), case.batches(10), factor_store=shelf).solve(
            method, b, hessian_perturbation=case.damping, **options
        )
        for _ in range(2)
    )
    assert "loaded" in loaded.info["factors"].values()
    torch.testing.assert_close(loaded.x, made.x, rtol=1e-7, atol=1e-9)
