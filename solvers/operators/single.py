"""H + Λ with products in float32, for systems in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from solvers.operators.damped import DampedOperator
from solvers.operators.linear_operator import LinearOperator

__all__ = ["SingleOperator"]


class SingleOperator:
    """What float64 vectors are multiplied by where seven digits are enough.

    Args:
        curvature: H of the same problem in float32.
        whole: H + Λ in float64.
    """

    def __init__(self, curvature: LinearOperator, whole: DampedOperator) -> None:
        self._curvature = curvature
        self._whole = whole

    def __call__(self, V: Tensor) -> Tensor:
        """(H + Λ) applied to each row of ``V`` ``[k, p]``, in the dtype of ``V``."""
        return self._whole.add_damping(self._curvature(V.to(torch.float32)).to(V.dtype), V)
