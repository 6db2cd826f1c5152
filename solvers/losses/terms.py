"""A loss as a numerator and a denominator that add up over batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ihvp.errors import LossMismatch
from solvers.out_of_memory import is_out_of_memory

__all__ = ["LossTerms", "NormalisedLoss", "each_point", "same_shape"]


class LossTerms(Protocol):
    """The mean loss of a data set is Σ numerator / Σ denominator, summed over batches in any division.

    ``per_point`` is the loss on a batch of one, for each point of a batch.
    """

    @property
    def description(self) -> str:
        """One line on how the loss normalises, and how that is known."""

    def check(self, output: Tensor, target: Tensor) -> None:
        """Refuses outputs and targets that the loss cannot be taken of.

        Raises:
            LossMismatch: The shapes or dtypes do not go together.
            TargetsOutOfRange: A class index is not one of the model's classes.
        """

    def numerator(self, output: Tensor, target: Tensor) -> Tensor:
        """A scalar that adds up over batches; differentiable in ``output`` ``[m, ...]``."""

    def denominator(self, output: Tensor, target: Tensor) -> float:
        """What the sum of numerators is divided by, once; it does not depend on the parameters."""

    def numerators(self, output: Tensor, target: Tensor) -> Tensor:
        """What each point adds to the numerator, ``[m]``."""

    def denominators(self, output: Tensor, target: Tensor) -> Tensor:
        """What each point adds to the denominator, ``[m]``."""

    def per_point(self, output: Tensor, target: Tensor) -> Tensor:
        """The loss of each point on its own, ``[m]``."""


@runtime_checkable
class NormalisedLoss(Protocol):
    """A loss of your own that says how it normalises, by having these two methods.

    Needed where the mean over a batch is not the mean of its points' losses: token masks, class weights.
    """

    def numerator(self, output: Tensor, target: Tensor) -> Tensor:
        """The sum over the batch, a scalar; where points have weights it is taken of batches of one."""

    def denominator(self, output: Tensor, target: Tensor) -> Tensor | float:
        """What the batch adds to the divisor."""


def same_shape(loss: str, output: Tensor, target: Tensor) -> None:
    """Refuses shapes that would broadcast: (N, 1) against (N,) gives N × N losses without a word.

    Raises:
        LossMismatch: The shapes differ.
    """
    if output.shape == target.shape:
        return
    hint = "Reshape the targets to the shape of the outputs."
    if output.numel() == target.numel():
        hint = f"targets.reshape({list(output.shape)}) has the shape of the outputs."
    raise LossMismatch(
        f"{loss} compares outputs and targets number by number, and their shapes differ.",
        given=f"outputs {list(output.shape)}, targets {list(target.shape)}",
        allowed="targets of the shape of the outputs",
        hint=hint,
    )


def each_point(loss: Callable[[Tensor, Tensor], Tensor], output: Tensor, target: Tensor) -> Tensor:
    """The loss of each point taken as a batch of one, ``[m]``.

    A loop stands in where the loss cannot be vectorised (it branches on values, say).
    """

    def of_one(o: Tensor, t: Tensor) -> Tensor:
        return loss(o.unsqueeze(0), t.unsqueeze(0)).reshape(())

    try:
        return torch.vmap(of_one)(output, target)
    except (RuntimeError, NotImplementedError) as error:
        if is_out_of_memory(error):
            raise
        return torch.stack([of_one(o, t) for o, t in zip(output, target, strict=True)])
