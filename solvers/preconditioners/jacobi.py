"""Division by the diagonal of H + λI."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from solvers.diagonal import HessianDiagonal, hessian_diagonal

if TYPE_CHECKING:
    from solvers.system import LinearSystem

__all__ = ["JacobiPreconditioner", "jacobi_preconditioner"]

LEAST: Final = 1e-6
"""Share of the largest divisor that each has at least: a smaller one would blow up what an estimate missed."""


class JacobiPreconditioner:
    """R / (|d| + λ), with d pulled towards its mean by as much of it as may be noise.

    Args:
        diagonal: Of H.
        damping: λ, or the diagonal of Λ ``[p]``.
    """

    def __init__(self, diagonal: HessianDiagonal, damping: float | Tensor) -> None:
        size = diagonal.values.double().abs()
        variance = diagonal.variances.double()
        # An entry no larger than its own error says nothing; one far above it is taken as it is.
        trust = (1 - variance / size.square().clamp_min(torch.finfo(torch.float64).tiny)).clamp_min(0)
        divisor = trust * size + (1 - trust) * size.mean() + damping
        divisor = torch.where(divisor.isfinite(), divisor, 1.0)
        largest = divisor.max()
        divisor = divisor.clamp_min(float(largest) * LEAST) if float(largest) > 0 else torch.ones_like(divisor)
        self._inverse = divisor.reciprocal().to(diagonal.values.dtype)
        self._probes, self._exact = diagonal.probes, diagonal.exact

    @property
    def description(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"kind": "jacobi", "probes": self._probes, "exact": self._exact}

    def __call__(self, R: Tensor) -> Tensor:
        """Applies it to each row of ``R`` ``[k, p]``."""
        return R * self._inverse


def jacobi_preconditioner(system: LinearSystem, seed: int) -> JacobiPreconditioner | None:
    """For a system; None where the solve was stopped before it was made."""
    diagonal = hessian_diagonal(system, seed)
    if diagonal is None:
        return None
    device = system.problem.device
    diagonal = HessianDiagonal(diagonal.values.to(device), diagonal.variances.to(device), diagonal.probes)
    return JacobiPreconditioner(diagonal, system.operator.damping)
