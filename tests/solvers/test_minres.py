"""MINRES: indefinite systems are solved, singular ones are said to be, and a resumed solve ends in the same bits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from solvers import IterationReport, Problem, TerminationStatus, TorchTwiceDifferentiable, solve_hvp
from solvers.checkpoint import SolverState
from tests.solvers.cases import CASES, least_squares, logistic, small_mlp
from tests.solvers.keeper import Keeper

F32, F64 = torch.float32, torch.float64


def statuses(info: dict[str, Any]) -> list[str]:
    return [entry["status"] for entry in info["certificate"]]


@pytest.mark.parametrize("name", list(CASES))
@pytest.mark.parametrize("preconditioner", [None, "jacobi", "nystrom"])
@pytest.mark.parametrize("dtype", [F32, F64], ids=["float32", "float64"])
def test_it_meets_the_tolerance_of_the_dtype(name: str, preconditioner: str | None, dtype: torch.dtype) -> None:
    case = CASES[name](dtype)
    b = case.rhs(3)
    x, info = solve_hvp(
        "minres",
        case.model,
        case.batches(10),
        b,
        hessian_perturbation=case.damping,
        preconditioner=preconditioner,
    )
    rtol = 1e-5 if dtype == F32 else 1e-8
    assert statuses(info) == ["converged"] * 3
    assert max(case.residual(x, b)) <= 1.2 * rtol
    assert (info["preconditioner"] or {}).get("kind") == preconditioner


@pytest.mark.parametrize("dtype", [F32, F64], ids=["float32", "float64"])
def test_an_indefinite_system_is_solved_where_cg_has_to_give_up(dtype: torch.dtype) -> None:
    case = small_mlp(dtype)
    values = torch.linalg.eigvalsh(case.H)
    # Halfway between two eigenvalues that are negative: indefinite, and not close to singular.
    damping = -float(values[0] + values[1]) / 2
    b = case.rhs(4)
    _, gave_up = solve_hvp("cg", case.model, case.batches(10), b, hessian_perturbation=damping, rtol=1e-6, atol=0.0)
    assert "negative_curvature" in statuses(gave_up)
    x, info = solve_hvp("minres", case.model, case.batches(10), b, hessian_perturbation=damping)
    assert statuses(info) == ["converged"] * 4
    assert max(case.residual(x, b, damping)) <= (1.2e-5 if dtype == F32 else 1.2e-8)


def flat_direction() -> tuple[TorchTwiceDifferentiable, Any]:
    """H = diag(2, 4, …) with a zero at the end: singular at λ = 0."""
    x = torch.diag(torch.tensor([1.0, 2.0, 3.0, 0.0], dtype=F64).sqrt() * 2)
    model = TorchTwiceDifferentiable(nn.Linear(4, 1, bias=False, dtype=F64), nn.MSELoss())
    return model, [(x, torch.zeros(4, 1, dtype=F64))]


def test_a_singular_system_ends_near_a_least_squares_solution_and_says_so() -> None:
    model, data = flat_direction()
    b = torch.tensor([[1.0, 1.0, 1.0, 0.0], [1.0, 1.0, 1.0, 2.0]], dtype=F64)
    x, info = solve_hvp("minres", model, data, b)
    assert statuses(info) == ["converged", "breakdown"]
    entry = info["certificate"][1]
    assert entry["relative_residual"] == pytest.approx(2 / 7**0.5, rel=1e-6)
    assert "least-squares" in entry["advice"]
    torch.testing.assert_close(x[1, :3], x[0, :3], rtol=1e-6, atol=1e-9)


def test_each_right_hand_side_leaves_when_it_has_arrived_and_none_changes_another() -> None:
    case = small_mlp(F64)
    b = torch.stack([*case.rhs(2), torch.zeros(case.p, dtype=F64)])
    solve = {"hessian_perturbation": case.damping, "rtol": 1e-9}
    x, info = solve_hvp("minres", case.model, case.batches(10), b, **solve)
    assert statuses(info) == ["converged"] * 3
    assert info["certificate"][2]["iterations"] == 0
    for row in range(2):
        alone = solve_hvp("minres", case.model, case.batches(10), b[row], **solve)
        torch.testing.assert_close(x[row], alone.x, rtol=1e-7, atol=1e-9)
        assert alone.info["certificate"][0]["iterations"] == info["certificate"][row]["iterations"]
    assert info["hvps"] <= sum(entry["iterations"] + 2 for entry in info["certificate"])


def test_the_residuals_reported_are_those_of_the_iterates() -> None:
    case = small_mlp(F64)
    reports: list[IterationReport] = []

    def watch(report: IterationReport) -> None:
        reports.append(report)

    _, info = solve_hvp(
        "minres",
        case.model,
        case.batches(10),
        case.rhs(2),
        hessian_perturbation=case.damping,
        preconditioner="nystrom",
        preconditioner_rank=5,
        maxiter=4,
        callback=watch,
    )
    assert statuses(info) == ["max_iterations"] * 2
    assert reports[-1].relative_residual == pytest.approx(
        [entry["relative_residual"] for entry in info["certificate"]], rel=1e-6
    )


def test_a_start_near_the_solution_saves_iterations_and_is_not_changed() -> None:
    case = small_mlp(F64)
    b = case.rhs(2)
    near = case.exact(b) * (1 + 1e-4)
    kept = near.clone()
    solve = {"hessian_perturbation": case.damping, "rtol": 1e-8}
    _, cold = solve_hvp("minres", case.model, case.batches(10), b, **solve)
    x, warm = solve_hvp("minres", case.model, case.batches(10), b, x0=near, **solve)
    assert torch.equal(near, kept)
    assert max(warm["niter"]) < max(cold["niter"])
    torch.testing.assert_close(x, case.exact(b), rtol=1e-6, atol=1e-8)


def test_a_stop_keeps_what_was_reached() -> None:
    case = small_mlp(F64)

    def stop(report: IterationReport) -> TerminationStatus | None:
        return TerminationStatus.Deadline if report.iteration == 3 else None

    x, info = solve_hvp(
        "minres", case.model, case.batches(10), case.rhs(2), hessian_perturbation=case.damping, callback=stop
    )
    assert statuses(info) == ["deadline"] * 2
    assert case.residual(x, case.rhs(2)) == pytest.approx(
        [entry["relative_residual"] for entry in info["certificate"]], rel=1e-6
    )


@pytest.mark.parametrize("preconditioner", [None, "jacobi"])
def test_a_resumed_solve_ends_in_the_same_bits(preconditioner: str | None) -> None:
    case = small_mlp(F32)
    b: Tensor = case.rhs(4)

    def solve(keeper: Keeper) -> Any:
        problem = Problem(case.model, case.batches(10), strategy="graph")
        options = {"preconditioner": preconditioner, "checkpoints": keeper}
        return problem.solve("minres", b, hessian_perturbation=case.damping, **options)

    first = Keeper(at=5)
    straight = solve(first)
    assert first.saved is not None
    again = solve(Keeper(resume=first.saved))
    assert torch.equal(again.x, straight.x)
    assert again.info["certificate"] == straight.info["certificate"]


def test_a_tolerance_beyond_the_dtype_is_stagnation_and_no_singular_matrix() -> None:
    # p = 6: the Krylov space is exhausted with the residual at what float32 holds.
    case = logistic(F32)
    _, info = solve_hvp("minres", case.model, case.batches(9), case.rhs(3), hessian_perturbation=0.05, rtol=1e-12)
    assert set(statuses(info)) == {"stagnated"}
    assert all(1e-12 < entry["relative_residual"] < 1e-6 for entry in info["certificate"])
    assert "float64" in info["certificate"][0]["advice"]


class Restarts:
    """Checkpoints that note each iterate from which the solve went on anew, and its relative residual."""

    resume = None

    def __init__(self) -> None:
        self.of_rhs: dict[int, list[tuple[float, Tensor]]] = {}

    def due(self) -> bool:
        return True

    def save(self, state: SolverState) -> None:
        for i, value in enumerate(state.facts["best"]):
            known = self.of_rhs.setdefault(i, [])
            if value is not None and (not known or value < known[-1][0]):
                known.append((value, state.tensors["X"][i].clone()))


@pytest.mark.parametrize("maxiter", [11, 60], ids=["stopped", "to the end"])
def test_a_restart_that_gains_nothing_costs_nothing(maxiter: int) -> None:
    # p = 6: the space is exhausted after about 6 iterations, and what follows is rounding, for better or for worse.
    case = logistic(F32)
    noted = Restarts()
    options = {"rtol": 1e-12, "maxiter": maxiter, "checkpoints": noted}
    x, info = solve_hvp("minres", case.model, case.batches(9), case.rhs(24), hessian_perturbation=0.05, **options)
    assert ("max_iterations" in statuses(info)) == (maxiter == 11)
    assert set(statuses(info)) <= {"max_iterations", "stagnated"}
    kept = []
    for i, known in noted.of_rhs.items():
        if known:
            residual, earlier = known[-1]
            kept.append(torch.equal(x[i], earlier))
            assert info["certificate"][i]["relative_residual"] <= residual
    assert any(kept)


def test_a_resumed_solve_knows_the_best_iterate_of_the_earlier_attempt() -> None:
    case = logistic(F32)
    # At its 11th iteration some have gone on anew already, and end no better than they were.
    options = {"hessian_perturbation": 0.05, "rtol": 1e-12}

    def solve(keeper: Keeper) -> Any:
        return Problem(case.model, case.batches(9), strategy="graph").solve(
            "minres", case.rhs(24), checkpoints=keeper, **options
        )

    first = Keeper(at=11)
    straight = solve(first)
    assert first.saved is not None
    assert any(name.startswith("best.") for name in first.saved.tensors)
    again = solve(Keeper(resume=first.saved))
    assert torch.equal(again.x, straight.x)
    assert again.info["certificate"] == straight.info["certificate"]


def test_overflow_is_non_finite_and_no_singular_matrix() -> None:
    case = least_squares(F32)
    _, info = solve_hvp("minres", case.model, case.batches(9), torch.full((case.p,), 1e38), hessian_perturbation=0.1)
    assert statuses(info) == ["non_finite"]


@pytest.mark.parametrize("dtype", [F32, F64], ids=["float32", "float64"])
def test_a_singular_system_is_solved_where_b_is_in_its_range(dtype: torch.dtype) -> None:
    model = TorchTwiceDifferentiable(nn.Linear(2, 1, bias=False, dtype=dtype), nn.MSELoss())
    data = [(torch.tensor([[1.0, 0.0]], dtype=dtype), torch.zeros(1, 1, dtype=dtype))]
    b = torch.tensor([[2.0, 0.0], [0.0, 1.0]], dtype=dtype)
    x, info = solve_hvp("minres", model, data, b)
    assert statuses(info) == ["converged", "breakdown"]
    torch.testing.assert_close(x[0], torch.tensor([1.0, 0.0], dtype=dtype))
