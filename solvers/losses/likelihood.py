"""Losses that are the negative log-likelihood of a prediction: what Fisher matrices are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor

__all__ = ["Likelihood", "OutputCurvature", "Uniform"]

OutputCurvature = Callable[[Tensor], Tensor]
"""A symmetric linear map of tangents of the output, in its shape ``[m, ...]``."""

Uniform = Callable[[Sequence[int]], Tensor]
"""Numbers between 0 and 1 of a shape ``[m, ...]``, float64; the same ones each time."""


@runtime_checkable
class Likelihood(Protocol):
    """A loss whose outputs define a distribution of the targets, independent of each other.

    Each target's negative log-likelihood counts with a weight that does not depend on the outputs: class weights
    and label smoothing are in it, and it is 0 for a target that is ignored. The loss's numerator and the sums
    below are over the same targets with the same weights, so they share the denominator.
    """

    def expected_curvature(self, output: Tensor, target: Tensor) -> OutputCurvature:
        """Σ weight · E[score scoreᵀ] over targets that follow the prediction, exactly.

        Args:
            output: The model's outputs ``[m, ...]``.
            target: The targets that were observed; only their weights matter.

        Raises:
            LossMismatch: The outputs are no parameters of a distribution.
        """

    def sampled_score(self, output: Tensor, target: Tensor, uniform: Uniform) -> Tensor:
        """√weight · score of one target drawn from each prediction, in the shape of the output.

        Scores of different targets are independent and have mean 0, so the square s sᵀ of a point's is unbiased.
        """

    def sampled_curvature(self, output: Tensor, target: Tensor, uniform: Uniform) -> OutputCurvature:
        """Σ weight · score scoreᵀ over these drawn targets, each on its own: unbiased, and of less variance."""
