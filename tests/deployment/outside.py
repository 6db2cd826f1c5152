"""A host outside: a network namespace with one address and a listener, reached by way of this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import pytest

__all__ = ["HERE", "PORT", "THERE", "host_outside"]

# Of the range that is set aside for tests of networks (RFC 2544).
HERE: Final = "198.18.77.1"
THERE: Final = "198.18.77.2"
PORT: Final = 8080
_LISTEN: Final = f"""
import socket
server = socket.create_server(("{THERE}", {PORT}))
print("listening", flush=True)
while True:
    server.accept()[0].close()
"""


@contextmanager
def host_outside() -> Iterator[None]:
    """It is there while the block runs."""
    if shutil.which("ip") is None:
        pytest.skip("no ip(8) to make a network namespace with")
    name, link = f"ihvp-{os.getpid()}", f"ihvp{os.getpid()}"

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True, text=True)

    ip("netns", "add", name)
    try:
        ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name)
        ip("addr", "add", f"{HERE}/30", "dev", link)
        ip("link", "set", link, "up")
        ip("-n", name, "addr", "add", f"{THERE}/30", "dev", "eth0")
        ip("-n", name, "link", "set", "eth0", "up")
        listener = subprocess.Popen(
            ["ip", "netns", "exec", name, sys.executable, "-c", _LISTEN], stdout=subprocess.PIPE, text=True
        )
        assert listener.stdout is not None
        try:
            assert listener.stdout.readline() == "listening\n"
            yield
        finally:
            listener.kill()
            listener.wait()
            listener.stdout.close()
    finally:
        # The link goes with the namespace that its other end is in.
        ip("netns", "delete", name)
