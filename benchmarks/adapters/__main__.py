"""Serves one contestant: imports it once, then forks a fresh process for every job, a line of JSON on stdin.

So no import is in any time, and no solve profits from another one's. What a solve imports on its way is imported here
as well, and the solve is run again. Answers a line when a job has ended.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

from benchmarks.adapters.contestant import Adapter, run_job

BEYOND_LIMIT = 30.0
"""Seconds that a solve may take to notice its limit: one long operation cannot be interrupted from Python."""


def serve(name: str) -> None:
    """Answers jobs for ``benchmarks.adapters.<name>`` until stdin ends."""
    warnings.simplefilter("ignore")
    adapter = importlib.import_module(f"benchmarks.adapters.{name}").make_solver
    print("ready", flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        _run_forked(adapter, job)
        if _imports_of(job):
            _run_forked(adapter, job)
        print("done", flush=True)


def _run_forked(adapter: Adapter, job: dict[str, Any]) -> None:
    child = os.fork()
    if child == 0:
        try:
            run_job(adapter, job)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _wait(child, time.monotonic() + 2 * job["limit"] + BEYOND_LIMIT)


def _imports_of(job: dict[str, Any]) -> bool:
    """Imports what the job's solves imported on their way; whether there was anything."""
    report = Path(job["out"]) / "report.json"
    if not report.exists():
        return False
    before = len(sys.modules)
    for name in json.loads(report.read_text(encoding="utf-8"))["imported"]:
        # A module that is only made inside of another's import cannot be imported by its name.
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    return len(sys.modules) > before


def _wait(child: int, deadline: float) -> None:
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return
        time.sleep(0.01)


if __name__ == "__main__":
    serve(sys.argv[1])
