"""Models that take several tensors: a dict of inputs is given by name, and nothing else changes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ihvp.errors import DataMismatch, RowsMismatch
from solvers import Problem, TorchTwiceDifferentiable, influence_scores, loss_gradients, solve_hvp
from tests.solvers.cases import METHODS, Case, Method, dense_hessian, options_for

F64 = torch.float64
N = 23


class Masked(nn.Module):
    """Mean of the tokens' vectors that a mask keeps, and a linear map of it."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(6, 3)
        self.out = nn.Linear(3, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        mask = attention_mask[..., None].to(self.tokens.weight.dtype)
        mean = (self.tokens(input_ids) * mask).sum(dim=1) / mask.sum(dim=1)
        logits: Tensor = self.out(torch.tanh(mean))
        return logits


def case() -> tuple[Case, dict[str, Tensor]]:
    torch.manual_seed(0)
    module = Masked().double()
    ids, y = torch.randint(0, 6, (N, 5)), torch.randint(0, 3, (N,))
    mask = (torch.arange(5) < torch.randint(1, 6, (N, 1))).long()
    H = dense_hessian(module, lambda m: nn.functional.cross_entropy(m(ids, mask), y))
    damping = 0.2 - float(torch.linalg.eigvalsh(H)[0])
    model = TorchTwiceDifferentiable(module, nn.CrossEntropyLoss())
    # The order of the names is not that of the arguments.
    return Case("masked", model, ids, y, H, damping), {"attention_mask": mask, "input_ids": ids}


def rhs(masked: Case) -> Tensor:
    return torch.randn(2, masked.p, generator=torch.Generator().manual_seed(1), dtype=F64)


def batches(x: dict[str, Tensor], y: Tensor, size: int) -> list[Any]:
    return [({k: v[i : i + size] for k, v in x.items()}, y[i : i + size]) for i in range(0, len(y), size)]


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_every_method(method: Method) -> None:
    masked, x = case()
    b = rhs(masked)
    size = N if method.name == "lissa" else 6
    found = solve_hvp(
        method.name,
        masked.model,
        batches(x, masked.y, size),
        b,
        hessian_perturbation=masked.damping,
        **options_for(method, masked),
    )
    exact = masked.exact(b)
    assert float((found.x - exact).norm() / exact.norm()) < method.error64


@pytest.mark.parametrize("method", ["kfac", "ekfac", "datainf"])
def test_methods_of_single_points_do_not_depend_on_batches(method: str) -> None:
    masked, x = case()
    b = rhs(masked)
    whole, cut = (
        solve_hvp(method, masked.model, batches(x, masked.y, size), b, hessian_perturbation=0.3).x for size in (N, 4)
    )
    torch.testing.assert_close(whole, cut, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("strategy", ["graph", "recomputed", "linearized", "forward"])
def test_each_way_to_compute_products(strategy: Any) -> None:
    masked, x = case()
    made = Problem(masked.model, batches(x, masked.y, 5), strategy=strategy, memory_budget=2**20)
    torch.testing.assert_close(made.hessian(1, 1)(torch.eye(masked.p, dtype=F64)), masked.H, rtol=1e-9, atol=1e-11)


def test_scores_and_gradients() -> None:
    masked, x = case()
    data = batches(x, masked.y, 5)
    parameters = list(masked.model.model.parameters())
    rows = []
    for i in range(N):
        one = {name: part[i : i + 1] for name, part in x.items()}
        loss = masked.model.loss(masked.model.model(**one), masked.y[i : i + 1])
        rows.append(torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, parameters)]))
    G = torch.stack(rows)
    v = rhs(masked)
    torch.testing.assert_close(loss_gradients(masked.model, data), G, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(influence_scores(masked.model, data, v), v @ G.T, rtol=1e-10, atol=1e-12)
    weighty = [(x, y, torch.ones(len(y))) for x, y in data]
    torch.testing.assert_close(influence_scores(masked.model, weighty, v), v @ G.T, rtol=1e-10, atol=1e-12)


def test_the_models_own_hessian_and_gradient() -> None:
    masked, x = case()
    torch.testing.assert_close(masked.model.hessian(x, masked.y), masked.H, rtol=1e-10, atol=1e-12)
    mean = loss_gradients(masked.model, batches(x, masked.y, 5)).mean(dim=0)
    torch.testing.assert_close(masked.model.grad(x, masked.y), mean)


def test_a_data_loader_of_dicts() -> None:
    masked, x = case()
    rows = [({name: part[i] for name, part in x.items()}, masked.y[i]) for i in range(N)]
    made = Problem(masked.model, DataLoader(rows, batch_size=4, shuffle=True))  # type: ignore[arg-type]
    torch.testing.assert_close(made.hessian(1, 1)(torch.eye(masked.p, dtype=F64)), masked.H, rtol=1e-9, atol=1e-11)


def test_sequences_of_different_lengths_are_not_joined() -> None:
    masked, x = case()
    long = {name: part[:10] for name, part in x.items()}
    short = {name: part[10:, :3] for name, part in x.items()}
    y = masked.y

    def mean(m: nn.Module) -> Tensor:
        outputs = torch.cat([m(**long), m(**short)])
        return nn.functional.cross_entropy(outputs, y)

    made = Problem(masked.model, [(long, y[:10]), (short, y[10:])])
    expected = dense_hessian(masked.model.model, mean)
    torch.testing.assert_close(made.hessian(1, 1)(torch.eye(masked.p, dtype=F64)), expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"attention_mask": torch.ones(4, 5)}, RowsMismatch, r"attention_mask \[4, 5\], input_ids \[23, 5\]"),
        ({"attention_mask": None}, DataMismatch, "attention_mask: NoneType"),
        ({"other": torch.ones(N)}, DataMismatch, "other"),
        ({"attention_mask": torch.tensor(1.0)}, DataMismatch, "single point"),
    ],
)
def test_what_cannot_be_used(change: dict[str, Any], error: type[Exception], message: str) -> None:
    masked, x = case()
    with pytest.raises(error, match=message):
        Problem(masked.model, [({**x, **change}, masked.y)])
    with pytest.raises(DataMismatch, match="non-empty dict"):
        Problem(masked.model, [({}, masked.y)])
