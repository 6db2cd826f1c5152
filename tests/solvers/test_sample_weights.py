"""Points that count more or less than once: H is that of the data with each point repeated, to the last share."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ihvp.errors import DataMismatch, InvalidSampleWeights, RowsMismatch
from solvers import Problem, TorchTwiceDifferentiable, influence_scores, loss_gradients, solve_hvp
from tests.solvers.cases import METHODS, Case, Method, dense_hessian, options_for, small_mlp
from tests.solvers.fisher import dense_factor
from tests.solvers.kronecker_cases import Layered, factor_of, layered
from tests.solvers.test_curvature import LOSSES, case, dense_ggn, dense_of, divisor_of, jacobian
from tests.solvers.test_datainf import closed_form
from tests.solvers.test_out_of_memory import Small

F64 = torch.float64
SHARE = 0.375
"""What a weight of one repetition is: H does not depend on it."""


class SquaredByToken(nn.Module):
    """A loss that says itself how it normalises: squares over the numbers that are not NaN."""

    def numerator(self, output: Tensor, target: Tensor) -> Tensor:
        return torch.where(target.isnan(), 0.0, output - target.nan_to_num()).square().sum()

    def denominator(self, output: Tensor, target: Tensor) -> Tensor:
        return (~target.isnan()).sum()

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return self.numerator(output, target) / self.denominator(output, target)


def own(output: Tensor, target: Tensor) -> Tensor:
    """A mean of which nothing is known but what can be tried out."""
    return (output - target).square().square().mean(dim=1).mean()


def example(name: str) -> tuple[nn.Module, Any, Tensor, Tensor]:
    if name == "declared":
        model, _, x, y = case("mse")
        y = y.clone()
        y[[0, 3, 3], [1, 0, 2]] = torch.nan
        return model, SquaredByToken(), x, y
    if name == "own":
        model, _, x, y = case("mse")
        return model, own, x, y
    return case(name)


def repetitions(n: int) -> Tensor:
    """How often each point stands in the repeated data; some never."""
    return torch.tensor([2, 0, 1, 3, 1, 4, 0, 1, 2, 1, 5])[:n]


def weighted(x: Tensor, y: Tensor, times: Tensor, size: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    w = SHARE * times.double()
    return [(x[i : i + size], y[i : i + size], w[i : i + size]) for i in range(0, len(x), size)]


def problem(model: nn.Module, loss: Any, data: Any, curvature: str = "hessian", **options: Any) -> Problem:
    return Problem(TorchTwiceDifferentiable(model, loss), data, curvature=curvature, **options)


@pytest.mark.parametrize("size", [1, 4, 11])
@pytest.mark.parametrize("name", [*LOSSES, "declared", "own"])
def test_the_hessian_is_that_of_repeated_points(name: str, size: int) -> None:
    model, loss, x, y = example(name)
    times = repetitions(len(x))
    many_x, many_y = x.repeat_interleave(times, dim=0), y.repeat_interleave(times, dim=0)
    expected = dense_hessian(model, lambda m: loss(m(many_x), many_y)) / divisor_of(loss, many_y)
    made = problem(model, loss, weighted(x, y, times, size))
    torch.testing.assert_close(dense_of(made), expected, rtol=1e-9, atol=1e-11)
    with torch.no_grad():
        assert made.mean_loss == pytest.approx(float(loss(model(many_x), many_y)) / divisor_of(loss, many_y))
    assert made.num_points == len(x)


@pytest.mark.parametrize("strategy", ["graph", "recomputed", "linearized", "forward"])
@pytest.mark.parametrize("curvature", ["hessian", "ggn", "fisher", "empirical_fisher"])
def test_each_way_to_compute_products(curvature: str, strategy: str) -> None:
    model, loss, x, y = example("weighted")
    times = repetitions(len(x))
    plain = problem(model, loss, [(x.repeat_interleave(times, dim=0), y.repeat_interleave(times))], curvature)
    made = problem(model, loss, weighted(x, y, times, 3), curvature, strategy=strategy)
    torch.testing.assert_close(dense_of(made), dense_of(plain), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("curvature", ["ggn", "fisher"])
@pytest.mark.parametrize("name", LOSSES)
def test_gauss_newton_and_fisher_matrices_weigh_the_curvature_in_the_outputs(name: str, curvature: str) -> None:
    model, loss, x, y = example(name)
    times = repetitions(len(x))
    many_x, many_y = x.repeat_interleave(times, dim=0), y.repeat_interleave(times, dim=0)
    expected = dense_ggn(model, loss, many_x, many_y, divisor_of(loss, many_y))
    found = dense_of(problem(model, loss, weighted(x, y, times, 3), curvature))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", ["weighted", "tokens", "mse", "declared"])
def test_the_empirical_fisher_weighs_outer_products(name: str) -> None:
    model, loss, x, y = example(name)
    w = SHARE * repetitions(len(x)).double()
    rows = [
        jacobian(model, lambda i=i: loss(model(x[i : i + 1]), y[i : i + 1]).nan_to_num())[0] for i in range(len(y))
    ]
    G = torch.stack(rows).nan_to_num()
    expected = (w[:, None] * G).T @ G / w.sum()
    found = dense_of(problem(model, loss, weighted(x, y, repetitions(len(x)), 4), "empirical_fisher"))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", ["smooth", "tokens", "bce_with_logits"])
def test_a_draw_counts_with_its_points_weight(name: str) -> None:
    """Each point has one draw, whatever its weight; H is linear in the weights of the draws."""
    model, loss, x, y = example(name)
    w = SHARE * repetitions(len(x)).double()
    made = problem(model, loss, weighted(x, y, repetitions(len(x)), 4), "mc_fisher", seed=3)
    total = torch.zeros_like(dense_of(made))
    for i in range(len(x)):
        alone = torch.zeros(len(x), dtype=F64)
        alone[i] = 1.0
        if name == "tokens" and bool((y[i] == -100).all()):
            continue
        if name == "smooth" and int(y[i]) == 1:  # ignored
            continue
        single = problem(model, loss, [(x, y, alone)], "mc_fisher", seed=3)
        total += w[i] * single.denominator * dense_of(single)
    torch.testing.assert_close(dense_of(made), total / made.denominator, rtol=1e-9, atol=1e-11)


def reweighted() -> tuple[Case, Tensor, list[tuple[Tensor, Tensor, Tensor]]]:
    """The small network, its H under weights that are no whole numbers, and its data with them."""
    plain = small_mlp(F64)
    w = torch.rand(len(plain.x), generator=torch.Generator().manual_seed(5), dtype=F64) * 3
    w[::7] = 0.0
    losses = nn.CrossEntropyLoss(reduction="none")
    H = dense_hessian(plain.model.model, lambda m: (w * losses(m(plain.x), plain.y)).sum() / w.sum())
    damping = 0.2 - float(torch.linalg.eigvalsh(H)[0])
    batches = [(plain.x[i : i + 10], plain.y[i : i + 10], w[i : i + 10]) for i in range(0, len(w), 10)]
    return Case("weighted", plain.model, plain.x, plain.y, H, damping), w, batches


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_every_method_solves_with_the_weighted_hessian(method: Method) -> None:
    weighty, w, batches = reweighted()
    if method.name == "lissa":  # converges on one batch; on several it only comes near
        batches = [(weighty.x, weighty.y, w)]
    b = weighty.rhs(2)
    options = options_for(method, weighty)
    x, info = solve_hvp(method.name, weighty.model, batches, b, hessian_perturbation=weighty.damping, **options)
    exact = weighty.exact(b)
    assert float((x - exact).norm() / exact.norm()) < method.error64
    for entry, true in zip(info["certificate"], weighty.residual(x, b), strict=True):
        assert entry["relative_residual"] == pytest.approx(true, rel=0.1, abs=1e-12)


def test_the_mean_of_minibatches_is_the_weighted_hessian() -> None:
    weighty, _, batches = reweighted()
    made = Problem(weighty.model, batches)
    estimates = made.minibatches()
    unit = torch.eye(weighty.p, dtype=F64)
    mean = torch.stack([estimates.product(i, unit) for i in range(len(estimates))]).mean(dim=0)
    torch.testing.assert_close(mean, weighty.H, rtol=1e-9, atol=1e-11)


KRONECKER = ["mlp", "class weights", "sequences", "convolutions", "attention", "tables", "robust"]


def twice(data: Layered) -> tuple[list[tuple[Tensor, Tensor, Tensor]], Tensor]:
    times = torch.arange(len(data.x)) % 3
    return weighted(data.x, data.y, times, 4), times


@pytest.mark.parametrize("method", ["kfac", "ekfac"])
@pytest.mark.parametrize("statistics", ["type2", "empirical"])
@pytest.mark.parametrize("name", KRONECKER)
def test_kronecker_factors_are_those_of_repeated_points(name: str, statistics: str, method: str) -> None:
    data = layered(name)
    batches, times = twice(data)
    model = TorchTwiceDifferentiable(data.module, data.loss)
    many = [(data.x.repeat_interleave(times, dim=0), data.y.repeat_interleave(times, dim=0))]
    expected, found = (
        dense_factor(factor_of(made, method, statistics=statistics), list(made.snapshot.parameters))
        for made in (Problem(model, many), Problem(model, batches))
    )
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", KRONECKER)
def test_datainf_takes_the_weighted_mean_of_inverses(name: str) -> None:
    data = layered(name)
    batches, times = twice(data)
    many = Layered(
        data.module,
        data.loss,
        data.x.repeat_interleave(times, dim=0),
        data.y.repeat_interleave(times, dim=0),
        data.kronecker,
        data.point_loss,
        data.divisor,
    )
    made = Problem(TorchTwiceDifferentiable(data.module, data.loss), batches)
    b = torch.randn(2, made.num_params, generator=torch.Generator().manual_seed(0), dtype=F64)
    x, _ = made.solve("datainf", b, hessian_perturbation=0.05)
    torch.testing.assert_close(x, closed_form(many, b, 0.05), rtol=1e-9, atol=1e-10)


def test_a_points_own_loss_has_no_weight() -> None:
    weighty, _, batches = reweighted()
    x = weighty.rhs(2)
    plain = weighty.batches(10)
    torch.testing.assert_close(
        influence_scores(weighty.model, batches, x), influence_scores(weighty.model, plain, x), rtol=1e-12, atol=0.0
    )
    torch.testing.assert_close(loss_gradients(weighty.model, batches), loss_gradients(weighty.model, plain))


def test_where_memory_runs_out_weights_stay_with_their_points() -> None:
    weighty, _, batches = reweighted()
    small = Small(weighty.model.model, 4, MemoryError())
    b = weighty.rhs(2)
    for method in ("cg", "ekfac"):
        options: dict[str, Any] = {"rtol": 1e-10}
        expected = solve_hvp(method, weighty.model, batches, b, hessian_perturbation=weighty.damping, **options)
        model = TorchTwiceDifferentiable(small, weighty.model.loss)
        x, info = solve_hvp(method, model, batches, b, hessian_perturbation=weighty.damping, **options)
        torch.testing.assert_close(x, expected.x, rtol=1e-7, atol=1e-9)
        assert "out of memory" in str(info["strategy"])


def test_float64_on_float32_products() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(20, 128), nn.Tanh(), nn.Linear(128, 4)).double()
    x, y = torch.randn(1000, 20, dtype=F64), torch.randint(0, 4, (1000,))
    w = torch.rand(1000, dtype=F64)
    made = Problem(TorchTwiceDifferentiable(module, nn.CrossEntropyLoss()), [(x, y, w)], curvature="ggn")
    twin = made.single_precision()
    assert twin is not None
    v = torch.randn(2, made.num_params, generator=torch.Generator().manual_seed(1), dtype=F64)
    expected = made.hessian(1, 2)(v)
    torch.testing.assert_close(twin.hessian(1, 2)(v.float()).double(), expected, rtol=1e-3, atol=1e-6)


def test_a_problem_is_training_data_with_its_weights() -> None:
    weighty, _, batches = reweighted()
    made = Problem(weighty.model, batches)
    assert [len(batch) for batch in made] == [3] * len(batches)
    again = Problem(TorchTwiceDifferentiable(weighty.model.model, weighty.model.loss), made)
    torch.testing.assert_close(dense_of(again), weighty.H, rtol=1e-9, atol=1e-11)
    assert [len(batch) for batch in Problem(weighty.model, weighty.batches(10))] == [2] * len(batches)


def _ones(*shape: int) -> Tensor:
    return torch.ones(*shape, dtype=F64)


@pytest.mark.parametrize(
    ("w", "error", "message"),
    [
        (torch.tensor([1.0, -0.5, 1.0]), InvalidSampleWeights, r"negative or not finite. Given: -0.5"),
        (torch.tensor([1.0, torch.nan, 1.0]), InvalidSampleWeights, "Given: nan"),
        (torch.tensor([1.0, torch.inf, 1.0]), InvalidSampleWeights, "Given: inf"),
        (torch.zeros(3), InvalidSampleWeights, "All sample weights are zero"),
        (torch.ones(2), RowsMismatch, r"w \[2\]"),
        (torch.ones(3, 1), DataMismatch, "one number a point"),
        ([1.0, 1.0, 1.0], DataMismatch, "w: list"),
    ],
)
def test_weights_that_cannot_be_used(w: Any, error: type[Exception], message: str) -> None:
    model = TorchTwiceDifferentiable(nn.Linear(2, 1).double(), nn.MSELoss())
    with pytest.raises(error, match=message):
        Problem(model, [(_ones(3, 2), _ones(3, 1), w)])


def test_weights_stand_in_all_batches_or_in_none() -> None:
    model = TorchTwiceDifferentiable(nn.Linear(2, 1).double(), nn.MSELoss())
    with pytest.raises(DataMismatch, match="batch 1 is the first that differs"):
        Problem(model, [(_ones(3, 2), _ones(3, 1), _ones(3)), (_ones(3, 2), _ones(3, 1))])
