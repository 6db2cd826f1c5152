"""Losses of a caller's own that state how they normalise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ihvp.errors import LossMismatch
from solvers.losses.terms import NormalisedLoss, each_point

__all__ = ["DeclaredTerms"]


@dataclass(frozen=True)
class DeclaredTerms:
    """Takes the numerator and the denominator from the loss itself."""

    loss: NormalisedLoss

    @property
    def description(self) -> str:
        """One line on how the loss normalises."""
        return f"{type(self.loss).__name__}: its own numerator / its own denominator"

    def check(self, output: Tensor, target: Tensor) -> None:
        """Refuses a numerator that is no scalar."""
        value = self.loss.numerator(output, target)
        if value.numel() != 1:
            raise LossMismatch("The numerator of a loss must be a scalar.", given=f"a tensor {list(value.shape)}")

    def numerator(self, output: Tensor, target: Tensor) -> Tensor:
        """What the loss says."""
        return self.loss.numerator(output, target).reshape(())

    def denominator(self, output: Tensor, target: Tensor) -> float:
        """What the loss says."""
        return float(self.loss.denominator(output, target))

    def numerators(self, output: Tensor, target: Tensor) -> Tensor:
        """Of batches of one, ``[m]``."""
        return each_point(self.loss.numerator, output, target)

    def denominators(self, output: Tensor, target: Tensor) -> Tensor:
        """Of batches of one, ``[m]``."""

        def of_one(o: Tensor, t: Tensor) -> Tensor:
            return torch.as_tensor(self.loss.denominator(o, t), dtype=o.dtype, device=o.device)

        return each_point(of_one, output, target)

    def per_point(self, output: Tensor, target: Tensor) -> Tensor:
        """Numerator over denominator of batches of one, ``[m]``."""

        def mean(o: Tensor, t: Tensor) -> Tensor:
            return self.loss.numerator(o, t) / self.loss.denominator(o, t)

        return each_point(mean, output, target)
