"""The diagonal of H from products alone: exact where p is small, else estimated from random signs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

import torch
from torch import Tensor

if TYPE_CHECKING:
    from solvers.system import LinearSystem

__all__ = ["PROBES", "HessianDiagonal", "hessian_diagonal"]

PROBES: Final = 64
ROWS_AT_ONCE: Final = 32
"""Products between two looks at whether to stop."""


@dataclass(frozen=True, eq=False)
class HessianDiagonal:
    """An estimate of each Hᵢᵢ and how far it may be off.

    Attributes:
        values: ``[p]``, of either sign.
        variances: Of the values, 0 where they are exact: ``[p]``.
        probes: Products that it was made of.
    """

    values: Tensor
    variances: Tensor
    probes: int

    @property
    def nbytes(self) -> int:
        """Bytes that it holds."""
        return self.values.nbytes + self.variances.nbytes

    @property
    def exact(self) -> bool:
        """Whether it was read off H rather than estimated."""
        return self.probes == self.values.shape[0]

    def tensors(self) -> dict[str, Tensor]:
        """All of it as named tensors."""
        return {"values": self.values, "variances": self.variances, "probes": torch.tensor(self.probes)}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Self:
        """The diagonal that these tensors came from."""
        return cls(tensors["values"], tensors["variances"], int(tensors["probes"]))


def hessian_diagonal(system: LinearSystem, seed: int) -> HessianDiagonal | None:
    """The diagonal of a system's H, kept by its problem; None where its making was stopped.

    The mean of z ∘ Hz over vectors z of random signs (Bekas, Kokiopoulou & Saad, 2007).

    Args:
        system: Tells H, and reports between blocks of products.
        seed: Draws the signs.
    """
    p = system.operator.size
    probes = min(p, PROBES)
    exact = probes == p

    def make() -> HessianDiagonal | None:
        generator = torch.Generator().manual_seed(seed)
        mean = torch.zeros(p, dtype=torch.float64, device=system.problem.device)
        square = torch.zeros_like(mean)
        nothing_yet = [1.0] * system.rhs.shape[0]
        for start in range(0, probes, ROWS_AT_ONCE):
            rows = min(ROWS_AT_ONCE, probes - start)
            if exact:
                z = torch.eye(p, dtype=system.rhs.dtype)[start : start + rows]
            else:
                z = torch.randint(0, 2, (rows, p), generator=generator).to(system.rhs.dtype).mul_(2).sub_(1)
            z = z.to(system.problem.device)
            sample = (z * system.operator.curvature(z)).double()
            mean += sample.sum(dim=0)
            square += sample.square().sum(dim=0)
            if system.report(0, probes, nothing_yet) is not None:
                return None
        if exact:
            return HessianDiagonal(mean.to(system.rhs.dtype), torch.zeros_like(system.rhs[0]), p)
        mean /= probes
        variance = (square / probes - mean.square()).clamp_min(0) / (probes - 1)
        return HessianDiagonal(mean.to(system.rhs.dtype), variance.to(system.rhs.dtype), probes)

    return system.factor("diagonal exact" if exact else f"diagonal probes={probes} seed={seed}", HessianDiagonal, make)
