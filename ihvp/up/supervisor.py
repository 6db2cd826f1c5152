"""Keeps the parts of the service running: starts them in order, restarts what dies, stops them in reverse order."""

from __future__ import annotations

import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Final

from ihvp.up.child import BoundedLog, start_child, stop_group

__all__ = ["Part", "Supervisor", "pause_before_restart"]

FIRST_PAUSE_S: Final = 0.25
LONGEST_PAUSE_S: Final = 4.0
# A part that ran this long is no longer in a crash loop.
SETTLED_S: Final = 30.0
STARTING_LOOK_S: Final = 0.1
RUNNING_LOOK_S: Final = 1.0
STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Say = Callable[[str], None]


@dataclass(frozen=True)
class Part:
    """One process of the service.

    Attributes:
        name: What messages call it.
        command: Makes its argument list, anew for each start.
        environment: Its environment.
        cwd: Its working directory.
        log: Where its output goes.
        pass_fds: File descriptors that it inherits.
        stage: Parts of a stage are stopped together, later stages first.
        grace_s: How long it may take to stop.
        is_up: Whether it serves; the parts after it are first started when it does.
    """

    name: str
    command: Callable[[], Sequence[str]]
    environment: Mapping[str, str]
    cwd: Path
    log: BoundedLog
    pass_fds: tuple[int, ...] = ()
    stage: int = 0
    grace_s: float = 1.0
    is_up: Callable[[], bool] | None = None


@dataclass
class _Kept:
    """A part and its present process."""

    part: Part
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    restart_at: float = 0.0
    failures: int = 0
    was_up: bool = field(default=False)

    def look(self, now: float, say: Say) -> None:
        """Notes a death; starts the process when its time has come."""
        if self.process is not None and (status := self.process.poll()) is not None:
            # Whatever it forked must not work beside its successor.
            stop_group(self.process, 0.0)
            self.process = None
            self.failures = 0 if now - self.started_at > SETTLED_S else self.failures + 1
            pause = pause_before_restart(self.failures)
            self.restart_at = now + pause
            when = f"in {pause:g} s" if pause else "now"
            say(f"{self.part.name} ended ({_how(status)}), restarting {when}. It said: {self.part.log.last_line()}")
        if self.process is None and now >= self.restart_at:
            self.start(now)
        self.part.log.trim()

    def start(self, now: float) -> None:
        """Starts the process."""
        with self.part.log.open(f"starting {self.part.name}") as log:
            self.process = start_child(
                self.part.command(),
                environment=self.part.environment,
                cwd=self.part.cwd,
                stdout=log,
                stderr=log,
                pass_fds=self.part.pass_fds,
            )
        self.started_at = now

    def serves(self) -> bool:
        """Whether the parts after it may be started."""
        if not self.was_up:
            self.was_up = self.part.is_up is None or self.part.is_up()
        return self.was_up


class Supervisor:
    """Runs parts until it is told to stop.

    Args:
        parts: In order of starting.
        say: Takes one line for the operator, when a part has died.
    """

    def __init__(self, parts: Sequence[Part], say: Say) -> None:
        self._kept = [_Kept(part) for part in parts]
        self._say = say
        self._stops = 0

    def run(self, is_ready: Callable[[], bool], on_ready: Callable[[], None]) -> None:
        """Starts all parts, calls ``on_ready`` once ``is_ready``, and returns when a signal has stopped everything."""
        ready = False
        with self._signals() as wakeups:
            try:
                while not self._stops:
                    started = self._look()
                    if started and not ready and is_ready():
                        ready = True
                        on_ready()
                    _sleep(wakeups, RUNNING_LOOK_S if ready else STARTING_LOOK_S)
            finally:
                self._stop_all()

    def _look(self) -> bool:
        for kept in self._kept:
            kept.look(time.monotonic(), self._say)
            if not kept.serves():
                return False
        return True

    def _stop_all(self) -> None:
        running = [kept for kept in self._kept if kept.process is not None]
        for stage in sorted({kept.part.stage for kept in running}, reverse=True):
            asked_at = time.monotonic()
            together = [(kept.process, kept.part) for kept in running if kept.part.stage == stage]
            for process, _ in together:
                if process is not None:
                    process.terminate()
            for process, part in together:
                # Whoever asks twice does not want to wait.
                left = part.grace_s - (time.monotonic() - asked_at) if self._stops < 2 else 0.0
                if process is not None:
                    stop_group(process, max(left, 0.0))

    @contextmanager
    def _signals(self) -> Iterator[socket.socket]:
        """Handles signals; the socket becomes readable with each, the death of a child included."""
        readable, writable = socket.socketpair()
        readable.setblocking(False)
        writable.setblocking(False)
        before = signal.set_wakeup_fd(writable.fileno(), warn_on_full_buffer=False)
        handlers = {number: signal.signal(number, self._on_stop) for number in STOP_SIGNALS}
        handlers[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda *_: None)
        try:
            yield readable
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(before)
            readable.close()
            writable.close()

    def _on_stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stops += 1


def pause_before_restart(failures: int) -> float:
    """Seconds to wait after this many deaths in a row: none at first, then longer, never long."""
    return 0.0 if failures <= 1 else min(FIRST_PAUSE_S * 2.0 ** min(failures - 2, 16), LONGEST_PAUSE_S)


def _sleep(wakeups: socket.socket, seconds: float) -> None:
    if select.select([wakeups], [], [], seconds)[0]:
        wakeups.recv(4096)


def _how(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"
