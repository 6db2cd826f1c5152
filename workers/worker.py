"""A Celery worker's two processes: the parent that listens, and the child that solves."""

from __future__ import annotations

import os
import signal
import socket
import uuid
from collections.abc import Collection
from types import FrameType
from typing import Any

import structlog
from celery import Celery, signals

from ihvp.errors import IhvpError
from ihvp.jobs.redis_store import RedisJobStore
from ihvp.jobs.store import JobStore
from ihvp.settings import Settings
from workers.broker import CANARY, SOLVE_TASK, publish_token, waiting_tokens, wake_sender
from workers.child import WorkerChild
from workers.deafness import DEAF_STATUS, ConsumerWatch, ParentWatch, Turns
from workers.load_limits import LOOK_S as LOAD_LOOK_S
from workers.load_limits import LoadOverseer, LoadWatch
from workers.logs import configure_logs
from workers.overseer import LOOK_S, Overseer
from workers.process import die_with_parent
from workers.shared_number import SharedNumber
from workers.stop import ShutdownFlag

__all__ = ["Worker"]

_LOOK_AFTER_CHILD_S = 0.5
_TICK_S = 0.5
# The parent serves the broker meanwhile.
_PARENT_TIMEOUT_S = 1.0

_log = structlog.get_logger(__name__)


class Worker:
    """Wires a worker into Celery's signals and registers its task.

    Made in the parent, before the pool forks: the child inherits the owner's name and the shared flag.
    Nothing here imports torch or the solvers; the child does, once it is forked.

    Args:
        app: The Celery application.
        settings: The service's settings.
    """

    def __init__(self, app: Celery, settings: Settings) -> None:
        self._app = app
        self._settings = settings
        self._parent_pid = os.getpid()
        self._shutdown = ShutdownFlag()
        self._taking = SharedNumber()
        self._ticks = SharedNumber()
        self._loads = LoadWatch()
        self._turns = Turns(SharedNumber())
        self._child: WorkerChild | None = None
        self.owner = f"{socket.gethostname()}/{uuid.uuid4().hex[:12]}"
        # Registered eagerly: a pool child looks its tasks up by name.
        app.task(name=SOLVE_TASK, ignore_result=True, shared=False, lazy=False)(self._solve)

    def connect(self) -> None:
        """Connects to the signals of this process's worker."""
        # Celery holds receivers weakly unless told otherwise.
        signals.setup_logging.connect(self._set_up_logging, weak=False)
        signals.worker_ready.connect(self._parent_ready, weak=False)
        signals.worker_shutting_down.connect(self._parent_shutting_down, weak=False)
        signals.worker_process_init.connect(self._child_started, weak=False)
        signals.worker_process_shutdown.connect(self._child_ending, weak=False)

    def _solve(self, job_id: str) -> None:
        """The task. Its job id is a hint that work waits; which job is taken is the store's to say."""
        if self._child is None:
            raise RuntimeError("the task runs only in a prefork pool's child: start with --pool prefork")
        self._child.run_next(job_id)

    def _set_up_logging(self, **_: Any) -> None:
        configure_logs(self._settings.log_level)

    def _parent_ready(self, sender: Any, **_: Any) -> None:
        # Celery replaces a dead child as soon as it hears of it, which for the first child it may not
        # (its exit was seen to go unheard once it had run a task); by itself it looks every 5 s.
        sender.hub.call_repeatedly(_LOOK_AFTER_CHILD_S, sender.pool.maintain_pool)
        store = RedisJobStore.from_settings(self._settings.with_patience(_PARENT_TIMEOUT_S))

        def children() -> Collection[int]:
            pids: Collection[int] = sender.pool.info["processes"]
            return pids

        overseer = Overseer(store, self.owner, self._settings.stop_grace_s, self._taking, children)
        sender.hub.call_repeatedly(min(LOOK_S, self._settings.stop_grace_s), overseer.look)
        loads = LoadOverseer(store, self._loads, self._taking, children)
        sender.hub.call_repeatedly(LOAD_LOOK_S, loads.look)
        consumer = ConsumerWatch(
            self._turns,
            lambda: waiting_tokens(self._app, self._settings.queue_name),
            self._settings.worker_alive_s,
        )
        sender.hub.call_repeatedly(self._settings.worker_alive_s / 3, self._end_if_deaf, consumer, store)
        sender.hub.call_repeatedly(_TICK_S, self._tick)
        # On SIGINT and SIGQUIT, Celery waits for running tasks before it sends worker_shutting_down.
        for number in (signal.SIGINT, signal.SIGQUIT):
            previous = signal.getsignal(number)

            def handle(received: int, frame: FrameType | None, previous: Any = previous) -> None:
                self._shutdown.set()
                if callable(previous):
                    previous(received, frame)

            signal.signal(number, handle)

    def _tick(self) -> None:
        self._ticks.value += 1

    def _end_if_deaf(self, consumer: ConsumerWatch, store: JobStore) -> None:
        if self._shutdown() or not consumer.is_deaf():
            return
        _log.error("consumer_deaf", queue=self._settings.queue_name, seconds=self._settings.worker_alive_s)
        try:
            store.worker_gone(self.owner)
        except IhvpError as error:
            _log.warning("sign_off_failed", error=str(error))
        # Not by a warm shutdown, which needs the very loop that is in doubt. The idle child dies with this process.
        os._exit(DEAF_STATUS)

    def _parent_shutting_down(self, **_: Any) -> None:
        self._shutdown.set()

    def _child_started(self, **_: Any) -> None:
        die_with_parent(self._parent_pid)
        parent = ParentWatch(self._parent_pid, self._ticks, self._broker_answers, self._settings.worker_alive_s)
        self._child = WorkerChild(
            self._settings,
            self.owner,
            self._shutdown,
            self._wake,
            self._taking,
            self._turns,
            parent,
            self._wake_sender,
            self._loads,
        )
        self._child.start()

    def _child_ending(self, **_: Any) -> None:
        if self._child is not None:
            self._child.close()

    def _broker_answers(self) -> bool:
        try:
            self._wake(CANARY)
        except Exception:  # Kombu lets errors of many libraries through
            return False
        return True

    def _wake(self, job_id: str) -> None:
        publish_token(self._app, job_id)

    def _wake_sender(self) -> None:
        wake_sender(self._app, self._settings.webhook_queue_name)
