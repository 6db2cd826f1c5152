"""The randomised low-rank method: exact where H has no more than its sketch holds, and honest where it has."""

from __future__ import annotations

import pytest
import torch

from ihvp.errors import InvalidOption
from solvers import IterationReport, Problem, TerminationStatus, solve_hvp
from tests.solvers.cases import least_squares, logistic, small_mlp, softmax

F32, F64 = torch.float32, torch.float64


@pytest.mark.parametrize("dtype", [F32, F64], ids=["float32", "float64"])
@pytest.mark.parametrize("make", [least_squares, logistic, softmax])
def test_it_is_exact_where_the_sketch_holds_all_of_a_positive_matrix(make: object, dtype: torch.dtype) -> None:
    case = make(dtype)  # type: ignore[operator]
    b = case.rhs(3)
    x, info = solve_hvp("nystrom", case.model, case.batches(10), b, hessian_perturbation=case.damping)
    assert {entry["status"] for entry in info["certificate"]} == {"converged"}
    assert max(case.residual(x, b)) < (2e-6 if dtype == F32 else 1e-12)
    # The softmax model has as many directions without curvature as it has inputs.
    true = torch.linalg.eigvalsh(case.H).flip(0)
    true = true[true > 1e-6]
    assert info["rank"] == true.shape[0]
    torch.testing.assert_close(info["eigenvalues"].double(), true + case.damping, rtol=1e-5, atol=0)
    assert info["eigenvalues"].dtype == dtype


def test_what_it_leaves_out_shows_in_the_certificate_with_what_to_do() -> None:
    case = least_squares(F64)
    b = case.rhs(2)
    x, info = solve_hvp("nystrom", case.model, case.batches(10), b, hessian_perturbation=case.damping, rank=4)
    assert info["rank"] == 4
    for entry, true in zip(info["certificate"], case.residual(x, b), strict=True):
        assert true > 0.1
        assert entry["relative_residual"] == pytest.approx(true, rel=1e-9)
        assert entry["status"] == "approximate"
        assert "Raise rank" in entry["advice"]
        assert "preconditioner='nystrom'" in entry["advice"]


def test_another_damping_another_b_and_cg_reuse_the_sketch() -> None:
    case = logistic(F64)
    problem = Problem(case.model, case.batches(9))
    problem.solve("nystrom", case.rhs(1), hessian_perturbation=0.1, rank=3)
    x, info = problem.solve("nystrom", case.rhs(2), hessian_perturbation=0.3, rank=3)
    assert list(info["factors"].values()) == ["kept"]
    assert info["hvps"] == 2  # the certificate's
    _, by_cg = problem.solve(
        "cg", case.rhs(1), hessian_perturbation=0.3, preconditioner="nystrom", preconditioner_rank=3
    )
    assert list(by_cg["factors"].values()) == ["kept"]
    again = solve_hvp("nystrom", case.model, case.batches(9), case.rhs(2), hessian_perturbation=0.3, rank=3)
    assert torch.equal(x, again.x)  # the same sketch from the same seed
    other = solve_hvp("nystrom", case.model, case.batches(9), case.rhs(2), hessian_perturbation=0.3, rank=3, seed=1)
    assert not torch.equal(x, other.x)


def test_negative_curvature_is_left_out_and_never_made_up_for() -> None:
    case = small_mlp(F64)
    b = case.rhs(2)
    values = torch.linalg.eigvalsh(case.H)
    x, info = solve_hvp("nystrom", case.model, case.batches(9), b, hessian_perturbation=case.damping)
    assert info["shift"] >= float(-values[0])
    assert float(info["eigenvalues"].min()) > case.damping
    assert float(info["eigenvalues"].max()) <= float(values[-1]) + case.damping + 1e-9
    # The inverse is positive definite: no component of x points against that of b.
    assert bool(((x * b).sum(dim=1) > 0).all())
    assert {entry["status"] for entry in info["certificate"]} == {"approximate"}


def test_a_stop_while_the_sketch_is_made_leaves_zero() -> None:
    case = small_mlp(F64)
    seen: list[IterationReport] = []

    def callback(report: IterationReport) -> TerminationStatus | None:
        seen.append(report)
        return TerminationStatus.Deadline if len(seen) == 2 else None

    problem = Problem(case.model, case.batches(9))
    x, info = problem.solve("nystrom", case.rhs(2), hessian_perturbation=case.damping, callback=callback)
    assert len(seen) == 2
    assert torch.equal(x, torch.zeros_like(x))
    assert [entry["status"] for entry in info["certificate"]] == ["deadline"] * 2
    assert problem.factors.held() == []


def test_a_rank_beyond_p_and_no_damping_are_refused() -> None:
    case = logistic(F64)
    with pytest.raises(InvalidOption, match=r"rank exceeds.*Given: 7.*Allowed: 1 to 6"):
        solve_hvp("nystrom", case.model, case.batches(9), case.rhs(1), hessian_perturbation=0.1, rank=7)
    with pytest.raises(InvalidOption, match="needs λ > 0"):
        solve_hvp("nystrom", case.model, case.batches(9), case.rhs(1))
