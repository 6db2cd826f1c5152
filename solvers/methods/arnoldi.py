"""Low-rank inverse from the eigenpairs of largest magnitude."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from ihvp.errors import InvalidOption
from ihvp.methods import InversionMethod, TerminationStatus
from solvers.certificate import Ending, Tolerance
from solvers.damping import Damping
from solvers.lanczos import Eigenpairs
from solvers.progress import Callback
from solvers.registry import InversionRegistry
from solvers.result import InverseHvpResult
from solvers.spectrum import kept_eigenpairs
from solvers.system import LinearSystem, checked_options
from solvers.torch_model import TorchTwiceDifferentiable

__all__ = ["LowRankRepresentation", "solve_arnoldi"]

DEFAULT_RANK: Final = 10
EXPECTED_RESTARTS: Final = 3


@dataclass(frozen=True, eq=False)
class LowRankRepresentation:
    """H ≈ V diag(eigenvalues) Vᵀ, to be solved with again at any λ.

    Attributes:
        eigenvalues: Of H itself, without λ: ``[r]``.
        eigenvectors: Orthonormal columns ``[p, r]``.
    """

    eigenvalues: Tensor
    eigenvectors: Tensor


@InversionRegistry.register(TorchTwiceDifferentiable, InversionMethod.Arnoldi)
def solve_arnoldi(
    model: TorchTwiceDifferentiable,
    training_data: Iterable[Any],
    b: Tensor,
    hessian_perturbation: float = 0.0,
    *,
    rank_estimate: int = DEFAULT_RANK,
    krylov_dimension: int | None = None,
    low_rank_representation: LowRankRepresentation | None = None,
    tol: float = 1e-6,
    max_iter: int | None = None,
    eigen_computation_on_gpu: bool = False,
    woodbury: bool = False,
    seed: int = 0,
    progress: bool = False,
    callback: Callback | None = None,
) -> InverseHvpResult[Tensor]:
    """Inverts H + λI on the span of a few eigenvectors (Schioppa et al., 2022); exact there, and nowhere else.

    The eigenpairs come from a thick-restart Lanczos process (Wu & Simon, 2000). Without ``woodbury`` the part of
    b outside their span is dropped; with it, it is kept as b/λ, as if H were zero there. The certificate says
    what either costs.

    Args:
        model: The model and its loss.
        training_data: Batches ``(x, y)``, or a :class:`solvers.Problem` of the same model.
        b: ``[p]`` or ``[k, p]``.
        hessian_perturbation: λ ≥ 0; > 0 for ``woodbury``.
        rank_estimate: Number r of eigenpairs, at most p; the default is cut to p.
        krylov_dimension: Vectors kept while they are computed; max(2 r + 1, 20) if left out, at most p.
        low_rank_representation: Eigenpairs from ``info`` of an earlier solve, at this λ or another; the options of
            their computation must then be left out.
        tol: Accuracy of the eigenvalues relative to the largest, and the relative residual up to which a
            right-hand side counts as converged; 0 is machine precision.
        max_iter: Most restarts; 10 p if left out.
        eigen_computation_on_gpu: Keeps the vectors on the model's device; else in main memory.
        woodbury: Keeps the part of b outside the span.
        seed: Draws the first vector.
        progress: Draws a progress bar on stderr.
        callback: See :func:`solvers.solve_hvp`; its iterations are products. A stop leaves the pairs found so far.

    Returns:
        ``info`` has ``eigenvalues`` (of H + λI, ``[r]``), ``eigenvectors`` (``[p, r]``),
        ``low_rank_representation`` (for reuse), ``eigenvalue_errors`` (bounds, a list) and ``restarts``.

    Raises:
        InvalidInput: See :func:`solvers.solve_hvp`.
    """
    own = {
        "rank_estimate": rank_estimate,
        "krylov_dimension": krylov_dimension,
        "tol": tol,
        "max_iter": max_iter,
        "eigen_computation_on_gpu": eigen_computation_on_gpu,
        "seed": seed,
    }
    options = checked_options(InversionMethod.Arnoldi, **own, woodbury=woodbury)
    p = model.num_params
    if low_rank_representation is None:
        rank, dimension = _sizes(p, rank_estimate, krylov_dimension)
    else:
        rank = dimension = 0
        _check_reuse(low_rank_representation, p, own)

    def check_damping(damping: Damping) -> None:
        # The inverse on a span knows one λ only.
        damping.one_for("arnoldi")
        if woodbury:
            damping.require_positive("woodbury")

    system = LinearSystem(
        InversionMethod.Arnoldi,
        model,
        training_data,
        b,
        hessian_perturbation,
        options={**options, "low_rank_representation": None if low_rank_representation is None else "given"},
        expected_products=EXPECTED_RESTARTS * dimension + 1,
        each_rhs=False,
        rows=1,
        check=check_damping,
        callback=callback,
        progress=progress,
    )
    restarts, errors = 0, None
    status = TerminationStatus.Approximate
    if low_rank_representation is None:
        pairs, stop = kept_eigenpairs(
            system,
            rank,
            dimension=dimension,
            tol=tol,
            max_restarts=max_iter or 10 * p,
            seed=seed,
            on_device=eigen_computation_on_gpu,
        )
        low_rank_representation = _representation(system, pairs)
        restarts, errors = pairs.restarts, pairs.errors.tolist()
        status = stop or (status if pairs.converged else TerminationStatus.MaxIterations)
    X = _apply_inverse(system, low_rank_representation, woodbury)
    eigenvalues = low_rank_representation.eigenvalues + system.damping
    ending = _ending(status, eigenvalues, system.damping, restarts)
    least = 10 * torch.finfo(system.problem.dtype).eps
    return system.result(
        X,
        [ending] * system.rhs.shape[0],
        Tolerance(max(tol, least)),
        eigenvalues=eigenvalues,
        eigenvectors=low_rank_representation.eigenvectors,
        low_rank_representation=low_rank_representation,
        eigenvalue_errors=errors,
        restarts=restarts,
    )


def _sizes(p: int, rank: int, krylov_dimension: int | None) -> tuple[int, int]:
    """The number of pairs and of vectors kept. The default rank is cut to p; another beyond it is an error."""
    if rank == DEFAULT_RANK:
        rank = min(rank, p)
    if rank > p:
        raise InvalidOption("rank_estimate exceeds the number of parameters.", given=str(rank), allowed=f"1 to {p}")
    dimension = max(2 * rank + 1, 20) if krylov_dimension is None else krylov_dimension
    if dimension <= rank and dimension < p:
        raise InvalidOption(
            "krylov_dimension must exceed rank_estimate.", given=str(dimension), allowed=f"{rank + 1} to {p}"
        )
    return rank, min(dimension, p)


def _check_reuse(representation: LowRankRepresentation, p: int, own: dict[str, Any]) -> None:
    if not isinstance(representation, LowRankRepresentation):
        raise InvalidOption(
            "low_rank_representation must be a LowRankRepresentation.", given=type(representation).__name__
        )
    values, vectors = representation.eigenvalues, representation.eigenvectors
    if values.ndim != 1 or tuple(vectors.shape) != (p, values.shape[0]):
        raise InvalidOption(
            "low_rank_representation does not fit the model.",
            given=f"eigenvalues {list(values.shape)}, eigenvectors {list(vectors.shape)}",
            allowed=f"[r] and [{p}, r]",
        )
    defaults = solve_arnoldi.__kwdefaults__ or {}
    unused = [name for name, value in own.items() if name != "tol" and value != defaults[name]]
    if unused:
        raise InvalidOption(
            "With low_rank_representation nothing is computed that these options could act on.",
            given=", ".join(unused),
            hint="Leave them out, or leave low_rank_representation out.",
        )


def _representation(system: LinearSystem, pairs: Eigenpairs) -> LowRankRepresentation:
    device, dtype = system.problem.device, system.problem.dtype
    return LowRankRepresentation(pairs.values.to(device, dtype), pairs.vectors.T.to(device, dtype))


def _apply_inverse(system: LinearSystem, low_rank: LowRankRepresentation, woodbury: bool) -> Tensor:
    b = system.rhs
    V = low_rank.eigenvectors.to(b)
    shifted = low_rank.eigenvalues.to(b) + system.damping
    # An eigenvalue of 0 has no inverse; what is dropped with it shows in the certificate.
    inverse = torch.where(shifted == 0, 0.0, 1.0 / torch.where(shifted == 0, 1.0, shifted))
    inside = b @ V
    X = (inside * inverse) @ V.T
    if woodbury:
        X += (b - inside @ V.T) / system.damping
    return X


def _ending(status: TerminationStatus, eigenvalues: Tensor, damping: float, restarts: int) -> Ending:
    smallest = float(eigenvalues.min())
    if smallest < 0:
        if status is TerminationStatus.Approximate:
            status = TerminationStatus.NegativeCurvature
        return Ending(status, restarts, rayleigh_quotient=smallest, suggested_perturbation=damping - 1.1 * smallest)
    advice = None
    if status is TerminationStatus.Approximate:
        advice = (
            "b has a part outside the eigenvectors kept. Raise rank_estimate, keep that part with woodbury=True "
            "(λ > 0), or use cg."
        )
    return Ending(status, restarts, advice)
