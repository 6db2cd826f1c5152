"""Loading as a worker's child does it: within limits that its parent holds, and without a network."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Final, TypeVar

import structlog
import torch

from ihvp.settings import Settings
from workers.closed_network import can_be_closed, run_closed
from workers.load_limits import LoadWatch
from workers.memory import free_bytes

__all__ = ["Loading"]

ResultT = TypeVar("ResultT")

_SHARE: Final = 0.9
"""Of the free memory, what a load may take where no limit is set: past it the kernel would choose whom to kill."""

_log = structlog.get_logger(__name__)


class Loading:
    """Runs loads.

    Args:
        settings: The limits.
        watch: Where the worker's parent sees what is loaded; without it nobody holds the limits.
    """

    def __init__(self, settings: Settings, watch: LoadWatch | None = None) -> None:
        self._settings = settings
        self._watch = watch
        if settings.load_network:
            return
        if not can_be_closed():
            _log.warning("network_open_to_loads", why="this platform has no filter that closes it to one thread")
        if settings.source_buckets:
            _start_fsspec()

    def run(self, jobs: Sequence[tuple[str, int]], load: Callable[[int | None], ResultT]) -> ResultT:
        """Loads something for these jobs.

        Args:
            jobs: Ids and attempts: the parent ends them where a limit is passed, and this process with them.
            load: Given the bytes that it may take, None where nobody knows. It must not reach store or broker, nor
                anything else by network.

        Raises:
            NetworkClosed: It has failed for want of a connection.
        """
        room = self._settings.load_memory
        if room is None and (free := free_bytes(torch.device("cpu"))):
            room = int(_SHARE * free)
        watched = nullcontext() if self._watch is None else self._watch.during(jobs, self._settings.load_s, room)
        with watched:
            return load(room) if self._settings.load_network else run_closed(lambda: load(room))


def _start_fsspec() -> None:
    """Starts the one thread in which fsspec does its work: one that a load started would never have a network."""
    try:
        asyn = importlib.import_module("fsspec.asyn")
    except ImportError:  # then no bucket can be read either
        return
    asyn.get_loop()
