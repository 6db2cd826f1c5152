"""Low-rank inverse from a random sketch of H."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ihvp.errors import InvalidOption
from ihvp.methods import InversionMethod, TerminationStatus
from solvers.certificate import Ending
from solvers.damping import Damping, Perturbation
from solvers.progress import Callback
from solvers.registry import InversionRegistry
from solvers.result import InverseHvpResult
from solvers.sketch import DEFAULT_RANK, NystromSketch, nystrom_sketch
from solvers.system import LinearSystem, checked_options
from solvers.torch_model import TorchTwiceDifferentiable

__all__ = ["solve_nystrom"]


@InversionRegistry.register(TorchTwiceDifferentiable, InversionMethod.Nystrom)
def solve_nystrom(
    model: TorchTwiceDifferentiable,
    training_data: Iterable[Any],
    b: Tensor,
    hessian_perturbation: Perturbation = 0.0,
    *,
    rank: int | None = None,
    rtol: float | None = None,
    seed: int = 0,
    progress: bool = False,
    callback: Callback | None = None,
) -> InverseHvpResult[Tensor]:
    """Solves with a randomised Nyström sketch in place of H (Frangella, Tropp & Udell, 2023; Hataya & Yamada, 2023).

    Outside the sketch H counts as zero, and b is divided by λ there; negative eigenvalues of H count as zero too.
    The sketch does not depend on λ or b: a :class:`solvers.Problem` keeps it, for cg as a preconditioner as well.

    Args:
        model: The model and its loss.
        training_data: Batches ``(x, y)``, or a :class:`solvers.Problem` of the same model.
        b: ``[p]`` or ``[k, p]``.
        hessian_perturbation: λ > 0.
        rank: Products that the sketch is made of, at most p; 200, at most p, if left out. Fewer where they would not
            fit the problem's memory budget.
        rtol: The relative residual up to which a right-hand side counts as converged; 1e-5 for float32 and 1e-8 for
            float64 if left out.
        seed: Draws the test vectors.
        progress: Draws a progress bar on stderr.
        callback: See :func:`solvers.solve_hvp`; a stop while the sketch is made leaves x = 0.

    Returns:
        ``info`` has ``eigenvalues`` (of the sketch + λI, ``[r]``), ``rank`` (r: what the products hold) and ``shift``
        (what was added to H while the sketch was made).

    Raises:
        InvalidOption: λ is 0, or the rank exceeds p.
        InvalidInput: See :func:`solvers.solve_hvp`.
    """
    options = checked_options(InversionMethod.Nystrom, rank=rank, rtol=rtol, seed=seed)
    p = model.num_params
    if rank is not None and rank > p:
        raise InvalidOption("rank exceeds the number of parameters.", given=str(rank), allowed=f"1 to {p}")
    size = min(DEFAULT_RANK, p) if rank is None else rank
    system = LinearSystem(
        InversionMethod.Nystrom,
        model,
        training_data,
        b,
        hessian_perturbation,
        options=options,
        expected_products=size,
        each_rhs=False,
        rows=size,
        check=_check_damping,
        callback=callback,
        progress=progress,
    )
    k = system.rhs.shape[0]
    tolerance = system.tolerance(rtol)
    sketch, stop = nystrom_sketch(system, size, seed)
    if sketch is None:
        endings = [Ending(stop or TerminationStatus.Cancelled, 0)] * k
        return system.result(torch.zeros_like(system.rhs), endings, tolerance, eigenvalues=None, rank=0, shift=0.0)
    advice = (
        f"H has more than the {sketch.values.shape[0]} eigenvalues that the sketch holds. Raise rank, or use cg with "
        "preconditioner='nystrom', which reuses the sketch and reaches a tolerance."
    )
    return system.result(
        _apply_inverse(system, sketch),
        [Ending(TerminationStatus.Approximate, 0, advice)] * k,
        tolerance,
        eigenvalues=(sketch.values + system.damping).to(system.rhs),
        rank=sketch.values.shape[0],
        shift=sketch.shift,
    )


def _check_damping(damping: Damping) -> None:
    damping.one_for("nystrom")
    damping.require_positive("nystrom")


def _apply_inverse(system: LinearSystem, sketch: NystromSketch) -> Tensor:
    """(V diag(μ) Vᵀ + λI)⁻¹ b, as a small change of b/λ along V."""
    b, damping = system.rhs, system.damping
    V = sketch.vectors.to(b)
    # Both parts along V by themselves: b/λ less nearly all of it would lose the digits that they differ in.
    inside = b @ V.T
    outside = b - inside @ V
    outside -= (outside @ V.T) @ V
    return outside / damping + (inside / (sketch.values + damping).to(b)) @ V
