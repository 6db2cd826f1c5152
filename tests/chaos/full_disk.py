"""A small disk that a test can fill: a tmpfs in a mount namespace of its own, gone with the process that holds it."""

from __future__ import annotations

import os
import select
import subprocess
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Self

from ihvp.up.child import start_child, stop_group

MIB = 1024 * 1024
FILLER = "filler"


@lru_cache(maxsize=1)
def why_not() -> str | None:
    """Why no such disk can be had here; None where it can."""
    command = ["unshare", "--mount", "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", "/mnt"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except OSError as error:
        return str(error)
    return None if done.returncode == 0 else done.stderr.strip()


class SmallDisk:
    """A tmpfs of so many bytes at a folder, for processes that are started through ``enter``.

    Attributes:
        enter: What to put before a command so that it sees the disk.
        seen: The folder as this process, which is outside, can read and write it.
    """

    def __init__(self, folder: Path, size: int) -> None:
        folder.mkdir(parents=True)
        script = 'mount -t tmpfs -o size="$2" tmpfs "$1" && echo mounted && exec sleep infinity'
        self._holder = start_child(
            ["unshare", "--mount", "sh", "-c", script, "sh", str(folder), str(size)],
            environment=dict(os.environ),
            stdout=subprocess.PIPE,
        )
        assert self._holder.stdout is not None
        assert select.select([self._holder.stdout], [], [], 10)[0]
        assert self._holder.stdout.readline() == b"mounted\n"
        self.enter = ["nsenter", f"--mount=/proc/{self._holder.pid}/ns/mnt", f"--wd={Path.cwd()}"]
        self.seen = Path(f"/proc/{self._holder.pid}/root{folder.absolute()}")

    def fill(self) -> None:
        """Takes every byte that is left."""
        with (self.seen / FILLER).open("ab", buffering=0) as file:
            for size in (64 * 1024, 512):
                try:
                    while file.write(b"\0" * size):
                        pass
                except OSError:
                    continue

    def free(self) -> None:
        """Gives the space back."""
        (self.seen / FILLER).unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stop_group(self._holder, 0.0)
        if self._holder.stdout is not None:
            self._holder.stdout.close()
