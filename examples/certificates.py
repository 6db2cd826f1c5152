"""Whether what a solve has certified is good."""

from __future__ import annotations

from ihvp.client import SolveResult
from ihvp.methods import TerminationStatus

__all__ = ["all_converged"]


def all_converged(result: SolveResult, count: int, rtol: float) -> bool:
    """Whether so many right-hand sides have all converged to this relative residual."""
    return len(result.certificate) == count and all(
        entry.status is TerminationStatus.Converged
        and entry.relative_residual is not None
        and entry.relative_residual <= rtol
        for entry in result.certificate
    )
