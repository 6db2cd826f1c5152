"""What a worker counts of its work, until its next sign of life takes it to the store."""

from __future__ import annotations

import os
import secrets
import threading
from pathlib import Path
from typing import Final

import torch

from ihvp.jobs.counts import Counts, SignOfLife

__all__ = ["Tally"]

_STATM: Final = Path("/proc/self/statm")


class Tally:
    """Counts since the last sign of life; threads share it.

    A sign that could not be written, or of which nobody knows whether it was, is told again under the same mark, so
    that the store takes it over once. What a killed process had not told yet is lost: at most five seconds of it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = Counts()
        self._gauges: dict[str, float] = {}
        self._untold: SignOfLife | None = None

    def add(self, family: str, *labels: str, by: float = 1) -> None:
        """Raises a count; see ``ihvp.jobs.counts.FAMILIES``."""
        with self._lock:
            self._counts.add(family, *labels, by=by)

    def observe(self, family: str, *labels: str, value: float) -> None:
        """Counts a value in its bucket."""
        with self._lock:
            self._counts.observe(family, *labels, value=value)

    def gauge(self, name: str, value: float) -> None:
        """Notes how something stands."""
        with self._lock:
            self._gauges[name] = value

    def sign(self) -> SignOfLife:
        """What to tell now; ``told`` has to follow once the store has taken it."""
        gauges = _of_process()
        with self._lock:
            if self._untold is None:
                self._untold = SignOfLife(secrets.token_hex(8), self._counts.fields)
                self._counts = Counts()
            return SignOfLife(self._untold.mark, self._untold.counts, {**self._gauges, **gauges})

    def told(self) -> None:
        """The store has taken the last sign."""
        with self._lock:
            self._untold = None


def _of_process() -> dict[str, float]:
    found: dict[str, float] = {}
    if _STATM.exists():  # on Linux
        found["resident_bytes"] = float(int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
    # Asked only of a process that solves on a GPU: asking makes a context of hundreds of megabytes there.
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        free, total = torch.cuda.mem_get_info()
        found["gpu_memory_used_bytes"] = float(total - free)
        found["gpu_memory_total_bytes"] = float(total)
        found["gpu_memory_reserved_bytes"] = float(torch.cuda.memory_reserved())
    return found
