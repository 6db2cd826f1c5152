"""A loss over points that count more or less than once."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from solvers.losses.likelihood import Likelihood, OutputCurvature, Uniform
from solvers.losses.terms import LossTerms

__all__ = ["spread", "weighted"]


def weighted(terms: LossTerms, w: Tensor | None) -> LossTerms:
    """The terms of a batch whose points have these weights ``[m]``; the same terms where there are none.

    A weight of 2 is what the point twice would be. ``per_point`` and ``check`` do not know of weights: a point's own
    loss is what it was.
    """
    if w is None:
        return terms
    return _WeightedLikelihood(terms, w) if isinstance(terms, Likelihood) else _WeightedTerms(terms, w)


def spread(w: Tensor, output: Tensor) -> Tensor:
    """Weights ``[m]`` in the dtype of an output ``[m, ...]`` and with as many dimensions."""
    return w.to(output).reshape(-1, *[1] * (output.ndim - 1))


@dataclass(frozen=True)
class _WeightedTerms:
    terms: LossTerms
    w: Tensor

    @property
    def description(self) -> str:
        return self.terms.description

    def check(self, output: Tensor, target: Tensor) -> None:
        self.terms.check(output, target)

    def numerator(self, output: Tensor, target: Tensor) -> Tensor:
        return self.numerators(output, target).sum()

    def denominator(self, output: Tensor, target: Tensor) -> float:
        return float((self.w.double() * self.terms.denominators(output, target).double()).sum())

    def numerators(self, output: Tensor, target: Tensor) -> Tensor:
        return self.w.to(output) * self.terms.numerators(output, target)

    def denominators(self, output: Tensor, target: Tensor) -> Tensor:
        return self.w.to(output) * self.terms.denominators(output, target)

    def per_point(self, output: Tensor, target: Tensor) -> Tensor:
        return self.terms.per_point(output, target)


@dataclass(frozen=True)
class _WeightedLikelihood(_WeightedTerms):
    def expected_curvature(self, output: Tensor, target: Tensor) -> OutputCurvature:
        return self._scaled(self._likelihood.expected_curvature(output, target), output)

    def sampled_score(self, output: Tensor, target: Tensor, uniform: Uniform) -> Tensor:
        return spread(self.w, output).sqrt() * self._likelihood.sampled_score(output, target, uniform)

    def sampled_curvature(self, output: Tensor, target: Tensor, uniform: Uniform) -> OutputCurvature:
        return self._scaled(self._likelihood.sampled_curvature(output, target, uniform), output)

    @property
    def _likelihood(self) -> Likelihood:
        assert isinstance(self.terms, Likelihood)  # noqa: S101 - weighted() has asked
        return self.terms

    def _scaled(self, curvature: OutputCurvature, output: Tensor) -> OutputCurvature:
        w = spread(self.w, output)
        return lambda t: w * curvature(t)
