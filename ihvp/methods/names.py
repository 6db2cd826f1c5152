"""The names of the contract: methods, curvatures, preconditioners, and how a solve may end."""

from __future__ import annotations

import difflib
from enum import Enum

from ihvp.errors import UnknownMethod

__all__ = ["Curvature", "InversionMethod", "Preconditioning", "TerminationStatus", "did_you_mean", "parse_method"]


class InversionMethod(str, Enum):
    """The methods that can solve (H + λI) x = b."""

    Direct = "direct"
    Cg = "cg"
    Minres = "minres"
    Lissa = "lissa"
    Arnoldi = "arnoldi"
    Nystrom = "nystrom"
    Kfac = "kfac"
    Ekfac = "ekfac"
    Datainf = "datainf"
    Auto = "auto"


class Curvature(str, Enum):
    """What H is."""

    Hessian = "hessian"
    Ggn = "ggn"
    Fisher = "fisher"
    McFisher = "mc_fisher"
    EmpiricalFisher = "empirical_fisher"


class Preconditioning(str, Enum):
    """What cg and minres may solve with first."""

    Jacobi = "jacobi"
    Nystrom = "nystrom"
    Kfac = "kfac"
    Ekfac = "ekfac"
    Deflation = "deflation"


class TerminationStatus(str, Enum):
    """How the solve of one right-hand side ended; ``converged`` is the only success."""

    Converged = "converged"
    AbsoluteTolerance = "absolute_tolerance"
    MaxIterations = "max_iterations"
    NegativeCurvature = "negative_curvature"
    Stagnated = "stagnated"
    Breakdown = "breakdown"
    NonFinite = "non_finite"
    Approximate = "approximate"
    Cancelled = "cancelled"
    Deadline = "deadline"


def parse_method(name: str) -> InversionMethod:
    """The method of this name.

    Raises:
        UnknownMethod: With the names that exist and the nearest of them.
    """
    try:
        return InversionMethod(name)
    except ValueError:
        allowed = [m.value for m in InversionMethod]
        raise UnknownMethod(
            "No inversion method has this name.",
            given=name,
            allowed=", ".join(allowed),
            hint=did_you_mean(name, allowed) or "GET /v1/methods describes each of them.",
        ) from None


def did_you_mean(name: str, allowed: list[str]) -> str | None:
    """A hint at the nearest allowed name, if one is near."""
    close = difflib.get_close_matches(name, allowed, n=1)
    return f"Did you mean {close[0]!r}?" if close else None
