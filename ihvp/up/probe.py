"""Asks whatever listens at the service's address."""

from __future__ import annotations

import http.client
from typing import Final

__all__ = ["ask"]

TIMEOUT_S: Final = 2.0


def ask(host: str, port: int, path: str) -> http.client.HTTPResponse | None:
    """The answer to a GET, its body unread; None where nothing answers as an HTTP server does.

    Args:
        host: The address that is bound; one that means all is asked on the loopback.
        port: The port.
        path: What to ask for.
    """
    reached = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared only
    connection = http.client.HTTPConnection(reached, port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", path)
        return connection.getresponse()
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
