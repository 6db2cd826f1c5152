"""What each method is, guarantees and costs: what a caller reads before choosing one."""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import BaseModel, ValidationError

from ihvp.errors import InvalidOption, UnknownOption
from ihvp.methods.names import InversionMethod, did_you_mean
from ihvp.methods.options import (
    ArnoldiOptions,
    AutoOptions,
    CgOptions,
    DatainfOptions,
    DirectOptions,
    EkfacOptions,
    KfacOptions,
    LissaOptions,
    MethodOptions,
    MinresOptions,
    NystromOptions,
)

__all__ = ["METHODS", "MethodDescription", "default_rtol", "dense_hessian_bytes", "parse_options"]

DType = Literal["float32", "float64"]


class MethodDescription(BaseModel):
    """What a caller reads before choosing a method."""

    method: InversionMethod
    title: str
    options: type[MethodOptions]
    guarantee: str
    cost: str
    exact: bool


_ALL: Final = (
    MethodDescription(
        method=InversionMethod.Direct,
        title="Dense factorisation of H + λI",
        options=DirectOptions,
        guarantee="Relative residual ≤ 1e-10 in float64 and ≤ 1e-5 in float32 on well-conditioned problems, definite "
        "or not; the inertia is reported.",
        cost="p Hessian-vector products, p² numbers of memory, p³/3 operations; "
        "another λ or b on the same model costs no product.",
        exact=True,
    ),
    MethodDescription(
        method=InversionMethod.Cg,
        title="Block conjugate gradients, all right-hand sides together",
        options=CgOptions,
        guarantee="Each right-hand side meets rtol, or its certificate says why not. "
        "Needs H + λI positive definite; negative curvature is detected and reported.",
        cost="At most one Hessian-vector product a right-hand side and iteration, and fewer iterations the more "
        "right-hand sides; 4 vectors a right-hand side.",
        exact=True,
    ),
    MethodDescription(
        method=InversionMethod.Minres,
        title="MINRES, for H + λI that may be indefinite",
        options=MinresOptions,
        guarantee="Each right-hand side meets rtol, or its certificate says why not. H + λI may have negative "
        "eigenvalues, but none that are zero.",
        cost="One Hessian-vector product a right-hand side and iteration, 7 vectors a right-hand side.",
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
        cost="About krylov_dimension Hessian-vector products, krylov_dimension vectors of memory; none for another λ "
        "or b on the same model.",
        exact=False,
    ),
    MethodDescription(
        method=InversionMethod.Nystrom,
        title="Low-rank inverse from a random sketch, the rest taken as λ",
        options=NystromOptions,
        guarantee="None beyond its certificate; good where H has rank below the sketch's. Needs λ > 0.",
        cost="rank Hessian-vector products in one block, rank vectors of memory; none for another λ or b on the same "
        "model.",
        exact=False,
    ),
    MethodDescription(
        method=InversionMethod.Kfac,
        title="Kronecker-factored curvature, layer by layer",
        options=KfacOptions,
        guarantee="None beyond its certificate: correlations between layers, and within a layer those that do not "
        "factor, are dropped. Needs λ > 0.",
        cost="One pass over the data, two small eigenproblems a layer, as much memory as a few parameter vectors; "
        "none of it again for another λ or b on the same model.",
        exact=False,
    ),
    MethodDescription(
        method=InversionMethod.Ekfac,
        title="Kronecker-factored curvature with corrected eigenvalues",
        options=EkfacOptions,
        guarantee="None beyond its certificate; at least as close to the Fisher matrix as kfac. Needs λ > 0.",
        cost="kfac and one more pass over the data with a gradient for each point.",
        exact=False,
    ),
    MethodDescription(
        method=InversionMethod.Datainf,
        title="Mean of single points' inverses, parameter by parameter",
        options=DatainfOptions,
        guarantee="None beyond its certificate: correlations between parameters are dropped and the mean of inverses "
        "stands for the inverse of the mean; close where λ exceeds the squared gradients of single points. "
        "Needs λ > 0.",
        cost="One pass over the data with a gradient for each point and 4 p operations for each point and right-hand "
        "side, for every λ and b anew; no memory beside b and x.",
        exact=False,
    ),
    MethodDescription(
        method=InversionMethod.Auto,
        title="Probes the problem and chooses",
        options=AutoOptions,
        guarantee="Each right-hand side meets rtol, or its certificate says why not; info.auto explains the choice.",
        cost="Some tens of Hessian-vector products for the probes, then those of the method chosen.",
        exact=True,
    ),
)

METHODS: Final[dict[InversionMethod, MethodDescription]] = {d.method: d for d in _ALL}


def default_rtol(dtype: str) -> float:
    """The service's relative tolerance for a model's dtype: what that dtype can hold with room to spare."""
    return {"float64": 1e-8, "float16": 1e-2, "bfloat16": 3e-2}.get(dtype, 1e-5)


def dense_hessian_bytes(num_params: int, dtype: str) -> int:
    """Memory that `direct` needs: H as computed, H + λI in float64, and its factor."""
    return num_params**2 * ((8 if dtype == "float64" else 4) + 8 + 8)


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
                hint=did_you_mean(name, allowed),
            )
    try:
        return model.model_validate(options)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        raise InvalidOption(
            f"Option {name!r} of method {method.value!r} cannot have this value: {first['msg']}.",
            given=repr(first.get("input"))[:200],
            allowed=model.model_fields[name].description,
        ) from None
