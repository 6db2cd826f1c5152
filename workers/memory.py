"""How much memory an attempt may plan for, how much is free, and what would fit that."""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ihvp.costs.model import work_of
from ihvp.costs.workload import Task, Workload
from ihvp.methods import InversionMethod

__all__ = ["MemoryBudget", "free_bytes", "most_columns"]

_CGROUP = Path("/sys/fs/cgroup")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass
class MemoryBudget:
    """What a solve may plan for: all of it at first, and half as much after each time that it was too much.

    Attributes:
        full: Bytes, as the operator has set them.
        losses: Workers that died on the job before: nobody can tell whether the kernel killed them for want of memory.
        shortages: Where memory ran out in this attempt, in words.
    """

    full: int
    losses: int = 0
    shortages: list[str] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """What may be planned for now."""
        return max(1, self.full >> (self.losses + len(self.shortages)))

    @property
    def reduced(self) -> bool:
        """Whether that is less than all of it."""
        return self.bytes < self.full

    def reduce(self, where: str) -> bool:
        """Halves it, once in an attempt; False where it was halved before."""
        if self.shortages:
            return False
        self.shortages.append(where)
        return True

    def told(self) -> dict[str, Any] | None:
        """What the result says of it; None where there is nothing to say."""
        if not self.reduced:
            return None
        return {
            "budget": self.bytes,
            "instead_of": self.full,
            "workers_lost": self.losses,
            "out_of_memory": list(self.shortages),
        }


def free_bytes(device: torch.device) -> int:
    """Bytes that could be had now: of the device's memory, or what machine, container and process limits leave."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return int(torch.cuda.mem_get_info(device)[0])
    found = [_machine(), _container(), _process()]
    return max(0, min((each for each in found if each is not None), default=0))


def _machine() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return os.sysconf("SC_AVPHYS_PAGES") * _PAGE if "SC_AVPHYS_PAGES" in os.sysconf_names else None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _container() -> int | None:
    try:
        limit, used, parts = (
            (_CGROUP / name).read_text().strip() for name in ("memory.max", "memory.current", "memory.stat")
        )
    except OSError:
        return None
    # Pages of files that nobody has used lately count as used, and are given up for whoever needs memory.
    idle = dict(line.split() for line in parts.splitlines()).get("inactive_file", "0")
    return None if limit == "max" else int(limit) - int(used) + int(idle)


def _process() -> int | None:
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return None
    try:
        held = int(Path("/proc/self/statm").read_text().split()[0]) * _PAGE
    except OSError:
        return None
    return limit - held


def most_columns(workload: Workload, method: InversionMethod, options: dict[str, Any], free: int) -> int:
    """How many right-hand sides of a workload fit so many bytes by this method; 0 where not even one does."""
    task = Task.of(method, options, workload.dtype)
    low, high = 0, workload.columns
    while low < high:
        middle = (low + high + 1) // 2
        if work_of(replace(workload, columns=middle), task).certain_bytes <= free:
            low = middle
        else:
            high = middle - 1
    return low
