"""DataInf against its closed form, computed densely point by point; and all that it says of itself."""

from __future__ import annotations

import json
import math
from fnmatch import fnmatchcase

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ihvp.errors import InvalidOption, UnknownOption, UnknownParameters
from solvers import IterationReport, Problem, TerminationStatus, TorchTwiceDifferentiable, solve_hvp
from tests.solvers.cases import batches_of, small_mlp
from tests.solvers.kronecker_cases import CASES, F64, Layered, layered


def gradients(case: Layered) -> list[Tensor]:
    """Of each point's own loss by each parameter tensor, ``[n, size]``, by one backward pass a point."""
    parameters = [p for p in case.module.parameters() if p.requires_grad]
    rows = []
    for x, y in zip(case.x, case.y, strict=True):
        loss = case.loss(case.module(x[None]), y[None])
        # A point whose target is ignored has no loss of its own.
        loss = loss if bool(loss.isfinite()) else 0.0 * sum(p.sum() for p in parameters)
        rows.append(torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True))
    return [torch.stack([row[i].reshape(-1) for row in rows]) for i in range(len(parameters))]


def closed_form(case: Layered, b: Tensor, damping: float | dict[str, float]) -> Tensor:
    """(1/n) Σ (gᵢ gᵢᵀ + λI)⁻¹ b, block by block, each inverse by a dense solve."""
    patterns = damping if isinstance(damping, dict) else {"*": damping}
    names = [name for name, p in case.module.named_parameters() if p.requires_grad]
    parts, start = [], 0
    for name, G in zip(names, gradients(case), strict=True):
        size = G.shape[1]
        value = [v for pattern, v in patterns.items() if fnmatchcase(name, pattern)][-1]
        rhs = b[:, start : start + size].T
        inverses = [torch.linalg.solve(torch.outer(g, g) + value * torch.eye(size, dtype=F64), rhs) for g in G]
        parts.append((sum(inverses) / len(G)).T)
        start += size
    return torch.cat(parts, dim=1)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


class TestClosedForm:
    @pytest.mark.parametrize("name", CASES)
    @pytest.mark.parametrize("size", [1, 4, 100])
    def test_every_kind_of_layer(self, name: str, size: int) -> None:
        case = layered(name)
        problem = case.problem(size)
        b = numbers(3, problem.num_params)
        x, info = problem.solve("datainf", b, hessian_perturbation=0.05)
        torch.testing.assert_close(x, closed_form(case, b, 0.05), rtol=1e-9, atol=1e-10)
        means = [float(G.square().sum(1).mean()) for G in gradients(case)]
        assert list(info["mean_squared_gradients"].values()) == pytest.approx(means, rel=1e-9, abs=1e-14)
        assert list(info["mean_squared_gradients"]) == list(problem.snapshot.names)

    @pytest.mark.parametrize(
        "damping", [0.3, {"*": 0.1, "*.bias": 0.7, "2.*": 0.2}, {"*": 0.5, "0.bias": 0.01}], ids=str
    )
    def test_lambda_by_parameter(self, damping: float | dict[str, float]) -> None:
        case = layered("mlp")
        b = numbers(2, 43)
        x, info = case.problem().solve("datainf", b, hessian_perturbation=damping)
        torch.testing.assert_close(x, closed_form(case, b, damping), rtol=1e-10, atol=1e-12)
        assert info["hessian_perturbation"] == damping

    def test_float32(self) -> None:
        case = layered("convolutions")
        b = numbers(2, sum(p.numel() for p in case.module.parameters()))
        exact = closed_form(case, b, 0.1)
        model = TorchTwiceDifferentiable(case.module.float(), case.loss)
        x, _ = solve_hvp("datainf", model, [(case.x.float(), case.y.float())], b.float(), hessian_perturbation=0.1)
        assert x.dtype == torch.float32
        assert float((x.double() - exact).norm() / exact.norm()) < 1e-5

    def test_one_vector_comes_back_as_one_and_k_are_the_same_as_each(self) -> None:
        problem = layered("attention").problem()
        b = numbers(3, problem.num_params)
        together = problem.solve("datainf", b, hessian_perturbation=0.1).x
        for row, mine in zip(b, together, strict=True):
            alone = problem.solve("datainf", row, hessian_perturbation=0.1).x
            assert alone.shape == row.shape
            torch.testing.assert_close(alone, mine, rtol=1e-12, atol=1e-13)

    def test_batching_order_and_the_memory_budget_do_not_matter(self) -> None:
        case = layered("convolutions")
        b = numbers(2, case.problem().num_params)
        expected = case.problem(9).solve("datainf", b, hessian_perturbation=0.02).x
        order = torch.tensor([4, 0, 8, 2, 1, 7, 3, 6, 5])
        for size in (1, 2, 7):
            data = batches_of(case.x[order], case.y[order], size)
            model = TorchTwiceDifferentiable(case.module, case.loss)
            for budget in (2**30, 40_000):
                problem = Problem(model, data, memory_budget=budget)
                x = problem.solve("datainf", b, hessian_perturbation=0.02).x
                torch.testing.assert_close(x, expected, rtol=1e-11, atol=1e-12)

    def test_a_layer_wider_than_its_factors_could_be_is_still_taken_apart(self) -> None:
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 300)).double()
        case = Layered(
            module, nn.CrossEntropyLoss(), numbers(5, 4), torch.arange(5), set(), nn.CrossEntropyLoss(), 5.0
        )
        problem = Problem(TorchTwiceDifferentiable(module, case.loss), [(case.x, case.y)], memory_budget=100_000)
        b = numbers(1, problem.num_params)
        x = problem.solve("datainf", b, hessian_perturbation=0.1).x
        torch.testing.assert_close(x, closed_form(case, b, 0.1), rtol=1e-9, atol=1e-11)


class TestWhereItIsExact:
    @pytest.mark.parametrize("dtype", [torch.float32, F64], ids=["float32", "float64"])
    def test_one_point_and_one_parameter_solve_the_empirical_fisher_matrix(self, dtype: torch.dtype) -> None:
        torch.manual_seed(0)
        module = nn.Linear(4, 3, bias=False).to(dtype)
        problem = Problem(
            TorchTwiceDifferentiable(module, F.cross_entropy),
            [(numbers(1, 4).to(dtype), torch.tensor([1]))],
            curvature="empirical_fisher",
        )
        b = numbers(3, 12).to(dtype)
        x, info = problem.solve("datainf", b, hessian_perturbation=0.2)
        assert {c["status"] for c in info["certificate"]} == {"converged"}
        exact = problem.solve("direct", b, hessian_perturbation=0.2).x
        assert float((x - exact).norm() / exact.norm()) < (1e-5 if dtype == torch.float32 else 1e-12)

    def test_large_lambda_gives_b_over_it(self) -> None:
        problem = layered("mlp").problem()
        b = numbers(2, 43)
        for damping in (1e4, 1e8):
            x = problem.solve("datainf", b, hessian_perturbation=damping).x
            assert float((damping * x - b).norm() / b.norm()) < 10 / damping


class TestCertificate:
    def test_it_is_for_h_whichever_that_is(self) -> None:
        case = small_mlp(F64)
        b = case.rhs(2)
        x, info = solve_hvp("datainf", case.model, case.batches(9), b, hessian_perturbation=case.damping)
        for entry, true in zip(info["certificate"], case.residual(x, b), strict=True):
            assert entry["status"] == "approximate"
            assert entry["relative_residual"] == pytest.approx(true, rel=1e-9)
            assert "mean of inverses" in entry["advice"]
            assert "ekfac" in entry["advice"]
        loose = solve_hvp("datainf", case.model, case.batches(9), b, hessian_perturbation=case.damping, rtol=0.999)
        assert {c["status"] for c in loose.info["certificate"]} == {"converged"}

    def test_info_is_json_ready_and_a_zero_vector_is_solved_by_zero(self) -> None:
        problem = layered("attention").problem()
        b = torch.zeros(2, problem.num_params, dtype=F64)
        b[0] = 1.0
        x, info = problem.solve("datainf", b, hessian_perturbation=0.1)
        assert json.loads(json.dumps(info, allow_nan=False))["method"] == "datainf"
        assert not x[1].any()
        assert info["certificate"][1]["status"] == "converged"
        assert "out_of_memory" not in info["strategy"]

    @pytest.mark.parametrize("status", [TerminationStatus.Cancelled, TerminationStatus.Deadline])
    def test_a_stop_is_obeyed_within_a_chunk(self, status: TerminationStatus) -> None:
        case = layered("mlp")
        problem = Problem(TorchTwiceDifferentiable(case.module, case.loss), case.batches(4), memory_budget=8_000)
        seen: list[IterationReport] = []

        def stop(report: IterationReport) -> TerminationStatus | None:
            seen.append(report)
            return status if len(seen) == 2 else None

        x, info = problem.solve("datainf", torch.ones(43, dtype=F64), hessian_perturbation=0.1, callback=stop)
        assert len(seen) == 2
        assert 0 < seen[0].iteration < seen[1].iteration < seen[1].max_iterations == 13
        assert not x.any()
        assert info["certificate"][0]["status"] == status.value
        assert info["mean_squared_gradients"] is None


class TestBadInput:
    def test_lambda_must_be_positive_and_is_looked_at_before_the_data(self) -> None:
        case = layered("mlp")

        class Untouched:
            def __iter__(self) -> object:
                raise AssertionError("the data were gone through")

        model, b = TorchTwiceDifferentiable(case.module, case.loss), torch.ones(43, dtype=F64)
        with pytest.raises(InvalidOption, match=r"datainf.*needs λ > 0.*Given: hessian_perturbation=0\..*minres"):
            solve_hvp("datainf", model, Untouched(), b)  # type: ignore[arg-type]
        for damping in ({"*": 1.0, "0.*": 0.0}, {"0.*": 1.0}, -0.1, math.nan, math.inf, "big"):
            with pytest.raises(InvalidOption):
                solve_hvp("datainf", model, Untouched(), b, hessian_perturbation=damping)  # type: ignore[arg-type]
        with pytest.raises(UnknownParameters, match=r"7\.\*"):
            solve_hvp("datainf", model, Untouched(), b, hessian_perturbation={"*": 1.0, "7.*": 2.0})  # type: ignore[arg-type]

    def test_auto_chooses_one(self) -> None:
        info = layered("mlp").problem().solve("datainf", numbers(1, 43), hessian_perturbation="auto").info
        assert info["hessian_perturbation"] > 0
        assert info["auto_perturbation"]["chosen"] == info["hessian_perturbation"]

    def test_options_are_strict(self) -> None:
        case = layered("mlp")
        b = torch.ones(43, dtype=F64)
        for value in (0.0, 1.0, "1e-3", True):
            with pytest.raises(InvalidOption, match="'rtol' of method 'datainf'"):
                case.problem().solve("datainf", b, hessian_perturbation=1.0, rtol=value)
        with pytest.raises(UnknownOption, match="rank"):
            case.problem().solve("datainf", b, hessian_perturbation=1.0, rank=3)
