"""A finished job's result: found, and in the representations that a caller may ask for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import anyio.to_thread

from app.byte_ranges import ByteSource
from app.stored_tensors import TensorFile, open_tensor_file
from ihvp.errors import BlobNotFound, JobNotFinished, NoResult, ResultExpired
from ihvp.results import METADATA_KEY, X_TENSOR, ResultDocument
from ihvp.wire import ResultView

if TYPE_CHECKING:
    from app.services import Services
    from app.stored_tensors import StoredTensor
    from ihvp.jobs.record import JobRecord, ResultSummary

__all__ = ["JSON", "NPY", "SAFETENSORS", "FinishedJob", "StoredResult", "finished_job", "open_result"]

JSON: Final = "application/json"
SAFETENSORS: Final = "application/vnd.safetensors"
NPY: Final = "application/x-npy"


@dataclass(frozen=True)
class FinishedJob:
    """A job that has a result, and its summary."""

    job: JobRecord
    summary: ResultSummary


@dataclass(frozen=True)
class StoredResult:
    """A result blob, its header read."""

    job_id: str
    digest: str
    file: TensorFile

    def etag(self, kind: str) -> str:
        """One strong tag for each representation; the plain digest is that of the blob itself."""
        suffix = {SAFETENSORS: "", NPY: "-npy", JSON: "-json"}[kind]
        return f'"{self.digest.removeprefix("sha256:")}{suffix}"'

    def bytes_as(self, kind: str) -> ByteSource:
        """The result as safetensors (the blob itself) or npy (x under another header)."""
        if kind == SAFETENSORS:
            return ByteSource(self.file.path, 0, self.file.size)
        return ByteSource(self.file.path, self._x.header.start, self._x.header.nbytes, prefix=self._x.npy_header())

    async def view(self, max_inline: int) -> ResultView:
        """The result as JSON; x is null above so many numbers."""
        numbers = await anyio.to_thread.run_sync(self._x.nested) if self._x.size <= max_inline else None
        document = ResultDocument.from_metadata({METADATA_KEY: self.file.metadata[METADATA_KEY]})
        return ResultView(
            x=numbers,
            x_href=f"/v1/jobs/{self.job_id}/result?format=safetensors",
            shape=list(self._x.shape),
            dtype=self._x.dtype,
            info=document.info,
            provenance=document.provenance,
            digest=self.digest,
        )

    @property
    def _x(self) -> StoredTensor:
        return self.file.tensors[X_TENSOR]


async def finished_job(services: Services, job_id: str) -> FinishedJob:
    """The job and the summary of its result.

    Raises:
        JobNotFound: No job has this id.
        JobNotFinished: It has not ended yet.
        NoResult: It ended without one.
        ResultExpired: Retention has removed it.
    """
    job = await services.jobs.get(job_id)
    if not job.finished:
        raise JobNotFinished(
            "The job has not ended yet.",
            given=f"state {job.state.value}",
            hint=f"Wait for it: GET /v1/jobs/{job_id}?wait=15, or follow /v1/jobs/{job_id}/events.",
        )
    if job.result_removed:
        raise _expired(job_id)
    if job.result is None:
        reason = f" ({job.error.code}: {job.error.message})" if job.error else ""
        raise NoResult(
            f"The job ended without a result{reason}.",
            given=f"state {job.state.value}",
            hint=job.error.hint if job.error else None,
        )
    return FinishedJob(job, job.result)


async def open_result(services: Services, job_id: str) -> StoredResult:
    """The result of a job.

    Raises:
        IhvpError: As ``finished_job``.
    """
    summary = (await finished_job(services, job_id)).summary
    try:
        file = await anyio.to_thread.run_sync(open_tensor_file, services.blobs, summary.digest)
    except BlobNotFound:
        raise _expired(job_id) from None
    return StoredResult(job_id, summary.digest, file)


def _expired(job_id: str) -> ResultExpired:
    return ResultExpired(
        "The result was removed when its retention time was over.",
        given=job_id,
        hint="Submit the job again; the operator sets IHVP_RETENTION_S.",
    )
