"""What the numbers were measured on."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.contestants import CONTESTANTS

__all__ = ["describe_machine", "machine_line", "usable_cores"]

VERSIONS_OF = ("torch", "numpy", "pydvl", "curvlinops-for-pytorch", "linear_operator")
LIST_VERSIONS = (
    "import importlib.metadata as m, json, sys;"
    "print(json.dumps({d.metadata['Name']: d.version for d in m.distributions() if d.metadata['Name'].lower() in"
    " sys.argv[1:]}))"
)


def usable_cores() -> int:
    """Cores this process may use, all of which every contestant gets."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe_machine() -> dict[str, Any]:
    """Processor, memory, system, commit and versions, JSON-ready."""
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "processor": _processor(),
        "cores": usable_cores(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "torch": importlib.metadata.version("torch"),
        "commit": _first_line(["git", "rev-parse", "--short", "HEAD"]),
        "peers": {
            environment: _versions(environment)
            for environment in dict.fromkeys(c.environment for c in CONTESTANTS if c.environment and not c.missing())
        },
    }


def machine_line(machine: Mapping[str, Any]) -> str:
    """The machine in half a sentence, without the packages measured on it.

    Args:
        machine: See ``describe_machine``.
    """
    return (
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_bytes'] / 2**30:.0f} GiB, "
        f"{machine['system']}, Python {machine['python']}"
    )


def _versions(environment: str) -> dict[str, str]:
    contestant = next(c for c in CONTESTANTS if c.environment == environment)
    line = _first_line([str(contestant.python()), "-c", LIST_VERSIONS, *VERSIONS_OF])
    found: dict[str, str] = json.loads(line or "{}")
    return found


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    named = next((line.partition(":")[2].strip() for line in names if line.startswith("model name")), "")
    return named or platform.processor() or platform.machine()


def _first_line(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout.splitlines() or [""])[0]
