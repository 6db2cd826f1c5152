"""What holds of a service whatever has happened to it: checked after each fault, after the storm, after a soak."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import psutil
import safetensors.numpy
from safetensors import safe_open

from ihvp.blobs.filesystem import FilesystemBlobStore
from ihvp.errors import JobNotFound
from ihvp.factors.redis_index import RedisFactorIndex
from ihvp.holdings.redis_store import RedisHoldings
from ihvp.jobs.record import JobRecord
from ihvp.jobs.redis_store import RedisJobStore
from ihvp.jobs.rules import result_blobs
from ihvp.jobs.states import TERMINAL, JobState, may_follow
from ihvp.models.redis_store import RedisModelStore
from ihvp.results import ResultDocument
from ihvp.settings import Settings
from workers.retention import BLOBS_A_SWEEP, Retention

Residual = Callable[[JobRecord, np.ndarray], np.ndarray | None]
"""‖(H+λI)x−b‖/‖b‖ for each row of x by another way than the service's, or None where there is none."""

# A residual recomputed by other code differs from the service's by rounding only.
SLACK = 1.05
ROUNDING = 1e-12


@dataclass
class Report:
    """What was found.

    Attributes:
        counts: Jobs by how they ended, and what else was counted.
        complaints: A line for each thing that is not as promised.
    """

    counts: Counter[str] = field(default_factory=Counter)
    complaints: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        counted = ", ".join(f"{count} {name}" for name, count in sorted(self.counts.items()))
        return f"{counted}; {len(self.complaints)} complaints"


def look(settings: Settings, accepted: Iterable[str], residual: Residual | None = None) -> Report:
    """Looks at every accepted job, and at what is kept beside them.

    Args:
        settings: Of the service.
        accepted: The ids of all jobs that a caller was told are accepted.
        residual: Recomputes what certificates state.
    """
    report = Report()
    store = RedisJobStore.from_settings(settings)
    blobs = FilesystemBlobStore(settings.blob_dir)
    for job_id in accepted:
        try:
            job = store.get(job_id)
        except JobNotFound:
            report.counts["lost"] += 1
            report.complaints.append(f"{job_id} was accepted and is lost")
            continue
        report.counts[job.state.value] += 1
        report.counts["further attempts"] += max(0, job.attempt - 1)
        report.complaints += [f"{job_id}: {fault}" for fault in _life(store, job)]
        report.complaints += [f"{job_id}: {fault}" for fault in _result(blobs, job, residual)]
    report.complaints += _leftovers(settings, store, blobs)
    store.close()
    return report


def processes_left(groups: Iterable[int]) -> list[str]:
    """Processes that still run in any of these process groups."""
    wanted, left = set(groups), []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) in wanted and process.status() != psutil.STATUS_ZOMBIE:
                left.append(f"{process.pid} {' '.join(process.cmdline())}")
        except (psutil.Error, ProcessLookupError):
            continue
    return left


def _life(store: RedisJobStore, job: JobRecord) -> list[str]:
    faults = []
    if not job.finished:
        faults.append(f"has not ended: {job.state.value}, attempt {job.attempt}")
    states = [JobState(e.data["state"]) for e in store.events(job.id, limit=100_000) if e.type == "state"]
    ends = [state.value for state in states if state in TERMINAL]
    if len(ends) != int(job.finished):
        faults.append(f"has the terminal states {ends}")
    if states[:1] != [JobState.Queued] or states[-1:] != [job.state]:
        faults.append(f"is {job.state.value}, and its events are {[s.value for s in states]}")
    faults += [
        f"went from {one.value} to {next_.value}" for one, next_ in pairwise(states) if not may_follow(one, next_)
    ]
    if job.state is JobState.Failed and job.error is None:
        faults.append("failed without saying why")
    if job.state is JobState.Succeeded and job.result is None and not job.result_removed:
        faults.append("succeeded without a result")
    return faults


def _result(blobs: FilesystemBlobStore, job: JobRecord, residual: Residual | None) -> list[str]:
    if job.result is None:
        return []
    for digest in result_blobs(job.result):
        try:
            content = blobs.local_path(digest).read_bytes()
        except Exception as error:
            return [f"its blob {digest} cannot be read: {error}"]
        if f"sha256:{hashlib.sha256(content).hexdigest()}" != digest:
            return [f"its blob {digest} holds other bytes"]
    path = blobs.local_path(job.result.digest)
    with safe_open(path, framework="np") as file:
        document = ResultDocument.from_metadata(file.metadata())
    x = safetensors.numpy.load_file(path)["x"]
    faults = []
    if list(x.shape) != job.result.shape or x.dtype != job.result.dtype:
        faults.append(f"x is {x.dtype}{list(x.shape)}, stated {job.result.dtype}{job.result.shape}")
    if [c.model_dump() for c in document.info.certificate] != [c.model_dump() for c in job.result.certificate]:
        faults.append("the certificate in the file is not the one of the job")
    if document.provenance.job_id != job.id:
        faults.append(f"the result is of {document.provenance.job_id}")
    true = None if residual is None else residual(job, x)
    if true is not None:
        for stated, found in zip(job.result.certificate, np.atleast_1d(true), strict=True):
            claimed = stated.relative_residual
            if claimed is not None and not found <= SLACK * claimed + ROUNDING:
                faults.append(f"certified {claimed:.3g}, and the residual is {found:.3g}")
    return faults


def _leftovers(settings: Settings, store: RedisJobStore, blobs: FilesystemBlobStore) -> list[str]:
    """Sweeps as the reconciler does, with no grace, and names what is still there for nothing."""
    now = settings.model_copy(update={"orphan_grace_s": 1e-6})
    models, factors = RedisModelStore.from_settings(now), RedisFactorIndex.from_settings(now)
    there = [blob.digest for blob in blobs]
    needed = store.referenced_among(there) | models.referenced_among(there) | factors.referenced_blobs()
    retention = Retention(now, store, models, factors, blobs, RedisHoldings.from_settings(now))
    for _ in range(2 + len(there) // BLOBS_A_SWEEP):
        retention.sweep()
    kept = {blob.digest for blob in blobs}
    faults = [f"blob {digest} is kept for nothing" for digest in kept - needed]
    faults += [f"blob {digest} is needed and is not there" for digest in needed - kept]
    faults += [f"unfinished file {path.name}" for path in (blobs.root / "unfinished").glob("*")]
    return faults
