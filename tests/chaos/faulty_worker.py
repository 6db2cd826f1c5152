"""A worker that a test can make die or freeze at a named step: ``celery -A tests.chaos.faulty_worker worker``.

The step is written into the file that ``CHAOS_ARMED`` names, as ``<action> <step>``; the first process that comes by
takes the file away and does it. The service's own code has no hooks: the steps are patched in the forked child.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.chaos.steps import AFTER_CLAIM, AFTER_END, BEFORE_BLOB, BEFORE_END, DURING_LOAD, MID_SOLVE
from workers import celery_app
from workers.child import WorkerChild

ARMED = Path(os.environ["CHAOS_ARMED"])
SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}

app = celery_app.app


def strike(step: str) -> None:
    """Does to this process what it is armed with, if it is for this step; once."""
    try:
        action, _, wanted = ARMED.read_text().partition(" ")
        if wanted != step:
            return
        ARMED.rename(ARMED.with_suffix(f".taken-{os.getpid()}"))
    except (FileNotFoundError, ValueError):
        return
    os.kill(os.getpid(), SIGNALS[action])


def fail_before(holder: Any, name: str, step: str) -> None:
    """Has the step come before a function."""
    original: Callable[..., Any] = getattr(holder, name)

    def struck(*args: Any, **kwargs: Any) -> Any:
        strike(step)
        return original(*args, **kwargs)

    setattr(holder, name, struck)


def patch() -> None:
    """Puts the steps where a worker's code passes."""
    import workers.finishing
    import workers.solving
    from ihvp.blobs.writing import FileBlobGroup
    from workers.lease import Lease
    from workers.member import Member
    from workers.progress import Trail

    fail_before(Lease, "__enter__", AFTER_CLAIM)
    fail_before(workers.solving, "load_model", DURING_LOAD)
    fail_before(Trail, "add", MID_SOLVE)
    fail_before(FileBlobGroup, "commit", BEFORE_BLOB)
    fail_before(workers.finishing, "end_together", BEFORE_END)
    fail_before(Member, "_ended", AFTER_END)


make_executor = WorkerChild._make_executor


def make_faulty_executor(child: WorkerChild) -> Any:
    patch()
    return make_executor(child)


WorkerChild._make_executor = make_faulty_executor  # type: ignore[method-assign]
