"""Passes over a problem's training data that yield what enters each layer and gradients of each point."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

from torch import Tensor

from solvers.batch import Inputs, map_inputs, moved
from solvers.kernels import twice_differentiable_kernels
from solvers.kronecker.columns import LossColumns, Statistics
from solvers.kronecker.layers import Layer, Uses, find_layers, uses_of
from solvers.kronecker.pointwise import Gradients, PointwiseModel, Trace
from solvers.losses.weighted import spread
from solvers.out_of_memory import Portions, one_point_at_a_time, until_it_fits

if TYPE_CHECKING:
    from solvers.problem import Problem

__all__ = ["OnPoints", "Sweep"]

F = TypeVar("F")

OnPoints = Callable[[int], bool]
"""Called with the points done in a pass; True stops it."""

SHARE: Final = 8
"""The share of the memory budget for what is made of a chunk beside its activations."""


class Sweep:
    """The training points of a problem, chunk by chunk within its memory budget.

    Args:
        problem: The problem.
        statistics: Which gradients.
        on_points: Hears of progress after each gradient of a chunk, and may stop.
        layers: Which layers, if that is decided already.
        squares_fit: Whether a layer's factors, squares of its sides, must fit the budget for it to be one.

    Attributes:
        layers: Those whose curvature is made of what enters and leaves them.
        others: Places of all other parameters.
        divisor: What sums over all points are divided by.
        stopped: Whether the last pass was.
    """

    def __init__(
        self,
        problem: Problem,
        statistics: Statistics,
        on_points: OnPoints,
        layers: Sequence[Layer] | None = None,
        *,
        squares_fit: bool = True,
    ) -> None:
        self.divisor = statistics.divisor(problem)
        self.stopped = False
        self._problem = problem
        self._columns = LossColumns(problem.terms, statistics)
        self._on_points = on_points
        self._used_points = problem.num_points
        self._portions = Portions(problem.num_points, problem.device)
        self._uses: dict[object, Uses] = {}
        with twice_differentiable_kernels(), one_point_at_a_time():
            for x, _, _ in problem.data.batches():
                if _kind(x) not in self._uses:
                    first = map_inputs(x, lambda part: part[:1].to(problem.device))
                    self._uses[_kind(x)] = uses_of(problem.snapshot, first)
        if layers is None:
            found = find_layers(list(self._uses.values()))
            layers = [layer for layer in found if not squares_fit or self._affordable(layer)]
        self.layers = list(layers)
        within = {place for layer in self.layers for place in layer.parameters}
        self.others = [i for i in range(len(problem.snapshot.parameters)) if i not in within]

    @property
    def shortage(self) -> list[str]:
        """Where memory ran out, how many points went at a time before and after, in words."""
        return self._portions.shortage

    def chunks(self, *, others: bool, scaled: bool = True) -> Iterator[tuple[Trace, Iterator[Gradients]]]:
        """One pass; ends early where it is stopped.

        Args:
            others: Whether gradients by the parameters outside the layers are wanted.
            scaled: Whether they are multiplied by the square roots of sample weights, so that their squares add up
                to the weighted curvature.

        Yields:
            A run on a chunk, and its gradients in the directions of the loss, to be gone through once.
        """
        wanted = self.others if others else []
        model = PointwiseModel(self._problem.snapshot, self.layers, wanted)
        self.stopped = False
        done = 0
        with twice_differentiable_kernels():
            self._used_points = self._chunk_points(wanted)
            for batch in self._problem.data.streamed(self._used_points, self._problem.device):
                here = moved(batch, self._problem.device)
                trace = model.run(here, self._uses[_kind(here.x)])
                yield trace, self._gradients(trace, here.y, done, scaled=scaled)
                done += here.points
                if self.stopped:
                    return

    def whole(self, passed: Callable[[Sweep], F]) -> F:
        """What a pass makes; where the device runs out of memory, what one in smaller chunks makes.

        Args:
            passed: Goes through the data once.

        Raises:
            OutOfMemory: Not even one point fits.
        """
        return until_it_fits(
            lambda: passed(self),
            is_smallest=lambda: self._used_points == 1,
            halve=lambda: self._portions.halve(self._used_points),
        )

    def _gradients(self, trace: Trace, y: Tensor, done: int, *, scaled: bool) -> Iterator[Gradients]:
        directions = self._columns.of(trace.output, y, done)
        root = None if trace.weights is None or not scaled else spread(trace.weights, trace.output).sqrt()
        for i, direction in enumerate(directions, 1):
            if root is not None:
                direction = direction * root
            yield trace.gradients(direction, last=i == len(directions))
            if self._on_points(done + y.shape[0] * i // len(directions)):
                self.stopped = True
                return

    def _affordable(self, layer: Layer) -> bool:
        """Whether the layer's factors may take their share: a vocabulary squared does not."""
        if layer.kind == "lookup":
            return True
        out, inside = layer.matrix(self._problem.snapshot.parameters)
        return (out**2 + inside**2) * 8 * SHARE <= self._problem.memory_budget

    def _chunk_points(self, wanted: Sequence[int]) -> int:
        """Points such that inputs and copies of parameters, each point on its own, fit their share."""
        parameters = self._problem.snapshot.parameters
        places = {layer.weight: layer for layer in self.layers}
        largest = 0
        for uses in self._uses.values():
            rows = 0
            for called, shape in zip(uses.layers, uses.outputs, strict=True):
                if called.weight in places:
                    _, inside = places[called.weight].matrix(parameters)
                    rows += 2 * inside * (math.prod(shape) // shape[_CHANNELS[called.kind]])
            largest = max(largest, rows)
        copies = 3 * sum(parameters[i].numel() for i in wanted)
        size = parameters[0].element_size() * (largest + copies) + self._columns.bytes_per_point
        within = self._problem.memory_budget // (SHARE * size)
        return max(1, min(self._problem.chunk_points(), self._portions.most, within))


_CHANNELS: Final = {"linear": -1, "convolution": -3, "lookup": -1}
"""Which dimension of a layer's output is no position."""


def _kind(x: Inputs) -> object:
    parts = x.items() if isinstance(x, dict) else [("", x)]
    return tuple((name, part.shape[1:], part.dtype) for name, part in parts)
