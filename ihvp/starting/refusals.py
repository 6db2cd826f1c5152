"""Why a store that answers does not let this process in, and what to do."""

from __future__ import annotations

from typing import Final
from urllib.parse import unquote, urlsplit

import redis

from ihvp.errors import SetupError
from ihvp.settings import Settings
from ihvp.surroundings import in_our_image, setting

__all__ = ["PASSWORD_FILE", "refusal"]

PASSWORD_FILE: Final = "ihvp_store_password"  # noqa: S105 - a file's name
NONE_SET: Final = ("without any password", "no password is set")
NONE_GIVEN: Final = ("Authentication required", "NOAUTH", "client already authenticated")


def refusal(settings: Settings, where: str, cause: Exception) -> SetupError:
    """The error for it.

    Args:
        settings: Where the password comes from.
        where: The store's address, without a password.
        cause: What the client raised: an ``AuthenticationError`` or a ``NoPermissionError``.
    """
    file = settings.secrets_dir / PASSWORD_FILE
    said = str(cause).rstrip(".")
    ours = in_our_image()
    prepare = "docker compose run --rm prepare" if ours else "ihvp prepare"
    anew = "on the host: docker compose restart valkey" if ours else "start the store anew"
    if isinstance(cause, redis.exceptions.NoPermissionError):
        return SetupError(
            f"The job store at {where} does not let this user do its work: {said}.",
            hint="The user needs all commands on all keys and channels: see ACL SETUSER of the store.",
        )
    if any(words in said for words in NONE_SET):
        return SetupError(
            f"The job store at {where} has no password, and one was given.",
            hint=f"Start it with requirepass, or take {file}, IHVP_STORE_PASSWORD or the one in IHVP_REDIS_URL away.",
        )
    if any(words in said for words in NONE_GIVEN):
        return SetupError(
            f"The job store at {where} asks for a password, and none was given.",
            hint=f"Put it into the file {file}, which '{prepare}' makes; or set IHVP_STORE_PASSWORD.",
        )
    given = settings.store_password
    if given is None or unquote(urlsplit(settings.redis_url).password or "") != given.get_secret_value():
        return SetupError(
            f"The job store at {where} refuses the password in IHVP_REDIS_URL.",
            hint="It has to be the one that the store was started with: "
            f"{setting('IHVP_REDIS_URL', 'redis://:PASSWORD@HOST:PORT/0')}.",
        )
    origin = f"in {file}" if file.is_file() else "in IHVP_STORE_PASSWORD"
    return SetupError(
        f"The job store at {where} refuses the password {origin}.",
        hint=f"It has to be the one that the store was started with: if it has changed, {anew}.",
    )
