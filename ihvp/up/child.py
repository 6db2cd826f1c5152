"""A process that cannot outlive the one that started it, with everything it says in one bounded log."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Final

__all__ = ["BoundedLog", "start_child", "stop_group"]

PR_SET_PDEATHSIG: Final = 1
LOG_BYTES: Final = 16 * 1024 * 1024
LAST_WORDS_BYTES: Final = 4096
LAST_WORDS: Final = 200


class BoundedLog:
    """A log file that a child appends to and that never grows far past a bound; the part before it is kept once.

    Args:
        path: The file; its folder is made.
        limit: Bytes after which it is put aside as ``<name>.1``.
    """

    def __init__(self, path: Path, limit: int = LOG_BYTES) -> None:
        self.path = path
        self._limit = limit
        path.parent.mkdir(parents=True, exist_ok=True)

    def open(self, why: str) -> IO[bytes]:
        """The file for appending, with a line that says what begins."""
        file = self.path.open("ab")
        file.write(f"--- {datetime.now(UTC).isoformat(timespec='seconds')} {why}\n".encode())
        file.flush()
        return file

    def last_line(self) -> str:
        """The last words in the log, and where it is."""
        try:
            with self.path.open("rb") as file:
                file.seek(max(0, self.path.stat().st_size - LAST_WORDS_BYTES))
                lines = file.read().decode(errors="replace").split("\n")
        except OSError:
            lines = []
        said = next((line.strip() for line in reversed(lines) if line.strip()), "nothing")
        return f"{said[:LAST_WORDS]} ({self.path})"

    def trim(self) -> None:
        """Puts the log aside if it has reached its bound."""
        with suppress(OSError):
            if self.path.stat().st_size > self._limit:
                # The child holds the file open and appends, so the name stays and the content goes.
                shutil.copyfile(self.path, self.path.with_name(self.path.name + ".1"))
                os.truncate(self.path, 0)


def start_child(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    cwd: Path | None = None,
    stdout: int | IO[bytes] | None = None,
    stderr: int | IO[bytes] | None = None,
    pass_fds: Sequence[int] = (),
    death_signal: signal.Signals = signal.SIGKILL,
) -> subprocess.Popen[bytes]:
    """Starts a process in a group of its own, so that Ctrl-C reaches only its parent.

    On Linux the kernel sends it ``death_signal`` when this process dies, however it dies. Call it from the main
    thread: the kernel means the thread that started the child.
    """
    return subprocess.Popen(
        list(command),
        env=dict(environment),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        pass_fds=tuple(pass_fds),
        process_group=0,
        preexec_fn=_tie_to_parent(death_signal),
    )


def stop_group(process: subprocess.Popen[bytes], grace_s: float) -> None:
    """Asks a child to end, waits, and kills what is left of its group."""
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(grace_s)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _tie_to_parent(death_signal: signal.Signals) -> Callable[[], None] | None:
    if not sys.platform.startswith("linux"):
        return None
    # Loaded before the fork: in the child nothing may take a lock.
    libc = ctypes.CDLL(None, use_errno=True)
    parent = os.getpid()
    number = int(death_signal)

    def tie() -> None:
        libc.prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)
        if os.getppid() != parent:  # it died in between, and no signal will come
            os._exit(1)

    return tie
