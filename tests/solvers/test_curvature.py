"""What H can be: each curvature against a dense float64 matrix made from its definition."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ihvp.errors import InvalidOption, LossMismatch
from ihvp.methods import Curvature
from solvers import Problem, TorchTwiceDifferentiable, influence_scores, loss_gradients
from solvers.losses import Likelihood
from solvers.operators.draws import uniform_of_points
from tests.solvers.cases import Batches, batches_of, small_mlp

F64 = torch.float64
WEIGHT = torch.tensor([0.2, 1.0, 5.0], dtype=F64)
DRAWS = 100


def numbers(*shape: int, seed: int = 3) -> Tensor:
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


CLASSES = torch.tensor([0, 2, 1, 1, 0, 2, 2, 1, 0, 0, 1])
TOKENS = torch.tensor([[0, 1], [2, -100], [1, 1], [-100, -100], [0, 2]])

LOSSES: dict[str, tuple[Any, Tensor]] = {
    "cross_entropy": (nn.CrossEntropyLoss(), CLASSES),
    "weighted": (nn.CrossEntropyLoss(weight=WEIGHT), CLASSES),
    "smooth": (nn.CrossEntropyLoss(weight=WEIGHT, label_smoothing=0.3, ignore_index=1), CLASSES),
    "probabilities": (
        nn.CrossEntropyLoss(weight=WEIGHT, label_smoothing=0.1),
        torch.softmax(numbers(11, 3, seed=8), 1),
    ),
    "summed": (nn.CrossEntropyLoss(reduction="sum"), CLASSES),
    "mse": (nn.MSELoss(), numbers(11, 3, seed=5)),
    "summed squares": (nn.MSELoss(reduction="sum"), numbers(11, 3, seed=5)),
    "bce_with_logits": (
        nn.BCEWithLogitsLoss(weight=WEIGHT.sqrt(), pos_weight=WEIGHT),
        (numbers(11, 3, seed=6) > 0).double(),
    ),
    "tokens": (nn.CrossEntropyLoss(weight=WEIGHT, label_smoothing=0.2), TOKENS),
}


class Tokenwise(nn.Module):
    """Logits ``[n, 3, t]`` of inputs ``[n, 2, t]``, each place seeing its neighbour."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv1d(2, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.layer(x)) * 2


def network(log_probabilities: bool = False) -> nn.Module:
    torch.manual_seed(0)
    last = [nn.LogSoftmax(dim=1)] if log_probabilities else []
    return nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 3), *last).double()


def case(name: str) -> tuple[nn.Module, Any, Tensor, Tensor]:
    loss, y = LOSSES[name]
    if name == "tokens":
        torch.manual_seed(0)
        return Tokenwise().double(), loss, numbers(5, 2, 2, seed=1), y
    return network(), loss, numbers(len(y), 2, seed=1), y


def jacobian(model: nn.Module, function: Any) -> Tensor:
    """``[outputs, p]`` by reverse mode, row by row."""
    parameters = list(model.parameters())
    rows = [
        torch.cat([g.reshape(-1) for g in torch.autograd.grad(number, parameters, retain_graph=True)])
        for number in function().reshape(-1)
    ]
    return torch.stack(rows)


def dense_ggn(model: nn.Module, loss: Any, x: Tensor, y: Tensor, divisor: float = 1.0) -> Tensor:
    """Jᵀ ∇² J with torch's own loss of all points as one batch."""
    J = jacobian(model, lambda: model(x))
    outputs = model(x).detach()
    middle = torch.autograd.functional.hessian(lambda o: loss(o, y), outputs).reshape(J.shape[0], J.shape[0])
    return J.T @ middle @ J / divisor


def dense_of(problem: Problem) -> Tensor:
    return problem.hessian(1, 1)(torch.eye(problem.num_params, dtype=problem.dtype))


def problem_of(model: nn.Module, loss: Any, data: Any, curvature: str, **options: Any) -> Problem:
    return Problem(TorchTwiceDifferentiable(model, loss), data, curvature=curvature, **options)


def divisor_of(loss: Any, y: Tensor) -> float:
    """A summed loss is still a mean over points."""
    return len(y) if getattr(loss, "reduction", "mean") == "sum" else 1.0


@pytest.mark.parametrize("size", [2, 11])
@pytest.mark.parametrize("name", LOSSES)
def test_the_ggn_is_exact_for_any_batching(name: str, size: int) -> None:
    model, loss, x, y = case(name)
    expected = dense_ggn(model, loss, x, y, 1.0 if "squares" not in name and name != "summed" else len(y))
    found = dense_of(problem_of(model, loss, batches_of(x, y, size), "ggn"))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    assert float(torch.linalg.eigvalsh(found)[0]) > -1e-12


@pytest.mark.parametrize("name", LOSSES)
def test_the_fisher_is_the_ggn_of_a_likelihood(name: str) -> None:
    model, loss, x, y = case(name)
    expected = dense_ggn(model, loss, x, y, divisor_of(loss, y))
    found = dense_of(problem_of(model, loss, batches_of(x, y, 3), "fisher"))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_the_fisher_is_the_expectation_over_predicted_classes() -> None:
    model, _, x, y = case("weighted")
    expected = torch.zeros(21, 21, dtype=F64)
    for point, target in zip(x, y, strict=True):
        gradients = jacobian(model, lambda point=point: torch.log_softmax(model(point[None]), 1))
        p = torch.softmax(model(point[None]), 1)[0].detach()
        expected += WEIGHT[target] * gradients.T @ (p[:, None] * gradients)
    found = dense_of(problem_of(model, nn.CrossEntropyLoss(weight=WEIGHT), batches_of(x, y, 4), "fisher"))
    torch.testing.assert_close(found, expected / WEIGHT[y].sum(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("curvature", ["ggn", "fisher"])
def test_log_probabilities_are_taken_at_their_logits(curvature: str) -> None:
    logits, x = network(), numbers(11, 2, seed=1)
    expected = dense_ggn(logits, nn.CrossEntropyLoss(weight=WEIGHT), x, CLASSES)
    loss = nn.NLLLoss(weight=WEIGHT)
    found = dense_of(problem_of(network(log_probabilities=True), loss, batches_of(x, CLASSES, 4), curvature))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["smooth", "tokens", "mse", "bce_with_logits", "nll"])
def test_drawn_targets_are_unbiased(name: str) -> None:
    if name == "nll":
        model, loss, x, y = network(log_probabilities=True), nn.NLLLoss(), numbers(11, 2, seed=1), CLASSES
    else:
        model, loss, x, y = case(name)
    exact = problem_of(model, loss, batches_of(x, y, 4), "fisher")
    H = dense_of(exact)
    draws = torch.stack([dense_of(exact.with_curvature("mc_fisher", seed=s)) for s in range(DRAWS)])
    error = (draws.mean(0) - H).norm() / H.norm()
    spread = (draws - draws.mean(0)).flatten(1).norm(dim=1).square().mean().sqrt() / H.norm()
    assert spread > 0.05  # they do differ from draw to draw,
    assert error < 3 * spread / DRAWS**0.5  # and by no more than their number allows from the exact one
    assert float(torch.linalg.eigvalsh(draws[0])[0]) > -1e-12


@pytest.mark.parametrize("name", ["smooth", "tokens", "mse", "bce_with_logits"])
def test_the_square_of_a_points_scores_is_unbiased(name: str) -> None:
    model, loss, x, y = case(name)
    output = model(x).detach()
    terms = Problem(TorchTwiceDifferentiable(model, loss), [(x, y)]).terms
    assert isinstance(terms, Likelihood)
    uniform = [uniform_of_points(seed, 0, x.device) for seed in range(2000)]
    scores = torch.stack([terms.sampled_score(output, y, u)[0].flatten() for u in uniform])
    expected = torch.stack([terms.expected_curvature(output, y)(unit)[0].flatten() for unit in _units(output)])
    torch.testing.assert_close(scores.T @ scores / len(scores), expected, rtol=0, atol=0.15 * float(expected.max()))


def _units(output: Tensor) -> list[Tensor]:
    """Tangents that are 1 in one number of the first point."""
    units = torch.zeros(output[0].numel(), *output.shape, dtype=output.dtype)
    for i, unit in enumerate(units):
        unit[0].view(-1)[i] = 1.0
    return list(units)


def test_one_class_is_drawn_for_each_token() -> None:
    """The rank shows that tokens of a sequence are draws of their own, not one draw of their sum."""
    model, loss, x, y = case("tokens")
    found = dense_of(problem_of(model, loss, batches_of(x, y, 5), "mc_fisher"))
    counting = int((y != -100).sum())
    assert int(torch.linalg.matrix_rank(found, atol=1e-10)) == counting


@pytest.mark.parametrize("name", ["weighted", "tokens", "mse"])
def test_draws_belong_to_points_and_not_to_chunks(name: str) -> None:
    model, loss, x, y = case(name)
    whole, again, pieces, other = (
        dense_of(problem_of(model, loss, batches_of(x, y, size), "mc_fisher", seed=seed, memory_budget=budget))
        for size, seed, budget in [(11, 4, 2**30), (11, 4, 2**30), (2, 4, 2000), (11, 5, 2**30)]
    )
    assert torch.equal(whole, again)
    torch.testing.assert_close(pieces, whole, rtol=1e-9, atol=1e-12)
    assert float((other - whole).norm() / whole.norm()) > 0.01


def test_uniform_numbers_are_uniform_and_independent() -> None:
    u = uniform_of_points(7, 0, torch.device("cpu"))((4000, 5))
    assert 0 < float(u.min()) < 1e-3
    assert 1 - 1e-3 < float(u.max()) < 1
    assert float((u.mean(0) - 0.5).abs().max()) < 0.02
    correlation = torch.corrcoef(torch.cat([u.T, u.roll(1, 0).T]))
    assert float((correlation - torch.eye(10)).abs().max()) < 0.06


@pytest.mark.parametrize("name", LOSSES)
def test_the_empirical_fisher_is_the_mean_of_outer_products(name: str) -> None:
    model, loss, x, y = case(name)
    problem = problem_of(model, loss, batches_of(x, y, 3), "empirical_fisher")
    gradients = torch.stack(
        [jacobian(model, lambda i=i: loss(model(x[i : i + 1]), y[i : i + 1]).nan_to_num())[0] for i in range(len(y))]
    ).nan_to_num()
    expected = gradients.T @ gradients / len(y)
    torch.testing.assert_close(dense_of(problem), expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(loss_gradients(problem.model, problem), gradients, rtol=1e-9, atol=1e-12)


def own_loss(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).square().square().mean()


@pytest.mark.parametrize("curvature", ["ggn", "empirical_fisher"])
def test_a_loss_of_your_own(curvature: str) -> None:
    model, _, x, y = case("mse")
    found = dense_of(problem_of(model, own_loss, batches_of(x, y, 4), curvature))
    if curvature == "ggn":
        expected = dense_ggn(model, own_loss, x, y)
    else:
        G = loss_gradients(TorchTwiceDifferentiable(model, own_loss), batches_of(x, y, 4))
        expected = G.T @ G / len(y)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("loss", [nn.L1Loss(), nn.HuberLoss(), own_loss, nn.BCELoss()])
@pytest.mark.parametrize("curvature", ["fisher", "mc_fisher"])
def test_a_loss_without_a_prediction_has_no_fisher(curvature: str, loss: Any) -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Sigmoid())
    with pytest.raises(LossMismatch, match=f"{curvature} needs.*ggn.*empirical_fisher"):
        problem_of(model, loss, [(torch.randn(4, 2), torch.rand(4, 3))], curvature)


def test_outputs_that_are_no_log_probabilities_have_no_fisher() -> None:
    problem = problem_of(nn.Linear(2, 3), nn.NLLLoss(), [(torch.randn(4, 2), torch.tensor([0, 1, 2, 0]))], "ggn")
    with pytest.raises(LossMismatch, match="log_softmax"):
        problem.hessian(1, 1)(torch.ones(1, 9))


@pytest.mark.parametrize("name", ["fischer", 3, None])
def test_a_wrong_name_is_told_the_right_ones(name: Any) -> None:
    with pytest.raises(InvalidOption, match="hessian, ggn, fisher, mc_fisher, empirical_fisher"):
        problem_of(nn.Linear(1, 1), nn.MSELoss(), [(torch.ones(1, 1), torch.ones(1, 1))], name)


class CountingPasses:
    def __init__(self, batches: Batches) -> None:
        self.batches = batches
        self.passes = 0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self.passes += 1
        return iter(self.batches)


class TestWithCurvature:
    def test_it_shares_what_does_not_depend_on_the_curvature(self) -> None:
        mlp = small_mlp(F64)
        data = CountingPasses(mlp.batches(9))
        problem = Problem(mlp.model, data)
        ggn = problem.with_curvature("ggn")
        passes = data.passes
        expected = dense_ggn(mlp.model.model, F.cross_entropy, mlp.x, mlp.y)
        torch.testing.assert_close(dense_of(ggn), expected, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(dense_of(problem), mlp.H, rtol=1e-9, atol=1e-12)
        assert data.passes == passes  # kept: nothing was read again
        assert (problem.curvature, ggn.curvature) == (Curvature.Hessian, Curvature.Ggn)
        assert ggn.factors is problem.factors
        assert ggn.snapshot is problem.snapshot

    def test_factors_of_two_curvatures_do_not_meet(self) -> None:
        problem = Problem(small_mlp(F64).model, small_mlp(F64).batches(9))
        kinds = [problem.with_curvature(c, seed=s) for c in Curvature for s in (0, 1)]
        keys = {p.factor_key("nystrom rank=3") for p in kinds}
        assert len(keys) == len(Curvature) + 1  # the seed matters to mc_fisher alone

    def test_scores_and_gradients_are_the_losss_own(self) -> None:
        mlp = small_mlp(F64)
        problem = Problem(mlp.model, mlp.batches(9))
        fisher = problem.with_curvature("fisher")
        x = mlp.rhs(2)
        assert torch.equal(influence_scores(mlp.model, problem, x), influence_scores(mlp.model, fisher, x))
        assert torch.equal(loss_gradients(mlp.model, problem), loss_gradients(mlp.model, fisher))


@pytest.mark.parametrize("method", ["cg", "direct"])
def test_solves_with_the_ggn(method: str) -> None:
    mlp = small_mlp(F64)
    problem = Problem(mlp.model, mlp.batches(9), curvature="ggn")
    b = mlp.rhs(3)
    x, info = problem.solve(method, b, hessian_perturbation=0.1)
    A = dense_ggn(mlp.model.model, F.cross_entropy, mlp.x, mlp.y) + 0.1 * torch.eye(mlp.p, dtype=F64)
    torch.testing.assert_close(x, torch.linalg.solve(A, b.T).T, rtol=1e-5, atol=1e-6)
    assert info["strategy"]["curvature"] == "ggn"
    assert all(c["relative_residual"] < 1e-6 for c in info["certificate"])


@pytest.mark.parametrize("curvature", [c.value for c in Curvature])
def test_minibatches_average_to_the_whole(curvature: str) -> None:
    model, loss, x, y = case("smooth")
    problem = problem_of(model, loss, batches_of(x, y, 4), curvature)
    minibatches, V = problem.minibatches(), numbers(2, 21)
    mean = torch.stack([minibatches.product(i, V) for i in range(len(minibatches))]).mean(0)
    torch.testing.assert_close(mean, V @ dense_of(problem), rtol=1e-9, atol=1e-12)


def test_deflation_takes_the_eigenpairs_of_its_own_curvature_only() -> None:
    mlp = small_mlp(F64)
    problem = Problem(mlp.model, mlp.batches(9))
    b = mlp.rhs(2)

    def solve(one: Problem, rank: int) -> dict[str, str]:
        options = {"preconditioner": "deflation", "preconditioner_rank": rank, "rtol": 1e-8, "atol": 0.0}
        info = one.solve("cg", b, hessian_perturbation=mlp.damping, **options).info
        assert all(c["status"] == "converged" for c in info["certificate"])
        return {key: where for key, where in info["factors"].items() if key.startswith("eigenpairs")}

    made = solve(problem, 8)
    assert list(made.values()) == ["made"]
    assert solve(problem, 5) == dict.fromkeys(made, "kept")  # more pairs than asked for serve as well
    assert "kept" not in solve(problem.with_curvature("ggn"), 5).values()
