"""The inversion methods: their names, their options, what each guarantees and costs, and how a solve may end."""

from __future__ import annotations

import difflib
from enum import Enum
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ihvp.errors import InvalidOption, UnknownMethod, UnknownOption

__all__ = [
    "METHODS",
    "ArnoldiOptions",
    "CgOptions",
    "DirectOptions",
    "InversionMethod",
    "LissaOptions",
    "MethodDescription",
    "MethodOptions",
    "TerminationStatus",
    "default_rtol",
    "dense_hessian_bytes",
    "parse_method",
    "parse_options",
]

DType = Literal["float32", "float64"]


class InversionMethod(str, Enum):
    """The methods that can solve (H + λI) x = b."""

    Direct = "direct"
    Cg = "cg"
    Lissa = "lissa"
    Arnoldi = "arnoldi"


class TerminationStatus(str, Enum):
    """How the solve of one right-hand side ended; ``converged`` is the only success."""

    Converged = "converged"
    AbsoluteTolerance = "absolute_tolerance"
    MaxIterations = "max_iterations"
    NegativeCurvature = "negative_curvature"
    Stagnated = "stagnated"
    Breakdown = "breakdown"
    NonFinite = "non_finite"
    Approximate = "approximate"
    Cancelled = "cancelled"
    Deadline = "deadline"


RelativeTolerance = Annotated[float, Field(gt=0.0, lt=1.0)]
Iterations = Annotated[int, Field(ge=1, le=10_000_000)]


class MethodOptions(BaseModel):
    """Options of a method; a name that is not listed is an error, never ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class DirectOptions(MethodOptions):
    """`direct` has nothing to tune."""


class CgOptions(MethodOptions):
    """Options of conjugate gradients."""

    rtol: RelativeTolerance | None = Field(
        None,
        description="Tolerance on the relative residual ‖(H+λI)x−b‖/‖b‖ of each right-hand side. "
        "Left out: 1e-5 for float32, 1e-8 for float64.",
    )
    atol: float = Field(0.0, ge=0.0, description="Absolute tolerance on ‖(H+λI)x−b‖; 0 switches it off.")
    maxiter: Iterations | None = Field(
        None, description="Most iterations for a right-hand side. Left out: 10 × the number of parameters."
    )


class LissaOptions(MethodOptions):
    """Options of LiSSA, a Neumann series over minibatches."""

    maxiter: Iterations = Field(1000, description="Most terms of the series.")
    dampen: float = Field(
        0.0, ge=0.0, description="Adds dampen × scale to λ: another system; see info.effective_damping."
    )
    scale: float = Field(10.0, gt=0.0, description="Must exceed the largest eigenvalue of H + λI.")
    rtol: RelativeTolerance = Field(1e-4, description="Stops when the update falls below rtol × the iterate.")
    seed: int = Field(0, ge=0, lt=2**63, description="Order of the minibatches.")


class ArnoldiOptions(MethodOptions):
    """Options of the low-rank method: Lanczos for the largest eigenpairs, inverted on their span."""

    rank_estimate: int = Field(10, ge=1, description="Number of eigenpairs kept.")
    krylov_dimension: int | None = Field(
        None, ge=2, description="Size of the Krylov space. Left out: max(2 × rank_estimate + 1, 20)."
    )
    tol: float = Field(1e-6, ge=0.0, description="Relative accuracy of the eigenvalues; 0 is machine precision.")
    max_iter: Iterations | None = Field(None, description="Most restarts. Left out: 10 × the parameters.")
    eigen_computation_on_gpu: bool = Field(False, description="Keep the Krylov basis on the model's device.")
    woodbury: bool = Field(
        False, description="Keep the part of b outside the eigenbasis as b/λ; needs hessian_perturbation > 0."
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Start vector of the Lanczos process.")


class MethodDescription(BaseModel):
    """What a caller reads before choosing a method."""

    method: InversionMethod
    title: str
    options: type[MethodOptions]
    guarantee: str
    cost: str
    exact: bool


METHODS: Final[dict[InversionMethod, MethodDescription]] = {
    d.method: d
    for d in (
        MethodDescription(
            method=InversionMethod.Direct,
            title="Dense factorisation of H + λI",
            options=DirectOptions,
            guarantee="Relative residual ≤ 1e-10 in float64 and ≤ 1e-5 in float32 on well-conditioned problems.",
            cost="p Hessian-vector products, p² numbers of memory, p³/3 operations.",
            exact=True,
        ),
        MethodDescription(
            method=InversionMethod.Cg,
            title="Conjugate gradients, all right-hand sides together",
            options=CgOptions,
            guarantee="Each right-hand side meets rtol, or its certificate says why not. "
            "Needs H + λI positive definite; negative curvature is detected and reported.",
            cost="One Hessian-vector product a right-hand side and iteration, 4 vectors a right-hand side.",
            exact=True,
        ),
        MethodDescription(
            method=InversionMethod.Lissa,
            title="LiSSA: stochastic Neumann series",
            options=LissaOptions,
            guarantee="None beyond its certificate; converges in expectation if scale exceeds the largest eigenvalue.",
            cost="One minibatch Hessian-vector product a right-hand side and term.",
            exact=False,
        ),
        MethodDescription(
            method=InversionMethod.Arnoldi,
            title="Low-rank inverse from the largest eigenpairs",
            options=ArnoldiOptions,
            guarantee="Exact on the span of the eigenvectors kept; the certificate shows what lies outside.",
            cost="About krylov_dimension Hessian-vector products, krylov_dimension vectors of memory.",
            exact=False,
        ),
    )
}


def default_rtol(dtype: str) -> float:
    """The service's relative tolerance for a model's dtype: what that dtype can hold with room to spare."""
    return 1e-8 if dtype == "float64" else 1e-5


def dense_hessian_bytes(num_params: int, dtype: str) -> int:
    """Memory that `direct` needs: H as computed, H + λI in float64, and its factor."""
    return num_params**2 * ((8 if dtype == "float64" else 4) + 8 + 8)


def parse_method(name: str) -> InversionMethod:
    """The method of this name.

    Raises:
        UnknownMethod: With the names that exist and the nearest of them.
    """
    try:
        return InversionMethod(name)
    except ValueError:
        allowed = [m.value for m in InversionMethod]
        raise UnknownMethod(
            "No inversion method has this name.",
            given=name,
            allowed=", ".join(allowed),
            hint=_did_you_mean(name, allowed) or "GET /v1/methods describes each of them.",
        ) from None


def parse_options(method: InversionMethod, options: dict[str, Any]) -> MethodOptions:
    """The options of a method, checked.

    Raises:
        UnknownOption: A name that the method does not have.
        InvalidOption: A value of the wrong type or outside its range.
    """
    model = METHODS[method].options
    allowed = sorted(model.model_fields)
    for name in options:
        if name not in model.model_fields:
            raise UnknownOption(
                f"Method {method.value!r} has no option {name!r}.",
                given=name,
                allowed=", ".join(allowed) if allowed else "no options",
                hint=_did_you_mean(name, allowed),
            )
    try:
        return model.model_validate(options)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise InvalidOption(
            f"Option {name!r} of method {method.value!r} cannot have this value: {first['msg']}.",
            given=repr(first.get("input"))[:200],
            allowed=model.model_fields[str(first["loc"][0])].description,
        ) from None


def _did_you_mean(name: str, allowed: list[str]) -> str | None:
    close = difflib.get_close_matches(name, allowed, n=1)
    return f"Did you mean {close[0]!r}?" if close else None
