"""Block conjugate gradients: one search space for all right-hand sides, sound when these depend on each other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ihvp.errors import InvalidInput
from solvers import IterationReport, Problem, TerminationStatus, TorchTwiceDifferentiable, solve_hvp
from tests.solvers.cases import least_squares, small_mlp
from tests.solvers.keeper import Keeper

F32, F64 = torch.float32, torch.float64
TIGHT = {"rtol": 1e-10, "atol": 0.0}


def stretched(dtype: torch.dtype, p: int = 60, condition: float = 1e4) -> tuple[TorchTwiceDifferentiable, Any, Tensor]:
    """Least squares whose H is diagonal, its eigenvalues spread evenly on a logarithmic scale."""
    values = torch.logspace(0, -torch.log10(torch.tensor(condition)).item(), p, dtype=F64)
    x = torch.diag((values * p / 2).sqrt()).to(dtype)
    model = TorchTwiceDifferentiable(nn.Linear(p, 1, bias=False, dtype=dtype), nn.MSELoss())
    return model, [(x, torch.zeros(p, 1, dtype=dtype))], values


def rows(k: int, p: int, dtype: torch.dtype = F64, seed: int = 0) -> Tensor:
    return torch.randn(k, p, generator=torch.Generator().manual_seed(seed), dtype=F64).to(dtype)


def iterations(info: dict[str, Any]) -> list[int]:
    return [entry["iterations"] for entry in info["certificate"]]


def statuses(info: dict[str, Any]) -> set[str]:
    return {entry["status"] for entry in info["certificate"]}


def test_right_hand_sides_help_each_other() -> None:
    model, data, _ = stretched(F64)
    b = rows(12, 60)
    _, alone = solve_hvp("cg", model, data, b[0], **TIGHT)
    x, together = solve_hvp("cg", model, data, b, **TIGHT)
    assert statuses(together) == {"converged"}
    # Exact arithmetic would need p / k = 5 iterations for the block and p for one.
    assert max(iterations(together)) <= iterations(alone)[0] / 4
    assert together["hvps"] < 12 * max(iterations(alone)) / 3
    torch.testing.assert_close(x[0], solve_hvp("cg", model, data, b[0], **TIGHT).x, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [F32, F64], ids=["float32", "float64"])
def test_dependent_right_hand_sides_do_not_break_the_block(dtype: torch.dtype) -> None:
    model, data, values = stretched(dtype, condition=100.0)
    b = rows(3, 60, dtype)
    everything = torch.stack(
        [b[0], b[1], b[0], -2 * b[1], b[0] + b[1], torch.zeros_like(b[0]), 1e-6 * b[2], 1e6 * b[0]]
    )
    rtol = 1e-5 if dtype == F32 else 1e-9
    x, info = solve_hvp("cg", model, data, everything, rtol=rtol, atol=0.0)
    assert statuses(info) == {"converged"}
    assert all(entry["relative_residual"] <= rtol for entry in info["certificate"])
    exact = everything.double() / values
    error = (x.double() - exact).norm(dim=1) / exact.norm(dim=1).clamp_min(1e-300)
    assert float(error[exact.norm(dim=1) > 0].max()) <= 100 * rtol
    # Three directions are all there are: never more than three products an iteration, and one to confirm each.
    assert info["hvps"] <= 3 * max(iterations(info)) + len(everything) + 3


def test_each_right_hand_side_leaves_when_it_has_arrived() -> None:
    model, data, _ = stretched(F64, condition=1e6)
    easy = torch.zeros(60, dtype=F64)
    easy[0] = 1.0  # an eigenvector: one step
    b = torch.stack([easy, *rows(2, 60)])
    active: list[int] = []

    def watch(report: IterationReport) -> None:
        active.append(sum(r is not None and r > 1e-10 for r in report.relative_residual))

    _, info = solve_hvp("cg", model, data, b, callback=watch, **TIGHT)
    assert statuses(info) == {"converged"}
    assert iterations(info)[0] < min(iterations(info)[1:])
    assert info["hvps"] <= 2 * max(iterations(info)) + 10


def split_case() -> tuple[TorchTwiceDifferentiable, Any]:
    """A loss that is a sum of a bowl in two parameters and a saddle in the two others."""

    class Split(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bowl = nn.Parameter(torch.ones(2, dtype=F64))
            self.saddle = nn.Parameter(torch.ones(2, dtype=F64))

        def forward(self, x: Tensor) -> Tensor:
            value = self.bowl.square().sum() + self.saddle[0].square() - self.saddle[1].square()
            return value.expand(x.shape[0], 1)

    def mean(output: Tensor, target: Tensor) -> Tensor:
        return (output - 0 * target).mean()

    x = torch.ones(3, 1, dtype=F64)
    return TorchTwiceDifferentiable(Split(), mean), [(x, x)]


def test_negative_curvature_ends_those_that_are_active_in_it_and_no_others() -> None:
    model, data = split_case()
    b = torch.tensor([[1.0, 2.0, 0, 0], [0, 0, 1.0, 2.0], [0, 0, 0, 1.0], [3.0, 1.0, 0, 0]], dtype=F64)
    x, info = solve_hvp("cg", model, data, b, **TIGHT)
    found = [entry["status"] for entry in info["certificate"]]
    assert found == ["converged", "negative_curvature", "negative_curvature", "converged"]
    torch.testing.assert_close(x[[0, 3]], b[[0, 3]] / 2)
    assert bool(x.isfinite().all())
    for entry in info["certificate"][1:3]:
        assert entry["rayleigh_quotient"] == pytest.approx(-2.0, rel=1e-6)
        assert entry["suggested_perturbation"] > 2.0
        assert "minres" in entry["advice"]


def test_the_suggested_perturbation_makes_an_indefinite_network_solvable() -> None:
    case = small_mlp(F64)
    b = case.rhs(4)
    _, info = solve_hvp("cg", case.model, case.batches(10), b, **TIGHT)
    assert "negative_curvature" in statuses(info)
    damping = max(entry["suggested_perturbation"] or 0.0 for entry in info["certificate"])
    x, info = solve_hvp("cg", case.model, case.batches(10), b, hessian_perturbation=damping, **TIGHT)
    assert statuses(info) == {"converged"}
    torch.testing.assert_close(x, case.exact(b, damping), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("dtype", [F32, F64], ids=["float32", "float64"])
@pytest.mark.parametrize("preconditioner", [None, "jacobi"])
def test_a_resumed_solve_ends_in_the_same_bits(dtype: torch.dtype, preconditioner: str | None) -> None:
    case = small_mlp(dtype)
    b, options = case.rhs(5), {"rtol": 1e-6, "atol": 0.0, "preconditioner": preconditioner}

    def solve(keeper: Keeper, seen: list[int]) -> Any:
        def watch(report: IterationReport) -> None:
            if report.iteration > 0:  # while the preconditioner is made, no iteration is done
                seen.append(report.iteration)

        problem = Problem(case.model, case.batches(10), strategy="graph")
        return problem.solve(
            "cg",
            b,
            hessian_perturbation=case.damping,
            checkpoints=keeper,
            callback=watch,
            **options,
        )

    whole: list[int] = []
    first = Keeper(at=3)
    straight = solve(first, whole)
    assert first.saved is not None
    assert first.saved.iteration == 3
    rest: list[int] = []
    again = solve(Keeper(resume=first.saved), rest)
    assert rest == whole[3:]
    assert torch.equal(again.x, straight.x)
    assert again.info["certificate"] == straight.info["certificate"]


def test_a_state_of_another_solve_is_refused() -> None:
    case = least_squares(F64)
    keeper = Keeper(at=1)
    problem = Problem(case.model, case.batches(7))
    problem.solve("cg", case.rhs(2), hessian_perturbation=0.1, checkpoints=keeper, **TIGHT)
    assert keeper.saved is not None
    for b, damping in ((case.rhs(2, seed=9), 0.1), (case.rhs(3), 0.1), (case.rhs(2), 0.2)):
        with pytest.raises(InvalidInput, match="belongs to another solve"):
            problem.solve("cg", b, hessian_perturbation=damping, checkpoints=Keeper(resume=keeper.saved), **TIGHT)


def test_a_stop_keeps_what_was_reached_with_its_certificate() -> None:
    model, data, _ = stretched(F64, condition=1e6)

    def stop(report: IterationReport) -> TerminationStatus | None:
        return TerminationStatus.Cancelled if report.iteration == 5 else None

    x, info = solve_hvp("cg", model, data, rows(2, 60), callback=stop, **TIGHT)
    assert statuses(info) == {"cancelled"}
    assert iterations(info) == [5, 5]
    H = torch.diag(stretched(F64, condition=1e6)[2])
    true = ((x @ H - rows(2, 60)).norm(dim=1) / rows(2, 60).norm(dim=1)).tolist()
    assert [entry["relative_residual"] for entry in info["certificate"]] == pytest.approx(true)


def test_the_residuals_reported_are_those_of_the_iterates() -> None:
    model, data, values = stretched(F64, condition=1e3)
    b = rows(3, 60)
    reports: list[IterationReport] = []

    def watch(report: IterationReport) -> None:
        reports.append(report)

    x, info = solve_hvp("cg", model, data, b, maxiter=4, callback=watch, **TIGHT)
    last = reports[-1].relative_residual
    assert last == pytest.approx([entry["relative_residual"] for entry in info["certificate"]], rel=1e-6)
    assert statuses(info) == {"max_iterations"}
    assert F.cosine_similarity(x, b / values).min() > 0.5
