"""Where a result comes from, in full."""

from __future__ import annotations

import platform

import torch

from ihvp import __version__
from ihvp.jobs.record import JobRecord
from ihvp.results import Provenance

__all__ = ["provenance_of"]


def provenance_of(job: JobRecord, *, device: str, warm: bool) -> Provenance:
    """Enough to run the job again: digests of all that went in, versions, device and threads.

    Args:
        job: The running job.
        device: Where it was solved.
        warm: Whether the model was loaded already, for an earlier job.
    """
    request, spec = job.request, job.request.model.spec
    return Provenance(
        job_id=job.id,
        attempt=job.attempt,
        model=request.model.reference,
        model_digest=request.model.digest,
        weights=spec.weights,
        data={"inputs": spec.data.inputs, "targets": spec.data.targets},
        rhs=request.rhs.model_dump(mode="json", exclude_none=True),
        dtype=spec.dtype,
        device=device,
        threads=torch.get_num_threads(),
        versions={"ihvp": __version__, "torch": torch.__version__, "python": platform.python_version()},
        method=request.method.value,
        hessian_perturbation=request.hessian_perturbation,
        curvature=request.curvature,
        warm_model=warm,
    )
