"""H + λI."""

from __future__ import annotations

import torch
from torch import Tensor

from solvers.operators.linear_operator import LinearOperator

__all__ = ["DampedOperator"]


class DampedOperator:
    """A curvature operator with λ added on the diagonal.

    Args:
        curvature: H.
        damping: λ ≥ 0.
    """

    def __init__(self, curvature: LinearOperator, damping: float) -> None:
        self.curvature = curvature
        self.damping = damping

    @property
    def size(self) -> int:
        """The length p of a vector."""
        return self.curvature.size

    def __call__(self, V: Tensor, *, accumulate: torch.dtype | None = None) -> Tensor:
        """(H + λI) applied to each row of ``V`` ``[k, p]``."""
        product = self.curvature(V, accumulate=accumulate)
        return product.add_(V, alpha=self.damping) if self.damping else product
