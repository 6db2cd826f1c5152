"""The eigenpairs of H of largest magnitude, as a problem keeps them for any λ and b."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ihvp.methods import TerminationStatus
from solvers.lanczos import Eigenpairs, largest_eigenpairs

if TYPE_CHECKING:
    from solvers.system import LinearSystem

__all__ = ["kept_eigenpairs"]


def kept_eigenpairs(
    system: LinearSystem,
    rank: int,
    *,
    dimension: int,
    tol: float,
    max_restarts: int,
    seed: int,
    on_device: bool,
    counted: bool = True,
) -> tuple[Eigenpairs, TerminationStatus | None]:
    """The eigenpairs of a system's H: kept by its problem, or computed now.

    Args:
        system: Tells H, and reports after each product.
        rank: See :func:`solvers.lanczos.largest_eigenpairs`, as for the next three.
        dimension: Vectors in the basis.
        tol: Accuracy of an eigenvalue relative to the largest.
        max_restarts: Most restarts.
        seed: Draws the first vector.
        on_device: Whether the basis stays on the model's device; else it is kept in main memory.
        counted: Whether products are the iterations that are reported; else there are none yet.

    Returns:
        The pairs, and why their computation was stopped. Those of one that was stopped are not kept.
    """
    asked: list[TerminationStatus] = []
    unfinished: list[Eigenpairs] = []
    most = dimension * (max_restarts + 1)
    nothing_yet = [1.0] * system.rhs.shape[0]

    def on_step(done: int) -> bool:
        stop = system.report(done if counted else 0, most, nothing_yet)
        if stop is not None:
            asked.append(stop)
        return bool(asked)

    def make() -> Eigenpairs | None:
        pairs = largest_eigenpairs(
            system.operator.curvature,
            rank,
            dimension=dimension,
            tol=tol,
            max_restarts=max_restarts,
            generator=torch.Generator().manual_seed(seed),
            like=system.rhs,
            store=system.problem.device if on_device else torch.device("cpu"),
            on_step=on_step,
        )
        if pairs.stopped:
            unfinished.append(pairs)
            return None
        return pairs

    key = f"eigenpairs rank={rank} dimension={dimension} tol={tol:g} restarts={max_restarts} seed={seed}"
    pairs = system.factor(f"{key} on_device={on_device}", Eigenpairs, make)
    return (pairs, None) if pairs is not None else (unfinished[0], asked[0])
