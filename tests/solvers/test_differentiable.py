"""Layers that torch cannot differentiate twice are named before any work; no answer is made without derivatives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ihvp.errors import LossMismatch, UnsupportedLayer
from solvers import InversionMethod, Problem, TorchTwiceDifferentiable, loss_gradients, solve_hvp

F64 = torch.float64


class Once(torch.autograd.Function):
    """A square whose author says that its backward pass must not be differentiated."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 2 * x * g


class Square(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return Once.apply(x)  # type: ignore[no-any-return]


class Counting(nn.Module):
    """Counts the points that go through it."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.points = inner, 0

    def forward(self, x: Tensor) -> Tensor:
        self.points += x.shape[0]
        return self.inner(x)  # type: ignore[no-any-return]


def words() -> Tensor:
    return torch.randint(0, 5, (40, 2), generator=torch.Generator().manual_seed(0))


def numbers() -> Tensor:
    return torch.randn(40, 3, generator=torch.Generator().manual_seed(0))


def classes() -> Tensor:
    return torch.randint(0, 3, (40,), generator=torch.Generator().manual_seed(1))


UNSUPPORTED: list[tuple[nn.Module, Tensor, str]] = [
    (nn.Sequential(nn.Linear(3, 3), Square()), numbers(), r"inner\.1 \(Square\): .*differentiable once only"),
    (nn.Sequential(nn.EmbeddingBag(5, 3), nn.Linear(3, 3)), words(), r"inner\.0 \(EmbeddingBag\): .*_embedding_bag"),
    (
        nn.Sequential(nn.Embedding(5, 3, sparse=True), nn.Flatten(), nn.Linear(6, 3)),
        words(),
        r"inner\.0 \(Embedding\): its gradient is a sparse tensor",
    ),
]


@pytest.mark.parametrize(("module", "x", "said"), UNSUPPORTED, ids=["once", "bag", "sparse"])
@pytest.mark.parametrize("method", list(InversionMethod), ids=str)
def test_the_layer_is_named_before_any_work(method: InversionMethod, module: nn.Module, x: Tensor, said: str) -> None:
    counting = Counting(module)
    model = TorchTwiceDifferentiable(counting, nn.CrossEntropyLoss())
    problem = Problem(model, [(x, classes())])
    counting.points = 0
    b = torch.ones(model.num_params)
    for _ in range(2):
        with pytest.raises(UnsupportedLayer, match=said) as caught:
            problem.solve(method, b, hessian_perturbation=1.0)
    assert "Freeze the layer's parameters" in str(caught.value)
    assert counting.points < 10  # single points only
    # First derivatives are there all the same.
    if "sparse" not in said:
        assert loss_gradients(model, [(x[:2], classes()[:2])]).shape == (2, model.num_params)


@pytest.mark.parametrize("curvature", ["hessian", "ggn", "fisher", "empirical_fisher"])
def test_no_curvature_takes_zero_for_a_derivative_that_is_missing(curvature: str) -> None:
    model = TorchTwiceDifferentiable(nn.Sequential(nn.Linear(3, 3), Square()), nn.CrossEntropyLoss())
    problem = Problem(model, [(numbers(), classes())], curvature=curvature)
    with pytest.raises(UnsupportedLayer, match="once only"):
        problem.hessian(1, 1)


def test_frozen_it_does_no_harm() -> None:
    module = nn.Sequential(nn.EmbeddingBag(5, 3), nn.Linear(3, 3))
    module[0].requires_grad_(False)
    x, info = solve_hvp(
        "direct",
        TorchTwiceDifferentiable(module, nn.CrossEntropyLoss()),
        [(words(), classes())],
        torch.ones(12),
        hessian_perturbation=1.0,
    )
    assert info["certificate"][0]["status"] == "converged"
    assert x.shape == (12,)


def test_outputs_that_do_not_depend_on_the_parameters() -> None:
    class Cut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x).detach()  # type: ignore[no-any-return]

    model = TorchTwiceDifferentiable(Cut(), F.cross_entropy)
    with pytest.raises(LossMismatch, match=r"do not depend on the parameters.*Given: linear.weight, linear.bias"):
        solve_hvp("cg", model, [(numbers(), classes())], torch.ones(12), hessian_perturbation=1.0)


def test_no_hook_is_left_behind() -> None:
    from torch.nn.modules import module as internals

    model = TorchTwiceDifferentiable(nn.Sequential(nn.Linear(3, 3), Square()), nn.CrossEntropyLoss())
    with pytest.raises(UnsupportedLayer):
        Problem(model, [(numbers(), classes())]).hessian(1, 1)
    assert not internals._global_forward_hooks
