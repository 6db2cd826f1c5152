"""Every way in which a solve can end, told truthfully and with what to do next."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn

from ihvp.errors import DataMismatch
from solvers import (
    IterationReport,
    Problem,
    TerminationStatus,
    TorchTwiceDifferentiable,
    solve_hvp,
)
from tests.solvers.cases import METHODS, Method, batches_of, least_squares, logistic, options_for, small_mlp

F64 = torch.float64


def ill_conditioned(dtype: torch.dtype, smallest: float) -> tuple[TorchTwiceDifferentiable, Any, torch.Tensor]:
    """Least squares whose H is diagonal with eigenvalues from 1 down to ``smallest``."""
    p = 12
    values = torch.logspace(0, torch.log10(torch.tensor(smallest)).item(), p, dtype=F64)
    x = torch.diag((values * p / 2).sqrt()).to(dtype)
    model = TorchTwiceDifferentiable(nn.Linear(p, 1, bias=False, dtype=dtype), nn.MSELoss())
    return model, [(x, torch.zeros(p, 1, dtype=dtype))], values


def only(info: dict[str, Any]) -> dict[str, Any]:
    (entry,) = info["certificate"]
    return entry


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_a_zero_right_hand_side_is_solved_by_zero(method: Method) -> None:
    case = logistic(F64)
    b = case.rhs(3)
    b[1] = 0.0
    start = {"cg": {"x0": b + 1}, "minres": {"x0": b + 1}, "lissa": {"h0": b + 1}}.get(method.name, {})
    x, info = solve_hvp(
        method.name,
        case.model,
        case.batches(len(case.x)),
        b,
        hessian_perturbation=case.damping,
        **options_for(method, case),
        **start,
    )
    assert torch.equal(x[1], torch.zeros(case.p, dtype=F64))
    entry = info["certificate"][1]
    assert (entry["status"], entry["relative_residual"], entry["advice"]) == ("converged", 0.0, None)
    torch.testing.assert_close(x[[0, 2]], case.exact(b)[[0, 2]], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_info_is_json_ready_where_it_is_no_tensor(method: Method) -> None:
    case = logistic(F64)
    _, info = solve_hvp(
        method.name,
        case.model,
        case.batches(len(case.x)),
        case.rhs(2),
        hessian_perturbation=case.damping,
        **options_for(method, case),
    )
    assert info["method"] == method.name
    assert info["hessian_perturbation"] == case.damping
    assert set(info["timings"]) == {"linearise", "solve", "certify"}
    assert {"product", "rows_at_once", "chunk_points", "why", "loss"} <= set(info["strategy"])
    assert info["hvps"] > 0
    tensors = {"hessian", "eigenvalues", "eigenvectors", "low_rank_representation"}
    text = json.dumps({k: v for k, v in info.items() if k not in tensors}, allow_nan=False)
    assert json.loads(text)["certificate"] == info["certificate"]
    assert set(info["certificate"][0]) == {
        "status",
        "relative_residual",
        "iterations",
        "advice",
        "rayleigh_quotient",
        "suggested_perturbation",
    }


def test_options_are_recorded_after_defaults() -> None:
    case = logistic(F64)
    _, info = solve_hvp("cg", case.model, case.batches(9), case.rhs(1), hessian_perturbation=0.1)
    assert info["options"] == {
        "rtol": 1e-7,
        "atol": 1e-7,
        "maxiter": None,
        "x0": None,
        "preconditioner": None,
        "preconditioner_rank": None,
        "seed": 0,
        "recycle": True,
        "single_precision": True,
    }


class TestCg:
    def test_max_iterations(self) -> None:
        model, data, _ = ill_conditioned(F64, 1e-6)
        _, info = solve_hvp("cg", model, data, torch.ones(12, dtype=F64), maxiter=4, atol=0.0)
        entry = only(info)
        assert (entry["status"], entry["iterations"]) == ("max_iterations", 4)
        assert "after 4 iterations" in entry["advice"]
        assert "Raise maxiter" in entry["advice"]
        assert info["optimal"] == [False]

    def test_stopping_on_atol_is_not_convergence(self) -> None:
        case = logistic(F64)
        b = 1e-3 * case.rhs(1)
        _, info = solve_hvp("cg", case.model, case.batches(9), b, hessian_perturbation=0.05, rtol=1e-12, atol=1e-4)
        entry = only(info)
        assert entry["status"] == "absolute_tolerance"
        assert entry["relative_residual"] > 1e-12
        assert "set atol=0" in entry["advice"]
        assert info["optimal"] == [True]

    def test_the_floor_of_float32_is_stagnation(self) -> None:
        model, data, values = ill_conditioned(torch.float32, 1e-6)
        b = torch.randn(12, generator=torch.Generator().manual_seed(0))
        x, info = solve_hvp("cg", model, data, b, rtol=1e-9, atol=0.0, maxiter=2000)
        entry = only(info)
        assert entry["status"] == "stagnated"
        assert "float64" in entry["advice"]
        true = float((values * x.double() - b).norm() / b.norm())
        assert entry["relative_residual"] == pytest.approx(true, abs=2e-7)  # H itself is rounded to float32
        assert 1e-9 < entry["relative_residual"] < 1e-6
        assert entry["iterations"] < 1200

    def test_a_good_start_needs_no_iteration(self) -> None:
        case = logistic(F64)
        b = case.rhs(2)
        _, info = solve_hvp("cg", case.model, case.batches(9), b, hessian_perturbation=case.damping, x0=case.exact(b))
        assert info["niter"] == [0, 0]
        assert {c["status"] for c in info["certificate"]} == {"converged"}

    def test_one_start_serves_all_rows(self) -> None:
        case = logistic(F64)
        b = case.rhs(2)
        x, _ = solve_hvp(
            "cg",
            case.model,
            case.batches(9),
            b,
            hessian_perturbation=case.damping,
            x0=case.exact(b)[0],
            rtol=1e-9,
            atol=0.0,
        )
        torch.testing.assert_close(x, case.exact(b), rtol=1e-6, atol=1e-7)

    def test_a_singular_system_breaks_down_with_advice(self) -> None:
        # H is zero in the second coordinate, and b is not.
        model = TorchTwiceDifferentiable(nn.Linear(2, 1, bias=False, dtype=F64), nn.MSELoss())
        data = [(torch.tensor([[1.0, 0.0]], dtype=F64), torch.zeros(1, 1, dtype=F64))]
        x, info = solve_hvp("cg", model, data, torch.tensor([1.0, 1.0], dtype=F64), atol=0.0)
        entry = only(info)
        assert entry["status"] == "breakdown"
        assert "singular to working precision" in entry["advice"]
        assert x.isfinite().all()
        assert entry["suggested_perturbation"] > 0

    def test_a_singular_but_consistent_system_converges(self) -> None:
        model = TorchTwiceDifferentiable(nn.Linear(2, 1, bias=False, dtype=F64), nn.MSELoss())
        data = [(torch.tensor([[1.0, 0.0]], dtype=F64), torch.zeros(1, 1, dtype=F64))]
        x, info = solve_hvp("cg", model, data, torch.tensor([2.0, 0.0], dtype=F64), atol=0.0)
        torch.testing.assert_close(x, torch.tensor([1.0, 0.0], dtype=F64))
        assert only(info)["status"] == "converged"

    def test_overflow_is_non_finite_and_null(self) -> None:
        model, data, _ = ill_conditioned(torch.float32, 1e-6)
        _, info = solve_hvp("cg", model, data, torch.full((12,), 1e38), atol=0.0)
        entry = only(info)
        assert entry["status"] == "non_finite"
        assert entry["advice"]
        json.dumps(info["certificate"], allow_nan=False)


class TestLissa:
    def test_divergence_says_the_scale_that_works(self) -> None:
        case = least_squares(F64)
        b = case.rhs(2)
        solve = {"hessian_perturbation": case.damping, "maxiter": 3000, "rtol": 1e-8}
        _, info = solve_hvp("lissa", case.model, case.batches(len(case.x)), b, scale=0.3, **solve)
        entry = info["certificate"][0]
        assert entry["status"] == "breakdown"
        assert entry["relative_residual"] is not None
        assert "Increase scale to about" in entry["advice"]
        scale = float(entry["advice"].split("about ")[1].split(",")[0])
        largest = float(torch.linalg.eigvalsh(case.H)[-1]) + case.damping
        assert largest <= scale <= 2 * largest
        x, _ = solve_hvp("lissa", case.model, case.batches(len(case.x)), b, scale=scale, **solve)
        torch.testing.assert_close(x, case.exact(b), rtol=1e-4, atol=1e-5)

    def test_minibatches_are_unbiased_and_seeded(self) -> None:
        case = least_squares(F64)
        minibatches = Problem(case.model, case.batches(4)).minibatches()
        V = torch.eye(case.p, dtype=F64)
        mean = sum(minibatches.product(i, V) for i in range(len(minibatches))) / len(minibatches)
        torch.testing.assert_close(mean, case.H, rtol=1e-10, atol=1e-12)
        options = {"hessian_perturbation": 0.5, "scale": 10.0, "maxiter": 20}
        runs = [
            solve_hvp("lissa", case.model, case.batches(4), case.rhs(1), seed=seed, **options).x for seed in (0, 0, 1)
        ]
        assert torch.equal(runs[0], runs[1])
        assert not torch.equal(runs[0], runs[2])

    def test_percentages_are_those_of_the_last_update(self) -> None:
        case = least_squares(F64)
        _, info = solve_hvp(
            "lissa",
            case.model,
            case.batches(len(case.x)),
            case.rhs(2),
            hessian_perturbation=case.damping,
            scale=4.0,
            rtol=1e-5,
        )
        assert 0 < info["mean_perc_residual"] <= info["max_perc_residual"] < 100 * 1e-5
        assert all(0 < n < 1000 for n in info["niter"])


class TestArnoldi:
    def test_eigenpairs_are_those_of_the_dense_matrix(self) -> None:
        case = small_mlp(F64)
        _, info = solve_hvp(
            "arnoldi",
            case.model,
            case.batches(9),
            case.rhs(1),
            hessian_perturbation=case.damping,
            rank_estimate=5,
            krylov_dimension=12,
            tol=1e-10,
        )
        values = torch.linalg.eigvalsh(case.H)
        largest = values[values.abs().argsort(descending=True)][:5]
        torch.testing.assert_close(info["eigenvalues"], largest + case.damping, rtol=1e-8, atol=1e-10)
        V = info["eigenvectors"]
        assert V.shape == (case.p, 5)
        torch.testing.assert_close(V.T @ V, torch.eye(5, dtype=F64))
        torch.testing.assert_close(case.H @ V, V * largest, rtol=1e-6, atol=1e-8)
        assert info["restarts"] > 0

    def test_repeated_eigenvalues_are_all_found(self) -> None:
        case = least_squares(F64)  # each eigenvalue three times
        _, info = solve_hvp(
            "arnoldi",
            case.model,
            case.batches(9),
            case.rhs(1),
            hessian_perturbation=0.1,
            rank_estimate=6,
            tol=1e-10,
        )
        expected = torch.linalg.eigvalsh(case.H).flip(0)[:6] + 0.1
        torch.testing.assert_close(info["eigenvalues"], expected, rtol=1e-8, atol=1e-10)

    def test_a_representation_serves_another_damping(self) -> None:
        case = logistic(F64)
        b = case.rhs(2)
        problem = Problem(case.model, case.batches(9))
        first = problem.solve("arnoldi", b, hessian_perturbation=0.05, rank_estimate=6)
        again = problem.solve(
            "arnoldi",
            b,
            hessian_perturbation=0.7,
            low_rank_representation=first.info["low_rank_representation"],
        )
        torch.testing.assert_close(again.x, case.exact(b, 0.7), rtol=1e-7, atol=1e-9)
        assert again.info["hvps"] == 2  # the certificate's

    def test_too_few_restarts_are_said(self) -> None:
        case = small_mlp(F64)
        _, info = solve_hvp(
            "arnoldi",
            case.model,
            case.batches(9),
            case.rhs(1),
            hessian_perturbation=case.damping,
            rank_estimate=8,
            krylov_dimension=10,
            max_iter=1,
            tol=1e-12,
        )
        assert only(info)["status"] == "max_iterations"

    def test_the_gpu_option_keeps_the_basis_where_the_model_is(self) -> None:
        case = logistic(F64)
        b = case.rhs(1)
        options = {"hessian_perturbation": 0.1, "rank_estimate": 6}
        x, _ = solve_hvp("arnoldi", case.model, case.batches(9), b, eigen_computation_on_gpu=True, **options)
        torch.testing.assert_close(x, case.exact(b, 0.1), rtol=1e-7, atol=1e-9)


class TestDirect:
    def test_an_indefinite_system_is_solved_with_its_inertia(self) -> None:
        case = small_mlp(F64)
        b = case.rhs(2)
        values = torch.linalg.eigvalsh(case.H) + 0.01
        x, info = solve_hvp("direct", case.model, case.batches(9), b, hessian_perturbation=0.01)
        assert max(case.residual(x, b, 0.01)) < 1e-10
        assert info["inertia"] == {
            "positive": int((values > 0).sum()),
            "negative": int((values < 0).sum()),
            "zero": 0,
        }
        entry = info["certificate"][0]
        assert (entry["status"], entry["advice"]) == ("converged", None)
        assert entry["rayleigh_quotient"] == pytest.approx(float(values[0]))

    def test_a_singular_system_out_of_range(self) -> None:
        model = TorchTwiceDifferentiable(nn.Linear(2, 1, bias=False, dtype=F64), nn.MSELoss())
        data = [(torch.tensor([[1.0, 0.0]], dtype=F64), torch.zeros(1, 1, dtype=F64))]
        x, info = solve_hvp("direct", model, data, torch.tensor([2.0, 1.0], dtype=F64))
        torch.testing.assert_close(x, torch.tensor([1.0, 0.0], dtype=F64))  # least norm, least squares
        entry = only(info)
        assert entry["status"] == "breakdown"
        assert "1 zero eigenvalues" in entry["advice"]
        assert info["inertia"] == {"positive": 1, "negative": 0, "zero": 1}

    def test_float32_is_refined_to_what_it_holds(self) -> None:
        model, data, values = ill_conditioned(torch.float32, 1e-4)
        b = torch.randn(12, generator=torch.Generator().manual_seed(1))
        x, info = solve_hvp("direct", model, data, b)
        assert float((values * x.double() - b).norm() / b.norm()) < 1e-6
        assert only(info)["status"] == "converged"


class TestCallback:
    @pytest.mark.parametrize("verdict", [TerminationStatus.Cancelled, TerminationStatus.Deadline])
    @pytest.mark.parametrize(
        ("method", "options"),
        [
            ("cg", {}),
            ("minres", {}),
            ("lissa", {"scale": 8.0}),
            ("arnoldi", {"rank_estimate": 4}),
            ("nystrom", {}),
            ("direct", {}),
        ],
    )
    def test_a_stop_is_honoured_within_the_iteration(
        self, method: str, options: dict[str, Any], verdict: TerminationStatus
    ) -> None:
        case = small_mlp(F64)
        seen: list[IterationReport] = []

        def callback(report: IterationReport) -> TerminationStatus | None:
            seen.append(report)
            return verdict if len(seen) == 2 else None

        b = case.rhs(2)
        x, info = solve_hvp(
            method,
            case.model,
            case.batches(9),
            b,
            hessian_perturbation=case.damping,
            callback=callback,
            **options,
        )
        assert len(seen) == 2
        for entry, true in zip(info["certificate"], case.residual(x, b), strict=True):
            assert entry["status"] == verdict.value
            assert entry["relative_residual"] == pytest.approx(true, rel=1e-6)
            assert "Stopped on request" in entry["advice"]
        if method in ("cg", "minres", "lissa"):
            assert float(x.norm()) > 0

    def test_reports_tell_where_the_solve_stands(self) -> None:
        case = small_mlp(F64)
        seen: list[IterationReport] = []
        _, info = solve_hvp(
            "cg",
            case.model,
            case.batches(9),
            case.rhs(3),
            hessian_perturbation=case.damping,
            maxiter=200,
            atol=0.0,
            callback=seen.append,
        )
        assert [r.iteration for r in seen] == list(range(1, max(info["niter"]) + 1))
        assert {r.max_iterations for r in seen} == {200}
        assert {r.method for r in seen} == {"cg"}
        assert seen[-1].relative_residual == pytest.approx(
            [c["relative_residual"] for c in info["certificate"]], rel=0.05
        )
        assert [r.hvps for r in seen] == sorted(r.hvps for r in seen)
        assert seen[-1].hvps <= info["hvps"]

    def test_what_has_converged_before_a_stop_stays_converged(self) -> None:
        case = small_mlp(F64)
        vectors = torch.linalg.eigh(case.H).eigenvectors
        b = torch.stack([vectors[:, -1], case.rhs(1)[0]])
        _, info = solve_hvp(
            "cg",
            case.model,
            case.batches(9),
            b,
            hessian_perturbation=case.damping,
            callback=lambda r: TerminationStatus.Cancelled if r.iteration == 3 else None,
        )
        assert [c["status"] for c in info["certificate"]] == ["converged", "cancelled"]

    def test_progress_is_drawn_on_stderr_and_taken_away(self, capfd: pytest.CaptureFixture[str]) -> None:
        case = logistic(F64)
        solve_hvp("cg", case.model, case.batches(9), case.rhs(1), hessian_perturbation=0.1, progress=True)
        assert capfd.readouterr().out == ""


def test_non_finite_weights_are_an_error() -> None:
    case = small_mlp(F64)
    with torch.no_grad():
        case.model.model[0].weight[0, 0] = torch.nan
    with pytest.raises(DataMismatch, match=r"loss is not finite.*weights"):
        Problem(case.model, batches_of(case.x, case.y, 9))
