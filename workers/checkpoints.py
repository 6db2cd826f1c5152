"""The state of a running solve as a blob, for the job's next attempt to go on from."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any, Final

import structlog
from safetensors import SafetensorError, safe_open

from ihvp import __version__
from ihvp.blobs.store import BlobStore
from ihvp.errors import IhvpError, JobNotFound, StaleAttempt
from ihvp.jobs.record import JobRecord
from ihvp.jobs.store import JobStore
from solvers.checkpoint import SolverState
from workers.stop import StopReason, StopSignal
from workers.tensor_blob import write_tensors

__all__ = ["JobCheckpoints"]

_log = structlog.get_logger(__name__)

_METADATA_KEY: Final = "state"
_SHARE: Final = 50
"""Between two states at least this many times as long passes as saving one took: a fiftieth of the time goes there."""


class JobCheckpoints:
    """``solvers.checkpoint.Checkpoints`` of one attempt at a job that is solved alone.

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
        """Writes a state and notes it on the job."""
        began = self._clock()
        self._saved_at_shutdown = self._stop.reason is StopReason.Shutdown
        try:
            self._write(state)
        except StaleAttempt as error:
            _log.warning("stale_attempt", error=str(error))
            self._stop.request(StopReason.Lost)
        except (IhvpError, OSError) as error:
            _log.warning("checkpoint_not_kept", error=str(error))
        self._next = self._clock() + max(self._interval_s, _SHARE * (self._clock() - began))

    def leave_aside(self, error: Exception) -> None:
        """Starts at the beginning, since the state did not fit."""
        _log.warning("checkpoint_left_aside", error=str(error))
        self.resume = None

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

    def _write(self, state: SolverState) -> None:
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
            superseded = self._store.checkpoint(self._job.id, self._job.attempt, blob.digest)
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
