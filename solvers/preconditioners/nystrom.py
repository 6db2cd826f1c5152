"""The preconditioner from a randomised Nyström sketch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from solvers.preconditioners.low_rank import LowRankPreconditioner, mean_damping
from solvers.sketch import nystrom_sketch

if TYPE_CHECKING:
    from solvers.system import LinearSystem

__all__ = ["nystrom_preconditioner"]


def nystrom_preconditioner(system: LinearSystem, rank: int, seed: int) -> LowRankPreconditioner | None:
    """Frangella, Tropp & Udell (2023), for a system; None where the solve was stopped before it was made.

    Outside the sketch H counts as the smallest eigenvalue in it. Negative eigenvalues of H count as none.

    Args:
        system: What is to be solved.
        rank: Products to make the sketch of.
        seed: Draws the test vectors.
    """
    sketch, _ = nystrom_sketch(system, rank, seed)
    if sketch is None:
        return None
    damping = mean_damping(system.operator.damping)
    divisors = sketch.values + damping
    outside = float(divisors[-1]) if divisors.numel() else (damping or 1.0)
    description = {"kind": "nystrom", "products": sketch.size, "shift": sketch.shift, "negative_part": "left out"}
    return LowRankPreconditioner(sketch.vectors.to(system.rhs), divisors, outside, description)
