"""Small models with every kind of layer, as Kronecker factors see them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from solvers import Problem, TorchTwiceDifferentiable, solve_hvp
from solvers.kronecker import KroneckerFactor
from tests.solvers.cases import batches_of

F64 = torch.float64
Loss = Callable[[Tensor, Tensor], Tensor]


class Attention(nn.Module):
    """Tokens with places, packed attention in which the points come second, and a linear map of each token."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(7, 4)
        self.places = nn.Parameter(torch.randn(3, 4))
        self.of_places = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)
        self.attention = nn.MultiheadAttention(4, 2)
        self.out = nn.Linear(4, 3)

    def forward(self, ids: Tensor) -> Tensor:
        x = (self.tokens(ids) + self.of_places(self.places)).transpose(0, 1)
        x = self.norm(x + self.attention(x, x, x, need_weights=False)[0])
        return self.out(x).mean(0)


class Tables(nn.Module):
    """Embeddings that leave a row out, that are normalised in passing, and that are the last layer's weight too."""

    def __init__(self) -> None:
        super().__init__()
        self.padded = nn.Embedding(7, 4, padding_idx=-2)
        self.scaled = nn.Embedding(7, 4, scale_grad_by_freq=True)
        self.tied = nn.Embedding(7, 4)
        self.bias = nn.Parameter(torch.randn(7))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.padded(ids) * self.tied(ids) + self.scaled(ids.flip(1)).detach()
        return F.linear(torch.tanh(x.sum(1)), self.tied.weight, self.bias)


class Awkward(nn.Module):
    """A layer used twice, half-frozen layers, and a branch that vmap cannot take."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.first.bias.requires_grad_(False)
        self.twice = nn.Linear(4, 4)
        self.last = nn.Linear(4, 3)
        self.last.weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.twice(self.first(x)))
        x = x * x.new_tensor([[2.0 if row.sum().item() > 0 else 1.0] for row in x])
        return self.last(torch.tanh(self.twice(x)))


@dataclass(frozen=True)
class Layered:
    """A model in float64 with data; ``point_loss`` is a point's numerator where that is not its own loss."""

    module: nn.Module
    loss: Loss
    x: Tensor
    y: Tensor
    kronecker: set[str]
    point_loss: Loss
    divisor: float

    def batches(self, size: int) -> list[tuple[Tensor, Tensor]]:
        return batches_of(self.x, self.y, size)

    def problem(self, size: int = 4, **settings: int) -> Problem:
        model = TorchTwiceDifferentiable(self.module, self.loss)
        return Problem(model, self.batches(size), **settings)  # type: ignore[arg-type]


def _layered(
    module: nn.Module, loss: Loss, x: Tensor, y: Tensor, kronecker: set[str], point_loss: Loss | None = None
) -> Layered:
    return Layered(module.double(), loss, x, y, kronecker, point_loss or loss, float(len(x)))


def _numbers(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=F64)


def _classes(count: int, *shape: int) -> Tensor:
    return torch.randint(0, count, shape, generator=torch.Generator().manual_seed(2))


def layered(name: str) -> Layered:
    """The case of this name, always the same."""
    torch.manual_seed(0)
    return CASES[name]()


def _mlp() -> Layered:
    module = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    names = {"0.weight", "0.bias", "2.weight", "2.bias"}
    return _layered(module, nn.CrossEntropyLoss(), _numbers(13, 4), _classes(3, 13), names)


def _weighted() -> Layered:
    weight, y = torch.tensor([0.5, 2.0, 1.0], dtype=F64), _classes(3, 13)
    y[2] = -100
    mlp = _mlp()
    loss = nn.CrossEntropyLoss(weight=weight, label_smoothing=0.1)
    total = nn.CrossEntropyLoss(weight=weight, label_smoothing=0.1, reduction="sum")
    return Layered(mlp.module, loss, mlp.x, y, mlp.kronecker, total, float(weight[y[y >= 0]].sum()))


def _sequences() -> Layered:
    """Several predictions a point, whose mean is over all of them."""
    module = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 6), nn.Unflatten(1, (3, 2)))
    names = {"0.weight", "0.bias", "2.weight", "2.bias"}
    total = nn.CrossEntropyLoss(reduction="sum")
    return Layered(module.double(), nn.CrossEntropyLoss(), _numbers(9, 4), _classes(3, 9, 2), names, total, 18.0)


def _log_probabilities() -> Layered:
    module = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3), nn.LogSoftmax(1))
    names = {"0.weight", "0.bias", "2.weight", "2.bias"}
    # Log-softmax leaves log-probabilities as they are, so this is the same loss and has a second derivative.
    return _layered(module, nn.NLLLoss(), _numbers(13, 4), _classes(3, 13), names, F.cross_entropy)


def _convolutions() -> Layered:
    module = nn.Sequential(
        nn.Conv2d(2, 3, 3, stride=2, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(3, 4, 2, padding="same", dilation=2, bias=False),
        nn.Tanh(),
        nn.Conv2d(4, 4, 2, groups=2),
        nn.Flatten(),
        nn.Linear(16, 3),
    )
    names = {"0.weight", "0.bias", "2.weight", "6.weight", "6.bias"}
    return _layered(module, nn.MSELoss(), _numbers(9, 2, 6, 6), _numbers(9, 3), names)


def _uneven_convolution() -> Layered:
    convolution = nn.Conv2d(2, 3, (3, 2), padding=(2, 1), padding_mode="circular", stride=(1, 2))
    module = nn.Sequential(convolution, nn.Tanh(), nn.Flatten(), nn.Linear(63, 2))
    y = torch.rand(9, 2, generator=torch.Generator().manual_seed(3), dtype=F64)
    names = {"0.weight", "0.bias", "3.weight", "3.bias"}
    return _layered(module, nn.BCEWithLogitsLoss(), _numbers(9, 2, 5, 5), y, names)


def _attention() -> Layered:
    names = {"of_places.weight", "of_places.bias", "out.weight", "out.bias"}
    return _layered(Attention(), nn.CrossEntropyLoss(), _classes(7, 9, 3), _classes(3, 9), names)


def _tables() -> Layered:
    x = _classes(7, 9, 5)
    return _layered(Tables(), nn.CrossEntropyLoss(), x, _classes(7, 9), set())


def _awkward() -> Layered:
    return _layered(Awkward(), nn.CrossEntropyLoss(), _numbers(9, 4), _classes(3, 9), {"first.weight"})


def _robust() -> Layered:
    """A loss that is no likelihood."""
    mlp = _mlp()
    return _layered(mlp.module, nn.HuberLoss(delta=0.5), mlp.x, _numbers(13, 3), mlp.kronecker)


CASES: dict[str, Callable[[], Layered]] = {
    "mlp": _mlp,
    "class weights": _weighted,
    "sequences": _sequences,
    "log-probabilities": _log_probabilities,
    "convolutions": _convolutions,
    "uneven convolution": _uneven_convolution,
    "attention": _attention,
    "tables": _tables,
    "awkward": _awkward,
    "robust": _robust,
}


def factor_of(problem: Problem, method: str, **options: object) -> KroneckerFactor:
    """The factor that a solve leaves with its problem."""
    b = torch.ones(problem.num_params, dtype=problem.dtype)
    info = solve_hvp(method, problem.model, problem, b, hessian_perturbation=1.0, **options).info
    (key,) = (key for key in info["factors"] if key.startswith(method))

    def never() -> None:
        raise AssertionError("the factor was not kept")

    factor, _ = problem.factors.get(problem.factor_key(key), KroneckerFactor, never)
    assert factor is not None
    return factor
