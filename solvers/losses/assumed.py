"""Losses of which nothing is known but what can be tried out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from ihvp.errors import LossMismatch
from solvers.losses.terms import each_point

__all__ = ["AssumedTerms", "try_out"]

Loss = Callable[[Tensor, Tensor], Tensor]

SAMPLE: Final = 64
"""Points of each batch on which the assumption is tried."""


@dataclass(frozen=True)
class AssumedTerms:
    """The loss of a batch is taken to be the mean (or the sum) of its points' losses.

    The assumption is tried on a sample of every batch; a loss that breaks it is refused, not guessed at.
    """

    loss: Loss
    mean: bool

    @property
    def description(self) -> str:
        """One line on how the loss normalises, and how that is known."""
        name = getattr(self.loss, "__name__", type(self.loss).__name__)
        return f"{name}: {'mean' if self.mean else 'sum'} over points, as tried on a sample of every batch"

    def check(self, output: Tensor, target: Tensor) -> None:
        """Tries the assumption on up to 64 points spread over the batch."""
        if _behaviour(self.loss, output, target) not in (None, self.mean):
            raise _neither(self.loss)

    def numerator(self, output: Tensor, target: Tensor) -> Tensor:
        """The sum of the points' losses."""
        value = self.loss(output, target).reshape(())
        return value * output.shape[0] if self.mean else value

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
        """The loss on batches of one, ``[m]``."""
        return each_point(self.loss, output, target)


def try_out(loss: Loss, output: Tensor, target: Tensor) -> AssumedTerms:
    """Finds out whether an unknown loss averages or sums over the points of a batch.

    Raises:
        LossMismatch: It is no scalar, fails on these outputs and targets, or does neither.
    """
    mean = _behaviour(loss, output, target)
    return AssumedTerms(loss, mean=mean is not False)


def _behaviour(loss: Loss, output: Tensor, target: Tensor) -> bool | None:
    """True for a mean, False for a sum, None where both hold (one point, or losses that are all 0)."""
    points = output.shape[0]
    chosen = torch.linspace(0, points - 1, min(points, SAMPLE), device=output.device).long()
    output, target = output.detach()[chosen], target[chosen.to(target.device)]
    try:
        together = loss(output, target)
        apart = each_point(loss, output, target).double() if together.numel() == 1 else together
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        raise LossMismatch(
            "The loss cannot be taken of these outputs and targets.",
            given=f"outputs {list(output.shape)}, targets {list(target.shape)}: {error}",
        ) from error
    if together.numel() != 1:
        raise LossMismatch(
            "The loss of a batch must be a scalar.",
            given=f"a tensor {list(together.shape)}",
            allowed="a loss with reduction='mean' or 'sum'",
        )
    value = together.double().reshape(())
    tolerance = 100 * torch.finfo(output.dtype).eps * apart.abs().sum()
    averages = bool((value * len(chosen) - apart.sum()).abs() <= tolerance)
    adds = bool((value - apart.sum()).abs() <= tolerance)
    if not averages and not adds:
        raise _neither(loss)
    return None if averages and adds else averages


def _neither(loss: Loss) -> LossMismatch:
    return LossMismatch(
        "The loss of a batch is neither the mean nor the sum of its points' losses, "
        "so the mean over all points is not defined by it.",
        given=getattr(loss, "__name__", type(loss).__name__),
        allowed="torch's own losses, or a loss that is a mean or a sum over points",
        hint="If it broadcasts targets (N,) against outputs (N, 1), reshape the targets. If it normalises by "
        "weights or masks, give it the methods numerator(output, target) and denominator(output, target).",
    )
