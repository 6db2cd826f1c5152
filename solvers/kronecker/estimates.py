"""Kronecker factors from one pass over the training data, and corrected eigenvalues from one more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import torch
from torch import Tensor

from solvers.kronecker.factor import KroneckerBlock, KroneckerFactor
from solvers.kronecker.layers import Layer
from solvers.kronecker.sweep import Sweep

__all__ = ["correct_eigenvalues", "estimate_factors"]

NUMBERS_AT_ONCE: Final = 1 << 22
"""Numbers of single points' gradients that are held at a time."""


def estimate_factors(sweep: Sweep, parameters: Sequence[Tensor]) -> KroneckerFactor | None:
    """K-FAC (Martens & Grosse, 2015): A ⊗ G with A = E[a aᵀ] and G = E[g gᵀ] for each layer.

    a is what enters the layer, with a 1 for the bias, and g the derivative by what leaves it. Where a layer is
    applied at several positions of a point they are taken as independent and alike: A is the mean over points and
    positions, G the mean over points of the sum over positions (Grosse & Martens, 2016, for convolutions; the
    "expand" setting of Eschenhagen et al., 2023, for linear maps). Parameters outside the layers have the exact
    diagonal, the mean over points of squared gradients. All these means are weighted where points are.

    Args:
        sweep: The data.
        parameters: All of them, for their sizes and kind.

    Returns:
        None where it was stopped.
    """
    tables = [layer.weight for layer in sweep.layers if layer.kind == "lookup"]
    moments = {at: _Moments(x, parameters) for at, x in enumerate(sweep.layers) if x.kind != "lookup"}
    squares = {i: torch.zeros_like(parameters[i], dtype=torch.float64) for i in [*sweep.others, *tables]}
    for trace, directions in sweep.chunks(others=True):
        inputs = [trace.inputs(at) for at in range(len(trace.layers))]
        for which, rows in zip(trace.layers, inputs, strict=True):
            if which in moments:
                moments[which].add_inputs(rows, trace.weights)
        for gradients in directions:
            for which, entered, rows in zip(trace.layers, inputs, gradients.outputs, strict=True):
                if which in moments:
                    moments[which].add_outputs(rows)
                else:
                    _add_looked_up(squares[sweep.layers[which].weight], entered, rows)
            for place, grad in zip(sweep.others, gradients.others, strict=True):
                squares[place] += grad.square().sum(dim=0)
    if sweep.stopped:
        return None
    diagonal = {i: (total / sweep.divisor).to(parameters[i].dtype) for i, total in squares.items()}
    return KroneckerFactor(tuple(m.block(sweep.divisor) for m in moments.values()), diagonal)


def correct_eigenvalues(sweep: Sweep, factor: KroneckerFactor) -> KroneckerFactor | None:
    """EK-FAC (George et al., 2018): the curvature's own diagonal in the eigenbases of its Kronecker factors.

    The eigenvalues become E[(Q_Gᵀ ∇ Q_A)²] with ∇ the gradient of a point, summed over its positions. No other
    eigenvalues in these bases are closer to the curvature in the Frobenius norm.

    Args:
        sweep: The data, in the statistics that the factor was made with, and its layers.
        factor: From :func:`estimate_factors`.

    Returns:
        The same eigenbases and diagonals; None where it was stopped.
    """
    blocks = {block.weight: block for block in factor.blocks}
    totals = {weight: torch.zeros_like(b.eigenvalues, dtype=torch.float64) for weight, b in blocks.items()}
    if not blocks:
        return factor
    for trace, directions in sweep.chunks(others=False):
        used = [blocks[sweep.layers[which].weight] for which in trace.layers]
        inputs = [_with_one(trace.inputs(at), block.bias) @ block.inputs for at, block in enumerate(used)]
        # With one position a gradient is an outer product, and its square one of squares.
        squares: dict[int, Tensor] = {}
        for gradients in directions:
            for block, a, rows in zip(used, inputs, gradients.outputs, strict=True):
                g = rows @ block.outputs
                if a.shape[1] > 1:
                    totals[block.weight] += _summed_squares(g, a)
                elif block.weight in squares:
                    squares[block.weight] += g[:, 0].square()
                else:
                    squares[block.weight] = g[:, 0].square()
        for block, a in zip(used, inputs, strict=True):
            if block.weight in squares:
                totals[block.weight] += squares[block.weight].T @ a[:, 0].square()
    if sweep.stopped:
        return None
    corrected = [
        replace(b, eigenvalues=(totals[b.weight] / sweep.divisor).to(b.eigenvalues.dtype)) for b in factor.blocks
    ]
    return replace(factor, blocks=tuple(corrected))


def _with_one(rows: Tensor, bias: int | None) -> Tensor:
    """Rows ``[m, r, in]`` with the number that the bias is multiplied by, if there is one."""
    return rows if bias is None else torch.cat([rows, torch.ones_like(rows[..., :1])], dim=2)


def _add_looked_up(squares: Tensor, rows: Tensor, g: Tensor) -> None:
    """Adds each point's squared gradient by a table, of which it has looked up few rows.

    Args:
        squares: ``[rows, out]``, changed in place.
        rows: The rows looked up, ``[m, r]``.
        g: Derivatives by what was found, ``[m, r, out]``.
    """
    m, out = g.shape[0], g.shape[2]
    of_points = rows + squares.shape[0] * torch.arange(m, device=rows.device).unsqueeze(1)
    distinct, which = torch.unique(of_points, return_inverse=True)
    sums = g.new_zeros(distinct.shape[0], out).index_add_(0, which.reshape(-1), g.reshape(-1, out))
    squares.index_add_(0, distinct % squares.shape[0], sums.square().to(squares.dtype))


def _summed_squares(g: Tensor, a: Tensor) -> Tensor:
    """Σ over points of (Σ over positions g aᵀ)², ``[out, in]``, for rows ``[m, r, out]`` and ``[m, r, in]``."""
    out, inside = g.shape[2], a.shape[2]
    total = g.new_zeros(out, inside)
    at_once = max(1, NUMBERS_AT_ONCE // (out * inside))
    for rows, columns in zip(torch.split(g, at_once), torch.split(a, at_once), strict=True):
        total += (rows.transpose(1, 2) @ columns).square_().sum(dim=0)
    return total


class _Moments:
    """A and G of one layer as they add up, in float64.

    Args:
        layer: The layer.
        parameters: All parameters.
    """

    def __init__(self, layer: Layer, parameters: Sequence[Tensor]) -> None:
        weight = parameters[layer.weight]
        out, inside = layer.matrix(parameters)
        self._layer = layer
        self._dtype = weight.dtype
        self._inputs = weight.new_zeros(inside, inside, dtype=torch.float64)
        self._outputs = weight.new_zeros(out, out, dtype=torch.float64)
        self._rows = 0.0

    def add_inputs(self, rows: Tensor, weights: Tensor | None) -> None:
        """What entered the layer, ``[m, r, in]``, and the points' sample weights ``[m]``."""
        rows = _with_one(rows, self._layer.bias)
        if weights is None:
            self._rows += rows.shape[0] * rows.shape[1]
        else:
            self._rows += float(weights.double().sum()) * rows.shape[1]
            rows = rows * weights.to(rows).sqrt()[:, None, None]
        rows = rows.flatten(end_dim=1)
        self._inputs += rows.T @ rows

    def add_outputs(self, rows: Tensor) -> None:
        """Derivatives by what left it, ``[m, r, out]``."""
        rows = rows.flatten(end_dim=1)
        self._outputs += rows.T @ rows

    def block(self, divisor: float) -> KroneckerBlock:
        """The eigenbases, and the products of the eigenvalues."""
        inputs, Q_A = torch.linalg.eigh(self._inputs / (self._rows or 1.0))
        outputs, Q_G = torch.linalg.eigh(self._outputs / divisor)
        # Rounding leaves zeros on either side.
        eigenvalues = torch.outer(outputs.clamp(min=0.0), inputs.clamp(min=0.0))
        matrices = (m.to(self._dtype).contiguous() for m in (Q_A, Q_G, eigenvalues))
        return KroneckerBlock(self._layer.weight, self._layer.bias, *matrices)
