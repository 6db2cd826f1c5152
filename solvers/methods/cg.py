"""Block conjugate gradients for all right-hand sides together, each stopped on its own residual."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Final

from torch import Tensor

from ihvp.methods import InversionMethod, TerminationStatus
from solvers.block_cg import BlockCg
from solvers.certificate import Tolerance
from solvers.checkpoint import Checkpoints
from solvers.damping import Perturbation
from solvers.preconditioners import check_preconditioner, preconditioner_for
from solvers.preconditioners.recycled import recycled_preconditioner
from solvers.progress import Callback
from solvers.registry import InversionRegistry
from solvers.result import InverseHvpResult
from solvers.system import LinearSystem, checked_options
from solvers.torch_model import TorchTwiceDifferentiable

__all__ = ["solve_cg"]

EXPECTED_ITERATIONS: Final = 30
"""Of one right-hand side, for the choice of a product strategy only."""
BLOCK_GAIN: Final = 0.35
"""k right-hand sides take about k^-0.35 of the iterations of one: 29, 11 and 7 for 1, 16 and 64 were measured."""
ENOUGH: Final = 8
"""A solve of no more iterations gains less from more directions than taking them in costs."""


@InversionRegistry.register(TorchTwiceDifferentiable, InversionMethod.Cg)
def solve_cg(
    model: TorchTwiceDifferentiable,
    training_data: Iterable[Any],
    b: Tensor,
    hessian_perturbation: Perturbation = 0.0,
    *,
    x0: Tensor | None = None,
    rtol: float = 1e-7,
    atol: float = 1e-7,
    maxiter: int | None = None,
    preconditioner: str | None = None,
    preconditioner_rank: int | None = None,
    seed: int = 0,
    recycle: bool = True,
    single_precision: bool = True,
    progress: bool = False,
    callback: Callback | None = None,
    checkpoints: Checkpoints | None = None,
) -> InverseHvpResult[Tensor]:
    """Solves by breakdown-free block conjugate gradients (Ji & Li, 2017); H + λI must be positive definite.

    All right-hand sides search in one space, so each of them gains from the directions of the others; with one it is
    the method of Hestenes & Stiefel (1952). Directions that depend on each other are left out, and so is a right-hand
    side that has ended. Before ``converged`` is said the residual is recomputed with the true operator; where the
    recurrence had drifted from it the iteration goes on from the true one, and ends as ``stagnated`` once that gains
    nothing. On negative curvature every right-hand side that is active in its direction ends, with x the last iterate
    before it.

    On a :class:`solvers.Problem` that is solved more than once, the directions of one solve deflate the next: see
    :mod:`solvers.recycling`.

    Args:
        model: The model and its loss.
        training_data: Batches ``(x, y)``, or a :class:`solvers.Problem` of the same model.
        b: ``[p]`` or ``[k, p]``.
        hessian_perturbation: λ ≥ 0, by parameter, or ``auto``.
        x0: First iterate, ``[p]`` or ``[k, p]``; not changed. Zero if left out.
        rtol: Tolerance on ‖(H+λI)x − b‖ / ‖b‖. 1e-7 is beyond float32 on most problems.
        atol: Tolerance on ‖(H+λI)x − b‖; stopping on it alone is the status ``absolute_tolerance``.
        maxiter: Most iterations; 10 p if left out.
        preconditioner: A :class:`ihvp.methods.Preconditioning` or its value; kept by the problem for later solves.
        preconditioner_rank: Eigenpairs of the low-rank ones; 200, at most p / 2, if left out.
        seed: Random numbers of the preconditioner.
        recycle: Whether earlier solves on the problem may help where there is no preconditioner, and this one later
            ones. Without it, the same call gives the same bits whatever was solved before, as long as the products are
            computed in the same way.
        single_precision: Whether products may be in float32 where the system is in float64, p and the data are large
            enough for that to pay, and the float64 residual is corrected as it goes. A product that float32 is not
            enough for sends the solve on in float64.
        progress: Draws a progress bar on stderr.
        callback: See :func:`solvers.solve_hvp`.
        checkpoints: Where the state is saved, and found again: see :mod:`solvers.checkpoint`.

    Returns:
        ``info`` has, a list each with one entry a right-hand side: ``niter`` (iterations), ``optimal``
        (whether a tolerance was met) and ``gamma`` (squared norm of the last residual as the iteration had it);
        and ``preconditioner`` (what it is, or None).

    Raises:
        InvalidInput: See :func:`solvers.solve_hvp`.
    """
    options = checked_options(
        InversionMethod.Cg,
        rtol=rtol,
        atol=atol,
        maxiter=maxiter,
        preconditioner=preconditioner,
        preconditioner_rank=preconditioner_rank,
        seed=seed,
        recycle=recycle,
        single_precision=single_precision,
    )
    system = LinearSystem(
        InversionMethod.Cg,
        model,
        training_data,
        b,
        hessian_perturbation,
        options={**options, "x0": None if x0 is None else list(x0.shape)},
        expected_products=_expected_products(b, maxiter),
        each_rhs=False,
        single_precision=single_precision,
        check=check_preconditioner(preconditioner, preconditioner_rank, model.num_params),
        callback=callback,
        progress=progress,
    )
    first = preconditioner_for(system, preconditioner, preconditioner_rank, seed)
    # A problem made for this call alone has no later solves.
    space = system.problem.recycled if recycle and preconditioner is None and system.problem is training_data else None
    begun = None if checkpoints is None else checkpoints.resume
    # What was begun without help goes on without it: in the same bits, whatever was solved meanwhile.
    if space is not None and (begun is None or begun.facts.get("preconditioner")):
        first = recycled_preconditioner(system)
    helped = first is not None
    iteration = BlockCg(system, x0, Tolerance(rtol, atol), maxiter or 10 * system.operator.size, first)
    iteration.run(checkpoints)
    few = helped and max(e.iterations for e in iteration.endings.values()) <= ENOUGH
    if space is not None and not few:
        space.note(iteration.directions.vectors, iteration.directions.images, system.operator.damping)
    endings = [iteration.endings[i] for i in range(system.rhs.shape[0])]
    solved = (TerminationStatus.Converged, TerminationStatus.AbsoluteTolerance)
    return system.result(
        iteration.X,
        endings,
        Tolerance(rtol, atol),
        niter=[e.iterations for e in endings],
        optimal=[e.status in solved for e in endings],
        gamma=iteration.gamma,
        preconditioner=None if first is None else first.description,
    )


def _expected_products(b: Any, maxiter: int | None) -> int:
    k = b.shape[0] if isinstance(b, Tensor) and b.ndim == 2 and b.shape[0] else 1
    iterations = EXPECTED_ITERATIONS * math.pow(k, -BLOCK_GAIN)
    return math.ceil(k * min(iterations, maxiter or iterations))
