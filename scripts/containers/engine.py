"""The container engine: ``python -m scripts.containers.engine`` installs what is missing and says where it is.

Images, containers, volumes, networks and configuration stand under ``.bench/containers``. Beside apt's packages
nothing else on the machine is changed; what a container needs of the kernel (bridges, iptables rules) goes with it.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ihvp.settings import child_environment
from scripts.containers.apt import compose_plugin, install_missing
from scripts.containers.commands import CommandFailed, Skipped, answer, ended, run, say

__all__ = ["ROOT", "Engine", "prepared"]

ROOT: Final = Path(__file__).resolve().parents[2]
_STARTS_IN_S: Final = 20.0
# Not /tmp, which may be in memory: images take gigabytes.
_ELSEWHERE: Final = Path("/var/tmp")


@dataclass(frozen=True)
class Engine:
    """A podman and a buildah of this checkout's own.

    Attributes:
        folder: ``.bench/containers``.
        compose: The docker-compose plugin.
    """

    folder: Path
    compose: Path

    @property
    def log(self) -> Path:
        """Where all commands write."""
        return self.folder / "containers.log"

    @property
    def environment(self) -> dict[str, str]:
        """What buildah, podman, docker and docker-compose need in their environment to stay in the folder."""
        return _environment(self.folder)

    def run(self, *command: str | Path, timeout_s: float = 1800) -> None:
        """Runs a command with that environment; see :func:`scripts.containers.commands.run`."""
        run(command, self.environment, self.log, timeout_s)

    def answer(self, *command: str | Path, timeout_s: float = 120) -> str:
        """What such a command writes."""
        return answer(command, self.environment, timeout_s)

    def has_image(self, name: str) -> bool:
        """Whether an image of that full name is in the storage."""
        return subprocess.run(["podman", "image", "exists", name], env=self.environment).returncode == 0

    @property
    def compose_command(self) -> list[str]:
        """``docker compose`` where docker's client is there, else the plugin itself, which takes the same words."""
        docker = shutil.which("docker")
        return [docker, "compose"] if docker else [str(self.compose)]

    @contextmanager
    def service(self) -> Iterator[dict[str, str]]:
        """Docker's API on a private socket while the block runs; gives the environment for docker and docker-compose.

        Raises:
            CommandFailed: podman does not answer in 20 s.
        """
        # A path of a socket holds 107 bytes, and a checkout may lie deep.
        place = Path(tempfile.mkdtemp(prefix="ihvp-podman-"))
        socket = place / "podman.sock"
        environment = {**self.environment, "DOCKER_HOST": f"unix://{socket}"}
        with self.log.open("ab") as file:
            process = subprocess.Popen(
                ["podman", "system", "service", "--time", "0", f"unix://{socket}"],
                env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file,
            )  # fmt: skip
        try:
            deadline = time.monotonic() + _STARTS_IN_S
            while not socket.exists():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise CommandFailed(f"podman system service does not answer; see {self.log}")
                time.sleep(0.05)
            yield environment
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            shutil.rmtree(place, ignore_errors=True)


def prepared(root: Path = ROOT) -> Engine:
    """The engine, installed and configured; cheap where it already is.

    Raises:
        Skipped: This platform cannot run it.
    """
    if platform.system() != "Linux":
        raise Skipped(f"containers are built on Linux, this is {platform.system()}")
    if os.geteuid() != 0:
        raise Skipped("buildah and podman are run as root here, and this is not root")
    folder = _folder(root)
    (folder / "scratch").mkdir(parents=True, exist_ok=True)
    plain = child_environment()
    log = folder / "containers.log"
    install_missing(plain, log)
    compose = compose_plugin(folder / "docker/cli-plugins/docker-compose", folder / "trixie", plain, log)
    # Named by DOCKER_CONFIG, it must be there.
    (folder / "docker/config.json").write_text("{}\n", encoding="utf-8")
    for name, text in _configuration(folder).items():
        (folder / "config").mkdir(exist_ok=True)
        (folder / "config" / name).write_text(text, encoding="utf-8")
    return Engine(folder, compose)


def _folder(root: Path) -> Path:
    """Where everything lies; of a checkout whose path the tools cannot take, a folder of root's own elsewhere.

    A link in the checkout leads there, for ``make clean``.

    Raises:
        Skipped: Somebody else has that folder.
    """
    inside = root / ".bench" / "containers"
    # debootstrap takes no space in a path, the options of an overlay neither comma nor colon.
    if not re.search(r"[\s,:]", str(inside)):
        return inside
    elsewhere = _ELSEWHERE / f"ihvp-containers-{hashlib.sha256(str(inside).encode()).hexdigest()[:12]}"
    elsewhere.mkdir(mode=0o700, exist_ok=True)
    found = elsewhere.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise Skipped(f"{elsewhere} is not this user's own folder; remove it")
    inside.parent.mkdir(parents=True, exist_ok=True)
    if not inside.is_symlink():
        inside.symlink_to(elsewhere)
    say(f"containers: {root} has signs in its path that the tools cannot take; all is in {elsewhere}")
    return elsewhere


def _environment(folder: Path) -> dict[str, str]:
    return child_environment() | {
        "CONTAINERS_CONF": str(folder / "config/containers.conf"),
        "CONTAINERS_STORAGE_CONF": str(folder / "config/storage.conf"),
        "CONTAINERS_REGISTRIES_CONF": str(folder / "config/registries.conf"),
        "DOCKER_CONFIG": str(folder / "docker"),
        # buildah keeps pip's cache here from one build to the next, beside what is on its way into a layer.
        "TMPDIR": str(folder / "scratch"),
    }


def _configuration(folder: Path) -> dict[str, str]:
    return {
        "containers.conf": f"""\
[containers]
# Debian's podman asks for more than a machine may have to give.
default_ulimits = ["nofile=16384:16384", "nproc=8192:8192"]
[engine]
# crun 1.8 does not start anything where cgroups of both versions are mounted, as on many virtual machines.
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
# How long what is left of a command that ran in a container waits to be asked for its status; the default is 300 s.
exit_command_delay = 5
# The default, shared memory, is one for all of a machine's podmans.
lock_type = "file"
tmp_dir = "{folder}/tmp"
[network]
# Unlike CNI's it answers for the names of services.
network_backend = "netavark"
network_config_dir = "{folder}/networks"
""",
        "storage.conf": f"""\
[storage]
driver = "overlay"
graphroot = "{folder}/storage"
runroot = "{folder}/running"
""",
        "registries.conf": 'unqualified-search-registries = ["docker.io"]\nshort-name-mode = "permissive"\n',
    }


def _main() -> None:
    engine = prepared()
    version = engine.answer("podman", "version", "--format", "{{.Client.Version}}").strip()
    built_by = engine.answer("buildah", "--version").split()[2]
    compose = engine.answer(engine.compose, "version", "--short").strip()
    sys.stdout.write(f"podman {version}, buildah {built_by}, compose {compose} in {engine.folder}\n")


if __name__ == "__main__":
    sys.exit(ended(_main))
