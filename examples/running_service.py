"""A service to ask: ``ihvp up`` as a child of this program, gone with it however it ends, or one that runs already."""

from __future__ import annotations

import select
import signal
import subprocess
import sys
import time
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import httpx

from ihvp.settings import child_environment
from ihvp.up.child import start_child, stop_group

__all__ = ["RunningService", "ServiceDidNotStart", "ServiceElsewhere"]

START_TIMEOUT_S: Final = 120.0
STOP_TIMEOUT_S: Final = 12.0


class ServiceDidNotStart(Exception):
    """`ihvp up` ended, or was not ready in time; it has said why on standard error."""


class RunningService:
    """A service on a free port; a context manager that stops it.

    Args:
        data_dir: Its data directory.
        port: Its port; 0 is a free one.
        **settings: Settings that differ from this program's, by their lower-case names.

    Attributes:
        url: Its address, once it is ready.
    """

    def __init__(self, data_dir: Path, port: int = 0, **settings: str) -> None:
        self.data_dir = data_dir.absolute()
        self.url = ""
        self._process = start_child(
            [sys.executable, "-m", "ihvp.cli", "up", "--port", str(port), "--data-dir", str(self.data_dir)],
            environment=child_environment(**settings),
            cwd=Path(__file__).resolve().parent.parent,
            stdout=subprocess.PIPE,
            death_signal=signal.SIGTERM,
        )

    def wait_until_ready(self) -> str:
        """The service's address, once it takes jobs.

        Raises:
            ServiceDidNotStart: It does not.
        """
        stdout = self._process.stdout
        assert stdout is not None
        give_up = time.monotonic() + START_TIMEOUT_S
        line = b""
        while not line.endswith(b"\n"):
            left = give_up - time.monotonic()
            if left <= 0 or not select.select([stdout], [], [], left)[0]:
                raise ServiceDidNotStart(f"not ready within {START_TIMEOUT_S:g} s")
            read = stdout.read1(4096)  # type: ignore[attr-defined]
            if not read:
                raise ServiceDidNotStart(f"exit status {self._process.wait()}")
            line += read
        self.url = line.decode().split()[1]
        return self.url

    @property
    def pid(self) -> int:
        """The process id of ``ihvp up``."""
        return self._process.pid

    def stop(self) -> int:
        """Stops the service and returns the exit status of ``ihvp up``."""
        stop_group(self._process, STOP_TIMEOUT_S)
        if self._process.stdout is not None:
            self._process.stdout.close()
        return self._process.returncode

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class ServiceElsewhere:
    """A service that somebody else has started; this program leaves it as it is.

    Args:
        url: Its address.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def wait_until_ready(self) -> str:
        """The service's address, once it takes jobs.

        Raises:
            ServiceDidNotStart: It does not.
        """
        give_up = time.monotonic() + START_TIMEOUT_S
        while not self._is_ready():
            if time.monotonic() >= give_up:
                raise ServiceDidNotStart(f"{self.url}/readyz does not answer 200 within {START_TIMEOUT_S:g} s")
            time.sleep(0.5)
        return self.url

    def _is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz", timeout=5.0).status_code == HTTPStatus.OK
        except httpx.HTTPError:
            return False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing of it is this program's to stop."""
