"""EK-FAC against dense Fisher matrices: its eigenvalues are the true ones in its bases, whatever the layers are."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from solvers import IterationReport, Problem, TerminationStatus, TorchTwiceDifferentiable, solve_hvp
from tests.solvers.fisher import dense_block, dense_factor, dense_fisher, places
from tests.solvers.kronecker_cases import CASES, F64, Layered, factor_of, layered


def fisher_of(case: Layered) -> Tensor:
    return dense_fisher(case.module, case.point_loss, case.x, case.y, case.divisor)


@pytest.mark.parametrize("name", CASES)
def test_eigenvalues_are_the_diagonal_of_the_fisher_matrix_in_the_eigenbasis(name: str) -> None:
    case = layered(name)
    problem = case.problem()
    H, parameters = fisher_of(case), list(problem.snapshot.parameters)
    factor = factor_of(problem, "ekfac")
    assert {problem.snapshot.names[i] for b in factor.blocks for i in b.parameters} == case.kronecker
    for block in factor.blocks:
        at = places(block, parameters)
        Q = torch.kron(block.outputs, block.inputs)
        true = (Q.T @ H[at][:, at] @ Q).diagonal().reshape(block.eigenvalues.shape)
        torch.testing.assert_close(block.eigenvalues, true, rtol=1e-9, atol=1e-12 * float(H.abs().max()))
    # With the diagonals of all other parameters, nothing of the trace is lost.
    whole = dense_factor(factor, parameters)
    outside = [i for i, name in enumerate(problem.snapshot.names) if name not in case.kronecker]
    assert sorted(factor.diagonal) == outside
    for i in outside:
        start = sum(p.numel() for p in parameters[:i])
        mine = slice(start, start + parameters[i].numel())
        torch.testing.assert_close(whole.diagonal()[mine], H.diagonal()[mine], rtol=1e-9, atol=1e-14)
    torch.testing.assert_close(whole.trace(), H.trace(), rtol=1e-10, atol=0.0)


@pytest.mark.parametrize("name", CASES)
def test_no_block_is_further_from_the_fisher_matrix_than_with_kfac(name: str) -> None:
    case = layered(name)
    problem = case.problem()
    H, parameters = fisher_of(case), list(problem.snapshot.parameters)
    plain, corrected = factor_of(problem, "kfac"), factor_of(problem, "ekfac")
    assert len(plain.blocks) == len(corrected.blocks)
    for a, b in zip(plain.blocks, corrected.blocks, strict=True):
        at = places(a, parameters)
        true = H[at][:, at]
        before, after = float((dense_block(a) - true).norm()), float((dense_block(b) - true).norm())
        assert after <= before + 1e-12 * float(true.norm())


@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=["float32", "float64"])
def test_one_weight_matrix_and_one_point_are_solved_exactly(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    module = nn.Linear(4, 3).to(dtype)
    x, y = torch.randn(1, 4, dtype=F64), torch.tensor([1])
    H = dense_fisher(module, nn.CrossEntropyLoss(), x.to(dtype).double(), y)
    b = torch.randn(2, 15, dtype=F64)
    model = TorchTwiceDifferentiable(module, nn.CrossEntropyLoss())
    result = solve_hvp("ekfac", model, [(x.to(dtype), y)], b.to(dtype), hessian_perturbation=0.1)
    exact = torch.linalg.solve(H + 0.1 * torch.eye(15, dtype=F64), b.T).T
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    assert float((result.x.double() - exact).norm() / exact.norm()) < tolerance
    # Gauss-Newton is the Hessian where the model is linear.
    assert [c["status"] for c in result.info["certificate"]] == ["converged", "converged"]


@pytest.mark.parametrize("statistics", ["type2", "mc", "empirical"])
@pytest.mark.parametrize("size", [1, 5, 13])
def test_batching_does_not_show(statistics: str, size: int) -> None:
    case = layered("mlp")
    parameters = list(case.problem().snapshot.parameters)
    once = dense_factor(factor_of(case.problem(4), "ekfac", statistics=statistics), parameters)
    again = dense_factor(factor_of(case.problem(size), "ekfac", statistics=statistics), parameters)
    torch.testing.assert_close(again, once, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["convolutions", "attention"])
def test_chunks_within_a_small_budget_give_the_same(name: str) -> None:
    case = layered(name)
    parameters = list(case.problem().snapshot.parameters)
    b = torch.randn(2, sum(p.numel() for p in parameters), dtype=F64, generator=torch.Generator().manual_seed(0))
    points: list[int] = []

    def note(report: IterationReport) -> None:
        points.append(report.iteration)

    model = TorchTwiceDifferentiable(case.module, case.loss)
    whole = solve_hvp("ekfac", model, case.batches(9), b, hessian_perturbation=0.1)
    small = Problem(model, case.batches(9), memory_budget=100_000)
    pieces = small.solve("ekfac", b, hessian_perturbation=0.1, callback=note)
    # Three outputs and two passes: six reports of one chunk.
    assert len(points) > 6
    assert points == sorted(points)
    assert points[-1] == 18
    torch.testing.assert_close(pieces.x, whole.x, rtol=1e-9, atol=1e-12)


def test_running_out_of_memory_halves_the_chunks() -> None:
    class Full(nn.Module):
        """Runs out of memory at two passes forward: both are begun anew."""

        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner
            self.seen: list[int] = []

        def forward(self, x: Tensor) -> Tensor:
            # Under vmap a batch of one is seen; the survey and the certificate see more or no gradient.
            if torch._C._functorch.is_batchedtensor(x):
                self.seen.append(torch._C._functorch.get_unwrapped(x).shape[0])
                if self.seen[-1] > 4:
                    raise torch.OutOfMemoryError("injected")
            output: Tensor = self.inner(x)
            return output

    case = layered("mlp")
    b = torch.ones(43, dtype=F64)
    expected = case.problem().solve("ekfac", b, hessian_perturbation=0.1).x
    full = Full(case.module)
    model = TorchTwiceDifferentiable(full, case.loss)
    x = solve_hvp("ekfac", model, case.batches(13), b, hessian_perturbation=0.1).x
    torch.testing.assert_close(x, expected, rtol=1e-9, atol=1e-12)
    assert full.seen == [13, 6, 3, 3, 3, 3, 1] * 2


def test_the_second_solve_finds_the_factors_kept_at_any_damping() -> None:
    case = layered("mlp")
    problem = case.problem()
    b = torch.ones(problem.num_params, dtype=F64)
    key = "statistics=type2"
    first = problem.solve("kfac", b, hessian_perturbation=0.1).info["factors"]
    assert first == {f"kfac {key}": "made"}
    second = problem.solve("ekfac", b, hessian_perturbation=0.2).info["factors"]
    assert second == {f"kfac {key}": "kept", f"ekfac {key}": "made"}
    third = problem.solve("ekfac", b, hessian_perturbation=0.3)
    assert third.info["factors"] == {f"ekfac {key}": "kept"}
    fresh = solve_hvp("ekfac", problem.model, case.batches(4), b, hessian_perturbation=0.3)
    assert torch.equal(third.x, fresh.x)


class Shelf:
    """A store of factors that is a dictionary."""

    def __init__(self) -> None:
        self.tensors: dict[str, dict[str, Tensor]] = {}

    def load(self, key: str) -> Mapping[str, Tensor] | None:
        return self.tensors.get(key)

    def save(self, key: str, tensors: Mapping[str, Tensor], seconds: float) -> None:
        self.tensors[key] = {name: t.clone() for name, t in tensors.items()}


@pytest.mark.parametrize("name", ["convolutions", "attention"])
def test_another_process_goes_on_from_what_was_saved(name: str) -> None:
    case, shelf = layered(name), Shelf()
    model = TorchTwiceDifferentiable(case.module, case.loss)
    here = Problem(model, case.batches(4), factor_store=shelf)
    b = torch.ones(here.num_params, dtype=F64)
    expected = here.solve("ekfac", b, hessian_perturbation=0.1)
    there = Problem(model, case.batches(4), factor_store=shelf)
    found = there.solve("ekfac", b, hessian_perturbation=0.1)
    assert found.info["factors"] == {"ekfac statistics=type2": "loaded"}
    assert torch.equal(found.x, expected.x)
    assert found.info["layers"] == expected.info["layers"]


def test_a_stop_while_cg_makes_its_preconditioner_stops_cg() -> None:
    problem = layered("mlp").problem()
    b = torch.ones(problem.num_params, dtype=F64)
    reports: list[str] = []

    def stop(report: IterationReport) -> TerminationStatus:
        reports.append(report.method)
        return TerminationStatus.Deadline

    info = problem.solve("cg", b, hessian_perturbation=1.0, preconditioner="ekfac", callback=stop).info
    assert info["certificate"][0]["status"] == "deadline"
    assert info["preconditioner"] is None
    assert len(reports) == 2


def test_the_certificate_is_for_the_problems_own_curvature() -> None:
    case = layered("mlp")
    problem = case.problem()
    b = torch.ones(1, problem.num_params, dtype=F64)
    x, info = problem.with_curvature("ggn").solve("ekfac", b, hessian_perturbation=0.1)
    (entry,) = info["certificate"]
    A = fisher_of(case) + 0.1 * torch.eye(problem.num_params, dtype=F64)
    assert entry["relative_residual"] == pytest.approx(float((x @ A - b).norm() / b.norm()), rel=1e-9)
    assert entry["status"] == "approximate"
    assert "Use cg" in entry["advice"]
    assert "preconditioner='ekfac'" in entry["advice"]
