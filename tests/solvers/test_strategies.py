"""Ways to compute products: all give the same ones, and the choice between them is measured and told."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ihvp.errors import InvalidOption
from ihvp.methods import Curvature
from ihvp.models.architectures import CnnConfig, MlpConfig, TransformerLmConfig
from solvers import Problem, TorchTwiceDifferentiable
from solvers.operators import chunk_curvature, planning, products, trials
from solvers.operators.recording import Recording
from tests.solvers.cases import CASES, logistic, small_mlp
from workers.architectures import build_built_in
from workers.resolvers.losses import classes_second

F64 = torch.float64
STRATEGIES = ["graph", "linearized", "recomputed", "forward"]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("rows_at_once", [1, 3])
@pytest.mark.parametrize("name", CASES)
def test_products_of_the_hessian_against_the_oracle(name: str, rows_at_once: int, strategy: Any) -> None:
    case = CASES[name](F64)
    problem = Problem(case.model, case.batches(7), strategy=strategy, memory_budget=100_000)
    H = problem.hessian(1, 1)
    H.plan = replace(H.plan, rows_at_once=rows_at_once)
    V = case.rhs(5)
    for _ in range(2):
        torch.testing.assert_close(H(V), V @ case.H, rtol=1e-9, atol=1e-11)
    assert H.plan.product == strategy
    assert H.products_done == 10


def mlp() -> tuple[nn.Module, Tensor, Tensor]:
    module = build_built_in(MlpConfig(in_features=5, hidden=[7, 6], out_features=3, activation="gelu"))
    return module, torch.randn(12, 5), torch.randint(0, 3, (12,))


def cnn() -> tuple[nn.Module, Tensor, Tensor]:
    module = build_built_in(CnnConfig(in_channels=1, height=4, width=4, channels=[3, 4], out_features=3))
    return module, torch.randn(8, 1, 4, 4), torch.randint(0, 3, (8,))


def transformer() -> tuple[nn.Module, Tensor, Tensor]:
    config = TransformerLmConfig(vocabulary=7, context=5, width=6, heads=2, layers=1)
    y = torch.randint(0, 7, (6, 5))
    y[0, 2:] = -100
    return classes_second(build_built_in(config)), torch.randint(0, 7, (6, 5)), y


ARCHITECTURES = {"mlp": mlp, "cnn": cnn, "transformer-lm": transformer}


@pytest.mark.parametrize(
    ("architecture", "curvature", "dtype"),
    [(a, c, d) for a in ARCHITECTURES for c in ("hessian", "ggn") for d in (torch.float32, F64)]
    + [("mlp", c.value, F64) for c in Curvature if "fisher" in c.value],
)
def test_all_strategies_give_the_same_products(architecture: str, curvature: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    module, x, y = ARCHITECTURES[architecture]()
    module = module.to(dtype).eval()
    x = x.to(dtype) if x.is_floating_point() else x
    problem = Problem(TorchTwiceDifferentiable(module, nn.CrossEntropyLoss()), [(x, y)], curvature=curvature)
    V = torch.randn(3, problem.num_params, dtype=F64, generator=torch.Generator().manual_seed(1)).to(dtype)
    found: dict[str, Tensor] = {}
    for product in STRATEGIES:
        for rows in (1, 3):
            problem.pin({"product": product, "rows_at_once": rows, "chunk_points": 100})
            found[f"{product} {rows}"] = problem.hessian(1, 3)(V)
    reference = found.pop("recomputed 1")
    tolerance = 2e-5 if dtype == torch.float32 else 1e-12
    for way, other in found.items():
        assert float((other - reference).norm() / reference.norm()) < tolerance, way


@pytest.fixture
def _eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is too cheap to be measured."""
    monkeypatch.setattr(planning, "FIRST_SHARE", 0.0)
    monkeypatch.setattr(planning, "SHARE", math.inf)
    monkeypatch.setattr(planning, "LINEARIZED_SHARE", math.inf)
    monkeypatch.setattr(planning, "LEAST_AHEAD", 0.0)


UNBATCHED = torch.library.Library("ihvp_tests", "DEF")
UNBATCHED.define("copied(Tensor x) -> Tensor")
UNBATCHED.impl("copied", lambda x: x.clone(), "CPU")


class _RowByRow(torch.autograd.Function):
    """The identity, whose gradient goes through an operation that torch cannot batch."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> Tensor:
        return torch.ops.ihvp_tests.copied(grad[0])


class _Failing:
    def __init__(self, *_: Any) -> None:
        raise RuntimeError("no rule for this")


class _Peeking(torch.autograd.Function):
    """The identity, by an author who looks at each gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> Tensor:
        return grad[0] if float(grad[0].abs().sum()) > 0 else grad[0] * 1.0


def test_a_short_solve_is_not_measured() -> None:
    case = logistic(F64)
    problem = Problem(case.model, case.batches(9))
    plan = problem.hessian(1, 1).plan
    assert plan.product == "graph"
    assert "the budget is" in plan.why
    info = problem.solve("cg", case.rhs(1), hessian_perturbation=0.1).info
    assert info["strategy"]["measured"] == {}


@pytest.mark.usefixtures("_eager")
class TestMeasuring:
    @pytest.mark.parametrize("curvature", ["hessian", "ggn"])
    def test_the_fastest_measured_is_taken_and_all_are_told(self, curvature: str) -> None:
        case = small_mlp(F64)
        problem = Problem(case.model, case.batches(9), curvature=curvature)
        b = case.rhs(16)
        H = problem.hessian(1000, 16)
        info = problem.solve("cg", b, hessian_perturbation=case.damping).info["strategy"]
        tried = {way.split(",")[0] for way in info["measured"]}
        assert tried == {"graph", "linearized", "linearized × 16 rows"}
        assert "measured best of" in info["why"]
        assert planning.name(H.plan) in info["measured"]
        assert json.loads(json.dumps(info)) == info
        expected = Problem(case.model, case.batches(9), curvature=curvature, strategy="recomputed").hessian(1, 1)(b)
        torch.testing.assert_close(H(b), expected, rtol=1e-9, atol=1e-11)

    @pytest.mark.parametrize("fastest", ["linearized", "linearized × 4 rows"])
    def test_the_fastest_is_chosen(self, fastest: str, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self._chosen({fastest: 1e-3}, monkeypatch) == fastest

    @pytest.mark.parametrize("fastest", ["graph", "graph × 4 rows"])
    def test_what_cannot_be_recorded_is_differentiated_in_the_fastest_way(
        self, fastest: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(chunk_curvature, "LinearizedProduct", _Failing)
        assert self._chosen({fastest: 1e-3}, monkeypatch) == fastest

    @pytest.mark.parametrize(("seconds", "chosen"), [(2.1e-3, "linearized"), (2.5e-3, "graph")])
    def test_a_record_as_fast_as_the_graph_takes_its_place(
        self, seconds: float, chosen: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert self._chosen({"linearized": seconds, "linearized × 4 rows": 1.0}, monkeypatch) == chosen

    @staticmethod
    def _chosen(seconds: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> str:
        """The plan, in words, where the others take 2 ms."""

        def measured(trial: trials.Trial, V: Tensor) -> float:
            return seconds.get(trials.name(trial.plan).split(",")[0], 2e-3)

        monkeypatch.setattr(trials.Trial, "seconds", measured)
        case = small_mlp(F64)
        problem = Problem(case.model, case.batches(9))
        plan = problem.hessian(1000, 4).plan
        torch.testing.assert_close(problem.hessian(1, 4)(case.rhs(4)), case.rhs(4) @ case.H, rtol=1e-9, atol=1e-11)
        way = trials.name(plan)
        assert plan.measured[way] == 1e3 * seconds.get(way.split(",")[0], 2e-3)
        return way.split(",")[0]

    def test_past_the_budget_what_keeps_nothing_is_measured(self) -> None:
        case = small_mlp(F64, n=200)
        problem = Problem(case.model, case.batches(50), memory_budget=20_000)
        H = problem.hessian(10_000, 4)
        tried = {way.split(",")[0] for way in H.plan.measured}
        assert tried == {"recomputed", "forward", "recomputed × 4 rows", "forward × 4 rows"}
        assert not H.kept.products
        large = Problem(case.model, case.batches(50)).hessian(1, 1)
        V = case.rhs(3)
        torch.testing.assert_close(H(V), large(V), rtol=1e-9, atol=1e-11)

    def test_a_strategy_that_gives_other_products_is_not_taken(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Stale(chunk_curvature.LinearizedProduct):
            def one(self, v: Any) -> Any:
                found, self.used = super().one(v), getattr(self, "used", 0) + 1
                return found if self.used == 1 else tuple(0 * part for part in found)

        monkeypatch.setattr(chunk_curvature, "LinearizedProduct", Stale)
        case = small_mlp(F64)
        H = Problem(case.model, case.batches(9)).hessian(1000, 1)
        assert H.plan.product == "graph"
        assert "linearized, 37 points gave other products" in H.plan.why

    def test_a_record_is_compared_with_what_was_recorded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def spoilt(recording: Recording) -> None:
            for name, constant in recording.trace.named_buffers():
                setattr(recording.trace, name, 2 * constant)

        monkeypatch.setattr(products, "fuse", spoilt)
        case = small_mlp(F64)
        H = Problem(case.model, case.batches(9)).hessian(1000, 1)
        assert H.plan.product == "graph"
        assert "the record gave other products" in H.plan.why
        with pytest.raises(products.OtherProducts):
            Problem(case.model, case.batches(9), strategy="linearized").hessian(1, 1)(case.rhs(1))

    def test_a_strategy_that_fails_is_not_taken(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(chunk_curvature, "LinearizedProduct", _Failing)
        case = small_mlp(F64)
        H = Problem(case.model, case.batches(9)).hessian(1000, 1)
        assert H.plan.product == "graph"
        assert "linearized, 37 points failed (RuntimeError: no rule for this)" in H.plan.why

    def test_a_loss_that_torchs_own_tracer_dies_of_is_linearised(self) -> None:
        # torch.func.linearize ends the process on the second derivative of mse_loss.
        case = CASES["least-squares"](F64)
        own = TorchTwiceDifferentiable(case.model.model, lambda o, t: F.mse_loss(o, t))
        H = Problem(own, case.batches(9), strategy="linearized").hessian(1, 1)
        V = case.rhs(2)
        torch.testing.assert_close(H(V), V @ case.H, rtol=1e-9, atol=1e-11)
        assert H.plan.product == "linearized"

    def test_what_looks_at_the_values_of_a_vector_is_not_recorded(self) -> None:
        case = small_mlp(F64)
        own = TorchTwiceDifferentiable(case.model.model, lambda o, t: F.cross_entropy(_Peeking.apply(o), t))
        H = Problem(own, case.batches(9)).hessian(1000, 1)
        assert H.plan.product == "graph"
        assert "linearized, 37 points failed (Unrecordable: aten._local_scalar_dense.default looks" in H.plan.why

    def test_single_vectors_and_blocks_have_plans_of_their_own(self, monkeypatch: pytest.MonkeyPatch) -> None:
        case = small_mlp(F64)
        problem = Problem(case.model, case.batches(9))
        problem.hessian(1000, 16)
        assert problem.hessian(1000, 1).plan.rows_at_once == 1


class TestFirstPlan:
    """What is taken without a measurement."""

    @pytest.fixture(autouse=True)
    def _long_solves(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(planning, "FIRST_SHARE", math.inf)
        monkeypatch.setattr(planning, "LEAST_AHEAD", math.inf)

    def test_blocks_on_a_small_model_go_together(self) -> None:
        case = logistic(F64)
        problem = Problem(case.model, case.batches(9))
        H = problem.hessian(100, 8)
        assert (H.plan.product, H.plan.rows_at_once, H.plan.measured) == ("linearized", 8, {})
        torch.testing.assert_close(H(case.rhs(8)), case.rhs(8) @ case.H, rtol=1e-9, atol=1e-11)
        # Single vectors use the same record.
        single = problem.hessian(1, 1)
        assert (single.plan.product, single.plan.rows_at_once) == ("linearized", 1)
        assert single.kept is H.kept

    def test_blocks_on_a_large_graph_go_one_by_one(self) -> None:
        case = small_mlp(F64, n=200)
        needed = re.search(r"need (\S+) bytes", Problem(case.model, case.batches(50)).hessian(0, 1).plan.why)
        assert needed is not None
        problem = Problem(case.model, case.batches(50), memory_budget=int(8 * float(needed[1])))
        plan = problem.hessian(100, 8).plan
        assert (plan.product, plan.rows_at_once) == ("linearized", 1)

    def test_an_operation_without_a_batching_rule_goes_row_by_row(self) -> None:
        case = small_mlp(F64)
        own = TorchTwiceDifferentiable(case.model.model, lambda o, t: F.cross_entropy(_RowByRow.apply(o), t))
        H = Problem(own, case.batches(9)).hessian(100, 4)
        assert (H.plan.product, H.plan.rows_at_once) == ("linearized", 1)
        torch.testing.assert_close(H(case.rhs(4)), case.rhs(4) @ case.H, rtol=1e-9, atol=1e-11)

    def test_what_cannot_be_recorded_is_differentiated(self) -> None:
        case = small_mlp(F64)
        own = TorchTwiceDifferentiable(case.model.model, lambda o, t: F.cross_entropy(_Peeking.apply(o), t))
        H = Problem(own, case.batches(9)).hessian(100, 4)
        assert (H.plan.product, H.plan.rows_at_once) == ("graph", 1)
        torch.testing.assert_close(H(case.rhs(4)), case.rhs(4) @ case.H, rtol=1e-9, atol=1e-11)


def test_a_trace_can_be_applied_again_and_again() -> None:
    # torch's trace of this loss updates one of its own constants in place.
    case = logistic(F64)
    H = Problem(case.model, case.batches(29), strategy="linearized").hessian(1, 1)
    for V in case.rhs(12).split(3):
        torch.testing.assert_close(H(V), V @ case.H, rtol=1e-9, atol=1e-11)


def test_past_the_budget_graphs_are_dropped_after_use() -> None:
    case = small_mlp(F64, n=200)
    small = Problem(case.model, case.batches(50), memory_budget=20_000).hessian(1, 1)
    large = Problem(case.model, case.batches(50)).hessian(1, 1)
    V = case.rhs(1)
    torch.testing.assert_close(small(V), large(V))
    assert not small.kept.products
    assert large.kept.complete
    assert f"the budget is {20_000}" in small.plan.why


class TestPin:
    def test_a_pinned_problem_repeats_a_solve_to_the_last_bit(self) -> None:
        case = small_mlp(torch.float32)
        b = case.rhs(4)

        def solve(problem: Problem) -> Any:
            return problem.solve("cg", b, hessian_perturbation=case.damping, rtol=1e-5, atol=0.0)

        first = Problem(case.model, case.batches(9))
        first.pin({"product": "forward", "rows_at_once": 4, "chunk_points": 10, "why": "elsewhere"})
        expected = solve(first)
        again = Problem(case.model, case.batches(9))
        again.hessian(1, 1)(b)  # whatever it did before
        again.pin(json.loads(json.dumps(expected.info["strategy"])))
        found = solve(again)
        assert torch.equal(found.x, expected.x)
        assert found.info["strategy"] == expected.info["strategy"]
        assert found.info["strategy"]["why"] == "elsewhere"

    def test_none_chooses_again(self) -> None:
        case = small_mlp(F64)
        problem = Problem(case.model, case.batches(9))
        problem.pin({"product": "forward", "rows_at_once": 1, "chunk_points": 3})
        assert problem.hessian(1, 1).plan.chunk_points == 3
        problem.pin(None)
        # Single vectors, which were pinned, and blocks, which were not.
        assert [problem.hessian(1, rows).plan.product for rows in (1, 4)] == ["graph", "graph"]

    @pytest.mark.parametrize(
        "plan",
        [
            {},
            {"product": "graph"},
            {"product": "magic", "rows_at_once": 1, "chunk_points": 1},
            {"product": "graph", "rows_at_once": 0, "chunk_points": 1},
        ],
    )
    def test_what_is_no_plan_is_refused(self, plan: Any) -> None:
        case = small_mlp(F64)
        with pytest.raises(InvalidOption, match=r"no product strategy.*info"):
            Problem(case.model, case.batches(9)).pin(plan)


class TestAttention:
    def test_the_switch_of_kernels_is_told(self) -> None:
        torch.manual_seed(0)
        module, x, y = transformer()
        problem = Problem(TorchTwiceDifferentiable(module.eval(), nn.CrossEntropyLoss()), [(x, y)])
        info = problem.solve("cg", torch.ones(problem.num_params), hessian_perturbation=1.0, maxiter=2).info
        assert "math kernel" in info["strategy"]["attention"]

    @pytest.mark.parametrize("module", [nn.TransformerEncoderLayer, nn.MultiheadAttention])
    def test_torchs_own_modules_are_noticed(self, module: Callable[..., nn.Module]) -> None:
        class Mean(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = module(4, 2, batch_first=True)
                self.out = nn.Linear(4, 2)

            def forward(self, x: Tensor) -> Tensor:
                mixed = self.inner(x) if module is nn.TransformerEncoderLayer else self.inner(x, x, x)[0]
                return self.out(mixed.mean(dim=1))  # type: ignore[no-any-return]

        model = TorchTwiceDifferentiable(Mean().eval(), nn.CrossEntropyLoss())
        problem = Problem(model, [(torch.randn(5, 3, 4), torch.tensor([0, 1, 0, 1, 1]))])
        assert "attention" in problem.description

    def test_a_model_without_it_says_nothing(self) -> None:
        case = small_mlp(F64)
        assert "attention" not in Problem(case.model, case.batches(9)).description
