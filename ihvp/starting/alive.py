"""A file that a process touches each time its loop turns: how another tells that it does not hang.

It says nothing of the store, on purpose: a process whose store is away waits for it, and to restart it helps nobody.
"""

from __future__ import annotations

import os
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from ihvp.errors import SetupError
from ihvp.settings import Settings
from ihvp.starting.roles import Role

__all__ = ["Pulse", "alive_file", "begin", "patience_s", "silent_s"]

_TURNS: Final = 10
_MARGIN: Final = 4


class Pulse:
    """Touches the file that the settings name; does nothing where they name none.

    Args:
        settings: ``IHVP_ALIVE_FILE``.
    """

    def __init__(self, settings: Settings) -> None:
        self._path = settings.alive_file

    def beat(self) -> None:
        """Says that the process lives."""
        if self._path is not None:
            # A folder that is full or gone must not end the work; it shows in that the process looks dead.
            with suppress(OSError):
                self._path.touch()


def alive_file(settings: Settings, role: Role) -> Path:
    """The file of the one part of this role here."""
    if settings.alive_file is not None:
        return settings.alive_file.absolute()
    # Users may share the folder for temporary files.
    return Path(tempfile.gettempdir()) / f"{settings.namespace}-{role.value}-{os.getuid()}.alive"


def begin(path: Path) -> None:
    """Makes the file, so that the process has its first beat when it starts.

    Raises:
        SetupError: It cannot be made.
    """
    try:
        # Nobody else's: a link that another user has put there is not followed.
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644))
        os.utime(path)
    except OSError as error:
        raise SetupError(
            f"The file that says whether this part lives cannot be made: {error.strerror}.",
            given=str(path),
            hint="Mount a tmpfs at /tmp, or set IHVP_ALIVE_FILE to a path that can be written.",
        ) from None


def silent_s(path: Path) -> float | None:
    """Seconds since the last beat; None where there was none."""
    try:
        return max(0.0, time.time() - path.stat().st_mtime)
    except OSError:
        return None


def patience_s(settings: Settings) -> float:
    """Seconds of silence from which a process counts as hung: some turns of the slowest loop."""
    return max(_MARGIN * settings.worker_alive_s, _TURNS * settings.reconcile_interval_s)
