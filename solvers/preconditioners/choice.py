"""From the name of a preconditioner to one that fits a system."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from ihvp.errors import InvalidOption
from ihvp.methods import Preconditioning
from solvers.kronecker import kronecker_inverse
from solvers.preconditioners.deflation import deflation_preconditioner
from solvers.preconditioners.jacobi import jacobi_preconditioner
from solvers.preconditioners.nystrom import nystrom_preconditioner
from solvers.preconditioners.preconditioner import Preconditioner
from solvers.sketch import DEFAULT_RANK

if TYPE_CHECKING:
    from solvers.system import LinearSystem

__all__ = ["DEFAULT_RANK", "preconditioner_for"]

Builder = Callable[["LinearSystem", int, int], Preconditioner | None]

BUILDERS: Final[dict[Preconditioning, Builder]] = {
    Preconditioning.Jacobi: lambda system, _rank, seed: jacobi_preconditioner(system, seed),
    Preconditioning.Nystrom: nystrom_preconditioner,
    Preconditioning.Deflation: deflation_preconditioner,
    Preconditioning.Kfac: lambda system, _rank, seed: kronecker_inverse(system, "kfac", seed=seed)[0],
    Preconditioning.Ekfac: lambda system, _rank, seed: kronecker_inverse(system, "ekfac", seed=seed)[0],
}
"""One function a kind, ``(system, rank, seed)``; None where the solve was stopped before it was made."""


LOW_RANK: Final = (Preconditioning.Nystrom, Preconditioning.Deflation)


def preconditioner_for(system: LinearSystem, kind: str | None, rank: int | None, seed: int) -> Preconditioner | None:
    """The preconditioner of this name for H + λI.

    Args:
        system: What is to be solved.
        kind: A :class:`Preconditioning` or its value; None for none.
        rank: Eigenpairs of the low-rank ones; 200, at most p / 2, if left out.
        seed: Random numbers.

    Raises:
        InvalidOption: It does not fit the system; says why.
    """
    if rank is not None and kind not in LOW_RANK:
        raise InvalidOption(
            "preconditioner_rank acts on a low-rank preconditioner only.",
            given=f"preconditioner={kind}, preconditioner_rank={rank}",
            allowed="preconditioner " + " or ".join(k.value for k in LOW_RANK),
        )
    if kind is None:
        return None
    p = system.operator.size
    most = max(1, p // 2)
    if rank is not None and rank > p:
        raise InvalidOption(
            "preconditioner_rank exceeds the number of parameters.", given=str(rank), allowed=f"1 to {p}"
        )
    return BUILDERS[Preconditioning(kind)](system, min(DEFAULT_RANK, most) if rank is None else rank, seed)
