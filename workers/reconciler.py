"""Makes the job store and the world agree again: ``python -m workers.reconciler``.

Each round takes back jobs of lost workers, expires overdue ones, and publishes a wake-up token for every queued
job that has none; now and then it removes what is kept no longer. Several may run: a lock in the store lets one
work at a time, and since each step is one atomic change of the store, it may be killed anywhere.
"""

from __future__ import annotations

import itertools
import os
import secrets
import signal
import socket
import threading
import time
from types import FrameType
from typing import Final

import structlog
from celery import Celery

from ihvp.errors import IhvpError, JobNotFound, StoreUnavailable
from ihvp.jobs.redis_store import RedisJobStore
from ihvp.jobs.rules import canary_pause
from ihvp.jobs.states import JobState
from ihvp.jobs.store import JobFilter, JobStore
from ihvp.settings import Settings, get_settings
from ihvp.starting.alive import Pulse
from workers.broker import CANARY, make_celery, publish_token, waiting_tokens
from workers.logs import configure_logs
from workers.retention import Retention

__all__ = ["Reconciler", "main"]

ROLE: Final = "reconciler"
# Published in one round; after a flush of the broker under a long queue the rest follows in the next rounds.
TOKENS_A_ROUND: Final = 200
SWEEP_INTERVAL_S: Final = 60.0
# Rounds that its lock outlives, so that a leader which is merely slow keeps it.
LOCK_ROUNDS: Final = 5
SHORTEST_LOCK_S: Final = 2.0

_log = structlog.get_logger(__name__)


class Reconciler:
    """The rounds.

    Args:
        settings: The service's settings.
        jobs: The job store.
        retention: Removes what is kept no longer.
        broker: Publishes the tokens.
        sweep_interval_s: Least time between two sweeps of the retention.
    """

    def __init__(
        self,
        settings: Settings,
        jobs: JobStore,
        retention: Retention,
        broker: Celery,
        sweep_interval_s: float = SWEEP_INTERVAL_S,
    ) -> None:
        self._settings = settings
        self._jobs = jobs
        self._retention = retention
        self._broker = broker
        self._sweep_interval_s = sweep_interval_s
        self._holder = f"{socket.gethostname()}/{os.getpid()}/{secrets.token_hex(4)}"
        self._lock_s = max(SHORTEST_LOCK_S, LOCK_ROUNDS * settings.reconcile_interval_s)
        self._next_sweep = float("-inf")
        self._away: dict[str, str] = {}
        self._reclaim_from = float("-inf")

    @classmethod
    def from_settings(cls, settings: Settings, sweep_interval_s: float = SWEEP_INTERVAL_S) -> Reconciler:
        """A reconciler of the service that the settings describe."""
        jobs = RedisJobStore.from_settings(settings)
        return cls(settings, jobs, Retention.from_settings(settings, jobs), make_celery(settings), sweep_interval_s)

    def run(self, stop: threading.Event) -> None:
        """Rounds until told to stop; neither a store nor a broker that is away ends it."""
        pulse = Pulse(self._settings)
        while not stop.is_set():
            pulse.beat()
            try:
                self.round()
            except IhvpError as error:
                # Also a store that a newer version has written: it is left alone until an operator acts.
                self._note_away("store", error)
                # While the store was away nobody could renew: live workers get the time to do so first.
                self._reclaim_from = time.monotonic() + 2 * self._settings.lease_renew_s
            except Exception:
                # A fault in one step must not end all others for good.
                _log.exception("round_failed")
            else:
                self._note_back("store")
            stop.wait(self._settings.reconcile_interval_s)

    def round(self) -> bool:
        """One round; False where another reconciler leads.

        Raises:
            StoreUnavailable: The store is away.
            SetupError: Another version of ihvp wrote the store.
        """
        self._jobs.ping()
        if not self._jobs.acquire_leadership(ROLE, self._holder, self._lock_s):
            return False
        if time.monotonic() >= self._reclaim_from:
            for reclaimed in self._jobs.reclaim_lapsed(self._settings.max_attempts):
                _log.warning("worker_lost", state=reclaimed.state.value, **reclaimed.named)
        for job_id in self._jobs.expire_overdue():
            self._tell_expired(job_id)
        self._top_up_tokens()
        self._send_canary()
        if time.monotonic() >= self._next_sweep:
            self._next_sweep = time.monotonic() + self._sweep_interval_s
            self._sweep()
        return True

    def _tell_expired(self, job_id: str) -> None:
        try:
            _log.info("job_expired", **self._jobs.get(job_id).named)
        except JobNotFound:
            _log.info("job_expired", job_id=job_id)  # it was deleted since

    def _top_up_tokens(self) -> None:
        queued = self._jobs.queue_length()
        if queued == 0:
            return
        try:
            missing = min(queued - waiting_tokens(self._broker, self._settings.queue_name), TOKENS_A_ROUND)
            if missing > 0:
                # The ids are hints for the logs; what counts is the number of tokens.
                page = self._jobs.list(JobFilter(state=JobState.Queued), limit=min(missing, 20))
                ids = itertools.cycle(job.id for job in page.jobs)
                for job_id in itertools.islice(ids, missing):
                    publish_token(self._broker, job_id)
                _log.info("tokens_published", count=missing, queued=queued)
        except StoreUnavailable:
            raise
        except Exception as error:
            # Kombu lets errors of many libraries through; whichever it is, the next round tries again.
            self._note_away("broker", error)
        else:
            self._note_back("broker")

    def _send_canary(self) -> None:
        """Sends a message where it is not known that workers take them, and nobody else has."""
        fresh_s = self._settings.canary_s
        if not self._jobs.chain(self._settings.worker_alive_s, fresh_s, canary_pause(fresh_s)).send:
            return
        try:
            publish_token(self._broker, CANARY)
        except Exception as error:
            self._note_away("broker", error)

    def _sweep(self) -> None:
        removed = self._retention.sweep()
        if removed.more:
            self._next_sweep = time.monotonic()
        if removed:
            _log.info(
                "removed",
                results=removed.results,
                factors=removed.factors,
                blobs=removed.blobs,
                freed_bytes=removed.freed,
                unfinished=removed.unfinished,
            )

    def _note_away(self, what: str, error: Exception) -> None:
        if what not in self._away:
            _log.warning(f"{what}_away", reason=str(error))
        self._away[what] = str(error)

    def _note_back(self, what: str) -> None:
        if self._away.pop(what, None) is not None:
            _log.info(f"{what}_back")


def _end_on(signals: tuple[signal.Signals, ...], stop: threading.Event) -> None:
    def end(number: int, frame: FrameType | None) -> None:
        del number, frame
        stop.set()
        # Not only the flag: the round may be waiting for an answer of a silent server. It may be cut off anywhere.
        raise SystemExit(0)

    for each in signals:
        signal.signal(each, end)


def main() -> int:
    """Runs until SIGTERM or SIGINT.

    Returns:
        The exit status.
    """
    settings = get_settings()
    configure_logs(settings.log_level)
    stop = threading.Event()
    _end_on((signal.SIGTERM, signal.SIGINT), stop)
    reconciler = Reconciler.from_settings(settings)
    _log.info("reconciler_started", interval_s=settings.reconcile_interval_s)
    reconciler.run(stop)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
