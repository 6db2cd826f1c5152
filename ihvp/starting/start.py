"""Starts one part in the place of this process, after it has looked whether the part can work here."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Final, NoReturn

import ihvp
from ihvp.errors import SetupError
from ihvp.settings import Settings, child_environment, get_settings
from ihvp.starting.alive import alive_file, begin
from ihvp.starting.checks import await_store, check_device, check_keys, check_room
from ihvp.starting.data_dir import check_data_dir
from ihvp.starting.descriptors import allow_descriptors
from ihvp.starting.roles import Role
from ihvp.up.exclusive import listening_socket
from ihvp.up.modules import api_module, reconciler_module, sender_module, worker_module

__all__ = ["start_part"]

Line = Callable[[str], None]
FILE: Final = {
    Role.Api: "app/main.py",
    Role.Worker: "workers/celery_app.py",
    Role.Reconciler: "workers/reconciler.py",
    Role.Webhooks: "workers/webhooks/celery_app.py",
}
PACKAGES: Final = {
    Role.Api: ("uvicorn", "fastapi", "redis", "celery"),
    Role.Worker: ("celery", "redis", "torch"),
    Role.Reconciler: ("celery", "redis"),
    Role.Webhooks: ("celery", "redis", "standardwebhooks"),
}


def start_part(role: Role, tell: Line) -> NoReturn:
    """Becomes the part: the same process, so that signals reach it.

    Args:
        role: Which part.
        tell: Takes lines on what it waits for.

    Raises:
        SetupError: It cannot work here; in one line.
    """
    try:
        root, module, environment = _ready(role, tell)
    except SetupError as error:
        said = [" ".join(str(part).split()) for part in (error.message, error.given or "", error.hint or "")]
        raise SetupError(said[0], given=said[1] or None, allowed=error.allowed, hint=said[2] or None) from None
    if role is Role.Api:
        allow_descriptors()
    # `python -m` then finds these rooms before anything else of their names.
    os.chdir(root)
    os.execve(sys.executable, [sys.executable, "-m", *module], environment)  # noqa: S606 - no shell is wanted


def _ready(role: Role, tell: Line) -> tuple[Path, list[str], dict[str, str]]:
    root = _rooms(role)
    settings = get_settings()
    if role is not Role.Webhooks:
        check_data_dir(settings.data_dir.absolute())
        check_room(settings, tell)
    given = {"data_dir": str(settings.data_dir.absolute()), "secrets_dir": str(settings.secrets_dir.absolute())}
    alive = alive_file(settings, role)
    if role is not Role.Api:  # which is asked
        begin(alive)
        given["alive_file"] = str(alive)
        # It can be made. While what the part needs is looked for, the part does not live yet.
        alive.unlink()
    await_store(settings, tell)
    if role is Role.Worker:
        check_device(settings)
    module = _module(role, settings)
    if role is not Role.Api:
        begin(alive)  # its patience counts from now
    return root, module, child_environment(**given)


def _module(role: Role, settings: Settings) -> list[str]:
    # Several may run on one host; what replaces this process keeps its number.
    name = f"{role.value}-{os.getpid()}"
    if role is Role.Worker:
        return worker_module(name)
    if role is Role.Reconciler:
        return reconciler_module()
    if role is Role.Webhooks:
        return sender_module(name)
    check_keys(settings)
    # Bound here, so that a port in use is one line; the descriptor stays open.
    try:
        return api_module(listening_socket(settings.host, settings.port).detach())
    except SetupError as error:  # whose remedies are options of `ihvp up`
        raise SetupError(
            error.message,
            given=error.given or f"{settings.host}:{settings.port}",
            hint="Set IHVP_HOST and IHVP_PORT to an address of this host and a port that is free there.",
        ) from None


def _rooms(role: Role) -> Path:
    """The folder that holds the service's rooms: beside this package, or where we are."""
    roots = [Path(ihvp.__file__).resolve().parent.parent, Path.cwd()]
    root = next((each for each in roots if (each / FILE[role]).is_file()), None)
    if root is None:
        raise SetupError(
            f"The {role.value} starts from the project's folder or its container; this is the client alone.",
            given=f"{roots[0]} has no {FILE[role]}",
            hint="Clone the repository and run 'make setup' there, or use the images.",
        )
    absent = [name for name in PACKAGES[role] if find_spec(name) is None]
    if absent:
        raise SetupError(
            f"The {role.value} needs packages that are not installed here: {', '.join(absent)}.",
            hint="Workers start in the worker image, all else in the API's; in the checkout run 'make setup'.",
        )
    return root
