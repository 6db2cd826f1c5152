"""From the name of a preconditioner to one that fits a system."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from ihvp.errors import InvalidOption
from ihvp.methods import Preconditioning
from solvers.damping import Damping
from solvers.kronecker import kronecker_inverse
from solvers.preconditioners.deflation import deflation_preconditioner
from solvers.preconditioners.jacobi import jacobi_preconditioner
from solvers.preconditioners.nystrom import nystrom_preconditioner
from solvers.preconditioners.preconditioner import Preconditioner
from solvers.sketch import DEFAULT_RANK

if TYPE_CHECKING:
    from solvers.system import LinearSystem

__all__ = ["DEFAULT_RANK", "check_preconditioner", "preconditioner_for"]

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


def check_preconditioner(kind: str | None, rank: int | None, num_params: int) -> Callable[[Damping], None]:
    """Checks what is asked for, before the data are gone through.

    Args:
        kind: A :class:`Preconditioning` or its value; None for none.
        rank: Eigenpairs of the low-rank ones, if given.
        num_params: The length p of a vector.

    Returns:
        Refuses a λ that the preconditioner cannot do with.

    Raises:
        InvalidOption: It does not fit; says why.
    """
    if rank is not None and kind not in LOW_RANK:
        raise InvalidOption(
            "preconditioner_rank acts on a low-rank preconditioner only.",
            given=f"preconditioner={kind}, preconditioner_rank={rank}",
            allowed="preconditioner " + " or ".join(k.value for k in LOW_RANK),
        )
    if rank is not None and rank > num_params:
        raise InvalidOption(
            "preconditioner_rank exceeds the number of parameters.", given=str(rank), allowed=f"1 to {num_params}"
        )

    def check(damping: Damping) -> None:
        if kind in ("kfac", "ekfac"):
            damping.require_positive(Preconditioning(kind).value)

    return check


def preconditioner_for(system: LinearSystem, kind: str | None, rank: int | None, seed: int) -> Preconditioner | None:
    """The preconditioner of this name for H + λI.

    Args:
        system: What is to be solved.
        kind: A :class:`Preconditioning` or its value; None for none.
        rank: Eigenpairs of the low-rank ones; 200, at most p / 2, if left out.
        seed: Random numbers.

    Raises:
        InvalidOption: It does not fit the system; :func:`check_preconditioner` says so earlier.
    """
    if kind is None:
        return None
    most = max(1, system.operator.size // 2)
    return BUILDERS[Preconditioning(kind)](system, min(DEFAULT_RANK, most) if rank is None else rank, seed)
