"""How losses normalise: numerators and denominators against torch's own reductions."""

from __future__ import annotations

import functools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ihvp.errors import DataMismatch, LossMismatch, TargetsOutOfRange
from solvers import Problem, TorchTwiceDifferentiable, influence_scores, loss_gradients
from solvers.losses import loss_terms
from tests.solvers.cases import batches_of, dense_hessian

F64 = torch.float64
WEIGHT = torch.tensor([0.2, 1.0, 5.0], dtype=F64)
CLASSES = torch.tensor([0, 2, 1, 1, 0, 2, 2])
SOME_IGNORED = torch.tensor([0, -100, 1, -100, 0, 2, -100])


def outputs(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(3))


CROSS_ENTROPIES = {
    "plain": (nn.CrossEntropyLoss(), CLASSES),
    "weighted": (nn.CrossEntropyLoss(weight=WEIGHT), CLASSES),
    "ignoring": (nn.CrossEntropyLoss(), SOME_IGNORED),
    "weighted, ignoring, smooth": (
        nn.CrossEntropyLoss(weight=WEIGHT, ignore_index=1, label_smoothing=0.2),
        CLASSES,
    ),
    "probabilities": (nn.CrossEntropyLoss(weight=WEIGHT), torch.softmax(outputs(7, 3), dim=1)),
    "nll": (nn.NLLLoss(weight=WEIGHT, ignore_index=0), CLASSES),
    "functional": (F.cross_entropy, CLASSES),
    "partial": (functools.partial(F.cross_entropy, weight=WEIGHT, ignore_index=2), CLASSES),
}


@pytest.mark.parametrize("name", CROSS_ENTROPIES)
def test_numerator_over_denominator_is_torchs_mean(name: str) -> None:
    loss, y = CROSS_ENTROPIES[name]
    out = outputs(7, 3)
    terms = loss_terms(loss, out, y)
    terms.check(out, y)
    value = terms.numerator(out, y) / terms.denominator(out, y)
    torch.testing.assert_close(value, loss(out, y))


@pytest.mark.parametrize("name", CROSS_ENTROPIES)
def test_a_points_loss_is_the_loss_on_a_batch_of_one(name: str) -> None:
    loss, y = CROSS_ENTROPIES[name]
    out = outputs(7, 3)
    expected = torch.stack([loss(out[i : i + 1], y[i : i + 1]) for i in range(7)]).nan_to_num(0.0)
    torch.testing.assert_close(loss_terms(loss, out, y).per_point(out, y), expected)


@pytest.mark.parametrize(
    "loss",
    [
        nn.MSELoss(),
        nn.MSELoss(reduction="sum"),
        nn.L1Loss(),
        nn.SmoothL1Loss(beta=0.3),
        nn.HuberLoss(delta=0.4),
        nn.BCEWithLogitsLoss(pos_weight=WEIGHT, weight=WEIGHT.sqrt()),
        F.mse_loss,
        F.binary_cross_entropy_with_logits,
        functools.partial(F.mse_loss, reduction="sum"),
        lambda o, t: (o - t).square().mean(),
        lambda o, t: (o - t).abs().sum(),
    ],
)
def test_elementwise_and_own_losses(loss: nn.Module) -> None:
    out, y = outputs(7, 3), torch.rand(7, 3, dtype=F64)
    terms = loss_terms(loss, out, y)
    terms.check(out, y)
    points = torch.stack([loss(out[i : i + 1], y[i : i + 1]) for i in range(7)])
    torch.testing.assert_close(terms.per_point(out, y), points)
    torch.testing.assert_close(terms.numerator(out, y) / terms.denominator(out, y), points.mean())


@pytest.mark.parametrize("size", [1, 2, 5, 12])
@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(weight=WEIGHT),
        nn.CrossEntropyLoss(ignore_index=2),
        nn.CrossEntropyLoss(weight=WEIGHT, label_smoothing=0.1),
    ],
)
def test_other_normalisers_are_exact_for_any_batching(loss: nn.Module, size: int) -> None:
    x, y = outputs(12, 2), torch.randint(0, 3, (12,), generator=torch.Generator().manual_seed(0))
    model = nn.Linear(2, 3, dtype=F64)
    H = dense_hessian(model, lambda m: loss(m(x), y))  # all points as one batch, as torch normalises
    problem = Problem(TorchTwiceDifferentiable(model, loss), batches_of(x, y, size))
    torch.testing.assert_close(problem.hessian(1, 9)(torch.eye(9, dtype=F64)), H, rtol=1e-9, atol=1e-12)
    assert problem.mean_loss == pytest.approx(loss(model(x), y).item())


def test_ignored_tokens_of_sequences_do_not_count() -> None:
    y = torch.tensor([[0, 1, -100, -100], [2, -100, -100, -100], [1, 1, 0, 2]])
    x = outputs(3, 2, 4)
    model = nn.Conv1d(2, 3, 1, dtype=F64)
    loss = nn.CrossEntropyLoss()
    H = dense_hessian(model, lambda m: loss(m(x), y))
    problem = Problem(TorchTwiceDifferentiable(model, loss), batches_of(x, y, 1))
    torch.testing.assert_close(problem.hessian(1, 9)(torch.eye(9, dtype=F64)), H, rtol=1e-9, atol=1e-12)


class MaskedSquares(nn.Module):
    """A loss of a user's own: squared error over the targets that are not NaN."""

    def numerator(self, output: Tensor, target: Tensor) -> Tensor:
        known = ~target.isnan()
        return torch.where(known, output - torch.where(known, target, 0.0), 0.0).square().sum()

    def denominator(self, output: Tensor, target: Tensor) -> Tensor:
        return (~target.isnan()).sum()

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return self.numerator(output, target) / self.denominator(output, target)


class OnlyForward(nn.Module):
    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return MaskedSquares()(output, target)


def masked_problem() -> tuple[nn.Module, Tensor, Tensor]:
    y = torch.randn(10, 2, dtype=F64, generator=torch.Generator().manual_seed(0))
    y[torch.arange(0, 10, 3), 1] = torch.nan
    return nn.Linear(3, 2, dtype=F64), outputs(10, 3), y


def test_a_loss_that_states_its_normaliser_is_exact() -> None:
    model, x, y = masked_problem()
    H = dense_hessian(model, lambda m: MaskedSquares()(m(x), y))
    wrapped = TorchTwiceDifferentiable(model, MaskedSquares())
    problem = Problem(wrapped, batches_of(x, y, 3))
    torch.testing.assert_close(problem.hessian(1, 8)(torch.eye(8, dtype=F64)), H, rtol=1e-9, atol=1e-12)
    v = outputs(8)
    torch.testing.assert_close(influence_scores(wrapped, problem, v), loss_gradients(wrapped, problem) @ v)


def test_a_loss_that_hides_its_normaliser_is_refused() -> None:
    model, x, y = masked_problem()
    with pytest.raises(LossMismatch, match=r"neither the mean nor the sum.*numerator\(output, target\)"):
        Problem(TorchTwiceDifferentiable(model, OnlyForward()), batches_of(x, y, 5))


def test_an_own_loss_is_tried_on_every_batch() -> None:
    model, x, y = masked_problem()
    whole = y.isnan().any(dim=1)
    data = [(x[~whole], y[~whole]), (x, y)]  # the first batch shows nothing
    with pytest.raises(LossMismatch, match="neither the mean nor the sum"):
        Problem(TorchTwiceDifferentiable(model, OnlyForward()), data)


def test_how_the_loss_normalises_is_in_info() -> None:
    model = TorchTwiceDifferentiable(nn.Linear(2, 1), lambda o, t: (o - t).square().mean())
    problem = Problem(model, [(torch.ones(4, 2), torch.ones(4, 1))])
    info = problem.solve("cg", torch.ones(3), hessian_perturbation=1.0).info
    assert "mean over points, as tried on a sample of every batch" in info["strategy"]["loss"]


@pytest.mark.parametrize(
    ("loss", "out", "y", "error", "message"),
    [
        (nn.CrossEntropyLoss(), (4, 3), torch.tensor([0, 1, 3, 2]), TargetsOutOfRange, "class 3.*0 to 2"),
        (nn.CrossEntropyLoss(), (4, 3), torch.tensor([0, 1, -1, 2]), TargetsOutOfRange, "class -1"),
        (nn.CrossEntropyLoss(), (4, 3), torch.tensor([[0], [1], [1], [2]]), LossMismatch, r"targets \[4\]"),
        (nn.CrossEntropyLoss(), (4, 3), torch.rand(4), LossMismatch, "targets.long()"),
        (nn.CrossEntropyLoss(), (4, 5, 3), torch.zeros(4, 5, dtype=torch.long), LossMismatch, "swapped"),
        (nn.CrossEntropyLoss(reduction="none"), (4, 3), CLASSES[:4], LossMismatch, "reduction='none'"),
        (lambda o, t: (o - t).square(), (4, 3), torch.rand(4, 3), LossMismatch, "must be a scalar"),
        (lambda o, t: o @ t, (4, 3), torch.rand(4, 3), LossMismatch, "cannot be taken"),
        (nn.MSELoss(), (4, 3), torch.full((4, 3), torch.nan), DataMismatch, "not finite"),
    ],
)
def test_what_does_not_go_together(
    loss: nn.Module, out: tuple[int, ...], y: Tensor, error: type[Exception], message: str
) -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(()))

        def forward(self, x: Tensor) -> Tensor:
            return self.w * torch.ones(out)

    with pytest.raises(error, match=message):
        Problem(TorchTwiceDifferentiable(Fixed(), loss), [(torch.ones(4, 1), y)])


def test_targets_that_are_all_ignored_define_no_mean() -> None:
    model = TorchTwiceDifferentiable(nn.Linear(2, 3), nn.CrossEntropyLoss())
    with pytest.raises(LossMismatch, match="No target counts"):
        Problem(model, [(torch.ones(2, 2), torch.tensor([-100, -100]))])
