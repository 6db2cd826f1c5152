"""Losses that compare outputs and targets number by number: squared error, binary cross-entropy and their kin."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from solvers.losses.terms import same_shape

__all__ = ["ElementwiseTerms"]


@dataclass(frozen=True)
class ElementwiseTerms:
    """A point's loss is the mean (or the sum) of its elements; the data set's is the mean over points.

    Args:
        name: What to call the loss in messages.
        elements: ``(output, target) -> losses`` of the same shape.
        mean: Whether a point's elements are averaged; else they are summed.
    """

    name: str
    elements: Callable[[Tensor, Tensor], Tensor]
    mean: bool

    @property
    def description(self) -> str:
        """One line on how the loss normalises."""
        how = "mean" if self.mean else "sum"
        return f"{self.name}: {how} over the elements of a point, mean over points"

    def check(self, output: Tensor, target: Tensor) -> None:
        """Refuses shapes that differ."""
        same_shape(self.name, output, target)

    def numerator(self, output: Tensor, target: Tensor) -> Tensor:
        """The sum of the points' losses."""
        return self.per_point(output, target).sum()

    def denominator(self, output: Tensor, target: Tensor) -> float:  # noqa: ARG002 - the protocol's shape
        """The number of points."""
        return float(output.shape[0])

    def per_point(self, output: Tensor, target: Tensor) -> Tensor:
        """The loss of each point, ``[m]``."""
        elements = self.elements(output, target).reshape(output.shape[0], -1)
        return elements.mean(dim=1) if self.mean else elements.sum(dim=1)
