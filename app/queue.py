"""Wakes workers: the only Celery in the API, and it only produces.

The job store holds the truth and workers claim from it; a message is a hint that carries a job id. So a broker
that is away costs no job and no time: the message is dropped and the reconciler publishes it again.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import structlog

from ihvp.messages import AHEAD_S, CANARY, SOLVE_TASK, transport_options

if TYPE_CHECKING:
    from celery import Celery

    from ihvp.settings import Settings

__all__ = ["CANARY", "SOLVE_TASK", "WorkerWaker"]

BROKER_TIMEOUT_S: Final = 1.0
PAUSE_AFTER_FAILURE_S: Final = 1.0
# Kombu waits two seconds before it tries a connection again, unless it is told not to.
AT_ONCE: Final = {"max_retries": 1, "interval_start": 0.0, "interval_step": 0.0, "interval_max": 0.0}


class WorkerWaker:
    """Publishes job ids to Celery from a thread of its own.

    Args:
        settings: Has the broker's URL and the queue's name.
    """

    def __init__(self, settings: Settings) -> None:
        self._queue_name = settings.queue_name
        self._broker_url = settings.resolved_broker_url
        # One thread: Celery's producer keeps one connection, and order costs nothing.
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="wake-workers")
        self._app: Celery | None = None
        self._away_until = 0.0
        self._log = structlog.get_logger("app.queue")

    def wake(self, job_id: str) -> None:
        """Publishes the job's id soon; returns at once and never fails."""
        self._executor.submit(self._publish, job_id)

    @asynccontextmanager
    async def waking(self, job_id: str) -> AsyncIterator[None]:
        """Publishes the id of a job that the block puts into the store.

        The message is on its way for as long as the job is, so it is sent ahead of it; where the store takes its time,
        once more after it, for by then workers have come in vain. It does no harm where the job is not made.
        """
        began = time.monotonic()
        self.wake(job_id)
        yield
        if time.monotonic() - began > AHEAD_S:
            self.wake(job_id)

    def check(self) -> str:
        """``ok``, or what is wrong with the broker; blocks for at most two timeouts."""
        return self._executor.submit(self._check).result(timeout=2 * BROKER_TIMEOUT_S)

    def close(self) -> None:
        """Publishes what is under way and closes the connection."""
        self._executor.submit(self._disconnect)
        self._executor.shutdown(wait=True)

    def _publish(self, job_id: str) -> None:
        if time.monotonic() < self._away_until:
            return  # the reconciler publishes it; waiting out a timeout for each job would only pile them up
        try:
            self._celery().send_task(
                SOLVE_TASK, args=[job_id], queue=self._queue_name, ignore_result=True, retry=False
            )
        except Exception as error:
            self._away_until = time.monotonic() + PAUSE_AFTER_FAILURE_S
            self._log.warning("broker away, the reconciler will publish", job_id=job_id, reason=str(error))

    def _check(self) -> str:
        try:
            with self._celery().connection_for_write() as connection:
                connection.ensure_connection(**AT_ONCE)
        except Exception as error:
            return f"away: {error}"[:200]
        return "ok"

    def _disconnect(self) -> None:
        if self._app is not None:
            self._app.close()

    def _celery(self) -> Celery:
        if self._app is None:
            # Here, in the thread, the import does not delay the first request.
            from celery import Celery

            self._app = Celery("ihvp-api", broker=self._broker_url, set_as_current=False)
            self._app.conf.update(
                task_ignore_result=True,
                broker_connection_timeout=BROKER_TIMEOUT_S,
                broker_transport_options={
                    **transport_options(BROKER_TIMEOUT_S),
                    **AT_ONCE,
                },
            )
        return self._app
