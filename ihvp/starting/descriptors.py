"""How many files a process may have open."""

from __future__ import annotations

import resource
from contextlib import suppress

__all__ = ["allow_descriptors"]


def allow_descriptors() -> None:
    """Lets this process and what it becomes open as many files as it may allow itself.

    The usual 1024 are for programs that use ``select``. The API holds one for each event stream and long poll.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        # macOS says that there is no bound, and has one.
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
