"""Jobs of the service as the benchmark submits them: past the API, which does not measure solving."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.rows import ROWS, TOLERANCES
from ihvp.jobs.submission import JobRequest, Priority, ResolvedModel, ResolvedRhs
from ihvp.methods import Curvature, InversionMethod
from ihvp.models.spec import ModelSpec

__all__ = ["cg_job"]


def cg_job(spec: ModelSpec, blob: str, shape: Sequence[int], **options: object) -> JobRequest:
    """A job for ``cg`` in float32, at the tolerance and the λ of the digits' rows.

    Args:
        spec: The model.
        blob: Digest of the right-hand sides.
        shape: Theirs: ``[p]`` or ``[k, p]``.
        options: Beside the tolerance.
    """
    return JobRequest(
        model=ResolvedModel(reference=None, digest=spec.digest, num_params=shape[-1], spec=spec),
        rhs=ResolvedRhs(blob=blob, shape=list(shape)),
        method=InversionMethod.Cg,
        hessian_perturbation=ROWS["digits-mlp"].damping,
        options={"rtol": TOLERANCES["float32"], **options},
        curvature=Curvature.Hessian,
        influence=None,
        priority=Priority.Normal,
        deadline_s=None,
        tags={},
    )
