"""Kronecker-factored curvature with the eigenvalues that fit it best."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from torch import Tensor

from ihvp.methods import InversionMethod
from solvers.damping import Perturbation
from solvers.kronecker import solve_by_factors
from solvers.progress import Callback
from solvers.registry import InversionRegistry
from solvers.result import InverseHvpResult
from solvers.torch_model import TorchTwiceDifferentiable

__all__ = ["solve_ekfac"]


@InversionRegistry.register(TorchTwiceDifferentiable, InversionMethod.Ekfac)
def solve_ekfac(
    model: TorchTwiceDifferentiable,
    training_data: Iterable[Any],
    b: Tensor,
    hessian_perturbation: Perturbation = 0.0,
    *,
    statistics: Literal["type2", "mc", "empirical"] = "type2",
    rtol: float | None = None,
    seed: int = 0,
    progress: bool = False,
    callback: Callback | None = None,
) -> InverseHvpResult[Tensor]:
    """:func:`solve_kfac` with eigenvalues measured in its eigenbases (George et al., 2018): one more pass.

    The eigenvalues of A ⊗ G are replaced by E[(Q_Gᵀ ∇ Q_A)²], the diagonal of the Fisher matrix itself in the
    eigenbasis of the product, with ∇ the gradient of a single point. In the Frobenius norm no layer is further
    from its block of the Fisher matrix than with kfac. The factors of kfac are kept too, and taken from an earlier
    solve.

    Args:
        model: The model and its loss.
        training_data: Batches ``(x, y)``, or a :class:`solvers.Problem` of the same model.
        b: ``[p]`` or ``[k, p]``.
        hessian_perturbation: λ > 0, or numbers > 0 by parameter.
        statistics: See :func:`solve_kfac`; the same in both passes.
        rtol: See :func:`solve_kfac`.
        seed: See :func:`solve_kfac`.
        progress: Draws a progress bar on stderr.
        callback: See :func:`solvers.solve_hvp`; its iterations are points gone through. A stop leaves x = 0.

    Returns:
        See :func:`solve_kfac`.

    Raises:
        InvalidInput: See :func:`solve_kfac`.
    """
    return solve_by_factors(
        "ekfac",
        model,
        training_data,
        b,
        hessian_perturbation,
        statistics=statistics,
        rtol=rtol,
        seed=seed,
        progress=progress,
        callback=callback,
    )
