"""Each preconditioner is symmetric positive definite, shortens a solve, and serves another λ without new products."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ihvp.errors import InvalidOption
from ihvp.methods import InversionMethod, TerminationStatus
from solvers import Problem, TorchTwiceDifferentiable
from solvers.diagonal import PROBES, HessianDiagonal
from solvers.preconditioners import preconditioner_for
from solvers.preconditioners.jacobi import JacobiPreconditioner
from solvers.sketch import NystromSketch
from solvers.system import LinearSystem
from tests.solvers.cases import CASES, Case, logistic, small_mlp

F32, F64 = torch.float32, torch.float64
KINDS = ["jacobi", "nystrom", "deflation"]


def diagonal_case(dtype: torch.dtype, values: Tensor, damping: float) -> Case:
    """Least squares with H = diag(values)."""
    p = values.shape[0]
    x = torch.diag((values.double() * p / 2).sqrt())
    model = TorchTwiceDifferentiable(nn.Linear(p, 1, bias=False, dtype=dtype), nn.MSELoss())
    y = torch.zeros(p, 1, dtype=dtype)
    return Case("diagonal", model, x.to(dtype), y, torch.diag(values.double()), damping)


def ill_conditioned(dtype: torch.dtype) -> Case:
    return diagonal_case(dtype, torch.logspace(1, -6, 160, dtype=F64), 1e-4)


def indefinite(dtype: torch.dtype, negative: float, p: int = 160) -> Case:
    """A loss that is linear in the outputs' squares: H = diag of a few large, and many small values of both signs."""
    generator = torch.Generator().manual_seed(3)
    small = negative * (torch.rand(p - 20, generator=generator, dtype=F64) * 1.5 - 1)
    values = torch.cat([torch.logspace(1, -1, 20, dtype=F64), small])
    x = torch.diag((values.abs() * p / 2).sqrt())
    model = TorchTwiceDifferentiable(nn.Linear(p, 1, bias=False, dtype=dtype), lambda o, t: (t * o.square()).mean())
    y = values.sign()[:, None].to(dtype)
    return Case("indefinite", model, x.to(dtype), y, torch.diag(values), 1.1 * negative)


def system_of(case: Case, problem: Problem | None = None) -> LinearSystem:
    problem = problem or Problem(case.model, case.batches(len(case.x)))
    return LinearSystem(
        InversionMethod.Cg, case.model, problem, case.rhs(1), case.damping, options={}, expected_products=1
    )


def as_matrix(preconditioner: Any, case: Case) -> Tensor:
    identity = torch.eye(case.p, dtype=case.x.dtype)
    before = identity.clone()
    matrix: Tensor = preconditioner(identity)
    assert torch.equal(identity, before)
    return matrix.double()


@pytest.mark.parametrize("dtype", [F32, F64], ids=["float32", "float64"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("make", [ill_conditioned, lambda d: indefinite(d, 1e-3), small_mlp, *CASES.values()])
def test_it_is_symmetric_positive_definite(make: Any, kind: str, dtype: torch.dtype) -> None:
    case = make(dtype)
    for damping in (case.damping, 1e-3):  # the second leaves an indefinite H + λI indefinite
        system = system_of(Case(case.name, case.model, case.x, case.y, case.H, damping))
        matrix = as_matrix(preconditioner_for(system, kind, None, 0), case)
        noise = 20 * torch.finfo(dtype).eps * float(matrix.abs().max())
        assert float((matrix - matrix.T).abs().max()) <= noise
        values = torch.linalg.eigvalsh((matrix + matrix.T) / 2)
        assert float(values[0]) > 0
        assert float(values[-1]) < 1e12


@pytest.mark.parametrize("dtype", [F32, F64], ids=["float32", "float64"])
@pytest.mark.parametrize("method", ["cg", "minres"])
@pytest.mark.parametrize("kind", KINDS)
def test_it_shortens_an_ill_conditioned_solve(kind: str, method: str, dtype: torch.dtype) -> None:
    case = ill_conditioned(dtype)
    if kind == "jacobi":  # of 64 probes, where H is diagonal each of them is exact
        assert case.p > PROBES
    b = case.rhs(1)
    options = {"hessian_perturbation": case.damping, "rtol": 1e-4, "atol": 0.0, "maxiter": 2000}
    plain = Problem(case.model, case.batches(50)).solve(method, b, **options)
    x, info = Problem(case.model, case.batches(50)).solve(method, b, preconditioner=kind, **options)
    assert info["certificate"][0]["status"] == "converged"
    assert info["niter"][0] <= plain.info["niter"][0] / 2
    assert max(case.residual(x, b)) <= 1.2e-4
    assert info["preconditioner"]["kind"] == kind


@pytest.mark.parametrize("kind", KINDS)
def test_another_damping_and_another_b_need_no_product_for_it(kind: str) -> None:
    case = small_mlp(F64)
    problem = Problem(case.model, case.batches(9))
    options = {"preconditioner": kind, "rtol": 1e-9, "atol": 0.0}
    first = problem.solve("cg", case.rhs(1), hessian_perturbation=case.damping, **options)
    assert set(first.info["factors"].values()) == {"made"}
    again = problem.solve("cg", case.rhs(2, seed=5), hessian_perturbation=2 * case.damping, **options)
    assert set(again.info["factors"].values()) == {"kept"}
    assert again.info["hvps"] <= sum(again.info["niter"]) + 2
    torch.testing.assert_close(again.x, case.exact(case.rhs(2, seed=5), 2 * case.damping), rtol=1e-6, atol=1e-8)
    other = problem.solve("cg", case.rhs(1), hessian_perturbation=case.damping, seed=1, **options)
    made_anew = kind == "nystrom"  # exact diagonals and kept eigenpairs do not depend on a seed
    assert set(other.info["factors"].values()) == ({"made"} if made_anew else {"kept"})


def test_deflation_takes_the_eigenpairs_of_arnoldi() -> None:
    case = small_mlp(F64)
    problem = Problem(case.model, case.batches(9))
    problem.solve("arnoldi", case.rhs(1), hessian_perturbation=case.damping, rank_estimate=10)
    b = case.rhs(1, seed=4)
    options = {"hessian_perturbation": case.damping, "preconditioner": "deflation", "rtol": 1e-9, "atol": 0.0}
    _, fewer = problem.solve("cg", b, preconditioner_rank=8, **options)
    assert set(fewer["factors"].values()) == {"kept"}
    assert fewer["preconditioner"]["rank"] == 10
    _, more = problem.solve("cg", b, preconditioner_rank=15, **options)
    assert set(more["factors"].values()) == {"made"}


class TestNystromSketch:
    @pytest.mark.parametrize("dtype", [F32, F64], ids=["float32", "float64"])
    def test_its_rank_is_what_the_products_hold(self, dtype: torch.dtype) -> None:
        values = torch.cat([torch.logspace(0, -2, 30, dtype=F64), torch.zeros(170, dtype=F64)])
        case = diagonal_case(dtype, values, 1e-3)
        made = preconditioner_for(system_of(case), "nystrom", 100, 0)
        assert made is not None
        assert made.description["products"] == 100
        assert 30 <= made.description["rank"] <= 36  # six at most, of the size of rounding
        # On an exact sketch the preconditioner is the inverse, with the rest of H taken as its smallest eigenvalue.
        matrix = as_matrix(made, case)
        exact = torch.diag(1 / (values + case.damping))
        inside = slice(0, 30)
        tolerance = 1e-2 if dtype == F32 else 1e-6
        assert float((matrix - exact)[inside, inside].abs().max()) <= tolerance * float(exact[inside, inside].max())

    def test_a_larger_one_is_not_worse(self) -> None:
        # Negative eigenvalues cancel positive ones in the core; its inverse then tells eigenvalues that H has not.
        case = indefinite(F32, 1e-2, p=400)
        taken = []
        for rank in (80, 100, 120):
            _, info = Problem(case.model, case.batches(400)).solve(
                "cg",
                case.rhs(1),
                hessian_perturbation=2e-2,
                preconditioner="nystrom",
                preconditioner_rank=rank,
                rtol=1e-4,
                atol=0.0,
            )
            assert info["certificate"][0]["status"] == "converged"
            taken.append(info["niter"][0])
        assert max(taken) <= 1.2 * taken[0]

    @pytest.mark.parametrize("rank", [40, 80, 120])
    def test_it_tells_no_eigenvalue_beyond_those_of_an_indefinite_matrix(self, rank: int) -> None:
        case = indefinite(F32, 1e-2)
        system = system_of(case)
        preconditioner_for(system, "nystrom", rank, 0)
        (key,) = system.problem.factors.held()
        sketch, where = system.problem.factors.get(key, NystromSketch, lambda: None)
        assert where == "kept"
        assert sketch is not None
        true = torch.linalg.eigvalsh(case.H).flip(0)[: sketch.values.shape[0]]
        assert bool((sketch.values <= true * 1.3 + 1e-2).all())
        overlaps = sketch.vectors.double() @ sketch.vectors.double().T
        torch.testing.assert_close(overlaps, torch.eye(overlaps.shape[0], dtype=F64), rtol=0, atol=1e-4)

    def test_a_matrix_without_positive_part_leaves_nothing_and_does_no_harm(self) -> None:
        case = diagonal_case(F64, torch.ones(12, dtype=F64), 0.1)
        model = TorchTwiceDifferentiable(case.model.model, lambda o, t: -(o - t).square().mean())
        problem = Problem(model, case.batches(12))
        b = case.rhs(1)
        x, info = problem.solve("minres", b, hessian_perturbation=3.0, preconditioner="nystrom")
        assert info["preconditioner"]["rank"] == 0
        torch.testing.assert_close(x, b / 2.0)

    def test_it_comes_back_from_its_tensors(self) -> None:
        sketch = NystromSketch(torch.tensor([2.0, 1.0], dtype=F64), torch.eye(2, 5), 4, 1e-7)
        back = NystromSketch.of(sketch.tensors())
        assert (back.size, back.shift, back.nbytes) == (4, 1e-7, sketch.nbytes)
        assert torch.equal(back.values, sketch.values)
        assert torch.equal(back.vectors, sketch.vectors)

    def test_it_keeps_to_the_memory_budget(self) -> None:
        case = ill_conditioned(F64)
        row = case.p * 8
        problem = Problem(case.model, case.batches(200), memory_budget=2 * 30 * row)
        made = preconditioner_for(system_of(case, problem), "nystrom", 100, 0)
        assert made is not None
        assert made.description["products"] == 30


class TestJacobi:
    def test_few_parameters_are_exact(self) -> None:
        case = small_mlp(F64)
        made = preconditioner_for(system_of(case), "jacobi", None, 0)
        assert made is not None
        assert made.description == {"kind": "jacobi", "probes": case.p, "exact": True}
        expected = 1 / (case.H.diagonal().abs() + case.damping)
        torch.testing.assert_close(as_matrix(made, case).diagonal(), expected, rtol=1e-9, atol=0)

    def test_noise_is_pulled_to_the_mean(self) -> None:
        values = torch.tensor([10.0, 1e-3, -1e-3, 1.0], dtype=F64)
        variances = torch.tensor([1e-8, 1.0, 1.0, 1e-8], dtype=F64)
        made = JacobiPreconditioner(HessianDiagonal(values, variances, 64), 0.5)
        divisors = 1 / made(torch.ones(1, 4, dtype=F64))[0]
        mean = float(values.abs().mean())
        torch.testing.assert_close(divisors, torch.tensor([10.5, mean + 0.5, mean + 0.5, 1.5], dtype=F64))

    def test_an_idle_parameter_without_damping_divides_by_no_zero(self) -> None:
        made = JacobiPreconditioner(HessianDiagonal(torch.tensor([1.0, 0.0]), torch.zeros(2), 2), 0.0)
        assert bool(made(torch.ones(1, 2)).isfinite().all())


@pytest.mark.parametrize("kind", KINDS)
def test_a_stop_while_it_is_made_keeps_nothing(kind: str) -> None:
    case = ill_conditioned(F64)
    problem = Problem(case.model, case.batches(200))
    _, info = problem.solve(
        "cg",
        case.rhs(1),
        hessian_perturbation=case.damping,
        preconditioner=kind,
        callback=lambda report: TerminationStatus.Cancelled,
    )
    assert info["certificate"][0]["status"] == "cancelled"
    assert problem.factors.held() == []
    assert info["hvps"] <= 32 + 3  # a block of rows, an iteration and the certificate


def test_a_rank_beyond_p_is_refused() -> None:
    case = logistic(F64)
    with pytest.raises(InvalidOption, match=r"preconditioner_rank exceeds.*Given: 7.*Allowed: 1 to 6"):
        Problem(case.model, case.batches(9)).solve(
            "cg", case.rhs(1), hessian_perturbation=0.1, preconditioner="nystrom", preconditioner_rank=7
        )
