"""The preconditioner from the search directions of earlier solves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from solvers.preconditioners.low_rank import LowRankPreconditioner, mean_damping

if TYPE_CHECKING:
    from solvers.system import LinearSystem

__all__ = ["recycled_preconditioner"]


def recycled_preconditioner(system: LinearSystem) -> LowRankPreconditioner | None:
    """What earlier solves on the problem have shown of H, at no product; None where there were none.

    Outside the eigenpairs that are known H counts as the smallest of them.

    Args:
        system: What is to be solved.
    """
    damping = mean_damping(system.operator.damping)
    pairs = system.problem.recycled.pairs(damping)
    if pairs is None:
        return None
    values, vectors = pairs
    divisors = values + damping
    return LowRankPreconditioner(vectors.to(system.rhs), divisors, float(divisors[-1]), {"kind": "recycled"})
