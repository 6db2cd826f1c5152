"""What kfac and ekfac share as methods: the inverse of the factored curvature applied to b, and certified."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import torch
from torch import Tensor

from ihvp.methods import InversionMethod, TerminationStatus
from solvers.certificate import Ending
from solvers.damping import Perturbation
from solvers.kronecker.columns import Kind
from solvers.kronecker.inverse import Factoring, kronecker_inverse
from solvers.progress import Callback
from solvers.result import InverseHvpResult
from solvers.system import LinearSystem, checked_options
from solvers.torch_model import TorchTwiceDifferentiable

__all__ = ["solve_by_factors"]

ADVICE: Final = (
    "{} leaves out what does not factor, such as the curvature between layers. Use cg, which reaches a tolerance: "
    "with preconditioner='ekfac', it starts from these factors, which pays where layers hardly interact or λ is small."
)


def solve_by_factors(
    kind: Factoring,
    model: TorchTwiceDifferentiable,
    training_data: Iterable[Any],
    b: Tensor,
    hessian_perturbation: Perturbation,
    *,
    statistics: Kind,
    rtol: float | None,
    seed: int,
    progress: bool,
    callback: Callback | None,
) -> InverseHvpResult[Tensor]:
    """The method of this kind; see :func:`solvers.methods.solve_kfac` for arguments, result and errors."""
    method = InversionMethod(kind)
    options = checked_options(method, statistics=statistics, rtol=rtol, seed=seed)
    system = LinearSystem(
        method,
        model,
        training_data,
        b,
        hessian_perturbation,
        options=options,
        expected_products=1,
        check=lambda damping: damping.require_positive(kind),
        callback=callback,
        progress=progress,
    )
    inverse, stop = kronecker_inverse(system, kind, statistics=statistics, seed=seed)
    tolerance = system.tolerance(rtol)
    k = system.rhs.shape[0]
    if inverse is None:
        ending = Ending(stop or TerminationStatus.Cancelled, 0)
        return system.result(torch.zeros_like(system.rhs), [ending] * k, tolerance, layers=None, statistics=None)
    ending = Ending(TerminationStatus.Approximate, 0, ADVICE.format(kind))
    return system.result(
        inverse(system.rhs),
        [ending] * k,
        tolerance,
        layers=inverse.layers,
        statistics=inverse.statistics.as_dict(),
    )
