"""How many cores this process may use: a container is often given fewer than the machine has."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Final

__all__ = ["usable_cores"]

GROUPS: Final = Path("/sys/fs/cgroup")


@lru_cache(maxsize=1)
def usable_cores(groups: Path = GROUPS) -> int:
    """The fewest of those of the machine, those this process may run on, and those its control group allows.

    Args:
        groups: Where the kernel shows the group's bounds.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    allowed = _allowed(groups)
    # More threads than that would be stopped for most of each period, all at once.
    return cores if allowed is None else max(1, min(cores, int(allowed)))


def _allowed(groups: Path) -> float | None:
    try:
        quota, period = (groups / "cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        try:
            quota, period = (
                (groups / "cpu" / f"cpu.cfs_{name}_us").read_text(encoding="ascii") for name in ("quota", "period")
            )
        except OSError:
            return None
    try:
        share = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):
        return None  # "max"
    return share if share > 0 else None
