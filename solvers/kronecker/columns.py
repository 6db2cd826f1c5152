"""The loss's curvature in the outputs as sums of squares: S with S Sᵀ for each point, column by column."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import torch
from torch import Tensor

from ihvp.errors import InvalidOption, LossMismatch
from solvers.batch import moved
from solvers.losses import Likelihood, LossTerms
from solvers.operators.draws import uniform_of_points
from solvers.out_of_memory import one_point_at_a_time

if TYPE_CHECKING:
    from solvers.problem import Problem

__all__ = ["MOST_COLUMNS", "LossColumns", "Statistics", "statistics_for"]

MOST_COLUMNS: Final = 64
"""Outputs of a point up to which each gets a backward pass of its own."""

Kind = Literal["type2", "mc", "empirical"]
Apply = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Statistics:
    """Which gradients make the factors.

    Attributes:
        asked: The option.
        used: What is done.
        why: The reason where they differ.
        outputs: Numbers that the model returns for a point.
        seed: Draws targets, for ``mc``.
    """

    asked: Kind
    used: Kind
    why: str | None
    outputs: int
    seed: int

    def divisor(self, problem: Problem) -> float:
        """What sums over all points are divided by, as the curvature that they approximate is."""
        return problem.data.total_weight if self.used == "empirical" else problem.denominator

    @property
    def key(self) -> str:
        """All that the factors depend on beside the problem."""
        return f"statistics={self.used}" + (f" seed={self.seed}" if self.used == "mc" else "")

    def as_dict(self) -> dict[str, str | None]:
        """JSON-ready."""
        return {"asked": self.asked, "used": self.used, "why": self.why}


def statistics_for(problem: Problem, asked: Kind, seed: int) -> Statistics:
    """What can be done of what is asked.

    Raises:
        InvalidOption: The loss has too many outputs for ``type2`` and no distribution to draw from.
    """
    point = moved(next(problem.data.chunks(1)), problem.device)
    with torch.no_grad(), one_point_at_a_time():
        outputs = problem.snapshot.outputs(problem.snapshot.parameters, point.x).numel()
    draws = isinstance(problem.terms, Likelihood)
    if asked == "mc" and not draws:
        raise InvalidOption(
            "statistics='mc' draws targets from the prediction, and this loss is no known likelihood.",
            given=problem.terms.description,
            allowed="cross_entropy, nll, mse, bce_with_logits; or statistics 'empirical'"
            + (", 'type2'" if outputs <= MOST_COLUMNS else ""),
        )
    if asked != "type2" or outputs <= MOST_COLUMNS:
        return Statistics(asked, asked, None, outputs, seed)
    if not draws:
        raise InvalidOption(
            f"statistics='type2' needs a backward pass for each output of a point, at most {MOST_COLUMNS}.",
            given=f"{outputs} outputs and a loss that is no known likelihood, so targets cannot be drawn",
            hint="Use statistics='empirical'.",
        )
    why = f"{outputs} outputs a point, type2 takes a backward pass for each and at most {MOST_COLUMNS}"
    return Statistics(asked, "mc", why, outputs, seed)


class LossColumns:
    """Directions s in the outputs, ``[m, ...]`` each, whose squares add up to the curvature of the numerators.

    ``type2``: Σ s sᵀ is the expectation over targets that follow the prediction, which for a likelihood is the
    second derivative in the outputs; for another loss it is that derivative. ``mc``: one direction whose square
    has that expectation, from drawn targets. ``empirical``: the gradient of the loss on a batch of one.

    Args:
        terms: The loss.
        statistics: Which of them.
    """

    def __init__(self, terms: LossTerms, statistics: Statistics) -> None:
        self._terms = terms
        self._statistics = statistics

    @property
    def bytes_per_point(self) -> int:
        """About what :meth:`of` needs for a point while it works: four square matrices for ``type2``."""
        return 4 * 8 * self._statistics.outputs**2 if self._statistics.used == "type2" else 0

    def of(self, output: Tensor, target: Tensor, first_point: int) -> list[Tensor]:
        """The directions.

        Args:
            output: ``[m, ...]``.
            target: ``[m, ...]``.
            first_point: Place of the first of these points in the data: draws belong to a point, however the data
                are cut.

        Raises:
            LossMismatch: The loss is not convex in the outputs.
        """
        output, terms = output.detach(), self._terms
        if self._statistics.used == "empirical":
            return [_derivative(terms, output, target)]
        if not isinstance(terms, Likelihood):
            return list(_square_root(_second_derivative(terms, output, target), output, check=True))
        if self._statistics.used == "type2":
            return list(_square_root(_expectation(terms, output, target), output, check=False))
        uniform = uniform_of_points(self._statistics.seed, first_point, output.device)
        return [terms.sampled_score(output, target, uniform)]


def _derivative(terms: LossTerms, output: Tensor, target: Tensor) -> Tensor:
    leaf = output.requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(terms.per_point(leaf, target).sum(), leaf)
    return gradient


def _expectation(terms: Likelihood, output: Tensor, target: Tensor) -> Apply:
    # 1 − p of a confident prediction has few digits in float32.
    try:
        return terms.expected_curvature(output.double(), target)
    except LossMismatch:
        # Log-probabilities that were rounded to float32 add up to one as far as that goes.
        return terms.expected_curvature(output, target)


def _second_derivative(terms: LossTerms, output: Tensor, target: Tensor) -> Apply:
    leaf = output.requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(terms.numerator(leaf, target), leaf, create_graph=True)
    if not gradient.requires_grad:
        return torch.zeros_like

    def apply(tangent: Tensor) -> Tensor:
        return torch.autograd.grad(
            gradient, leaf, grad_outputs=tangent, retain_graph=True, allow_unused=True, materialize_grads=True
        )[0]

    return apply


def _square_root(apply: Apply, output: Tensor, *, check: bool) -> Iterator[Tensor]:
    """Columns of a Cholesky factor of each point's curvature in its outputs.

    A prediction's curvature is singular where probabilities add up to one, so a trace of the identity is added
    first, in float64 and below what either dtype holds.
    """
    m, c = output.shape[0], output[0].numel()
    unit = torch.eye(c, dtype=output.dtype, device=output.device).reshape(c, 1, *output.shape[1:])
    A = torch.stack([apply(u.expand_as(output)).detach().reshape(m, c).double() for u in unit], dim=1)
    scale = A.diagonal(dim1=1, dim2=2).abs().amax(dim=1)[:, None, None]
    A = torch.where(scale > 0, A / torch.where(scale > 0, scale, 1.0), 0.0)
    trace = 16 * c * torch.finfo(torch.float64).eps
    L, failed = torch.linalg.cholesky_ex(A + trace * torch.eye(c, dtype=A.dtype, device=A.device))
    indefinite = failed != 0
    if bool(indefinite.any()):
        L[indefinite] = _semidefinite_root(A[indefinite], torch.finfo(output.dtype).eps ** 0.5 if check else math.inf)
    L = L * scale.sqrt()
    for j in range(c):
        column = L[:, :, j]
        # The last column of probabilities is the trace and nothing else: no pass is spent on it.
        if bool((column.abs().amax(dim=1) > 2 * (trace * scale[:, 0, 0]).sqrt()).any()):
            yield column.to(output.dtype).reshape(output.shape)


def _semidefinite_root(A: Tensor, rounding: float) -> Tensor:
    """Roots of matrices ``[m, c, c]`` that rounding in the model's dtype has made slightly indefinite.

    Raises:
        LossMismatch: Rounding does not explain an eigenvalue.
    """
    values, Q = torch.linalg.eigh(A)
    smallest = float(values.min())
    if smallest < -rounding:
        raise LossMismatch(
            "The loss is not convex in the model's outputs, so its curvature is no sum of squares.",
            given=f"an eigenvalue {smallest:.3g} of its second derivative, the largest entry being 1",
            hint="Use statistics='empirical', or a method that takes H as it is, such as cg.",
        )
    root: Tensor = Q * values.clamp(min=0.0).sqrt()[:, None, :]
    return root
