"""Whether the data directory can be used, and what to do where it cannot."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final
from uuid import uuid4

from ihvp.errors import SetupError
from ihvp.surroundings import in_our_image

__all__ = ["check_data_dir", "elsewhere", "not_written"]

FOLDERS: Final = ("blobs", "sources", "scratch")


def check_data_dir(folder: Path) -> None:
    """Whether the data directory is there and takes files.

    Raises:
        SetupError: It is missing, read-only, full or somebody else's.
    """
    probe = folder / f".ihvp-start-{uuid4().hex}"
    try:
        if not folder.is_dir():
            raise SetupError(
                "The data directory is not there.",
                given=str(folder),
                hint="Make it, or mount the volume with the blobs there; IHVP_DATA_DIR names another.",
            )
        try:
            with probe.open("xb") as file:
                file.write(b"x" * 4096)
                file.flush()
                os.fsync(file.fileno())
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        raise not_written(folder, error) from None
    for inner in (folder / name for name in FOLDERS):
        if inner.exists() and not os.access(inner, os.W_OK | os.X_OK):
            raise not_written(inner, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))


def not_written(folder: Path, error: OSError) -> SetupError:
    """Why a folder takes no file, and what to do.

    Args:
        folder: The data directory, or a folder in it.
        error: What came of writing one.
    """
    if error.errno == errno.EROFS:
        return SetupError(
            "The data directory is on a read-only volume.",
            given=str(folder),
            hint=f"Mount it without ':ro', or {elsewhere()}.",
        )
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return SetupError(
            "The data directory has no room left.",
            given=str(folder),
            hint=f"Make room there (du -sh '{folder}'/*), or {elsewhere()}.",
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return SetupError(
            "The data directory belongs to another user.",
            given=f"{folder}{_owner(folder)}; this process is user {os.getuid()}",
            hint=f"On the host: sudo chown -R {os.getuid()}:{os.getgid()} FOLDER, that of the volume; or "
            f"{elsewhere()}.",
        )
    return SetupError(
        f"The data directory cannot be written: {error.strerror}.", given=str(folder), hint=f"Try to {elsewhere()}."
    )


def elsewhere() -> str:
    """How the data come to lie elsewhere: where our containers have them is fixed, what is mounted there is not."""
    return "set IHVP_DATA in .env to a folder of the host" if in_our_image() else "set IHVP_DATA_DIR to a folder"


def _owner(folder: Path) -> str:
    try:
        return f" of user {folder.stat().st_uid}"
    except OSError:
        return ""
