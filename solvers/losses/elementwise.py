"""Losses that compare outputs and targets number by number: squared error, binary cross-entropy and their kin."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from solvers.losses.likelihood import OutputCurvature, Uniform
from solvers.losses.terms import same_shape

__all__ = ["ElementwiseLikelihood", "ElementwiseTerms", "bernoulli", "gaussian"]


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

    def numerators(self, output: Tensor, target: Tensor) -> Tensor:
        """The loss of each point, ``[m]``."""
        return self.per_point(output, target)

    def denominators(self, output: Tensor, target: Tensor) -> Tensor:  # noqa: ARG002 - the protocol's shape
        """One a point, ``[m]``."""
        return output.new_ones(output.shape[0])

    def per_point(self, output: Tensor, target: Tensor) -> Tensor:
        """The loss of each point, ``[m]``."""
        elements = self.elements(output, target).reshape(output.shape[0], -1)
        return elements.mean(dim=1) if self.mean else elements.sum(dim=1)


@dataclass(frozen=True)
class ElementwiseLikelihood(ElementwiseTerms):
    """Elements that are negative log-likelihoods of one number each.

    Args:
        weight: What each element's log-likelihood counts with, from ``(output, target)``.
        information: The expectation of the squared score of each element, from its output.
        score: The score of each element at a target drawn by a uniform number, from ``(output, uniform)``.
    """

    weight: Callable[[Tensor, Tensor], Tensor]
    information: Callable[[Tensor], Tensor]
    score: Callable[[Tensor, Tensor], Tensor]

    def expected_curvature(self, output: Tensor, target: Tensor) -> OutputCurvature:
        """A diagonal: weight · information of each element."""
        diagonal = self._weights(output, target) * self.information(output)
        return lambda t: diagonal * t

    def sampled_score(self, output: Tensor, target: Tensor, uniform: Uniform) -> Tensor:
        """√weight · score of a target drawn for each element."""
        return self._weights(output, target).sqrt() * self.score(output, uniform(output.shape)).to(output)

    def sampled_curvature(self, output: Tensor, target: Tensor, uniform: Uniform) -> OutputCurvature:
        """A diagonal: the squares of these scores."""
        diagonal = self.sampled_score(output, target, uniform).square()
        return lambda t: diagonal * t

    def _weights(self, output: Tensor, target: Tensor) -> Tensor:
        """What each element counts with in the numerator."""
        share = output.shape[0] / output.numel() if self.mean else 1.0
        return share * self.weight(output, target)


def gaussian(*, mean: bool) -> ElementwiseLikelihood:
    """Squared error: −log of a normal density of variance 1/2, without its constant."""
    return ElementwiseLikelihood(
        "mse_loss",
        # In plain operations: torch's tracer cannot linearise the fused one.
        lambda output, target: (output - target).square(),
        mean,
        weight=lambda output, target: torch.ones_like(output),  # noqa: ARG005 - one signature for all
        information=lambda output: torch.full_like(output, 2.0),
        # 2 (output − target) at a target that lies √(1/2) · √2 erfinv(…) away.
        score=lambda output, uniform: 2.0 * torch.erfinv(2.0 * uniform - 1.0),  # noqa: ARG005
    )


def bernoulli(
    elements: Callable[[Tensor, Tensor], Tensor], weight: Tensor | None, pos_weight: Tensor | None, *, mean: bool
) -> ElementwiseLikelihood:
    """Binary cross-entropy of logits.

    Args:
        elements: The losses.
        weight: Factor of each element, or None.
        pos_weight: Factor of the part of a target that is 1, or None.
        mean: Whether a point's elements are averaged; else they are summed.
    """

    def weights(output: Tensor, target: Tensor) -> Tensor:
        y = target.to(output)
        factor = torch.ones_like(output) if pos_weight is None else 1.0 + (pos_weight.to(output) - 1.0) * y
        return factor if weight is None else factor * weight.to(output)

    def information(output: Tensor) -> Tensor:
        return torch.sigmoid(output) * torch.sigmoid(-output)

    def score(output: Tensor, uniform: Tensor) -> Tensor:
        p = torch.sigmoid(output)
        return p - (uniform < p).to(p)

    name = "binary_cross_entropy_with_logits"
    return ElementwiseLikelihood(name, elements, mean, weight=weights, information=information, score=score)
