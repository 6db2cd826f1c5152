"""λ by parameter: H + Λ against the dense float64 oracle."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ihvp.errors import InvalidOption, UnknownParameters
from solvers import Problem, TorchTwiceDifferentiable, solve_hvp
from solvers.operators.damped import DampedOperator
from tests.solvers.cases import Case, logistic, small_mlp

F64 = torch.float64
BLOCKS = {"*": 2.0, "2.*": 0.7, "*.bias": 1.1}


def diagonal(case: Case, by_name: dict[str, float]) -> Tensor:
    """Written out by hand: one λ for each number of each parameter."""
    return torch.cat([torch.full((p.numel(),), by_name[n], dtype=F64) for n, p in case.model.model.named_parameters()])


def matrix(case: Case) -> Tensor:
    values = {"0.weight": 2.0, "0.bias": 1.1, "2.weight": 0.7, "2.bias": 1.1}  # the last pattern that matches
    return case.H + torch.diag(diagonal(case, values))


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("direct", {}),
        ("cg", {"rtol": 1e-6, "atol": 0.0}),
        ("lissa", {"scale": 4.0, "rtol": 1e-6, "maxiter": 3000}),
    ],
)
def test_blocks_are_solved_with(method: str, options: dict[str, Any], dtype: torch.dtype) -> None:
    case = small_mlp(dtype)
    b = case.rhs(3)
    x, info = solve_hvp(method, case.model, case.batches(37), b, hessian_perturbation=BLOCKS, **options)
    A = matrix(case)
    residual = (x.double() @ A - b.double()).norm(dim=1) / b.double().norm(dim=1)
    assert float(residual.max()) < (1e-5 if method != "lissa" else 1e-4)
    found = torch.tensor([c["relative_residual"] for c in info["certificate"]], dtype=F64)
    torch.testing.assert_close(found, residual, rtol=1e-2, atol=1e-7)  # and the certificate is about H + Λ
    assert json.loads(json.dumps(info["hessian_perturbation"])) == BLOCKS


def test_one_value_everywhere_is_the_number() -> None:
    case = logistic(F64)
    b = case.rhs(2)
    blocks = solve_hvp("arnoldi", case.model, case.batches(9), b, hessian_perturbation={"*": 3.0, "weight": 0.2})
    number = solve_hvp("arnoldi", case.model, case.batches(9), b, hessian_perturbation=0.2)
    assert torch.equal(blocks.x, number.x)
    assert blocks.info["hessian_perturbation"] == 0.2


def test_the_dampings_float64_sum_is_exact() -> None:
    case = small_mlp(torch.float32)
    H = Problem(case.model, case.batches(9)).hessian(1, 1)
    values = torch.linspace(0.1, 3.0, case.p, dtype=F64)
    V = case.rhs(2)
    product = DampedOperator(H, values)(V, accumulate=F64)
    torch.testing.assert_close(product - H(V, accumulate=F64), V.double() * values, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(
    ("blocks", "error", "message"),
    [
        ({"*": 1.0, "3.*": 2.0}, UnknownParameters, r"Given: 3\.\*.*0\.weight"),
        ({"2.*": 1.0}, InvalidOption, r"every parameter.*0\.weight, 0\.bias.*'\*' first"),
        ({}, InvalidOption, "every parameter"),
        ({"*": -1.0}, InvalidOption, r"for '\*' must be a finite number.*-1"),
        ({"*": 1.0, "2.*": "0.1"}, InvalidOption, r"for '2\.\*'.*'0\.1'"),
        ({"*": float("nan")}, InvalidOption, "nan"),
        (True, InvalidOption, "True.*a mapping of patterns"),
    ],
)
@pytest.mark.parametrize("method", ["cg", "direct"])
def test_blocks_that_say_nothing_sensible(method: str, blocks: Any, error: type[Exception], message: str) -> None:
    def untouched() -> Any:
        raise AssertionError("an error must come before any work")
        yield

    case = small_mlp(F64)
    with pytest.raises(error, match=f"(?s){message}"):
        solve_hvp(method, case.model, untouched(), case.rhs(1), hessian_perturbation=blocks)


def test_patterns_are_over_the_parameters_that_are_trained() -> None:
    case = small_mlp(F64)
    case.model.model[0].requires_grad_(False)  # type: ignore[index,operator]
    with pytest.raises(UnknownParameters, match="Given: 0"):
        solve_hvp("cg", case.model, case.batches(9), torch.ones(21, dtype=F64), hessian_perturbation={"0.*": 1.0})


def test_a_method_that_needs_one_number_says_so() -> None:
    case = small_mlp(F64)
    with pytest.raises(InvalidOption, match=r"'arnoldi' needs one λ.*\*=2, 2\.\*=0\.7.*cg, minres, lissa and direct"):
        solve_hvp("arnoldi", case.model, case.batches(9), case.rhs(1), hessian_perturbation=BLOCKS, woodbury=True)


def test_advice_for_an_indefinite_system_is_a_number_that_suffices() -> None:
    case = small_mlp(F64)
    blocks = {"*": 0.0, "2.bias": 1e-3}
    for method in ("cg", "direct"):
        info = solve_hvp(method, case.model, case.batches(9), case.rhs(1), hessian_perturbation=blocks).info
        enough = info["certificate"][0]["suggested_perturbation"]
        assert enough > -float(torch.linalg.eigvalsh(case.H)[0])


def test_what_lissa_solved_with_is_told_by_block() -> None:
    case = small_mlp(F64)
    model = TorchTwiceDifferentiable(case.model.model, nn.CrossEntropyLoss())
    info = solve_hvp(
        "lissa", model, case.batches(37), case.rhs(1), hessian_perturbation=BLOCKS, scale=4.0, dampen=0.25
    ).info
    assert info["effective_damping"] == {"*": 3.0, "2.*": 1.7, "*.bias": 2.1}
