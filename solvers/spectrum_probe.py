"""Where the spectrum of H begins and ends, what λ makes H + λI safely positive definite, and how fast cg would be."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

import torch
from torch import Tensor

from ihvp.methods import TerminationStatus
from solvers.lanczos import KrylovBasis

if TYPE_CHECKING:
    from solvers.system import LinearSystem

__all__ = ["SpectrumProbe", "probe_spectrum"]

LOOK_EVERY: Final = 5
ACCURACY: Final = 0.05
"""Share of its own size to which a negative end of the spectrum is wanted."""
LARGEST_CONDITION: Final = {torch.bfloat16: 1e1, torch.float16: 1e2, torch.float32: 1e3, torch.float64: 1e6}
"""Condition of H + λI up to which a λ chosen here may go: what the dtype solves to its default tolerance."""


@dataclass(frozen=True, eq=False)
class SpectrumProbe:
    """What some tens of Lanczos steps from a random vector show of H.

    Attributes:
        T: The projection of H on the Krylov space ``[m, m]``, in float64.
        beta: Norm of what H adds to the space.
    """

    T: Tensor
    beta: float

    @property
    def nbytes(self) -> int:
        """Bytes that it holds."""
        return self.T.nbytes

    def tensors(self) -> dict[str, Tensor]:
        """All of it as named tensors."""
        return {"T": self.T, "beta": torch.tensor([self.beta], dtype=torch.float64)}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Self:
        """The probe that these tensors came from."""
        return cls(tensors["T"].double().cpu(), float(tensors["beta"]))

    @property
    def smallest(self) -> float:
        """The smallest Ritz value: no smaller than the smallest eigenvalue."""
        return self._ends()[0]

    @property
    def smallest_error(self) -> float:
        """There is an eigenvalue within this distance of the smallest Ritz value."""
        return self._ends()[1]

    @property
    def largest(self) -> float:
        """The largest Ritz value: no larger than the largest eigenvalue."""
        return self._ends()[2]

    def safe_perturbation(self, dtype: torch.dtype) -> float:
        """The smallest λ that makes H + λI positive definite with room for rounding and for what was not seen.

        Args:
            dtype: Of the solve: float32 needs more room.
        """
        below = max(0.0, self.smallest_error - self.smallest)
        return (1 + ACCURACY) * below + max(abs(self.largest), below) / LARGEST_CONDITION[dtype]

    def iterations(self, damping: float, rtol: float) -> float:
        """About how many steps conjugate gradients take from a random b; what lies beyond the probe is extrapolated.

        The residual of the m-th iterate is β |eₘᵀ (T + λI)⁻¹ e₁| (Paige & Saunders, 1975), so one probe tells of every
        λ. Infinite where H + λI is not positive definite.
        """
        m = self.T.shape[0]
        if self.smallest + damping <= 0:
            return math.inf
        residuals = [1.0]
        for j in range(1, m + 1):
            A = self.T[:j, :j] + damping * torch.eye(j, dtype=torch.float64)
            first = torch.zeros(j, dtype=torch.float64)
            first[0] = 1.0
            off = float(self.T[j, j - 1]) if j < m else self.beta
            residuals.append(abs(off * float(torch.linalg.solve(A, first)[-1])))
            if residuals[-1] <= rtol:
                return float(j)
        # The slowest half is what later steps look like.
        rate = (residuals[-1] / residuals[m // 2]) ** (1 / (m - m // 2))
        return m + math.log(residuals[-1] / rtol) / -math.log(rate) if rate < 1 else math.inf

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "smallest_eigenvalue": self.smallest,
            "smallest_eigenvalue_error": self.smallest_error,
            "largest_eigenvalue": self.largest,
            "products": self.T.shape[0],
        }

    def _ends(self) -> tuple[float, float, float]:
        return _ends(self.T, self.beta)


def probe_spectrum(
    system: LinearSystem, most: int, seed: int, *, least: int = 10
) -> tuple[SpectrumProbe, TerminationStatus | None]:
    """The probe of a system's H, kept by its problem.

    Args:
        system: Tells H, and reports after each product.
        most: Products to spend at most; fewer once the smallest eigenvalue is known well enough.
        seed: Draws the first vector.
        least: Products to spend at least: what :meth:`SpectrumProbe.iterations` does not see it has to extrapolate.

    Returns:
        The probe, and why it was stopped before it was whole, if it was; such a one is not kept.
    """
    asked: list[TerminationStatus] = []
    parts: list[SpectrumProbe] = []
    nothing_yet = [1.0] * system.rhs.shape[0]

    def make() -> SpectrumProbe | None:
        p = system.operator.size
        generator = torch.Generator().manual_seed(seed)
        start = torch.randn(p, generator=generator, dtype=system.rhs.dtype).to(system.rhs)
        steps = min(most, p)
        basis = KrylovBasis(system.operator.curvature, start, steps, system.rhs.device)
        while basis.steps < steps:
            basis.extend(generator)
            stop = system.report(basis.steps, steps, nothing_yet)
            T = basis.T[: basis.steps, : basis.steps]
            if stop is not None:
                asked.append(stop)
                parts.append(SpectrumProbe(T.clone(), basis.beta))
                return None
            if basis.steps >= least and basis.steps % LOOK_EVERY == 0 and _is_enough(T, basis.beta, system.rhs.dtype):
                break
        return SpectrumProbe(basis.T[: basis.steps, : basis.steps].clone(), basis.beta)

    probe = system.factor(f"spectrum steps={most} seed={seed}", SpectrumProbe, make)
    return (parts[0], asked[0]) if probe is None else (probe, None)


def _ends(T: Tensor, beta: float) -> tuple[float, float, float]:
    values, U = torch.linalg.eigh(T)
    return float(values[0]), abs(beta * float(U[-1, 0])), float(values[-1])


def _is_enough(T: Tensor, beta: float, dtype: torch.dtype) -> bool:
    smallest, error, largest = _ends(T, beta)
    return error <= max(ACCURACY * max(-smallest, 0.0), largest / LARGEST_CONDITION[dtype])
