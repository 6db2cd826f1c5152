"""The state of a running solve as blobs, for the next attempts of its jobs to go on from."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import structlog
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ihvp import __version__
from ihvp.blobs.store import BlobStore
from ihvp.errors import IhvpError, JobNotFound, StaleAttempt
from ihvp.jobs.record import JobRecord
from ihvp.jobs.store import JobStore
from solvers.checkpoint import SolverState
from workers.stop import StopReason, StopSignal
from workers.tensor_blob import write_tensors

__all__ = ["BlockCheckpoints", "JobCheckpoints"]

_log = structlog.get_logger(__name__)

_METADATA_KEY: Final = "state"
_SOLUTIONS: Final = "X"
"""What methods call the iterates ``[k, p]`` among the tensors of a state."""
_ITERATE: Final = "iterate"
"""The method of a state that is no more than a job's own iterates."""
_SHARE: Final = 50
"""Between two states at least this many times as long passes as saving one took: a fiftieth of the time goes there."""


class JobCheckpoints:
    """``solvers.checkpoint.Checkpoints`` of one attempt at a job, as it is solved alone.

    Nothing here can fail a solve: a state that cannot be written is not kept, and one that cannot be read is
    left aside.

    Args:
        store: Where the job's last state is noted.
        blobs: Where it lies.
        job: The running job.
        stop: Why to stop, if so; a shutdown makes the state due.
        interval_s: Least time between two states.
        clock: Monotonic seconds.

    Attributes:
        resume: The state that an earlier attempt has left, or None.
        iterate: The job's rows ``[k, p]`` of x that one has left where it was solved with others, or None.
        resumed_at: The iteration at which it left either; None for a start at the beginning.
    """

    def __init__(
        self,
        store: JobStore,
        blobs: BlobStore,
        job: JobRecord,
        stop: StopSignal,
        *,
        interval_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._job = job
        self._stop = stop
        self._interval_s = interval_s
        self._clock = clock
        self._next = clock() + interval_s
        self._saved_at_shutdown = False
        self._digest = job.checkpoint
        self.resume = None if job.checkpoint is None else self._read(job.checkpoint)
        self.resumed_at = None if self.resume is None else self.resume.iteration
        self.iterate: Tensor | None = None
        if self.resume is not None and self.resume.method == _ITERATE:
            self.iterate, self.resume = self.resume.tensors.get(_SOLUTIONS), None

    def due(self) -> bool:
        """Whether the state should be saved now."""
        match self._stop.reason:
            case None:
                return self._clock() >= self._next
            case StopReason.Shutdown:
                return not self._saved_at_shutdown
            case _:
                return False

    def save(self, state: SolverState) -> None:
        """Writes a state and notes it on the job, which is solved alone until it has ended."""
        self._save(state, alone=True)

    def save_iterate(self, iteration: int, x: Tensor) -> None:
        """Writes the job's own rows of x, from which it can go on with others or alone."""
        self._save(SolverState(_ITERATE, iteration, {_SOLUTIONS: x}), alone=False)

    def _save(self, state: SolverState, *, alone: bool) -> None:
        began = self._clock()
        self._saved_at_shutdown = self._stop.reason is StopReason.Shutdown
        try:
            self._write(state, alone)
        except StaleAttempt as error:
            _log.warning("stale_attempt", error=str(error))
            self._stop.request(StopReason.Lost)
        except (IhvpError, OSError) as error:
            _log.warning("checkpoint_not_kept", error=str(error))
        self._next = self._clock() + max(self._interval_s, _SHARE * (self._clock() - began))

    def leave_aside(self, error: Exception) -> None:
        """Starts at the beginning, since the state did not fit."""
        _log.warning("checkpoint_left_aside", error=str(error))
        self.resume = self.resumed_at = None

    def discard(self) -> None:
        """Deletes the last state if the job has really ended."""
        if self._digest is None:
            return
        try:
            if not self._store.get(self._job.id).finished:
                return
        except JobNotFound:
            pass
        except IhvpError:
            # The sweep of orphans takes it in time.
            return
        self._blobs.delete(self._digest)

    def _write(self, state: SolverState, alone: bool) -> None:
        document = {
            "version": __version__,
            "job": self._job.id,
            # Two attempts never write the same blob, so that a stale one cannot delete the other's.
            "attempt": self._job.attempt,
            "method": state.method,
            "iteration": state.iteration,
            "facts": dict(state.facts),
        }
        blob = write_tensors(self._blobs, state.tensors, {_METADATA_KEY: json.dumps(document)})
        try:
            superseded = self._store.checkpoint(self._job.id, self._job.attempt, blob.digest, alone=alone)
        except StaleAttempt:
            self._blobs.delete(blob.digest)
            raise
        self._digest = blob.digest
        if superseded is not None:
            self._blobs.delete(superseded)
        _log.info("checkpoint_saved", iteration=state.iteration, bytes=blob.size)

    def _read(self, digest: str) -> SolverState | None:
        try:
            with safe_open(self._blobs.local_path(digest), framework="pt") as file:
                document: dict[str, Any] = json.loads(file.metadata()[_METADATA_KEY])
                if (document["version"], document["job"]) != (__version__, self._job.id):
                    raise ValueError(f"it is of version {document['version']}, job {document['job']}")
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
            state = SolverState(document["method"], document["iteration"], tensors, document["facts"])
        except (IhvpError, OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            _log.warning("checkpoint_left_aside", digest=digest, error=f"{type(error).__name__}: {error}")
            return None
        _log.info("resuming", iteration=state.iteration)
        return state


class BlockCheckpoints:
    """``solvers.checkpoint.Checkpoints`` of several jobs that are solved as one block.

    The state of a block mixes its right-hand sides, and the same jobs may never meet again. So each job keeps its
    own rows of x, and starts at them the next time: Krylov spaces are lost, what they have found is not.

    Args:
        jobs: Each job's own checkpoints and its rows of the block; None once it has ended.
    """

    def __init__(self, jobs: Callable[[], Sequence[tuple[JobCheckpoints, slice]]]) -> None:
        self._jobs = jobs
        # What one job would go on from fits no block.
        self.resume: SolverState | None = None

    def due(self) -> bool:
        """Whether any job's rows should be saved now."""
        return any(own.due() for own, _ in self._jobs())

    def save(self, state: SolverState) -> None:
        """Writes each job's rows, where the method has them."""
        x = state.tensors.get(_SOLUTIONS)
        if x is None:
            return
        for own, rows in self._jobs():
            own.save_iterate(state.iteration, x[rows])
