"""Influence scores and gradients against gradients of single points, and against retraining by one step."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ihvp.errors import RhsShapeMismatch
from solvers import Problem, TorchTwiceDifferentiable, influence_scores, loss_gradients, solve_hvp
from tests.solvers.cases import CASES, Case, batches_of, logistic


def point_gradients(case: Case) -> Tensor:
    """One backward pass a point."""
    module, loss = case.model.model, case.model.loss
    rows = []
    for i in range(len(case.x)):
        value = loss(module(case.x[i : i + 1]), case.y[i : i + 1])
        rows.append(torch.cat([g.reshape(-1) for g in torch.autograd.grad(value, list(module.parameters()))]))
    return torch.stack(rows)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("name", CASES)
def test_scores_and_gradients_equal_those_of_single_points(name: str, dtype: torch.dtype) -> None:
    case = CASES[name](dtype)
    gradients = point_gradients(case)
    x = case.rhs(3)
    tight = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-10, "atol": 1e-12}
    torch.testing.assert_close(loss_gradients(case.model, case.batches(7)), gradients, **tight)
    for chunk in (None, 1, 5):
        scores = influence_scores(case.model, case.batches(7), x, chunk_points=chunk)
        torch.testing.assert_close(scores, x @ gradients.T, **tight)
    one = influence_scores(case.model, case.batches(7), x[0])
    torch.testing.assert_close(one, gradients @ x[0], **tight)


def test_the_mean_of_the_gradients_is_the_gradient_of_the_mean() -> None:
    case = CASES["mlp"](torch.float64)
    mean = loss_gradients(case.model, case.batches(7)).mean(dim=0)
    torch.testing.assert_close(mean, case.model.grad(case.x, case.y))


@pytest.mark.parametrize(
    "loss", [nn.CrossEntropyLoss(weight=torch.tensor([0.1, 1.0, 4.0])), nn.CrossEntropyLoss(ignore_index=1)]
)
def test_losses_with_other_normalisers(loss: nn.Module) -> None:
    torch.manual_seed(0)
    model = TorchTwiceDifferentiable(nn.Linear(4, 3), loss)
    x, y = torch.randn(9, 4), torch.tensor([0, 1, 2, 0, 1, 2, 2, 0, 0])
    v = torch.randn(model.num_params)
    gradients = loss_gradients(model, batches_of(x, y, 4))
    assert gradients.isfinite().all()
    torch.testing.assert_close(influence_scores(model, batches_of(x, y, 4), v), gradients @ v)
    if loss.ignore_index == 1:
        assert torch.equal(gradients[1], torch.zeros(model.num_params))


def test_a_positive_score_is_a_helpful_point() -> None:
    """Up-weighting z by ε moves the optimum; the test loss then falls by about ε · s / n."""
    case = logistic(torch.float64)
    damping, n = case.damping, len(case.x)
    w0 = case.model.model.weight.detach().clone()

    def optimum(weights: Tensor) -> Tensor:
        """argmin of Σ wᵢ ℓᵢ / n + λ/2 ‖w − w₀‖² − the gradient at w₀, so that w₀ is the optimum for w = 1."""
        w = w0.clone().requires_grad_()
        losses = lambda w: nn.functional.binary_cross_entropy_with_logits(  # noqa: E731
            case.x @ w.T, case.y, reduction="none"
        ).squeeze(1)
        slope = torch.autograd.grad(losses(w).mean(), w)[0]
        for _ in range(30):
            value = (weights * losses(w)).mean() + damping / 2 * (w - w0).square().sum() - (slope * w).sum()
            (g,) = torch.autograd.grad(value, w, create_graph=True)
            H = torch.stack([torch.autograd.grad(gi, w, retain_graph=True)[0][0] for gi in g[0]])
            w = (w - torch.linalg.solve(H, g[0])).detach().requires_grad_()
        return w.detach()

    test = (case.x[:1] + 0.3, case.y[:1])
    loss_at = lambda w: float(  # noqa: E731
        nn.functional.binary_cross_entropy_with_logits(test[0] @ w.T, test[1])
    )
    b = loss_gradients(case.model, [test])
    x, _ = solve_hvp("direct", case.model, case.batches(9), b, hessian_perturbation=damping)
    scores = influence_scores(case.model, case.batches(9), x)[0]
    for z in (int(scores.argmax()), int(scores.argmin())):
        weights = torch.ones(n, dtype=torch.float64)
        weights[z] += 1e-4
        drop = loss_at(w0) - loss_at(optimum(weights))
        assert drop == pytest.approx(1e-4 * float(scores[z]) / n, rel=1e-2)
    assert scores.max() > 0 > scores.min()


def test_a_problem_brings_its_parameters() -> None:
    case = CASES["mlp"](torch.float64)
    problem = Problem(case.model, case.batches(7))
    x = case.rhs(2)
    before = influence_scores(case.model, problem, x)
    with torch.no_grad():
        case.model.model[0].weight.mul_(2)
    torch.testing.assert_close(influence_scores(case.model, problem, x), before)


def test_scores_have_the_dtype_of_x_and_its_length_is_checked() -> None:
    case = CASES["mlp"](torch.float32)
    assert influence_scores(case.model, case.batches(7), case.rhs(2).double()).dtype == torch.float64
    with pytest.raises(RhsShapeMismatch, match="trainable parameters, 51"):
        influence_scores(case.model, case.batches(7), torch.ones(50))
