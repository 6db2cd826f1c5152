"""Where a result comes from, in full."""

from __future__ import annotations

import platform
import sys
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Final

import torch

from ihvp import __version__
from ihvp.jobs.record import JobRecord
from ihvp.results import Provenance
from ihvp.sources.pin import SourcePin

__all__ = ["provenance_of"]

_ALWAYS: Final = ("torch", "numpy", "safetensors")
_WHERE_USED: Final = ("transformers", "peft", "pyarrow")


def provenance_of(job: JobRecord, sources: dict[str, SourcePin], *, device: str, warm: bool) -> Provenance:
    """Enough to run the job again: all that went in by digest, versions, device, threads and seed.

    Args:
        job: The running job.
        sources: Files outside the blob store that it was made from.
        device: Where it was solved.
        warm: Whether the model was loaded already, for an earlier job.
    """
    request, spec = job.request, job.request.model.spec
    whole = spec.model_dump(mode="json")
    return Provenance(
        job_id=job.id,
        attempt=job.attempt,
        given=request.model.given,
        model=request.model.reference,
        model_digest=request.model.digest,
        spec=whole,
        weights=spec.weights,
        data={name: whole["data"][name] for name in ("inputs", "targets")},
        rhs=request.rhs.model_dump(mode="json", exclude_none=True, exclude={"sources"}),
        sources=sources,
        method=request.method.value,
        options=request.options,
        seed=request.options.get("seed"),
        hessian_perturbation=request.hessian_perturbation,
        curvature=request.curvature.value,
        influence=request.influence is not None,
        dtype=spec.dtype,
        device=device,
        device_name=_name_of(device),
        threads=torch.get_num_threads(),
        warm_model=warm,
        versions=_versions(),
    )


def _versions() -> dict[str, str]:
    """Of what computes or reads; a package counts as used once it has been imported."""
    used = [*_ALWAYS, *(name for name in _WHERE_USED if name in sys.modules)]
    # torch's own word tells its build (+cpu, +cu130), its metadata may not.
    found = {name: torch.__version__ if name == "torch" else _version(name) for name in used}
    return {"ihvp": __version__, "python": platform.python_version(), **found}


@cache
def _version(name: str) -> str:
    """Of an installed package; reading its metadata takes longer than solving a small job does."""
    return version(name)


@cache
def _name_of(device: str) -> str | None:
    """What the processor or the GPU calls itself: two of a kind round alike."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)
    return named or platform.processor() or platform.machine() or None
