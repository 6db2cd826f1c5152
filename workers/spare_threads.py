"""Threads that are used again: starting one takes as long as solving a small job does."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Final

__all__ = ["SpareThreads", "Work"]

_MOST_IDLE: Final = 4


class Work:
    """Something that a thread does meanwhile."""

    def __init__(self) -> None:
        self._done = threading.Event()

    def join(self, timeout_s: float) -> bool:
        """Waits for its end, at most so long; says whether it has come."""
        return self._done.wait(timeout_s)

    def _end(self) -> None:
        self._done.set()


class SpareThreads:
    """Runs work beside the caller, on threads that wait for more of it afterwards.

    They are daemons: work that hangs, with a store that does not answer, keeps no process from ending. So it is no
    ``ThreadPoolExecutor``, whose threads are waited for at exit.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[queue.SimpleQueue[tuple[Callable[[], None], str, Work]]] = []

    def run(self, work: Callable[[], None], name: str) -> Work:
        """Has the work done at once, by a thread of its own.

        Args:
            work: It has to take care of its own errors: they go to ``threading.excepthook``.
            name: Of the thread meanwhile.
        """
        begun = Work()
        with self._lock:
            inbox = self._idle.pop() if self._idle else None
        if inbox is None:
            inbox = queue.SimpleQueue()
            threading.Thread(target=self._serve, args=(inbox,), name=name, daemon=True).start()
        inbox.put((work, name, begun))
        return begun

    def _serve(self, inbox: queue.SimpleQueue[tuple[Callable[[], None], str, Work]]) -> None:
        this = threading.current_thread()
        while True:
            work, this.name, begun = inbox.get()
            try:
                work()
            except Exception as error:
                threading.excepthook(threading.ExceptHookArgs((type(error), error, error.__traceback__, this)))
            finally:
                begun._end()
            # What the work refers to, the models of a whole job, must not live on in an idle thread.
            del work, begun
            this.name = "spare"
            with self._lock:
                if len(self._idle) >= _MOST_IDLE:
                    return
                self._idle.append(inbox)
