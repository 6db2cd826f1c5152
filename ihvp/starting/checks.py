"""What a part needs before it is worth starting: each check refuses with one line that says what to do."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final
from uuid import uuid4

import redis

from ihvp.doctor.finding import Health
from ihvp.doctor.runtime import look_at_device, torch_facts
from ihvp.errors import SetupError, StoreUnavailable
from ihvp.jobs.redis_store import RedisJobStore
from ihvp.keys.redis_store import RedisKeyStore
from ihvp.keyvalue.connection import server_address
from ihvp.settings import Settings
from ihvp.starting.published import published_host
from ihvp.up.exclusive import is_loopback

__all__ = ["await_store", "check_data_dir", "check_device", "check_keys", "check_room"]

Line = Callable[[str], None]
PATIENCE_S: Final = 2.0
PAUSE_S: Final = 0.25
FOLDERS: Final = ("blobs", "sources", "scratch")
PASSWORD_FILE: Final = "ihvp_store_password"  # noqa: S105 - a file's name


def check_data_dir(folder: Path) -> None:
    """Whether the data directory is there and takes files.

    Raises:
        SetupError: It is missing, read-only, full or somebody else's.
    """
    if not folder.is_dir():
        raise SetupError(
            "The data directory is not there.",
            given=str(folder),
            hint="Make it, or mount the volume with the blobs there; IHVP_DATA_DIR names another.",
        )
    probe = folder / f".ihvp-start-{uuid4().hex}"
    try:
        with probe.open("xb") as file:
            file.write(b"x" * 4096)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise _not_written(folder, error) from None
    finally:
        probe.unlink(missing_ok=True)
    for inner in (folder / name for name in FOLDERS):
        if inner.exists() and not os.access(inner, os.W_OK | os.X_OK):
            raise _not_written(inner, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))


def _not_written(folder: Path, error: OSError) -> SetupError:
    me = f"{os.getuid()}:{os.getgid()}"
    if error.errno == errno.EROFS:
        return SetupError(
            "The data directory is on a read-only volume.",
            given=str(folder),
            hint="Mount it without ':ro' (compose: read_only: false on that volume), or set IHVP_DATA_DIR.",
        )
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return SetupError(
            "The data directory has no room left.", given=str(folder), hint=f"Make room: du -sh {folder}/*."
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return SetupError(
            "The data directory belongs to another user.",
            given=f"{folder} of user {folder.stat().st_uid}; this process is user {os.getuid()}",
            hint=f"On the host, run: sudo chown -R {me} FOLDER (the volume's), or set IHVP_DATA_DIR.",
        )
    return SetupError(
        f"The data directory cannot be written: {error.strerror}.", given=str(folder), hint="Set IHVP_DATA_DIR."
    )


def check_room(settings: Settings, tell: Line) -> None:
    """Tells where the disk is so full that uploads will be refused; results can still be read, so it starts."""
    free = shutil.disk_usage(settings.data_dir).free
    if free < settings.keep_free_bytes:
        tell(
            f"warning: {free / 2**30:.1f} GiB are free in {settings.data_dir.absolute()}, less than "
            "IHVP_KEEP_FREE_BYTES: uploads are refused until there is room"
        )


def await_store(settings: Settings, tell: Line) -> None:
    """Waits until the store answers, and looks whether it is ours.

    Args:
        settings: Where it is, and ``IHVP_START_WAIT_S``.
        tell: Takes the line that says for what it waits.

    Raises:
        SetupError: It refuses us, is of another version, or does not answer in time.
    """
    if "redis_url" not in settings.model_fields_set:
        raise SetupError(
            "The parts of the service meet in a store, and none is named.",
            hint="Set IHVP_REDIS_URL, such as redis://127.0.0.1:6379/0; 'ihvp up' runs everything with a store of its "
            "own.",
        )
    where = server_address(settings.redis_url)
    try:
        store = RedisJobStore.from_settings(settings.with_patience(PATIENCE_S))
    except ValueError as error:
        raise SetupError(f"IHVP_REDIS_URL is no address of a store: {error}.") from None
    give_up, told = time.monotonic() + settings.start_wait_s, False
    with closing(store):
        while True:
            try:
                store.ping()
            except StoreUnavailable as error:
                cause, said = error.__cause__, str(error.__cause__).rstrip(".")
                if isinstance(cause, redis.exceptions.AuthenticationError | redis.exceptions.NoPermissionError):
                    raise _refused(settings, where, cause) from None
                if time.monotonic() >= give_up:
                    raise SetupError(
                        f"The job store at {where} was not there within {settings.start_wait_s:g} s: {said}.",
                        hint="Start it, or correct IHVP_REDIS_URL; IHVP_START_WAIT_S waits longer.",
                    ) from None
                if not told:
                    tell(f"waiting for the job store at {where}, {settings.start_wait_s:g} s at most: {said}")
                    told = True
                time.sleep(PAUSE_S)
            else:
                return


def _refused(settings: Settings, where: str, cause: Exception) -> SetupError:
    file = settings.secrets_dir / PASSWORD_FILE
    said = str(cause)
    if "without any password" in said or "no password is set" in said:
        return SetupError(
            f"The job store at {where} has no password, and one was given.",
            hint=f"Start it with requirepass, or take {file} (or IHVP_STORE_PASSWORD) away.",
        )
    if isinstance(cause, redis.exceptions.NoPermissionError):
        return SetupError(
            f"The job store at {where} does not let this user do its work: {said}.",
            hint="The user needs all commands on all keys and channels: see ACL SETUSER of the store.",
        )
    if settings.store_password is None and "WRONGPASS" not in said and "invalid" not in said:
        return SetupError(
            f"The job store at {where} asks for a password, and none was given.",
            hint=f"Put it into the file {file}: 'ihvp prepare' makes it; or set IHVP_STORE_PASSWORD.",
        )
    origin = "IHVP_REDIS_URL"
    if settings.store_password is not None:
        origin = str(file) if file.is_file() else "IHVP_STORE_PASSWORD"
    return SetupError(
        f"The job store at {where} refuses the password of {origin}.",
        hint="It has to be the one that the store was started with: after a change, restart the store too.",
    )


def check_device(settings: Settings) -> None:
    """Whether the GPU that workers are told to use is there; in a process of its own, and only if they are.

    Raises:
        SetupError: It is not.
    """
    if not settings.device.startswith("cuda"):
        return
    facts = torch_facts()
    if "error" in facts:
        raise SetupError(f"torch cannot be imported: {facts['error']}.", hint="Run: ihvp doctor.")
    finding = look_at_device(settings, facts)
    if finding.health is Health.Fault:
        raise SetupError(
            f"IHVP_DEVICE={finding.found}.",
            hint=f"Try: {finding.mend}. A container needs the cuda image and a GPU: --gpus all, or compose's profile "
            "gpu with NVIDIA's container toolkit.",
        )


def check_keys(settings: Settings) -> None:
    """Whether nobody but this machine reaches an API without keys.

    Raises:
        SetupError: Others do.
    """
    host = published_host(settings)
    if is_loopback(host):
        return
    with closing(RedisKeyStore.from_settings(settings)) as keys:
        if keys.look("").guarded:
            return
    named = f"IHVP_HOST={settings.host}" if settings.publish is None else f"IHVP_PUBLISH={settings.publish}"
    raise SetupError(
        "Other machines reach this address, and callers would need no key.",
        given=named,
        allowed="127.0.0.1, or any address once there is a key",
        hint="Make one first: ihvp keys create NAME --scope admin (docker compose run --rm api keys create NAME "
        "--scope admin). In a container, IHVP_PUBLISH says where its port is published.",
    )
