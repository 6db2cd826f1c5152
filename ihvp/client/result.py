"""A result as numpy holds it."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from safetensors import safe_open

from ihvp.errors import DigestMismatch
from ihvp.jobs.record import Certificate
from ihvp.methods import TerminationStatus
from ihvp.results import SCORES_TENSOR, X_TENSOR, Provenance, ResultDocument, ResultInfo

__all__ = ["Array", "SolveResult", "read_result", "read_scores"]

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class SolveResult:
    """The solution of (H + λI) x = b and what it is worth.

    Attributes:
        job_id: The job that made it.
        x: The solution, in the shape of the right-hand side that was sent: ``[p]`` or ``[k, p]``.
        info: The solver's account: options, timings, certificates.
        provenance: Enough to run the job again.
        digest: sha256 of the stored result.
    """

    job_id: str
    x: Array
    info: ResultInfo
    provenance: Provenance
    digest: str

    @property
    def certificate(self) -> list[Certificate]:
        """What is guaranteed, one entry a right-hand side."""
        return self.info.certificate

    @property
    def converged(self) -> bool:
        """Whether every right-hand side met its tolerance, by its recomputed residual."""
        return all(entry.status is TerminationStatus.Converged for entry in self.certificate)


def read_result(job_id: str, path: Path, headers: httpx.Headers) -> SolveResult:
    """Reads a downloaded result.

    Raises:
        DigestMismatch: The bytes are not those that the service announced.
    """
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    announced = re.search(r"[0-9a-f]{64}", headers.get("etag", ""))
    if announced is not None and announced[0] != digest:
        raise DigestMismatch(
            "The result was damaged on its way.", given=digest, allowed=announced[0], hint="Fetch it again."
        )
    with safe_open(path, framework="numpy") as tensors:
        document = ResultDocument.from_metadata(tensors.metadata() or {})
        x = tensors.get_tensor(X_TENSOR)
    return SolveResult(
        job_id=job_id, x=x, info=document.info, provenance=document.provenance, digest=f"sha256:{digest}"
    )


def read_scores(path: Path) -> Array:
    """Reads downloaded influence scores."""
    with safe_open(path, framework="numpy") as tensors:
        scores: Array = tensors.get_tensor(SCORES_TENSOR)
    return scores
