"""The whole service on one machine, in one foreground process: ``ihvp up``."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import replace
from http import HTTPStatus
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import ihvp
from ihvp.errors import SetupError
from ihvp.settings import get_settings
from ihvp.up.exclusive import is_loopback, listening_socket, locked_data_dir
from ihvp.up.parts import UpOptions, service_parts
from ihvp.up.probe import ask
from ihvp.up.store_at_hand import needs_a_key
from ihvp.up.supervisor import Supervisor

__all__ = ["run_service"]

NEEDED_FILES: Final = ("app/main.py", "workers/celery_app.py")
NEEDED_PACKAGES: Final = ("uvicorn", "fastapi", "celery", "torch")

Line = Callable[[str], None]


def run_service(options: UpOptions, tell: Line, warn: Line) -> None:
    """Runs everything until a signal stops it.

    Args:
        options: What was asked for.
        tell: Takes the lines of standard output.
        warn: Takes the lines of standard error.

    Raises:
        SetupError: It cannot start as it is set up.
    """
    root = _checkout()
    data_dir = options.data_dir.absolute()
    with locked_data_dir(data_dir), listening_socket(options.host, options.port) as listener:
        port = int(listener.getsockname()[1])
        url = f"http://{_bracketed(options.host)}:{port}"
        if not is_loopback(options.host):
            _check_keys(options.host, data_dir)
        parts = service_parts(replace(options, data_dir=data_dir, port=port), root, listener.fileno())

        def announce() -> None:
            tell(f"ready {url}")
            tell(f"docs     {url}/docs")
            tell(f"metrics  {url}/metrics")
            tell(f"logs     {data_dir / 'logs'}")
            tell(f"data     {data_dir}")

        Supervisor(parts, warn).run(lambda: _answers_ready(options.host, port), announce)


def _checkout() -> Path:
    """The folder that holds the service's rooms beside this package."""
    root = Path(ihvp.__file__).resolve().parent.parent
    missing = [name for name in NEEDED_FILES if not (root / name).is_file()]
    if missing:
        raise SetupError(
            "'ihvp up' runs the service from its checkout; this is the installed client alone.",
            given=f"{root} has no {missing[0]}",
            hint="Clone the repository and run 'make run' there, or use its containers.",
        )
    absent = [name for name in NEEDED_PACKAGES if find_spec(name) is None]
    if absent:
        raise SetupError(
            f"The service needs packages that are not installed: {', '.join(absent)}.",
            hint="Run 'make setup', or: pip install -e '.[api,worker,embedded]'.",
        )
    return root


def _check_keys(host: str, data_dir: Path) -> None:
    """Whoever reaches a service without keys may use it, so only this machine may reach one."""
    if not needs_a_key(get_settings(), data_dir):
        raise SetupError(
            "Other machines reach this address, and callers would need no key.",
            given=f"--host {host}",
            allowed="127.0.0.1, or any address once there is a key",
            hint=f"Make one first: ihvp keys create NAME --scope admin --data-dir {shlex.quote(str(data_dir))}",
        )


def _answers_ready(host: str, port: int) -> bool:
    answer = ask(host, port, "/readyz")
    return answer is not None and answer.status == HTTPStatus.OK


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
