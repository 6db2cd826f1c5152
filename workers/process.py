"""What a worker child arranges with the operating system."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

__all__ = ["die_with_parent"]

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent_pid: int) -> None:
    """Has the kernel kill this process when its parent dies; does nothing off Linux.

    A killed parent would otherwise leave a child that solves on, holds its job and no longer hears the broker.

    Args:
        parent_pid: The parent as it was before the fork.
    """
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent_pid:
        # It died between the fork and the call: the signal will never come.
        os._exit(1)
