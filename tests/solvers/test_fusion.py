"""Rewritten traces: the same products from fewer operations, application after application."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from solvers.kernels import twice_differentiable_kernels
from solvers.operators import products
from solvers.operators.products import GraphProduct, LinearizedProduct

POINTS = 12


class _Attention(nn.Module):
    """One pre-norm transformer layer on short sequences, then a classifier of each place."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True, norm_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the first place."""
        logits: Tensor = self.head(self.layer(self.embed(x)))[:, 0]
        return logits


def _mlp(activation: Callable[[], nn.Module]) -> nn.Module:
    return nn.Sequential(nn.Linear(5, 7), activation(), nn.Linear(7, 6), activation(), nn.Linear(6, 3))


MODULES: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(5, 3),
    "tanh": lambda: _mlp(nn.Tanh),
    "sigmoid": lambda: _mlp(nn.Sigmoid),
    "relu": lambda: _mlp(nn.ReLU),
    "gelu": lambda: _mlp(nn.GELU),
    "silu": lambda: _mlp(nn.SiLU),
    "elu": lambda: _mlp(nn.ELU),
    "softplus": lambda: _mlp(nn.Softplus),
    "residual": lambda: _Residual(),
    "convolution": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 3, 3), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(3, 3)
    ),
    "attention": _Attention,
}


class _Residual(nn.Module):
    """A sum whose both sides depend on the parameters, one of them a matrix product used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, 3, bias=False)
        self.second = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        hidden = self.first(x)
        logits: Tensor = hidden + self.second(torch.tanh(hidden)) * hidden
        return logits


def _inputs(name: str) -> Tensor:
    if name == "attention":
        return torch.randint(0, 9, (POINTS, 5))
    return torch.randn(POINTS, 16 if name == "convolution" else 5, dtype=torch.float64)


def _case(name: str) -> tuple[Callable[[Sequence[Tensor]], Tensor], list[Tensor]]:
    torch.manual_seed(3)
    module = MODULES[name]().double().eval()
    x, y = _inputs(name), torch.randint(0, 3, (POINTS,))
    names = [n for n, _ in module.named_parameters()]

    def objective(at: Sequence[Tensor]) -> Tensor:
        outputs = torch.func.functional_call(module, dict(zip(names, at, strict=True)), (x,))
        return nn.functional.cross_entropy(outputs, y, reduction="sum")

    return objective, [p.detach() for p in module.parameters()]


def _operations(product: LinearizedProduct) -> int:
    return sum(node.op == "call_function" for node in product.trace.graph.nodes)


@pytest.mark.parametrize("name", MODULES)
def test_rewritten_traces_give_the_products_of_the_retained_graph(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    objective, parameters = _case(name)
    with twice_differentiable_kernels():
        graph = GraphProduct(objective, parameters)
        fused = LinearizedProduct(graph, parameters)
        monkeypatch.setattr(products, "fuse", lambda _: None)
        plain = LinearizedProduct(graph, parameters)
        for _ in range(3):
            v = [torch.randn_like(p) for p in parameters]
            given = [part.clone() for part in v]
            for found, wanted in zip(fused.one(v), graph.one(v), strict=True):
                torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
            assert all(torch.equal(a, b) for a, b in zip(v, given, strict=True))
        V = [torch.randn(4, *p.shape, dtype=p.dtype) for p in parameters]
        for found, wanted in zip(fused.many(V), graph.many(V), strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
    assert _operations(fused) < _operations(plain)


def test_what_a_trace_was_computed_from_is_let_go() -> None:
    objective, parameters = _case("tanh")
    product = LinearizedProduct(GraphProduct(objective, parameters), parameters)
    read = {node.target for node in product.trace.graph.nodes if node.op == "get_attr"}
    assert read == {name for name, _ in product.trace.named_buffers()}
    # Of a network with two hidden layers: in- and outputs of each, their derivatives and the loss's, each once.
    assert product.nbytes < 14 * POINTS * 7 * 8 + sum(p.nbytes for p in parameters)


def test_parameters_without_second_derivatives_have_zeros_for_each_vector() -> None:
    # Nothing of the objective's gradient depends on the last one.
    parameters = [torch.randn(3, dtype=torch.float64), torch.randn(2, dtype=torch.float64)]
    graph = GraphProduct(lambda at: at[0].pow(3).sum() + at[1].sum(), parameters)
    V = [torch.randn(4, *p.shape, dtype=torch.float64) for p in parameters]
    first, second = graph.many(V)
    torch.testing.assert_close(first, 6 * parameters[0] * V[0])
    assert torch.equal(second, torch.zeros(4, 2, dtype=torch.float64))
