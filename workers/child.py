"""The pool child: the one process of a worker that loads torch and solves."""

from __future__ import annotations

import gc
import importlib
import os
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import structlog

from ihvp.blobs.filesystem import FilesystemBlobStore
from ihvp.costs.redis_store import RedisCostStore
from ihvp.errors import IhvpError, JobNotFound, StoreUnavailable
from ihvp.factors.redis_index import RedisFactorIndex
from ihvp.jobs.redis_store import RedisJobStore
from ihvp.jobs.states import JobState
from ihvp.messages import AHEAD_S, CANARY
from ihvp.settings import Settings, let_waiting_threads_sleep
from ihvp.starting.alive import Pulse
from ihvp.tracing import Tracing, start_tracing
from workers.deafness import ParentWatch, Turns
from workers.load_limits import LoadWatch
from workers.shared_number import SharedNumber

if TYPE_CHECKING:
    from workers.execution import Executor
    from workers.tally import Tally

__all__ = ["WorkerChild"]

_log = structlog.get_logger(__name__)

_PATIENCE_S: Final = 5 * AHEAD_S
_PAUSE_S: Final = 0.001


class WorkerChild:
    """Everything that a pool child holds between jobs.

    A worker has one child at a time, and every child of a worker has the same owner name. So a new child
    knows that whoever held jobs under that name is dead, and takes them back at once instead of waiting
    for their leases to run out.

    Args:
        settings: The service's settings.
        owner: Name of the worker, made once in its parent process.
        shutting_down: Says whether the parent was told to end.
        wake: Publishes a token for a job id, for whichever worker is free.
        taking: Told this process's id once it may take jobs.
        turns: Told when it waits for a message and when not.
        parent: Says whether messages can come.
        wake_sender: Has a sender of webhooks look at the outbox.
        loads: Told what is loaded, for the parent to see.
    """

    def __init__(
        self,
        settings: Settings,
        owner: str,
        shutting_down: Callable[[], bool],
        wake: Callable[[str], None],
        taking: SharedNumber,
        turns: Turns,
        parent: ParentWatch,
        wake_sender: Callable[[], None],
        loads: LoadWatch,
    ) -> None:
        self._settings = settings
        self._owner = owner
        self._wake = wake
        self._taking = taking
        self._turns = turns
        self._parent = parent
        self._wake_sender = wake_sender
        self._loads = loads
        self._shutting_down = shutting_down
        self._store = RedisJobStore.from_settings(settings)
        self._executor: Executor | None = None
        self._tally: Tally | None = None
        self._tracing: Tracing | None = None
        self._predecessor_reclaimed = False
        self._closed = threading.Event()
        self._liveness = threading.Thread(target=self._stay_known, name="liveness", daemon=True)

    def start(self) -> None:
        """Takes back what a dead predecessor held, loads torch, and reports for work."""
        self._turns.shut()
        self._try_reclaim()
        self._executor = self._make_executor()
        self._turns.open()
        self._liveness.start()

    def run_next(self, sent_for: str) -> None:
        """Executes the best waiting job, with those that can be solved along, if there is one.

        Args:
            sent_for: The job that the message was sent for, which may be ahead of it.
        """
        with self._turns:
            self._run_next(sent_for)

    def _run_next(self, sent_for: str) -> None:
        if self._executor is None:
            # Celery logs an exception of start() and lets the child take tasks all the same.
            self.start()
        if self._executor is None or self._shutting_down() or not self._try_reclaim():
            return
        try:
            released = self._executor.run_next()
            give_up = time.monotonic() + _PATIENCE_S
            while not self._executor.found_one and time.monotonic() < give_up and self._may_come(sent_for):
                time.sleep(_PAUSE_S)
                released = self._executor.run_next()
        except StoreUnavailable as error:
            # The job stays queued; the reconciler wakes a worker for it once the store is back.
            _log.warning("claim_failed", error=str(error))
            return
        for job_id in released:
            self._publish(job_id)
        if self._executor.told_webhooks:
            self._announce_deliveries()

    def _may_come(self, job_id: str) -> bool:
        """Whether a job is still to be taken: not there yet, or there by now."""
        if job_id == CANARY or self._shutting_down():
            return False
        try:
            return self._store.standing(job_id).state is JobState.Queued
        except JobNotFound:
            return True

    def close(self) -> None:
        """Signs off."""
        self._closed.set()
        if self._liveness.is_alive():
            # Or its last sign of life could come after the sign-off.
            self._liveness.join(timeout=1.0)
        self._leave()

    def _leave(self) -> None:
        try:
            self._tell()
            self._store.worker_gone(self._owner)
        except IhvpError as error:
            _log.warning("sign_off_failed", error=str(error))
        if self._tracing is not None:
            self._tracing.close()

    def _make_executor(self) -> Executor:
        let_waiting_threads_sleep()
        # Imported here, after the predecessor's jobs are free: importing torch takes seconds, in which
        # another worker may have taken them.
        import torch

        from workers.execution import Executor
        from workers.rates import RateRecorder
        from workers.tally import Tally

        torch.set_num_threads(self._settings.threads_per_worker)
        blobs = FilesystemBlobStore.from_settings(self._settings)
        factors = RedisFactorIndex.from_settings(self._settings)
        rates = RateRecorder(RedisCostStore.from_settings(self._settings))
        threading.Thread(target=_import_forward_mode, name="forward-mode", daemon=True).start()
        self._tally = Tally()
        # torch's modules stay: to look through them takes the collector longer than a small solve.
        gc.collect()
        gc.freeze()
        self._tracing = start_tracing(self._settings, "ihvp-worker")
        return Executor(
            self._settings,
            self._store,
            blobs,
            self._owner,
            self._shutting_down,
            factors,
            rates,
            self._tally,
            self._tracing,
            self._loads,
        )

    def _try_reclaim(self) -> bool:
        """Reclaims the predecessor's jobs, once; never after this child has claimed one of its own."""
        if self._predecessor_reclaimed:
            return True
        try:
            reclaimed = self._store.reclaim_owner(self._owner, self._settings.max_attempts)
        except StoreUnavailable as error:
            _log.warning("reclaim_failed", error=str(error))
            return False
        self._predecessor_reclaimed = True
        self._taking.value = os.getpid()
        for job in reclaimed:
            _log.warning("reclaimed_after_worker_death", state=job.state.value, **job.named)
            if job.state is JobState.Queued:
                self._publish(job.job_id)
        return True

    def _publish(self, job_id: str) -> None:
        try:
            self._wake(job_id)
        except Exception as error:  # the broker being away costs time, not the job: the reconciler publishes
            _log.warning("wake_failed", job_id=job_id, error=str(error))

    def _tell(self) -> None:
        """Says that it lives, and what it has counted."""
        tally = self._tally
        self._store.worker_alive(self._owner, None if tally is None else tally.sign())
        if tally is not None:
            tally.told()

    def _announce_deliveries(self) -> None:
        try:
            self._wake_sender()
        except Exception as error:  # it looks by itself a moment later
            _log.warning("sender_not_woken", error=str(error))

    def _stay_known(self) -> None:
        pause, pulse = self._settings.worker_alive_s / 3, Pulse(self._settings)
        while True:
            pulse.beat()
            try:
                self._tell()
            except IhvpError as error:
                _log.warning("liveness_not_written", error=str(error))
            except Exception:  # a thread that dies in silence would make a live worker look dead
                _log.exception("liveness_failed")
            if self._turns.idle and not self._shutting_down() and self._parent.hangs():
                self._leave()
                self._parent.kill()
            if self._closed.wait(pause):
                return


def _import_forward_mode() -> None:
    """Imports what torch imports at its first use of forward mode: a second that no score should wait for."""
    try:
        importlib.import_module("torch._dynamo")
    except Exception:  # torch tries again where it is needed, and says why it cannot be had
        _log.exception("forward_mode_not_imported")
