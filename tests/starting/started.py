"""``ihvp start`` as a container runs it: its settings from an environment of its own, the password from a file."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from ihvp.settings import Settings
from ihvp.up.embedded_store import EmbeddedStore

ROOT = Path(__file__).parents[2]


@dataclass
class Host:
    """What a host with containers has: a store that asks for a password, a folder of secrets, one of data.

    Attributes:
        folder: Of it all; temporary files too.
        store: The server.
        settings: As a test reaches the same store.
        environment: Of each part.
        root: Where parts are started from.
    """

    folder: Path
    store: EmbeddedStore
    settings: Settings
    environment: dict[str, str] = field(default_factory=dict)
    root: Path = ROOT
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def secret(self) -> Path:
        return self.folder / "secrets" / "ihvp_store_password"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def run(self, *arguments: str, before: Sequence[str] = (), **settings: Any) -> subprocess.CompletedProcess[str]:
        """A command that ends by itself."""
        return subprocess.run(
            [*before, sys.executable, "-m", "ihvp.cli", *arguments],
            env=self._environment(settings),
            cwd=self.root,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def refused(self, *arguments: str, before: Sequence[str] = (), **settings: Any) -> str:
        """The one line of a command that refuses, without its waiting."""
        done = self.run(*arguments, before=before, **{"start_wait_s": 0, **settings})
        assert done.returncode == 2, done.stderr
        assert arguments[0] != "start" or done.stdout == ""
        assert self.store.password not in done.stderr
        *waited, line = done.stderr.splitlines()
        assert waited == [], done.stderr
        assert line.startswith("error: ")
        return line

    def start(self, part: str, **settings: Any) -> subprocess.Popen[bytes]:
        """A part; what it says is in ``log``."""
        with self.log(part).open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "ihvp.cli", "start", part],
                env=self._environment(settings),
                cwd=self.root,
                stdout=log,
                stderr=log,
            )
        self.running.append(process)
        return process

    def log(self, part: str) -> Path:
        return self.folder / f"{part}.log"

    def healthy(self, part: str, **settings: Any) -> bool:
        done = self.run("healthy", part, **settings)
        assert done.stderr == ""
        assert len(done.stdout.splitlines()) == 1
        assert done.returncode in (0, 1)
        return done.returncode == 0

    def close(self) -> None:
        for process in self.running:
            with suppress(psutil.NoSuchProcess):
                children = psutil.Process(process.pid).children(recursive=True)
                process.kill()
                process.wait()
                psutil.wait_procs(children, timeout=5)

    def _environment(self, settings: dict[str, Any]) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("IHVP_")}
        own = {f"IHVP_{name.upper()}": str(value) for name, value in settings.items() if value is not None}
        left_out = {f"IHVP_{name.upper()}" for name, value in settings.items() if value is None}
        whole = {**inherited, **self.environment, **own, "COLUMNS": "400", "TMPDIR": str(self.folder / "tmp")}
        return {name: value for name, value in whole.items() if name not in left_out}


def make_host(folder: Path, store: EmbeddedStore, settings: Settings) -> Host:
    """A host whose namespace is the settings'."""
    for name in ("secrets", "data", "tmp"):
        (folder / name).mkdir()
    host = Host(folder, store, settings.model_copy(update={"data_dir": folder / "data"}))
    host.secret.write_text(f"{store.password}\n")
    host.environment = {
        "IHVP_REDIS_URL": f"redis://127.0.0.1:{store.port}/0",
        "IHVP_SECRETS_DIR": str(host.secret.parent),
        "IHVP_NAMESPACE": settings.namespace,
        "IHVP_DATA_DIR": str(host.data),
        "IHVP_THREADS": "1",
        "IHVP_LOG_LEVEL": "info",
        "PYTHONPATH": str(ROOT),
    }
    return host
