"""The problem object: reuse, product strategies, and independence from what happens to the module."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ihvp.errors import InvalidInput
from solvers import Problem, TorchTwiceDifferentiable, solve_hvp
from solvers.operators import CurvatureOperator, chunk_curvature, planning
from tests.solvers.cases import CASES, dense_hessian, logistic, small_mlp

F64 = torch.float64


@pytest.mark.parametrize("strategy", ["graph", "linearized", "recomputed", "forward"])
@pytest.mark.parametrize("rows_at_once", [1, 3])
@pytest.mark.parametrize("name", CASES)
def test_every_product_strategy_gives_the_same_products(name: str, rows_at_once: int, strategy: Any) -> None:
    case = CASES[name](F64)
    problem = Problem(case.model, case.batches(7), strategy=strategy, memory_budget=100_000)
    from dataclasses import replace

    H = problem.hessian(1, 1)
    H.plan = replace(H.plan, rows_at_once=rows_at_once)
    V = case.rhs(5)
    for _ in range(2):
        torch.testing.assert_close(H(V), V @ case.H, rtol=1e-9, atol=1e-11)
    assert H.plan.product == strategy
    assert H.products_done == 10


def test_float64_sums_of_float32_products() -> None:
    case = small_mlp(torch.float32)
    H = Problem(case.model, case.batches(5)).hessian(1, 1)
    assert H(case.rhs(2), accumulate=F64).dtype == F64


class TestPlanning:
    def test_a_short_solve_is_not_measured(self) -> None:
        case = logistic(F64)
        info = Problem(case.model, case.batches(9)).solve("cg", case.rhs(1), hessian_perturbation=0.1).info
        assert info["strategy"]["product"] == "graph"
        assert "measured" not in info["strategy"]["why"]

    def test_a_long_solve_is_measured_and_says_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(planning, "WORTH_LINEARIZING", 0.0)
        case = small_mlp(F64)
        problem = Problem(case.model, case.batches(9))
        b = case.rhs(2)
        x, info = problem.solve("direct", b, hessian_perturbation=case.damping)
        assert "measured" not in info["strategy"]["why"]  # 51 products
        H = problem.hessian(1000, 16)
        assert "measured" in H.plan.why
        assert "linearized" in H.plan.why or H.plan.product == "linearized"
        torch.testing.assert_close(H(b), b @ case.H, rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(x, case.exact(b), rtol=1e-9, atol=1e-11)

    def test_a_strategy_that_gives_other_products_is_not_taken(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Stale(chunk_curvature.LinearizedProduct):
            def one(self, v: Any) -> Any:
                return tuple(0 * part for part in v)

        monkeypatch.setattr(planning, "WORTH_LINEARIZING", 0.0)
        monkeypatch.setitem(chunk_curvature.SECOND_DERIVATIVES, "linearized", Stale)
        case = small_mlp(F64)
        H = Problem(case.model, case.batches(9)).hessian(1000, 1)
        assert H.plan.product == "graph"
        assert "linearized gave other products" in H.plan.why

    def test_a_strategy_that_fails_is_not_taken(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Failing:
            def __init__(self, *_: Any) -> None:
                raise RuntimeError("no rule for this")

        monkeypatch.setattr(planning, "WORTH_LINEARIZING", 0.0)
        monkeypatch.setitem(chunk_curvature.SECOND_DERIVATIVES, "linearized", Failing)
        case = small_mlp(F64)
        H = Problem(case.model, case.batches(9)).hessian(1000, 1)
        assert H.plan.product == "graph"
        assert "linearising failed (RuntimeError: no rule for this)" in H.plan.why

    def test_an_operation_that_would_crash_the_tracer_is_left_alone(self, monkeypatch: Any) -> None:
        monkeypatch.setattr(planning, "WORTH_LINEARIZING", 0.0)
        case = CASES["least-squares"](F64)
        own = TorchTwiceDifferentiable(case.model.model, lambda o, t: F.mse_loss(o, t))
        H = Problem(own, case.batches(9)).hessian(1000, 1)
        assert H.plan.product == "graph"
        assert "cannot trace the second derivative of mse_loss" in H.plan.why
        V = case.rhs(2)
        torch.testing.assert_close(H(V), V @ case.H, rtol=1e-9, atol=1e-11)

    def test_a_trace_can_be_applied_again_and_again(self) -> None:
        # torch's trace of this loss updates one of its own constants in place.
        case = logistic(F64)
        H = Problem(case.model, case.batches(29), strategy="linearized").hessian(1, 1)
        for V in case.rhs(12).split(3):
            torch.testing.assert_close(H(V), V @ case.H, rtol=1e-9, atol=1e-11)

    def test_past_the_budget_graphs_are_dropped_after_use(self) -> None:
        case = small_mlp(F64, n=200)
        small = Problem(case.model, case.batches(50), memory_budget=20_000).hessian(10_000, 1)
        large = Problem(case.model, case.batches(50)).hessian(1, 1)
        V = case.rhs(1)
        torch.testing.assert_close(small(V), large(V))
        assert small._kept is None
        assert large._kept is not None
        assert f"the budget is {20_000}" in small.plan.why


class TestReuse:
    def test_a_second_solve_reuses_the_graphs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        case = logistic(F64)
        problem = Problem(case.model, case.batches(9))
        problem.solve("cg", case.rhs(1), hessian_perturbation=case.damping)
        monkeypatch.setitem(chunk_curvature.SECOND_DERIVATIVES, "graph", None)
        b = case.rhs(2, seed=9)
        x, _ = problem.solve("direct", b, hessian_perturbation=0.3)
        torch.testing.assert_close(x, case.exact(b, 0.3))

    def test_a_problem_is_training_data_of_its_own_model_only(self) -> None:
        case, other = logistic(F64), logistic(F64)
        problem = Problem(case.model, case.batches(9))
        assert Problem.of(case.model, problem) is problem
        assert Problem.of(other.model, problem) is not problem
        b = case.rhs(1)
        x, _ = solve_hvp("cg", case.model, problem, b, hessian_perturbation=case.damping, rtol=1e-9)
        torch.testing.assert_close(x, case.exact(b), rtol=1e-5, atol=1e-6)
        assert [len(y) for _, y in problem] == [9, 9, 9, 2]

    def test_solve_hvp_keeps_nothing_between_calls(self) -> None:
        case = logistic(F64)
        b, data = case.rhs(1), case.batches(9)
        before = solve_hvp("direct", case.model, data, b, hessian_perturbation=0.1).x
        with torch.no_grad():
            case.model.model.weight.mul_(3)
        after = solve_hvp("direct", case.model, data, b, hessian_perturbation=0.1).x
        assert float((before - after).norm() / before.norm()) > 0.01

    def test_a_problem_stays_where_it_was_made(self) -> None:
        case = small_mlp(F64)
        problem = Problem(case.model, case.batches(9), strategy="recomputed")
        with torch.no_grad():
            for parameter in case.model.model.parameters():
                parameter.mul_(0.5)
        V = case.rhs(2)
        torch.testing.assert_close(problem.hessian(1, 1)(V), V @ case.H, rtol=1e-9, atol=1e-11)

    def test_a_bare_module_is_refused_with_the_way_out(self) -> None:
        with pytest.raises(InvalidInput, match=r"Given: Linear.*TorchTwiceDifferentiable\(module, loss\)"):
            Problem(nn.Linear(1, 1), [])  # type: ignore[arg-type]

    def test_what_a_problem_knows(self) -> None:
        case = logistic(F64)
        problem = Problem(case.model, case.batches(9))
        assert (problem.num_params, problem.num_points, problem.dtype) == (6, 29, F64)
        with torch.no_grad():
            expected = case.model.mean_loss(case.x, case.y)
        assert problem.mean_loss == pytest.approx(float(expected))


class Attention(nn.Module):
    """Fused attention has no second derivative on its default kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(4, 12)
        self.out = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.reshape(*part.shape[:2], 2, 2).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(mixed.transpose(1, 2).reshape(x.shape)).mean(dim=1)


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, batch_first=True)
        self.out = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.layer(x).mean(dim=1))


@pytest.mark.parametrize("strategy", ["graph", "linearized", "recomputed", "forward"])
@pytest.mark.parametrize("module", [Attention, Encoder])
def test_attention_has_second_derivatives(module: type[nn.Module], strategy: Any) -> None:
    torch.manual_seed(0)
    model = TorchTwiceDifferentiable(module().double().eval(), nn.CrossEntropyLoss())
    x, y = torch.randn(6, 3, 4, dtype=F64), torch.randint(0, 2, (6,))
    data = [(x[:4], y[:4]), (x[4:], y[4:])]
    V = torch.randn(2, model.num_params, dtype=F64)
    H: CurvatureOperator = Problem(model, data, strategy=strategy).hessian(1, 1)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        dense = dense_hessian(model.model, lambda m: F.cross_entropy(m(x), y))
    torch.testing.assert_close(H(V), V @ dense, rtol=1e-8, atol=1e-10)
