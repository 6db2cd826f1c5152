"""Kronecker-factored curvature, inverted layer by layer."""

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

__all__ = ["solve_kfac"]


@InversionRegistry.register(TorchTwiceDifferentiable, InversionMethod.Kfac)
def solve_kfac(
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
    """Solves with one Kronecker product a layer in place of H (Martens & Grosse, 2015): one pass over the data.

    The curvature of a linear map or a convolution is taken as A ⊗ G, with A the second moment of what enters it
    and G that of the derivatives by what leaves it; curvature between layers is left out. λ is added to the
    eigenvalues of the product, so that A ⊗ G + λI is inverted exactly: there is no factored damping. A weight
    belongs to such a layer where the model uses it once, by ``torch.nn.functional.linear`` or an ungrouped
    ``conv2d``, whatever the module is called; a layer's bias is the coordinate of an input that is always 1. All
    other parameters (norms, embeddings, packed attention, shared weights, a bias whose weight is frozen, a layer
    whose factors would not fit the memory budget) have the exact diagonal of the same Fisher matrix.

    The factors stand for the Fisher matrix, whichever curvature H is; the certificate is for H.

    Args:
        model: The model and its loss.
        training_data: Batches ``(x, y)``, or a :class:`solvers.Problem` of the same model.
        b: ``[p]`` or ``[k, p]``.
        hessian_perturbation: λ > 0, or numbers > 0 by parameter.
        statistics: ``type2`` takes the expectation over the model's predictions exactly, by a backward pass for
            each output of a point; past 64 outputs ``mc`` stands in, and ``info`` says so. ``mc`` draws a target for
            each prediction. ``empirical`` takes the targets given.
        rtol: The relative residual up to which a right-hand side counts as converged; 1e-5 for float32 and 1e-8 for
            float64 if left out.
        seed: Draws targets; the same for a point however the data are divided into batches.
        progress: Draws a progress bar on stderr.
        callback: See :func:`solvers.solve_hvp`; its iterations are points gone through. A stop leaves x = 0.

    Returns:
        ``info`` has ``layers`` (``kronecker`` or ``diagonal`` for each parameter, by name) and ``statistics`` (what
        was ``asked``, what was ``used``, and ``why`` where they differ).

    Raises:
        InvalidOption: λ is 0, or the loss does not go with the statistics.
        LossMismatch: The loss is not convex in the model's outputs.
        InvalidInput: See :func:`solvers.solve_hvp`.
    """
    return solve_by_factors(
        "kfac",
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
