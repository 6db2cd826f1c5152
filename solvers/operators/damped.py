"""H + Λ."""

from __future__ import annotations

import torch
from torch import Tensor

from solvers.operators.linear_operator import LinearOperator

__all__ = ["DampedOperator"]


class DampedOperator:
    """A curvature operator with λ added on the diagonal.

    Args:
        curvature: H.
        damping: λ ≥ 0, or the diagonal of Λ ``[p]``.
    """

    def __init__(self, curvature: LinearOperator, damping: float | Tensor) -> None:
        self.curvature = curvature
        self.damping = damping

    @property
    def size(self) -> int:
        """The length p of a vector."""
        return self.curvature.size

    def __call__(self, V: Tensor, *, accumulate: torch.dtype | None = None) -> Tensor:
        """(H + Λ) applied to each row of ``V`` ``[k, p]``."""
        return self.add_damping(self.curvature(V, accumulate=accumulate), V)

    def add_damping(self, product: Tensor, V: Tensor) -> Tensor:
        """Adds ΛV to products with H ``[k, p]`` in place, and returns them."""
        if isinstance(self.damping, Tensor):
            return product.addcmul_(V, self.damping)
        return product.add_(V, alpha=self.damping) if self.damping else product
