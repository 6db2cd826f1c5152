"""The preconditioner from eigenpairs of largest magnitude."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import torch

from solvers.lanczos import Eigenpairs
from solvers.preconditioners.low_rank import LowRankPreconditioner, mean_damping
from solvers.spectrum import kept_eigenpairs

if TYPE_CHECKING:
    from solvers.system import LinearSystem

__all__ = ["deflation_preconditioner"]

ACCURACY: Final = 1e-3
"""Of eigenvalues relative to the largest: what is missed is left to the iteration."""
RESTARTS: Final = 2


def deflation_preconditioner(system: LinearSystem, rank: int, seed: int) -> LowRankPreconditioner | None:
    """Divides by |μ + λ| along eigenvectors; None where the solve was stopped before it was made.

    Eigenpairs that the problem keeps from an earlier solve, one by ``arnoldi`` for example, are taken if there are
    enough of them. Outside their span H counts as the smallest of them in magnitude.

    Args:
        system: What is to be solved.
        rank: Eigenpairs.
        seed: Draws the first vector of a Lanczos process.
    """
    pairs = _already_kept(system, rank)
    if pairs is None:
        pairs, stop = kept_eigenpairs(
            system,
            rank,
            dimension=min(2 * rank + 1, system.operator.size),
            tol=ACCURACY,
            max_restarts=RESTARTS,
            seed=seed,
            on_device=True,
            counted=False,
        )
        if stop is not None:
            return None
    damping = mean_damping(system.operator.damping)
    values = pairs.values.double().cpu()
    divisors = (values + damping).abs()
    outside = float(values.abs().min()) + damping
    largest = max(float(divisors.max()), outside)
    # H + λI may be singular along one of them; what is divided by nearly nothing would swamp all else.
    least = largest * torch.finfo(system.rhs.dtype).eps ** 0.5
    outside = max(outside, least) or 1.0
    divisors = divisors.clamp_min(least or 1.0)
    description = {"kind": "deflation", "negative_part": "by magnitude"}
    return LowRankPreconditioner(pairs.vectors.to(system.rhs), divisors, outside, description)


def _already_kept(system: LinearSystem, rank: int) -> Eigenpairs | None:
    for key in system.problem.kept_factors():
        found = re.match(r"eigenpairs rank=(\d+) ", key)
        if found and int(found[1]) >= rank:
            return system.factor(key, Eigenpairs, lambda: None)
    return None
