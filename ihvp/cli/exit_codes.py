"""What the exit status of a command means."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from ihvp import errors as e
from ihvp.errors import IhvpError

__all__ = ["ExitCode", "exit_code_of"]


class ExitCode(IntEnum):
    """Exit status of every command."""

    Ok = 0
    Failed = 1
    InvalidInput = 2
    NotFound = 3
    Unavailable = 4
    Timeout = 5
    NotConverged = 6
    Interrupted = 130


# The most specific class decides.
_OF: Final[dict[type[IhvpError], ExitCode]] = {
    IhvpError: ExitCode.Failed,
    e.InvalidInput: ExitCode.InvalidInput,
    e.BodyTooLarge: ExitCode.InvalidInput,
    e.SetupError: ExitCode.InvalidInput,
    e.NotFound: ExitCode.NotFound,
    e.Gone: ExitCode.NotFound,
    e.Unavailable: ExitCode.Unavailable,
    e.ServiceUnreachable: ExitCode.Unavailable,
    e.WaitTimeout: ExitCode.Timeout,
}


def exit_code_of(error: IhvpError) -> ExitCode:
    """The exit status that tells a script about this error."""
    return next(_OF[kind] for kind in type(error).__mro__ if kind in _OF)
