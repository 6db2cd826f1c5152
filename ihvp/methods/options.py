"""The options of each method: a name that is not listed is an error, never ignored."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "ArnoldiOptions",
    "AutoOptions",
    "CgOptions",
    "DatainfOptions",
    "DirectOptions",
    "EkfacOptions",
    "KfacOptions",
    "KrylovOptions",
    "LissaOptions",
    "MethodOptions",
    "MinresOptions",
    "NystromOptions",
]

RelativeTolerance = Annotated[float, Field(gt=0.0, lt=1.0)]
Iterations = Annotated[int, Field(ge=1, le=10_000_000)]
Rank = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]

RTOL = Field(
    None,
    description="Tolerance on the relative residual ‖(H+λI)x−b‖/‖b‖ of each right-hand side. "
    "Left out: 1e-5 for float32, 1e-8 for float64.",
)


class MethodOptions(BaseModel):
    """Options of a method."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class DirectOptions(MethodOptions):
    """`direct` has nothing to tune."""


class KrylovOptions(MethodOptions):
    """What the methods that iterate to a tolerance have in common."""

    rtol: RelativeTolerance | None = RTOL
    atol: float = Field(0.0, ge=0.0, description="Absolute tolerance on ‖(H+λI)x−b‖; 0 switches it off.")
    maxiter: Iterations | None = Field(
        None, description="Most iterations for a right-hand side. Left out: 10 × the number of parameters."
    )
    preconditioner: Literal["jacobi", "nystrom", "kfac", "ekfac", "deflation"] | None = Field(
        None, description="What is solved with first; kept for later jobs on the same model. Left out: none."
    )
    preconditioner_rank: Rank | None = Field(
        None,
        description="Eigenpairs of a nystrom or deflation preconditioner, cut where the dtype holds no more. "
        "Left out: 200, at most p / 2.",
    )
    seed: Seed = Field(0, description="Random numbers of the preconditioner.")


class CgOptions(KrylovOptions):
    """Options of conjugate gradients."""

    recycle: bool = Field(
        True,
        description="Without a preconditioner: start from what earlier jobs on the same model have shown of H, and "
        "leave the search directions of this one to later jobs. The answer is the same to rtol.",
    )
    single_precision: bool = Field(
        True,
        description="In float64: iterate on products in float32 where they pay, and correct by residuals in float64. "
        "The tolerance and the certificate are those of float64.",
    )


class MinresOptions(KrylovOptions):
    """Options of MINRES."""


class LissaOptions(MethodOptions):
    """Options of LiSSA, a Neumann series over minibatches."""

    maxiter: Iterations = Field(1000, description="Most terms of the series.")
    dampen: float = Field(
        0.0, ge=0.0, description="Adds dampen × scale to λ: another system; see info.effective_damping."
    )
    scale: float | None = Field(
        None,
        gt=0.0,
        description="Must exceed the largest eigenvalue of every batch's H + λI. Left out: a bound from a few power "
        "iterations on each batch.",
    )
    rtol: RelativeTolerance = Field(1e-4, description="Stops when the update falls below rtol × the iterate.")
    repeats: Annotated[int, Field(ge=1, le=1000)] = Field(
        1, description="Independent series, averaged; info.repeat_std says how far they lie apart."
    )
    seed: Seed = Field(0, description="Order of the minibatches.")


class ArnoldiOptions(MethodOptions):
    """Options of the low-rank method: Lanczos for the largest eigenpairs, inverted on their span."""

    rank_estimate: Rank = Field(10, description="Number of eigenpairs kept.")
    krylov_dimension: int | None = Field(
        None, ge=2, description="Size of the Krylov space. Left out: max(2 × rank_estimate + 1, 20)."
    )
    tol: float = Field(1e-6, ge=0.0, description="Relative accuracy of the eigenvalues; 0 is machine precision.")
    max_iter: Iterations | None = Field(None, description="Most restarts. Left out: 10 × the parameters.")
    eigen_computation_on_gpu: bool = Field(False, description="Keep the Krylov basis on the model's device.")
    woodbury: bool = Field(
        False, description="Keep the part of b outside the eigenbasis as b/λ; needs hessian_perturbation > 0."
    )
    seed: Seed = Field(0, description="Start vector of the Lanczos process.")


class NystromOptions(MethodOptions):
    """Options of the randomised low-rank method."""

    rank: Rank | None = Field(
        None, description="Size of the sketch, cut where the dtype holds no more. Left out: 200, at most p."
    )
    rtol: RelativeTolerance | None = RTOL
    seed: Seed = Field(0, description="Random numbers of the sketch.")


class KfacOptions(MethodOptions):
    """Options of Kronecker-factored curvature."""

    statistics: Literal["type2", "mc", "empirical"] = Field(
        "type2",
        description="Gradients behind the output factors: every class weighted by its predicted probability (exact), "
        "targets drawn from the prediction, or the targets given.",
    )
    rtol: RelativeTolerance | None = RTOL
    seed: Seed = Field(0, description="Drawn targets.")


class EkfacOptions(KfacOptions):
    """Options of Kronecker-factored curvature with corrected eigenvalues."""


class DatainfOptions(MethodOptions):
    """Options of the mean of single points' inverses."""

    rtol: RelativeTolerance | None = RTOL


class AutoOptions(MethodOptions):
    """Options of the method that chooses for you."""

    rtol: RelativeTolerance | None = RTOL
    atol: float = Field(0.0, ge=0.0, description="Absolute tolerance on ‖(H+λI)x−b‖; 0 switches it off.")
    maxiter: Iterations | None = Field(
        None, description="Most iterations of each method tried. Left out: 10 × the number of parameters."
    )
    seed: Seed = Field(0, description="Random numbers of probes, sketches and preconditioners.")
