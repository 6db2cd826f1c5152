"""What a solve leaves on its problem: later ones pay for nothing twice, at any λ, and get the same answers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from solvers import Problem, solve_hvp
from tests.solvers.cases import CASES, small_mlp

F32, F64 = torch.float32, torch.float64


@pytest.mark.parametrize("dtype", [F32, F64], ids=["float32", "float64"])
@pytest.mark.parametrize("name", list(CASES))
def test_direct_needs_no_product_for_another_damping_or_right_hand_side(name: str, dtype: torch.dtype) -> None:
    case = CASES[name](dtype)
    problem = Problem(case.model, case.batches(10))
    first = problem.solve("direct", case.rhs(2), hessian_perturbation=case.damping)
    # What is left are the products that refine and certify.
    for damping, seed, left in ((case.damping, 5, "kept"), (case.damping + 0.3, 5, "made")):
        b = case.rhs(3, seed=seed)
        x, info = problem.solve("direct", b, hessian_perturbation=damping)
        assert info["factors"]["dense"] == "kept"
        assert info["factors"][f"inverse at {damping!r}"] == left
        assert info["hvps"] <= 3 * 6 < first.info["hvps"] + 3 * 6 - case.p + 1
        torch.testing.assert_close(
            x.double(), case.exact(b, damping).double(), rtol=1e-3 if dtype == F32 else 1e-8, atol=1e-4
        )


def test_eigenvalues_of_an_indefinite_hessian_serve_every_damping() -> None:
    case = small_mlp(F64)
    values = torch.linalg.eigvalsh(case.H)
    problem = Problem(case.model, case.batches(10))
    for place, where in enumerate(("made", "kept")):
        damping = -float(values[place] + values[place + 1]) / 2
        b = case.rhs(2)
        x, info = problem.solve("direct", b, hessian_perturbation=damping)
        assert info["factors"]["eigenvalues"] == where
        assert info["inertia"]["negative"] == place + 1
        assert max(case.residual(x, b, damping)) <= 1e-10


@pytest.mark.parametrize("method", ["arnoldi", "nystrom"])
def test_low_rank_methods_compute_their_vectors_once(method: str) -> None:
    case = small_mlp(F64)
    problem = Problem(case.model, case.batches(10))
    options: dict[str, Any] = {"arnoldi": {"rank_estimate": 5, "woodbury": True}, "nystrom": {"rank": 10}}[method]
    b = case.rhs(2)
    problem.solve(method, b, hessian_perturbation=0.1, **options)
    for damping in (0.1, 2.0):
        x, info = problem.solve(method, b, hessian_perturbation=damping, **options)
        assert set(info["factors"].values()) == {"kept"}
        assert info["hvps"] == 2  # to certify
        fresh = solve_hvp(method, case.model, case.batches(10), b, hessian_perturbation=damping, **options)
        torch.testing.assert_close(x, fresh.x, rtol=1e-9, atol=1e-11)


def test_what_does_not_fit_the_budget_is_used_and_not_kept() -> None:
    case = small_mlp(F64)
    problem = Problem(case.model, case.batches(10), memory_budget=case.p * case.p * 4)
    b = case.rhs(1)
    for _ in range(2):
        x, info = problem.solve("direct", b, hessian_perturbation=case.damping)
        assert set(info["factors"].values()) == {"made"}
        torch.testing.assert_close(x, case.exact(b), rtol=1e-8, atol=1e-10)
    assert problem.factors.nbytes == 0


def test_a_call_without_a_problem_keeps_nothing() -> None:
    case = small_mlp(F64)
    for _ in range(2):
        _, info = solve_hvp("direct", case.model, case.batches(10), case.rhs(1), hessian_perturbation=case.damping)
        assert set(info["factors"].values()) == {"made"}
