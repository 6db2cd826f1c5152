"""A thread that can open no connection: what a model's own code runs in while it is loaded.

A seccomp filter holds for the thread that installs it and for those that it starts, and can never be taken off. So
the work is done by a thread that is made for it and ends with it; the worker's other threads, which keep its leases,
are as they were. It needs Linux and no privileges.

This keeps what is loaded from fetching things by itself. It is no wall against code that means harm: that shares a
process with threads that have the network.
"""

from __future__ import annotations

import contextvars
import ctypes
import errno
import platform
import socket
import sys
import threading
from collections.abc import Callable
from functools import cache
from typing import Final, TypeVar

from ihvp.errors import NetworkClosed

__all__ = ["can_be_closed", "run_closed", "was_refused"]

ResultT = TypeVar("ResultT")

REFUSED: Final = errno.ENETDOWN
"""What a socket is refused with: no other call of a thread like this fails so."""

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_LOAD, _IF_EQUAL, _IF_AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW: Final = 0x7FFF0000
_FAIL: Final = 0x00050000
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16
_OTHER_ABI: Final = 0x40000000
# The name of the machine, its number in audit records, and its number of socket(2).
_MACHINES: Final = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}
# The same on all machines. A ring makes sockets too, past any filter.
_IO_URING_SETUP: Final = 425


def run_closed(work: Callable[[], ResultT]) -> ResultT:
    """Does the work in a thread of its own that can make no socket but local ones, and waits for it.

    Where the platform cannot close the network, the thread has it open; see ``can_be_closed``.

    Raises:
        NetworkClosed: The work has failed for want of a connection.
    """
    results: list[ResultT] = []
    errors: list[BaseException] = []
    close = can_be_closed()

    def run() -> None:
        try:
            if close:
                _close()
            results.append(work())
        except BaseException as error:
            errors.append(error)

    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(run,), name="loading", daemon=True)
    thread.start()
    thread.join()
    if not errors:
        return results.pop()
    error = errors.pop()
    try:
        if close and was_refused(error):
            raise NetworkClosed(
                "Loading the model needed the network, which is closed to it.",
                given=(str(error).splitlines() or [""])[0][:300],
                allowed="files that the spec refers to, which are fetched before",
                hint="Put what the architecture needs into its package or the weights; IHVP_LOAD_NETWORK opens the "
                "network to models that are loaded.",
            ) from error
        raise error
    finally:
        # It refers to this frame, which must not keep it with all that its own frames hold.
        del error


@cache
def can_be_closed() -> bool:
    """Whether it works here: tried once, in a thread that ends."""
    found: list[bool] = []

    def attempt() -> None:
        try:
            _close()
            socket.socket(socket.AF_INET, socket.SOCK_STREAM).close()
        except OSError as error:
            found.append(error.errno == REFUSED)

    thread = threading.Thread(target=attempt, name="network-check", daemon=True)
    thread.start()
    thread.join()
    return found == [True]


def was_refused(error: BaseException) -> bool:
    """Whether an error comes of a socket that the filter has refused, or of a name that could not be looked up."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        each = waiting.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, socket.gaierror) or (isinstance(each, OSError) and each.errno == REFUSED):
            return True
        # Libraries of HTTP wrap errors in errors, not all of them as causes.
        held = [*each.args, getattr(each, "reason", None)]
        waiting += [each.__cause__, each.__context__, *(one for one in held if isinstance(one, BaseException))]
    return False


class _Instruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_ushort), ("yes", ctypes.c_ubyte), ("no", ctypes.c_ubyte), ("k", ctypes.c_uint))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.POINTER(_Instruction)))


def _close() -> None:
    """Installs the filter for the calling thread.

    Raises:
        OSError: The platform has none, or does not allow it.
    """
    if not sys.platform.startswith("linux") or platform.machine() not in _MACHINES:
        raise OSError(errno.ENOSYS, "no filter for this platform")
    audit, socket_call = _MACHINES[platform.machine()]
    # Jumps are relative to the next instruction.
    steps = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_IF_EQUAL, 0, 8, audit),  # calls by another machine's numbers are none that this program makes
        (_LOAD, 0, 0, _NUMBER),
        (_IF_AT_LEAST, 6, 0, _OTHER_ABI),
        (_IF_EQUAL, 6, 0, _IO_URING_SETUP),
        (_IF_EQUAL, 0, 3, socket_call),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_IF_EQUAL, 1, 0, int(socket.AF_UNIX)),
        (_IF_EQUAL, 0, 1, int(socket.AF_NETLINK)),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _FAIL | REFUSED),
        (_RETURN, 0, 0, _FAIL | errno.ENOSYS),
    ]
    instructions = (_Instruction * len(steps))(*(_Instruction(*step) for step in steps))
    program = _Program(len(steps), ctypes.cast(instructions, ctypes.POINTER(_Instruction)))
    libc = ctypes.CDLL(None, use_errno=True)
    zero = ctypes.c_ulong(0)
    # Without it the kernel takes filters of root alone. It too holds for this thread and those that it starts.
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), zero, zero, zero) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_NO_NEW_PRIVS) failed")
    if libc.prctl(_PR_SET_SECCOMP, ctypes.c_ulong(_SECCOMP_MODE_FILTER), ctypes.byref(program), zero, zero) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_SECCOMP) failed")
