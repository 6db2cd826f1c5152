"""λ chosen by the solver: positive definite for sure, and not much larger than that takes."""

from __future__ import annotations

import pytest
import torch

from ihvp.errors import InvalidOption
from solvers import IterationReport, Problem, TerminationStatus, solve_hvp
from tests.solvers.cases import CASES, Case, least_squares, small_mlp

F32, F64 = torch.float32, torch.float64


def eigenvalues(case: Case) -> torch.Tensor:
    return torch.linalg.eigvalsh(case.H)


@pytest.mark.parametrize("name", list(CASES))
@pytest.mark.parametrize("dtype", [F32, F64], ids=["float32", "float64"])
def test_it_is_safe_and_no_larger_than_that(name: str, dtype: torch.dtype) -> None:
    case = CASES[name](dtype)
    rtol = 1e-3 if dtype == F32 else 1e-8
    x, info = solve_hvp(
        "cg", case.model, case.batches(10), case.rhs(3), hessian_perturbation="auto", rtol=rtol, atol=0.0
    )
    damping = info["hessian_perturbation"]
    smallest, largest = float(eigenvalues(case)[0]), float(eigenvalues(case)[-1])
    assert smallest + damping > 0
    assert damping <= 1.2 * max(0.0, -smallest) + 2e-3 * largest
    assert {entry["status"] for entry in info["certificate"]} == {"converged"}
    assert max(case.residual(x, case.rhs(3), damping)) <= 1.5 * rtol
    chosen = info["auto_perturbation"]
    assert chosen["chosen"] == damping
    assert chosen["largest_eigenvalue"] == pytest.approx(largest, rel=1e-3)
    assert chosen["smallest_eigenvalue"] == pytest.approx(smallest, abs=1e-2 * largest)


@pytest.mark.parametrize("method", ["direct", "cg", "arnoldi", "lissa", "auto"])
def test_every_method_takes_it(method: str) -> None:
    case = small_mlp(F64)
    options = {"lissa": {"scale": 4.0}, "arnoldi": {"woodbury": True}}.get(method, {})
    _, info = solve_hvp(method, case.model, case.batches(10), case.rhs(2), hessian_perturbation="auto", **options)
    assert info["hessian_perturbation"] > -float(eigenvalues(case)[0])
    assert info["auto_perturbation"]["chosen"] == info["hessian_perturbation"]


def test_a_second_solve_on_the_problem_costs_no_probe_and_gets_the_same() -> None:
    case = small_mlp(F64)
    problem = Problem(case.model, case.batches(10))
    first = problem.solve("cg", case.rhs(1), hessian_perturbation="auto", rtol=1e-8).info
    second = problem.solve("cg", case.rhs(1), hessian_perturbation="auto", rtol=1e-8).info
    assert second["hessian_perturbation"] == first["hessian_perturbation"]
    assert set(first["factors"].values()) == {"made"}
    assert set(second["factors"].values()) == {"kept"}
    assert second["hvps"] < first["hvps"]


def test_a_stop_while_probing_is_heard() -> None:
    case = small_mlp(F64)
    seen: list[int] = []

    def stop(report: IterationReport) -> TerminationStatus:
        seen.append(report.iteration)
        return TerminationStatus.Cancelled

    _, info = solve_hvp("cg", case.model, case.batches(10), case.rhs(1), hessian_perturbation="auto", callback=stop)
    assert info["certificate"][0]["status"] == "cancelled"
    assert len(seen) <= 3


def test_another_word_is_refused() -> None:
    case = least_squares(F64)
    with pytest.raises(InvalidOption, match=r"hessian_perturbation.*'automatic'.*auto"):
        solve_hvp("cg", case.model, case.batches(10), case.rhs(1), hessian_perturbation="automatic")  # type: ignore[arg-type]
