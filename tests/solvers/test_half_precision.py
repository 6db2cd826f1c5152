"""Models in bfloat16 and float16: products with the digits that these hold, and solves that say how far they came."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from solvers import InversionMethod, Problem, TorchTwiceDifferentiable, solve_hvp
from tests.solvers.cases import Case, small_mlp

F64 = torch.float64
DTYPES = [torch.bfloat16, torch.float16]


def halved(dtype: torch.dtype) -> Case:
    """The small network with weights and inputs that a half precision holds exactly, and its Hessian in float64."""
    case = small_mlp(F64)
    with torch.no_grad():
        for p in case.model.model.parameters():
            p.copy_(p.to(dtype))
    x = case.x.to(dtype)
    H = case.model.hessian(x.double(), case.y)
    model = TorchTwiceDifferentiable(case.model.model.to(dtype), nn.CrossEntropyLoss())
    return Case("half", model, x, case.y, H, 1.0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("curvature", ["hessian", "ggn", "empirical_fisher"])
def test_products_have_the_digits_of_the_dtype(dtype: torch.dtype, curvature: str) -> None:
    case = halved(dtype)
    V = case.rhs(3)
    found = Problem(case.model, case.batches(10), curvature=curvature).hessian(1, 3)(V)
    assert found.dtype == dtype
    precise = TorchTwiceDifferentiable(case.model.model.double(), nn.CrossEntropyLoss())
    expected = Problem(precise, [(case.x.double(), case.y)], curvature=curvature).hessian(1, 3)(V.double())
    assert float((found.double() - expected).norm() / expected.norm()) < 20 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("method", list(InversionMethod), ids=str)
def test_every_method_solves_or_says_how_far_it_came(method: InversionMethod, dtype: torch.dtype) -> None:
    case = halved(dtype)
    b = case.rhs(2)
    options = {"scale": 4.0, "rtol": 1e-2} if method is InversionMethod.Lissa else {}
    if method in (InversionMethod.Cg, InversionMethod.Minres):
        options = {"rtol": 3e-2}
    x, info = solve_hvp(method, case.model, case.batches(10), b, hessian_perturbation=case.damping, **options)
    assert x.dtype == dtype
    for entry, true in zip(info["certificate"], case.residual(x, b), strict=True):
        assert entry["relative_residual"] == pytest.approx(true, abs=20 * torch.finfo(dtype).eps)
        if method in (InversionMethod.Direct, InversionMethod.Cg, InversionMethod.Minres, InversionMethod.Auto):
            assert true < 4e-2


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_lambda_is_chosen_for_what_the_dtype_holds(dtype: torch.dtype) -> None:
    case = halved(dtype)
    info = solve_hvp("auto", case.model, case.batches(37), case.rhs(1), hessian_perturbation="auto").info
    assert info["hessian_perturbation"] > -float(torch.linalg.eigvalsh(case.H)[0])
