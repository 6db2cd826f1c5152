"""What is promised of each solution: its true residual, how the solve ended, and what to do next."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypedDict

from ihvp.methods import TerminationStatus

__all__ = ["Certificate", "Ending", "Tolerance", "issue"]


class Certificate(TypedDict):
    """One right-hand side's certificate; JSON-ready.

    Keys:
        status: A :class:`ihvp.methods.TerminationStatus` value. ``converged`` means that the recomputed
            residual meets the tolerance.
        relative_residual: ‖(H+λI)x − b‖ / ‖b‖ recomputed with the true operator for x as it is returned, its
            sums in float64; None where it is not finite.
        iterations: Iterations spent on this right-hand side.
        advice: What to do next; None when converged.
        rayleigh_quotient: vᵀ(H+λI)v / vᵀv along a direction of curvature that is not positive, if one was met.
        suggested_perturbation: A λ that makes the operator positive definite along it, if one was met.
    """

    status: str
    relative_residual: float | None
    iterations: int
    advice: str | None
    rayleigh_quotient: float | None
    suggested_perturbation: float | None


@dataclass(frozen=True)
class Ending:
    """How a method says that it ended for one right-hand side, before the residual is recomputed.

    ``relative_residual`` is the true residual where the method has recomputed it for this very x already.
    """

    status: TerminationStatus
    iterations: int
    advice: str | None = None
    rayleigh_quotient: float | None = None
    suggested_perturbation: float | None = None
    relative_residual: float | None = None


@dataclass(frozen=True)
class Tolerance:
    """When a solution counts as one: relative residual ≤ rtol, or residual ≤ atol."""

    rtol: float
    atol: float = 0.0


def issue(ending: Ending, relative: float, norm_b: float, tolerance: Tolerance) -> Certificate:
    """The certificate of a right-hand side.

    Args:
        ending: What the method says.
        relative: The recomputed relative residual; NaN or infinity where x is not finite.
        norm_b: ‖b‖.
        tolerance: What the method was asked for.
    """
    status = ending.status
    if not math.isfinite(relative):
        status = TerminationStatus.NonFinite
    elif relative <= tolerance.rtol:
        status = TerminationStatus.Converged
    elif tolerance.atol and relative * norm_b <= tolerance.atol:
        status = TerminationStatus.AbsoluteTolerance
    elif status in (TerminationStatus.Converged, TerminationStatus.AbsoluteTolerance):
        # The method thought so, and the residual of what is returned says otherwise.
        status = TerminationStatus.Stagnated
    advice: str | None = None
    if status is not TerminationStatus.Converged:
        own = ending.advice if status is ending.status else None
        advice = own or _advice(status, relative, tolerance, ending)
    return Certificate(
        status=status.value,
        relative_residual=relative if math.isfinite(relative) else None,
        iterations=ending.iterations,
        advice=advice,
        rayleigh_quotient=ending.rayleigh_quotient,
        suggested_perturbation=ending.suggested_perturbation,
    )


def _advice(status: TerminationStatus, relative: float, tolerance: Tolerance, ending: Ending) -> str:
    found, asked = f"{relative:.3g}", f"{tolerance.rtol:.3g}"
    match status:
        case TerminationStatus.AbsoluteTolerance:
            return (
                f"Stopped by atol={tolerance.atol:.3g} at relative residual {found}; "
                f"set atol=0 to go on to rtol={asked}."
            )
        case TerminationStatus.MaxIterations:
            return (
                f"Relative residual {found} after {ending.iterations} iterations, {asked} was asked for. "
                "Raise maxiter, or raise hessian_perturbation to make the problem better conditioned."
            )
        case TerminationStatus.NegativeCurvature:
            return (
                f"H + λI has the Rayleigh quotient {ending.rayleigh_quotient:.3g} along a search direction, so it "
                f"is not positive definite. hessian_perturbation={ending.suggested_perturbation:.3g} makes it so "
                "as far as was seen; minres solves indefinite systems, and a GGN operator has no negative curvature."
            )
        case TerminationStatus.Stagnated:
            return (
                f"The relative residual stays at {found}, {asked} was asked for: this is what the dtype holds. "
                "Use a float64 model and b, a larger hessian_perturbation, or a looser tolerance."
            )
        case TerminationStatus.NonFinite:
            return "Numbers overflowed or are NaN; check that the loss is finite at the trained parameters."
        case TerminationStatus.Cancelled | TerminationStatus.Deadline:
            return f"Stopped on request after {ending.iterations} iterations at relative residual {found}."
        case TerminationStatus.Approximate:
            return f"The method is approximate: relative residual {found}. cg or direct reach a tolerance."
        case _:
            return f"The method broke down at relative residual {found}; raise hessian_perturbation, or use direct."
