"""MINRES: systems that may be indefinite, all right-hand sides on the same passes over the data."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from torch import Tensor

from ihvp.methods import InversionMethod, TerminationStatus
from solvers.checkpoint import Checkpoints
from solvers.damping import Perturbation
from solvers.minres_iteration import MinresIteration
from solvers.preconditioners import check_preconditioner, preconditioner_for
from solvers.progress import Callback
from solvers.registry import InversionRegistry
from solvers.result import InverseHvpResult
from solvers.system import LinearSystem, checked_options
from solvers.torch_model import TorchTwiceDifferentiable

__all__ = ["solve_minres"]

EXPECTED_ITERATIONS: Final = 100
"""For the choice of a product strategy only."""


@InversionRegistry.register(TorchTwiceDifferentiable, InversionMethod.Minres)
def solve_minres(
    model: TorchTwiceDifferentiable,
    training_data: Iterable[Any],
    b: Tensor,
    hessian_perturbation: Perturbation = 0.0,
    *,
    x0: Tensor | None = None,
    rtol: float | None = None,
    atol: float = 0.0,
    maxiter: int | None = None,
    preconditioner: str | None = None,
    preconditioner_rank: int | None = None,
    seed: int = 0,
    progress: bool = False,
    callback: Callback | None = None,
    checkpoints: Checkpoints | None = None,
) -> InverseHvpResult[Tensor]:
    """Solves by MINRES (Paige & Saunders, 1975): H + λI may have negative eigenvalues, but none that are zero.

    Every iterate has the smallest residual of all vectors in its Krylov space; with a preconditioner, the smallest in
    the norm of that. Before ``converged`` is said the residual is recomputed with the true operator; where the
    recurrence had drifted from it the iteration starts again from the true one, and ends as ``stagnated`` once that
    gains nothing; x is then the better one of the iterates before and after. A singular system whose b lies outside
    its range ends as ``breakdown`` near a least-squares solution.

    Args:
        model: The model and its loss.
        training_data: Batches ``(x, y)``, or a :class:`solvers.Problem` of the same model.
        b: ``[p]`` or ``[k, p]``.
        hessian_perturbation: λ ≥ 0, by parameter, or ``auto``.
        x0: First iterate, ``[p]`` or ``[k, p]``; not changed. Zero if left out.
        rtol: Tolerance on ‖(H+λI)x − b‖ / ‖b‖; 1e-5 in float32 and 1e-8 in float64 if left out.
        atol: Tolerance on ‖(H+λI)x − b‖; stopping on it alone is the status ``absolute_tolerance``.
        maxiter: Most iterations; 10 p if left out.
        preconditioner: A :class:`ihvp.methods.Preconditioning` or its value; kept by the problem for later solves.
        preconditioner_rank: Eigenpairs of the low-rank ones; 200, at most p / 2, if left out.
        seed: Random numbers of the preconditioner.
        progress: Draws a progress bar on stderr.
        callback: See :func:`solvers.solve_hvp`.
        checkpoints: Where the state is saved, and found again: see :mod:`solvers.checkpoint`.

    Returns:
        ``info`` has, a list each with one entry a right-hand side: ``niter`` (iterations) and ``optimal`` (whether a
        tolerance was met); and ``preconditioner`` (what it is, or None).

    Raises:
        InvalidInput: See :func:`solvers.solve_hvp`.
    """
    options = checked_options(
        InversionMethod.Minres,
        rtol=rtol,
        atol=atol,
        maxiter=maxiter,
        preconditioner=preconditioner,
        preconditioner_rank=preconditioner_rank,
        seed=seed,
    )
    system = LinearSystem(
        InversionMethod.Minres,
        model,
        training_data,
        b,
        hessian_perturbation,
        options={**options, "x0": None if x0 is None else list(x0.shape)},
        expected_products=min(EXPECTED_ITERATIONS, maxiter or EXPECTED_ITERATIONS),
        check=check_preconditioner(preconditioner, preconditioner_rank, model.num_params),
        callback=callback,
        progress=progress,
    )
    tolerance = system.tolerance(rtol, atol)
    first = preconditioner_for(system, preconditioner, preconditioner_rank, seed)
    iteration = MinresIteration(system, x0, tolerance, maxiter or 10 * system.operator.size, first)
    iteration.run(checkpoints)
    endings = [iteration.endings[i] for i in range(system.rhs.shape[0])]
    solved = (TerminationStatus.Converged, TerminationStatus.AbsoluteTolerance)
    return system.result(
        iteration.X,
        endings,
        tolerance,
        niter=[e.iterations for e in endings],
        optimal=[e.status in solved for e in endings],
        preconditioner=None if first is None else first.description,
    )
