"""Whether this process runs in a container, and in one of ours: there other commands mend what is wrong."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Final

__all__ = ["in_api_image", "in_container", "in_our_image"]

ENVIRONMENT: Final = "/opt/ihvp"
"""Where the images have their Python environment: docker/*.Dockerfile."""


def in_container() -> bool:
    """Whether Docker or Podman says so."""
    return Path("/.dockerenv").exists() or Path("/run/.containerenv").exists()


def in_our_image() -> bool:
    """Whether this is one of the project's images, which its compose file starts."""
    return sys.prefix == ENVIRONMENT


def in_api_image() -> bool:
    """Whether it is that of the API, the reconciler and the sender, where torch is left out on purpose."""
    return in_our_image() and find_spec("torch") is None
