"""Recorded functions: what they do to a vector is done to the next one too, or they say that it cannot be."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from solvers.operators.products import GraphProduct, LinearizedProduct
from solvers.operators.recording import Unrecordable, bytes_of, record

F64 = torch.float64
SCALE = torch.arange(1.0, 5.0, dtype=F64)
Vectors = tuple[Tensor, ...]


def _scaled(v: Vectors) -> Vectors:
    return (v[0] * SCALE, v[1] @ SCALE.outer(SCALE))


def _into_fresh_memory(v: Vectors) -> Vectors:
    total = torch.zeros(3, 4, dtype=F64)
    total.index_put_((torch.tensor([1, 1]),), v[0] * SCALE, accumulate=True)
    total[2] += v[0]
    total.add_(v[1], alpha=2.0)
    return (total,)


def _into_a_constant(v: Vectors) -> Vectors:
    sums = torch.full((4,), 0.0, dtype=F64)
    sums.add_(v[0])
    return (sums * 2, sums + v[1].sum(0))


def _into_a_vectors_own(v: Vectors) -> Vectors:
    product = v[0] * 3.0
    view = product[:2]
    view.mul_(2.0)
    return (product,)


def _several_results(v: Vectors) -> Vectors:
    first, second = v[1].split([1, 2])
    return (first + second, torch.stack(v[1].unbind()).sum(0))


def _masked(v: Vectors) -> Vectors:
    return (torch.where(SCALE > 2.0, v[0], torch.zeros_like(v[0])),)


def _nothing_of_it(v: Vectors) -> Vectors:
    return (torch.zeros_like(v[0]), v[1])


LINEAR = [
    _scaled,
    _into_fresh_memory,
    _into_a_constant,
    _into_a_vectors_own,
    _several_results,
    _masked,
    _nothing_of_it,
]


def _vectors(seed: int) -> Vectors:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(*shape, generator=generator, dtype=F64) for shape in ((4,), (3, 4)))


@pytest.mark.parametrize("function", LINEAR)
def test_a_recorded_function_does_the_same_to_other_vectors(function: Callable[[Vectors], Vectors]) -> None:
    recording = record(function, _vectors(0))
    for seed in (1, 2, 3):
        v = _vectors(seed)
        expected = function(tuple(part.clone() for part in v))
        for found, wanted in zip(recording.trace(*v), expected, strict=True):
            assert torch.equal(found, wanted)
        assert all(torch.equal(part, again) for part, again in zip(v, _vectors(seed), strict=True))


def _branches(v: Vectors) -> Vectors:
    return (v[0] * 2 if float(v[0].sum()) > 0 else v[0],)


def _shares_memory(v: Vectors) -> Vectors:
    buffer = torch.zeros(4, dtype=F64)
    other = buffer[1:]
    buffer.add_(v[0])
    return (other * v[0][1:],)


def _reads_by_another_name(v: Vectors) -> Vectors:
    buffer = torch.zeros(4, dtype=F64)
    other = buffer[1:]
    buffer.add_(v[0])
    return (v[0][1:] + other * 2.0,)


def _into_part_of_a_constant(v: Vectors) -> Vectors:
    total = torch.zeros(3, 4, dtype=F64)
    total[1] += v[0]
    return (total + v[1],)


def _changes_what_was_read(v: Vectors) -> Vectors:
    factor = SCALE.clone()
    product = v[0] * factor
    factor.mul_(2.0)
    return (product + v[0] * factor,)


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (_branches, "looks at the values"),
        (_shares_memory, "shares its memory|by another name"),
        (_reads_by_another_name, "by another name"),
        (_into_part_of_a_constant, "what others may read"),
        (_changes_what_was_read, "written into after it was read"),
    ],
)
def test_what_cannot_be_repeated_is_refused(function: Callable[[Vectors], Vectors], why: str) -> None:
    with pytest.raises(Unrecordable, match=why):
        record(function, _vectors(0))


def _losses() -> dict[str, Callable[[Tensor], Tensor]]:
    torch.manual_seed(0)
    target, classes = torch.randn(6, 3, dtype=F64), torch.randint(0, 3, (6,))
    return {
        "mse": lambda out: F.mse_loss(out, target, reduction="sum"),
        "smooth l1": lambda out: F.smooth_l1_loss(out, target, reduction="sum"),
        "bce": lambda out: F.binary_cross_entropy_with_logits(out, target.sigmoid(), reduction="sum"),
        "nll": lambda out: F.nll_loss(out.log_softmax(1), classes, reduction="sum"),
        "by index": lambda out: -out.log_softmax(1)[torch.arange(6), classes].sum(),
        "norm": lambda out: F.layer_norm(out, (3,)).pow(3).sum(),
        "sorted": lambda out: (out.sort(dim=1).values * target).pow(2).sum(),
        "scattered": lambda out: torch.zeros(3, 3, dtype=F64).index_add(0, classes, out).pow(2).sum(),
    }


@pytest.mark.parametrize("name", _losses())
def test_second_derivatives_of_losses_that_index_sort_and_normalise(name: str) -> None:
    loss = _losses()[name]
    W, x = torch.randn(5, 3, dtype=F64), torch.randn(6, 5, dtype=F64)

    def objective(at: Sequence[Tensor]) -> Tensor:
        return loss(torch.tanh(x @ at[0]))

    graph = GraphProduct(objective, [W])
    recorded = LinearizedProduct(graph, [W])
    oracle = torch.autograd.functional.hessian(lambda w: objective((w,)), W).reshape(15, 15)
    V = torch.randn(4, 5, 3, dtype=F64)
    wanted = (V.reshape(4, 15) @ oracle).reshape(4, 5, 3)
    torch.testing.assert_close(recorded.many((V,))[0], wanted, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(torch.stack([recorded.one((v,))[0] for v in V]), wanted, rtol=1e-9, atol=1e-11)


def test_recording_loads_no_compiler() -> None:
    # Torch's own tracers import one when they are first used: a second or two in which a job would wait.
    code = (
        "import sys, torch, solvers; from torch import nn\n"
        "net = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))\n"
        "data = [(torch.randn(9, 4), torch.randint(0, 2, (9,)))]\n"
        "model = solvers.TorchTwiceDifferentiable(net, nn.CrossEntropyLoss())\n"
        "H = solvers.Problem(model, data, strategy='linearized').hessian(1, 1)\n"
        "H(torch.randn(2, model.num_params)); assert H.plan.product == 'linearized'\n"
        "print([m for m in ('torch._dynamo', 'sympy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_bytes_are_counted_once_and_no_more_than_is_shown() -> None:
    data = torch.zeros(100, dtype=F64)
    assert bytes_of([data, data[:50], data]) == 800
    assert bytes_of([data[:10], data[:10]]) == 80
    assert bytes_of([data[:1].expand(1000)]) == 800
    assert bytes_of([torch.zeros(1).expand(1000)]) == 4


def test_a_part_that_is_zero_but_for_rounding_does_not_spoil_a_record() -> None:
    """The bias of attention's keys changes no weight of it: its part of a product is 1e-17, otherwise each time."""
    torch.manual_seed(0)
    x, y = torch.randn(40, 6, dtype=F64), torch.randint(0, 3, (40,))
    shapes = [(6, 6), (6,), (6, 6), (6,), (3, 6)]
    parameters = tuple(torch.randn(shape, dtype=F64) for shape in shapes)

    def loss(at: Sequence[Tensor]) -> Tensor:
        queries, keys = F.linear(x, at[0], at[1]), F.linear(x, at[2], at[3])
        return F.cross_entropy(((queries @ keys.T).softmax(-1) @ x) @ at[4].T, y)

    graph = GraphProduct(loss, parameters)
    recorded = LinearizedProduct(graph, parameters)
    v = tuple(torch.randn(shape, dtype=F64) for shape in shapes)
    for found, expected in zip(recorded.one(v), graph.one(v), strict=True):
        assert torch.allclose(found, expected, rtol=1e-10, atol=1e-13)
