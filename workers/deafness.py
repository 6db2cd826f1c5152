"""A worker that lives and hears nothing: noticed by that of its processes that can, and ended, to be started anew."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Final

import structlog

from workers.shared_number import SharedNumber

__all__ = ["DEAF_STATUS", "ConsumerWatch", "ParentWatch", "Turns"]

DEAF_STATUS: Final = 70
"""Exit status of a worker that ended itself since it heard no messages."""

_log = structlog.get_logger(__name__)


class Turns:
    """What the child does, as its parent sees it: nothing yet, idle, or at a message.

    Args:
        number: Zero while the child cannot take messages; even while it is idle, odd while it is not.
    """

    def __init__(self, number: SharedNumber) -> None:
        self._number = number

    def open(self) -> None:
        """The child is ready. Its count goes on from the time, so that it differs from a predecessor's."""
        self._number.value = 2 * (time.time_ns() // 1_000_000)

    def shut(self) -> None:
        """The child is not ready."""
        self._number.value = 0

    def __enter__(self) -> None:
        self._number.value |= 1

    def __exit__(self, *_: object) -> None:
        self._number.value += 1

    @property
    def idle(self) -> bool:
        """Whether the child waits for a message."""
        return self.count > 0 and self.count % 2 == 0

    @property
    def count(self) -> int:
        """Another number with each message."""
        return self._number.value


class ConsumerWatch:
    """In the parent: whether messages wait while the child does.

    Celery's consumer was seen to stay silent after a reconnect (celery#8030): the process lives, answers pings, and
    takes nothing from its queue.

    Args:
        turns: What the child does.
        waiting: How many messages wait in the queue; may raise.
        patience_s: For how long they may.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        turns: Turns,
        waiting: Callable[[], int],
        patience_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._turns = turns
        self._waiting = waiting
        self._patience_s = patience_s
        self._clock = clock
        self._count = 0
        self._since: float | None = None

    def is_deaf(self) -> bool:
        """Whether they have waited for so long."""
        count, idle = self._turns.count, self._turns.idle
        if not idle or count != self._count or not self._some_wait():
            self._count, self._since = count, None
            return False
        self._since = self._clock() if self._since is None else self._since
        return self._clock() - self._since >= self._patience_s

    def _some_wait(self) -> bool:
        try:
            return self._waiting() > 0
        except Exception as error:  # of whatever library: while the broker is away nobody hears it
            _log.debug("messages_not_counted", error=str(error))
            return False


class ParentWatch:
    """In the child: whether its parent still runs its event loop, without which no message comes.

    Args:
        parent: Process id of the parent.
        ticks: Grows while the parent's event loop runs.
        broker_answers: Whether the broker takes a message; while it does not, the parent waits for it.
        patience_s: For how long it may stand still.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        parent: int,
        ticks: SharedNumber,
        broker_answers: Callable[[], bool],
        patience_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._parent = parent
        self._ticks = ticks
        self._broker_answers = broker_answers
        self._patience_s = patience_s
        self._clock = clock
        self._seen = 0
        self._since = clock()

    def hangs(self) -> bool:
        """Whether it has stood still for so long, and nothing else explains it."""
        now, seen = self._clock(), self._ticks.value
        # Zero: it has not begun.
        if seen != self._seen or seen == 0:
            self._seen, self._since = seen, now
            return False
        if now - self._since < self._patience_s:
            return False
        if not self._broker_answers():
            self._since = now
            return False
        return True

    def kill(self) -> None:
        """Ends the parent, and with it this process: see ``die_with_parent``."""
        _log.error("parent_hangs", pid=self._parent, seconds=self._patience_s)
        # Not whoever adopted this process meanwhile.
        if os.getppid() == self._parent:
            os.kill(self._parent, signal.SIGKILL)
