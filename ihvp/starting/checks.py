"""What a part needs before it is worth starting: each check refuses with one line that says what to do."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import closing
from typing import Final

import redis

from ihvp.doctor.finding import Health
from ihvp.doctor.runtime import look_at_device, torch_facts
from ihvp.errors import SetupError, StoreUnavailable
from ihvp.jobs.redis_store import RedisJobStore
from ihvp.keys.redis_store import RedisKeyStore
from ihvp.keyvalue.connection import server_address
from ihvp.settings import Settings
from ihvp.starting.published import published_host
from ihvp.starting.refusals import refusal
from ihvp.surroundings import command
from ihvp.up.exclusive import is_loopback

__all__ = ["await_store", "check_device", "check_keys", "check_room"]

Line = Callable[[str], None]
PATIENCE_S: Final = 2.0
PAUSE_S: Final = 0.25


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
                if isinstance(cause, redis.exceptions.AuthenticationError):
                    raise refusal(settings, where, cause) from None
                if time.monotonic() >= give_up:
                    raise SetupError(
                        f"The job store at {where} was not there within {settings.start_wait_s:g} s: {said}.",
                        hint="Start it, or correct IHVP_REDIS_URL; IHVP_START_WAIT_S waits longer.",
                    ) from None
                if not told:
                    tell(f"waiting for the job store at {where}, {settings.start_wait_s:g} s at most: {said}")
                    told = True
                time.sleep(PAUSE_S)
            except redis.exceptions.NoPermissionError as error:
                raise refusal(settings, where, error) from None
            except redis.exceptions.ResponseError as error:
                raise SetupError(
                    f"The job store at {where} cannot do what is asked of it: {error}.",
                    allowed="Valkey, or Redis 7.0 or newer",
                    hint=f"Run {command('doctor')}.",
                ) from None
            else:
                return


def check_device(settings: Settings) -> None:
    """Whether the GPU that workers are told to use is there; in a process of its own, and only if they are.

    Raises:
        SetupError: It is not.
    """
    if not settings.device.startswith("cuda"):
        return
    facts = torch_facts()
    if "error" in facts:
        raise SetupError(f"torch cannot be imported: {facts['error']}.", hint=f"Run {command('doctor')}.")
    finding = look_at_device(settings, facts)
    if finding.health is Health.Fault:
        raise SetupError(f"IHVP_DEVICE={finding.found}.", hint=f"Try: {finding.mend}.")


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
        hint="Make one first: ihvp keys create NAME --scope admin (docker compose run --rm doctor keys create NAME "
        "--scope admin). In a container, IHVP_PUBLISH says where its port is published.",
    )
