"""What only one service at a time may hold: a data directory and a listening port."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from ihvp.errors import SetupError

__all__ = ["is_loopback", "listening_socket", "locked_data_dir", "open_listener"]

BACKLOG: Final = 2048


@contextmanager
def locked_data_dir(data_dir: Path) -> Iterator[None]:
    """Holds the data directory, making it if it is missing.

    The kernel drops the lock with the process, so nothing stale can stay behind.

    Raises:
        SetupError: Another service holds it, or it cannot be made.
    """
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        file = (data_dir / "up.lock").open("a+")
    except OSError as error:
        raise SetupError(
            f"The data directory cannot be used: {error.strerror}.",
            given=str(data_dir),
            hint="Name another: --data-dir.",
        ) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise SetupError(
                "Another 'ihvp up' uses this data directory.",
                given=f"{data_dir}, held by process {holder}",
                hint="Stop that one, or name another directory: --data-dir.",
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def open_listener(host: str, port: int) -> socket.socket:
    """A socket that listens where the API is to.

    Raises:
        OSError: The port is in use or not to be had; ``socket.gaierror`` where the host cannot be looked up.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        # Without it, a port stays taken for a minute after its last connection.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Connections inherit it. An inherited descriptor reaches uvicorn without its family, so it would not set it,
        # and each answer would wait 40 ms for the caller's delayed acknowledgement.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def listening_socket(host: str, port: int) -> socket.socket:
    """A socket that listens and that children can inherit; port 0 picks a free one.

    Raises:
        SetupError: The port is in use or the address is not ours.
    """
    try:
        listener = open_listener(host, port)
    except socket.gaierror as error:
        raise SetupError(
            f"This host cannot be looked up: {error.strerror}.", given=host, hint="Try --host 127.0.0.1."
        ) from None
    except OSError as error:
        in_use = error.errno == errno.EADDRINUSE
        raise SetupError(
            f"Port {port} of {host} is in use." if in_use else f"{host}:{port} cannot be bound: {error.strerror}.",
            hint=f"Try --port 0 for a free one, or --port {port + 1 if 0 < port < 65535 else 8001}."
            if in_use or error.errno == errno.EACCES
            else "Try --host 127.0.0.1.",
        ) from None
    listener.set_inheritable(True)
    return listener


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
