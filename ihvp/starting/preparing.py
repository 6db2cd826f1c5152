"""Makes what is missing before the parts start for the first time: secrets, and a data directory that takes files."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Final
from uuid import uuid4

from ihvp.errors import SetupError
from ihvp.settings import Settings
from ihvp.starting.data_dir import check_data_dir
from ihvp.starting.refusals import PASSWORD_FILE

__all__ = ["prepare"]

MODE: Final = 0o440
"""For the service's user and group: the store runs as another user of that group, or as the same."""


def prepare(settings: Settings, tell: Callable[[str], None]) -> None:
    """Does it; may be run again at any time, and changes no secret that is there.

    Args:
        settings: Where secrets and data are; a password in them is kept.
        tell: Takes a line for each thing.

    Raises:
        SetupError: A secret is missing and cannot be made, or the data directory takes no files.
    """
    path = settings.secrets_dir.absolute() / PASSWORD_FILE
    if path.is_file():
        tell(f"secret   {path} is there")
    else:
        given = settings.store_password
        _write_new(path, secrets.token_hex(32) if given is None else given.get_secret_value())
        tell(f"secret   {path} was made")
    data_dir = settings.data_dir.absolute()
    check_data_dir(data_dir)
    tell(f"data     {data_dir} takes files")


def _write_new(path: Path, text: str) -> None:
    """Writes it whole or not at all, and never over another."""
    draft = path.with_name(f".{path.name}-{uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, MODE), "w") as file:
            os.fchmod(file.fileno(), MODE)
            file.write(f"{text}\n")
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, path)
    except FileExistsError:
        return  # another was quicker, and its secret counts
    except OSError as error:
        raise SetupError(
            f"The secret {path.name} is missing and cannot be made: {error.strerror}.",
            given=str(path.parent),
            hint=f"Put it there yourself: openssl rand -hex 32 > {path.name}; chmod 440 {path.name}; "
            f"chown {os.getuid()}:{os.getgid()} {path.name}.",
        ) from None
    finally:
        draft.unlink(missing_ok=True)
