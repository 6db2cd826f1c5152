"""Fisher matrices of small modules in float64, point by point, by plain autograd: oracles for Kronecker factors."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from solvers.kronecker import KroneckerBlock, KroneckerFactor

F64 = torch.float64


def output_curvature(loss: Callable[[Tensor, Tensor], Tensor], output: Tensor, target: Tensor) -> Tensor:
    """∇² of one point's loss in its flat outputs ``[c, c]``."""

    def flat(o: Tensor) -> Tensor:
        return loss(o.reshape(output.shape).unsqueeze(0), target.unsqueeze(0))

    second: Tensor = torch.autograd.functional.hessian(flat, output.reshape(-1))  # type: ignore[no-untyped-call]
    return second


def jacobians(module: nn.Module, x: Tensor) -> Tensor:
    """Of each point's flat outputs in the parameters, ``[n, c, p]``."""
    module = copy.deepcopy(module).double()
    parameters = [p for p in module.parameters() if p.requires_grad]
    rows = []
    for point in x.double() if x.is_floating_point() else x:
        outputs = module(point.unsqueeze(0)).reshape(-1)
        grads = [
            torch.autograd.grad(o, parameters, retain_graph=True, allow_unused=True, materialize_grads=True)
            for o in outputs
        ]
        rows.append(torch.stack([torch.cat([g.reshape(-1) for g in gs]) for gs in grads]))
    return torch.stack(rows)


def dense_fisher(
    module: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor, divisor: float | None = None
) -> Tensor:
    """Σ Jᵀ ∇² J over points / divisor, the number of points if left out; ``loss`` gives a point's numerator."""
    J = jacobians(module, x)
    with torch.no_grad():
        outputs = copy.deepcopy(module).double()(x.double() if x.is_floating_point() else x)
    y = y.double() if y.is_floating_point() else y
    total = torch.zeros(J.shape[2], J.shape[2], dtype=F64)
    for j, o, t in zip(J, outputs, y, strict=True):
        total += j.T @ output_curvature(loss, o, t) @ j
    return total / (len(x) if divisor is None else divisor)


def dense_block(block: KroneckerBlock) -> Tensor:
    """A block as one matrix, its rows in the order of ``[out, in]``."""
    Q = torch.kron(block.outputs.double(), block.inputs.double())
    return Q @ torch.diag(block.eigenvalues.double().reshape(-1)) @ Q.T


def places(block: KroneckerBlock, parameters: list[Tensor]) -> Tensor:
    """Where the numbers of a block stand in flat vectors, in the order of its rows."""
    starts = [0]
    for p in parameters:
        starts.append(starts[-1] + p.numel())
    out = parameters[block.weight].shape[0]
    weight = starts[block.weight] + torch.arange(parameters[block.weight].numel()).reshape(out, -1)
    if block.bias is None:
        return weight.reshape(-1)
    bias = starts[block.bias] + torch.arange(out)[:, None]
    return torch.cat([weight, bias], dim=1).reshape(-1)


def dense_factor(factor: KroneckerFactor, parameters: list[Tensor]) -> Tensor:
    """The whole curvature that a factor stands for, ``[p, p]`` in the order of flat vectors."""
    p = sum(t.numel() for t in parameters)
    whole = torch.zeros(p, p, dtype=F64)
    for block in factor.blocks:
        at = places(block, parameters)
        whole[at[:, None], at] = dense_block(block)
    start = 0
    for i, t in enumerate(parameters):
        if i in factor.diagonal:
            at = torch.arange(start, start + t.numel())
            whole[at, at] = factor.diagonal[i].double().reshape(-1)
        start += t.numel()
    return whole
