"""A method, its options and λ against the model: what is refused before any work, and with what advice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from ihvp.costs.model import work_of
from ihvp.errors import HessianTooLarge, InvalidOption, SolveTooLarge
from ihvp.methods import InversionMethod, Preconditioning
from ihvp.perturbation import SINGULAR, by_name, check_patterns, check_positive, check_scale, describe

if TYPE_CHECKING:
    from ihvp.costs.workload import Task, Workload
    from ihvp.models.spec import LayoutEntry

__all__ = ["check_memory", "check_perturbation", "check_ranks"]

LOW_RANK: Final = frozenset({InversionMethod.Nystrom, InversionMethod.Arnoldi})
"""These add λ to eigenvalues, which is to add λ I."""
FACTORED: Final = frozenset({Preconditioning.Kfac.value, Preconditioning.Ekfac.value})
"""Preconditioners that are singular without λ; nystrom is one only as a method."""
RANKED: Final = frozenset({Preconditioning.Nystrom.value, Preconditioning.Deflation.value})
DEFAULT_ARNOLDI_RANK: Final = 10

Perturbation = float | str | Mapping[str, float]


def check_perturbation(task: Task, perturbation: Perturbation, layout: list[LayoutEntry]) -> None:
    """Checks λ against the model's parameters and what the method can do with it.

    Raises:
        UnknownParameters: A pattern matches no parameter.
        InvalidOption: A parameter has no λ, or the method needs another.
    """
    if isinstance(perturbation, Mapping):
        check_patterns(perturbation, [entry.name for entry in layout])
    if task.method in LOW_RANK and isinstance(perturbation, Mapping):
        raise InvalidOption(
            f"Method {task.method.value!r} needs one λ for all parameters.",
            given=describe(perturbation),
            allowed='a number > 0, or "auto"',
            hint="The other methods take a λ by parameter, direct, cg and minres among them.",
        )
    if isinstance(perturbation, str):
        return
    of_parameters = by_name(perturbation, [entry.name for entry in layout])
    if task.method is InversionMethod.Lissa:
        check_scale(task.options.get("scale"), float(task.options.get("dampen") or 0.0), max(of_parameters))
    needs_some = _singular_without(task)
    if needs_some is not None:
        check_positive(needs_some, perturbation, of_parameters)


def _singular_without(task: Task) -> str | None:
    """What is singular without λ, if anything is."""
    if task.method.value in SINGULAR:
        return task.method.value
    if task.preconditioner in FACTORED:
        return task.preconditioner
    return "woodbury" if task.options.get("woodbury") else None


def check_ranks(task: Task, num_params: int) -> None:
    """Checks ranks against the number of parameters.

    Raises:
        InvalidOption: A rank exceeds p, a Krylov space is too small for its rank, or nothing would use the rank.
    """
    options = task.options
    for name in ("rank", "rank_estimate", "preconditioner_rank"):
        rank = options.get(name)
        default = name == "rank_estimate" and rank == DEFAULT_ARNOLDI_RANK  # cut to p like every default
        if rank is not None and rank > num_params and not default:
            raise InvalidOption(
                f"Option {name!r} exceeds the number of parameters.", given=str(rank), allowed=f"1 to {num_params}"
            )
    if options.get("preconditioner_rank") is not None and options["preconditioner"] not in RANKED:
        raise InvalidOption(
            "Option 'preconditioner_rank' is used by low-rank preconditioners only.",
            given=f"preconditioner {options['preconditioner'] or 'left out'}",
            allowed=f"preconditioner {' or '.join(sorted(RANKED))}",
            hint="Choose one of them, or leave preconditioner_rank out.",
        )
    dimension, kept = options.get("krylov_dimension"), min(options.get("rank_estimate", 0), num_params)
    if dimension is not None and dimension <= kept and dimension < num_params:
        raise InvalidOption(
            "Option 'krylov_dimension' must exceed rank_estimate.",
            given=str(dimension),
            allowed=f"{kept + 1} or more",
        )


def check_memory(workload: Workload, task: Task, budget: int) -> None:
    """Checks what the method cannot do without against the memory budget.

    Raises:
        HessianTooLarge: ``direct`` on too many parameters.
        SolveTooLarge: Vectors and factors of another method.
    """
    needed = work_of(workload, task).certain_bytes
    if needed <= budget:
        return
    k, p = workload.columns, workload.num_params
    if task.method is InversionMethod.Direct:
        raise HessianTooLarge(
            f"A dense Hessian of {p} parameters and its factorisation need {needed} bytes.",
            given=f"{needed} bytes",
            allowed=f"{budget} bytes",
            hint="Use method 'cg', which needs Hessian-vector products only; or the operator sets IHVP_MEMORY_BUDGET.",
        )
    if workload.vectors(1) * 2 > budget // 2 and k > 1:
        hint = "Split the right-hand sides over several jobs"
    elif needed > 2 * workload.vectors(8):
        hint = "Choose a smaller Krylov space, or method 'cg'"
    else:
        hint = "Choose fewer parameters with parameters.include"
    raise SolveTooLarge(
        f"Method {task.method.value!r} holds at least {needed} bytes for {k} right-hand sides of {p} numbers.",
        given=f"{needed} bytes",
        allowed=f"{budget} bytes",
        hint=f"{hint}; or the operator sets IHVP_MEMORY_BUDGET.",
    )
