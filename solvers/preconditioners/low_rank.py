"""Division by eigenvalues on the span of a few orthonormal vectors, and by one number outside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor

__all__ = ["LowRankPreconditioner", "mean_damping"]

LEAST: Final = 16.0
"""Times machine precision: what of a row remains, at least, in the direction of a large eigenvalue."""


class LowRankPreconditioner:
    """V diag(1 / d) Vᵀ + (I − V Vᵀ) / s.

    Args:
        vectors: Orthonormal rows V ``[r, p]``.
        divisors: Positive d ``[r]``, in float64.
        outside: Positive s.
        description: What it is; JSON-ready.
    """

    def __init__(self, vectors: Tensor, divisors: Tensor, outside: float, description: Mapping[str, Any]) -> None:
        self._vectors = vectors
        # What is left in a direction is a difference: made smaller than its rounding it could turn negative.
        share = (outside / divisors).clamp_min(LEAST * torch.finfo(vectors.dtype).eps)
        self._change = (share - 1).to(vectors)
        self._outside = outside
        self._description = dict(description)

    @property
    def description(self) -> dict[str, Any]:
        """JSON-ready."""
        return {**self._description, "rank": self._vectors.shape[0]}

    def __call__(self, R: Tensor) -> Tensor:
        """Applies it to each row of ``R`` ``[k, p]``."""
        inside = R @ self._vectors.T
        return (R + (inside * self._change) @ self._vectors).div_(self._outside)


def mean_damping(damping: float | Tensor) -> float:
    """The one λ that stands for Λ here: a preconditioner need not be exact."""
    return float(damping.mean()) if isinstance(damping, Tensor) else damping
