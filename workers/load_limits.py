"""Limits on the loading of a model, held by the worker's parent: the child may be past hearing of them.

What is loaded runs code of plug-ins and libraries, which may sleep for ever, hold the interpreter, or take memory
until the kernel ends whatever it chooses. The child says in shared memory what it loads and by when; the parent looks,
stops the child where it is past its limit, ends its jobs with an error that says so, and kills it.
"""

from __future__ import annotations

import json
import mmap
import os
import signal
import struct
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import structlog

from ihvp.errors import IhvpError, ModelLoadTimeout, ModelTooLarge, StoreUnavailable
from ihvp.jobs.record import JobError
from ihvp.jobs.states import JobState
from ihvp.jobs.store import Finish, JobStore
from workers.shared_number import SharedNumber

__all__ = ["LOOK_S", "MORE_MEMORY", "Load", "LoadOverseer", "LoadWatch", "taken_bytes"]

LOOK_S: Final = 0.2
"""Pause between two looks of the parent: memory fills by gigabytes a second."""
MORE_MEMORY: Final = "Use workers with more memory, or fewer of them on a machine; an operator sets IHVP_LOAD_MEMORY."
"""What to do about a model that is too large, by its headers or as it is loaded."""
_PAUSE_AFTER_OUTAGE_S: Final = 2.0
_ROOM: Final = 1 << 20
_LENGTH: Final = struct.Struct("=q")
# Of memory that no file stands behind: mapped weights are read from the disk again where memory is short.
_TAKEN: Final = ("RssAnon:", "VmSwap:")

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Load:
    """A model that is being loaded.

    Attributes:
        pid: The process that does it.
        until: When it has to be done, by ``time.monotonic()``, which all processes of a machine share.
        seconds: How long it may take altogether.
        before: Bytes that the process had taken when it began; None where that cannot be known.
        room: Bytes that it may take beyond these; None without a limit.
        jobs: What it is loaded for: ids and attempts.
    """

    pid: int
    until: float
    seconds: float
    before: int | None
    room: int | None
    jobs: Sequence[tuple[str, int]]

    def excess(self) -> IhvpError | None:
        """The limit that it is past, if it is."""
        if time.monotonic() > self.until:
            return ModelLoadTimeout(
                "The model and its data were not loaded in time.",
                allowed=f"{self.seconds:g} s, without the time to fetch files",
                hint="Where the model is merely large, an operator can raise IHVP_LOAD_S.",
            )
        if self.room is None or self.before is None:
            return None
        taken = taken_bytes(self.pid)
        if taken is None or taken - self.before <= self.room:
            return None
        return ModelTooLarge(
            "Loading the model and its data took more memory than it may.",
            given=f"{taken - self.before} bytes, and it went on",
            allowed=f"{self.room} bytes",
            hint=MORE_MEMORY,
        )


class LoadWatch:
    """What a worker's child loads now; made before the fork, written by the child, read by the parent.

    Plain shared memory, as ``SharedNumber`` is and for the same reason.
    """

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _ROOM)

    @contextmanager
    def during(self, jobs: Sequence[tuple[str, int]], seconds: float, room: int | None) -> Iterator[None]:
        """Says that this process loads something for these jobs, and when it has done so."""
        pid = os.getpid()
        load = Load(pid, time.monotonic() + seconds, seconds, taken_bytes(pid), room, jobs)
        text = json.dumps(asdict(load)).encode()
        if _LENGTH.size + len(text) > _ROOM:
            # More jobs than the parent can be told of; those go back to the queue should it kill.
            text = json.dumps(asdict(load) | {"jobs": jobs[:1000]}).encode()
        self._memory[_LENGTH.size : _LENGTH.size + len(text)] = text
        # Last: from now on it is read.
        _LENGTH.pack_into(self._memory, 0, len(text))
        try:
            yield
        finally:
            self.clear()

    def clear(self) -> None:
        """Nothing is loaded."""
        _LENGTH.pack_into(self._memory, 0, 0)

    def now(self) -> Load | None:
        """What is loaded; None where nothing is."""
        (length,) = _LENGTH.unpack_from(self._memory)
        if not length:
            return None
        try:
            told = json.loads(self._memory[_LENGTH.size : _LENGTH.size + length])
        except ValueError:  # it is being written: this load was over, and the next one begins
            return None
        return Load(**told | {"jobs": [(job_id, attempt) for job_id, attempt in told["jobs"]]})


class LoadOverseer:
    """Ends loads that are past their limits; works in the parent, on the event loop's timer.

    The child is stopped first, so that it neither takes more memory nor another job. Then its jobs are ended, and only
    then it is killed: its successor finds nothing of it to take back, and no loss is counted.

    Args:
        store: The job store, with little patience.
        watch: What the child says.
        child: The process id of the child that takes jobs.
        children: The process ids of the pool.
    """

    def __init__(
        self, store: JobStore, watch: LoadWatch, child: SharedNumber, children: Callable[[], Collection[int]]
    ) -> None:
        self._store = store
        self._watch = watch
        self._child = child
        self._children = children
        self._sentence: tuple[Load, IhvpError] | None = None
        self._not_before = float("-inf")

    def look(self) -> None:
        """Stops, ends and kills what is past its limit."""
        if time.monotonic() < self._not_before:
            return
        if self._sentence is None:
            load = self._watch.now()
            error = None if load is None else load.excess()
            if load is None or error is None:
                return
            if load.pid not in self._children():
                self._watch.clear()
                return
            os.kill(load.pid, signal.SIGSTOP)
            if self._watch.now() != load:  # it was done in the last moment
                os.kill(load.pid, signal.SIGCONT)
                return
            self._sentence = load, error
        load, error = self._sentence
        try:
            self._end(load, error)
        except StoreUnavailable as away:
            _log.warning("load_not_ended", error=str(away))
            self._not_before = time.monotonic() + _PAUSE_AFTER_OUTAGE_S
            return
        self._sentence = None
        self._watch.clear()
        self._child.value = 0
        if load.pid in self._children():
            os.kill(load.pid, signal.SIGKILL)

    def _end(self, load: Load, error: IhvpError) -> None:
        told = JobError(**error.as_dict())
        refusals = self._store.finish_all([Finish(*job, JobState.Failed, error=told) for job in load.jobs])
        for (job_id, _), refusal in zip(load.jobs, refusals, strict=True):
            _log.warning(
                "load_ended",
                code=error.code,
                pid=load.pid,
                job_id=job_id,
                refused=None if refusal is None else str(refusal),
            )


def taken_bytes(pid: int) -> int | None:
    """Memory of a process that no file stands behind, in bytes; None where the platform does not say."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith(_TAKEN)]
    return sum(found) if found else None
