"""The compose file, started for real by podman: what an operator does with ``docker compose``, and what follows."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from scripts.containers.engine import ROOT, Engine

__all__ = ["SERVICES", "Deployment", "free_port"]

SERVICES: Final = ("valkey", "api", "worker", "reconciler", "webhooks")
"""Those of the default profile that go on running."""
STARTS_IN_S: Final = 240.0
NAMES: Final = Path("/run/containers/networks/aardvark-dns")
"""What podman's name server knows: a file for each network, for the whole machine."""


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Deployment:
    """A project of compose in a folder of its own, which holds a copy of the tree as git has it.

    Args:
        engine: Builds and runs containers.
        environment: Of ``docker``, with ``DOCKER_HOST``.
        folder: Is made; its last name is the project's.
        **variables: Lines of its ``.env`` beside those of ``.env.example``.
    """

    def __init__(self, engine: Engine, environment: Mapping[str, str], folder: Path, **variables: str) -> None:
        self.folder, self.project = folder, folder.name
        self._engine = engine
        self._environment = {**environment, "COMPOSE_PROJECT_NAME": self.project}
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT, capture_output=True, check=True, text=True,
        ).stdout  # fmt: skip
        for name in filter(None, listed.split("\0")):
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)
        self.port = free_port()
        self.set(**{"IHVP_PUBLISH": f"127.0.0.1:{self.port}"} | variables)
        # What a run of these tests has left that was killed.
        self.down("--volumes")

    @property
    def url(self) -> str:
        """Where the API is published."""
        return f"http://127.0.0.1:{self.port}"

    def set(self, **variables: str) -> None:
        """Writes ``.env``: these lines after all earlier ones, for the last one counts."""
        with (self.folder / ".env").open("a", encoding="utf-8") as file:
            file.writelines(f"{name}={value}\n" for name, value in variables.items())

    def compose(self, *words: str, timeout_s: float = STARTS_IN_S) -> subprocess.CompletedProcess[str]:
        """``docker compose …`` in the folder; most of its words wait for healthy services."""
        with self.timers():
            return subprocess.run(
                [*self._engine.compose_command, *words],
                cwd=self.folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=timeout_s,
            )

    def up(self, *words: str) -> float:
        """``docker compose up -d --wait``; the seconds until all of it is healthy."""
        began = time.monotonic()
        done = self.compose("up", "-d", "--wait", "--wait-timeout", "150", *words)
        assert done.returncode == 0, f"{done.stderr}\n{self.logs()}"
        return time.monotonic() - began

    def up_script(self, *words: str) -> tuple[int, str]:
        """``sh docker/up.sh``: its exit status, and what it says on standard error."""
        path = self._environment["PATH"]
        if shutil.which("docker") is None:
            # The plugin takes the same words by itself.
            shim = self.folder / "bin" / "docker"
            shim.parent.mkdir(exist_ok=True)
            shim.write_text(
                f'#!/bin/sh\nshift\nexec {shlex.join(self._engine.compose_command)} "$@"\n', encoding="utf-8"
            )
            shim.chmod(0o755)
            path = f"{shim.parent}:{path}"
        with self.timers():
            done = subprocess.run(
                ["sh", "docker/up.sh", *words],
                cwd=self.folder,
                env=self._environment | {"PATH": path, "IHVP_UP_TIMEOUT": "90"},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=STARTS_IN_S,
            )
        return done.returncode, done.stderr

    @contextmanager
    def timers(self) -> Iterator[None]:
        """Runs the health checks while the block does: podman needs systemd's timers to do so by itself."""
        over = threading.Event()

        def beat() -> None:
            while not over.wait(1.0):
                for name in self._running():
                    self._check(name)

        thread = threading.Thread(target=beat, name="health checks")
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def down(self, *words: str) -> None:
        """Removes the containers; with ``--volumes`` what they kept as well."""
        done = self.compose("--profile", "*", "down", "--remove-orphans", "--timeout", "20", *words)
        assert done.returncode == 0, done.stderr
        # Where a container was being restarted, podman's name server keeps its network's file, with an address that a
        # later network of that name does not have: nothing in it would then find anything by name.
        for stale in NAMES.glob(f"{self.project}_*"):
            stale.unlink(missing_ok=True)

    def logs(self, *services: str) -> str:
        """What the services wrote."""
        return self.compose("logs", "--no-color", *services).stdout

    def states(self) -> dict[str, dict[str, Any]]:
        """What the engine says of each container, by its service."""
        listed = self.compose("ps", "-a", "-q").stdout.split()
        if not listed:
            return {}
        found = json.loads(self._engine.answer("podman", "inspect", *listed))
        return {each["Config"]["Labels"]["com.docker.compose.service"]: each for each in found}

    def pid(self, service: str) -> int:
        """The first process of a service's container, as the host counts."""
        return int(self.states()[service]["State"]["Pid"])

    def kill(self, service: str) -> None:
        """SIGKILL to all of a service's processes at once, as when its memory runs out or its host loses power."""
        first = self.pid(service)
        os.kill(first, signal.SIGKILL)  # the first process of a pid namespace takes the others with it

    def wait_for(self, service: str, *, other_than: int = 0, timeout_s: float = 60.0) -> None:
        """Returns once a service runs and says that it is healthy.

        Args:
            service: Its name.
            other_than: A process that it must not be any more.
            timeout_s: Longest wait.
        """
        until = time.monotonic() + timeout_s
        while True:
            state = self.states().get(service, {}).get("State", {})
            if state.get("Running") and int(state["Pid"]) != other_than and self.is_healthy(service):
                return
            if time.monotonic() > until:
                raise AssertionError(f"{service} is not healthy: {state}\n{self.logs(service)[-3000:]}")
            time.sleep(0.3)

    def is_healthy(self, service: str) -> bool:
        """Whether the service's health check says so now."""
        return self._check(self.states()[service]["Name"])

    def _running(self) -> list[str]:
        asked = ["podman", "ps", "-q", "--filter", f"label=com.docker.compose.project={self.project}"]
        return self._engine.answer(*asked).split()

    def _check(self, name: str) -> bool:
        asked = ["podman", "healthcheck", "run", name]
        return subprocess.run(asked, env=self._environment, capture_output=True, timeout=60).returncode == 0
