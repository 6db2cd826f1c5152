"""Whether this process runs in a container, and in one of ours: there other commands mend what is wrong."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Final

__all__ = ["command", "in_api_image", "in_container", "in_our_image", "setting", "without_setting"]

ENVIRONMENT: Final = "/opt/ihvp"
"""Where the images have their Python environment: docker/*.Dockerfile."""
_ANEW: Final = "in .env, then on the host: docker compose up -d"


def in_container() -> bool:
    """Whether Docker or Podman says so."""
    return Path("/.dockerenv").exists() or Path("/run/.containerenv").exists()


def in_our_image() -> bool:
    """Whether this is one of the project's images, which its compose file starts."""
    return sys.prefix == ENVIRONMENT


def in_api_image() -> bool:
    """Whether it is that of the API, the reconciler and the sender, where torch is left out on purpose."""
    return in_our_image() and find_spec("torch") is None


def command(words: str) -> str:
    """How ``ihvp`` is run with these words by whoever is to mend something."""
    return f"on the host: docker compose run --rm doctor {words}" if in_our_image() else f"ihvp {words}"


def setting(variable: str, value: str) -> str:
    """How a variable is set."""
    return f"{variable}={value} {_ANEW}" if in_our_image() else f"export {variable}={value}"


def without_setting(variable: str) -> str:
    """How a variable is taken away."""
    return f"no {variable} {_ANEW}" if in_our_image() else f"unset {variable}"
