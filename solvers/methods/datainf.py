"""The inverse of the empirical Fisher matrix, with the order of mean and inverse swapped."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from ihvp.methods import InversionMethod, TerminationStatus
from solvers.certificate import Ending
from solvers.damping import Perturbation
from solvers.kronecker.columns import statistics_for
from solvers.kronecker.layers import Layer
from solvers.kronecker.pointwise import Gradients, Trace
from solvers.kronecker.sweep import Sweep
from solvers.progress import Callback
from solvers.registry import InversionRegistry
from solvers.result import InverseHvpResult
from solvers.system import LinearSystem, checked_options
from solvers.torch_model import TorchTwiceDifferentiable

__all__ = ["solve_datainf"]

NUMBERS_AT_ONCE: Final = 1 << 22
"""Numbers of single points' gradients that are held at a time."""
ADVICE: Final = (
    "datainf leaves out the curvature between parameters and takes the mean of inverses for the inverse of the mean: "
    "it is close where λ exceeds the squared gradients of single points (info: mean_squared_gradients). Raise "
    "hessian_perturbation; or use ekfac, which averages first, or cg, which reaches a tolerance."
)


@InversionRegistry.register(TorchTwiceDifferentiable, InversionMethod.Datainf)
def solve_datainf(
    model: TorchTwiceDifferentiable,
    training_data: Iterable[Any],
    b: Tensor,
    hessian_perturbation: Perturbation = 0.0,
    *,
    rtol: float | None = None,
    progress: bool = False,
    callback: Callback | None = None,
) -> InverseHvpResult[Tensor]:
    """Averages the inverses of single points' outer products, block by block (DataInf: Kwon, Wu, Wu & Zou, 2023).

    With gᵢ the gradient of the loss of point i by one parameter tensor, the tensor's block of the empirical Fisher
    matrix is the mean of gᵢ gᵢᵀ. The inverse of that mean + λI is replaced by the mean of the inverses of
    gᵢ gᵢᵀ + λI, which Sherman and Morrison's formula gives in closed form:
    x = (1/n) Σ (b − gᵢ (gᵢ·b) / (λ + ‖gᵢ‖²)) / λ. With sample weights both means are weighted. For one point it is
    exact in each block. Nothing is factored: one pass over the data, with all right-hand sides together.

    It stands for the empirical Fisher matrix, whichever curvature H is; the certificate is for H.

    Args:
        model: The model and its loss.
        training_data: Batches ``(x, y)``, or a :class:`solvers.Problem` of the same model.
        b: ``[p]`` or ``[k, p]``.
        hessian_perturbation: λ > 0, numbers > 0 by parameter, or ``auto``.
        rtol: The relative residual up to which a right-hand side counts as converged; 1e-5 for float32 and 1e-8 for
            float64 if left out.
        progress: Draws a progress bar on stderr.
        callback: See :func:`solvers.solve_hvp`; its iterations are points gone through. A stop leaves x = 0.

    Returns:
        ``info`` has ``mean_squared_gradients`` (the mean over points of ‖gᵢ‖² for each parameter, by name: the
        approximation is good where λ is larger; None after a stop, and for a parameter where it is not finite).

    Raises:
        InvalidOption: λ is 0 for some parameter.
        InvalidInput: See :func:`solvers.solve_hvp`.
    """
    options = checked_options(InversionMethod.Datainf, rtol=rtol)
    system = LinearSystem(
        InversionMethod.Datainf,
        model,
        training_data,
        b,
        hessian_perturbation,
        options=options,
        expected_products=1,
        check=lambda damping: damping.require_positive("datainf"),
        callback=callback,
        progress=progress,
    )
    k = system.rhs.shape[0]
    tolerance = system.tolerance(rtol)
    mean, stop = _mean_of_inverses(system)
    if mean is None:
        ending = Ending(stop or TerminationStatus.Cancelled, 0)
        return system.result(torch.zeros_like(system.rhs), [ending] * k, tolerance, mean_squared_gradients=None)
    squares = [float(square) for square in mean.squares]
    names = system.problem.snapshot.names
    return system.result(
        mean.X,
        [Ending(TerminationStatus.Approximate, 0, ADVICE)] * k,
        tolerance,
        mean_squared_gradients={n: s if math.isfinite(s) else None for n, s in zip(names, squares, strict=True)},
    )


@dataclass(frozen=True)
class _Mean:
    """The solutions ``[k, p]``, and the mean over points of ‖gᵢ‖² for each parameter ``[parameters]``."""

    X: Tensor
    squares: Tensor


def _mean_of_inverses(system: LinearSystem) -> tuple[_Mean | None, TerminationStatus | None]:
    """The mean over all points; else why it was stopped."""
    problem = system.problem
    stops: list[TerminationStatus] = []

    def on_points(done: int) -> bool:
        stop = system.report(done, problem.num_points, [1.0] * system.rhs.shape[0])
        if stop is not None:
            stops.append(stop)
        return stop is not None

    def passed(sweep: Sweep) -> _Mean | None:
        blocks = _Blocks(system)
        for trace, directions in sweep.chunks(others=True, scaled=False):
            for gradients in directions:
                blocks.add(sweep, trace, gradients)
        return None if sweep.stopped else blocks.mean(sweep.divisor)

    sweep = Sweep(problem, statistics_for(problem, "empirical", 0), on_points, squares_fit=False)
    mean = sweep.whole(passed)
    system.note_shortage("gradients of single points", sweep.shortage)
    return mean, stops[-1] if stops else None


class _Blocks:
    """Adds up gᵢ (gᵢ·b) / (λ + ‖gᵢ‖²) over points, each parameter tensor being a block.

    Args:
        system: Gives b and λ.
    """

    def __init__(self, system: LinearSystem) -> None:
        self._snapshot = system.problem.snapshot
        self._damping = system.parameter_damping
        self._b = system.rhs
        self._parts = self._snapshot.split(system.rhs)
        self._total = torch.zeros_like(system.rhs)
        self._totals = self._snapshot.split(self._total)  # views
        self._squares = torch.zeros(len(self._parts), dtype=torch.float64, device=system.rhs.device)

    def mean(self, points: float) -> _Mean:
        """The mean of the inverses, applied to b. What was added up is used up."""
        X = self._total.div_(-points).add_(self._b)
        for part, damping in zip(self._snapshot.split(X), self._damping, strict=True):
            part.div_(damping)
        return _Mean(X, self._squares / points)

    def add(self, sweep: Sweep, trace: Trace, gradients: Gradients) -> None:
        """Adds the points of one chunk."""
        w = None if trace.weights is None else trace.weights.to(self._b)
        for at, (which, rows) in enumerate(zip(trace.layers, gradients.outputs, strict=True)):
            layer, entered = sweep.layers[which], trace.inputs(at)
            if layer.kind == "lookup":
                self._add_looked_up(layer, entered, rows, w)
                continue
            if rows.shape[1] == 1:
                self._add_outer_products(layer.weight, rows[:, 0], entered[:, 0], w)
            else:
                for few, g in _of_weight(rows, entered):
                    self._add(layer.weight, g, None if w is None else w[few])
            if layer.bias is not None:
                self._add(layer.bias, rows.sum(dim=1), w)
        for place, grad in zip(sweep.others, gradients.others, strict=True):
            self._add(place, grad.reshape(grad.shape[0], -1), w)

    def _add(self, place: int, g: Tensor, w: Tensor | None) -> None:
        """Adds the gradients ``[m, size]`` of m points by one parameter; ``w`` are the points' weights, if any."""
        k = self._b.shape[0]
        squares = g.square().sum(dim=1)
        coefficients = (g @ self._parts[place].reshape(k, -1).T) / (squares + self._damping[place]).unsqueeze(1)
        self._totals[place].view(k, -1).addmm_(_times(w, coefficients.T), g)
        self._squares[place] += _times(w, squares).sum()

    def _add_outer_products(self, place: int, g: Tensor, a: Tensor, w: Tensor | None) -> None:
        """Adds gradients g aᵀ by a weight that is used at one position of a point, without forming them.

        Args:
            place: The weight.
            g: Derivatives by what leaves the layer, ``[m, out]``.
            a: What enters it, ``[m, in]``.
            w: The points' weights, if any.
        """
        k, out = self._b.shape[0], g.shape[1]
        squares = g.square().sum(dim=1) * a.square().sum(dim=1)
        weights = (self._parts[place].reshape(k, out, -1), self._totals[place].view(k, out, -1))
        for part, total in zip(*weights, strict=True):
            coefficients = ((g @ part) * a).sum(dim=1) / (squares + self._damping[place])
            total.addmm_((g * _times(w, coefficients).unsqueeze(1)).T, a)
        self._squares[place] += _times(w, squares).sum()

    def _add_looked_up(self, layer: Layer, rows: Tensor, g: Tensor, w: Tensor | None) -> None:
        """Adds gradients by a table, of which each point has looked up few rows.

        Args:
            layer: The table.
            rows: The rows looked up, ``[m, r]``.
            g: Derivatives by what was found, ``[m, r, out]``.
            w: The points' weights, if any.
        """
        m, out = g.shape[0], g.shape[2]
        table = self._snapshot.parameters[layer.weight].shape[0]
        of_points = rows + table * torch.arange(m, device=rows.device).unsqueeze(1)
        distinct, which = torch.unique(of_points, return_inverse=True)
        # A point that looks a row up twice has the sum of both as its gradient there.
        sums = g.new_zeros(distinct.shape[0], out).index_add_(0, which.reshape(-1), g.reshape(-1, out))
        point, row = distinct // table, distinct % table
        squares = g.new_zeros(m).index_add_(0, point, sums.square().sum(dim=1))
        for part, total in zip(self._parts[layer.weight], self._totals[layer.weight], strict=True):
            products = g.new_zeros(m).index_add_(0, point, (part[row] * sums).sum(dim=1))
            coefficients = _times(w, products / (squares + self._damping[layer.weight]))
            total.index_add_(0, row, coefficients[point].unsqueeze(1) * sums)
        self._squares[layer.weight] += _times(w, squares).sum()


def _times(w: Tensor | None, values: Tensor) -> Tensor:
    """Values ``[..., m]`` times the weights of m points."""
    return values if w is None else w * values


def _of_weight(g: Tensor, a: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Which points, and their gradients Σ over positions g aᵀ, flat ``[m, out · in]``, for a few at a time."""
    size = g.shape[2] * a.shape[2]
    few = max(1, NUMBERS_AT_ONCE // size)
    for start in range(0, g.shape[0], few):
        which = slice(start, start + few)
        yield which, (g[which].transpose(1, 2) @ a[which]).reshape(-1, size)
